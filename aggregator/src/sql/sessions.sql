-- Sessions that begin in the period, by day: in the row of the empty product all of them, in a product's row those
-- whose first page view shows the product's page.
WITH
    session_rows AS
    (
        SELECT visitor_id, session_id AS session, toInt64(0) AS session_start,
               toUnixTimestamp64Milli(event_time) AS ms, type, name, page_view_id, event_id, duration_ms,
               non_interactive, sequence, order_id
        FROM events FINAL
        WHERE store_id = {store:String} AND is_bot = 0 AND visitor_id != '' AND session_id != ''
          AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
          AND event_time < fromUnixTimestamp64Milli({until:Int64}, 'UTC')
          AND (visitor_id, session_id) NOT IN ({{started_before}})
        UNION ALL
        SELECT visitor_id, '' AS session, session_start, ms, type, name, page_view_id, event_id, duration_ms,
               non_interactive, sequence, order_id
        FROM
        (
            SELECT visitor_id, toUnixTimestamp64Milli(event_time) AS ms, type, name, page_view_id, event_id,
                   duration_ms, non_interactive, sequence, order_id
            FROM events FINAL
            WHERE store_id = {store:String} AND is_bot = 0 AND visitor_id != '' AND session_id = ''
              AND event_time >= fromUnixTimestamp64Milli({lo:Int64}, 'UTC')
              AND event_time < fromUnixTimestamp64Milli({hi:Int64} + 86400000, 'UTC')
        ) AS events_of
        ASOF JOIN ({{derived_starts}}) AS starts
            ON events_of.visitor_id = starts.visitor_id AND events_of.ms >= starts.session_start
        WHERE session_start >= {lo:Int64} AND session_start < {hi:Int64}
    ),
    -- `place` orders a session's page views: sequence (none last), time, id, in one number, which compares fast.
    showings AS
    (
        SELECT visitor_id, session, session_start,
               multiIf(type != 'page_view', '', page_view_id = '', toString(event_id), page_view_id) AS page,
               min(ms) AS first_ms,
               max(ms) AS last_ms,
               max(if(type = 'page_view', duration_ms, 0)) AS shown_ms,
               countIf(type != 'page_view' AND non_interactive = 0) AS interactive,
               max(name = 'purchase' AND (order_id, visitor_id, session, ms) IN ({{winners}})) AS converted,
               min(bitShiftLeft(toUInt256(ifNull(toUInt64(sequence), 4294967296)), 192)
                   + bitShiftLeft(toUInt256(ms), 128) + toUInt256(toUInt128(event_id))) AS place
        FROM session_rows
        GROUP BY visitor_id, session, session_start, page
    ),
    sessions AS
    (
        SELECT visitor_id,
               min(first_ms) AS started,
               max(greatest(last_ms, if(page != '', first_ms + shown_ms, 0))) - started AS length_ms,
               countIf(page != '') AS pages,
               sum(interactive) AS interactions,
               max(converted) AS is_converted,
               argMinIf(page, place, page != '') AS entry_page,
               toInt64(bitAnd(bitShiftRight(minIf(place, page != ''), 128), 18446744073709551615)) AS entry_ms
        FROM showings
        GROUP BY visitor_id, session, session_start
        HAVING started >= {lo:Int64} AND started < {hi:Int64}
    ),
    product_pages AS
    (
        SELECT visitor_id, page_view_id, groupArray((product, toUnixTimestamp64Milli(event_time))) AS views
        FROM events FINAL
        ARRAY JOIN arrayDistinct(arrayMap(id -> if(id = '', '(none)', id), item_product_id)) AS product
        WHERE store_id = {store:String} AND is_bot = 0 AND name = 'view_item' AND visitor_id != ''
          AND page_view_id != ''
          AND event_time >= fromUnixTimestamp64Milli({lo:Int64} - 86400000, 'UTC')
          AND event_time <= fromUnixTimestamp64Milli({until:Int64} + 86400000, 'UTC')
        GROUP BY visitor_id, page_view_id
    )
SELECT toInt64(roundDown(started, {bounds:Array(Int64)})) AS day,
       product AS product_id,
       toUInt64(count()) AS sessions,
       toUInt64(countIf(pages = 1 AND interactions = 0)) AS bounces,
       toUInt64(countIf(length_ms >= 10000 OR pages >= 2 OR is_converted = 1)) AS engaged,
       toUInt64(countIf(is_converted = 1)) AS converted,
       toInt64(sum(length_ms)) AS length_sum_ms
FROM
(
    SELECT started, length_ms, pages, interactions, is_converted,
           arrayConcat([''], arrayDistinct(arrayMap(view -> view.1,
               arrayFilter(view -> abs(view.2 - entry_ms) <= 86400000, views)))) AS products
    FROM sessions
    LEFT JOIN product_pages ON sessions.visitor_id = product_pages.visitor_id
                           AND sessions.entry_page = product_pages.page_view_id
)
ARRAY JOIN products AS product
GROUP BY day, product_id
