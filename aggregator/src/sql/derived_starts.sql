-- Starts of the sessions of events without a session id. A gap of 30 minutes or more ends a chain of events; a chain
-- of more than 24 h is cut where an event lies more than 24 h after the session's first.
SELECT visitor_id,
       arrayJoin(arrayFlatten(arrayMap(
           chain -> if(chain[-1] - chain[1] <= 86400000,
                       [chain[1]],
                       arrayFold((starts, t) -> if(t - starts[-1] > 86400000, arrayPushBack(starts, t), starts),
                                 chain, [chain[1]])),
           arraySplit((t, gap) -> gap >= 1800000, times, arrayDifference(times))))) AS session_start
FROM
(
    SELECT visitor_id, arraySort(groupArray(toUnixTimestamp64Milli(event_time))) AS times
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND visitor_id != '' AND session_id = ''
      AND (event_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
           OR (cityHash64(visitor_id) IN {reaching:Array(UInt64)} AND event_time >= fromUnixTimestamp64Milli({reaching_since:Int64}, 'UTC')))
      AND event_time < fromUnixTimestamp64Milli({hi:Int64} + 86400000, 'UTC')
    GROUP BY visitor_id
)
