//! The time of day.

use std::time::{SystemTime, UNIX_EPOCH};

/// Now, epoch milliseconds.
pub(crate) fn now_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => since.as_millis() as i64,
        // A clock that was never set.
        Err(before) => -(before.duration().as_millis() as i64),
    }
}
