-- The same for clicks.
SELECT toString(store_id) AS store,
       toInt64(intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000) AS quarter,
       toInt64(max(toUnixTimestamp64Milli(received_at))) AS received_ms, toUInt64(count()) AS rows,
       toUInt64(0) AS order_reports, toUInt64(0) AS showings
FROM clicks
WHERE {{lane_rows}}
GROUP BY store, quarter
