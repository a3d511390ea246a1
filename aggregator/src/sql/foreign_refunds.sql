-- Stores in which refunds were asked for in another currency than their orders', and one of the two is among these.
SELECT DISTINCT toString(store_id)
FROM refunds FINAL
WHERE asked_currency NOT IN ('', order_currency)
  AND (asked_currency IN {currencies:Array(String)} OR order_currency IN {currencies:Array(String)})
