//! Tables and views of ClickHouse, for one server and for a cluster.
//!
//! The tables' columns come from [`crate::row`]. Three rules carry the delivery guarantee:
//!
//! * the sorting key is a function of what was sent alone, so an event that is sent again meets its first copy;
//! * of copies that differ a server's stays, then the earliest (`_version`): nobody who knows only a public key takes the
//!   place of what the shop itself said, and a rollup does not depend on the order of arrival;
//! * the deduplication window is set, so a repeated insert with the same token stores nothing.
//!
//! And one carries the rollups': every row says what of its partition was stored before it (`_batch`), so a reader knows
//! what it has seen whole. One insert is not seen at once: each month of receipt is a part of its own, and each shard.
//!
//! Tables are partitioned by the month of *receipt*: no sender can open a thousand partitions with a thousand made-up
//! dates, and retention drops whole parts. Copies of an event in two partitions are still merged by `FINAL`.

use crate::{
    entity,
    row::{ClickRow, Column, ColumnType, EventRow, Row},
};

/// Where the tables are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Database.
    pub database: String,
    /// Cluster name for `ON CLUSTER`, `Replicated…` and `Distributed`; `None` for one server.
    pub cluster: Option<String>,
    /// Days a row is kept after its receipt.
    pub retention_days: u32,
}

impl Default for Layout {
    fn default() -> Self {
        Self { database: "millrace".into(), cluster: None, retention_days: 730 }
    }
}

/// The services' user on one machine.
pub const SERVICES: &str = "millrace";
/// The user for people on one machine, who only reads.
pub const READER: &str = "reader";

/// Inserts per table whose tokens the server remembers.
pub const DEDUPLICATION_WINDOW: u32 = 10_000;

/// A part is on the disk before its insert is acknowledged: the log's position moves then, and what lies below it is deleted
/// from a spool. A merge needs no fsync: the parts it replaces stay for minutes. (On a cluster other replicas have it.)
pub(crate) const SYNCED: &str = "fsync_after_insert = 1, fsync_part_directory = 1";

/// The column that decides between copies: the greatest stays.
const VERSION: &str = "_version";

/// Its comment, which also says that the column of a table made by an earlier release holds these values by now.
const VERSION_DOC: &str = "Of copies the greatest stays: a copy of a server, then the earliest event, then the earliest received, \
                           then the smaller hash.";

/// The greatest number of 44 bits, in which an instant fits: milliseconds since 1900, as far as tables hold them.
const INSTANT_MAX: i64 = (1 << 44) - 1;

/// Milliseconds from 1900 to 1970.
const BEFORE_EPOCH_MS: i64 = 2_208_988_800_000;

/// Rows of an earlier build, and rows of others who insert, have none of their own: they stand for themselves.
const BATCH: &str = "_batch";

/// Where in the log a row came from; every table ends with these.
pub const SOURCE_COLUMNS: [Column; 5] = [
    Column { name: "_topic", ty: ColumnType::Symbol, doc: "Topic the row came from." },
    Column { name: "_partition", ty: ColumnType::U32, doc: "Partition the row came from." },
    Column { name: "_offset", ty: ColumnType::U64, doc: "Offset of the row's message." },
    Column { name: "_row", ty: ColumnType::U32, doc: "Place of the row in its message." },
    Column {
        name: BATCH,
        ty: ColumnType::U64,
        doc: "Offset of the first row of its insert: all of its partition below was stored before.",
    },
];

/// Columns of `dead_letters` (followed by [`SOURCE_COLUMNS`]).
pub const DEAD_LETTER_COLUMNS: [Column; 4] = [
    Column { name: "reason", ty: ColumnType::Symbol, doc: "Reason, one of the closed list." },
    Column { name: "detail", ty: ColumnType::Text, doc: "What exactly was wrong." },
    Column { name: "died_at", ty: ColumnType::Instant, doc: "When it was given up." },
    Column { name: "raw", ty: ColumnType::Text, doc: "The bytes, as they stood in the log." },
];

/// Every statement that a store needs, in order; each can be run again.
pub fn statements(layout: &Layout) -> Vec<String> {
    let on_cluster = on_cluster(layout);
    let mut all = vec![format!("CREATE DATABASE IF NOT EXISTS {}{on_cluster}", layout.database)];
    all.extend(TABLES.iter().flat_map(|table| table.statements(layout)));
    all.extend(entity::TABLES.iter().flat_map(|table| table.statements(layout)));
    all.extend(VIEWS.iter().map(|(name, query)| {
        let query = query.replace("{db}", &layout.database).replace("{decimals}", DECIMALS.trim());
        format!("CREATE OR REPLACE VIEW {}.{name}{on_cluster} AS\n{query}", layout.database)
    }));
    all
}

/// What the tables of an earlier release need once, after [`statements`].
pub fn upgrades(layout: &Layout) -> Vec<Upgrade> {
    let versions = TABLES.iter().filter_map(|table| table.upgrade(layout));
    versions.chain([item_decimals(layout), nullable_amounts(layout)]).collect()
}

/// A change of tables that costs work, so that it is made once and not at each start. Cut off, it is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// A query whose one number says how many tables wait for it.
    pub waiting: String,
    /// What makes it, in order.
    pub statements: Vec<String>,
}

const TABLES: [Table; 3] = [
    Table {
        name: EventRow::TABLE,
        columns: EventRow::COLUMNS,
        indexes: "INDEX event_time event_time TYPE minmax GRANULARITY 1,\n    \
                      INDEX session_id session_id TYPE bloom_filter(0.01) GRANULARITY 4,\n    \
                      INDEX order_id order_id TYPE bloom_filter(0.01) GRANULARITY 4,\n    \
                      INDEX _offset _offset TYPE minmax GRANULARITY 1",
        has_version: true,
        partition: "toYYYYMM(received_at)",
        order: "store_id, key_date, name, visitor_hash, event_id",
        arrived: "received_at",
    },
    Table {
        name: ClickRow::TABLE,
        columns: ClickRow::COLUMNS,
        indexes: "INDEX event_time event_time TYPE minmax GRANULARITY 1,\n    \
                      INDEX _offset _offset TYPE minmax GRANULARITY 1",
        has_version: true,
        partition: "toYYYYMM(received_at)",
        order: "store_id, key_date, visitor_hash, event_id",
        arrived: "received_at",
    },
    Table {
        name: "dead_letters",
        columns: &DEAD_LETTER_COLUMNS,
        indexes: "INDEX died_at died_at TYPE minmax GRANULARITY 1",
        has_version: false,
        partition: "toYYYYMM(died_at)",
        order: "_topic, _partition, _offset, _row",
        arrived: "died_at",
    },
];

struct Table {
    name: &'static str,
    columns: &'static [Column],
    indexes: &'static str,
    /// Copies may differ, and a column decides between them; else all are alike, and the one inserted last stays.
    has_version: bool,
    partition: &'static str,
    order: &'static str,
    arrived: &'static str,
}

impl Table {
    fn statements(&self, layout: &Layout) -> Vec<String> {
        let Layout { database, cluster, retention_days } = layout;
        let Self { name, indexes, partition, order, arrived, .. } = self;
        let on_cluster = on_cluster(layout);
        let columns = self.column_list();
        let version = if self.has_version { VERSION } else { "" };
        let (stored, engine, window) = match cluster {
            None => (
                name.to_string(),
                format!("ReplacingMergeTree({version})"),
                format!("non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, {SYNCED}"),
            ),
            Some(_) => {
                let path = format!("'/clickhouse/tables/{{shard}}/{database}/{name}', '{{replica}}'");
                let version = if version.is_empty() { String::new() } else { format!(", {version}") };
                (
                    format!("{name}_local"),
                    format!("ReplicatedReplacingMergeTree({path}{version})"),
                    format!(
                        "replicated_deduplication_window = {DEDUPLICATION_WINDOW}, \
                         replicated_deduplication_window_seconds = 604800"
                    ),
                )
            }
        };
        let mut all = vec![format!(
            "CREATE TABLE IF NOT EXISTS {database}.{stored}{on_cluster}\n(\n    {columns},\n    {indexes}\n)\n\
             ENGINE = {engine}\nPARTITION BY {partition}\nORDER BY ({order})\n\
             TTL toDateTime({arrived}) + INTERVAL {retention_days} DAY\nSETTINGS {window}"
        )];
        if let Some(cluster) = cluster {
            // A row's copies must meet on one shard: the shard is a function of the sorting key.
            all.push(format!(
                "CREATE TABLE IF NOT EXISTS {database}.{name}{on_cluster} AS {database}.{stored}\n\
                 ENGINE = Distributed('{cluster}', '{database}', '{stored}', cityHash64({order}))"
            ));
        }
        // The columns are added before anything that reads through them: a `Distributed` table asks its shards for all
        // that it lists.
        for table in [Some(stored.as_str()), cluster.as_ref().map(|_| *name)].into_iter().flatten() {
            all.push(format!("ALTER TABLE {database}.{table}{on_cluster}\n    {}", self.missing_columns()));
        }
        all
    }

    fn all_columns(&self) -> impl Iterator<Item = &Column> + Clone {
        self.columns.iter().chain(&SOURCE_COLUMNS)
    }

    /// What gives a table that an earlier release made the columns it lacks, at the place they have in a new one. Every
    /// column is named, so that nobody has to remember which release brought which; the first is in the sorting key.
    fn missing_columns(&self) -> String {
        let after = self.all_columns();
        let actions = self.all_columns().skip(1).zip(after).map(|(column, before)| {
            format!("ADD COLUMN IF NOT EXISTS {} AFTER `{}`", definition(column), before.name)
        });
        actions.collect::<Vec<_>>().join(",\n    ")
    }

    /// Definition of the column that decides between copies, without its comment. From the left: one bit for a server's
    /// word, 44 for the event's time and 44 for its receipt, the earlier the greater, and 39 of a hash of the row, so that
    /// no order of arrival decides between copies that have all of these in common.
    fn version(&self) -> String {
        let earlier = |column: &str, shift: u32| {
            let last = INSTANT_MAX - BEFORE_EPOCH_MS;
            format!("bitShiftLeft(toUInt128({last} - toUnixTimestamp64Milli({column})), {shift})")
        };
        let columns: Vec<String> = self.columns.iter().map(|column| format!("`{}`", column.name)).collect();
        format!(
            "`{VERSION}` UInt128 MATERIALIZED bitShiftLeft(toUInt128(trusted != 0), 127) + {} + {} \
             + bitShiftRight(bitNot(cityHash64(tuple({}))), 25)",
            earlier("event_time", 83),
            earlier("received_at", 39),
            columns.join(", ")
        )
    }

    /// Gives a table that an earlier release made the column of this one. There it knew the time of receipt alone, so a
    /// copy that anybody sent could stand before a server's.
    fn upgrade(&self, layout: &Layout) -> Option<Upgrade> {
        let Self { name, .. } = self;
        let Layout { database, cluster, .. } = layout;
        let on_cluster = on_cluster(layout);
        let stored = cluster.as_ref().map_or_else(|| (*name).to_owned(), |_| format!("{name}_local"));
        let alter = |table: &str, change: &str| {
            // Nobody waits for it: old values are read until each part is rewritten.
            format!(
                "ALTER TABLE {database}.{table}{on_cluster} {change} SETTINGS alter_sync = 0, mutations_sync = 0"
            )
        };
        let tables = [Some(stored.as_str()), cluster.as_ref().map(|_| *name)];
        let modify = format!("MODIFY COLUMN {}", self.version());
        let mut statements: Vec<String> =
            tables.into_iter().flatten().map(|table| alter(table, &modify)).collect();
        statements.push(alter(&stored, &format!("MATERIALIZE COLUMN `{VERSION}`")));
        // Last: from here on it counts as made.
        statements.push(alter(&stored, &format!("COMMENT COLUMN `{VERSION}` '{VERSION_DOC}'")));
        let waiting = format!(
            "SELECT count() FROM system.columns WHERE database = '{database}' AND table = '{stored}' \
             AND name = '{VERSION}' AND comment != '{VERSION_DOC}'"
        );
        self.has_version.then_some(Upgrade { waiting, statements })
    }

    fn column_list(&self) -> String {
        let mut list = String::new();
        for (index, column) in self.all_columns().enumerate() {
            if index > 0 {
                list.push_str(",\n    ");
            }
            list.push_str(&definition(column));
        }
        if self.has_version {
            list.push_str(&format!(",\n    {} COMMENT '{VERSION_DOC}'", self.version()));
        }
        list
    }
}

/// Gives a table that an earlier release made decimals for its items. There prices were minor units, in columns that stay
/// for the rows that were written then; quantities were whole numbers.
fn item_decimals(layout: &Layout) -> Upgrade {
    let Layout { database, cluster, .. } = layout;
    let on_cluster = on_cluster(layout);
    let stored = if cluster.is_some() { "events_local" } else { "events" };
    let column = |name: &str| EventRow::COLUMNS.iter().find(|column| column.name == name).map(definition);
    let modified = |name: &str, default: &str| {
        let definition = column(name).unwrap_or_default();
        definition.replacen(" COMMENT", &format!("{default} COMMENT"), 1)
    };
    let price = |name: &str| {
        let default = format!(
            " DEFAULT arrayMap(minor -> toDecimal64(toDecimal128(minor, 6) / toInt64(exp10({})), 6), `{name}_minor`)",
            DECIMALS.trim()
        );
        modified(name, &default)
    };
    let quantity = modified("item_quantity", "");
    let alter = |table: &str, wanted: &str| {
        format!(
            "ALTER TABLE {database}.{table}{on_cluster} MODIFY COLUMN {wanted} SETTINGS alter_sync = 0, mutations_sync = 0"
        )
    };
    let mut statements = vec![alter(stored, &price("item_price")), alter(stored, &price("item_discount"))];
    // Last: from here on it counts as made.
    statements.push(alter(stored, &quantity));
    if cluster.is_some() {
        statements.insert(0, alter("events", &quantity));
    }
    let waiting = format!(
        "SELECT count() FROM system.columns WHERE database = '{database}' AND table = '{stored}' \
         AND name = 'item_quantity' AND type = 'Array(UInt32)'"
    );
    Upgrade { waiting, statements }
}

/// Lets a table that an earlier release made say that an amount was not sent. There that was 0.
fn nullable_amounts(layout: &Layout) -> Upgrade {
    let Layout { database, cluster, .. } = layout;
    let on_cluster = on_cluster(layout);
    let stored = if cluster.is_some() { "events_local" } else { "events" };
    let names = ["tax_minor", "shipping_minor", "discount_minor"];
    let columns = EventRow::COLUMNS.iter().filter(|column| names.contains(&column.name));
    let changes: Vec<String> =
        columns.map(|column| format!("MODIFY COLUMN {}", definition(column))).collect();
    let tables = [Some(stored), cluster.as_ref().map(|_| "events")];
    // The stored one last: from there on it counts as made.
    let statements = tables.into_iter().rev().flatten().map(|table| {
        format!(
            "ALTER TABLE {database}.{table}{on_cluster} {} SETTINGS alter_sync = 0, mutations_sync = 0",
            changes.join(", ")
        )
    });
    let waiting = format!(
        "SELECT count() FROM system.columns WHERE database = '{database}' AND table = '{stored}' \
         AND name = 'tax_minor' AND type = 'Int64'"
    );
    Upgrade { waiting, statements: statements.collect() }
}

/// Decimals of the minor unit of a row's `currency`, in SQL.
pub const DECIMALS: &str = include_str!("decimals.sql");

fn definition(column: &Column) -> String {
    let doc = column.doc.replace('\\', "\\\\").replace('\'', "\\'");
    let default = if column.name == BATCH { " DEFAULT `_offset`" } else { "" };
    format!("`{}` {}{default} COMMENT '{doc}'", column.name, column.ty.clickhouse())
}

pub(crate) fn on_cluster(layout: &Layout) -> String {
    layout.cluster.as_ref().map(|cluster| format!(" ON CLUSTER '{cluster}'")).unwrap_or_default()
}

/// Views under the names that shops' own schemas use, over deduplicated rows.
const VIEWS: [(&str, &str); 4] = [
    (
        "analytics_events",
        "SELECT event_id AS id, store_id, type AS event_type, name AS event_name, properties, user_id, session_id,
       user_agent, browser, os, device AS device_type, country, city, referrer, url AS page_url, channel,
       utm_source, utm_medium, utm_campaign, utm_term, utm_content, ip AS ip_address, event_time AS occurred_at,
       received_at AS created_at
FROM {db}.events FINAL",
    ),
    (
        "user_events",
        "SELECT event_id AS id, store_id, user_id, visitor_id, session_id, name AS event_type,
       category AS event_category, action AS event_action, label AS event_label, value AS event_value, properties,
       url AS page_url, referrer AS referrer_url, user_agent, ip AS ip_address, browser, browser_version, os,
       os_version, device AS device_type, utm_source, utm_medium, utm_campaign, utm_term, utm_content,
       concat(toString(screen_width), 'x', toString(screen_height)) AS screen_resolution, event_time AS created_at
FROM {db}.events FINAL
WHERE type = 'event'",
    ),
    (
        "page_views",
        "SELECT if(page_view_id = '', toString(event_id), page_view_id) AS id, store_id, visitor_id,
       argMin(user_id, event_time) AS user_id, argMin(session_id, event_time) AS session_id,
       argMin(url, event_time) AS url, argMin(title, event_time) AS title,
       argMin(referrer, event_time) AS referrer_url, intDiv(max(duration_ms), 1000) AS time_on_page_seconds,
       argMin(viewport_width, event_time) AS viewport_width, argMin(viewport_height, event_time) AS viewport_height,
       max(scroll_depth) AS scroll_depth_percentage, min(event_time) AS entry_timestamp,
       greatest(max(event_time), min(event_time) + toIntervalMillisecond(max(duration_ms))) AS exit_timestamp,
       argMin(user_agent, event_time) AS user_agent, argMin(ip, event_time) AS ip_address,
       argMin(country, event_time) AS country, argMin(city, event_time) AS city,
       argMin(device, event_time) AS device_type, argMin(browser, event_time) AS browser, argMin(os, event_time) AS os,
       argMin(utm_source, event_time) AS utm_source, argMin(utm_medium, event_time) AS utm_medium,
       argMin(utm_campaign, event_time) AS utm_campaign, min(received_at) AS created_at
FROM {db}.events FINAL
WHERE name = 'page_view'
GROUP BY store_id, visitor_id, id",
    ),
    (
        "ecommerce_events",
        "SELECT event_id AS id, store_id, user_id, visitor_id, session_id, name AS event_type,
       product_id, variant_id, order_id, quantity, toInt64(round(price * exp10({decimals}))) AS price_cents, currency, properties,
       event_time AS created_at
FROM {db}.events FINAL
LEFT ARRAY JOIN item_product_id AS product_id, item_variant_id AS variant_id, item_quantity AS quantity,
                item_price AS price
WHERE name IN ('view_item', 'add_to_cart', 'remove_from_cart', 'begin_checkout', 'purchase', 'refund')",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_those_of_iso_4217() {
        let listed = |code: &str, decimals: u32| {
            DECIMALS
                .lines()
                .any(|line| line.contains(&format!("'{code}'")) && line.ends_with(&format!("), {decimals},")))
        };
        let letters = || b'A'..=b'Z';
        let all = letters().flat_map(|a| letters().flat_map(move |b| letters().map(move |c| [a, b, c])));
        for code in all {
            let code = std::str::from_utf8(&code).unwrap();
            let decimals = crate::money::exponent(code).unwrap_or(2);
            assert_eq!(listed(code, decimals), decimals != 2, "{code}");
        }
        assert!(DECIMALS.trim_end().ends_with("2)"));
    }

    #[test]
    fn one_server_and_a_cluster_get_the_same_columns() {
        let single = statements(&Layout::default());
        let cluster = statements(&Layout { cluster: Some("main".into()), ..Layout::default() });
        let columns =
            |text: &str| text.split("ENGINE").next().unwrap().split_once("\n(").unwrap().1.to_string();
        assert_eq!(columns(&single[1]), columns(&cluster[1]));
        assert!(cluster[1].contains("ReplicatedReplacingMergeTree"));
        assert!(cluster[2].contains("Distributed('main', 'millrace', 'events_local'"));
        assert!(single.iter().all(|statement| !statement.contains("ON CLUSTER")));
        assert!(cluster.iter().all(|statement| statement.contains("ON CLUSTER 'main'")));
        let added = |all: &[String]| {
            all.iter().filter(|text| text.contains("ADD COLUMN IF NOT EXISTS `_batch`")).count()
        };
        let of_events = |all: &[String]| {
            let altered = all.iter().filter(|text| text.contains("`browser`") && text.contains("ALTER"));
            altered
                .map(|text| text.split_whitespace().nth(2).unwrap_or_default().to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(of_events(&single), ["millrace.events", "millrace.clicks"]);
        let clustered = ["events_local", "events", "clicks_local", "clicks"];
        assert_eq!(of_events(&cluster), clustered.map(|table| format!("millrace.{table}")));
        assert_eq!((added(&single), added(&cluster)), (3, 6));
    }
}
