-- Other reports of the showings of pages that have arrived: how long a product's page was seen, and where it was entered.
SELECT toString(store_id) AS store, toInt64(intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000) AS quarter
FROM events
WHERE store_id IN {stores:Array(String)} AND name IN ('page_view', 'view_item') AND page_view_id != ''
  AND event_time >= fromUnixTimestamp64Milli({first:Int64} - 86400000, 'UTC')
  AND event_time <= fromUnixTimestamp64Milli({last:Int64} + 86400000, 'UTC')
  AND (store_id, visitor_id, page_view_id) IN
  (
      SELECT store_id, visitor_id, page_view_id
      FROM events
      WHERE store_id IN {stores:Array(String)} AND name IN ('page_view', 'view_item') AND page_view_id != ''
        AND {{lane_rows}}
  )
GROUP BY store, quarter
