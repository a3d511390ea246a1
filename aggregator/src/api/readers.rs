//! How many reads of rollups are answered at once, and how many bytes their answers hold.
//!
//! A store has a few places. Some more of its reads wait for one, not for long, and what comes beyond them is refused. A
//! read keeps its place and the bytes of its answer until that was sent or given up, so who does not take what was read
//! takes places of their own store alone.

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use futures::{Stream, TryStreamExt as _};
use hyper::body::{Frame, SizeHint};
use serde_json::{Value, json};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{Answer, Failure, read::Page};

/// Reads of one store at once. Each holds a connection until its rows are there: fewer than the API has.
pub(super) const AT_ONCE: usize = 2;
/// Reads of one store that are served or wait.
const ASKING_MAX: usize = 16;
/// Longest that a read waits for a place, and for room.
const WAIT_MAX: Duration = Duration::from_secs(2);
/// Bytes of rows in one answer, at most; the next page has the others.
pub(super) const ANSWER_BYTES_MAX: usize = 8 << 20;
/// Room for all answers, and how it is counted.
const ROOM_KIB: usize = 64 << 10;
const ANSWER_KIB: u32 = (ANSWER_BYTES_MAX >> 10) as u32;
/// What of an answer is handed over to be sent at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The reads that are under way.
#[derive(Clone, Debug)]
pub(super) struct Readers {
    stores: Arc<Mutex<HashMap<String, Store>>>,
    room: Arc<Semaphore>,
}

#[derive(Debug)]
struct Store {
    places: Arc<Semaphore>,
    asking: usize,
}

impl Default for Readers {
    fn default() -> Self {
        Self { stores: Arc::default(), room: Arc::new(Semaphore::new(ROOM_KIB)) }
    }
}

impl Readers {
    /// A place among the store's readers, with room for an answer.
    pub(super) async fn enter(&self, store_id: &str) -> Answer<Place> {
        let too_many = || {
            let message = "the store is read more often at once than it may be; try again";
            Failure::new(StatusCode::TOO_MANY_REQUESTS, message)
        };
        let (asking, places) = self.ask(store_id).ok_or_else(too_many)?;
        let Ok(Ok(place)) = timeout(WAIT_MAX, places.acquire_owned()).await else { return Err(too_many()) };
        let room = timeout(WAIT_MAX, Arc::clone(&self.room).acquire_many_owned(ANSWER_KIB)).await;
        let Ok(Ok(room)) = room else {
            let message = "too much that was read has not been taken yet; try again";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, message));
        };
        Ok(Place { room, _place: place, _asking: asking })
    }

    fn ask(&self, store_id: &str) -> Option<(Asking, Arc<Semaphore>)> {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Store { places: Arc::new(Semaphore::new(AT_ONCE)), asking: 0 };
        let store = stores.entry(store_id.to_owned()).or_insert_with(new);
        if store.asking >= ASKING_MAX {
            return None;
        }
        store.asking += 1;
        let asking = Asking { stores: Arc::clone(&self.stores), store_id: store_id.to_owned() };
        Some((asking, Arc::clone(&store.places)))
    }
}

/// A read, served or waiting.
#[derive(Debug)]
struct Asking {
    stores: Arc<Mutex<HashMap<String, Store>>>,
    store_id: String,
}

impl Drop for Asking {
    fn drop(&mut self) {
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get_mut(&self.store_id) {
            store.asking -= 1;
            if store.asking == 0 {
                stores.remove(&self.store_id);
            }
        }
    }
}

/// A read that is served.
#[derive(Debug)]
pub(super) struct Place {
    room: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
    _asking: Asking,
}

impl Place {
    /// An answer that keeps the place until it was sent or given up, and of the room what it needs.
    pub(super) fn answer(mut self, json: String) -> Response {
        let unused = self.room.num_permits().saturating_sub(json.len().div_ceil(1 << 10));
        drop(self.room.split(unused));
        let body = Held { rest: Bytes::from(json), _place: self };
        ([(header::CONTENT_TYPE, "application/json")], Body::new(body)).into_response()
    }
}

/// A page of rows as they come, until there are `limit`, or bytes enough.
pub(super) async fn page(
    page: &Page,
    mut rows: impl Stream<Item = sqlx::Result<String>> + Unpin,
    watermark: &Value,
) -> Answer<String> {
    let mut text = String::from("{\"data\":[");
    let (mut count, mut next) = (0, None);
    while let Some(row) = rows.try_next().await? {
        if count == page.limit || (count > 0 && text.len() + row.len() > ANSWER_BYTES_MAX) {
            next = Some(page.offset.saturating_add(count));
            break;
        }
        if count > 0 {
            text.push(',');
        }
        text.push_str(&row);
        count += 1;
    }
    text.push_str(&format!("],\"next_offset\":{},\"watermark\":{watermark}}}", json!(next)));
    text.shrink_to_fit();
    Ok(text)
}

/// In pieces: a body that is handed over whole counts as sent while all of it still waits.
struct Held {
    rest: Bytes,
    _place: Place,
}

impl hyper::body::Body for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.rest.is_empty() {
            return Poll::Ready(None);
        }
        let len = self.rest.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(len)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
