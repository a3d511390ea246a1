-- Stores in which refunds were asked for in one of these currencies, of orders in another.
SELECT DISTINCT toString(store_id)
FROM refunds FINAL
WHERE asked_currency IN {currencies:Array(String)} AND asked_currency != order_currency
