-- Orders that one of the rows tells of, or one of its copies: which of them counts may have changed.
SELECT store_id, order_id
FROM events
WHERE store_id IN {stores:Array(String)} AND name IN {{order_names}}
  AND order_id != '' AND cityHash64(order_id) % {parts:UInt64} = {part:UInt64}
  AND (store_id, key_date, name, visitor_hash, event_id) IN
      (SELECT store_id, key_date, name, visitor_hash, event_id
       FROM events
       WHERE store_id IN {stores:Array(String)} AND name IN {{order_names}}
         AND ({{lane_rows}}))
{{other_orders}}
