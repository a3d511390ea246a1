-- All reports of the touched orders that stay.
SELECT toString(store_id) AS store, order_id, toString(name) AS kind, trusted,
       toInt64(toUnixTimestamp64Milli(event_time)) AS at_ms, toString(currency) AS in_currency, value, total_minor,
       tax_minor, shipping_minor, discount_minor, item_product_id AS product_ids, item_variant_id AS variant_ids,
       item_price AS prices, item_quantity AS quantities, refund_id,
       toUInt8(properties['refunds_included'] IN ('true', '1')) AS refunds_included, visitor_id, session_id, user_id
FROM events FINAL
WHERE store_id IN {stores:Array(String)} AND name IN {{order_names}}
  AND order_id != '' AND cityHash64(order_id) % {parts:UInt64} = {part:UInt64}
  AND (is_bot = 0 OR bot_reason = 'rate')
  AND (store_id, order_id) IN ({{touched_orders}})
  AND NOT ({{going_rows}})
ORDER BY store_id, order_id, trusted DESC, event_time
LIMIT {reports_max:UInt64} BY store_id, order_id
