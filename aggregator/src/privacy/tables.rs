//! Removing rows from ClickHouse's tables, of one server or of a cluster.

use clickhouse::Row;
use serde::Deserialize;

use crate::{clickhouse::Warehouse, error::Result};

/// The tables that hold what somebody sent.
pub const SENT: [&str; 3] = ["events", "clicks", "dead_letters"];
/// Those, and the tables of what was made of it.
pub const ALL: [&str; 5] = ["events", "clicks", "dead_letters", "orders", "refunds"];

/// Where the tables are. Asked of ClickHouse rather than set: a setting that is forgotten would erase nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    database: String,
    cluster: Option<String>,
    /// Days after which ClickHouse itself removes rows.
    pub ttl_days: Option<i64>,
    /// All of them are there: the consumer makes one after the other.
    pub are_complete: bool,
}

#[derive(Row, Deserialize)]
struct Found {
    name: String,
    database: String,
    engine: String,
    made: String,
}

impl Tables {
    /// The tables; `None`: the consumer has not made them yet.
    pub async fn find(warehouse: &Warehouse) -> Result<Option<Self>> {
        let names: Vec<String> = ALL.iter().map(|table| format!("'{table}', '{table}_local'")).collect();
        let query = warehouse.query(&format!(
            "SELECT toString(name) AS name, toString(database) AS database, engine_full AS engine,
                    create_table_query AS made
             FROM system.tables WHERE database = currentDatabase() AND name IN ({})",
            names.join(", ")
        ));
        let found: Vec<Found> = warehouse.rows(query).await?;
        let Some(any) = found.first() else { return Ok(None) };
        let of_events = || found.iter().filter(|found| found.name.starts_with(ALL[0]));
        Ok(Some(Self {
            database: any.database.clone(),
            cluster: of_events().find_map(|table| cluster_of(&table.engine)),
            ttl_days: of_events().find_map(|table| ttl_days_of(&table.made)),
            are_complete: ALL.iter().all(|table| found.iter().any(|found| found.name == *table)),
        }))
    }

    /// The table that holds the rows, for a statement: a Distributed table deletes nothing.
    fn local(&self, table: &str) -> String {
        match &self.cluster {
            Some(cluster) => format!("`{}`.`{table}_local` ON CLUSTER '{cluster}'", self.database),
            None => format!("`{}`.`{table}`", self.database),
        }
    }

    fn system(&self, table: &str) -> String {
        match &self.cluster {
            Some(cluster) => format!("clusterAllReplicas('{cluster}', system.{table})"),
            None => format!("system.{table}"),
        }
    }

    fn names(&self) -> String {
        let ending = if self.cluster.is_some() { "_local" } else { "" };
        ALL.map(|table| format!("'{table}{ending}'")).join(", ")
    }

    /// Hides rows; nobody who asks afterwards sees them.
    pub async fn hide(&self, warehouse: &Warehouse, table: &str, rows: &str) -> Result<()> {
        warehouse.change(&format!("DELETE FROM {} WHERE {rows}", self.local(table))).await
    }

    /// Rewrites the parts that hold hidden rows. Returns ClickHouse's time, epoch seconds: parts that went out of use
    /// until then may hold them.
    pub async fn rewrite(&self, warehouse: &Warehouse) -> Result<i64> {
        for table in ALL {
            let statement = format!("ALTER TABLE {} APPLY DELETED MASK", self.local(table));
            warehouse.change(&statement).await?;
        }
        let now = warehouse.query("SELECT toInt64(toUnixTimestamp(now()))");
        Ok(warehouse.rows::<i64>(now).await?.first().copied().unwrap_or_default())
    }

    /// Whether parts that went out of use until a time, epoch seconds, are still on a disk.
    pub async fn has_old_parts(&self, warehouse: &Warehouse, until: i64) -> Result<bool> {
        let query = warehouse
            .query(&format!(
                "SELECT count() FROM {} WHERE database = {{database:String}} AND table IN ({})
                 AND NOT active AND toUnixTimestamp(remove_time) <= {{until:Int64}}",
                self.system("parts"),
                self.names()
            ))
            .param("database", &self.database)
            .param("until", until);
        Ok(warehouse.rows::<u64>(query).await?.first().is_some_and(|count| *count > 0))
    }

    /// Whether rows are being changed: a statement that nobody waits for any more goes on.
    pub async fn is_changing(&self, warehouse: &Warehouse) -> Result<bool> {
        let query = warehouse
            .query(&format!(
                "SELECT count() FROM {} WHERE database = {{database:String}} AND table IN ({}) AND NOT is_done",
                self.system("mutations"),
                self.names()
            ))
            .param("database", &self.database);
        Ok(warehouse.rows::<u64>(query).await?.first().is_some_and(|count| *count > 0))
    }
}

/// The cluster that a `Distributed('cluster', …)` names.
fn cluster_of(engine: &str) -> Option<String> {
    let name = engine.strip_prefix("Distributed('")?.split('\'').next()?;
    Some(name.to_owned())
}

fn ttl_days_of(made: &str) -> Option<i64> {
    made.split_once(" TTL ")?.1.split_once("toIntervalDay(")?.1.split_once(')')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_told_by_its_distributed_table() {
        let engine = "Distributed('main', 'millrace', 'events_local', cityHash64(store_id))";
        assert_eq!(cluster_of(engine).as_deref(), Some("main"));
        assert_eq!(cluster_of("ReplacingMergeTree(_version) PARTITION BY toYYYYMM(received_at)"), None);
        let tables = |cluster: Option<&str>| Tables {
            database: "millrace".into(),
            cluster: cluster.map(str::to_owned),
            ttl_days: None,
            are_complete: true,
        };
        assert_eq!(tables(Some("main")).local("events"), "`millrace`.`events_local` ON CLUSTER 'main'");
        assert_eq!(tables(Some("main")).system("parts"), "clusterAllReplicas('main', system.parts)");
        assert_eq!(tables(None).local("clicks"), "`millrace`.`clicks`");
    }

    #[test]
    fn retention_is_read_from_the_table() {
        let made = "CREATE TABLE m.events (`a` String) ENGINE = ReplacingMergeTree(_version) ORDER BY a \
                    TTL toDateTime(received_at) + toIntervalDay(730) SETTINGS index_granularity = 8192";
        assert_eq!(ttl_days_of(made), Some(730));
        assert_eq!(ttl_days_of("CREATE TABLE m.events (`a` String)"), None);
    }
}
