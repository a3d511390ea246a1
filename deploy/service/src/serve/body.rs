//! Bodies on their way, and what handlers leave unread of a request's: a refusal need not wait for the body, but its
//! sender does.
//!
//! Many clients and proxies look for an answer only when they have sent everything. Who hangs up meanwhile resets their
//! connection, and the answer is lost: a proxy makes a 502 of it. So the rest is read and thrown away before the answer
//! is given, as far as the bounds of a body that is wanted allow: its time, its connection, and no memory. Who asks before
//! sending (`Expect: 100-continue`) is answered at once.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Request,
    body::{Body, Frame, Incoming, SizeHint},
    header::EXPECT,
};

use super::connections::Connection;

/// Of a refused body, so many times the largest that is wanted. Who sends more has not just misjudged a batch.
const TIMES_MAX: u64 = 8;
/// What a piece of one counts for, however small: each costs its chunk's line, too.
const PIECE_BYTES_MIN: u64 = 512;

/// A request's body. What its handler has not read when it drops it is left with the connection.
pub(super) struct Given {
    /// `None`: it has ended.
    body: Option<Incoming>,
    is_sent: bool,
    connection: Arc<Connection>,
}

/// The rest of a body.
#[derive(Debug)]
pub(super) struct Unread {
    body: Incoming,
    /// Its sender does not wait to be asked for it.
    is_sent: bool,
}

impl Given {
    pub(super) fn of(request: Request<Incoming>, connection: &Arc<Connection>) -> Request<Self> {
        let is_sent = !request.headers().contains_key(EXPECT);
        if request.body().is_end_stream() {
            connection.work();
        }
        request.map(|body| Self { body: Some(body), is_sent, connection: Arc::clone(connection) })
    }
}

impl Body for Given {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        // Whoever waited to be asked is asked by this.
        self.is_sent = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(&mut *body).poll_frame(context));
        if body.is_end_stream() || frame.is_none() {
            self.connection.work();
        }
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        if let Some(body) = self.body.take()
            && !body.is_end_stream()
        {
            self.connection.leave(Unread { body, is_sent: self.is_sent });
        }
    }
}

impl Unread {
    /// Reads it to its end, if that is within bounds; whether it was.
    pub(super) async fn discard(mut self, body_bytes_max: usize, deadline: Instant) -> bool {
        let mut bytes_left = TIMES_MAX.saturating_mul(body_bytes_max as u64);
        if !self.is_sent || self.body.size_hint().lower() > bytes_left {
            return false;
        }
        let discard = async {
            while let Some(frame) = self.body.frame().await {
                let Ok(frame) = frame else { return false };
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let Some(left) = bytes_left.checked_sub(bytes.max(PIECE_BYTES_MIN)) else { return false };
                bytes_left = left;
            }
            true
        };
        tokio::time::timeout_at(deadline.into(), discard).await.unwrap_or(false)
    }
}

/// An answer that is made while it is sent. Whoever takes it is not idle; whoever takes nothing of it is.
pub(super) struct Streamed {
    body: axum::body::Body,
    connection: Arc<Connection>,
}

impl Streamed {
    /// The same answer, if it is one.
    pub(super) fn of(body: axum::body::Body, connection: &Arc<Connection>) -> axum::body::Body {
        if body.size_hint().exact().is_some() {
            return body;
        }
        axum::body::Body::new(Self { body, connection: Arc::clone(connection) })
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        self.connection.wait(Instant::now());
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
