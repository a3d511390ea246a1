-- First and last time of a store's events, bots left out.
SELECT toInt64(min(toUnixTimestamp64Milli(event_time))) AS first_ms,
       toInt64(max(toUnixTimestamp64Milli(event_time))) AS last_ms,
       toUInt64(count()) AS events
FROM events FINAL
WHERE store_id = {store:String} AND is_bot = 0
