//! Tables of ClickHouse that hold what events are about, as the aggregator makes it out of all of them. Nothing in them
//! is told by anybody: they can be made again from the events that are still there.
//!
//! A row has a version that only grows, and one that no longer is stays as a row that is deleted; `FINAL` leaves out both
//! the older ones and those.

use crate::clickhouse::{Layout, SYNCED, on_cluster};

/// A column of an entity's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Name.
    pub name: &'static str,
    /// Type, as ClickHouse names it.
    pub ty: &'static str,
    /// Meaning, with its unit.
    pub doc: &'static str,
}

/// A table of entities.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Name.
    pub name: &'static str,
    /// What a row is.
    doc: &'static str,
    columns: &'static [Column],
    indexes: &'static [&'static str],
    /// Sorting key: what makes a row itself.
    order: &'static str,
    /// What of the sorting key decides on which shard of a cluster it lies.
    shard: &'static str,
}

/// All of them.
pub const TABLES: [Table; 2] = [ORDERS, REFUNDS];

/// Orders.
pub const ORDERS: Table = Table {
    name: "orders",
    doc: "Orders, each as all reports of it together say.",
    columns: &[
        Column { name: "store_id", ty: "LowCardinality(String)", doc: "Store it belongs to." },
        Column { name: "placed_on", ty: "Date", doc: "Date of `placed_at` in UTC: orders the table." },
        Column { name: "order_id", ty: "String", doc: "Order, as sent." },
        Column { name: "placed_at", ty: "DateTime64(3, 'UTC')", doc: "When it was placed." },
        Column { name: "trusted", ty: "UInt8", doc: "1: a server reported it." },
        Column { name: "currency", ty: "LowCardinality(String)", doc: "Currency of all amounts, ISO 4217." },
        Column { name: "total_minor", ty: "Int128", doc: "Total, as updated, minor units." },
        Column { name: "tax_minor", ty: "Int128", doc: "Tax, minor units." },
        Column { name: "shipping_minor", ty: "Int128", doc: "Shipping, minor units." },
        Column { name: "discount_minor", ty: "Int128", doc: "Discount on the whole, minor units." },
        Column {
            name: "unexplained_minor",
            ty: "Int128",
            doc: "What of the total items, discount, shipping and tax do not come to, minor units.",
        },
        Column {
            name: "visit_at",
            ty: "Nullable(DateTime64(3, 'UTC'))",
            doc: "When the report was made that tells visitor and session; null if none does.",
        },
        Column { name: "visitor_id", ty: "String", doc: "Visitor who bought; empty if no report tells." },
        Column { name: "session_id", ty: "String", doc: "Session in which, as sent." },
        Column { name: "user_id", ty: "String", doc: "User who bought; empty if no report tells." },
        Column { name: "item_product_id", ty: "Array(String)", doc: "Items, as updated: product." },
        Column { name: "item_variant_id", ty: "Array(String)", doc: "Items: variant of the product." },
        Column {
            name: "item_price",
            ty: "Array(Decimal(18, 6))",
            doc: "Items: price of one, in the currency's unit.",
        },
        Column { name: "item_quantity", ty: "Array(Decimal(18, 3))", doc: "Items: quantity." },
    ],
    indexes: &["INDEX order_id order_id TYPE bloom_filter(0.01) GRANULARITY 4"],
    order: "store_id, placed_on, order_id",
    shard: "store_id, order_id",
};

/// What was taken from orders again.
pub const REFUNDS: Table = Table {
    name: "refunds",
    doc: "What refunds and cancellations take from orders, each once and never more than is left.",
    columns: &[
        Column { name: "store_id", ty: "LowCardinality(String)", doc: "Store it belongs to." },
        Column { name: "taken_on", ty: "Date", doc: "Date of `taken_at` in UTC: orders the table." },
        Column { name: "order_id", ty: "String", doc: "Order, as sent." },
        Column { name: "number", ty: "UInt32", doc: "Which of the order's, in order of time; from 1." },
        Column { name: "taken_at", ty: "DateTime64(3, 'UTC')", doc: "When it was taken." },
        Column {
            name: "placed_at",
            ty: "DateTime64(3, 'UTC')",
            doc: "When its order was placed: amounts are converted by that day's rate.",
        },
        Column {
            name: "currency",
            ty: "LowCardinality(String)",
            doc: "Currency of the amount: the order's, or its own where there is no rate between the two.",
        },
        Column {
            name: "asked_currency",
            ty: "LowCardinality(String)",
            doc: "Currency in which it was asked for; empty where none was named.",
        },
        Column { name: "order_currency", ty: "LowCardinality(String)", doc: "Currency of its order." },
        Column { name: "amount_minor", ty: "Int128", doc: "Amount, minor units." },
        Column { name: "names_items", ty: "UInt8", doc: "1: it names items, and is a return." },
        Column { name: "is_cancellation", ty: "UInt8", doc: "1: the order was cancelled." },
    ],
    indexes: &["INDEX order_id order_id TYPE bloom_filter(0.01) GRANULARITY 4"],
    order: "store_id, taken_on, order_id, number",
    shard: "store_id, order_id",
};

const VERSION: Column = Column {
    name: "_version",
    ty: "UInt64",
    doc: "Of several rows with one key the one that counts has the greatest.",
};
const DELETED: Column = Column { name: "_deleted", ty: "UInt8", doc: "1: it no longer is." };

impl Table {
    /// What makes it, where it is not; each statement can be run again.
    pub(crate) fn statements(&self, layout: &Layout) -> Vec<String> {
        let Layout { database, cluster, .. } = layout;
        let Self { name, doc, indexes, order, shard, .. } = self;
        let on_cluster = on_cluster(layout);
        let columns = self.columns.iter().chain([&VERSION, &DELETED]).map(definition);
        let parts: Vec<String> = columns.chain(indexes.iter().map(|index| (*index).to_owned())).collect();
        let parts = parts.join(",\n    ");
        let (versions, doc) = (format!("{}, {}", VERSION.name, DELETED.name), quoted(doc));
        let (stored, engine, settings) = match cluster {
            None => (
                (*name).to_owned(),
                format!("ReplacingMergeTree({versions})"),
                format!("\nSETTINGS {SYNCED}"),
            ),
            Some(_) => {
                let path = format!("'/clickhouse/tables/{{shard}}/{database}/{name}', '{{replica}}'");
                let engine = format!("ReplicatedReplacingMergeTree({path}, {versions})");
                (format!("{name}_local"), engine, String::new())
            }
        };
        let mut all = vec![format!(
            "CREATE TABLE IF NOT EXISTS {database}.{stored}{on_cluster}\n(\n    {parts}\n)\n\
             ENGINE = {engine}\nORDER BY ({order}){settings}\nCOMMENT {doc}"
        )];
        if let Some(cluster) = cluster {
            all.push(format!(
                "CREATE TABLE IF NOT EXISTS {database}.{name}{on_cluster} AS {database}.{stored}\n\
                 ENGINE = Distributed('{cluster}', '{database}', '{stored}', cityHash64({shard}))\nCOMMENT {doc}"
            ));
        }
        all
    }
}

fn definition(column: &Column) -> String {
    format!("`{}` {} COMMENT {}", column.name, column.ty, quoted(column.doc))
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rows_shard_is_a_function_of_its_key() {
        for table in TABLES {
            let key: Vec<&str> = table.order.split(", ").collect();
            assert!(table.shard.split(", ").all(|column| key.contains(&column)), "{}", table.name);
            assert!(key.iter().all(|name| table.columns.iter().any(|column| column.name == *name)));
        }
    }

    #[test]
    fn on_a_cluster_rows_are_spread_over_its_shards() {
        let layout = Layout { cluster: Some("main".into()), ..Layout::default() };
        let [local, distributed] = &ORDERS.statements(&layout)[..] else { panic!("two tables") };
        assert!(local.starts_with("CREATE TABLE IF NOT EXISTS millrace.orders_local ON CLUSTER 'main'"));
        assert!(local.contains("ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/millrace/orders'"));
        assert!(
            distributed
                .contains("Distributed('main', 'millrace', 'orders_local', cityHash64(store_id, order_id))")
        );
    }
}
