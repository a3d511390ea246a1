//! Which stores fail, for people: in metrics and in `/readyz`.

use std::collections::{BTreeMap, BTreeSet};

use millrace_schemas::metric;
use serde::Serialize;
use sqlx::{PgPool, Row as _};

use crate::{
    error::{Result, Setback},
    postgres::Answer as _,
};

/// Stores that are named, at most, in an answer and in the metrics of a process.
const NAMED_MAX: usize = 20;

/// A store some of whose days cannot be rolled up.
#[derive(Clone, Debug, Serialize)]
pub struct FailingStore {
    /// Its id.
    pub store_id: String,
    /// Why, one of [`Setback`].
    pub reason: String,
    /// Since how many seconds.
    pub failing_seconds: i64,
    /// In how many seconds it is tried again, at the earliest.
    pub retry_seconds: i64,
    /// Days of it that wait.
    pub days_waiting: i64,
}

/// The stores that have failed longest, and how many fail by reason.
pub async fn failing_stores(pool: &PgPool) -> Result<(Vec<FailingStore>, BTreeMap<String, i64>)> {
    let rows = sqlx::query(
        "SELECT store_id, coalesce(reason, '') AS reason,
                extract(epoch FROM clock_timestamp() - failing_since)::bigint AS failing_seconds,
                greatest(0, extract(epoch FROM retry_at - clock_timestamp()))::bigint AS retry_seconds,
                (SELECT count(*) FROM touched_days WHERE touched_days.store_id = aside.store_id) AS days_waiting
         FROM rollup_backoff AS aside WHERE failing_since IS NOT NULL ORDER BY failing_since LIMIT $1",
    )
    .bind(NAMED_MAX as i64)
    .fetch_all(pool)
    .within()
    .await?;
    let stores = rows.iter().map(|row| {
        Ok(FailingStore {
            store_id: row.try_get("store_id")?,
            reason: row.try_get("reason")?,
            failing_seconds: row.try_get("failing_seconds")?,
            retry_seconds: row.try_get("retry_seconds")?,
            days_waiting: row.try_get("days_waiting")?,
        })
    });
    let stores = stores.collect::<Result<_>>()?;
    let counts: Vec<(String, i64)> = sqlx::query_as(
        "SELECT coalesce(reason, ''), count(*) FROM rollup_backoff WHERE failing_since IS NOT NULL GROUP BY reason",
    )
    .fetch_all(pool)
    .within()
    .await?;
    Ok((stores, counts.into_iter().collect()))
}

/// The metrics of failing stores. A label that was told once stays: so there is a bound on how many are.
#[derive(Debug, Default)]
pub struct Failing {
    named: BTreeSet<String>,
}

impl Failing {
    /// Tells who fails now.
    pub async fn tell(&mut self, pool: &PgPool) -> Result<()> {
        let (stores, counts) = failing_stores(pool).await?;
        for reason in Setback::ALL.map(Setback::as_str) {
            let count = counts.get(reason).copied().unwrap_or(0);
            metrics::gauge!(metric::AGGREGATOR_STORES_FAILING, "reason" => reason).set(count as f64);
        }
        let mut seconds: BTreeMap<&str, i64> = self.named.iter().map(|store| (store.as_str(), 0)).collect();
        for store in &stores {
            if seconds.len() < NAMED_MAX || seconds.contains_key(store.store_id.as_str()) {
                seconds.insert(&store.store_id, store.failing_seconds.max(1));
            }
        }
        for (store, seconds) in &seconds {
            metrics::gauge!(metric::AGGREGATOR_STORE_FAILING_SECONDS, "store" => (*store).to_owned())
                .set(*seconds as f64);
        }
        self.named = seconds.into_keys().map(str::to_owned).collect();
        Ok(())
    }
}
