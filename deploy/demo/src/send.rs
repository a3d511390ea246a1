//! Posts requests, a few at a time, and checks every answer.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context as _;
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Keys, Request};

/// How long a request is tried again while the collector says "later", or nothing.
const RETRY_FOR: Duration = Duration::from_secs(120);
/// Longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Wrong answers that a report lists; the rest is only counted.
const LISTED_MAX: usize = 20;

/// How fast to send.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests under way at once.
    pub concurrency: usize,
    /// Events per second; `None`: as fast as it goes.
    pub events_per_second: Option<f64>,
    /// Whether to draw a progress bar.
    pub progress: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { concurrency: 8, events_per_second: None, progress: false }
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct SendReport {
    /// Requests that were answered.
    pub requests: usize,
    /// Events that were accepted, copies included.
    pub accepted: usize,
    /// Events that were refused, by reason.
    pub rejected: BTreeMap<String, usize>,
    /// Answers by status.
    pub statuses: BTreeMap<u16, usize>,
    /// Times that something was sent again because the collector asked for it, or did not answer.
    pub retries: usize,
    /// Answers that were not the expected ones.
    pub wrong_answers: usize,
    /// The first of those.
    pub listed: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Posts all requests. An answer that is not the expected one is reported; no answer at all, for two minutes, is an error.
pub async fn send(
    client: &reqwest::Client,
    collector: &str,
    keys: &Keys,
    requests: &[Request],
    pace: Pace,
) -> anyhow::Result<SendReport> {
    let all: usize = requests.iter().map(Request::events).sum();
    let bar = if pace.progress { progress_bar(all)? } else { ProgressBar::hidden() };
    let begin = Instant::now();
    let mut before = 0;
    let timed = requests.iter().map(|request| {
        let due = pace.events_per_second.map(|rate| begin + Duration::from_secs_f64(before as f64 / rate));
        before += request.events();
        (request, due)
    });
    let mut answers = stream::iter(timed)
        .map(|(request, due)| async move {
            if let Some(due) = due {
                sleep_until(due).await;
            }
            (request, post(client, collector, keys, request).await)
        })
        .buffer_unordered(pace.concurrency.max(1));

    let mut report = SendReport::default();
    while let Some((request, answer)) = answers.next().await {
        report.note(request, answer?);
        bar.inc(request.events() as u64);
    }
    bar.finish_and_clear();
    report.took = begin.elapsed();
    Ok(report)
}

fn progress_bar(events: usize) -> anyhow::Result<ProgressBar> {
    let style = "{bar:40} {pos}/{len} events  {per_sec}  {eta} left";
    let bar = ProgressBar::new(events as u64).with_style(ProgressStyle::with_template(style)?);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}

struct Answer {
    status: u16,
    text: String,
    retries: usize,
}

/// Sends one request until it is answered with something else than "later". Sent again, events count once.
async fn post(
    client: &reqwest::Client,
    collector: &str,
    keys: &Keys,
    request: &Request,
) -> anyhow::Result<Answer> {
    let begin = Instant::now();
    let mut retries: usize = 0;
    loop {
        let outcome = try_once(client, collector, keys, request).await;
        let wait = match &outcome {
            Ok((429 | 503, _, after)) => after.unwrap_or_else(|| backoff(retries)),
            Ok((status, text, _)) => return Ok(Answer { status: *status, text: text.clone(), retries }),
            Err(_) => backoff(retries),
        };
        if begin.elapsed() + wait > RETRY_FOR {
            let (status, text, _) =
                outcome.with_context(|| format!("the collector at {collector} does not answer"))?;
            return Ok(Answer { status, text, retries });
        }
        retries += 1;
        sleep(wait).await;
    }
}

fn backoff(retries: usize) -> Duration {
    Duration::from_millis(50 << retries.min(10)).min(BACKOFF_MAX)
}

/// Status, body, and how long to wait before the next try.
async fn try_once(
    client: &reqwest::Client,
    collector: &str,
    keys: &Keys,
    request: &Request,
) -> anyhow::Result<(u16, String, Option<Duration>)> {
    let answer = request.build(client, collector, keys)?.send().await?;
    let status = answer.status().as_u16();
    let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    Ok((status, answer.text().await?, after.map(Duration::from_secs)))
}

impl SendReport {
    fn note(&mut self, request: &Request, answer: Answer) {
        self.requests += 1;
        self.retries += answer.retries;
        *self.statuses.entry(answer.status).or_default() += 1;
        let body: Value = serde_json::from_str(&answer.text).unwrap_or_default();
        let accepted = body["accepted"].as_u64().unwrap_or(0) as usize;
        let mut rejected: Vec<(usize, String)> = body["rejected"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| {
                let index = one["index"].as_u64().unwrap_or(u64::MAX);
                (index as usize, one["reason"].as_str().unwrap_or_default().to_string())
            })
            .collect();
        rejected.sort();
        self.accepted += accepted;
        for (_, reason) in &rejected {
            *self.rejected.entry(reason.clone()).or_default() += 1;
        }

        let expected = &request.expected;
        let expected_rejected: Vec<_> =
            expected.rejected.iter().map(|(index, reason)| (*index, reason.to_string())).collect();
        // What an answer lists is told only for requests that hold events.
        let is_listed = request.events() == 0 || rejected == expected_rejected;
        if answer.status == expected.status && accepted == expected.accepted && is_listed {
            return;
        }
        self.wrong_answers += 1;
        if self.listed.len() < LISTED_MAX {
            let mut found = answer.text;
            found.truncate(found.floor_char_boundary(300));
            self.listed.push(format!(
                "expected {} with {} accepted and {expected_rejected:?} refused, got {}: {found}",
                expected.status, expected.accepted, answer.status
            ));
        }
    }
}
