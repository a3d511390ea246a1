//! `millrace-clickhouse` with the official client and with raw HTTP, against the real engine.

use std::time::{Duration, Instant};

use clickhouse::{Client, Compression, Row, error::Error};
use millrace_testbed::Engine;
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

#[derive(Debug, Clone, PartialEq, Row, Serialize, Deserialize)]
struct Item {
    id: u64,
    name: String,
}

const TABLE: &str = "CREATE TABLE items (id UInt64, name String) ENGINE = MergeTree ORDER BY id \
                     SETTINGS non_replicated_deduplication_window = 100";

fn items(ids: std::ops::Range<u64>) -> Vec<Item> {
    ids.map(|id| Item { id, name: format!("item {id}") }).collect()
}

/// An engine with the table `items`, and a client of it.
async fn engine_with_items() -> (Engine, Client) {
    let engine = Engine::start().await.expect("engine starts");
    let client = Client::default().with_url(engine.url());
    client.query(TABLE).execute().await.expect("table");
    (engine, client)
}

async fn insert(client: &Client, rows: &[Item]) -> Result<(), Error> {
    let mut insert = client.insert::<Item>("items").await?;
    for row in rows {
        insert.write(row).await?;
    }
    insert.end().await
}

async fn count(client: &Client) -> u64 {
    client.query("SELECT count() FROM items").fetch_one().await.expect("count")
}

/// A statement by POST; its status and text.
async fn post(engine: &Engine, parameters: &str, body: impl Into<reqwest::Body>) -> (StatusCode, String) {
    let url = format!("{}/?{parameters}", engine.url());
    let response = reqwest::Client::new().post(url).body(body).send().await.expect("answers");
    (response.status(), response.text().await.expect("text"))
}

/// Native blocks of `rows` rows each: the columns `id` and `name` of the table `items`.
fn native_block(first: u64, rows: usize, name: &str) -> Vec<u8> {
    fn varint(mut value: usize, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    fn string(text: &str, out: &mut Vec<u8>) {
        varint(text.len(), out);
        out.extend_from_slice(text.as_bytes());
    }
    let mut out = Vec::with_capacity(rows * (9 + name.len()) + 64);
    varint(2, &mut out);
    varint(rows, &mut out);
    string("id", &mut out);
    string("UInt64", &mut out);
    for id in first..first + rows as u64 {
        out.extend_from_slice(&id.to_le_bytes());
    }
    string("name", &mut out);
    string("String", &mut out);
    for _ in 0..rows {
        string(name, &mut out);
    }
    out
}

#[tokio::test]
async fn the_official_client_inserts_and_selects() {
    let (_engine, client) = engine_with_items().await;
    for compression in [Compression::None, Compression::Lz4] {
        let client = client.clone().with_compression(compression);
        client.query("TRUNCATE TABLE items").execute().await.expect("truncate");
        let rows = items(0..1000);
        insert(&client, &rows).await.expect("insert");
        let back = client.query("SELECT ?fields FROM items ORDER BY id").fetch_all::<Item>().await;
        assert_eq!(back.expect("select"), rows);
        let summed: (u64, u64) =
            client.query("SELECT sum(id), count() FROM items").fetch_one().await.expect("sum");
        assert_eq!(summed, (499_500, 1000));
    }
}

#[tokio::test]
async fn a_result_of_many_blocks_has_one_header() {
    let (_engine, client) = engine_with_items().await;
    let query = "SELECT number AS id, toString(number) AS name FROM numbers(300000)";
    let mut cursor = client.query(query).fetch::<Item>().expect("starts");
    let mut next = 0;
    while let Some(row) = cursor.next().await.expect("row") {
        assert_eq!(row, Item { id: next, name: next.to_string() });
        next += 1;
    }
    assert_eq!(next, 300_000);
}

#[tokio::test]
async fn parameters_come_as_a_form_and_are_not_text() {
    let (engine, client) = engine_with_items().await;
    insert(&client, &items(0..10)).await.expect("insert");
    let hostile = "it's \\ a `test`; DROP TABLE items --\n\ttab";
    let (text, id): (String, u64) = client
        .query("SELECT {text:String}, id FROM items WHERE id = {id:UInt64}")
        .param("text", hostile)
        .param("id", 7)
        .fetch_one()
        .await
        .expect("select");
    assert_eq!((text.as_str(), id), (hostile, 7));

    let answer = post(&engine, "param_n=41", "SELECT {n:UInt8} + 1").await;
    assert_eq!(answer, (StatusCode::OK, "42\n".to_owned()));
}

#[tokio::test]
async fn errors_are_clickhouses_own() {
    let (engine, client) = engine_with_items().await;
    let text = client.query("SELECT * FROM nope").execute().await.expect_err("no table").to_string();
    assert!(text.contains("Code: 60. DB::Exception: ") && text.contains("(UNKNOWN_TABLE)"), "{text}");
    let text = client.insert::<Item>("nope").await.err().expect("no table").to_string();
    assert!(text.contains("(UNKNOWN_TABLE)"), "{text}");

    for (statement, status, code) in [
        ("SELECT * FROM nope", StatusCode::NOT_FOUND, "60"),
        ("INSERT INTO nope VALUES (1)", StatusCode::NOT_FOUND, "60"),
        ("SELECT * FROM nowhere.nope", StatusCode::NOT_FOUND, "81"),
        ("SELEC", StatusCode::BAD_REQUEST, "62"),
        ("SELECT 1; SELECT 2", StatusCode::BAD_REQUEST, "62"),
        ("SELECT throwIf(1)", StatusCode::INTERNAL_SERVER_ERROR, "395"),
        ("SELECT 1 INTO OUTFILE 'x'", StatusCode::INTERNAL_SERVER_ERROR, "358"),
        ("INSERT INTO items FORMAT JSONEachRow {\"id\":\"x\"}", StatusCode::BAD_REQUEST, "27"),
    ] {
        let request = reqwest::Client::new().post(engine.url()).body(statement);
        let response = request.send().await.expect("answers");
        let given = response.headers().get("x-clickhouse-exception-code").cloned();
        let answered = response.status();
        let text = response.text().await.expect("text");
        assert_eq!(answered, status, "{statement}: {text}");
        assert_eq!(given.expect(statement), code, "{text}");
        assert!(text.starts_with(&format!("Code: {code}. DB::Exception: ")), "{text}");
    }
}

#[tokio::test]
async fn an_error_in_the_middle_of_a_result_is_seen() {
    let (engine, client) = engine_with_items().await;
    // Far enough in that the engine cannot have come there before the first block is on its way.
    let query = "SELECT throwIf(number = 8000000) AS x FROM numbers(9000000) SETTINGS max_threads = 1";
    let mut cursor = client.query(query).fetch::<u8>().expect("starts");
    let mut rows = 0;
    let error = loop {
        match cursor.next().await {
            Ok(Some(_)) => rows += 1,
            Ok(None) => panic!("the result ended as if it were whole, after {rows} rows"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(rows > 0 && error.contains("(FUNCTION_THROW_IF_VALUE_IS_NON_ZERO)"), "{rows} rows, {error}");

    // A client that knows nothing of tags sees the connection break.
    let raw = reqwest::Client::new().post(engine.url()).body(query).send().await.expect("begins");
    assert_eq!(raw.status(), StatusCode::OK);
    raw.bytes().await.expect_err("broken off");

    // Asked to wait, it is a status.
    let (status, _) = post(&engine, "wait_end_of_query=1", query).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn inserts_take_their_data_from_url_body_or_both() {
    let (engine, client) = engine_with_items().await;
    for (parameters, body) in [
        ("", "INSERT INTO items VALUES (1, 'a')"),
        ("", "INSERT INTO items FORMAT CSV\n2,b\n"),
        ("query=INSERT+INTO+items+FORMAT+CSV", "3,c\n"),
        ("query=INSERT+INTO+items", "FORMAT CSV\n4,d\n"),
        ("query=INSERT+INTO+items+VALUES+(5,'e')", ""),
        ("query=INSERT+INTO+items+VALUES", "(6,'f')"),
        ("query=INSERT+INTO+items+SELECT+7,'g'", ""),
        ("query=INSERT+INTO+items+FORMAT+JSONEachRow&database=default", "{\"id\":8,\"name\":\"h\"}"),
    ] {
        let answer = post(&engine, parameters, body).await;
        assert_eq!(answer, (StatusCode::OK, String::new()), "{parameters} {body}");
    }
    let answer =
        post(&engine, "", "SELECT groupArray(id), groupArray(name) FROM (SELECT * FROM items ORDER BY id)");
    assert_eq!(answer.await.1, "[1,2,3,4,5,6,7,8]\t['a','b','c','d','e','f','g','h']\n");
    assert_eq!(count(&client).await, 8);
}

#[tokio::test]
async fn a_token_stores_once_also_after_a_crash() {
    let (mut engine, client) = engine_with_items().await;
    let tokened = |token: &str| client.clone().with_setting("insert_deduplication_token", token);
    insert(&tokened("first"), &items(0..100)).await.expect("insert");
    insert(&tokened("first"), &items(0..100)).await.expect("the same again");
    assert_eq!(count(&client).await, 100);

    engine.kill9().expect("killed");
    engine.restart().await.expect("starts again");
    assert_eq!(count(&client).await, 100, "acknowledged rows are back");
    insert(&tokened("first"), &items(0..100)).await.expect("the same again, after the crash");
    assert_eq!(count(&client).await, 100);
    insert(&tokened("second"), &items(0..100)).await.expect("the same rows under another token");
    assert_eq!(count(&client).await, 200);
}

#[tokio::test]
async fn a_body_that_ends_early_stores_nothing() {
    let (engine, client) = engine_with_items().await;
    let address = engine.url().replace("http://", "");
    let data = native_block(0, 50_000, "some name");
    let chunk = |bytes: &[u8]| [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat();
    let head = "POST /?query=INSERT+INTO+items+FORMAT+Native HTTP/1.1\r\nHost: localhost\r\n";
    let longer = format!("{head}Content-Length: {}\r\n\r\n", 2 * data.len());
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
    for (what, request) in [
        ("a whole block, fewer bytes than announced", [longer.as_bytes(), &data].concat()),
        ("half a block, fewer bytes than announced", [longer.as_bytes(), &data[..data.len() / 2]].concat()),
        ("a whole block, no last chunk", [chunked.as_bytes(), &chunk(&data)].concat()),
        ("nothing", longer.clone().into_bytes()),
    ] {
        let mut stream = TcpStream::connect(&address).await.expect("connects");
        stream.write_all(&request).await.expect("sends");
        stream.shutdown().await.expect("ends");
        let mut answer = Vec::new();
        // The answer may be an error or none at all; what counts is what is stored.
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{what}");
    }
    // A client that drops its insert.
    let mut insert = client.insert::<Item>("items").await.expect("begins");
    for row in items(0..50_000) {
        insert.write(&row).await.expect("writes");
    }
    drop(insert);
    wait_until_idle(&client).await;
    assert_eq!(count(&client).await, 0);

    // The same bytes, all of them.
    let (status, text) = post(&engine, "query=INSERT+INTO+items+FORMAT+Native", data).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, ""));
    assert_eq!(count(&client).await, 50_000);
}

/// Until no statement but the one that asks is running.
async fn wait_until_idle(client: &Client) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let running: u64 =
            client.query("SELECT count() FROM system.processes").fetch_one().await.expect("processes");
        if running == 1 {
            return;
        }
        assert!(Instant::now() < deadline, "{running} statements are still running");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_large_native_insert_is_one_part() {
    let (engine, client) = engine_with_items().await;
    client.query("SYSTEM STOP MERGES items").execute().await.expect("no merges");
    // Five blocks, each with more bytes than the engine would gather by itself.
    let name = "x".repeat(300);
    let mut body = Vec::new();
    for block in 0..5 {
        body.extend(native_block(block * 100_000, 100_000, &name));
    }
    let started = Instant::now();
    let (status, text) = post(&engine, "query=INSERT+INTO+items+FORMAT+Native", body).await;
    assert_eq!((status, text.as_str()), (StatusCode::OK, ""));
    let seconds = started.elapsed().as_secs_f64();
    println!("500,000 rows of 309 bytes in {seconds:.2} s");
    let parts = "SELECT count(), sum(rows) FROM system.parts WHERE table = 'items' AND active";
    let parts: (u64, u64) = client.query(parts).fetch_one().await.expect("parts");
    assert_eq!(parts, (1, 500_000));
}

#[tokio::test]
async fn settings_last_for_one_statement() {
    let (engine, client) = engine_with_items().await;
    let threads = "SELECT getSetting('max_threads'), getSetting('async_insert')";
    let (_, before) = post(&engine, "", threads).await;
    assert_eq!(post(&engine, "max_threads=7&async_insert=1", threads).await.1, "7\ttrue\n");
    // Also when a client sends what would change a session.
    for statement in ["SET max_threads = 5", "USE system", "CREATE TEMPORARY TABLE leak (x UInt8)"] {
        assert_eq!(post(&engine, "", statement).await.0, StatusCode::OK, "{statement}");
    }
    let settled = client.clone().with_setting("max_threads", "3");
    insert(&settled, &items(0..3)).await.expect("insert with a setting");
    for _ in 0..20 {
        assert_eq!(post(&engine, "", threads).await.1, before);
    }
    assert!(before.ends_with("\tfalse\n"), "inserts are synchronous: {before}");
    assert_eq!(post(&engine, "", "SELECT currentDatabase()").await.1, "default\n");
    assert_eq!(post(&engine, "", "SELECT * FROM leak").await.0, StatusCode::NOT_FOUND);
    let (status, text) = post(&engine, "no_such_setting=1", "SELECT 1").await;
    assert_eq!(status, StatusCode::NOT_FOUND, "{text}");
    // A link changes nothing.
    let get = format!("{}/?query=INSERT+INTO+items+VALUES+(9,'x')", engine.url());
    let text = reqwest::get(get).await.expect("answers").text().await.expect("text");
    assert!(text.contains("(READONLY)"), "{text}");
}

#[tokio::test]
async fn compressed_responses_and_databases() {
    let (engine, client) = engine_with_items().await;
    client.query("CREATE DATABASE other").execute().await.expect("database");
    client
        .query("CREATE TABLE other.items (id UInt64, name String) ENGINE = Memory")
        .execute()
        .await
        .expect("table");
    let other = client.clone().with_database("other");
    insert(&other, &items(0..5)).await.expect("insert");
    assert_eq!(count(&other).await, 5);
    assert_eq!(count(&client).await, 0);

    let url = format!("{}/?compress=1&query=SELECT+1", engine.url());
    let packed = reqwest::get(url).await.expect("answers").bytes().await.expect("bytes");
    let mut decoder = millrace_clickhouse::lz4::Decoder::default();
    decoder.push(&packed);
    assert_eq!(decoder.next_block().expect("block").as_deref(), Some(b"1\n".as_slice()));
}

#[tokio::test]
async fn many_clients_at_once() {
    let (_engine, client) = engine_with_items().await;
    let writers = (0..8_u64).map(|writer| {
        let client = client.clone();
        tokio::spawn(async move {
            for batch in 0..10 {
                let first = (writer * 10 + batch) * 100;
                insert(&client, &items(first..first + 100)).await.expect("insert");
            }
        })
    });
    let readers = (0..4).map(|_| {
        let client = client.clone();
        tokio::spawn(async move {
            for _ in 0..20 {
                let (rows, ids): (u64, u64) = client
                    .query("SELECT count(), uniqExact(id) FROM items")
                    .fetch_one()
                    .await
                    .expect("select");
                assert_eq!(rows % 100, 0, "an insert is seen whole or not at all");
                assert_eq!(rows, ids);
            }
        })
    });
    for task in writers.chain(readers).collect::<Vec<_>>() {
        task.await.expect("no failure");
    }
    assert_eq!(count(&client).await, 8_000);
}

#[tokio::test]
async fn a_client_that_hangs_up_ends_its_statement() {
    let (engine, client) = engine_with_items().await;
    // In the middle of a huge result: it is streamed, or memory would not hold it.
    let mut cursor = client
        .query("SELECT number AS id, repeat('x', 100) AS name FROM numbers(10000000000)")
        .fetch::<Item>()
        .expect("starts");
    for _ in 0..1_000_000 {
        cursor.next().await.expect("row").expect("not the end");
    }
    drop(cursor);
    wait_until_idle(&client).await;
    // Before its first row.
    let endless = "SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 7";
    let request = reqwest::Client::new().post(engine.url()).body(endless);
    request.timeout(Duration::from_millis(500)).send().await.expect_err("gave up");
    wait_until_idle(&client).await;
}

#[tokio::test]
async fn a_full_queue_is_said() {
    let engine = Engine::start_with(["--statements-max=1", "--queue-max=1"]).await.expect("starts");
    let slow = || post(&engine, "function_sleep_max_microseconds_per_block=9000000", "SELECT sleep(5)");
    let answers = tokio::join!(slow(), slow(), slow(), slow());
    let statuses = [answers.0.0, answers.1.0, answers.2.0, answers.3.0];
    let refused = statuses.iter().filter(|status| **status == StatusCode::SERVICE_UNAVAILABLE).count();
    assert_eq!(refused, 2, "one ran, one waited: {answers:?}");
    let text = [answers.0.1, answers.1.1, answers.2.1, answers.3.1].concat();
    assert!(text.contains("Code: 202. DB::Exception: ") && text.contains("(TOO_MANY_SIMULTANEOUS_QUERIES)"));
}

#[tokio::test]
async fn a_password_is_checked() {
    let engine = Engine::start_guarded().await.expect("starts");
    let (services, reader) =
        (engine.password("millrace").expect("made"), engine.password("reader").expect("made"));
    let client = Client::default().with_url(engine.url());
    let text = client.query("SELECT 1").execute().await.expect_err("no password").to_string();
    assert!(text.contains("Code: 516. ") && text.contains("(AUTHENTICATION_FAILED)"), "{text}");
    let wrong = client.clone().with_user("millrace").with_password(&reader);
    wrong.query("SELECT 1").execute().await.expect_err("another's password");
    for (user, password) in [("millrace", &services), ("reader", &reader)] {
        let right = client.clone().with_user(user).with_password(password);
        assert_eq!(right.query("SELECT 1").fetch_one::<u8>().await.expect("right"), 1);
    }
    assert_eq!(post(&engine, &format!("user=reader&password={reader}"), "SELECT 1").await.0, StatusCode::OK);
    assert_eq!(post(&engine, "user=reader&password=no", "SELECT 1").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_directory() {
    let engine = Engine::start().await.expect("starts");
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_millrace-clickhouse"))
        .args(["--listen=127.0.0.1:0", "--no-password", "--data-dir"])
        .arg(engine.data_dir())
        .output()
        .expect("runs");
    assert!(!second.status.success());
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    let holder = format!("in use by another process (process {})", engine.id().expect("runs"));
    assert!(said.contains(&holder), "{said}");
}

#[tokio::test]
async fn an_orderly_stop_ends_running_statements() {
    let mut engine = Engine::start_with(["--shutdown-grace-ms=500"]).await.expect("starts");
    let client = Client::default().with_url(engine.url());
    client.query(TABLE).execute().await.expect("table");
    insert(&client, &items(0..10)).await.expect("insert");
    let endless = client.query("SELECT count() FROM numbers(1000000000000) WHERE sipHash64(number) = 7");
    let endless = tokio::spawn(endless.fetch_one::<u64>());
    tokio::time::sleep(Duration::from_millis(300)).await;
    let started = Instant::now();
    let status = engine.stop().await.expect("stops").expect("ran");
    assert!(status.success(), "{status}");
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
    endless.await.expect("task").expect_err("killed");
    engine.restart().await.expect("starts again");
    assert_eq!(count(&client).await, 10);
}

#[tokio::test]
async fn it_does_not_outlive_its_parent() {
    use std::{
        io::{BufRead, BufReader},
        process::{Command, Stdio},
    };
    let dir = tempfile::tempdir().expect("directory");
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/chdb/libchdb.so");
    let mut child = Command::new(env!("CARGO_BIN_EXE_millrace-clickhouse"))
        .args(["--listen=127.0.0.1:0", "--no-password", "--exit-with-parent", "--library"])
        .arg(std::env::var_os("MILLRACE_CHDB_LIBRARY").unwrap_or_else(|| library.into()))
        .arg("--data-dir")
        .arg(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut address = String::new();
    BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut address).expect("an address");
    let answer = reqwest::get(format!("{}/ping", address.trim())).await.expect("answers");
    assert_eq!(answer.text().await.expect("text"), "Ok.\n");
    drop(child.stdin.take());
    let deadline = Instant::now() + Duration::from_secs(120);
    while child.try_wait().expect("status").is_none() {
        if Instant::now() > deadline {
            child.kill().expect("killed");
            panic!("still there");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
