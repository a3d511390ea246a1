//! The aggregator: rolls up what has arrived in ClickHouse, per store and local day, into Postgres, and serves what is
//! there.
//!
//! In the order in which data flows:
//!
//! * [`arrival`]: what has arrived since the last look, as touched days;
//! * [`rollup`]: touched days, computed anew and replaced in one transaction;
//! * [`worker`]: the loop that does both, at half of the time at most;
//! * [`backfill`]: the same for days that somebody asks for;
//! * [`api`]: reading rollups, and administering stores.
//!
//! It never writes to ClickHouse, and it never adds to a number that stands in Postgres.

pub mod api;
pub mod arrival;
pub mod backfill;
pub mod calendar;
pub mod clickhouse;
pub mod config;
pub mod error;
pub mod funnel;
pub mod postgres;
pub mod rollup;
pub mod stores;
pub mod worker;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::{Error, Result};
pub use stores::ensure_demo_store;

/// Runs the aggregator until `shutdown`: prepares Postgres (and waits for it), serves the API, rolls up. Metrics go to
/// the recorder that the process has installed.
pub async fn run(config: Config, api_listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
    let pool = postgres::pool(&config)?;
    let warehouse = clickhouse::Warehouse::new(&config);
    let health = Arc::new(worker::Health::default());
    let state = api::State::new(&config, pool.clone(), warehouse.clone(), Arc::clone(&health));
    let serving = api::serve(api_listener, state, shutdown.clone());
    let working = async {
        if worker::prepare(&pool, &health, &shutdown).await {
            worker::work(&warehouse, &pool, config.interval(), &shutdown).await;
        }
        // Whoever ends first ends the other.
        shutdown.cancel();
    };
    let (served, ()) = tokio::join!(serving, working);
    pool.close().await;
    served
}
