//! Rates: events per second of a store, requests per second of a client address. Both are bounded in memory: stores by
//! their number, addresses by sharing a fixed number of slots. Their clock is the monotonic one.
//!
//! And what the process has only so much of: processors for large bodies, memory for events that wait for the log.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    sync::Arc,
    thread::available_parallelism,
    time::Duration,
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
/// quarter is left to requests that are not large, so that a few large ones keep nobody else out.
#[derive(Debug)]
pub(crate) struct Unlogged {
    all: Arc<Semaphore>,
    large: Arc<Semaphore>,
    large_bytes_max: u32,
}

impl Unlogged {
    pub(crate) fn new(bytes_max: u32) -> Self {
        let large_bytes_max = bytes_max / 4 * 3;
        let semaphore = |bytes: u32| Arc::new(Semaphore::new(bytes as usize));
        Self { all: semaphore(bytes_max), large: semaphore(large_bytes_max), large_bytes_max }
    }

    /// Takes memory for so many bytes of messages; `None`: there is none left now.
    pub(crate) fn take(&self, bytes: usize) -> Option<Held> {
        // A single request may be larger than all of it; then it is alone.
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.large_bytes_max);
        let large = match bytes > LARGE_BYTES {
            true => Some(Arc::clone(&self.large).try_acquire_many_owned(permits).ok()?),
            false => None,
        };
        let all = Arc::clone(&self.all).try_acquire_many_owned(permits).ok()?;
        Some(Held { _all: all, _large: large })
    }
}

/// Memory that is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _all: OwnedSemaphorePermit,
    _large: Option<OwnedSemaphorePermit>,
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
    fn large_requests_leave_room_for_others() {
        let unlogged = Unlogged::new(1 << 20);
        let large: Vec<_> = (0..16).map_while(|_| unlogged.take(100 << 10)).collect();
        assert_eq!(large.len(), 7, "three quarters");
        let small: Vec<_> = (0..1000).map_while(|_| unlogged.take(10 << 10)).collect();
        assert_eq!(small.len(), 32);
        drop((large, small));
        assert!(unlogged.take(64 << 20).is_some());
    }

    #[test]
    fn addresses_of_one_network_share_a_rate() {
        let rate = ClientRate::new(1);
        let take = |text: &str| rate.take(text.parse().unwrap()).is_ok();
        assert!(take("2001:db8::1") && take("2001:db8::2") && !take("2001:db8::3"));
        assert!(ClientRate::new(0).take("::1".parse().unwrap()).is_ok());
    }
}
