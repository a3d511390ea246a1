//! Answers, as far as a sender of events has to understand them.

use anyhow::{Context as _, bail};

/// An answer of which all bytes have arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Its status.
    pub status: u16,
    /// Whether the connection can be used again.
    pub keeps_alive: bool,
    /// Its body.
    pub body: &'a [u8],
    /// Bytes that it takes.
    pub bytes: usize,
}

/// No server answers with a larger head.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Reads the answer at the start of `bytes`; `None` while more must arrive.
pub fn read_answer(bytes: &[u8]) -> anyhow::Result<Option<Answer<'_>>> {
    let Some(head_bytes) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
        anyhow::ensure!(bytes.len() < HEAD_BYTES_MAX, "the answer's head does not end");
        return Ok(None);
    };
    let head = std::str::from_utf8(&bytes[..head_bytes]).context("the answer's head is not text")?;
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .with_context(|| format!("not an answer: {status_line:?}"))?;
    let (mut body_bytes, mut keeps_alive) = (0, true);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            body_bytes = value.parse().context("the answer's length is not a number")?;
        } else if name.eq_ignore_ascii_case("connection") {
            keeps_alive = !value.eq_ignore_ascii_case("close");
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("the answer has no length");
        }
    }
    let end = head_bytes + body_bytes;
    let body = bytes.get(head_bytes..end);
    Ok(body.map(|body| Answer { status, keeps_alive, body, bytes: end }))
}

impl Answer<'_> {
    /// Of so many events sent, how many were accepted: what the answer says, and else what its status means.
    pub fn accepted(&self, sent: u64) -> u64 {
        let said = find(self.body, b"\"accepted\":").and_then(|at| {
            let digits = &self.body[at + b"\"accepted\":".len()..];
            let end = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
            std::str::from_utf8(&digits[..end]).ok()?.parse::<u64>().ok()
        });
        said.unwrap_or(if (200..300).contains(&self.status) { sent } else { 0 }).min(sent)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: &[u8] =
        b"HTTP/1.1 202 Accepted\r\nContent-Length: 29\r\n\r\n{\"accepted\":49,\"rejected\":[]}";

    #[test]
    fn answers_come_in_pieces() {
        let answer = read_answer(ACCEPTED).unwrap().unwrap();
        assert_eq!((answer.status, answer.keeps_alive, answer.accepted(50)), (202, true, 49));
        assert_eq!(answer.bytes, ACCEPTED.len());
        for end in 0..ACCEPTED.len() {
            assert_eq!(read_answer(&ACCEPTED[..end]).unwrap(), None, "{end}");
        }
    }

    #[test]
    fn answers_without_a_count_mean_what_their_status_does() {
        let accepted = |text: &str| read_answer(text.as_bytes()).unwrap().unwrap().accepted(3);
        assert_eq!(accepted("HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"), 3);
        assert_eq!(accepted("HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n"), 0);
    }

    #[test]
    fn other_things_are_refused() {
        assert!(read_answer(b"SSH-2.0-OpenSSH_9.6\r\n\r\n").is_err());
        assert!(read_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(read_answer(&[b'a'; HEAD_BYTES_MAX]).is_err());
    }
}
