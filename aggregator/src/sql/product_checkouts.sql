-- Distinct sessions that began a checkout with a product, by the day of the event.
SELECT toInt64(roundDown(ms, {bounds:Array(Int64)})) AS day, product AS product_id,
       toUInt64(uniqExact(visitor_id, session, session_start)) AS checkouts
FROM
(
    SELECT visitor_id, session_id AS session, toInt64(0) AS session_start,
           toUnixTimestamp64Milli(event_time) AS ms, item_product_id
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND name = 'begin_checkout' AND visitor_id != ''
      AND session_id != ''
      AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
      AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
    UNION ALL
    SELECT visitor_id, '' AS session, session_start, ms, item_product_id
    FROM
    (
        SELECT visitor_id, toUnixTimestamp64Milli(event_time) AS ms, item_product_id
        FROM events FINAL
        WHERE store_id = {store:String} AND is_bot = 0 AND name = 'begin_checkout' AND visitor_id != ''
          AND session_id = ''
          AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
          AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
    ) AS events_of
    ASOF JOIN ({{derived_starts}}) AS starts
        ON events_of.visitor_id = starts.visitor_id AND events_of.ms >= starts.session_start
)
ARRAY JOIN arrayDistinct(arrayMap(id -> if(id = '', '(none)', id), item_product_id)) AS product
GROUP BY day, product_id
