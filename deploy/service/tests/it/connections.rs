//! Who holds connections open keeps nobody out.

use std::time::Duration;

use millrace_service::serve::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::requests::{Server, read_to_end};

#[tokio::test]
async fn idle_heads_take_nothing_from_others() {
    let server = Server::start(Options { head_timeout: Duration::from_secs(3600), ..Options::api(8) }).await;
    let mut held = Vec::new();
    for number in 0..200 {
        let mut stream = server.connect().await;
        let _ = stream
            .write_all(["", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\nX: "][number % 3].as_bytes())
            .await;
        held.push(stream);
        if number % 20 == 19 {
            let mut stream = server.connect().await;
            stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
            assert!(read_to_end(&mut stream).await.starts_with("HTTP/1.1 200"));
        }
    }
    // The oldest have been closed.
    let mut byte = [0];
    assert!(matches!(held[0].read(&mut byte).await, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_head_that_is_not_complete_in_time_ends_its_connection() {
    let server = Server::start(Options { head_timeout: Duration::from_millis(200), ..Options::api(8) }).await;
    for begin in ["", "GET / HTTP/1.1\r\nHost: a\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let mut stream = server.connect().await;
        stream.write_all(begin.as_bytes()).await.unwrap();
        let answers = read_to_end(&mut stream).await;
        assert_eq!(answers.contains("200 OK"), begin.ends_with("\r\n\r\n"), "{answers}");
    }
}
