//! Bodies as they arrive: encodings, bombs, and senders that stop in the middle.

use std::{io::Write as _, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    process::head,
    service::{SECRET_KEY, Service},
};

const GOOD: &str = r#"{"type":"event","name":"test"}"#;
const PATIENCE: Duration = Duration::from_secs(120);

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
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
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
    // RudderStack's client drops what gets 408.
    let track = "POST /k/demo-write-key/v1/track HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{";
    assert!(say(&service, track.as_bytes()).await.starts_with("HTTP/1.1 503"));
    let chunks = "10000\r\n".to_owned() + &" ".repeat(0x10000) + "\r\n";
    let endless = format!("{head}transfer-encoding: chunked\r\n\r\n{}", chunks.repeat(20));
    let said = say(&service, endless.as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 413"), "{said}");
}

async fn connect(service: &Service) -> TcpStream {
    TcpStream::connect(service.url.strip_prefix("http://").unwrap()).await.unwrap()
}

/// The next answer of a connection: its head, its status, its reason.
async fn answer(stream: &mut TcpStream) -> (String, u16, String) {
    let mut said = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&said).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.unwrap_or("0").parse().unwrap() {
                let body: Value = serde_json::from_str(body).unwrap_or_default();
                let error = body["error"].as_str().unwrap_or_default().to_owned();
                return (head.to_owned(), head[9..12].parse().unwrap(), error);
            }
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut said)).await.expect("an answer");
        assert!(read.unwrap() > 0, "the connection ended: {text}");
    }
}

/// A request for an address with further headers and a body, whole or in chunks.
fn request(path: &str, headers: &str, body: &[u8], is_chunked: bool) -> Vec<u8> {
    let mut request = format!("POST {path} HTTP/1.1\r\nhost: a\r\n{headers}").into_bytes();
    if is_chunked {
        request.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
        for chunk in body.chunks(50_000) {
            request.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            request.extend_from_slice(chunk);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
    } else {
        request.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
    }
    request
}

/// Many clients look for an answer only when they have sent everything.
#[tokio::test]
async fn who_sends_everything_first_is_told_why_it_was_refused() {
    const ROUNDS: usize = 20;
    let large = vec![b' '; 5 << 20];
    let known = "/v1/collect?key=demo-write-key";
    let origin = "origin: https://elsewhere.example\r\n";
    let good = head(GOOD.len()) + GOOD;
    let check = async |service: &Service, path: &str, headers: &str, wanted: &[(u16, &str)]| {
        let mut seen = 0;
        for round in 0..ROUNDS {
            let mut stream = connect(service).await;
            let request = request(path, headers, &large, round % 2 == 1);
            stream.write_all(good.as_bytes()).await.unwrap();
            let _ = answer(&mut stream).await;
            let sent = stream.write_all(&request).await;
            assert!(sent.is_ok(), "{path}, {wanted:?}, round {round}: {sent:?}");
            let (_, status, error) = answer(&mut stream).await;
            assert!(wanted.contains(&(status, &error)), "{path}, round {round}: {status} {error}");
            seen += usize::from((status, error.as_str()) == wanted[0]);
            // Nothing of the body is left, so the connection goes on.
            stream.write_all(good.as_bytes()).await.unwrap();
            let _ = answer(&mut stream).await;
        }
        assert!(seen > 0, "{wanted:?}");
    };
    let service = Service::start().await;
    check(&service, known, "", &[(413, "body_too_large")]).await;
    // In that product's words.
    check(&service, "/api/event", "", &[(413, "")]).await;
    check(&service, "/v1/collect?key=nobodys", "", &[(401, "unknown_key")]).await;
    check(&service, "/v1/collect?key=strict-write-key", origin, &[(403, "origin_not_allowed")]).await;
    check(&service, known, "content-type: a/b\r\n", &[(415, "unsupported_type")]).await;
    check(&service, "/nowhere", "", &[(404, "not_found")]).await;
    check(&service, "/healthz", "", &[(405, "method_not_allowed")]).await;
    drop(service);
    let starting = Service::with(|config| config.keys_snapshot = None).await;
    check(&starting, known, "", &[(503, "unavailable")]).await;
    drop(starting);
    // Whoever waits for a second is let in again.
    let limited = Service::with(|config| config.rates.client_requests_per_second = 1).await;
    check(&limited, known, "", &[(429, "rate_limited"), (413, "body_too_large")]).await;
}

#[tokio::test]
async fn who_asks_first_is_refused_before_sending() {
    // What is waited for in vain lets the test fail, not pass late.
    let service = Service::with(|config| config.connections.body_timeout_ms = 600_000).await;
    let expect = "expect: 100-continue\r\n";
    for (path, length, wanted) in [
        ("?key=demo-write-key", 5 << 20, (413, "body_too_large")),
        ("?key=nobodys", 100, (401, "unknown_key")),
    ] {
        let mut stream = connect(&service).await;
        let head =
            format!("POST /v1/collect{path} HTTP/1.1\r\nhost: a\r\n{expect}content-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (head, status, error) = answer(&mut stream).await;
        assert_eq!((status, error.as_str()), wanted);
        assert!(head.contains("connection: close"), "{head}");
    }
    let mut stream = connect(&service).await;
    let head = head(GOOD.len()).replace("content-length", &format!("{expect}content-length"));
    stream.write_all(head.as_bytes()).await.unwrap();
    let (_, status, _) = answer(&mut stream).await;
    assert_eq!(status, 100);
    stream.write_all(GOOD.as_bytes()).await.unwrap();
    let (_, status, _) = answer(&mut stream).await;
    assert_eq!(status, 202);
}

/// A refused body is not read for ever: neither what is announced, nor what is sent, nor what is held back.
#[tokio::test]
async fn refused_bodies_are_read_within_bounds() {
    let refused = "POST /v1/collect?key=demo-write-key HTTP/1.1\r\nhost: a\r\n";
    let service = Service::with(|config| config.connections.body_timeout_ms = 600_000).await;
    let mut stream = connect(&service).await;
    let announced = format!("{refused}content-length: {}\r\n\r\n ", 100 << 20);
    stream.write_all(announced.as_bytes()).await.unwrap();
    let (head, status, _) = answer(&mut stream).await;
    assert_eq!(status, 413);
    assert!(head.contains("connection: close"), "{head}");
    let mut stream = connect(&service).await;
    stream.write_all(format!("{refused}transfer-encoding: chunked\r\n\r\n").as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 1 << 20, " ".repeat(1 << 20));
    let mut sent = 0;
    let until_it_hangs_up = async {
        while stream.write_all(chunk.as_bytes()).await.is_ok() {
            sent += 1;
        }
    };
    tokio::time::timeout(PATIENCE, until_it_hangs_up).await.expect("it hangs up");
    // What is acceptable, eight times as much that is not, and what the kernel holds for both sides.
    assert!((9..64).contains(&sent), "{sent} MiB");
    drop(service);
    let service = Service::with(|config| config.connections.body_timeout_ms = 200).await;
    let said = say(&service, format!("{refused}content-length: {}\r\n\r\n ", 2 << 20).as_bytes()).await;
    assert!(said.starts_with("HTTP/1.1 413") && said.contains("connection: close"), "{said}");
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
