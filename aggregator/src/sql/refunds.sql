-- The winning report of every refund of the orders that were refunded in the period, in the order in which they are
-- taken from the order's total.
SELECT order_id, winner.1 AS at_ms, winner.2 AS currency, winner.3 AS total, winner.4 AS prices,
       winner.5 AS quantities, winner.7 AS trusted
FROM
(
    SELECT order_id, refund_id,
           argMin((toUnixTimestamp64Milli(event_time), toString(currency), total_minor, item_price,
                   item_quantity, UUIDToNum(event_id), trusted),
                  (trusted = 0, event_time, UUIDToNum(event_id), key_date, visitor_hash)) AS winner
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND name = 'refund' AND order_id != ''
      AND order_id IN
      (
          SELECT order_id
          FROM events
          WHERE store_id = {store:String} AND name = 'refund'
            AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
            AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
      )
    GROUP BY order_id, refund_id
)
ORDER BY order_id, winner.1, winner.6, refund_id
