-- The period's clicks, each with its place and whether it is a rage click: one of three in a row of a visitor, page and
-- day.
SELECT visitor, page, day,
       click.1 AS ms, click.4 AS x, click.5 AS y, click.6 AS page_width, click.7 AS class, click.8 AS dead,
       click.9 AS selector, click.10 AS text, click.3 AS id, click.2 AS place, rage
FROM
(
    SELECT visitor, page, day, arraySort(groupArray(click)) AS clicks,
           arrayMap(at -> at + 2 <= length(clicks)
                          AND clicks[at + 2].1 - clicks[at].1 <= 1000
                          AND pow(toInt64(clicks[at + 1].4) - toInt64(clicks[at].4), 2)
                            + pow(toInt64(clicks[at + 1].5) - toInt64(clicks[at].5), 2) <= 900
                          AND pow(toInt64(clicks[at + 2].4) - toInt64(clicks[at].4), 2)
                            + pow(toInt64(clicks[at + 2].5) - toInt64(clicks[at].5), 2) <= 900,
                    arrayEnumerate(clicks)) AS triples,
           arrayMap(at -> visitor != '' AND (triples[at] OR (at > 1 AND triples[at - 1])
                          OR (at > 2 AND triples[at - 2])), arrayEnumerate(clicks)) AS rages
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
