-- Of the sessions with a client's id that have events in the period, those that began before it. The inner selection
-- reads one column and over-estimates; the index on session_id serves the outer one.
SELECT DISTINCT visitor_id, session_id
FROM events FINAL
WHERE store_id = {store:String} AND is_bot = 0 AND visitor_id != ''
  AND event_time < fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
  AND session_id IN
  (
      SELECT DISTINCT session_id
      FROM events
      WHERE store_id = {store:String} AND session_id != ''
        AND event_time < fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
        AND session_id IN
        (
            SELECT DISTINCT session_id
            FROM events
            WHERE store_id = {store:String} AND session_id != ''
              AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
              AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
        )
  )
