-- What was taken from orders in the period, whenever they were placed.
SELECT toInt64(toUnixTimestamp64Milli(taken_at)) AS at_ms, toString(currency) AS in_currency, amount_minor AS amount,
       names_items, is_cancellation
FROM refunds FINAL
WHERE store_id = {store:String}
  AND taken_on >= toDate(fromUnixTimestamp64Milli({lo:Int64}, 'UTC'))
  AND taken_on <= toDate(fromUnixTimestamp64Milli({hi:Int64}, 'UTC'))
  AND taken_at >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
  AND taken_at < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
