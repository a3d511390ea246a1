-- The user of each visitor who has one: of the first event that names both, or order, behind the events of its time.
SELECT visitor_id, argMin(user_id, place) AS known_user
FROM
(
    SELECT visitor_id, user_id,
           (event_time, 0, ifNull(toUInt64(sequence), 4294967296), UUIDToNum(event_id), '') AS place
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND visitor_id != '' AND user_id != ''
    UNION ALL
    SELECT visitor_id, user_id, (placed_at, 1, toUInt64(0), toFixedString('', 16), user_id) AS place
    FROM orders FINAL
    WHERE store_id = {store:String} AND visitor_id != '' AND user_id != ''
)
GROUP BY visitor_id
