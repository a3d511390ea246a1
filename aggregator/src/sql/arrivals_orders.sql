-- Other reports of the orders that have arrived: a better report moves an order to another day, and a refund is cut by
-- those before it.
SELECT toString(store_id) AS store, toInt64(intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000) AS quarter
FROM events
WHERE store_id IN {stores:Array(String)} AND name IN {{order_names}} AND order_id != ''
  AND (store_id, order_id) IN
  (
      SELECT store_id, order_id
      FROM events
      WHERE store_id IN {stores:Array(String)} AND name IN {{order_names}} AND order_id != '' AND {{lane_rows}}
  )
GROUP BY store, quarter
