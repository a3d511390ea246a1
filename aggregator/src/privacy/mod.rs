//! Forgetting: by visitor or user on request ([`erasure`]), by age ([`retention`]); and saying what is known ([`export`]).
//!
//! What the three share is in [`tables`]: how rows are removed from ClickHouse for good. A lightweight delete hides rows
//! within moments, which is when everything that is computed must already do without them; a rewrite of the parts that
//! hold hidden rows follows, and the parts that were replaced leave the disk when ClickHouse cleans up (8 minutes, by its
//! default). Every step can be repeated.

pub mod erasure;
pub mod export;
pub mod log;
pub mod retention;
pub mod subject;
pub mod tables;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use millrace_schemas::metric;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{clickhouse::Warehouse, config::Config, error::Result};

/// How often due work is looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often old salts are looked for.
const SALTS_EVERY: Duration = Duration::from_secs(600);
/// Pause after a failure.
const PAUSE: Duration = Duration::from_secs(5);

/// When nothing can bring an erased event back.
#[derive(Clone, Debug)]
pub struct Finality {
    /// The spool, where it is the log itself.
    pub spool_dir: Option<PathBuf>,
    /// Longest that a request to the collector, or an insert of the consumer's, takes.
    pub settle: Duration,
    /// Longest that an accepted event may be on its way, where nothing better is known.
    pub horizon: Duration,
}

impl Finality {
    /// As it is set.
    pub fn new(config: &Config) -> Self {
        Self {
            spool_dir: config.erasure_spool_dir.clone(),
            settle: Duration::from_secs(config.erasure_settle_seconds),
            horizon: Duration::from_secs(config.erasure_horizon_seconds),
        }
    }
}

/// Does what is due, until shut down. What is cut off is repeated by the next start.
pub async fn work(warehouse: &Warehouse, pool: &PgPool, finality: &Finality, shutdown: &CancellationToken) {
    let mut salts_at: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        let step = async {
            if salts_at.is_none_or(|at| at.elapsed() > SALTS_EVERY) {
                retention::destroy_salts(pool).await?;
                retention::forget_refused(pool).await?;
                salts_at = Some(Instant::now());
            }
            step(warehouse, pool, finality).await
        };
        let done = tokio::select! {
            () = shutdown.cancelled() => return,
            done = step => done,
        };
        let pause = match done {
            // Half of the time at most: who erases holds up whoever looks for arrivals.
            Ok(true) => begun.elapsed(),
            Ok(false) => LOOK_EVERY,
            Err(error) => {
                metrics::counter!(metric::AGGREGATOR_FAILURES).increment(1);
                tracing::warn!(%error, "erasing or retention failed; trying again");
                PAUSE
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One step of whatever is due. `false`: nothing was.
pub async fn step(warehouse: &Warehouse, pool: &PgPool, finality: &Finality) -> Result<bool> {
    let erased = erasure::step(warehouse, pool, finality).await?;
    let thinned = retention::step(warehouse, pool).await?;
    Ok(erased || thinned)
}
