//! How much of the spool the events of one store may take, so that no store fills it for all.
//!
//! **The rule.** Of a store no more than `percent` of the spool may wait, 50 by default; and the last quarter of the spool is
//! for stores of which little waits, 1/256 of it (16 MiB of 4 GiB, some 20,000 events). So one store leaves half of it, two
//! that conspire leave a quarter to all of which less waits, and to take that quarter, too, they must be 64. 100 switches the
//! rule off.
//!
//! A bound that shrinks with the room that is left would be fair among stores that fill the spool at once. Those that come
//! one after the other would leave a half, a quarter, an eighth: what was acknowledged is never taken back.
//!
//! **What is counted.** The frames of a store that are on their way to the disk, or on it and not consumed. A *chunk* is a
//! stretch of offsets with the bytes of each store in it; it is given back when the reader's position has passed its end, or
//! when the reader has caught up. That costs the memory of at most 128 chunks times the stores in them, and nothing on the
//! reader's side. After a start the frames that wait are counted by reading them, on a thread of its own: until it is through
//! a store is thought to hold less than it does, never more.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::encode::Topic;

/// Percent at which there is no bound.
const ALL: u32 = 100;
/// The part of the spool that is left to stores of which little waits.
const RESERVE: u64 = 4;
/// The part of it that is little.
const LITTLE: u64 = 256;
/// But a few requests always are.
const LITTLE_BYTES_MIN: u64 = 64 << 10;
/// A chunk ends at this part of the spool.
const CHUNKS: u64 = 128;
/// How often it is said which store is at its bound.
const SAY_EVERY: Duration = Duration::from_secs(60);

/// How large the spool may become, and how much of that is free.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) size: u64,
    pub(super) free: u64,
}

/// A store's id, as the keys of its messages begin.
pub(super) type Store = Arc<[u8]>;

/// The store that a message's key belongs to.
pub(super) fn store_of(key: &[u8]) -> &[u8] {
    let end = memchr::memchr(b':', key).unwrap_or(key.len());
    &key[..end]
}

#[derive(Debug)]
pub(super) struct Shares {
    percent: AtomicU32,
    chunk_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of each store of which something waits.
    waiting: HashMap<Store, u64>,
    topics: [Chunks; Topic::ALL.len()],
    said: Option<Instant>,
}

/// Those of one topic, in order.
#[derive(Debug, Default)]
struct Chunks {
    /// Of frames that were there before the start.
    found: VecDeque<Chunk>,
    appended: VecDeque<Chunk>,
}

#[derive(Debug, Default)]
struct Chunk {
    /// Offset after its last frame.
    end: u64,
    bytes: u64,
    stores: HashMap<Store, u64>,
}

impl Shares {
    pub(super) fn new(bytes_max: u64) -> Self {
        let chunk_bytes = (bytes_max / CHUNKS).max(1);
        Self { percent: AtomicU32::new(ALL), chunk_bytes, state: Mutex::default() }
    }

    pub(super) fn limit(&self, percent: u32) {
        self.percent.store(percent.min(ALL), Ordering::Relaxed);
    }

    /// Counts bytes that are on their way to the disk; `None`: they are too many.
    pub(super) fn reserve(&self, store: &[u8], bytes: u64, room: Room) -> Option<Store> {
        let mut state = self.state();
        let held = state.waiting.get(store).copied().unwrap_or(0);
        if !self.has_room(held, bytes, room) {
            if state.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
                state.said = Some(Instant::now());
                let store = String::from_utf8_lossy(store);
                tracing::warn!(%store, held, free = room.free, "a store has too much waiting in the spool; it is answered 429");
            }
            return None;
        }
        let store = match state.waiting.get_key_value(store) {
            Some((store, _)) => Arc::clone(store),
            None => store.into(),
        };
        *state.waiting.entry(Arc::clone(&store)).or_default() += bytes;
        Some(store)
    }

    /// Whether a store may append at all now. A quarter of what it may have is left to its own server (`trusted`): what
    /// anybody can send with its write key does not keep that out.
    pub(super) fn admits(&self, store: &[u8], trusted: bool, room: Room) -> bool {
        let held = self.state().waiting.get(store).copied().unwrap_or(0);
        self.has_room(if trusted { held } else { held + held / 3 }, 1, room)
    }

    fn has_room(&self, held: u64, bytes: u64, Room { size, free }: Room) -> bool {
        let percent = self.percent.load(Ordering::Relaxed);
        let most = u128::from(size) * u128::from(percent) / u128::from(ALL);
        let wanted = held + bytes;
        percent == ALL
            || wanted <= (size / LITTLE).max(LITTLE_BYTES_MIN)
            || (u128::from(wanted) <= most && free >= bytes + size / RESERVE)
    }

    /// Bytes that were reserved have not been written.
    pub(super) fn give_back(&self, store: &Store, bytes: u64) {
        self.state().give_back(store, bytes);
    }

    /// Bytes that were reserved stand below offset `end` now.
    pub(super) fn appended<'s>(
        &self,
        topic: Topic,
        end: u64,
        appends: impl Iterator<Item = (&'s Store, u64)>,
    ) {
        let mut state = self.state();
        let chunks = &mut state.topics[topic as usize].appended;
        if chunks.back().is_none_or(|chunk| chunk.bytes >= self.chunk_bytes) {
            chunks.push_back(Chunk::default());
        }
        if let Some(chunk) = chunks.back_mut() {
            chunk.end = end;
            for (store, bytes) in appends {
                chunk.add(store, bytes);
            }
        }
    }

    /// Frames that were there before the start, up to offset `end`.
    pub(super) fn found(&self, topic: Topic, end: u64, frames: &HashMap<Store, u64>) {
        let mut state = self.state();
        for (store, bytes) in frames {
            *state.waiting.entry(Arc::clone(store)).or_default() += bytes;
        }
        let chunks = &mut state.topics[topic as usize].found;
        if chunks.back().is_none_or(|chunk| chunk.bytes >= self.chunk_bytes) {
            chunks.push_back(Chunk::default());
        }
        if let Some(chunk) = chunks.back_mut() {
            chunk.end = end;
            frames.iter().for_each(|(store, bytes)| chunk.add(store, *bytes));
        }
    }

    /// The reader has consumed everything below `position`; the topic ends at `next`.
    pub(super) fn consumed(&self, topic: Topic, position: u64, next: u64) {
        let mut state = self.state();
        let Chunks { mut found, mut appended } = std::mem::take(&mut state.topics[topic as usize]);
        for chunks in [&mut found, &mut appended] {
            while chunks.front().is_some_and(|chunk| chunk.end <= position || position >= next) {
                for (store, bytes) in chunks.pop_front().unwrap_or_default().stores {
                    state.give_back(&store, bytes);
                }
            }
        }
        state.topics[topic as usize] = Chunks { found, appended };
    }

    /// Bytes of the store of which the most wait.
    pub(super) fn largest(&self) -> u64 {
        self.state().waiting.values().copied().max().unwrap_or(0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn give_back(&mut self, store: &Store, bytes: u64) {
        if let Some(held) = self.waiting.get_mut(store) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.waiting.remove(store);
            }
        }
    }
}

impl Chunk {
    fn add(&mut self, store: &Store, bytes: u64) {
        self.bytes += bytes;
        *self.stores.entry(Arc::clone(store)).or_default() += bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROOM: u64 = 128 << 20;
    const BYTES: u64 = 1 << 10;

    fn shares(percent: u32) -> Shares {
        let shares = Shares::new(ROOM);
        shares.limit(percent);
        shares
    }

    /// Appends until it is refused; how many bytes that were.
    fn fill(shares: &Shares, store: &str, free: &mut u64, end: &mut u64) -> u64 {
        let mut filled = 0;
        while *free >= BYTES
            && let Some(store) = shares.reserve(store.as_bytes(), BYTES, Room { size: ROOM, free: *free })
        {
            (*free, *end, filled) = (*free - BYTES, *end + 1, filled + BYTES);
            shares.appended(Topic::Events, *end, [(&store, BYTES)].into_iter());
        }
        filled
    }

    #[test]
    fn a_store_has_its_part_and_many_leave_a_quarter() {
        for (percent, alone) in [(50, ROOM / 2), (20, ROOM / 5), (90, ROOM / 4 * 3), (100, ROOM)] {
            let (mut free, mut end) = (ROOM, 0);
            let filled = fill(&shares(percent), "a", &mut free, &mut end);
            assert!(filled.abs_diff(alone) <= 2 * BYTES, "{percent}: {filled}");
        }
        let shares = shares(50);
        let (mut free, mut end) = (ROOM, 0);
        // One after the other, and again and again.
        for _ in 0..3 {
            for store in 0..10 {
                fill(&shares, &format!("s{store}"), &mut free, &mut end);
            }
        }
        assert!(free >= ROOM / 4 - 10 * ROOM / 256, "{free}");
        let honest = fill(&shares, "honest", &mut free, &mut end);
        assert!(honest >= ROOM / 256, "{honest}");
    }

    #[test]
    fn what_was_consumed_is_given_back_wherever_its_chunk_ends() {
        let shares = shares(50);
        let (mut free, mut end) = (ROOM, 0);
        let filled = fill(&shares, "a", &mut free, &mut end);
        assert!(
            !shares.admits(b"a", true, Room { size: ROOM, free })
                && shares.admits(b"b", false, Room { size: ROOM, free: 1 })
        );
        shares.consumed(Topic::Clicks, end, end);
        assert_eq!(shares.largest(), filled, "another topic's position says nothing");
        shares.consumed(Topic::Events, end / 2, end + 1);
        assert!(shares.largest().abs_diff(filled / 2) <= 2 * shares.chunk_bytes, "{}", shares.largest());
        shares.consumed(Topic::Events, end, end);
        assert_eq!(shares.largest(), 0);
        assert!(shares.state().waiting.is_empty(), "nothing is remembered of who has nothing waiting");
    }

    proptest! {
        /// Whatever happens, what is counted is what waits, but for chunks that are consumed in part.
        #[test]
        fn what_waits_is_counted(steps in proptest::collection::vec((0_usize..3, 0_u64..400, 0_u8..4), 1..200)) {
            // Chunks of 100 bytes.
            let shares = Shares::new(12_800);
            let mut frames: Vec<(usize, u64)> = Vec::new();
            let mut position = 0;
            for (store, bytes, step) in steps {
                let name = format!("s{store}");
                match step {
                    0 => {
                        position = (position + bytes as usize / 20).min(frames.len());
                        shares.consumed(Topic::Events, position as u64, frames.len() as u64);
                    }
                    1 => {
                        let held = shares.reserve(name.as_bytes(), bytes, Room { size: ROOM, free: ROOM }).unwrap();
                        shares.give_back(&held, bytes);
                    }
                    _ => {
                        let held = shares.reserve(name.as_bytes(), bytes, Room { size: ROOM, free: ROOM }).unwrap();
                        frames.push((store, bytes));
                        shares.appended(Topic::Events, frames.len() as u64, [(&held, bytes)].into_iter());
                    }
                }
                let state = shares.state();
                for store in 0..3 {
                    let waits: u64 = frames[position..].iter().filter(|frame| frame.0 == store).map(|frame| frame.1).sum();
                    let counted = state.waiting.get(format!("s{store}").as_bytes()).copied().unwrap_or(0);
                    prop_assert!(counted >= waits && counted <= waits + 500, "{} {}", counted, waits);
                }
            }
        }
    }
}
