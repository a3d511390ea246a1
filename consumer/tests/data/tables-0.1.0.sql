CREATE DATABASE IF NOT EXISTS millrace;

CREATE TABLE IF NOT EXISTS millrace.events
(
    `store_id` LowCardinality(String) COMMENT 'Store it belongs to.',
    `event_id` UUID COMMENT 'Identity of the event: sent again, it counts once.',
    `type` LowCardinality(String) COMMENT '`page_view` or `event`.',
    `name` LowCardinality(String) COMMENT 'Canonical name; `page_view` for page views.',
    `event_time` DateTime64(3, 'UTC') COMMENT 'When it happened: the client\'s time, corrected where its clock is wrong.',
    `client_time` Nullable(DateTime64(3, 'UTC')) COMMENT 'The time the client sent, uncorrected; null when it sent none.',
    `received_at` DateTime64(3, 'UTC') COMMENT 'When the collector received it.',
    `time_source` LowCardinality(String) COMMENT 'Where `event_time` comes from: `client`, `corrected`, `received` (none was sent), `replaced` (implausible).',
    `key_date` Date COMMENT 'Date that orders the table, a function of what was sent alone.',
    `visitor_id` String COMMENT 'Visitor: as sent, or a keyed hash that lasts one day; empty for a server\'s events without one.',
    `visitor_hash` UInt64 COMMENT 'Hash of the visitor that was sent, 0 when none was: orders the table.',
    `session_id` String COMMENT 'Session, as sent.',
    `user_id` String COMMENT 'User, as sent.',
    `sequence` Nullable(UInt32) COMMENT 'The client\'s sequence number within the session.',
    `non_interactive` UInt8 COMMENT '1: happened without the visitor\'s doing, so it does not end a bounce.',
    `url` String COMMENT 'Address of the page.',
    `title` String COMMENT 'Title of the page.',
    `referrer` String COMMENT 'Address of the page before.',
    `language` LowCardinality(String) COMMENT 'Language of the browser, BCP 47.',
    `timezone` LowCardinality(String) COMMENT 'Time zone of the browser, IANA.',
    `viewport_width` UInt16 COMMENT 'Width of the browser\'s viewport in CSS pixels.',
    `viewport_height` UInt16 COMMENT 'Height of the browser\'s viewport in CSS pixels.',
    `screen_width` UInt16 COMMENT 'Width of the screen in CSS pixels.',
    `screen_height` UInt16 COMMENT 'Height of the screen in CSS pixels.',
    `page_view_id` String COMMENT 'Identity of one showing of a page.',
    `duration_ms` UInt32 COMMENT 'Milliseconds the page has been shown.',
    `scroll_depth` UInt8 COMMENT 'How much of the page was seen, percent.',
    `category` LowCardinality(String) COMMENT 'Category of the event.',
    `action` LowCardinality(String) COMMENT 'Action of the event.',
    `label` String COMMENT 'Label of the event.',
    `value` Nullable(Float64) COMMENT 'Value of the event, as sent.',
    `currency` LowCardinality(String) COMMENT 'Currency of all amounts, ISO 4217.',
    `total_minor` Nullable(Int64) COMMENT 'Total of the order or refund, minor units; null when none was sent.',
    `tax_minor` Int64 COMMENT 'Tax, minor units.',
    `shipping_minor` Int64 COMMENT 'Shipping, minor units.',
    `discount_minor` Int64 COMMENT 'Discount, minor units.',
    `order_id` String COMMENT 'Order.',
    `refund_id` String COMMENT 'Refund, unique within its order.',
    `coupon` String COMMENT 'Coupon.',
    `item_product_id` Array(String) COMMENT 'Items: product.',
    `item_variant_id` Array(String) COMMENT 'Items: variant of the product.',
    `item_name` Array(String) COMMENT 'Items: name.',
    `item_brand` Array(String) COMMENT 'Items: brand.',
    `item_category` Array(String) COMMENT 'Items: category.',
    `item_price_minor` Array(Int64) COMMENT 'Items: price of one, minor units.',
    `item_quantity` Array(UInt32) COMMENT 'Items: quantity.',
    `item_discount_minor` Array(Int64) COMMENT 'Items: discount on one, minor units.',
    `item_product_kind` Array(String) COMMENT 'Items: kind of product (`retail`, `wholesale`, `live`, …).',
    `properties` Map(String, String) COMMENT 'Everything else that was sent; numbers and booleans as their JSON text.',
    `user_agent` LowCardinality(String) COMMENT 'User agent of the sender.',
    `trusted` UInt8 COMMENT '1: sent with a secret key, by the shop\'s own server.',
    `is_bot` UInt8 COMMENT '1: not a person; kept, and left out of every rollup.',
    `bot_reason` LowCardinality(String) COMMENT 'Why it is taken for a bot.',
    `_topic` LowCardinality(String) COMMENT 'Topic the row came from.',
    `_partition` UInt32 COMMENT 'Partition the row came from.',
    `_offset` UInt64 COMMENT 'Offset of the row\'s message.',
    `_row` UInt32 COMMENT 'Place of the row in its message.',
    `_batch` UInt64 DEFAULT `_offset` COMMENT 'Offset of the first row of its insert: all of its partition below was stored before.',
    `_version` UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Milli(received_at))) COMMENT 'Of copies the one received first stays.',
    INDEX event_time event_time TYPE minmax GRANULARITY 1,
    INDEX session_id session_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX order_id order_id TYPE bloom_filter(0.01) GRANULARITY 4,
    INDEX _offset _offset TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toYYYYMM(received_at)
ORDER BY (store_id, key_date, name, visitor_hash, event_id)
TTL toDateTime(received_at) + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS millrace.clicks
(
    `store_id` LowCardinality(String) COMMENT 'Store it belongs to.',
    `event_id` UUID COMMENT 'Identity of the click: sent again, it counts once.',
    `event_time` DateTime64(3, 'UTC') COMMENT 'When it happened: the client\'s time, corrected where its clock is wrong.',
    `client_time` Nullable(DateTime64(3, 'UTC')) COMMENT 'The time the client sent, uncorrected; null when it sent none.',
    `received_at` DateTime64(3, 'UTC') COMMENT 'When the collector received it.',
    `time_source` LowCardinality(String) COMMENT 'Where `event_time` comes from: `client`, `corrected`, `received` (none was sent), `replaced` (implausible).',
    `key_date` Date COMMENT 'Date that orders the table, a function of what was sent alone.',
    `visitor_id` String COMMENT 'Visitor: as sent, or a keyed hash that lasts one day.',
    `visitor_hash` UInt64 COMMENT 'Hash of the visitor that was sent, 0 when none was: orders the table.',
    `session_id` String COMMENT 'Session, as sent.',
    `user_id` String COMMENT 'User, as sent.',
    `sequence` Nullable(UInt32) COMMENT 'The client\'s sequence number within the session.',
    `url` String COMMENT 'Address of the page.',
    `page_view_id` String COMMENT 'Showing of the page.',
    `x` UInt32 COMMENT 'CSS pixels from the document\'s left edge.',
    `y` UInt32 COMMENT 'CSS pixels from the document\'s top edge.',
    `page_width` UInt32 COMMENT 'Width of the document in CSS pixels.',
    `page_height` UInt32 COMMENT 'Height of the document in CSS pixels.',
    `viewport_width` UInt16 COMMENT 'Width of the browser\'s viewport in CSS pixels.',
    `viewport_height` UInt16 COMMENT 'Height of the browser\'s viewport in CSS pixels.',
    `selector` String COMMENT 'CSS selector of the element.',
    `text` String COMMENT 'Text of the element.',
    `properties` Map(String, String) COMMENT 'Everything else that was sent; numbers and booleans as their JSON text.',
    `user_agent` LowCardinality(String) COMMENT 'User agent of the sender.',
    `trusted` UInt8 COMMENT '1: sent with a secret key, by the shop\'s own server.',
    `is_bot` UInt8 COMMENT '1: not a person; kept, and left out of every rollup.',
    `bot_reason` LowCardinality(String) COMMENT 'Why it is taken for a bot.',
    `_topic` LowCardinality(String) COMMENT 'Topic the row came from.',
    `_partition` UInt32 COMMENT 'Partition the row came from.',
    `_offset` UInt64 COMMENT 'Offset of the row\'s message.',
    `_row` UInt32 COMMENT 'Place of the row in its message.',
    `_batch` UInt64 DEFAULT `_offset` COMMENT 'Offset of the first row of its insert: all of its partition below was stored before.',
    `_version` UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Milli(received_at))) COMMENT 'Of copies the one received first stays.',
    INDEX event_time event_time TYPE minmax GRANULARITY 1,
    INDEX _offset _offset TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree(_version)
PARTITION BY toYYYYMM(received_at)
ORDER BY (store_id, key_date, visitor_hash, event_id)
TTL toDateTime(received_at) + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

CREATE TABLE IF NOT EXISTS millrace.dead_letters
(
    `reason` LowCardinality(String) COMMENT 'Reason, one of the closed list.',
    `detail` String COMMENT 'What exactly was wrong.',
    `died_at` DateTime64(3, 'UTC') COMMENT 'When it was given up.',
    `raw` String COMMENT 'The bytes, as they stood in the log.',
    `_topic` LowCardinality(String) COMMENT 'Topic the row came from.',
    `_partition` UInt32 COMMENT 'Partition the row came from.',
    `_offset` UInt64 COMMENT 'Offset of the row\'s message.',
    `_row` UInt32 COMMENT 'Place of the row in its message.',
    `_batch` UInt64 DEFAULT `_offset` COMMENT 'Offset of the first row of its insert: all of its partition below was stored before.',
    INDEX died_at died_at TYPE minmax GRANULARITY 1
)
ENGINE = ReplacingMergeTree()
PARTITION BY toYYYYMM(died_at)
ORDER BY (_topic, _partition, _offset, _row)
TTL toDateTime(died_at) + INTERVAL 730 DAY
SETTINGS non_replicated_deduplication_window = 10000;

