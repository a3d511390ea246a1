//! One connection: a request, its answer, the next request.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{APART_MS, Answer, Share, Summary, VISITORS, read_answer};
use crate::{event::Fresh, rows::now_ms};

/// How long to wait before a connection that broke is made again.
const RECONNECT_AFTER: Duration = Duration::from_millis(100);
/// Nobody waits longer for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Sends until the time is up; what happened is returned, and counted as it happens.
pub(super) async fn run(share: &Share, number: usize) -> anyhow::Result<Summary> {
    let mut sender = Sender {
        share,
        tally: Summary::new()?,
        fresh: Fresh::new(share.plan.seed.wrapping_add(number as u64 + 1), VISITORS),
        request: Vec::new(),
        answer: Vec::with_capacity(4096),
        sent: 0,
        number,
    };
    while sender.goes_on() {
        if let Err(error) = sender.over_one_connection().await {
            sender.tally.broken += 1;
            sender.tally.note(format!("{error:#}"));
            sender.answer.clear();
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }
    Ok(sender.tally)
}

struct Sender<'a> {
    share: &'a Share,
    tally: Summary,
    fresh: Fresh,
    request: Vec<u8>,
    answer: Vec<u8>,
    sent: usize,
    number: usize,
}

impl Sender<'_> {
    fn goes_on(&self) -> bool {
        !self.share.stop.load(Ordering::Relaxed) && self.share.started.elapsed() < self.share.plan.duration
    }

    /// Waits until the next request is due; `None`: there is none.
    async fn due(&self) -> Option<Instant> {
        let Some(rate) = self.share.plan.rate else { return self.goes_on().then(Instant::now) };
        let plan = &self.share.plan;
        // Connections take turns, so that requests are evenly spread.
        let turn = (self.sent * plan.connections + self.number) as f64;
        let after = Duration::from_secs_f64(turn * plan.mix.events as f64 / rate);
        if after >= plan.duration {
            let left = plan.duration.saturating_sub(self.share.started.elapsed());
            tokio::time::sleep(left).await;
            return None;
        }
        let due = self.share.started + after;
        tokio::time::sleep_until(due.into()).await;
        self.goes_on().then_some(due)
    }

    async fn over_one_connection(&mut self) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(self.share.target.address).await?;
        stream.set_nodelay(true)?;
        while let Some(due) = self.due().await {
            let requests = &self.share.target.requests;
            // Connections begin at different requests.
            let request = &requests[(self.sent + self.number * 7) % requests.len()];
            self.request.clear();
            self.request.extend_from_slice(&request.head);
            request.template.append_to(&mut self.request, &mut self.fresh, now_ms(), APART_MS);
            self.sent += 1;
            let events = request.template.events() as u64;
            stream.write_all(&self.request).await?;
            if !tokio::time::timeout(ANSWER_TIMEOUT, self.await_answer(&mut stream, due, events)).await?? {
                break;
            }
        }
        Ok(())
    }

    /// Whether the connection can be used again.
    async fn await_answer(
        &mut self,
        stream: &mut TcpStream,
        due: Instant,
        events: u64,
    ) -> anyhow::Result<bool> {
        loop {
            if let Some(answer) = read_answer(&self.answer)? {
                let Answer { keeps_alive, bytes, .. } = answer;
                record(&mut self.tally, self.share, &answer, due, events);
                self.answer.drain(..bytes);
                return Ok(keeps_alive);
            }
            let read = stream.read_buf(&mut self.answer).await?;
            anyhow::ensure!(read > 0, "the server closed the connection before it answered");
        }
    }
}

fn record(tally: &mut Summary, share: &Share, answer: &Answer<'_>, due: Instant, events: u64) {
    let accepted = answer.accepted(events);
    tally.requests += 1;
    tally.accepted += accepted;
    tally.rejected += events - accepted;
    *tally.statuses.entry(answer.status).or_default() += 1;
    if accepted < events {
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(300)]);
        tally.note(format!("{}: {body}", answer.status));
    }
    let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
    tally.latency_us.saturating_record(micros);
    share.counters.requests.fetch_add(1, Ordering::Relaxed);
    share.counters.accepted.fetch_add(accepted, Ordering::Relaxed);
    share.counters.rejected.fetch_add(events - accepted, Ordering::Relaxed);
}
