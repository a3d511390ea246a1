-- The user of each visitor who has one.
SELECT visitor_id,
       argMin(user_id, (event_time, ifNull(toUInt64(sequence), 4294967296), UUIDToNum(event_id))) AS known_user
FROM events FINAL
WHERE store_id = {store:String} AND is_bot = 0 AND visitor_id != '' AND user_id != ''
GROUP BY visitor_id
