//! Gauges over all partitions.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Instant,
};

use millrace_schemas::metric;

use crate::{
    clock::now_ms,
    memory::Memory,
    partition::TopicPartition,
    source::{Assignment, Flow},
};

/// A partition that ended leaves zeros.
#[derive(Default)]
pub(crate) struct Gauges {
    partitions: HashMap<TopicPartition, Weak<Flow>>,
}

impl Gauges {
    pub(crate) fn watch(&mut self, assignment: &Assignment) {
        self.partitions.insert(assignment.partition, Arc::downgrade(&assignment.flow));
    }

    /// Brings them up to date.
    pub(crate) fn update(&self, memory: &Memory, paused: usize) {
        metrics::gauge!(metric::CONSUMER_BUFFERED_BYTES).set(memory.used() as f64);
        metrics::gauge!(metric::CONSUMER_PAUSED).set(paused as f64);
        let mut stalled_since: Option<Instant> = None;
        for (partition, flow) in &self.partitions {
            let flow = flow.upgrade();
            let since = flow.as_ref().and_then(|flow| flow.stalled_since());
            stalled_since = stalled_since.into_iter().chain(since).min();
            let (messages, newest_ms) = flow.map_or((0, None), |flow| flow.lag());
            let seconds = match newest_ms {
                Some(ms) if messages > 0 => (now_ms() - ms).max(0) as f64 / 1000.0,
                _ => 0.0,
            };
            let labels = [("topic", partition.topic.to_owned()), ("partition", partition.number.to_string())];
            metrics::gauge!(metric::CONSUMER_LAG_MESSAGES, &labels).set(messages as f64);
            metrics::gauge!(metric::CONSUMER_LAG_SECONDS, &labels).set(seconds);
        }
        let stalled = stalled_since.map_or(0.0, |since| since.elapsed().as_secs_f64());
        metrics::gauge!(metric::CONSUMER_STALLED_SECONDS).set(stalled);
    }
}
