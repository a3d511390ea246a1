-- Of these stores alone, everywhere: the ids of one may be more than memory is for, and then it must be clear whose.
SELECT store_id, visitor_id, session_id
FROM events
WHERE store_id IN {stores:Array(String)} AND ({{lane_rows}})
UNION ALL
-- Of an event without a visitor each copy has a derived visitor of its own.
SELECT store_id, visitor_id, session_id
FROM events
WHERE store_id IN {stores:Array(String)} AND visitor_hash = 0
  AND (store_id, key_date, name, event_id) IN
      (SELECT store_id, key_date, name, event_id FROM events
       WHERE store_id IN {stores:Array(String)} AND visitor_hash = 0 AND {{lane_rows}})
UNION ALL
SELECT store_id, visitor_id, session_id
FROM events
WHERE store_id IN {stores:Array(String)} AND name = 'purchase' AND order_id != ''
  AND (store_id, order_id) IN
      (SELECT store_id, order_id FROM events
       WHERE store_id IN {stores:Array(String)} AND name = 'purchase' AND order_id != '' AND {{lane_rows}})
UNION ALL
SELECT store_id, visitor_id, session_id
FROM events
WHERE store_id IN {stores:Array(String)} AND name IN ('page_view', 'view_item') AND page_view_id != ''
  AND event_time >= fromUnixTimestamp64Milli({first:Int64} - 86400000, 'UTC')
  AND event_time <= fromUnixTimestamp64Milli({last:Int64} + 86400000, 'UTC')
  AND (store_id, visitor_id, page_view_id) IN
      (SELECT store_id, visitor_id, page_view_id FROM events
       WHERE store_id IN {stores:Array(String)} AND name IN ('page_view', 'view_item') AND page_view_id != ''
         AND {{lane_rows}})
