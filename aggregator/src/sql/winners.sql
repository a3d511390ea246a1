-- The reports that tell in which session each order was placed. They lie up to 8 days after it.
SELECT order_id, visitor_id, session_id, toUnixTimestamp64Milli(assumeNotNull(visit_at))
FROM orders FINAL
WHERE store_id = {store:String} AND visitor_id != ''
  AND placed_on >= toDate(fromUnixTimestamp64Milli({lo:Int64}, 'UTC')) - 9
  AND placed_on <= toDate(fromUnixTimestamp64Milli({until:Int64}, 'UTC'))
