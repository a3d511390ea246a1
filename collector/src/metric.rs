//! Handles of the collector's metrics, looked up once: on the hot path a count is one atomic addition.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use millrace_schemas::{event::Kind, metric, reject::Reason, repair::Repair};

use crate::{chain::Outcome, compat::Protocol, enrich::BotReason};

/// What a request asked for, as its metric names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Collect,
    Pixel,
    Tracker,
    Health,
    Ready,
    OpenApi,
    /// Another product's clients.
    Compatible(Protocol),
    /// Anything else, so that made-up paths make no metrics.
    Other,
    /// What ended before it was a request: a head that is malformed, too large or too slow.
    Connection,
}

impl Endpoint {
    /// Every one; each stands at its own index.
    fn all() -> impl Iterator<Item = Endpoint> {
        let own = [
            Endpoint::Collect,
            Endpoint::Pixel,
            Endpoint::Tracker,
            Endpoint::Health,
            Endpoint::Ready,
            Endpoint::OpenApi,
            Endpoint::Other,
            Endpoint::Connection,
        ];
        own.into_iter().chain(Protocol::ALL.map(Endpoint::Compatible))
    }

    const fn index(self) -> usize {
        match self {
            Endpoint::Collect => 0,
            Endpoint::Pixel => 1,
            Endpoint::Tracker => 2,
            Endpoint::Health => 3,
            Endpoint::Ready => 4,
            Endpoint::OpenApi => 5,
            Endpoint::Other => 6,
            Endpoint::Connection => 7,
            Endpoint::Compatible(protocol) => 8 + protocol as usize,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Endpoint::Collect => "collect",
            Endpoint::Pixel => "pixel",
            Endpoint::Tracker => "tracker",
            Endpoint::Health => "healthz",
            Endpoint::Ready => "readyz",
            Endpoint::OpenApi => "openapi",
            Endpoint::Other => "other",
            Endpoint::Connection => "connection",
            Endpoint::Compatible(protocol) => protocol.name(),
        }
    }
}

/// Every status that the collector answers with.
const STATUSES: [u16; 15] = [200, 202, 204, 304, 400, 401, 403, 404, 405, 408, 413, 415, 422, 429, 503];
/// Of what ends before it is a request.
const HEAD_TOO_LARGE: u16 = 431;

pub(crate) struct Metrics {
    /// By endpoint and status; the last of each is of statuses not listed.
    requests: Vec<[Counter; STATUSES.len() + 1]>,
    pub(crate) body_bytes: Counter,
    accepted: [Counter; 3],
    rejected: Vec<Counter>,
    repaired: Vec<Counter>,
    times_corrected: Counter,
    times_replaced: Counter,
    bots: [Counter; BotReason::ALL.len()],
    anonymous: Counter,
    seconds: Histogram,
    closed_for_room: Counter,
    pub(crate) log_queue: Gauge,
    pub(crate) log_seconds: Histogram,
    pub(crate) keys_age: Gauge,
}

impl Metrics {
    /// Looks the handles up in the recorder that is installed now.
    pub(crate) fn new() -> Self {
        let requests = Endpoint::all().map(|endpoint| {
            std::array::from_fn(|index| {
                let status = STATUSES.get(index).copied().unwrap_or(HEAD_TOO_LARGE);
                counter!(metric::COLLECTOR_REQUESTS, "endpoint" => endpoint.name(), "status" => status.to_string())
            })
        });
        let accepted = |kind: Kind| counter!(metric::COLLECTOR_EVENTS_ACCEPTED, "type" => kind.as_str());
        let adjusted = |source| counter!(metric::COLLECTOR_TIMES_ADJUSTED, "time_source" => source);
        Self {
            requests: requests.collect(),
            body_bytes: counter!(metric::COLLECTOR_BODY_BYTES),
            accepted: [accepted(Kind::PageView), accepted(Kind::Event), accepted(Kind::Click)],
            rejected: Reason::ALL
                .iter()
                .map(|reason| counter!(metric::COLLECTOR_REJECTED, "reason" => reason.as_str()))
                .collect(),
            repaired: Repair::ALL
                .iter()
                .map(|repair| counter!(metric::COLLECTOR_REPAIRED, "reason" => repair.as_str()))
                .collect(),
            times_corrected: adjusted("corrected"),
            times_replaced: adjusted("replaced"),
            bots: BotReason::ALL.map(|reason| counter!(metric::COLLECTOR_BOTS, "reason" => reason.as_str())),
            anonymous: counter!(metric::COLLECTOR_ANONYMOUS),
            seconds: histogram!(metric::COLLECTOR_REQUEST_SECONDS),
            closed_for_room: counter!(metric::COLLECTOR_CONNECTIONS_CLOSED),
            log_queue: gauge!(metric::COLLECTOR_LOG_QUEUE),
            log_seconds: histogram!(metric::COLLECTOR_LOG_SECONDS),
            keys_age: gauge!(metric::COLLECTOR_KEYS_AGE_SECONDS),
        }
    }

    pub(crate) fn request(&self, endpoint: Endpoint, status: u16, elapsed: Duration) {
        self.ended(endpoint, status);
        self.seconds.record(elapsed.as_secs_f64());
    }

    /// Something that ended without being a request.
    pub(crate) fn ended(&self, endpoint: Endpoint, status: u16) {
        let status = STATUSES.iter().position(|known| *known == status).unwrap_or(STATUSES.len());
        self.requests[endpoint.index()][status].increment(1);
    }

    /// Connections that were closed to make room for others.
    pub(crate) fn closed_for_room(&self, connections: usize) {
        self.closed_for_room.increment(connections as u64);
    }

    /// A request that was refused whole.
    pub(crate) fn refused(&self, reason: Reason) {
        self.rejected[reason as usize].increment(1);
    }

    /// Events that were rejected, whatever becomes of the rest of their request.
    pub(crate) fn rejected(&self, outcome: &Outcome) {
        for (_, rejection) in &outcome.rejected {
            self.refused(rejection.reason);
        }
    }

    /// Events that the log holds.
    pub(crate) fn accepted(&self, outcome: &Outcome) {
        let add = |counter: &Counter, count: usize| {
            if count > 0 {
                counter.increment(count as u64);
            }
        };
        add(&self.accepted[0], outcome.page_views);
        add(&self.accepted[1], outcome.named_events);
        add(&self.accepted[2], outcome.clicks);
        for repaired in &outcome.repaired {
            self.repaired[repaired.repair as usize].increment(1);
        }
        add(&self.times_corrected, outcome.times_corrected);
        add(&self.times_replaced, outcome.times_replaced);
        add(&self.anonymous, outcome.anonymous);
        for (counter, count) in self.bots.iter().zip(outcome.bots) {
            add(counter, count);
        }
    }
}

/// Gives every metric of the contract its `# HELP` in the recorder that is installed now.
pub fn describe() {
    for (name, help) in metric::ALL {
        if name.ends_with("_total") {
            metrics::describe_counter!(*name, *help);
        } else if [metric::COLLECTOR_REQUEST_SECONDS, metric::COLLECTOR_LOG_SECONDS].contains(name) {
            metrics::describe_histogram!(*name, *help);
        } else {
            metrics::describe_gauge!(*name, *help);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_and_reasons_are_indexes() {
        for (index, endpoint) in Endpoint::all().enumerate() {
            assert_eq!(endpoint.index(), index);
        }
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
