-- The same for clicks.
SELECT toString(store_id) AS store, toInt64(intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000) AS quarter,
       toUInt64(countIf(NOT ({{lane_rows}}))) AS others
FROM clicks
WHERE store_id IN {stores:Array(String)}
  AND (store_id, key_date, visitor_hash, event_id) IN
      (SELECT store_id, key_date, visitor_hash, event_id
       FROM clicks WHERE store_id IN {stores:Array(String)} AND ({{lane_rows}}))
GROUP BY store, quarter
