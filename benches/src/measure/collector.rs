//! The collector against an axum server that only reads bodies, and its links alone.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use millrace_aggregator::{ensure_demo_store, postgres};
use millrace_collector::log::{
    Log,
    kafka::{KafkaLog, Settings as KafkaSettings},
    spool::SpoolLog,
};
use millrace_schemas::{metric, spool::SEGMENT_BYTES};
use millrace_testbed::{Kafka, Postgres};

use super::{
    Progress, Sizes,
    in_process::{Requests, await_log},
};
use crate::{
    event::Mix,
    load::{Load, Plan, Summary},
    process,
    service::{Service, metric_sum},
    table::{Line, Section},
};

/// Lines of one section.
pub const MEASUREMENTS: u64 = 7;

/// A spool may grow to this while it is measured; nobody reads it.
const SPOOL_BYTES_MAX: u64 = 32 << 30;
/// A rate that no machine reaches: the limiter works, and lets everything pass.
const RATE_MAX: u32 = 100_000_000;

/// Measures each number of events in a request.
pub async fn measure(sizes: &Sizes, progress: &Progress) -> anyhow::Result<Vec<Section>> {
    progress.now("starting Postgres");
    let database = Postgres::start().await?;
    make_store(database.url()).await?;
    let mut sections = Vec::new();
    for events in &sizes.events_per_request {
        let bench = Bench { events: *events, sizes, progress, postgres_url: database.url() };
        sections.push(bench.section().await?);
    }
    Ok(sections)
}

/// Prepares Postgres as the aggregator does, with the store `demo`.
pub async fn make_store(postgres_url: &str) -> anyhow::Result<sqlx::PgPool> {
    let config = millrace_aggregator::Config { postgres_url: postgres_url.into(), ..Default::default() };
    let pool = postgres::pool(&config)?;
    postgres::migrate(&pool).await?;
    ensure_demo_store(&pool, &[]).await?;
    Ok(pool)
}

struct Bench<'a> {
    events: usize,
    sizes: &'a Sizes,
    progress: &'a Progress,
    postgres_url: &'a str,
}

impl Bench<'_> {
    async fn section(&self) -> anyhow::Result<Section> {
        let plural = if self.events == 1 { "" } else { "s" };
        let title = format!("collector, {} event{plural} a request", self.events);
        self.progress.now(format!("{title}: limits"));
        let mut lines = vec![self.floor().await?];
        let requests = Requests::new(self.events)?;
        lines.push(self.progress.done(requests.parse(self.sizes)?));
        lines.push(self.progress.done(requests.chain(self.sizes)?));

        self.progress.now(format!("{title}: Kafka"));
        let kafka = Kafka::start().await?;
        lines.push(self.produce(&requests, &kafka).await?);
        let spool = tempfile::tempdir_in(&self.sizes.data_dir)?;
        let settings = [
            ("log", "kafka".into()),
            ("spool-dir", spool.path().display().to_string()),
            ("kafka-brokers", kafka.bootstrap()),
            ("partitions", self.sizes.partitions.to_string()),
        ];
        let broker = process::descendants_named("java")?;
        lines.push(self.collector("collector → Kafka, acknowledged", &settings, &broker).await?);
        drop(kafka);

        self.progress.now(format!("{title}: spool"));
        lines.push(self.spool(&requests).await?);
        let spool = tempfile::tempdir_in(&self.sizes.data_dir)?;
        let settings = [
            ("log", "spool".into()),
            ("spool-dir", spool.path().display().to_string()),
            ("spool-bytes-max", SPOOL_BYTES_MAX.to_string()),
        ];
        lines.push(self.collector("collector → spool, acknowledged", &settings, &[]).await?);
        Ok(Section { title, counts_behind: false, lines })
    }

    async fn floor(&self) -> anyhow::Result<Line> {
        let mut floor = Service::start("bench", &["floor"], &[])?;
        floor.await_answer(0, "/readyz").await?;
        let line = self.under_load("limit: axum reads the body, answers 202", &floor, &[]).await?;
        drop(floor);
        Ok(line)
    }

    async fn produce(&self, requests: &Requests, kafka: &Kafka) -> anyhow::Result<Line> {
        let log = kafka_log(kafka.bootstrap(), self.sizes.partitions)?;
        await_log(&log).await?;
        let line = requests.append("produce alone, acknowledged", &log, self.sizes).await?;
        close(log).await?;
        Ok(self.progress.done(line))
    }

    async fn spool(&self, requests: &Requests) -> anyhow::Result<Line> {
        let dir = tempfile::tempdir_in(&self.sizes.data_dir)?;
        let log: Arc<dyn Log> = Arc::new(SpoolLog::open(dir.path(), SPOOL_BYTES_MAX, SEGMENT_BYTES)?);
        let line = requests.append("append to the spool alone, acknowledged", &log, self.sizes).await?;
        close(log).await?;
        Ok(self.progress.done(line))
    }

    async fn collector(
        &self,
        what: &str,
        settings: &[(&str, String)],
        behind: &[u32],
    ) -> anyhow::Result<Line> {
        let mut all = vec![
            ("postgres-url", self.postgres_url.to_owned()),
            ("events-per-second", RATE_MAX.to_string()),
            ("client-requests-per-second", RATE_MAX.to_string()),
        ];
        all.extend_from_slice(settings);
        let mut collector = Service::start("millrace-collector", &["address", "metrics-address"], &all)?;
        collector.await_answer(0, "/readyz").await?;
        // Ready, but until it has reached Kafka its spool stands in for it.
        while metric_sum(&collector.metrics(1).await?, metric::COLLECTOR_SPOOLING, "") > 0.0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let line = self.under_load(what, &collector, behind).await?;
        let drained = metric_sum(&collector.metrics(1).await?, metric::COLLECTOR_SPOOL_DRAINED, "");
        anyhow::ensure!(drained == 0.0, "{what}: {drained} messages took the way through the spool");
        collector.stop().await?;
        Ok(line)
    }

    /// Sends as much as the service takes, and measures once it has warmed up.
    async fn under_load(&self, what: &str, service: &Service, behind: &[u32]) -> anyhow::Result<Line> {
        let plan = Plan {
            url: format!("{}/v1/collect", service.url(0)),
            key: millrace_schemas::demo::WRITE_KEY.into(),
            rate: None,
            mix: Mix { events: self.events, clicks_percent: 0 },
            connections: self.sizes.connections,
            threads: 1,
            duration: 4 * self.sizes.load + Duration::from_secs(30),
            seed: 1,
        };
        let load = Load::start(&plan)?;
        while load.counters().requests.load(Ordering::Relaxed) == 0 && !load.is_finished() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(self.sizes.warm_up).await;
        let look = || -> anyhow::Result<_> {
            let counters = load.counters();
            let requests = counters.requests.load(Ordering::Relaxed);
            Ok((Instant::now(), requests, service.cpu()?, process::cpu_of_all(behind)?))
        };
        let before = look()?;
        tokio::time::sleep(self.sizes.load).await;
        let after = look()?;
        load.stop();
        let summary = tokio::task::spawn_blocking(|| load.join()).await??;
        check(&summary).with_context(|| what.to_owned())?;
        let requests = after.1 - before.1;
        anyhow::ensure!(requests > 0, "{what}: nothing was answered in time");
        Ok(self.progress.done(Line {
            requests: Some(requests),
            wall: Some(after.0 - before.0),
            cpu: Some(after.2.saturating_sub(before.2)),
            behind: (!behind.is_empty()).then(|| after.3.saturating_sub(before.3)),
            ..Line::new(what, requests * self.events as u64)
        }))
    }
}

/// A figure in which some requests failed says nothing.
fn check(summary: &Summary) -> anyhow::Result<()> {
    anyhow::ensure!(
        summary.requests > 0 && summary.rejected == 0 && summary.broken == 0,
        "{} events accepted, {} rejected, {} connections broken: {:?}",
        summary.accepted,
        summary.rejected,
        summary.broken,
        summary.problems
    );
    Ok(())
}

/// The collector's own log on Kafka, with the collector's own defaults.
pub fn kafka_log(brokers: String, partitions: i32) -> anyhow::Result<Arc<dyn Log>> {
    let defaults = millrace_collector::Config::default().log;
    Ok(Arc::new(KafkaLog::new(KafkaSettings {
        brokers,
        compression: defaults.kafka_compression,
        linger_ms: defaults.kafka_linger_ms,
        ack_timeout_ms: defaults.kafka_ack_timeout_ms,
        queue_messages_max: defaults.kafka_queue_messages_max,
        queue_bytes_max: defaults.kafka_queue_bytes_max,
        partitions,
        replication_factor: 1,
    })?))
}

/// Closes a log, which blocks.
pub async fn close(log: Arc<dyn Log>) -> anyhow::Result<()> {
    Ok(tokio::task::spawn_blocking(move || log.close(Duration::from_secs(20))).await?)
}
