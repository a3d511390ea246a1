//! The load against the server that takes everything, and against one that takes nothing.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Command, Output},
};

use axum::{Router, http::StatusCode, routing::post};

/// A server on a thread of its own, for as long as the test runs.
fn serve(router: Option<Router>) -> SocketAddr {
    let (sender, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
            sender.send(listener.local_addr().expect("it has an address")).expect("the test waits for it");
            match router {
                Some(router) => axum::serve(listener, router).await,
                None => millrace_benches::floor::serve(listener).await,
            }
            .expect("it serves");
        });
    });
    address.recv().expect("the server starts")
}

fn load(address: SocketAddr, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_load"))
        .arg(format!("--url=http://{address}/v1/collect"))
        .args(arguments)
        .output()
        .expect("the load runs")
}

#[test]
fn a_rate_is_kept_and_memory_is_watched() {
    let own = std::process::id().to_string();
    let arguments =
        ["--rate=2000", "--duration=1s", "--connections=4", "--watch-every=100ms", "--watch-tree", &own];
    let run = load(serve(None), &arguments);
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}{}", String::from_utf8_lossy(&run.stderr));
    // 2,000 events in requests of 10: never more, and on a busy machine, where the last are cut off, not far less.
    let requests: usize =
        said.split_once(" requests").and_then(|(count, _)| count.parse().ok()).expect("a count");
    assert!((20..=200).contains(&requests), "{said}");
    assert!(said.contains(&format!("{requests}0 events accepted, 0 rejected")), "{said}");
    assert!(said.contains(&format!("| {own} |")) && said.contains("together, at one moment"), "{said}");
}

#[test]
fn what_is_refused_is_told() {
    let refuse = || async { (StatusCode::SERVICE_UNAVAILABLE, r#"{"error":"unavailable"}"#) };
    let address = serve(Some(Router::new().route("/v1/collect", post(refuse))));
    let run = load(address, &["--rate=0", "--duration=3s", "--events-per-request=3"]);
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(!run.status.success(), "{said}");
    assert!(
        said.contains(": 0 events accepted") && said.contains(r#"503: {"error":"unavailable"}"#),
        "{said}"
    );
}

#[test]
fn a_server_that_is_not_there_is_told() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = load(address, &["--duration=2s", "--connections=1"]);
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(!run.status.success() && said.contains("Connection refused"), "{said}");
}
