-- Which report of each order counts: trusted before untrusted, then the earliest.
SELECT winner.1, winner.2, winner.3
FROM
(
    SELECT argMin((key_date, visitor_hash, event_id),
                  (trusted = 0, event_time, UUIDToNum(event_id), key_date, visitor_hash)) AS winner
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND name = 'purchase' AND order_id != ''
      AND order_id IN
      (
          SELECT order_id
          FROM events
          WHERE store_id = {store:String} AND name = 'purchase'
            AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
            AND event_time < fromUnixTimestamp64Milli({until:Int64}, 'UTC')
      )
    GROUP BY order_id
)
