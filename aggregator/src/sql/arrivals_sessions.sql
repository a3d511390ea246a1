-- Where the sessions with a client's id, of which something has arrived or changed, begin, and where they began before.
-- Those that have events before `since` are looked up over all time, the others after it.
SELECT store, toInt64(quarter) AS quarter
FROM
(
    SELECT toString(store_id) AS store,
           arrayJoin([min(toUnixTimestamp64Milli(event_time)),
                      minIf(toUnixTimestamp64Milli(event_time), NOT ({{lane_rows}}))]) AS start,
           intDiv(start, 900000) * 900000 AS quarter
    FROM events FINAL
    WHERE store_id IN {stores:Array(String)} AND is_bot = 0 AND visitor_id != '' AND session_id != ''
      AND event_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
      AND (store_id, session_id) IN (SELECT store_id, session_id FROM ({{touched_rows}}) WHERE session_id != '')
    GROUP BY store_id, visitor_id, session_id
    UNION ALL
    SELECT toString(store_id) AS store,
           arrayJoin([min(toUnixTimestamp64Milli(event_time)),
                      minIf(toUnixTimestamp64Milli(event_time), NOT ({{lane_rows}}))]) AS start,
           intDiv(start, 900000) * 900000 AS quarter
    FROM events FINAL
    WHERE store_id IN {stores:Array(String)} AND is_bot = 0 AND visitor_id != ''
      AND session_id IN
      (
          SELECT session_id
          FROM events
          WHERE store_id IN {stores:Array(String)} AND session_id != ''
            AND event_time < fromUnixTimestamp64Milli({since:Int64}, 'UTC')
            AND (store_id, session_id) IN (SELECT store_id, session_id FROM ({{touched_rows}}) WHERE session_id != '')
      )
    GROUP BY store_id, visitor_id, session_id
)
WHERE quarter > 0
GROUP BY store, quarter
