-- Order totals by the first day of the buyer and the day of the order. Not by greatest(): of Int128, once it is compiled
-- (from the third query on), it takes a negative number for the greater one (ClickHouse 26.7).
WITH
    persons AS
    (
        SELECT person, min(ms) AS first_ms
        FROM ({{people}})
        GROUP BY person
    )
SELECT toInt64(roundDown(first_ms, {days:Array(Int64)})) AS first_day,
       toInt64(roundDown(at_ms, {days:Array(Int64)})) AS day,
       currency,
       toInt128(sum(total)) AS total
FROM
(
    SELECT winner.1 AS at_ms, winner.2 AS currency, winner.4 AS visitor_id,
           toInt128(ifNull(toInt128(winner.3), if(winner.6 > 0, winner.6, toInt128(0)))) AS total,
           winner.5 AS user_id
    FROM
    (
        SELECT argMin((toUnixTimestamp64Milli(event_time), toString(currency), total_minor, visitor_id, user_id,
                       arrayFold((sum, price, quantity) -> sum + toInt128(round(
                                     toDecimal256(price, 6) * toDecimal256(quantity, 3) * toInt64(exp10({{decimals}})))),
                                 item_price, item_quantity, toInt128(0))
                       - ifNull(discount_minor, 0) + ifNull(tax_minor, 0) + ifNull(shipping_minor, 0)),
                      (trusted = 0, event_time, UUIDToNum(event_id), key_date, visitor_hash)) AS winner
        FROM events FINAL
        WHERE store_id = {store:String} AND is_bot = 0 AND name = 'purchase' AND order_id != ''
        GROUP BY order_id
    )
) AS orders
LEFT ANY JOIN ({{known_users}}) AS users ON orders.visitor_id = users.visitor_id
INNER JOIN persons ON persons.person = multiIf(orders.user_id != '', concat('u', orders.user_id),
    users.known_user != '', concat('u', users.known_user),
    orders.visitor_id != '', concat('v', orders.visitor_id), '')
GROUP BY first_day, day, currency
