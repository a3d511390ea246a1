//! What inserts and merges of large events take of the engine's memory.

use millrace_schemas::clickhouse::{Layout, statements};
use millrace_testbed::Engine;
use reqwest::{Client, StatusCode};

/// As large as the collector takes one.
const PROPERTIES_BYTES: usize = 64 << 10;
/// A batch of the consumer on one machine.
const ROWS: usize = 180;

/// A part is written with buffers for each of 78 columns. They, not the rows, were most of what an insert took: more than
/// 400 MiB for one of 11 MiB, so that two of them failed under the limit of one machine.
#[tokio::test]
async fn an_insert_takes_a_few_times_its_own_bytes() {
    let engine = Engine::start().await.unwrap();
    let client = Client::builder().no_proxy().build().unwrap();
    let tell = async |url: &str, statement: String| {
        let answer = client.post(format!("{}/?{url}", engine.url())).body(statement).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    for statement in statements(&Layout::default()) {
        assert_eq!(tell("", statement).await.0, StatusCode::OK);
    }
    let rows: String = (0..ROWS)
        .map(|row| {
            format!(
                "{{\"event_id\":\"0197f9a0-0000-7000-8000-{row:012}\",\"store_id\":\"s\",\"type\":\"event\",\"name\":\"big\",\
                 \"received_at\":\"2026-11-01 00:00:00.000\",\"properties\":{{\"p\":\"{}\"}}}}\n",
                format!("{row:x}").repeat(PROPERTIES_BYTES / format!("{row:x}").len())
            )
        })
        .collect();
    let insert = format!("INSERT INTO millrace.events FORMAT JSONEachRow\n{rows}");
    let limit = format!("max_memory_usage={}", 8 * insert.len());
    let (status, text) = tell(&limit, insert).await;
    assert_eq!(status, StatusCode::OK, "{text}");
    let (_, stored) = tell("", "SELECT count() FROM millrace.events".to_owned()).await;
    assert_eq!(stored.trim(), ROWS.to_string());
    let settings = "SELECT value FROM system.merge_tree_settings WHERE name IN ('max_compress_block_size', \
                    'merge_max_block_size_bytes') ORDER BY name";
    assert_eq!(tell("", settings.to_owned()).await.1, "65536\n1048576\n");
}
