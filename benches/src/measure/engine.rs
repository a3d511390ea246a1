//! The engine as measurements use it: its tables, how many rows it has, and when it is at rest.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clickhouse::Client;
use millrace_consumer::{Config, NetworkCompression, store::Store};
use millrace_testbed::Engine;

use crate::process;

/// Nothing that is measured takes longer; something that hangs ends here.
const PATIENCE: Duration = Duration::from_secs(600);
/// More than one machine's default, which is too little for ClickHouse's Kafka engine with blocks of this size.
const ENGINE_BYTES_MAX: u64 = 4 << 30;
/// How often rows are counted: often enough for a curve, and a count costs the engine nearly nothing.
const COUNT_EVERY: Duration = Duration::from_millis(50);
/// Merges that go on longer are left out of the figures.
const REST_TIMEOUT: Duration = Duration::from_secs(30);
/// Merges begin within this after the rows that cause them.
const REST: Duration = Duration::from_secs(1);
/// How often merges are looked for.
const REST_LOOK_EVERY: Duration = Duration::from_millis(100);
/// Rows that merge in no time worth waiting for.
const ROWS_FEW: u64 = 10_000;

/// An engine of its own, with the tables.
pub struct Bed {
    engine: Engine,
    client: Client,
    cpu_before: Duration,
}

/// How rows arrived.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// When there were how many, at every change.
    pub steps: Vec<(Duration, u64)>,
}

impl Bed {
    /// Starts an engine and makes the tables. Its CPU time counts from here.
    pub async fn start() -> anyhow::Result<Self> {
        // The Kafka engine, which the consumer is measured against, connects to the broker.
        let arguments = [format!("--memory-bytes-max={ENGINE_BYTES_MAX}"), "--source=KAFKA".to_owned()];
        let engine = Engine::start_with(arguments).await?;
        let client = Client::default().with_url(engine.url());
        let mut bed = Self { engine, client, cpu_before: Duration::ZERO };
        bed.store().make_tables().await?;
        bed.cpu_before = bed.cpu_in_all()?;
        Ok(bed)
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.engine.url()
    }

    /// The consumer's own client of it.
    pub fn store(&self) -> Store {
        Store::new(&Config {
            clickhouse_url: self.engine.url(),
            clickhouse_compression: NetworkCompression::Auto,
            ..Config::default()
        })
    }

    /// CPU time since the start, or since [`Bed::reset_cpu`].
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        Ok(self.cpu_in_all()?.saturating_sub(self.cpu_before))
    }

    /// CPU time counts from here.
    pub fn reset_cpu(&mut self) -> anyhow::Result<()> {
        self.cpu_before = self.cpu_in_all()?;
        Ok(())
    }

    fn cpu_in_all(&self) -> anyhow::Result<Duration> {
        let pid = self.engine.id().context("the engine does not run")?;
        Ok(process::cpu(pid)?)
    }

    /// Runs a statement.
    pub async fn tell(&self, statement: &str) -> anyhow::Result<()> {
        self.client.query_raw(statement).execute().await.with_context(|| statement.to_owned())
    }

    /// A text that the engine answers.
    pub async fn ask_text(&self, query: &str) -> anyhow::Result<String> {
        self.client.query_raw(query).fetch_one::<String>().await.with_context(|| query.to_owned())
    }

    /// A number that the engine answers.
    pub async fn ask(&self, query: &str) -> anyhow::Result<u64> {
        self.client.query_raw(query).fetch_one::<u64>().await.with_context(|| query.to_owned())
    }

    /// Watches rows arrive until there are so many.
    pub async fn await_rows(&self, started: Instant, rows: u64) -> anyhow::Result<Arrival> {
        let mut arrival = Arrival::default();
        let mut before = 0;
        loop {
            let now = self.ask("SELECT count() FROM millrace.events").await?;
            if now > before {
                arrival.steps.push((started.elapsed(), now));
                before = now;
            }
            if now >= rows {
                anyhow::ensure!(now == rows, "{now} rows are stored, {rows} were sent");
                return Ok(arrival);
            }
            anyhow::ensure!(started.elapsed() < PATIENCE, "{now} of {rows} rows were stored in time");
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }

    /// Waits until the merges that the rows caused are done: what is stored fast in small parts is paid for later.
    pub async fn await_rest(&self, rows: u64) -> anyhow::Result<()> {
        let (started, mut last_merge) = (Instant::now(), Instant::now());
        while rows > ROWS_FEW && last_merge.elapsed() < REST && started.elapsed() < REST_TIMEOUT {
            if self.ask("SELECT count() FROM system.merges").await? > 0 {
                last_merge = Instant::now();
            }
            tokio::time::sleep(REST_LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// Fewer steps have no pace.
const STEPS_MIN: usize = 4;

impl Arrival {
    /// How long all rows take at the pace in the middle: without the start, and without small last steps, which wait
    /// for their batch's age and not for anybody's work. Where the middle is less than half of all rows, or a few large
    /// steps of which some came at once, it says nothing of the pace, and the whole time counts.
    pub fn steady(&self, rows: u64) -> Duration {
        let Some((end, _)) = self.steps.last() else { return Duration::ZERO };
        let sizes = || self.steps.windows(2).map(|pair| pair[1].1 - pair[0].1);
        let largest = sizes().max().unwrap_or(0);
        let tail = sizes().rev().take_while(|size| size * 2 < largest).count();
        let middle = &self.steps[..self.steps.len() - tail];
        match middle {
            [(first, at_first), .., (last, at_last)]
                if middle.len() >= STEPS_MIN && last > first && (at_last - at_first) * 2 >= rows =>
            {
                (*last - *first).mul_f64(rows as f64 / (at_last - at_first) as f64)
            }
            _ => *end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(steps: &[(u64, u64)], rows: u64, expected_ms: u64) {
        let steps = steps.iter().map(|(ms, rows)| (Duration::from_millis(*ms), *rows)).collect();
        assert_eq!(Arrival { steps }.steady(rows), Duration::from_millis(expected_ms));
    }

    #[test]
    fn the_pace_is_that_of_the_middle() {
        // One second of start, a batch every 100 ms, and a last one that waited for its age.
        check(&[(1000, 100), (1100, 200), (1200, 300), (1300, 400), (2300, 410)], 410, 410);
        check(&[(1000, 100)], 100, 1000);
        // Two partitions flushed at the same time: 1 ms apart is not the pace.
        check(&[(1000, 100), (5000, 500), (5001, 600)], 1000, 5001);
        check(&[(5000, 400), (5001, 800)], 800, 5001);
        check(&[(5000, 500), (5001, 600), (9000, 700)], 700, 9000);
        check(&[], 100, 0);
    }
}
