//! Bodies as they arrive: encodings, bombs, and senders that stop in the middle.

use std::{io::Write as _, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::service::{SECRET_KEY, Service};

const GOOD: &str = r#"{"type":"event","name":"test"}"#;

fn encodings(body: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let level = flate2::Compression::default();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), level);
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), level);
    let mut deflate = flate2::write::DeflateEncoder::new(Vec::new(), level);
    let mut brotli = Vec::new();
    {
        let mut writer = brotli::CompressorWriter::new(&mut brotli, 4096, 5, 20);
        writer.write_all(body).unwrap();
    }
    gzip.write_all(body).unwrap();
    zlib.write_all(body).unwrap();
    deflate.write_all(body).unwrap();
    vec![
        ("gzip", gzip.finish().unwrap()),
        ("deflate", zlib.finish().unwrap()),
        ("deflate", deflate.finish().unwrap()),
        ("br", brotli),
        ("zstd", zstd::encode_all(body, 3).unwrap()),
        ("identity", body.to_vec()),
    ]
}

#[tokio::test]
async fn every_encoding_is_undone() {
    let service = Service::start().await;
    for (name, body) in encodings(GOOD.as_bytes()) {
        let request = service.request(SECRET_KEY).header("content-encoding", name);
        let answer = service.send(request.body(body.clone())).await;
        assert_eq!(answer.status, 202, "{name}: {answer:?}");
        if name != "identity" {
            let torn = service
                .request(SECRET_KEY)
                .header("content-encoding", name)
                .body(body[..body.len() / 2].to_vec());
            let answer = service.send(torn).await;
            assert_eq!(answer.error(), (415, "unsupported_encoding"), "{name}");
        }
    }
}

#[tokio::test]
async fn a_bomb_is_refused_and_costs_no_more_than_the_cap() {
    let service = Service::start().await;
    let bomb = vec![b' '; 200 << 20];
    for (name, body) in encodings(&bomb) {
        if name == "identity" {
            continue;
        }
        assert!(body.len() < 1 << 20, "{name}: {} bytes", body.len());
        let answer =
            service.send(service.request(SECRET_KEY).header("content-encoding", name).body(body)).await;
        assert_eq!(answer.error(), (413, "body_too_large"), "{name}");
    }
    assert_eq!(service.rejected("body_too_large"), 5.0);
}

/// Sends bytes and returns everything the collector says until it hangs up.
async fn say(service: &Service, bytes: &[u8]) -> String {
    let address = service.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may hang up while this is still being sent.
    let _ = stream.write_all(bytes).await;
    let mut said = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(120), stream.read_to_end(&mut said)).await;
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test]
async fn a_body_that_never_ends_is_given_up() {
    let service = Service::with(|config| config.connections.body_timeout_ms = 200).await;
    let head = "POST /v1/collect?key=demo-write-key HTTP/1.1\r\nhost: a\r\n";
    for body in ["content-length: 100\r\n\r\n[", "transfer-encoding: chunked\r\n\r\n1\r\n[\r\n"] {
        let said = say(&service, format!("{head}{body}").as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 408"), "{said}");
        assert!(said.contains("body_timeout"), "{said}");
    }
    assert_eq!(service.rejected("body_timeout"), 2.0);
    assert_eq!(service.requests("collect", 408), 2.0);
    let chunks = "10000\r\n".to_owned() + &" ".repeat(0x10000) + "\r\n";
    let endless = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunks.repeat(20));
    let said = say(&service, endless.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
}

#[tokio::test]
async fn heads_are_bounded_in_size_number_and_time() {
    let service = Service::with(|config| config.connections.head_timeout_ms = 200).await;
    let many: String = (0..200).map(|number| format!("x-{number}: 1\r\n")).collect();
    let said = say(&service, format!("GET /healthz HTTP/1.1\r\n{many}\r\n").as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 431"), "{said}");
    let large = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    let said = say(&service, large.as_bytes()).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 431"), "{said}");
    assert_eq!(service.requests("connection", 431), 2.0);
    // A head that never ends, and a connection that says nothing.
    assert_eq!(say(&service, b"GET /healthz HTTP/1.1\r\nx").await, "");
    assert_eq!(say(&service, b"").await, "");
    assert_eq!(service.requests("connection", 408), 2.0);
    let said = say(&service, b"no http at all\r\n\r\n").await;
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    assert_eq!(service.requests("connection", 400), 1.0);
}
