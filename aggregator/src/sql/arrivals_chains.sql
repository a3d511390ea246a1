-- Where the chains of events without a session id, of which something has arrived or changed, have events: a late event
-- may join two chains, and cut what follows at other places; one that went with its copy leaves the chain before it.
SELECT store, toInt64(quarter) AS quarter
FROM
(
    SELECT toString(store_id) AS store,
           arrayJoin(arrayDistinct(arrayMap(t -> intDiv(t, 900000) * 900000, arrayFlatten(arrayFilter(
               chain -> chain[-1] >= {first:Int64} - 1800000,
               arraySplit((t, gap) -> gap >= 1800000, times, arrayDifference(times))))))) AS quarter
    FROM
    (
        SELECT store_id, arraySort(groupArray(toUnixTimestamp64Milli(event_time))) AS times
        FROM events FINAL
        WHERE store_id IN {stores:Array(String)} AND is_bot = 0 AND visitor_id != '' AND session_id = ''
          AND event_time >= fromUnixTimestamp64Milli({first:Int64} - 86400000, 'UTC')
          AND (store_id, visitor_id) IN
              (SELECT store_id, visitor_id FROM ({{touched_rows}}) WHERE session_id = '' AND visitor_id != '')
        GROUP BY store_id, visitor_id
    )
)
GROUP BY store, quarter
