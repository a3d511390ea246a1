-- Clicks by element.
SELECT day, page AS url, class, selector AS element_selector,
       argMin(text, (ms, place, id)) AS element_text,
       toUInt64(count()) AS clicks, toUInt64(countIf(rage)) AS rage_clicks, toUInt64(countIf(dead)) AS dead_clicks
FROM ({{heatmap_clicks}})
WHERE selector != ''
GROUP BY day, url, class, element_selector
