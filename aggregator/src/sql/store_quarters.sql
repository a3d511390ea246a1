-- Quarters of an hour in which a store has events or clicks.
SELECT toInt64(quarter) AS quarter
FROM
(
    SELECT DISTINCT intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000 AS quarter
    FROM events
    WHERE store_id = {store:String}
    UNION ALL
    SELECT DISTINCT intDiv(toUnixTimestamp64Milli(event_time), 900000) * 900000 AS quarter
    FROM clicks
    WHERE store_id = {store:String}
)
GROUP BY quarter
