-- About how many orders a store has.
SELECT toUInt64(uniq(order_id)) AS orders
FROM events
WHERE store_id = {store:String} AND name IN {{order_names}} AND order_id != ''
