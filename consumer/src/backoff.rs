//! Pauses between attempts: exponential, bounded, with full jitter, so that consumers which failed together do not
//! come back together.

use std::time::Duration;

/// How long to wait before which attempt.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    /// Upper end of the first pause.
    pub first: Duration,
    /// Upper end of every later pause.
    pub max: Duration,
}

impl Backoff {
    /// The pause after `attempts` earlier failures; `jitter` is random in `0..1`.
    pub fn pause(&self, attempts: u32, jitter: f64) -> Duration {
        let top = self.first.saturating_mul(1_u32.checked_shl(attempts).unwrap_or(u32::MAX)).min(self.max);
        top.mul_f64(jitter.clamp(0.0, 1.0))
    }

    /// The pause before a store that is overloaded: it grows four times as early and is never short.
    pub fn long_pause(&self, attempts: u32, jitter: f64) -> Duration {
        self.pause(attempts.saturating_add(2), 0.5 + jitter.clamp(0.0, 1.0) / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let backoff = Backoff { first: Duration::from_millis(100), max: Duration::from_secs(15) };
        assert_eq!(backoff.pause(0, 1.0), Duration::from_millis(100));
        assert_eq!(backoff.pause(3, 0.5), Duration::from_millis(400));
        assert_eq!(backoff.pause(31, 1.0), Duration::from_secs(15));
        assert_eq!(backoff.pause(1000, 1.0), Duration::from_secs(15));
        assert_eq!(backoff.long_pause(0, 0.0), Duration::from_millis(200));
        assert_eq!(backoff.long_pause(u32::MAX, 1.0), Duration::from_secs(15));
    }
}
