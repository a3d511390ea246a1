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

/// Names that the metrics of a process have, at most. What an exporter was told once it goes on showing, so each is a line
/// of every answer until the process ends; beyond these the counts by reason and `/readyz` tell.
const NAMED_EVER_MAX: usize = 1_000;

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

/// The metrics of failing stores.
#[derive(Debug, Default)]
pub struct Failing {
    /// Those that are named as failing.
    named: BTreeSet<String>,
    /// All that ever were.
    told: BTreeSet<String>,
}

impl Failing {
    /// Tells who fails now.
    pub async fn tell(&mut self, pool: &PgPool) -> Result<()> {
        let (stores, counts) = failing_stores(pool).await?;
        for reason in Setback::ALL.map(Setback::as_str) {
            let count = counts.get(reason).copied().unwrap_or(0);
            metrics::gauge!(metric::AGGREGATOR_STORES_FAILING, "reason" => reason).set(count as f64);
        }
        let now = stores.iter().map(|store| (store.store_id.as_str(), store.failing_seconds));
        for (store, seconds) in self.name(now) {
            metrics::gauge!(metric::AGGREGATOR_STORE_FAILING_SECONDS, "store" => store).set(seconds as f64);
        }
        Ok(())
    }

    /// The names to tell, with their seconds: who has recovered once more, with 0.
    fn name<'a>(&mut self, now: impl Iterator<Item = (&'a str, i64)>) -> BTreeMap<String, i64> {
        let mut seconds: BTreeMap<String, i64> =
            std::mem::take(&mut self.named).into_iter().map(|store| (store, 0)).collect();
        for (store, failing_seconds) in now.take(NAMED_MAX) {
            if self.told.len() < NAMED_EVER_MAX {
                self.told.insert(store.to_owned());
            }
            if self.told.contains(store) {
                self.named.insert(store.to_owned());
                seconds.insert(store.to_owned(), failing_seconds.max(1));
            }
        }
        seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_fail_now_are_named_however_many_have_failed_before() {
        let mut failing = Failing::default();
        let mut told = BTreeSet::new();
        for round in 0..200 {
            let stores: Vec<String> = (0..NAMED_MAX).map(|number| format!("{round}-{number}")).collect();
            let tell = failing.name(stores.iter().map(|store| (store.as_str(), 7)));
            told.extend(tell.keys().cloned());
            // Those of the last round once more, to say that they have recovered.
            let (now, gone): (Vec<_>, Vec<_>) = tell.iter().partition(|(_, seconds)| **seconds > 0);
            let may_be_named = NAMED_EVER_MAX.saturating_sub(round * NAMED_MAX).min(NAMED_MAX);
            assert_eq!(now.len(), may_be_named, "{round}");
            assert!(
                now.iter().all(|(store, _)| stores.contains(store)) && gone.len() <= NAMED_MAX,
                "{round}"
            );
        }
        assert_eq!(told.len(), NAMED_EVER_MAX);
        // A name that stands there already costs nothing more.
        assert_eq!(failing.name([("0-0", 9)].into_iter())["0-0"], 9);
        assert_eq!(failing.name([].into_iter())["0-0"], 0);
        assert_eq!(failing.name([].into_iter()), BTreeMap::new());
    }
}
