//! Rates: events and bytes per second of a store, requests per second of a client address. Both are bounded in memory: stores by
//! their number, addresses by sharing a fixed number of slots. Their clock is the monotonic one.
//!
//! And what the process has only so much of: processors for large bodies, memory for events that wait for the log.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::{NonZeroU32, NonZeroU64},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use millrace_schemas::reject::Reason;
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::{OwnedSemaphorePermit, Semaphore},
};

use crate::{client, decode::Refusal};

/// The sender has to wait this long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait(pub(crate) Duration);

impl Wait {
    fn until(not_until: &NotUntil<governor::clock::QuantaInstant>) -> Self {
        Self(not_until.wait_time_from(DefaultClock::default().now()))
    }
}

/// Events per second of one store.
#[derive(Debug)]
pub(crate) struct StoreRate {
    pub(crate) per_second: NonZeroU32,
    burst: NonZeroU32,
    limiter: DefaultDirectRateLimiter,
}

impl StoreRate {
    /// A burst may be one second's worth, and one full request always.
    pub(crate) fn new(per_second: NonZeroU32, events_max: u32) -> Self {
        let burst = per_second.max(NonZeroU32::new(events_max).unwrap_or(NonZeroU32::MIN));
        let limiter = RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst));
        Self { per_second, burst, limiter }
    }

    pub(crate) fn take(&self, events: usize) -> Result<(), Wait> {
        let events = u32::try_from(events).unwrap_or(u32::MAX).min(self.burst.get());
        let Some(events) = NonZeroU32::new(events) else { return Ok(()) };
        match self.limiter.check_n(events) {
            // The burst was made to hold any request.
            Ok(Ok(())) | Err(_) => Ok(()),
            Ok(Err(not_until)) => Err(Wait::until(&not_until)),
        }
    }
}

/// Bytes per second of one store, as the log keeps them: rows take other room than what was sent.
///
/// What a request takes is known once its rows are made. So a request is let in while the store is not ahead of its rate by
/// more than a second, and may then put it further ahead: one request always fits, however large, and what follows waits.
#[derive(Debug)]
pub(crate) struct ByteRate {
    pub(crate) per_second: NonZeroU64,
    start: Instant,
    /// Nanoseconds since `start` at which all that was taken would have come at the rate.
    taken_ns: AtomicU64,
}

const SECOND_NS: u64 = 1_000_000_000;

impl ByteRate {
    pub(crate) fn new(per_second: NonZeroU64) -> Self {
        Self { per_second, start: Instant::now(), taken_ns: AtomicU64::new(0) }
    }

    /// Whether a request is let in now.
    pub(crate) fn admit(&self) -> Result<(), Wait> {
        self.admit_at(self.now_ns())
    }

    /// What a request took that was let in.
    pub(crate) fn take(&self, bytes: usize) {
        self.take_at(self.now_ns(), bytes);
    }

    fn admit_at(&self, now_ns: u64) -> Result<(), Wait> {
        let ahead_ns = self.taken_ns.load(Ordering::Relaxed).saturating_sub(now_ns);
        match ahead_ns.checked_sub(SECOND_NS) {
            Some(wait_ns) if wait_ns > 0 => Err(Wait(Duration::from_nanos(wait_ns))),
            _ => Ok(()),
        }
    }

    fn take_at(&self, now_ns: u64, bytes: usize) {
        let cost_ns = u128::from(SECOND_NS) * bytes as u128 / u128::from(self.per_second.get());
        let cost_ns = u64::try_from(cost_ns).unwrap_or(u64::MAX);
        let add = |taken_ns: u64| Some(taken_ns.max(now_ns).saturating_add(cost_ns));
        // Never refused: the closure always returns a value.
        let _ = self.taken_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Addresses that are told apart. Those that share a slot share a rate; which do is random, so nobody can choose whom
/// to share with.
const SLOTS: u64 = 1 << 16;

/// Requests per second of each client address.
pub(crate) struct ClientRate {
    limiter: Option<DefaultKeyedRateLimiter<u16>>,
    hasher: RandomState,
}

impl ClientRate {
    /// `0`: no limit. A burst may be two seconds' worth.
    pub(crate) fn new(per_second: u32) -> Self {
        let limiter = NonZeroU32::new(per_second).map(|per_second| {
            RateLimiter::keyed(
                Quota::per_second(per_second)
                    .allow_burst(per_second.saturating_mul(NonZeroU32::MIN.saturating_add(1))),
            )
        });
        Self { limiter, hasher: RandomState::new() }
    }

    pub(crate) fn take(&self, client: IpAddr) -> Result<(), Wait> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let slot = (self.hasher.hash_one(client::network(client)) % SLOTS) as u16;
        limiter.check_key(&slot).map_err(|not_until| Wait::until(&not_until))
    }
}

/// How long a large body waits for a processor.
const ASIDE_PATIENCE: Duration = Duration::from_secs(2);

/// Bodies that take milliseconds of a processor: only so many at a time that half of the processors are left to all
/// others, and off the threads that serve these.
#[derive(Debug)]
pub(crate) struct Aside(Semaphore);

impl Aside {
    pub(crate) fn new() -> Self {
        let processors = available_parallelism().map_or(1, usize::from);
        Self(Semaphore::new((processors / 2).max(1)))
    }

    pub(crate) async fn run<T>(&self, work: impl FnOnce() -> T) -> Result<T, Refusal> {
        let Ok(Ok(_turn)) = tokio::time::timeout(ASIDE_PATIENCE, self.0.acquire()).await else {
            return Err(Refusal::new(
                Reason::Unavailable,
                "too many large bodies at once; send this one again",
            ));
        };
        Ok(match Handle::current().runtime_flavor() {
            RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
            _ => work(),
        })
    }
}

/// Messages of one request beyond this are large.
const LARGE_BYTES: usize = 64 << 10;

/// Bounds the memory of accepted events that wait for the log's word: a log can be slow without being away. The last
/// quarter is left to requests that are not large, so that a few large ones keep nobody else out; and no store may have more
/// than is free, so that no store keeps others out. Of what a store may have a quarter is left to its own server.
#[derive(Debug)]
pub(crate) struct Unlogged {
    all: Arc<Semaphore>,
    large: Arc<Semaphore>,
    large_bytes_max: u32,
}

/// Memory of one store's events that wait for the log's word.
pub(crate) type StoreUnlogged = Arc<AtomicUsize>;

/// Why there is no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMemory {
    /// The store has more than is left.
    OfTheStore,
    OfAll,
}

impl Unlogged {
    pub(crate) fn new(bytes_max: u32) -> Self {
        let large_bytes_max = bytes_max / 4 * 3;
        let semaphore = |bytes: u32| Arc::new(Semaphore::new(bytes as usize));
        Self { all: semaphore(bytes_max), large: semaphore(large_bytes_max), large_bytes_max }
    }

    /// Takes memory for so many bytes of a store's messages.
    pub(crate) fn take(&self, bytes: usize, store: &StoreUnlogged, trusted: bool) -> Result<Held, NoMemory> {
        // A single request may be larger than all of it; then it is alone.
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.large_bytes_max);
        let held = store.load(Ordering::Relaxed);
        let of_store = if trusted { held } else { held + held / 3 };
        if of_store > 0 && of_store + permits as usize > self.all.available_permits() {
            return Err(NoMemory::OfTheStore);
        }
        let take = |semaphore: &Arc<Semaphore>| {
            Arc::clone(semaphore).try_acquire_many_owned(permits).map_err(|_| NoMemory::OfAll)
        };
        let large = if bytes > LARGE_BYTES { Some(take(&self.large)?) } else { None };
        let all = take(&self.all)?;
        store.fetch_add(permits as usize, Ordering::Relaxed);
        Ok(Held { _all: all, _large: large, store: Arc::clone(store), bytes: permits as usize })
    }
}

/// Memory that is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _all: OwnedSemaphorePermit,
    _large: Option<OwnedSemaphorePermit>,
    store: StoreUnlogged,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.store.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_a_second_of_burst_and_any_request_fits() {
        let rate = StoreRate::new(NonZeroU32::new(10).unwrap(), 500);
        assert_eq!(rate.take(0), Ok(()));
        assert_eq!(rate.take(500), Ok(()));
        let Err(Wait(wait)) = rate.take(1) else { panic!("the burst is spent") };
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
    }

    #[test]
    fn bytes_come_at_their_rate_and_any_request_fits() {
        let rate = ByteRate::new(NonZeroU64::new(1_000).unwrap());
        let at = |ms: u64| ms * 1_000_000;
        // However large one is, it fits; and then the next waits until it would have come at the rate.
        assert_eq!(rate.admit_at(0), Ok(()));
        rate.take_at(0, 5_000);
        assert_eq!(rate.admit_at(0), Err(Wait(Duration::from_secs(4))));
        assert_eq!(rate.admit_at(at(3_500)), Err(Wait(Duration::from_millis(500))));
        assert_eq!(rate.admit_at(at(4_000)), Ok(()));
        // Whoever sends at the rate is never refused, and idling saves up no more than a second.
        for second in 100..200 {
            assert_eq!(rate.admit_at(at(second * 1_000)), Ok(()));
            rate.take_at(at(second * 1_000), 1_000);
        }
        let mut taken = 0;
        while rate.admit_at(at(500_000)).is_ok() {
            rate.take_at(at(500_000), 100);
            taken += 100;
        }
        assert_eq!(taken, 1_100);
        ByteRate::new(NonZeroU64::MIN).take_at(u64::MAX, usize::MAX);
    }

    #[test]
    fn large_requests_leave_room_for_others() {
        let unlogged = Unlogged::new(1 << 20);
        // Each of another store.
        let large: Vec<_> =
            (0..16).map_while(|_| unlogged.take(100 << 10, &Arc::default(), true).ok()).collect();
        assert_eq!(large.len(), 7, "three quarters");
        let small: Vec<_> =
            (0..1000).map_while(|_| unlogged.take(10 << 10, &Arc::default(), true).ok()).collect();
        assert_eq!(small.len(), 32);
        drop((large, small));
        assert!(unlogged.take(64 << 20, &Arc::default(), true).is_ok());
    }

    #[test]
    fn a_store_leaves_room_for_others() {
        let unlogged = Unlogged::new(1 << 20);
        let hostile = StoreUnlogged::default();
        let mut held: Vec<_> =
            (0..1000).map_while(|_| unlogged.take(10 << 10, &hostile, true).ok()).collect();
        assert_eq!(held.len(), 51, "half of it");
        assert_eq!(unlogged.take(1, &hostile, true).err(), None);
        assert_eq!(unlogged.take(10 << 10, &hostile, true).err(), Some(NoMemory::OfTheStore));
        held.extend((0..20).map(|_| unlogged.take(10 << 10, &Arc::default(), true).unwrap()));
        drop(held);
        assert_eq!(hostile.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn addresses_of_one_network_share_a_rate() {
        let rate = ClientRate::new(1);
        let take = |text: &str| rate.take(text.parse().unwrap()).is_ok();
        assert!(take("2001:db8::1") && take("2001:db8::2") && !take("2001:db8::3"));
        assert!(ClientRate::new(0).take("::1".parse().unwrap()).is_ok());
    }
}
