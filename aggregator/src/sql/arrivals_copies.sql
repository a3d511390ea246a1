-- Where copies of what has arrived lie, and how many of them had been there. The one that counts may have come now, and
-- take the event with it to another day.
SELECT toString(store_id) AS store, toInt64(intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000) AS quarter,
       toUInt64(countIf(NOT ({{lane_rows}}))) AS others
FROM events
WHERE store_id IN {stores:Array(String)}
  AND (store_id, key_date, name, visitor_hash, event_id) IN
      (SELECT store_id, key_date, name, visitor_hash, event_id
       FROM events WHERE store_id IN {stores:Array(String)} AND ({{lane_rows}}))
GROUP BY store, quarter
