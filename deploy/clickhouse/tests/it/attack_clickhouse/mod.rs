//! Attacks on ClickHouse's port: by statements, by host names, by what lies in the current directory.
//!
//! Each statement of the tables is sent by both users, by POST and by GET. Whether it was refused, and by which of the walls, does
//! not matter; that nothing happened does: no text of the secret file came back, nothing stands in the directory for
//! loot, nobody connected to the listener.

mod host;
mod statement;
mod token;

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use millrace_schemas::clickhouse::{Layout, statements};
use millrace_testbed::Engine;
use reqwest::{Client, Method, StatusCode};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};

use statement::{CHANGES, REACH_PORTS, READ_FILES, RUN_PROGRAMS, TAKE_OVER, WRITE_FILES};

const USERS: [&str; 2] = ["millrace", "reader"];
const SECRET: &str = "whoever-reads-this-has-broken-in";
const KEPT: [&str; 3] = [
    "CREATE TABLE kept (x String) ENGINE = MergeTree ORDER BY x",
    "INSERT INTO kept VALUES ('{secret}'), ('b'), ('c')",
    "CREATE TABLE paths (x String) ENGINE = Memory AS SELECT x FROM kept",
];

/// A guarded engine, and what an attack would touch.
struct Target {
    engine: Engine,
    client: Client,
    dir: TempDir,
    port: u16,
    connections: Arc<AtomicU32>,
}

impl Target {
    async fn start() -> Self {
        Self::with(Engine::start_guarded().await.unwrap()).await
    }

    async fn with(engine: Engine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), SECRET).unwrap();
        fs::create_dir(dir.path().join("loot")).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                seen.fetch_add(1, Ordering::SeqCst);
                drop(stream);
            }
        });
        let client = Client::builder().no_proxy().build().unwrap();
        let target = Self { engine, client, dir, port, connections };
        for statement in KEPT {
            target.works("millrace", "", statement).await;
        }
        target
    }

    fn fill(&self, text: &str) -> String {
        let place = |name: &str| self.dir.path().join(name).display().to_string();
        text.replace("{secret}", &place("secret"))
            .replace("{loot}", &place("loot"))
            .replace("{port}", &self.port.to_string())
    }

    async fn send(&self, user: &str, method: &Method, url: &str, statement: &str) -> (StatusCode, String) {
        let mut address = format!("{}/?database=millrace&{}", self.engine.url(), self.fill(url));
        let mut statement = self.fill(statement);
        if *method == Method::GET {
            let query: String = form_urlencoded::byte_serialize(statement.as_bytes()).collect();
            address.push_str("&query=");
            address.push_str(&query);
            statement.clear();
        }
        let request = self.client.request(method.clone(), address).body(statement);
        let password = self.engine.password(user).unwrap();
        let mut answer = request.basic_auth(user, Some(password)).send().await.unwrap();
        let status = answer.status();
        // A result may break off; what came before is looked at.
        let mut body = Vec::new();
        while let Ok(Some(piece)) = answer.chunk().await {
            body.extend_from_slice(&piece);
        }
        (status, String::from_utf8_lossy(&body).into_owned())
    }

    /// A statement that must be carried out.
    async fn works(&self, user: &str, url: &str, statement: &str) -> String {
        let (status, text) = self.send(user, &Method::POST, url, statement).await;
        assert_eq!(status, StatusCode::OK, "{user} {statement}: {text}");
        text
    }

    /// Whether anything of what attacks want has happened.
    fn assert_unharmed(&self, what: &str, answer: &str) {
        assert!(!answer.contains(SECRET), "a file was read by {what}: {answer}");
        let loot: Vec<PathBuf> =
            fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        let loot_inside = fs::read_dir(self.dir.path().join("loot")).unwrap().count();
        assert_eq!((loot.len(), loot_inside), (2, 0), "a file was written by {what}: {loot:?}");
        assert_eq!(self.connections.load(Ordering::SeqCst), 0, "a port was reached by {what}");
    }

    async fn attack(&self, attacks: &[(&str, &[&str])]) {
        for (url, steps) in attacks {
            for user in USERS {
                for method in [Method::POST, Method::GET] {
                    for step in *steps {
                        let (_, answer) = self.send(user, &method, url, step).await;
                        self.assert_unharmed(&format!("{user} with {method} {url} {step}"), &answer);
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn no_statement_reads_or_writes_a_file() {
    let target = Target::start().await;
    target.attack(READ_FILES).await;
    target.attack(WRITE_FILES).await;
}

#[tokio::test]
async fn no_statement_runs_a_program_or_reaches_a_port() {
    let target = Target::start().await;
    target.attack(RUN_PROGRAMS).await;
    target.attack(REACH_PORTS).await;
    // The listener would have noticed.
    drop(TcpStream::connect(("127.0.0.1", target.port)).await.unwrap());
    while target.connections.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn nobody_gets_more_rights() {
    let target = Target::start().await;
    for statement in TAKE_OVER {
        for user in USERS {
            let (status, answer) = target.send(user, &Method::POST, "", statement).await;
            assert_ne!(status, StatusCode::OK, "{user} {statement}: {answer}");
        }
    }
    target.works("millrace", "", "SELECT * FROM kept").await;
}

#[tokio::test]
async fn a_reader_and_a_link_change_nothing() {
    let target = Target::start().await;
    let state = "SELECT (SELECT groupArray(x) FROM (SELECT x FROM kept ORDER BY x)), \
                 (SELECT groupArray((name, create_table_query)) FROM (SELECT * FROM system.tables \
                 WHERE database = 'millrace' ORDER BY name))";
    let before = target.works("millrace", "", state).await;
    for statement in CHANGES {
        for (user, method) in [
            ("reader", Method::POST),
            ("reader", Method::GET),
            ("millrace", Method::GET),
            ("reader", Method::PUT),
        ] {
            for url in ["", "readonly=0", "readonly=2", "profile=default"] {
                let (status, answer) = target.send(user, &method, url, statement).await;
                assert_ne!(status, StatusCode::OK, "{user} {method} {url} {statement}: {answer}");
            }
        }
    }
    assert_eq!(target.works("millrace", "", state).await, before);
}

/// What is too large for memory goes to disk, for people up to a bound that they cannot move.
#[tokio::test]
async fn a_reader_does_not_fill_the_disk() {
    let few = ["--reader-spill-bytes-max=8388608", "--statements-max=2"];
    let target = Target::with(Engine::start_guarded_with(few).await.unwrap()).await;
    let group = "SELECT randomPrintableASCII(100) AS x, count() FROM numbers(400000) GROUP BY x FORMAT Null";
    let spilling =
        "max_bytes_before_external_group_by=1000000&max_bytes_ratio_before_external_group_by=0&max_threads=1";
    target.works("millrace", spilling, group).await;
    for (user, method) in [("reader", Method::POST), ("reader", Method::GET), ("millrace", Method::GET)] {
        for more in ["", "&max_temporary_data_on_disk_size_for_query=0", "&readonly=0"] {
            let (_, answer) = target.send(user, &method, &format!("{spilling}{more}"), group).await;
            assert!(answer.contains("for temporary files"), "{user} {method} {more}: {answer}");
        }
        let set = format!("{group} SETTINGS max_temporary_data_on_disk_size_for_query = 0");
        let (status, answer) = target.send(user, &method, spilling, &set).await;
        assert_ne!(status, StatusCode::OK, "{user} {method}: {answer}");
    }
}

#[tokio::test]
async fn the_services_and_people_can_do_their_work() {
    let target = Target::start().await;
    let services = statements(&Layout::default());
    let rows = r#"INSERT INTO events (event_id, store_id, type, name, event_time, received_at, _topic, _offset) FORMAT JSONEachRow
        {"event_id":"0197f9a0-0000-7000-8000-000000000001","store_id":"s","type":"event","name":"file(1)","event_time":"2026-11-01 00:00:00.000","received_at":"2026-11-01 00:00:00.000","_topic":"t","_offset":1}"#;
    let more = [
        rows,
        "SELECT * FROM events FINAL WHERE store_id = 's' FORMAT JSONEachRow",
        "DELETE FROM events WHERE store_id = 's' AND event_id = '0197f9a0-0000-7000-8000-000000000001'",
        "ALTER TABLE events APPLY DELETED MASK",
        "ALTER TABLE events MODIFY SETTING old_parts_lifetime = 1",
        "ALTER TABLE events MODIFY TTL toDateTime(received_at) + INTERVAL 30 DAY",
        "ALTER TABLE events ADD CONSTRAINT calm CHECK name != 'angry'",
        "ALTER TABLE events DROP CONSTRAINT calm",
        "ALTER TABLE events DROP PARTITION 202001",
        "OPTIMIZE TABLE events FINAL",
        "SYSTEM STOP MERGES events",
        "SYSTEM START MERGES events",
        "SELECT count() FROM system.mutations WHERE database = 'millrace' AND NOT is_done",
        "SELECT count() FROM system.parts WHERE database = 'millrace' AND table = 'events'",
        "SELECT create_table_query FROM system.tables WHERE database = currentDatabase() AND name = 'events'",
        "CREATE TABLE sessions (k UInt64, v UInt64, gone UInt8) ENGINE = ReplacingMergeTree(v, gone) ORDER BY k",
        "INSERT INTO sessions SELECT number, 1, 0 FROM numbers(10)",
        "CREATE TABLE sessions_new AS sessions",
        "EXCHANGE TABLES sessions AND sessions_new",
        "TRUNCATE TABLE sessions",
        "DROP TABLE sessions_new SYNC",
        "CREATE MATERIALIZED VIEW fed TO sessions AS SELECT 1::UInt64 AS k, 1::UInt64 AS v, 0::UInt8 AS gone FROM events",
        "DROP VIEW fed",
        "KILL QUERY WHERE query_id = 'nobody'",
    ];
    for statement in services.iter().map(String::as_str).chain(more) {
        target.works("millrace", "", statement).await;
    }
    for (url, statement) in [
        ("", "SELECT name, count() FROM events FINAL GROUP BY name"),
        ("", "SELECT * FROM page_views LIMIT 1 FORMAT JSON"),
        ("", "WITH 1 AS x SELECT x"),
        ("", "(SELECT 1) UNION ALL (SELECT 2)"),
        ("", "FROM events SELECT count()"),
        ("", "SHOW TABLES"),
        ("", "SHOW CREATE TABLE events"),
        ("", "DESCRIBE TABLE events"),
        ("", "EXPLAIN SELECT count() FROM events"),
        ("", "EXISTS TABLE events"),
        ("", "SELECT name, type FROM system.columns WHERE table = 'events'"),
        ("", "SELECT * FROM system.parts LIMIT 1"),
        ("", "SELECT name, value FROM system.settings LIMIT 1"),
        ("max_threads=1&max_execution_time=5&default_format=JSONCompact", "SELECT 1"),
        (
            "param_table=events&param_name=file",
            "SELECT count() FROM {table:Identifier} WHERE name = {name:String}",
        ),
        ("", "SELECT file FROM (SELECT 'file(1)' AS file) ORDER BY file"),
        ("", "SELECT * FROM values('x String', 'a')"),
        ("", "SELECT number FROM numbers(3)"),
    ] {
        for method in [Method::POST, Method::GET] {
            let (status, answer) = target.send("reader", &method, url, statement).await;
            assert_eq!(status, StatusCode::OK, "{method} {url} {statement}: {answer}");
        }
    }
}
