-- Every event's person and time. The user of a visitor is the one of the visitor's first event that has one.
SELECT multiIf(user_id != '', concat('u', user_id), known_user != '', concat('u', known_user),
               visitor_id != '', concat('v', visitor_id), '') AS person,
       ms
FROM
(
    SELECT user_id, visitor_id, toUnixTimestamp64Milli(event_time) AS ms
    FROM events FINAL
    WHERE store_id = {store:String} AND is_bot = 0 AND (visitor_id != '' OR user_id != '')
) AS events_of
LEFT ANY JOIN ({{known_users}}) AS users ON events_of.visitor_id = users.visitor_id
