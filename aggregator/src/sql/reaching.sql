-- Visitors whose events without a session id come at gaps under 30 minutes all the way from `since` to an event at or
-- after `lo`: where their session began lies further back. As hashes: ids may be long, and a query's parameters are not.
-- Whom two hashes take for one is read further back too, which changes nothing.
SELECT cityHash64(visitor_id) AS visitor
FROM
(
    SELECT visitor_id, arraySort(groupArray(toUnixTimestamp64Milli(event_time))) AS times
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND visitor_id != '' AND session_id = ''
      AND event_time >= fromUnixTimestamp64Milli({since:Int64}, 'UTC')
      AND event_time < fromUnixTimestamp64Milli({lo:Int64} + 1800000, 'UTC')
      AND (length({reaching:Array(UInt64)}) = 0 OR cityHash64(visitor_id) IN {reaching:Array(UInt64)})
    GROUP BY visitor_id
    HAVING count() >= 2
)
WHERE times[1] < {since:Int64} + 1800000 AND times[-1] >= {lo:Int64} AND arrayMax(arrayDifference(times)) < 1800000
ORDER BY visitor
LIMIT {limit:UInt64}
