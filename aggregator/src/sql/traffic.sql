-- What is distinct within a period, for days, weeks or months alike.
SELECT toInt64(roundDown(toUnixTimestamp64Milli(event_time), {bounds:Array(Int64)})) AS period,
       toUInt64(uniqExactIf(visitor_id, is_bot = 0 AND visitor_id != '')) AS visitors,
       toUInt64(uniqExactIf(if(page_view_id = '', toString(event_id), page_view_id),
                            is_bot = 0 AND type = 'page_view')) AS page_views,
       toUInt64(countIf(is_bot = 1)) AS bot_events
FROM events FINAL
WHERE store_id = {store:String}
  AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
  AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
GROUP BY period
