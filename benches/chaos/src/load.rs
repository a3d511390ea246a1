//! A client that keeps a ledger.
//!
//! It posts the requests of a shop's made-up traffic, several at a time, and posts each again, with the same event ids,
//! until it is answered. Only then are the request's events in the ledger: what was answered 202 is what must be found
//! afterwards. Some requests are posted once more although they were answered, as browsers do.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use millrace_demo::{Keys, Request};
use serde_json::Value;
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use uuid::Uuid;

/// Requests under way at once.
const WORKERS: usize = 12;
/// A client gives up waiting for an answer, and asks again.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait between two tries: real clients wait longer, but rounds are short.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(500);
/// One request in so many is posted again after its answer.
const AGAIN: usize = 40;
/// Wrong answers that are kept as text.
const WRONG_KEPT_MAX: usize = 20;

/// What the client knows.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    /// Events that were answered as accepted.
    pub(super) accepted: HashSet<Uuid>,
    /// Requests by the status of their answers, those included that say "later".
    pub(super) statuses: BTreeMap<u16, usize>,
    /// Tries that got no answer.
    pub(super) unanswered: usize,
    /// Answers that were neither the expected ones nor "later".
    pub(super) wrong: Vec<String>,
}

struct Shared {
    client: reqwest::Client,
    collector: String,
    keys: Keys,
    requests: Vec<Request>,
    next: AtomicUsize,
    paused: AtomicBool,
    resumed: Notify,
    under_way: AtomicUsize,
    ledger: Mutex<Ledger>,
    /// When the next request may go out.
    due: Mutex<Instant>,
    events_per_second: f64,
}

/// The running client; it ends when dropped.
pub(super) struct Load {
    shared: Arc<Shared>,
    _workers: JoinSet<()>,
}

impl Load {
    /// Begins paused.
    pub(super) fn start(
        collector: &str,
        keys: Keys,
        requests: Vec<Request>,
        events_per_second: f64,
    ) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder()
            .timeout(ANSWER_PATIENCE)
            .connect_timeout(Duration::from_secs(2))
            .build()?;
        let shared = Arc::new(Shared {
            client,
            collector: collector.to_owned(),
            keys,
            requests,
            next: AtomicUsize::new(0),
            paused: AtomicBool::new(true),
            resumed: Notify::new(),
            under_way: AtomicUsize::new(0),
            ledger: Mutex::default(),
            due: Mutex::new(Instant::now()),
            events_per_second,
        });
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(Arc::clone(&shared).work());
        }
        Ok(Self { shared, _workers: workers })
    }

    pub(super) fn resume(&self) {
        *lock(&self.shared.due) = Instant::now();
        self.shared.paused.store(false, Ordering::SeqCst);
        self.shared.resumed.notify_waiters();
    }

    /// Posts nothing new and waits until all that was posted is answered.
    pub(super) async fn pause(&self, deadline: Instant) -> anyhow::Result<()> {
        self.shared.paused.store(true, Ordering::SeqCst);
        loop {
            let left = self.shared.under_way.load(Ordering::SeqCst);
            if left == 0 {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{left} requests are still not answered, though all is whole again"
            );
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Share of the requests that have been posted.
    pub(super) fn posted(&self) -> f64 {
        self.shared.next.load(Ordering::SeqCst) as f64 / self.shared.requests.len().max(1) as f64
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.shared.ledger)
    }
}

impl Shared {
    async fn work(self: Arc<Self>) {
        loop {
            let resumed = self.resumed.notified();
            tokio::pin!(resumed);
            resumed.as_mut().enable();
            // Counted before the look at `paused`: who pauses sets that first and then waits for this to be 0.
            self.under_way.fetch_add(1, Ordering::SeqCst);
            if self.paused.load(Ordering::SeqCst) {
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                resumed.await;
                continue;
            }
            let Some(request) = self.requests.get(self.next.fetch_add(1, Ordering::SeqCst)) else {
                self.under_way.fetch_sub(1, Ordering::SeqCst);
                return;
            };
            sleep_until(self.turn(request.events())).await;
            self.post(request).await;
            self.under_way.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// When a request of so many events may go out.
    fn turn(&self, events: usize) -> Instant {
        let mut due = lock(&self.due);
        // What could not be posted in time is not made up for.
        let turn = (*due).max(Instant::now());
        *due = turn + Duration::from_secs_f64(events as f64 / self.events_per_second);
        turn
    }

    async fn post(&self, request: &Request) {
        self.until_answered(request).await;
        let again = {
            let mut ledger = lock(&self.ledger);
            ledger.accepted.extend(&request.accepted_ids);
            ledger.statuses.values().sum::<usize>().is_multiple_of(AGAIN)
        };
        if again {
            self.until_answered(request).await;
        }
    }

    async fn until_answered(&self, request: &Request) {
        let mut pause = Duration::from_millis(20);
        loop {
            match self.try_once(request).await {
                Ok((status, text)) => {
                    let mut ledger = lock(&self.ledger);
                    *ledger.statuses.entry(status).or_default() += 1;
                    if !matches!(status, 429 | 503) {
                        if let Err(error) = expected(request, status, &text) {
                            ledger.fault(format!("{error:#}"));
                        }
                        return;
                    }
                }
                Err(_) => lock(&self.ledger).unanswered += 1,
            }
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    async fn try_once(&self, request: &Request) -> anyhow::Result<(u16, String)> {
        let answer = request.build(&self.client, &self.collector, &self.keys)?.send().await?;
        Ok((answer.status().as_u16(), answer.text().await?))
    }
}

impl Ledger {
    fn fault(&mut self, text: String) {
        if self.wrong.len() < WRONG_KEPT_MAX {
            self.wrong.push(text);
        }
    }
}

/// An answer must say what the traffic's maker knows.
fn expected(request: &Request, status: u16, text: &str) -> anyhow::Result<()> {
    let expected = &request.expected;
    ensure!(status == expected.status, "expected status {}, got {status}: {text:.300}", expected.status);
    if request.events() == 0 {
        return Ok(());
    }
    let body: Value = serde_json::from_str(text).with_context(|| format!("not JSON: {text:.300}"))?;
    let accepted = body["accepted"].as_u64().unwrap_or(0) as usize;
    ensure!(accepted == expected.accepted, "expected {} accepted: {text:.300}", expected.accepted);
    let rejected = body["rejected"].as_array().map_or(0, Vec::len);
    ensure!(
        rejected == expected.rejected.len(),
        "expected {} rejected: {text:.300}",
        expected.rejected.len()
    );
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
