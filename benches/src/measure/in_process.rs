//! The collector's links alone, in this process, over the bytes that the load sends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::future::try_join_all;
use millrace_collector::{
    chain::collect_body,
    decode::{Form, Scratch},
    encode::Message,
    enrich::Enricher,
    log::Log,
    validate::Request,
};
use simd_json::{Buffers, INPUT_PADDING, Node, Tape, fill_tape_padded};

use super::Sizes;
use crate::{
    process::own_cpu,
    rows::{Maker, enricher, now_ms, sender},
    table::Line,
};

/// Bytes of the bodies that are gone through: more than a processor's cache, as under load.
const BODIES_BYTES: usize = 16 << 20;

/// Bodies, and the messages that the collector makes of each.
pub struct Requests {
    events: usize,
    received_at: i64,
    bodies: Vec<Vec<u8>>,
    messages: Vec<Vec<Message>>,
}

impl Requests {
    /// Requests of so many events each.
    pub fn new(events: usize) -> anyhow::Result<Self> {
        let (received_at, mut maker, mut scratch) =
            (now_ms(), Maker::new(events, 100_000, 1), Scratch::default());
        let (mut bodies, mut messages, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < BODIES_BYTES {
            let body = maker.body(received_at, 250).to_vec();
            let outcome = collect_body(&body, Form::Json, &sender(received_at), enricher(), &mut scratch)
                .map_err(|refusal| anyhow::anyhow!("a request is refused: {}", refusal.detail))?;
            bytes += body.len();
            bodies.push(body);
            messages.push(outcome.messages);
        }
        Ok(Self { events, received_at, bodies, messages })
    }

    /// Parsing alone: simd-json's tape of each body.
    pub fn parse(&self, sizes: &Sizes) -> anyhow::Result<Line> {
        let (mut input, mut buffers, mut spare) =
            (Vec::new(), Buffers::default(), Vec::<Node<'static>>::new());
        self.repeat("parse alone (simd-json tape), one thread", sizes, |body| {
            input.clear();
            input.extend_from_slice(body);
            input.resize(body.len() + INPUT_PADDING, b' ');
            let mut tape = Tape(std::mem::take(&mut spare)).reset();
            fill_tape_padded(&mut input, body.len(), &mut buffers, &mut tape)?;
            spare = tape.reset().0;
            Ok(())
        })
    }

    /// Everything from a body to its messages.
    pub fn chain(&self, sizes: &Sizes) -> anyhow::Result<Line> {
        self.enriched("parse, validate, enrich, encode, one thread", enricher(), sizes)
    }

    /// The same with these steps of enrichment.
    pub fn enriched(&self, what: &str, enricher: &Enricher, sizes: &Sizes) -> anyhow::Result<Line> {
        let (mut scratch, request) = (Scratch::default(), sender(self.received_at));
        self.repeat(what, sizes, |body| take(body, &request, enricher, &mut scratch))
    }

    /// The same with a user agent in each request that nobody has sent before.
    pub fn enriched_anew(&self, what: &str, enricher: &Enricher, sizes: &Sizes) -> anyhow::Result<Line> {
        let (mut scratch, request) = (Scratch::default(), sender(self.received_at));
        let mut version = 1_000;
        self.repeat(what, sizes, |body| {
            version += 1;
            let user_agent = request.user_agent.replace("142.0.0.0", &format!("142.0.{version}.0"));
            let request = Request { user_agent: &user_agent, ..request.clone() };
            take(body, &request, enricher, &mut scratch)
        })
    }

    fn repeat(
        &self,
        what: &str,
        sizes: &Sizes,
        mut work: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Line> {
        self.bodies.iter().try_for_each(|body| work(body))?;
        let (started, cpu, mut requests) = (Instant::now(), own_cpu(), 0);
        while started.elapsed() < sizes.load / 2 {
            for body in self.bodies.iter().take(1000) {
                work(body)?;
                requests += 1;
            }
        }
        let line = self.line(what, requests, started.elapsed(), own_cpu() - cpu);
        Ok(Line { is_one_thread: true, ..line })
    }

    /// Appending alone: as many requests wait for the log's acknowledgement as there are connections.
    pub async fn append(&self, what: &str, log: &Arc<dyn Log>, sizes: &Sizes) -> anyhow::Result<Line> {
        let (next, done, stop) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
        let senders = try_join_all((0..sizes.connections).map(|_| async {
            while !stop.load(Ordering::Relaxed) {
                let messages = &self.messages[next.fetch_add(1, Ordering::Relaxed) % self.messages.len()];
                log.append(messages.clone()).await.context("the log refused a request")?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        }));
        let clock = async {
            // A producer's first acknowledgement takes long: it introduces itself to the brokers.
            while done.load(Ordering::Relaxed) == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            tokio::time::sleep(sizes.warm_up).await;
            let (started, cpu, before) = (Instant::now(), own_cpu(), done.load(Ordering::Relaxed));
            tokio::time::sleep(sizes.load / 2).await;
            let (wall, cpu) = (started.elapsed(), own_cpu() - cpu);
            let requests = done.load(Ordering::Relaxed) - before;
            stop.store(true, Ordering::Relaxed);
            Ok((requests, wall, cpu))
        };
        // A log that refuses ends the wait, too.
        let (_, (requests, wall, cpu)) = tokio::try_join!(senders, clock)?;
        anyhow::ensure!(requests > 0, "{what}: nothing was acknowledged in time");
        Ok(self.line(what, requests as u64, wall, cpu))
    }

    fn line(&self, what: &str, requests: u64, wall: Duration, cpu: Duration) -> Line {
        Line {
            requests: Some(requests),
            wall: Some(wall),
            cpu: Some(cpu),
            ..Line::new(what, requests * self.events as u64)
        }
    }
}

fn take(
    body: &[u8],
    request: &Request<'_>,
    enricher: &Enricher,
    scratch: &mut Scratch,
) -> anyhow::Result<()> {
    collect_body(body, Form::Json, request, enricher, scratch)
        .map_err(|refusal| anyhow::anyhow!("a request is refused: {}", refusal.detail))?;
    Ok(())
}

/// Waits until a log takes appends: a log is looked after by its owner, about once a second.
pub async fn await_log(log: &Arc<dyn Log>) -> anyhow::Result<()> {
    for _ in 0..20 {
        let ticked = Arc::clone(log);
        tokio::task::spawn_blocking(move || ticked.tick()).await?;
        if log.ready().is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    anyhow::bail!("the log is not ready: {}", log.ready().err().unwrap_or_default())
}
