//! The spool's reader: delivers to Kafka what waits there.
//!
//! One thread, one batch of each topic at a time: read, send, wait for every acknowledgement, record the position. A
//! batch of which anything failed is sent again whole, once all of it is settled, so the last copies stand in order.
//!
//! While Kafka is away the circuit is open. Half-open: one message, the first of the spool, is tried; it waits in
//! librdkafka until a broker takes it, so that the drain begins as soon as one does. Where the spool is empty, metadata
//! is asked for. A broker that hangs gets one copy of that message and not many: after an unanswered one the idempotent
//! producer asks for a new epoch first.
//!
//! A batch that Kafka refuses for what is in it is halved until one message is left, and that by rows until one row is: it is
//! kept aside ([`super::refused`]), and the drain goes on behind it.
//!
//! A frame that cannot be read stops its topic's drain, and with it the return to direct: it is logged, `/readyz` says
//! it, and the age of the oldest event grows in the metrics. New events are still kept, within the spool's bounds.

use std::{
    path::PathBuf,
    sync::{
        Arc, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use millrace_schemas::{
    metric,
    spool::{CONSUMER_FILE, Record, read_frame},
};

use super::{
    Gate, Held, Mode, Relay,
    refused::{Refused, Trial},
};
use crate::{
    encode::Topic,
    log::{
        Log as _, Pending,
        kafka::KafkaLog,
        spool::{
            self, SpoolLog,
            reader::{Piece, ReadError, Reader},
            segment::write_position,
        },
    },
};

/// Bytes of a topic that are on their way to Kafka at a time.
const BATCH_BYTES: usize = 4 << 20;
/// A handing over begins when no more messages than this are left: a fraction of a second's work.
const HAND_OVER_MESSAGES_MAX: u64 = 5_000;
/// How long one may take before it is given up, not counting a last wait for Kafka. It waits for two fsyncs or three,
/// each of which takes a second on a disk that is busy enough.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a batch that is on its way is looked after.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After so many probes that failed, some fifteen seconds, the next is made by a new producer: whatever state the old
/// one is in, it is not what keeps Kafka away.
const PROBES_PER_PRODUCER: u32 = 4;
/// How long to wait before trying again what has failed.
const PAUSE: Duration = Duration::from_millis(200);
/// The same, for what only a person can repair.
const REPAIR_PAUSE: Duration = Duration::from_secs(5);

pub(super) struct Drain {
    relay: Arc<Relay>,
    kafka: Arc<KafkaLog>,
    lanes: [Lane; Topic::ALL.len()],
    /// One after the other.
    probes_failed: u32,
    /// Messages of a round at most: fewer after one of them was refused.
    messages_max: usize,
    /// Of the topics' limits, when what is refused was last tried again.
    limits_version: Option<u64>,
}

/// One topic.
struct Lane {
    topic: Topic,
    dir: PathBuf,
    reader: Reader,
    /// Everything below was delivered.
    next: u64,
    /// The position is recorded as far as `next`.
    is_recorded: bool,
    /// What was read and not delivered yet, from byte `start` on.
    frames: Piece,
    start: usize,
    refused: Refused,
    drained: metrics::Counter,
}

/// How much a round delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// To see whether Kafka is back.
    OneMessage,
    /// All that was read.
    Batch,
}

/// How a round of the drain went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Delivered,
    NothingToDo,
    Failed,
    /// Kafka refuses something in it: a smaller one is to be tried at once.
    Refused,
}

/// What the drain is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Drain,
    /// Everything goes to Kafka directly.
    Nothing,
    End,
}

impl Drain {
    /// Finds where the last drain ended.
    pub(super) fn new(relay: Arc<Relay>, kafka: Arc<KafkaLog>) -> Result<Self, spool::Error> {
        let lanes = [Lane::open(Topic::Events, &relay.spool)?, Lane::open(Topic::Clicks, &relay.spool)?];
        let drain =
            Self { relay, kafka, lanes, probes_failed: 0, messages_max: usize::MAX, limits_version: None };
        drain.tell_refused();
        Ok(drain)
    }

    pub(super) fn run(mut self) {
        loop {
            match self.wait_for_work() {
                Work::Drain if self.kafka.ready().is_err() => self.probe(),
                Work::Drain => self.drain(),
                Work::Nothing => {
                    self.lanes.iter_mut().for_each(Lane::record);
                    self.try_refused_again();
                }
                Work::End => break,
            }
        }
        let mut gate = self.relay.gate();
        self.relay.spool_held(&mut gate);
    }

    fn wait_for_work(&self) -> Work {
        let gate = self.relay.gate();
        let is_idle = |gate: &mut Gate| matches!(gate.mode, Mode::Direct) && !gate.is_closing;
        let waited = self.relay.wake.wait_timeout_while(gate, REPAIR_PAUSE, is_idle);
        let (gate, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match gate.mode {
            _ if gate.is_closing => Work::End,
            Mode::Direct => Work::Nothing,
            Mode::Spooling | Mode::HandingOver(_) => Work::Drain,
        }
    }

    fn pause(&self) {
        let gate = self.relay.gate();
        let pause = if gate.problem.is_some() { REPAIR_PAUSE } else { PAUSE };
        drop(self.relay.wake.wait_timeout_while(gate, pause, |gate| !gate.is_closing));
    }

    /// Looks whether Kafka is back.
    fn probe(&mut self) {
        if self.kafka.queued() > 0 {
            // Requests are waiting for these; the spool can answer them now.
            self.kafka.purge();
        }
        if self.kafka.has_topics() {
            if self.lanes.iter().any(|lane| lane.left(&self.relay.spool) > 0) {
                if matches!(self.round(Extent::OneMessage), Round::Delivered | Round::Refused) {
                    self.probes_failed = 0;
                    return self.kafka.is_back();
                }
                self.probes_failed += 1;
                if self.probes_failed.is_multiple_of(PROBES_PER_PRODUCER) {
                    self.kafka.replace();
                }
            } else {
                self.kafka.probe();
                if self.kafka.ready().is_ok() {
                    return;
                }
            }
        }
        self.pause();
    }

    /// One step towards the end of the spool.
    fn drain(&mut self) {
        let round = self.round(Extent::Batch);
        let left = self.left();
        tracing::debug!(?round, left, "a round of the drain");
        if round == Round::Refused {
            return;
        }
        if round != Round::Failed && left <= HAND_OVER_MESSAGES_MAX && self.hand_over() {
            return;
        }
        if round != Round::Delivered {
            self.pause();
        }
    }

    /// Messages that are left in the spool, or on their way to it.
    fn left(&self) -> u64 {
        // In this order: what has left the queue is below the durable offset that is read then.
        let queued = self.relay.spool.queued() as u64;
        queued + self.lanes.iter().map(|lane| lane.left(&self.relay.spool)).sum::<u64>()
    }

    /// Delivers what comes next, and waits until all of it is settled.
    fn round(&mut self, extent: Extent) -> Round {
        self.read();
        let total: usize = self.lanes.iter().map(|lane| lane.frames.count).sum();
        if total == 0 {
            return Round::NothingToDo;
        }
        let (pending, settled) = Pending::drain(total);
        let mut sent = [(0, 0); Topic::ALL.len()];
        let mut count = 0;
        let count_max = if extent == Extent::OneMessage { 1 } else { self.messages_max };
        'lanes: for (lane, sent) in self.lanes.iter().zip(&mut sent) {
            for (record, length) in lane.records() {
                if count == count_max
                    || self.kafka.send(lane.topic.name(), record.key, record.value, &pending).is_err()
                {
                    break 'lanes;
                }
                *sent = (sent.0 + length, sent.1 + 1);
                count += 1;
            }
        }
        // The producer's queue took no more of them; they come with the next batch.
        pending.settle(total - count, true);
        let is_delivered = wait_for(&self.kafka, &settled, extent);
        if !is_delivered && pending.is_refused() && count > 0 {
            let lane = sent.iter().position(|(_, count)| *count > 0).unwrap_or(0);
            self.messages_max = (count / 2).max(1);
            return if count > 1 { Round::Refused } else { self.deliver_rows(lane) };
        }
        if count == 0 || !is_delivered {
            return Round::Failed;
        }
        self.messages_max = self.messages_max.saturating_mul(2);
        for (lane, (bytes, count)) in self.lanes.iter_mut().zip(sent) {
            if count > 0 {
                lane.delivered(bytes, count);
            }
        }
        Round::Delivered
    }

    /// Delivers what can be delivered of the first message of a lane, which Kafka refuses, and keeps the rest.
    fn deliver_rows(&mut self, lane: usize) -> Round {
        let Self { lanes, kafka, .. } = self;
        let lane = &mut lanes[lane];
        let Some((key, value, length)) = lane
            .records()
            .next()
            .map(|(record, length)| (record.key.to_vec(), record.value.to_vec(), length))
        else {
            return Round::NothingToDo;
        };
        let rows: Vec<&[u8]> = value.split(|byte| *byte == b'\n').collect();
        let mut refused = Vec::new();
        let mut parts = match rows.as_slice() {
            [row] => {
                refused.push(*row);
                Vec::new()
            }
            rows => vec![rows],
        };
        while let Some(part) = parts.pop() {
            // The whole was refused before.
            let trial = match part.len() == rows.len() {
                true => Trial::Refused,
                false => send_alone(kafka, lane.topic, Record { key: &key, value: &part.join(&b'\n') }),
            };
            match (trial, part) {
                (Trial::Delivered, _) => {}
                (Trial::Failed, _) => return Round::Failed,
                (Trial::Refused, [row]) => refused.push(*row),
                (Trial::Refused, rows) => {
                    let (first, second) = rows.split_at(rows.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        if let Err(problem) = lane.refused.keep(&key, &refused) {
            tracing::error!(problem, "the spool cannot be drained to Kafka");
            self.relay.gate().problem = Some(problem);
            return Round::Failed;
        }
        for row in &refused {
            kafka.refused_alone(lane.topic, key.len() + row.len());
        }
        if !refused.is_empty() {
            let bytes = refused.iter().map(|row| row.len()).max();
            tracing::error!(
                topic = lane.topic.name(), rows = refused.len(), bytes, dir = %lane.refused.dir().display(),
                "Kafka refuses rows that were acknowledged; they are kept, and delivered once the topic's \
                 max.message.bytes is large enough"
            );
        }
        lane.delivered(length, 1);
        self.tell_refused();
        Round::Delivered
    }

    /// Tries what Kafka has refused again, where it may fare better now.
    fn try_refused_again(&mut self) {
        let version = self.kafka.limits_version();
        if self.limits_version == Some(version) {
            return;
        }
        let bytes_max = self.kafka.message_bytes_max();
        let Self { lanes, kafka, .. } = self;
        let mut is_done = true;
        for lane in lanes {
            let topic = lane.topic;
            let may_fit =
                |record: &Record<'_>| record.key.len() + record.value.len() <= bytes_max[topic as usize];
            let mut is_away = false;
            let tried = lane.refused.try_again(may_fit, |record| {
                let trial = send_alone(kafka, topic, *record);
                is_away |= trial == Trial::Failed;
                trial
            });
            if let Err(problem) = tried {
                tracing::error!(problem, "what Kafka has refused could not be tried again");
            }
            is_done &= !is_away;
        }
        if is_done {
            self.limits_version = Some(version);
        }
        self.tell_refused();
    }

    fn tell_refused(&self) {
        let waiting: u64 = self.lanes.iter().map(|lane| lane.refused.waiting()).sum();
        let dir = self.relay.spool.dir().join(super::refused::DIR);
        self.relay.gate().refused = (waiting > 0).then(|| {
            format!(
                "{waiting} acknowledged rows that Kafka refuses are kept in {}; raise the topics' \
                 max.message.bytes, and they are delivered",
                dir.display()
            )
        });
    }

    /// Reads on where everything read was delivered; what cannot be read is told.
    fn read(&mut self) {
        let mut problem = None;
        for lane in &mut self.lanes {
            if let Err(error) = lane.read(&self.relay.spool) {
                problem = Some(error.to_string());
            }
        }
        let mut gate = self.relay.gate();
        if let Some(problem) = problem.as_ref().filter(|problem| gate.problem.as_ref() != Some(*problem)) {
            tracing::error!(problem, "the spool cannot be drained to Kafka");
        }
        gate.problem = problem;
    }

    /// Delivers the rest while appends are held, and lets them follow it; false: it came to nothing.
    fn hand_over(&mut self) -> bool {
        let relay = Arc::clone(&self.relay);
        {
            let mut gate = relay.gate();
            if gate.is_closing || gate.problem.is_some() {
                return false;
            }
            gate.mode = Mode::HandingOver(Held::default());
        }
        let deadline = Instant::now() + HAND_OVER_TIMEOUT;
        loop {
            let round = self.round(Extent::Batch);
            let mut gate = relay.gate();
            // Who finds Kafka away after this waits for the gate, and begins to spool then.
            let is_over = matches!(round, Round::Failed | Round::Refused) || self.kafka.ready().is_err();
            if is_over || gate.is_closing || gate.problem.is_some() || Instant::now() >= deadline {
                relay.spool_held(&mut gate);
                tracing::debug!(?round, left = self.left(), "the handing over came to nothing");
                return false;
            }
            if !matches!(gate.mode, Mode::HandingOver(_)) {
                // More was held than there is room for.
                return false;
            }
            // Nothing is added to the spool while the gate is held.
            if self.left() == 0 {
                return relay.follow(&mut gate, &self.kafka);
            }
            drop(gate);
            if round == Round::NothingToDo {
                // What is left is on its way to the disk.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// Sends a message that shares its batch with no other of the spool.
fn send_alone(kafka: &KafkaLog, topic: Topic, record: Record<'_>) -> Trial {
    let (pending, settled) = Pending::drain(1);
    if kafka.send(topic.name(), record.key, record.value, &pending).is_err() {
        return Trial::Failed;
    }
    match wait_for(kafka, &settled, Extent::OneMessage) {
        true => Trial::Delivered,
        false if pending.is_refused() => Trial::Refused,
        false => Trial::Failed,
    }
}

fn wait_for(kafka: &KafkaLog, settled: &Receiver<bool>, extent: Extent) -> bool {
    // librdkafka settles every message within its timeout; the rest is for a machine that is busy.
    let deadline = Instant::now() + 2 * kafka.ack_timeout();
    loop {
        match settled.recv_timeout(LOOK_EVERY) {
            Ok(is_delivered) => return is_delivered,
            Err(RecvTimeoutError::Disconnected) => return false,
            Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => return false,
            // One of them, or of the requests before, was not acknowledged: do not wait for the others, behind
            // which appends may be held.
            Err(RecvTimeoutError::Timeout) if extent == Extent::Batch && kafka.ready().is_err() => {
                kafka.purge();
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Lane {
    fn open(topic: Topic, spool: &SpoolLog) -> Result<Self, spool::Error> {
        let (dir, next) = (spool.topic_dir(topic), spool.position_at_start(topic));
        let durable_next = spool.durable_next(topic);
        if next > durable_next {
            let what = format!(
                "it says that everything below {next} was delivered, and the spool ends at {durable_next}; it is of \
                 another spool, remove it to deliver this one from its beginning"
            );
            return Err(spool::Error::Damaged { path: dir.join(CONSUMER_FILE), what });
        }
        let drained = metrics::counter!(metric::COLLECTOR_SPOOL_DRAINED, "topic" => topic.name());
        let reader = Reader::new(&dir, Some(next));
        let mut lane = Self {
            topic,
            dir,
            reader,
            next,
            is_recorded: false,
            frames: Piece::default(),
            start: 0,
            refused: Refused::open(spool.dir(), topic)?,
            drained,
        };
        // There is a position from now on: on a full disk it can be overwritten, and not created.
        lane.record();
        Ok(lane)
    }

    /// Durable frames that were not delivered.
    fn left(&self, spool: &SpoolLog) -> u64 {
        spool.durable_next(self.topic).saturating_sub(self.next)
    }

    fn read(&mut self, spool: &SpoolLog) -> Result<(), ReadError> {
        if self.frames.count == 0 {
            self.start = 0;
            self.frames = Piece::default();
            self.frames = self.reader.read(spool.durable_next(self.topic), BATCH_BYTES)?;
        }
        Ok(())
    }

    /// What was read and not delivered, each with the bytes it takes.
    fn records(&self) -> impl Iterator<Item = (Record<'_>, usize)> {
        let mut rest = &self.frames.bytes[self.start..];
        std::iter::from_fn(move || {
            let (record, length) = read_frame(rest).ok()?;
            rest = &rest[length..];
            Some((record, length))
        })
    }

    fn delivered(&mut self, bytes: usize, count: usize) {
        self.start += bytes;
        self.frames.count -= count;
        self.next += count as u64;
        self.drained.increment(count as u64);
        self.is_recorded = false;
        self.record();
    }

    /// Records the position. Where that is impossible the drain goes on: after a crash it is repeated from what is on
    /// record.
    fn record(&mut self) {
        if self.is_recorded {
            return;
        }
        match write_position(&self.dir, self.next) {
            Ok(()) => self.is_recorded = true,
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "the drain's position could not be recorded");
            }
        }
    }
}
