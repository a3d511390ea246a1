-- The last event of any session with a client's id that has events in the period.
SELECT toInt64(max(toUnixTimestamp64Milli(event_time))) AS last
FROM events
WHERE store_id = {store:String} AND session_id != ''
  AND event_time >= fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
  AND session_id IN
  (
      SELECT DISTINCT session_id
      FROM events
      WHERE store_id = {store:String} AND session_id != ''
        AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
        AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
  )
