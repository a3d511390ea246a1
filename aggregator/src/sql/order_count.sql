-- About how many orders a store has.
SELECT toUInt64(uniq(order_id)) AS orders
FROM events
WHERE store_id = {store:String} AND name IN ('purchase', 'order_updated', 'refund', 'order_cancelled') AND order_id != ''
