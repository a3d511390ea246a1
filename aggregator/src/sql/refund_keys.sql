-- Where what was taken from them stands.
SELECT toString(store_id) AS store, taken_on, order_id, number, toInt64(toUnixTimestamp64Milli(placed_at)) AS at_ms
FROM refunds FINAL
WHERE store_id IN {stores:Array(String)} AND cityHash64(order_id) % {parts:UInt64} = {part:UInt64}
  AND ({are_all:UInt8} = 1 OR (store_id, order_id) IN ({{touched_orders}}))
