//! The aggregator: rolls up what has arrived in ClickHouse, per store and local day, into Postgres, and serves what is
//! there.
//!
//! In the order in which data flows:
//!
//! * [`arrival`]: what has arrived since the last look, as touched days;
//! * [`entity`]: what events are about, made of all of them: orders, which stand in ClickHouse;
//! * [`rollup`]: touched days, computed anew and replaced in one transaction;
//! * [`turn`]: a store's rollup within a budget, and what becomes of one that exceeds it;
//! * [`worker`]: the loop that does all this, at half of the time at most;
//! * [`backfill`]: the same for days that somebody asks for;
//! * [`locks`]: who does what, of several instances;
//! * [`logins`]: logins of Postgres for people;
//! * [`privacy`]: erasure, export and retention;
//! * [`api`]: reading rollups, and administering stores.
//!
//! It inserts nothing into ClickHouse but entities, removes rows from there only to forget them, and never adds to a number
//! that stands in Postgres.

pub mod api;
pub mod arrival;
pub mod backfill;
pub mod calendar;
pub mod clickhouse;
pub mod config;
pub mod entity;
pub mod error;
pub mod funnel;
pub mod locks;
pub mod logins;
pub mod money;
pub mod postgres;
pub mod privacy;
pub mod rollup;
pub mod stores;
pub mod turn;
pub mod worker;

use std::{sync::Arc, time::Duration};

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::{Error, Result};
pub use stores::ensure_demo_store;

/// Longest that closing the connections may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the aggregator until `shutdown`: prepares Postgres (and waits for it), serves the API, rolls up. Metrics go to
/// the recorder that the process has installed.
pub async fn run(config: Config, api_listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
    // Ours alone: that the API cannot be served ends the work, and is the caller's to judge.
    let shutdown = shutdown.child_token();
    let pool = postgres::pool(&config)?;
    // Its own: however many read, rolling up has its connections.
    let api_pool = postgres::api_pool(&config)?;
    let warehouse = clickhouse::Warehouse::new(&config);
    let health = Arc::new(worker::Health::default());
    let state = api::State::new(&config, api_pool.clone(), warehouse.clone(), Arc::clone(&health))?;
    let serving = async {
        let served = api::serve(api_listener, state, shutdown.clone()).await;
        shutdown.cancel();
        served
    };
    let working = async {
        if worker::prepare(&pool, &health, &shutdown).await {
            let finality = privacy::Finality::new(&config);
            let settings = config.worker();
            tokio::join!(
                worker::work(&warehouse, &pool, &health, &settings, &shutdown),
                privacy::work(&warehouse, &pool, &finality, &shutdown),
                async {
                    tokio::select! {
                        () = shutdown.cancelled() => {}
                        never = logins::watch(&pool) => match never {},
                    }
                },
            );
        }
    };
    let (served, ()) = tokio::join!(serving, postgres::patient(&config, working));
    // A connection whose server is away may never come back.
    let closing = async { tokio::join!(pool.close(), api_pool.close()) };
    drop(tokio::time::timeout(CLOSE_TIMEOUT, closing).await);
    served
}
