-- How long the day's showings of a product's page lasted, where they say so.
WITH
    views AS
    (
        SELECT toInt64(roundDown(toUnixTimestamp64Milli(event_time), {bounds:Array(Int64)})) AS day, product,
               visitor_id, page_view_id, min(toUnixTimestamp64Milli(event_time)) AS viewed_ms
        FROM events FINAL
        ARRAY JOIN arrayDistinct(arrayMap(id -> if(id = '', '(none)', id), item_product_id)) AS product
        WHERE store_id = {store:String} AND is_bot = 0 AND name = 'view_item' AND visitor_id != ''
          AND page_view_id != ''
          AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
          AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
        GROUP BY day, product, visitor_id, page_view_id
    ),
    reports AS
    (
        SELECT visitor_id, page_view_id,
               groupArray((toUnixTimestamp64Milli(event_time), toUInt32(duration_ms))) AS durations
        FROM events FINAL
        WHERE store_id = {store:String} AND is_bot = 0 AND name = 'page_view' AND type = 'page_view'
          AND duration_ms > 0 AND page_view_id != ''
          AND event_time >= fromUnixTimestamp64Milli({lo:Int64} - 86400000, 'UTC')
          AND event_time <= fromUnixTimestamp64Milli({hi:Int64} + 86400000, 'UTC')
          AND (visitor_id, page_view_id) IN (SELECT visitor_id, page_view_id FROM views)
        GROUP BY visitor_id, page_view_id
    )
SELECT day, product AS product_id, toUInt64(count()) AS showings, toUInt64(sum(shown_ms)) AS shown_sum_ms
FROM
(
    SELECT day, product,
           arrayMax(arrayMap(report -> if(abs(report.1 - viewed_ms) <= 86400000, report.2, 0), durations)) AS shown_ms
    FROM views
    INNER JOIN reports ON views.visitor_id = reports.visitor_id AND views.page_view_id = reports.page_view_id
)
WHERE shown_ms > 0
GROUP BY day, product_id
