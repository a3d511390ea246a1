-- The period's clicks, each with its place and whether it is a rage click: one of three in a row of a visitor, page and
-- day. Each is compared with those beside it in lists that are shifted: a list that a lambda refers to as a whole is
-- copied for each of its elements.
SELECT visitor, page, day,
       click.1 AS ms, click.4 AS x, click.5 AS y, click.6 AS page_width, click.7 AS class, click.8 AS dead,
       click.9 AS selector, click.10 AS text, click.3 AS id, click.2 AS place, rage
FROM
(
    SELECT visitor, page, day, arraySort(groupArray(click)) AS clicks,
           arrayMap(one -> (one.1, toInt64(one.4), toInt64(one.5)), clicks) AS places,
           length(clicks) AS clicks_count,
           arrayMap((at, one, second, third) -> at + 2 <= clicks_count
                          AND third.1 - one.1 <= 1000
                          AND pow(second.2 - one.2, 2) + pow(second.3 - one.3, 2) <= 900
                          AND pow(third.2 - one.2, 2) + pow(third.3 - one.3, 2) <= 900,
                    arrayEnumerate(places), places, arrayShiftLeft(places, 1), arrayShiftLeft(places, 2)) AS triples,
           arrayMap((this, before, before_that) -> visitor != '' AND (this OR before OR before_that),
                    triples, arrayShiftRight(triples, 1), arrayShiftRight(triples, 2)) AS rages
    FROM
    (
        SELECT visitor_id AS visitor,
               toInt64(roundDown(toUnixTimestamp64Milli(event_time), {bounds:Array(Int64)})) AS day,
               cutFragment(cutQueryString(url)) AS page,
               (toUnixTimestamp64Milli(event_time), ifNull(toUInt64(sequence), 4294967296), UUIDToNum(event_id),
                x, y, page_width,
                multiIf(viewport_width = 0 OR viewport_width >= 1024, 'desktop', viewport_width < 768, 'mobile',
                        'tablet'),
                properties['dead'] = 'true', selector, text) AS click
        FROM clicks FINAL
        WHERE store_id = {store:String} AND is_bot = 0
          AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
          AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
    )
    GROUP BY visitor, page, day
)
ARRAY JOIN clicks AS click, rages AS rage
