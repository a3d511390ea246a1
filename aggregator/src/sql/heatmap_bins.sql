-- Clicks in their bins.
SELECT day, page AS url, class,
       if(page_width = 0, NULL, toUInt8(least(99, intDiv(100 * toUInt64(x), page_width)))) AS click_x_percent,
       toUInt64(intDiv(y, 20) * 20) AS click_y,
       toUInt64(count()) AS clicks, toUInt64(countIf(rage)) AS rage_clicks, toUInt64(countIf(dead)) AS dead_clicks
FROM ({{heatmap_clicks}})
GROUP BY day, url, class, click_x_percent, click_y
