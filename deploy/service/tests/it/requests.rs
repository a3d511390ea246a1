//! What is no request, or more than one, is refused; and nothing that was hidden in it is answered.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Bytes, routing::get};
use millrace_service::serve::{Options, serve};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What a busy machine needs for an answer at most.
const PATIENCE: Duration = Duration::from_secs(60);

/// A listener with a page that takes bodies, and one that nobody may reach.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    smuggled: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Server {
    pub(crate) async fn start(options: Options) -> Self {
        let smuggled = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&smuggled);
        let secret = move || {
            counted.fetch_add(1, Ordering::Relaxed);
            std::future::ready("secret")
        };
        let router = Router::new()
            .route("/", get(async || "page").post(async |body: Bytes| format!("{} bytes", body.len())))
            .route("/secret", get(secret));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        tokio::spawn(serve(listener, router, options, Arc::new(()), stop.clone(), Duration::ZERO));
        Self { address, smuggled, _stop: stop.drop_guard() }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends bytes and reads until the other side has closed the connection.
    async fn send(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        let _ = stream.write_all(bytes).await;
        read_to_end(&mut stream).await
    }
}

/// All that comes until the connection is closed, also by a reset.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = async {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = stream.read(&mut piece).await {
            answer.extend_from_slice(&piece[..read]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("the connection is closed");
    String::from_utf8(answer).unwrap()
}

fn statuses(answers: &str) -> Vec<&str> {
    answers.split("HTTP/1.").skip(1).map(|answer| &answer[2..5]).collect()
}

const SMUGGLED: &str = "GET /secret HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_hides_nothing() {
    let server = Server::start(Options::api(64)).await;
    let hidden = SMUGGLED.len();
    for (what, request) in [
        ("a bare line feed after the request line", "GET / HTTP/1.1\nHost: a\r\n\r\n".to_owned()),
        ("a bare line feed after a header", "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n".into()),
        ("a bare line feed as the head's end", "GET / HTTP/1.1\r\nHost: a\r\n\n".into()),
        ("only bare line feeds", "GET / HTTP/1.1\nHost: a\n\n".into()),
        ("a bare carriage return", "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n".into()),
        ("a folded header", "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n".into()),
        ("a folded coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n".into()),
        ("a blank before a colon", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length : 0\r\n\r\n".into()),
        ("a header without a name", "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n".into()),
        ("a NUL", "GET / HTTP/1.1\r\nHost: a\r\nX: \0\r\n\r\n".into()),
        ("two lengths", format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: {hidden}\r\n\r\n")),
        ("a length twice", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n".into()),
        ("a list of lengths", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 0\r\n\r\n".into()),
        ("a length with a sign", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n".into()),
        (
            "a length and a coding",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        (
            "a coding and a length",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n".into(),
        ),
        ("two codings", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n".into()),
        ("an unknown coding", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".into()),
        (
            "a coding twice",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("a coding in HTTP/1.0", "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into()),
        ("no host", "GET / HTTP/1.1\r\n\r\n".into()),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n".into()),
        ("two hosts in HTTP/1.0", "GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\nConnection: keep-alive\r\n\r\n".into()),
        ("hosts in a list", "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n".into()),
        ("a target of another host", "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".into()),
        ("a version that is none", "GET / HTTP/1.2\r\nHost: a\r\n\r\n".into()),
        ("no version", "GET /\r\n\r\n".into()),
        ("garbage", "\u{1}\u{2}\u{3}\r\n\r\n".into()),
    ] {
        let answers = server.send(format!("{request}{SMUGGLED}").as_bytes()).await;
        assert_eq!(statuses(&answers), ["400"], "{what}: {answers}");
        assert!(answers.to_lowercase().contains("connection: close"), "{what}: {answers}");
    }
    // In a chunked body: its own request has been taken, and its answer is the last.
    for (what, body) in [
        ("a chunk's size that ends in a bare line feed", "0\n\r\n"),
        ("a chunk that ends in a bare line feed", "1\r\na\n0\r\n\r\n"),
        ("a chunk that is longer than it says", "1\r\nab\r\n0\r\n\r\n"),
        ("a size with a sign", "+0\r\n\r\n"),
        ("an extension with a line feed", "0;\n\r\n\r\n"),
        ("a trailer that ends in a bare line feed", "0\r\nX: y\n\r\n\r\n"),
        ("a trailer that has no colon", "0\r\nX\r\n\r\n"),
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answers = server.send(format!("{head}{body}{SMUGGLED}").as_bytes()).await;
        assert_eq!(statuses(&answers), ["400"], "{what}: {answers}");
    }
    // Of another protocol. The first is none of HTTP/1's and gets no answer.
    let preface = server.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    assert_eq!(preface, "");
    let hello = server.send(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n").await;
    assert_eq!(statuses(&hello), ["400"]);
    assert_eq!(server.smuggled.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_is_well_formed_is_answered_in_its_order() {
    let server = Server::start(Options::api(64)).await;
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (request, answered) in [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", vec!["200", "200"]),
        ("\r\nGET / HTTP/1.1\r\nhost:a:80\r\n\r\n\r\n", vec!["200", "200"]),
        ("GET http://a/ HTTP/1.1\r\nHost: A\r\n\r\n", vec!["200", "200"]),
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", vec!["200", "200"]),
        ("GET / HTTP/1.0\r\n\r\n", vec!["200"]),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n\na\n\nb", vec!["200", "200"]),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n\n\n\r\n0\r\nX: y\r\n\r\n",
            vec!["200", "200"],
        ),
        (
            "POST /secret HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
            vec!["405", "200", "200"],
        ),
        // Requests before the one that is refused have their answers.
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\nHost: a\r\n\r\n", vec!["200", "400"]),
    ] {
        let answers = server.send(format!("{request}{last}").as_bytes()).await;
        assert_eq!(statuses(&answers), answered, "{request:?}: {answers}");
        let sniffed = answers.matches("x-content-type-options: nosniff").count();
        assert_eq!(sniffed, answered.iter().filter(|status| **status != "400").count(), "{answers}");
    }
}

#[tokio::test]
async fn a_head_is_bounded_to_the_byte() {
    for head_bytes_max in [1_000, 16 << 10, 32 << 10] {
        let server = Server::start(Options { head_bytes_max, headers_max: 50, ..Options::api(64) }).await;
        let head = |bytes: usize| {
            let rest = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: \r\n\r\n".len();
            let value = "x".repeat(bytes - rest);
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: {value}\r\n\r\n")
        };
        assert_eq!(statuses(&server.send(head(head_bytes_max).as_bytes()).await), ["200"]);
        for bytes in [head_bytes_max + 1, head_bytes_max + 8_000, 4 * head_bytes_max] {
            let answers = server.send(head(bytes).as_bytes()).await;
            assert!(matches!(statuses(&answers)[..], ["431"] | []), "{bytes}: {answers}");
        }
        assert_eq!(statuses(&server.send(head(head_bytes_max + 1).as_bytes()).await), ["431"]);
        let many = |headers: usize| {
            let more = "X: y\r\n".repeat(headers - 2);
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n")
        };
        assert_eq!(statuses(&server.send(many(50).as_bytes()).await), ["200"]);
        assert_eq!(statuses(&server.send(many(51).as_bytes()).await), ["431"]);
    }
}

/// Sends a beginning, and then the same again and again; ends when the other side has closed the connection.
async fn without_end(server: &Server, begin: &str, again: &[u8], bytes_max: usize) {
    let mut stream = server.connect().await;
    stream.write_all(begin.as_bytes()).await.unwrap();
    let mut sent = 0;
    while stream.write_all(again).await.is_ok() {
        sent += again.len();
        // What the kernel holds on both sides comes on top.
        assert!(sent < bytes_max, "{begin:?} goes on");
    }
}

#[tokio::test]
async fn nothing_of_a_request_goes_on_for_ever() {
    let server = Server::start(Options { body_timeout: PATIENCE, ..Options::api(64) }).await;
    let again = |text: &str| text.repeat(4096 / text.len()).into_bytes();
    let (piece, line_ends, headers, chunks) =
        (again("x"), again("\r\n"), again("X: y\r\n"), again("1\r\na\r\n"));
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (begin, again) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nX: ", &piece),
        ("GET / HTTP/1.1\r\nHost: a\r\n", &headers),
        ("GET /", &piece),
        ("", &line_ends),
        (&format!("{chunked}1;"), &piece),
        (&format!("{chunked}0\r\nX: "), &piece),
        (&format!("{chunked}0\r\n"), &headers),
        (&chunked.replace("POST / ", "POST /secret "), &chunks),
    ] {
        without_end(&server, begin, again, 16 << 20).await;
    }
}
