-- The winning report of every order that was placed or refunded in the period, and whether a server made it.
SELECT order_id, winner.1 AS at_ms, winner.2 AS currency, winner.3 AS total, winner.4 AS tax, winner.5 AS shipping,
       winner.6 AS discount, winner.7 AS product_ids, winner.8 AS prices, winner.9 AS quantities,
       winner.10 AS trusted
FROM
(
    SELECT order_id,
           argMin((toUnixTimestamp64Milli(event_time), toString(currency), total_minor, ifNull(tax_minor, 0),
                   ifNull(shipping_minor, 0), ifNull(discount_minor, 0), item_product_id, item_price, item_quantity, trusted),
                  (trusted = 0, event_time, UUIDToNum(event_id), key_date, visitor_hash)) AS winner
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND name = 'purchase' AND order_id != ''
      AND order_id IN
      (
          SELECT order_id
          FROM events
          WHERE store_id = {store:String} AND name IN ('purchase', 'refund')
            AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
            AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
      )
    GROUP BY order_id
)
