//! Every listener of a running pipeline, asked by whoever can reach its port.

use std::{collections::BTreeSet, net::SocketAddr, process::Stdio, time::Duration};

use millrace_local::process::{Process, Signal, bound, program};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::pipeline::{ADMIN_TOKEN, OneMachine};

/// What a busy machine needs for an answer at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// Open files of the pipeline's own process.
const FILES: u64 = 1024;
/// Connections to a listener that is to be taken from everybody.
const FLOOD: usize = 1500;

/// A pipeline in a process that may have few files.
struct Pipeline {
    machine: OneMachine,
    process: Process,
}

impl Pipeline {
    async fn start() -> Self {
        let machine = OneMachine::new();
        let mut command = bound(Signal::KILL, "prlimit");
        let log = std::fs::File::create(machine.dir.path().join("millrace.log")).unwrap();
        command.arg(format!("--nofile={FILES}:{FILES}")).arg(program("millrace").unwrap());
        command.args(machine.arguments());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = Process::spawn(command).unwrap();
        machine.ready(&mut process).await;
        Self { machine, process }
    }

    /// Collector, API, metrics.
    fn addresses(&self) -> [SocketAddr; 3] {
        let address = |at: usize| SocketAddr::from(([127, 0, 0, 1], self.machine.ports[at].number()));
        [address(0), address(1), address(2)]
    }

    /// Names and labels of all metrics.
    async fn series(&self) -> BTreeSet<String> {
        let text = ask(self.addresses()[2], "GET", "/metrics", "", "").await;
        let (_, text) = text.split_once("\r\n\r\n").unwrap();
        text.lines()
            .filter(|line| !line.starts_with('#') && line.contains("_requests_total"))
            .chain(text.lines().filter(|line| line.contains("_rejected_total")))
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, _)| name.to_owned())
            .collect()
    }
}

/// Sends bytes, and reads until the other side closes the connection.
async fn say(to: SocketAddr, bytes: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(to).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
        while let Ok(read @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..read]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    };
    tokio::time::timeout(PATIENCE, exchange).await.unwrap_or_else(|_| panic!("{to} says nothing"))
}

async fn ask(to: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let host = if headers.contains("Host:") { "" } else { "Host: localhost\r\n" };
    let head = format!("{method} {path} HTTP/1.1\r\n{host}Connection: close\r\n{length}{headers}\r\n");
    say(to, format!("{head}{body}").as_bytes()).await
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| &answer[..3]).collect()
}

#[tokio::test]
async fn every_listener_is_served_alike() {
    let pipeline = Pipeline::start().await;
    let [collector, api, metrics] = pipeline.addresses();
    requests_are_read_in_one_way(&pipeline).await;
    only_known_hosts_are_answered(&pipeline).await;
    what_is_made_up_makes_no_metrics(&pipeline).await;

    // A body that does not come is given up, and a slow one takes nothing from others.
    let slow = format!(
        "POST /api/v1/stores HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    assert_eq!(status(&say(api, slow.as_bytes()).await), "408");

    let held = flood(&[api, metrics]).await;
    let event = r#"{"type":"event","name":"test","visitor_id":"v"}"#;
    for _ in 0..5 {
        let key = "X-Write-Key: demo-write-key\r\n";
        let at_once =
            futures::future::join_all((0..20).map(|_| ask(collector, "POST", "/v1/collect", key, event)));
        for answer in at_once.await {
            assert_eq!(status(&answer), "202", "{answer}");
        }
        assert_eq!(status(&ask(api, "GET", "/healthz", "", "").await), "200");
        assert_eq!(status(&ask(metrics, "GET", "/metrics", "", "").await), "200");
    }
    drop(held);
    let mut process = pipeline.process;
    assert!(process.stop(Signal::TERM, 3 * PATIENCE).await.unwrap().success());
}

/// Takes all connections of these listeners with heads that never end.
async fn flood(listeners: &[SocketAddr]) -> Vec<TcpStream> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let mut held = Vec::new();
    for number in 0..FLOOD * listeners.len() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        let connect = socket.connect(listeners[number % listeners.len()]);
        let mut stream = tokio::time::timeout(PATIENCE, connect).await.unwrap().unwrap();
        let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ").await;
        held.push(stream);
    }
    held
}

async fn requests_are_read_in_one_way(pipeline: &Pipeline) {
    let hidden = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for listener in pipeline.addresses() {
        for request in [
            "GET /healthz HTTP/1.1\nHost: localhost\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\n",
            "GET /healthz HTTP/1.1\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            "GET http://127.0.0.1/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST /healthz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nHost : localhost\r\n\r\n",
        ] {
            let answers = say(listener, format!("{request}{hidden}").as_bytes()).await;
            assert_eq!(statuses(&answers), ["400"], "{listener} {request:?}: {answers}");
        }
        // Of whatever a listener allows, the largest is 32 KiB.
        let head = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(40_000));
        let answers = say(listener, head.as_bytes()).await;
        assert!(matches!(statuses(&answers)[..], ["431"] | []), "{listener}: {answers}");
        assert_eq!(say(listener, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await, "", "{listener}");
        let many = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(200));
        assert_eq!(statuses(&say(listener, many.as_bytes()).await), ["431"], "{listener}");

        let kept = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let answers = say(listener, format!("{kept}{kept}{hidden}").as_bytes()).await;
        assert_eq!(statuses(&answers), ["200", "200", "200"], "{listener}: {answers}");
        for (method, path) in [
            ("GET", "/healthz"),
            ("GET", "/nothing"),
            ("MADE-UP", "/healthz"),
            ("POST", "/healthz"),
            ("OPTIONS", "*"),
            ("GET", "/api/v1/stores/%ff/funnels"),
            ("GET", "/api/v1/stores"),
        ] {
            let answer = ask(listener, method, path, "", "").await.to_lowercase();
            assert!(
                answer.contains("x-content-type-options: nosniff"),
                "{listener} {method} {path}: {answer}"
            );
            assert!(
                answer.contains("content-type: application/json"),
                "{listener} {method} {path}: {answer}"
            );
        }
    }
}

async fn only_known_hosts_are_answered(pipeline: &Pipeline) {
    let [collector, api, metrics] = pipeline.addresses();
    for (listener, path) in [
        (collector, "/healthz"),
        (collector, "/readyz"),
        (api, "/healthz"),
        (api, "/readyz"),
        (api, "/openapi.json"),
        (api, "/api/v1/stores"),
        (api, "/nothing"),
        (metrics, "/metrics"),
        (metrics, "/healthz"),
        (metrics, "/readyz"),
        (metrics, "/nothing"),
    ] {
        for (host, refused) in [
            ("evil.example", true),
            ("127.0.0.1.evil.example", true),
            ("localhost:80", false),
            ("127.0.0.1", false),
            ("[::1]:9100", false),
        ] {
            let answer = ask(listener, "GET", path, &format!("Host: {host}\r\n"), "").await;
            assert_eq!(status(&answer) == "421", refused, "{listener}{path} {host}: {answer}");
        }
    }
    // Pages reach these by whatever name the shop has given them.
    for path in ["/t.js", "/t.core.js", "/openapi.json", "/v1/pixel.gif?key=demo-write-key&type=event&name=a"]
    {
        let answer = ask(collector, "GET", path, "Host: shop.example\r\n", "").await;
        assert_eq!(status(&answer), "200", "{path}: {answer}");
        assert!(answer.contains("x-content-type-options: nosniff"), "{path}: {answer}");
    }
}

async fn what_is_made_up_makes_no_metrics(pipeline: &Pipeline) {
    make_up(pipeline, "zqfirst", 3).await;
    let before = pipeline.series().await;
    assert!(before.len() > 20, "{before:?}");
    make_up(pipeline, "zqsecond", 60).await;
    let after = pipeline.series().await;
    let new: Vec<_> = after.difference(&before).collect();
    assert!(new.is_empty(), "{new:?}");
    let all = ask(pipeline.addresses()[2], "GET", "/metrics", "", "").await.to_lowercase();
    for made_up in ["zqfirst", "zqsecond"] {
        assert!(!all.contains(made_up), "a label holds what a client made up");
    }
}

/// Asks everybody for everything that there is not, under so many names.
async fn make_up(pipeline: &Pipeline, name: &str, times: usize) {
    for number in 0..times {
        let made_up = format!("{name}{number}");
        for listener in pipeline.addresses() {
            let upper = made_up.to_uppercase();
            let store = format!("/api/v1/stores/{made_up}");
            for (method, path, headers, body) in [
                (upper.as_str(), "/".to_owned(), String::new(), ""),
                (&upper, "/v1/collect".into(), String::new(), ""),
                (&upper, "/metrics".into(), String::new(), ""),
                (&upper, "/healthz".into(), String::new(), ""),
                (&upper, format!("{store}/funnels"), String::new(), ""),
                ("GET", format!("/{made_up}"), String::new(), ""),
                ("GET", "/healthz".into(), format!("Host: {made_up}.example\r\n"), ""),
                (
                    "GET",
                    "/healthz".into(),
                    format!("User-Agent: {made_up}\r\nX-{made_up}: {made_up}\r\n"),
                    "",
                ),
                (
                    "GET",
                    format!("{store}/analytics_summary"),
                    format!("Authorization: Bearer {made_up}\r\n"),
                    "",
                ),
                ("GET", format!("{store}/{made_up}"), "Authorization: Bearer demo-api-token\r\n".into(), ""),
                (
                    "DELETE",
                    format!("{store}/visitors/{made_up}"),
                    format!("Authorization: Bearer {ADMIN_TOKEN}\r\n"),
                    "",
                ),
                (
                    "POST",
                    format!("/k/{made_up}/{made_up}"),
                    format!("Content-Type: text/{made_up}\r\n"),
                    "{}",
                ),
                ("POST", "/v1/collect".into(), format!("X-Write-Key: {made_up}\r\n"), "{}"),
                (
                    "POST",
                    "/v1/collect".into(),
                    format!("X-Write-Key: demo-write-key\r\nContent-Encoding: {made_up}\r\n"),
                    "{}",
                ),
            ] {
                ask(listener, method, &path, &headers, body).await;
            }
        }
        let [collector, ..] = pipeline.addresses();
        let event = format!(
            r#"[{{"type":"event","name":"{made_up}","category":"{made_up}"}},{{"type":"{made_up}"}}]"#
        );
        let headers = format!("X-Write-Key: demo-write-key\r\nUser-Agent: {made_up}\r\n");
        assert_eq!(status(&ask(collector, "POST", "/v1/collect", &headers, &event).await), "202");
    }
}
