//! Kafka, with the spool behind it: while Kafka is away events are kept on this machine's disk and acknowledged there,
//! and when it is back they are drained to it in order.
//!
//! * **Direct**: an append goes straight to Kafka, and is acknowledged by it. This costs one atomic load more than Kafka
//!   alone. A message that is not delivered comes back in its delivery report, with key and value, and goes to the spool
//!   with its share of the same request: who waits when a broker dies is answered 202 as soon as the disk has it.
//! * **Spooling**, from the first sign on that Kafka is away (no broker answers, topics not known yet, a message not
//!   acknowledged in time) or that its queue is full: every append goes to the spool. What Kafka has not acknowledged is
//!   taken back from librdkafka and goes there too.
//! * **Handing over**: the spool is nearly drained. Appends are held in memory, unacknowledged, until the rest has been
//!   delivered, some ten milliseconds; then they are sent, and direct begins again. Without this a busy collector would
//!   never find the moment at which nothing is on its way to the disk. What was held goes to the spool when that fails.
//!
//! The drain ([`mod@drain`]) is the spool's reader. Its position moves only behind acknowledgements, so a crash anywhere
//! repeats some messages and loses none.
//!
//! **What is promised of order.** Of two events of one visitor and topic, the second of which this collector received
//! after it had acknowledged the first, the *last copy* of the first stands in its partition before the last copy of the
//! second. **What is not:** that there is one copy (a delivery that was not acknowledged, or not recorded, is repeated,
//! and the repetition may follow younger events); the order of events that were on their way at the same time; the order
//! over collectors. Copies count once: they share `event_id` and sorting key.
//!
//! **One partition is Kafka.** A message that Kafka does not take stops the drain, whatever the state of the other
//! partitions: a partition without a leader for longer than the timeout lets everything be spooled.
//!
//! **Locks.** The gate is held for as long as frames take into the spool's queue, and while the mode changes; never for
//! the disk or the network. `is_direct` follows the mode; who reads an old value either sends to Kafka what could as well
//! have been spooled, being received before that was acknowledged to anybody, or takes the gate and looks again.

mod drain;
mod refused;

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millrace_schemas::metric;

use self::drain::Drain;
use super::{
    Log, NotLogged, Pending, Receipt,
    kafka::{self, Fallback, KafkaLog},
    spool::{self, Frames, SpoolLog, segment::read_position},
};
use crate::encode::{Message, MessageBytesMax, Topic};

/// Messages that may be held during a handing over; more end it.
const HELD_MESSAGES_MAX: usize = 20_000;
/// Bytes of them.
const HELD_BYTES_MAX: usize = 32 << 20;

/// How long a message that comes back from Kafka waits for room in the spool's queue.
const TAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The producer's settings are not acceptable.
    #[error("the Kafka producer: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// The spool cannot be used.
    #[error("the spool: {0}")]
    Spool(#[from] spool::Error),
}

/// Kafka, and the spool while it is away.
pub struct RelayLog {
    relay: Arc<Relay>,
    kafka: Arc<KafkaLog>,
    drain: Mutex<Option<JoinHandle<()>>>,
}

/// What appends, delivery reports and the drain share.
struct Relay {
    spool: SpoolLog,
    is_direct: AtomicBool,
    gate: Mutex<Gate>,
    /// Told when there is something to drain, and when the drain is to end.
    wake: Condvar,
    spooling_gauge: metrics::Gauge,
}

struct Gate {
    mode: Mode,
    is_closing: bool,
    /// Why the drain stands still although Kafka answers.
    problem: Option<String>,
    /// What is kept that Kafka refuses.
    refused: Option<String>,
}

enum Mode {
    Direct,
    Spooling,
    HandingOver(Held),
}

/// Appends that wait for the handing over.
#[derive(Default)]
struct Held {
    appends: Vec<(Vec<Message>, Arc<Pending>)>,
    messages: usize,
    bytes: usize,
}

impl RelayLog {
    /// Sets the producer up and starts the drain. Kafka need not be there yet.
    pub fn open(settings: kafka::Settings, spool: SpoolLog) -> Result<Self, Error> {
        let relay = Arc::new(Relay {
            spool,
            is_direct: AtomicBool::new(false),
            gate: Mutex::new(Gate { mode: Mode::Spooling, is_closing: false, problem: None, refused: None }),
            wake: Condvar::new(),
            spooling_gauge: metrics::gauge!(metric::COLLECTOR_SPOOLING),
        });
        relay.spooling_gauge.set(1.0);
        let kafka = Arc::new(KafkaLog::with_fallback(settings, Arc::clone(&relay) as _)?);
        let drain = Drain::new(Arc::clone(&relay), Arc::clone(&kafka))?;
        let drain = std::thread::Builder::new().name("drain".to_owned()).spawn(move || drain.run());
        let at = |source| spool::Error::Io { path: relay.spool.topic_dir(Topic::Events), source };
        let drain = Mutex::new(Some(drain.map_err(at)?));
        Ok(Self { relay, kafka, drain })
    }

    fn append_directly(&self, messages: &[Message]) -> Receipt {
        let (pending, receipt) = Pending::new(messages.len());
        match self.relay.send(&self.kafka, messages, &pending) {
            Ok(()) => receipt,
            Err(why) => Receipt::refused(why),
        }
    }
}

impl Log for RelayLog {
    fn append(&self, messages: Vec<Message>) -> Receipt {
        if self.relay.is_direct.load(Ordering::Acquire) {
            return self.append_directly(&messages);
        }
        let (pending, receipt) = Pending::new(messages.len());
        let frames = Frames::new(&messages);
        let mut gate = self.relay.gate();
        match &mut gate.mode {
            Mode::Direct => {
                drop(gate);
                return self.append_directly(&messages);
            }
            Mode::HandingOver(held) if held.has_room() => {
                held.push(messages, pending);
                return receipt;
            }
            Mode::HandingOver(_) => self.relay.spool_held(&mut gate),
            Mode::Spooling => {}
        }
        match self.relay.spool.enqueue(frames, &pending) {
            Ok(()) => receipt,
            Err(why) => Receipt::refused(why),
        }
    }

    fn message_bytes_max(&self) -> MessageBytesMax {
        self.kafka.message_bytes_max()
    }

    fn admits(&self, store_id: &str, trusted: bool) -> bool {
        self.relay.is_direct.load(Ordering::Acquire) || self.relay.spool.admits(store_id, trusted)
    }

    fn ready(&self) -> Result<(), String> {
        if self.relay.is_direct.load(Ordering::Acquire) {
            return Ok(());
        }
        self.relay.spool.ready().map_err(|problem| match self.why_spooling() {
            Some(why) => format!("{why}, and {problem}"),
            None => problem,
        })
    }

    fn note(&self) -> Option<String> {
        let refused = self.relay.gate().refused.clone();
        let notes: Vec<_> = [self.note_of_mode(), refused].into_iter().flatten().collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    fn queued(&self) -> usize {
        let held = match &self.relay.gate().mode {
            Mode::HandingOver(held) => held.messages,
            _ => 0,
        };
        self.kafka.queued() + self.relay.spool.queued() + held
    }

    fn tick(&self) {
        self.relay.spool.tick();
        self.kafka.tick();
    }

    /// While Kafka answers, the spool is drained first: an orderly stop leaves nothing behind on this machine. What Kafka
    /// does not acknowledge in most of the time goes to the spool, for the next start to drain.
    fn close(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let wait = |deadline: Instant, is_settled: &dyn Fn() -> bool| {
            while !is_settled() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(2));
            }
        };
        wait(Instant::now() + patience / 4, &|| {
            self.relay.is_direct.load(Ordering::Acquire) || self.why_spooling().is_some()
        });
        self.relay.gate().is_closing = true;
        self.relay.wake.notify_all();
        let left = deadline.saturating_duration_since(Instant::now());
        if self.kafka.ready().is_ok() && self.kafka.flush(left / 2).is_err() {
            tracing::warn!("Kafka did not acknowledge everything in time; the rest goes to the spool");
        }
        self.kafka.purge();
        wait(Instant::now() + patience / 8, &|| self.kafka.queued() == 0);
        let drain = self.drain.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(drain) = drain {
            wait(deadline - patience / 8, &|| drain.is_finished());
        }
        self.relay.spool.close(deadline.saturating_duration_since(Instant::now()).max(patience / 8));
        let left: u64 = Topic::ALL.into_iter().map(|topic| self.relay.left(topic)).sum();
        if left > 0 {
            tracing::warn!(left, "messages are left in the spool; the next start drains them to Kafka");
        }
    }
}

impl RelayLog {
    /// What is not as it should be with where events go.
    fn note_of_mode(&self) -> Option<String> {
        if self.relay.is_direct.load(Ordering::Acquire) {
            let problem = self.relay.spool.ready().err()?;
            return Some(format!("{problem}; events go to Kafka, and would be refused if it went away"));
        }
        let why = self.why_spooling().unwrap_or_else(|| "the spool is drained to Kafka".to_owned());
        let age = self.relay.spool.oldest().unwrap_or_default().as_secs();
        Some(format!("{why}; events are kept in the spool, the oldest for {age} s"))
    }

    fn why_spooling(&self) -> Option<String> {
        self.kafka.ready().err().or_else(|| self.relay.gate().problem.clone())
    }
}

impl Drop for RelayLog {
    fn drop(&mut self) {
        self.relay.gate().is_closing = true;
        self.relay.wake.notify_all();
    }
}

impl Relay {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Messages of a topic in the spool that no drain has recorded as delivered.
    fn left(&self, topic: Topic) -> u64 {
        let recorded = read_position(&self.spool.topic_dir(topic)).ok().flatten().unwrap_or(0);
        self.spool.durable_next(topic).saturating_sub(recorded)
    }

    /// Hands messages to Kafka, and those that its queue does not take to the spool.
    fn send(&self, kafka: &KafkaLog, messages: &[Message], pending: &Arc<Pending>) -> Result<(), NotLogged> {
        for (index, message) in messages.iter().enumerate() {
            if let Err(error) = kafka.send(message.topic.name(), &message.key, &message.value, pending) {
                tracing::debug!(%error, "a message was not queued for Kafka");
                let mut gate = self.gate();
                self.begin_spooling(&mut gate);
                return self.spool.enqueue(Frames::new(&messages[index..]), pending);
            }
        }
        Ok(())
    }

    /// From now on appends go to the spool, unless they are held to follow it.
    fn begin_spooling(&self, gate: &mut Gate) {
        if matches!(gate.mode, Mode::Direct) {
            self.is_direct.store(false, Ordering::Release);
            gate.mode = Mode::Spooling;
            self.spooling_gauge.set(1.0);
            self.wake.notify_all();
        }
    }

    fn begin_direct(&self, gate: &mut Gate) {
        gate.mode = Mode::Direct;
        self.is_direct.store(true, Ordering::Release);
        self.spooling_gauge.set(0.0);
    }

    /// Ends a handing over that did not come to its end.
    fn spool_held(&self, gate: &mut Gate) {
        let Mode::HandingOver(held) = std::mem::replace(&mut gate.mode, Mode::Spooling) else { return };
        for (messages, pending) in held.appends {
            self.spool_or_fail(&messages, &pending);
        }
    }

    fn spool_or_fail(&self, messages: &[Message], pending: &Arc<Pending>) {
        if !messages.is_empty() && self.spool.enqueue(Frames::new(messages), pending).is_err() {
            pending.settle(messages.len(), false);
        }
    }

    /// Sends what was held, now that all before it is delivered; false: Kafka's queue did not take all of it.
    fn follow(&self, gate: &mut Gate, kafka: &KafkaLog) -> bool {
        let Mode::HandingOver(held) = std::mem::replace(&mut gate.mode, Mode::Spooling) else { return false };
        let mut is_taken = true;
        for (messages, pending) in held.appends {
            let mut rest = messages.as_slice();
            while let (true, [first, others @ ..]) = (is_taken, rest) {
                is_taken = kafka.send(first.topic.name(), &first.key, &first.value, &pending).is_ok();
                rest = if is_taken { others } else { rest };
            }
            self.spool_or_fail(rest, &pending);
        }
        if is_taken {
            self.begin_direct(gate);
        }
        is_taken
    }
}

impl Fallback for Relay {
    fn kafka_is_away(&self) {
        self.begin_spooling(&mut self.gate());
        // Also when it spools already: what librdkafka still holds is to be taken back.
        self.wake.notify_all();
    }

    fn take(&self, topic: &str, key: &[u8], value: &[u8], pending: &Arc<Pending>) -> bool {
        let Some(topic) = Topic::ALL.into_iter().find(|known| known.name() == topic) else { return false };
        let mut frames = Frames::empty();
        frames.push(topic, key, value);
        self.begin_spooling(&mut self.gate());
        // All of Kafka's queue may come back at once, and it is longer than the spool's.
        let deadline = Instant::now() + TAKE_TIMEOUT;
        while self.spool.is_busy() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut gate = self.gate();
        self.begin_spooling(&mut gate);
        self.spool.enqueue(frames, pending).is_ok()
    }
}

impl Held {
    fn has_room(&self) -> bool {
        self.messages < HELD_MESSAGES_MAX && self.bytes < HELD_BYTES_MAX
    }

    fn push(&mut self, messages: Vec<Message>, pending: Arc<Pending>) {
        self.messages += messages.len();
        self.bytes += messages.iter().map(|message| message.key.len() + message.value.len()).sum::<usize>();
        self.appends.push((messages, pending));
    }
}
