//! The measurements, one module for each service; every one against the limit of the same machine in the same run.

pub mod aggregator;
pub mod attack;
pub mod collector;
pub mod consumer;
pub mod engine;
pub mod enrich;
pub mod in_process;

use std::{path::PathBuf, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

use crate::table::Line;

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Events in a request; each is measured.
    pub events_per_request: Vec<usize>,
    /// How long a server is under load before it is measured.
    pub warm_up: Duration,
    /// How long each load is measured.
    pub load: Duration,
    /// Connections of a load.
    pub connections: usize,
    /// Rows that go into ClickHouse in each way.
    pub rows: u64,
    /// Rows in an insert.
    pub batch_rows: u32,
    /// Events of the store-day that is rolled up.
    pub day_events: u64,
    /// Partitions of each topic.
    pub partitions: i32,
    /// Where spools are written.
    pub data_dir: PathBuf,
}

/// Says what is being measured, and what came out.
#[derive(Clone, Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// A bar over so many measurements.
    pub fn new(measurements: u64) -> Self {
        let style = ProgressStyle::with_template("{spinner} {pos}/{len} {elapsed} {wide_msg}");
        let bar = ProgressBar::new(measurements);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar }
    }

    /// What happens now.
    pub fn now(&self, what: impl Into<String>) {
        let what = what.into();
        if self.bar.is_hidden() {
            eprintln!("… {what}");
        }
        self.bar.set_message(what);
    }

    /// A measurement is made.
    pub fn done(&self, line: Line) -> Line {
        self.bar.inc(1);
        let micros = |time: Option<Duration>| {
            time.map_or("-".into(), |time| format!("{:.2}", time.as_secs_f64() * 1e6 / line.events as f64))
        };
        let Line { what, cpu, behind, wall, .. } = &line;
        let text = format!(
            "  {what}: {} µs CPU, {} µs behind it, {} µs in all per event",
            micros(*cpu),
            micros(*behind),
            micros(*wall)
        );
        if self.bar.is_hidden() {
            eprintln!("{text}");
        }
        self.bar.println(text);
        line
    }

    /// A measurement is made that has no line of its own here.
    pub fn inc(&self) {
        self.bar.inc(1);
    }

    /// Everything is measured.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
