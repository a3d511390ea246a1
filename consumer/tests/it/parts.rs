//! What the tests share: rows, a spool as the collector writes it, a running consumer, questions to the store.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use clickhouse::Client;
use millrace_consumer::{Config, Health, RunError};
use millrace_schemas::{
    row::{ClickRow, EventRow, Row},
    spool::{CONSUMER_FILE, DURABLE_FILE, Position, Record, SEGMENT_MAGIC, segment_name, write_frame},
};
use millrace_testbed::Engine;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// 2026-11-20 12:00 UTC.
pub(crate) const NOON_MS: i64 = 1_795_176_000_000;

/// The event with this number, as the collector writes it.
pub(crate) fn event(number: u64) -> String {
    let name = ["page_view", "view_item", "add_to_cart", "purchase"][number as usize % 4];
    let (url, visitor) =
        (format!("https://shop.example/products/{number}?q=\"ü\""), format!("visitor-{}", number % 97));
    let order = if name == "purchase" { format!("order-{number}") } else { String::new() };
    json(&EventRow {
        store_id: "demo",
        event_id: Uuid::from_u128(u128::from(number)),
        r#type: if name == "page_view" { "page_view" } else { "event" },
        name,
        event_time: NOON_MS + number as i64,
        received_at: NOON_MS + 100 + number as i64,
        time_source: "client",
        key_date: (NOON_MS / 86_400_000) as u16,
        visitor_id: &visitor,
        visitor_hash: number % 97,
        url: &url,
        currency: "USD",
        total_minor: (name == "purchase").then_some(1999),
        order_id: &order,
        user_agent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36",
        ..EventRow::default()
    })
}

/// The click with this number.
pub(crate) fn click(number: u64) -> String {
    json(&ClickRow {
        store_id: "demo",
        event_id: Uuid::from_u128(u128::from(number)),
        event_time: NOON_MS,
        received_at: NOON_MS,
        key_date: (NOON_MS / 86_400_000) as u16,
        url: "https://shop.example/",
        x: number as u32,
        selector: "#buy",
        ..ClickRow::default()
    })
}

pub(crate) fn json(row: &impl Row) -> String {
    let mut out = Vec::new();
    row.write_json(&mut out);
    String::from_utf8(out).unwrap()
}

/// A topic's directory, written as the collector writes it.
pub(crate) struct SpoolTopic {
    directory: std::path::PathBuf,
    next: u64,
}

impl SpoolTopic {
    pub(crate) fn new(spool: &Path, topic: &str) -> Self {
        let directory = spool.join(topic);
        fs::create_dir_all(&directory).unwrap();
        let this = Self { directory, next: 0 };
        this.roll();
        this
    }

    /// Begins a new segment.
    pub(crate) fn roll(&self) {
        let mut file = File::create(self.directory.join(segment_name(self.next))).unwrap();
        file.write_all(SEGMENT_MAGIC).unwrap();
    }

    fn segment(&self) -> std::path::PathBuf {
        let mut segments: Vec<_> = fs::read_dir(&self.directory)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "seg"))
            .collect();
        segments.sort();
        segments.pop().unwrap()
    }

    /// Appends messages without saying that they are durable.
    pub(crate) fn append<V: AsRef<[u8]>>(&mut self, values: impl IntoIterator<Item = V>) {
        let mut bytes = Vec::new();
        for value in values {
            write_frame(&mut bytes, Record { key: b"demo:visitor", value: value.as_ref() });
            self.next += 1;
        }
        File::options().append(true).open(self.segment()).unwrap().write_all(&bytes).unwrap();
    }

    /// Says that everything appended is durable.
    pub(crate) fn sync(&self) {
        fs::write(self.directory.join("durable.new"), self.next.to_le_bytes()).unwrap();
        fs::rename(self.directory.join("durable.new"), self.directory.join(DURABLE_FILE)).unwrap();
    }

    pub(crate) fn write<V: AsRef<[u8]>>(&mut self, values: impl IntoIterator<Item = V>) {
        self.append(values);
        self.sync();
    }

    /// What the consumer has recorded.
    pub(crate) fn position(&self) -> Option<Position> {
        let bytes = fs::read(self.directory.join(CONSUMER_FILE)).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    pub(crate) fn set_position(&self, position: Position) {
        fs::write(self.directory.join(CONSUMER_FILE), serde_json::to_vec(&position).unwrap()).unwrap();
    }

    pub(crate) fn forget_position(&self) {
        fs::remove_file(self.directory.join(CONSUMER_FILE)).unwrap();
    }

    /// Offset of the next message.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Flips a bit in the middle of the newest segment's bytes at `at`.
    pub(crate) fn damage(&self, at: usize) {
        let path = self.segment();
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    }
}

/// A consumer in this process.
pub(crate) struct Running {
    pub(crate) health: Health,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), RunError>>,
}

impl Running {
    pub(crate) fn start(config: Config) -> Self {
        let (health, shutdown) = (Health::new(), CancellationToken::new());
        let task = tokio::spawn(millrace_consumer::run(config, health.clone(), shutdown.clone()));
        Self { health, shutdown, task }
    }

    /// Asks it to stop and waits for its end.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(180), self.task).await.expect("it ends").unwrap().unwrap();
    }

    /// Asks it to stop and says how long that took.
    pub(crate) async fn stop_timed(self) -> Duration {
        let started = Instant::now();
        self.stop().await;
        started.elapsed()
    }

    pub(crate) fn problems(&self) -> String {
        format!("{:?}", self.health.readiness().problems)
    }
}

/// An engine, a spool, and settings that use them.
pub(crate) struct Bench {
    pub(crate) engine: Engine,
    pub(crate) spool: TempDir,
    pub(crate) config: Config,
}

impl Bench {
    pub(crate) async fn start() -> Self {
        // `RUST_LOG=debug cargo test … -- --nocapture` shows what the consumer says.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let engine = Engine::start().await.unwrap();
        let spool = tempfile::tempdir().unwrap();
        let config = config(&engine, spool.path());
        Self { engine, spool, config }
    }

    pub(crate) async fn count(&self, what: &str) -> u64 {
        ask(&self.engine, &format!("SELECT count() FROM millrace.{what}")).await
    }
}

/// Settings for tests: the spool, small batches, quick retries.
pub(crate) fn config(engine: &Engine, spool: &Path) -> Config {
    Config {
        log: millrace_consumer::Log::Spool,
        spool_dir: spool.to_owned(),
        clickhouse_url: engine.url(),
        batch_age_ms: 100,
        retry_first_ms: 20,
        retry_max_ms: 200,
        ..Config::default()
    }
}

/// A number that the store answers.
pub(crate) async fn ask(engine: &Engine, query: &str) -> u64 {
    Client::default().with_url(engine.url()).query_raw(query).fetch_one::<u64>().await.unwrap_or_default()
}

/// A text that the store answers.
pub(crate) async fn ask_text(engine: &Engine, query: &str) -> String {
    let client = Client::default().with_url(engine.url());
    client.query_raw(query).fetch_one::<String>().await.unwrap_or_else(|error| error.to_string())
}

/// Runs a statement.
pub(crate) async fn tell(engine: &Engine, statement: &str) {
    Client::default().with_url(engine.url()).query_raw(statement).execute().await.unwrap();
}

/// Waits until the question's answer is `wanted`, and checks that it stays so.
pub(crate) async fn await_answer(engine: &Engine, query: &str, wanted: u64) {
    let until = Instant::now() + Duration::from_secs(180);
    let mut answer = ask(engine, query).await;
    while answer != wanted {
        assert!(Instant::now() < until, "{query}: {answer} instead of {wanted}");
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = ask(engine, query).await;
    }
}

/// Waits until something is so.
pub(crate) async fn await_so(what: &str, so: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(180);
    while !so() {
        assert!(Instant::now() < until, "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
