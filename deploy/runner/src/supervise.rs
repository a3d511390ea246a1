//! Engines as child processes: what dies is started again, as often as it dies, and more slowly each time.

use std::time::Duration;

use millrace_local::{
    engine::{self, LocalEngine},
    postgres::{self, LocalPostgres},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The wait before an engine that just died is started again; doubled up to the second while it keeps dying.
const RESTART_WAIT: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// An engine that ran this long was healthy: its next death starts with the short wait.
const HEALTHY: Duration = Duration::from_secs(60);

/// A running server that ends by itself when something is wrong, and that can be started again.
pub(super) trait Server: Sized + Send {
    /// Its name, for messages.
    const NAME: &'static str;
    /// What it is started with.
    type Config: Send + Sync;

    /// Starts it.
    fn start(config: &Self::Config) -> impl Future<Output = anyhow::Result<Self>> + Send;
    /// Waits until it ends by itself; says how.
    fn ended(&mut self) -> impl Future<Output = String> + Send;
    /// Stops it in good order.
    fn stop(self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

impl Server for LocalEngine {
    const NAME: &'static str = "the ClickHouse engine";
    type Config = engine::Config;

    async fn start(config: &Self::Config) -> anyhow::Result<Self> {
        Ok(LocalEngine::start(config).await?)
    }

    async fn ended(&mut self) -> String {
        self.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop().await?;
        Ok(())
    }
}

impl Server for LocalPostgres {
    const NAME: &'static str = "Postgres";
    type Config = postgres::Config;

    async fn start(config: &Self::Config) -> anyhow::Result<Self> {
        Ok(LocalPostgres::start(config).await?)
    }

    async fn ended(&mut self) -> String {
        self.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    async fn stop(self) -> anyhow::Result<()> {
        self.stop().await?;
        Ok(())
    }
}

/// Watches `running`, starting it again when it ends, until `shutdown`; then stops it.
pub(super) async fn supervise<S: Server>(
    mut running: S,
    config: S::Config,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let (mut wait, longest) = RESTART_WAIT;
    loop {
        let started = Instant::now();
        tokio::select! {
            () = shutdown.cancelled() => return running.stop().await,
            how = running.ended() => tracing::error!("{} ended ({how}); starting it again", S::NAME),
        }
        if started.elapsed() > HEALTHY {
            wait = RESTART_WAIT.0;
        }
        running = loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(longest);
            let started = tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                started = S::start(&config) => started,
            };
            match started {
                Ok(running) => break running,
                Err(error) => tracing::error!("cannot start {} again: {error:#}", S::NAME),
            }
        };
    }
}
