//! The time of receipt, from a clock that can be right.
//!
//! What is received by a clock that stands far back would be answered 202, and fall to its term of retention at once. So
//! nothing is taken while the clock stands far before this program was built, or far behind the newest receipt, which is kept
//! in a file for the next start.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use millrace_schemas::time::write_instant;
use millrace_service::private;

/// When this program was built, epoch milliseconds.
const BUILT_AT: i64 = match i64::from_str_radix(env!("BUILT_AT"), 10) {
    Ok(seconds) => seconds * 1000,
    Err(_) => 0,
};

/// The file is written again once the newest receipt is so much newer than what stands there.
const WRITTEN_APART_MS: i64 = 60_000;

pub(crate) struct Clock {
    behind_max_ms: i64,
    /// Epoch milliseconds; never before [`BUILT_AT`].
    newest_receipt: AtomicI64,
    /// The receipt that stands in the file.
    written: AtomicI64,
    file: PathBuf,
}

impl Clock {
    pub(crate) fn new(file: PathBuf, behind_max: Duration) -> Self {
        let kept = read(&file).and_then(|text| text.trim().parse().ok());
        Self {
            behind_max_ms: i64::try_from(behind_max.as_millis()).unwrap_or(i64::MAX),
            newest_receipt: kept.unwrap_or(BUILT_AT).max(BUILT_AT).into(),
            written: kept.unwrap_or(0).into(),
            file,
        }
    }

    /// The time of a receipt, epoch milliseconds; or why the clock cannot be right.
    pub(crate) fn receipt(&self) -> Result<i64, String> {
        self.receipt_at(now_ms())
    }

    fn receipt_at(&self, now: i64) -> Result<i64, String> {
        let newest = self.check(now)?;
        if now > newest {
            self.newest_receipt.fetch_max(now, Ordering::Relaxed);
        }
        Ok(now)
    }

    /// Why nothing can be taken now.
    pub(crate) fn ready(&self) -> Result<(), String> {
        self.check(now_ms()).map(drop)
    }

    fn check(&self, now: i64) -> Result<i64, String> {
        let newest = self.newest_receipt.load(Ordering::Relaxed);
        if newest.saturating_sub(now) <= self.behind_max_ms {
            Ok(newest)
        } else {
            Err(self.problem(now, newest))
        }
    }

    #[cold]
    fn problem(&self, now: i64, newest: i64) -> String {
        let reference = match newest {
            BUILT_AT => format!("this program was built at {}", text(newest)),
            newest => format!(
                "the newest receipt is of {} (if that was wrong, remove {} and start again)",
                text(newest),
                self.file.display()
            ),
        };
        format!(
            "the clock says {}, and {reference}: what is received by such a clock would be removed as too old; set it right",
            text(now)
        )
    }

    /// Keeps the newest receipt for the next start, now and then.
    pub(crate) fn tick(&self) {
        let newest = self.newest_receipt.load(Ordering::Relaxed);
        if newest == BUILT_AT || newest - self.written.load(Ordering::Relaxed) < WRITTEN_APART_MS {
            return;
        }
        if let Err(error) = private::write(&self.file, newest.to_string().as_bytes()) {
            tracing::warn!(%error, file = %self.file.display(), "the newest receipt could not be written");
        }
        // Also where that failed: a full disk needs no warning each second.
        self.written.store(newest, Ordering::Relaxed);
    }
}

fn read(file: &Path) -> Option<String> {
    let mut file = File::open(file).ok()?;
    private::narrow_file(&file).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    Some(text)
}

fn text(ms: i64) -> String {
    let mut text = Vec::new();
    write_instant(&mut text, ms);
    format!("{} UTC", String::from_utf8_lossy(&text))
}

/// Now, epoch milliseconds.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: i64 = 86_400_000;

    #[test]
    fn a_clock_far_back_receives_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let start = || Clock::new(dir.path().join("newest_receipt"), Duration::from_secs(3 * 86_400));
        let clock = start();
        assert!(clock.ready().is_ok());
        assert_eq!(clock.receipt_at(BUILT_AT - 3 * DAY_MS), Ok(BUILT_AT - 3 * DAY_MS));
        let problem = clock.receipt_at(BUILT_AT - 3 * DAY_MS - 1).unwrap_err();
        assert!(problem.contains("this program was built"), "{problem}");
        clock.tick();

        let newest = BUILT_AT + 10 * DAY_MS;
        assert_eq!(start().receipt_at(BUILT_AT), Ok(BUILT_AT), "nothing was received yet");
        assert_eq!(clock.receipt_at(newest), Ok(newest));
        clock.tick();
        for clock in [clock, start()] {
            assert_eq!(clock.receipt_at(newest - 3 * DAY_MS), Ok(newest - 3 * DAY_MS));
            let problem = clock.receipt_at(newest - 3 * DAY_MS - 1).unwrap_err();
            assert!(problem.contains("newest_receipt"), "{problem}");
            assert_eq!(clock.receipt_at(newest + 1), Ok(newest + 1));
        }
    }
}
