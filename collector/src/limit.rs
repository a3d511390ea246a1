//! Rates: events per second of a store, requests per second of a client address. Both are bounded in memory: stores by
//! their number, addresses by sharing a fixed number of slots.

use std::{
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, NotUntil, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};

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
        let network = match client {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            // One customer of a provider has at least a /64 to himself.
            IpAddr::V6(address) => address.to_bits() >> 64,
        };
        let slot = (self.hasher.hash_one(network) % SLOTS) as u16;
        limiter.check_key(&slot).map_err(|not_until| Wait::until(&not_until))
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
    fn addresses_of_one_network_share_a_rate() {
        let rate = ClientRate::new(1);
        let take = |text: &str| rate.take(text.parse().unwrap()).is_ok();
        assert!(take("2001:db8::1") && take("2001:db8::2") && !take("2001:db8::3"));
        assert!(ClientRate::new(0).take("::1".parse().unwrap()).is_ok());
    }
}
