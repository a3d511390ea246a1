//! What Postgres shows against what it must show.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use anyhow::Context as _;
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, PgPool, Row as _};
use tokio::time::Instant;

use super::{Sent, Store, recount, table::Table};

/// Differences that a report lists; the rest is only counted.
const LISTED_MAX: usize = 40;
/// Columns that say when a row was written, not what.
const BOOKKEEPING: [&str; 3] = ["store_id", "created_at", "updated_at"];

/// A place where Postgres and the recount disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Table.
    pub table: &'static str,
    /// Key of the row.
    pub key: String,
    /// Column; empty where a whole row is missing or too many.
    pub column: String,
    /// What the recount says.
    pub expected: String,
    /// What Postgres shows.
    pub found: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, key, column, expected, found } = self;
        write!(f, "{table} [{key}] {column}: expected {expected}, found {found}")
    }
}

/// The outcome of a comparison.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Table, rows expected, differences in it.
    pub tables: Vec<(&'static str, usize, usize)>,
    /// The differences, all of them.
    pub differences: Vec<Difference>,
}

impl Verdict {
    /// Whether both sides agree.
    pub fn is_equal(&self) -> bool {
        self.differences.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (table, rows, differences) in &self.tables {
            writeln!(f, "{table}: {rows} rows expected, {differences} differences")?;
        }
        for difference in self.differences.iter().take(LISTED_MAX) {
            writeln!(f, "  {difference}")?;
        }
        match self.differences.len().saturating_sub(LISTED_MAX) {
            0 => Ok(()),
            more => writeln!(f, "  … and {more} more"),
        }
    }
}

/// How long [`verify`] waits for the rollups.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Between two looks.
    pub poll: Duration,
    /// Without any change in the tables.
    pub quiet: Duration,
    /// Altogether.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(500),
            quiet: Duration::from_secs(60),
            total: Duration::from_secs(600),
        }
    }
}

/// Rows as Postgres shows them: every column as text, by the text of the key.
type Found = BTreeMap<Vec<String>, BTreeMap<String, Option<String>>>;

async fn read_table(pool: &PgPool, table: &Table, store_id: &str) -> anyhow::Result<Found> {
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT column_name::text FROM information_schema.columns
         WHERE table_schema = current_schema() AND table_name = $1 ORDER BY ordinal_position",
    )
    .bind(table.name)
    .fetch_all(pool)
    .await?;
    let columns: Vec<_> =
        columns.into_iter().filter(|column| !BOOKKEEPING.contains(&column.as_str())).collect();
    anyhow::ensure!(!columns.is_empty(), "Postgres has no table {}", table.name);
    let list: Vec<_> = columns.iter().map(|column| format!("\"{column}\"::text")).collect();
    let query = format!("SELECT {} FROM {} WHERE store_id = $1", list.join(", "), table.name);

    // The names come from the catalogue and from constants, nothing from outside.
    let rows = sqlx::query(AssertSqlSafe(query)).bind(store_id).fetch_all(pool).await?;
    let mut found = Found::new();
    for row in rows {
        let mut cells = BTreeMap::new();
        for (index, column) in columns.iter().enumerate() {
            cells.insert(column.clone(), row.try_get::<Option<String>, _>(index)?);
        }
        let key = table.key.iter().map(|column| {
            let cell =
                cells.get(*column).with_context(|| format!("{} has no column {column}", table.name))?;
            Ok(cell.clone().unwrap_or_else(|| "null".into()))
        });
        found.insert(key.collect::<anyhow::Result<_>>()?, cells);
    }
    Ok(found)
}

fn differences(table: &Table, found: &Found) -> Vec<Difference> {
    let mut all = Vec::new();
    let mut differ = |key: &[String], column: &str, expected: String, found: String| {
        all.push(Difference {
            table: table.name,
            key: key.join(", "),
            column: column.into(),
            expected,
            found,
        });
    };
    let keys: BTreeSet<_> = table.rows.keys().chain(found.keys()).collect();
    for key in keys {
        match (table.rows.get(key), found.get(key)) {
            (Some(_), None) => differ(key, "", "a row".into(), "none".into()),
            (None, _) => differ(key, "", "no row".into(), "one".into()),
            (Some(expected), Some(found)) => {
                for (column, value) in expected {
                    let cell = found.get(*column).cloned().flatten();
                    if !value.matches(cell.as_deref()) {
                        differ(key, column, value.to_string(), cell.unwrap_or_else(|| "null".into()));
                    }
                }
                for column in found.keys().filter(|column| !expected.contains_key(column.as_str())) {
                    differ(key, column, "no such column".into(), "one".into());
                }
            }
        }
    }
    all
}

/// Compares all rows and columns of `tables` with what Postgres shows for a store, once.
pub async fn compare(pool: &PgPool, store_id: &str, tables: &[Table]) -> anyhow::Result<Verdict> {
    Ok(look(pool, store_id, tables).await?.0)
}

/// [`compare`], and a number that stays the same as long as the tables do.
async fn look(pool: &PgPool, store_id: &str, tables: &[Table]) -> anyhow::Result<(Verdict, u64)> {
    let mut verdict = Verdict::default();
    let mut state = DefaultHasher::new();
    for table in tables {
        let found = read_table(pool, table, store_id).await?;
        found.hash(&mut state);
        let differences = differences(table, &found);
        verdict.tables.push((table.name, table.rows.len(), differences.len()));
        verdict.differences.extend(differences);
    }
    Ok((verdict, state.finish()))
}

/// Recounts the ledger, then looks at Postgres until both agree, or until nothing has changed there for a while.
///
/// `sent_from` is the moment before the first request. The verdict is the last look's.
pub async fn verify(
    pool: &PgPool,
    sent: &[Sent],
    store: &Store,
    sent_from: Timestamp,
    patience: Patience,
) -> anyhow::Result<Verdict> {
    let begin = Instant::now();
    let mut changed = Instant::now();
    let mut state_before = None;
    let count = |until: Timestamp| recount(sent, store, (sent_from.as_millisecond(), until.as_millisecond()));
    let tables = count(Timestamp::now() + patience.total)?;
    loop {
        let (verdict, state) = look(pool, &store.store_id, &tables).await?;
        if state_before != Some(state) {
            state_before = Some(state);
            changed = Instant::now();
        }
        if verdict.is_equal() || changed.elapsed() > patience.quiet || begin.elapsed() > patience.total {
            return Ok(verdict);
        }
        tokio::time::sleep(patience.poll).await;
    }
}
