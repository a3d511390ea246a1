//! The listener by raw bytes.

use millrace_testbed::Engine;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// An engine that nobody has told of a host name: what DNS rebinding looks like on the wire.
#[tokio::test]
async fn a_foreign_host_is_refused() {
    let engine = Engine::start_with(["--allowed-hosts=clickhouse.internal"]).await.unwrap();
    let address = engine.url().replace("http://", "");
    let ask = async |target: &str, headers: &str| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let request = format!("GET {target} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    for target in ["/?query=SELECT+'in'", "/ping", "/", "/elsewhere"] {
        for host in [
            "attacker.example",
            "attacker.example:8123",
            "127.0.0.1.attacker.example",
            "localhost.attacker.example",
        ] {
            let answer = ask(target, &format!("Host: {host}\r\n")).await;
            assert!(answer.starts_with("HTTP/1.1 421 "), "{host} {target}: {answer}");
            assert!(answer.contains("Code: 497. DB::Exception: "), "{answer}");
        }
        assert!(ask(target, "").await.starts_with("HTTP/1.1 400 "), "{target} without a host");
        let lenient = ask(target, "Host: localhost\nX: y\r\n").await;
        assert!(lenient.is_empty() || lenient.starts_with("HTTP/1.1 400 "), "a bare line feed: {lenient}");
        let twice = ask(target, "Host: localhost\r\nHost: localhost\r\n").await;
        assert!(twice.starts_with("HTTP/1.1 400 "), "{target}: {twice}");
    }
    let absolute = ask("http://attacker.example/?query=SELECT+1", "Host: localhost\r\n").await;
    assert!(absolute.starts_with("HTTP/1.1 400 "), "{absolute}");
    for host in ["localhost", "127.0.0.1:1", "[::1]", "clickhouse.internal", "db.localhost:8123"] {
        let answer = ask("/?query=SELECT+'in'", &format!("Host: {host}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("in\n"), "{host}: {answer}");
    }
    for header in [
        "Origin: http://127.0.0.1",
        "Origin: null",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-origin",
    ] {
        let answer = ask("/?query=SELECT+'in'", &format!("Host: localhost\r\n{header}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 403 "), "{header}: {answer}");
    }
}
