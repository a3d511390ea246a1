-- What a day's events say about each product they name, lines without one as `(none)`; an event that names a product twice counts once. Orders are
-- not here: which of their reports counts is decided over all time. Levels are a server's word alone. Reviews are
-- counted twice, all and a server's (`told_…`). No event's list of items is carried along with each
-- of its items: that would be their number squared.
SELECT toInt64(roundDown(toUnixTimestamp64Milli(event_time), {bounds:Array(Int64)})) AS day,
       product AS product_id,
       toUInt64(countIf(name = 'view_item')) AS views,
       toUInt64(uniqExactIf(visitor_id, name = 'view_item' AND visitor_id != '')) AS unique_views,
       toUInt64(countIf(name = 'add_to_cart')) AS carts,
       toUInt64(countIf(name = 'remove_from_cart')) AS removals,
       toUInt64(countIf(name = 'review')) AS reviews,
       toUInt64(countIf(name = 'review' AND isNotNull(rating))) AS ratings,
       toInt128(toInt128(sumIf(ifNull(rating, toDecimal128(0, 6)), name = 'review') * 1000000)) AS rating_sum,
       toUInt64(countIf(name = 'review' AND trusted = 1)) AS told_reviews,
       toUInt64(countIf(name = 'review' AND trusted = 1 AND isNotNull(rating))) AS told_ratings,
       toInt128(toInt128(sumIf(ifNull(rating, toDecimal128(0, 6)), name = 'review' AND trusted = 1) * 1000000))
           AS told_rating_sum,
       argMaxIf(level, (event_time, ifNull(toUInt64(sequence), 4294967296), UUIDToNum(event_id)),
                name = 'inventory_level') AS stock,
       toUInt64(countIf(name = 'inventory_level')) AS stock_reports
FROM
(
    SELECT event_time, visitor_id, name, sequence, event_id, trusted, product, toInt64(0) AS level,
           if(value >= 1 AND value <= 5, toDecimal128OrNull(toString(value), 6), NULL) AS rating
    FROM events FINAL
    ARRAY JOIN arrayDistinct(arrayMap(id -> if(id = '', '(none)', id), item_product_id)) AS product
    -- With stock levels: what gives a product a row. Orders join in by their winning report alone.
    WHERE store_id = {store:String} AND is_bot = 0
      AND name IN ('view_item', 'add_to_cart', 'remove_from_cart', 'begin_checkout', 'review')
      AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
      AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
    UNION ALL
    SELECT event_time, '', 'inventory_level', sequence, event_id, toUInt8(1), if(item = '', '(none)', item) AS product,
           toInt64(round(sum(quantity))), NULL
    FROM events FINAL
    ARRAY JOIN item_product_id AS item, item_quantity AS quantity
    WHERE store_id = {store:String} AND is_bot = 0 AND name = 'inventory_level' AND trusted = 1
      AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
      AND event_time < fromUnixTimestamp64Milli({hi:Int64}, 'UTC')
    GROUP BY event_time, sequence, event_id, key_date, visitor_hash, product
)
GROUP BY day, product_id
