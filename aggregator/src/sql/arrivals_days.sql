-- Quarters of an hour in which something that has arrived happened. Every time zone's midnight is one's beginning.
SELECT toString(store_id) AS store, toInt64(intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000) AS quarter,
       toInt64(max(toUnixTimestamp64Milli(received_at))) AS received_ms, toUInt64(count()) AS rows,
       toUInt64(countIf(name IN {{order_names}})) AS order_reports,
       toUInt64(countIf(name IN ('page_view', 'view_item') AND page_view_id != '')) AS showings
FROM events
WHERE {{lane_rows}}
GROUP BY store, quarter
