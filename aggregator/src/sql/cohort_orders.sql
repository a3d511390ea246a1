-- Order totals by the first day of the buyer and the day of the order; of foreign currencies by themselves, as each is
-- converted by itself.
WITH
    persons AS
    (
        SELECT person, min(ms) AS first_ms
        FROM ({{people}})
        GROUP BY person
    )
SELECT toInt64(roundDown(first_ms, {days:Array(Int64)})) AS first_day,
       toInt64(roundDown(at_ms, {days:Array(Int64)})) AS day,
       in_currency, if(in_currency = {base:String}, toInt128(0), total) AS each,
       toUInt64(count()) AS orders, toInt128(sum(total)) AS sum
FROM
(
    SELECT toInt64(toUnixTimestamp64Milli(placed_at)) AS at_ms, toString(currency) AS in_currency, visitor_id, user_id,
           total_minor AS total
    FROM orders FINAL
    WHERE store_id = {store:String}
) AS orders
LEFT ANY JOIN ({{known_users}}) AS users ON orders.visitor_id = users.visitor_id
INNER JOIN persons ON persons.person = multiIf(orders.user_id != '', concat('u', orders.user_id),
    users.known_user != '', concat('u', users.known_user),
    orders.visitor_id != '', concat('v', orders.visitor_id), '')
GROUP BY first_day, day, in_currency, each
