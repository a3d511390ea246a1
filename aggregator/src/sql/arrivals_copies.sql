-- Where other copies of what has arrived lie. A copy that was received earlier wins, and takes the event with it when it
-- lies on another day: its time is the receipt's, or was corrected by it.
SELECT toString(store_id) AS store, toInt64(intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000) AS quarter
FROM events
WHERE store_id IN {stores:Array(String)}
  AND (store_id, key_date, name, visitor_hash, event_id) IN
      (SELECT store_id, key_date, name, visitor_hash, event_id FROM events WHERE {{lane_rows}})
GROUP BY store, quarter
