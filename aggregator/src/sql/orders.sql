-- Orders that were placed in the period.
SELECT toInt64(toUnixTimestamp64Milli(placed_at)) AS at_ms, toString(currency) AS in_currency, total_minor AS total,
       tax_minor AS tax, shipping_minor AS shipping, discount_minor AS discount, unexplained_minor AS unexplained,
       item_product_id AS product_ids, item_price AS prices, item_quantity AS quantities
FROM orders FINAL
WHERE store_id = {store:String}
  AND placed_on >= toDate(fromUnixTimestamp64Milli({lo:Int64}, 'UTC'))
  AND placed_on <= toDate(fromUnixTimestamp64Milli({hi:Int64}, 'UTC'))
  AND placed_at >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
  AND placed_at < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
