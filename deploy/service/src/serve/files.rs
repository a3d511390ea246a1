//! A process's open files, shared out among its listeners.
//!
//! A connection is a file, and a process may have so many. A listener that takes them all takes them from every other one
//! in its process, and from its log and its databases too. So the limit is raised as far as it may be, some files are kept
//! for what is no connection, and each listener has a part that no other can take: the smaller ones a fixed fraction at
//! most, the main one what is left, whether the others are there or not.

use std::sync::Mutex;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files beside connections: logs and spools, databases, the runtime's own. A quarter of the limit where that is less.
const OTHER_FILES: u64 = 128;

/// Which part of the process's files is a listener's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// What the others leave; of one listener in a process.
    Rest,
    /// Up to an eighth: an API.
    Eighth,
    /// Up to a sixteenth: metrics.
    Sixteenth,
}

/// What listeners of this process hold together.
static HELD: Mutex<u64> = Mutex::new(0);

/// A listener's connections; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    connections: usize,
}

impl Held {
    /// As many connections as are wanted, within the listener's share.
    pub(super) fn take(share: Share, connections_max: usize) -> Self {
        let mut held = HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let connections = maximum.or(current).map_or(connections_max, |files| {
            usize::try_from(share.connections(files)).unwrap_or(usize::MAX).min(connections_max)
        });
        if connections < connections_max {
            tracing::warn!(
                connections,
                wanted = connections_max,
                "a listener takes fewer connections than are set: raise the limit of open files"
            );
        }
        *held += connections as u64;
        let wanted = maximum.map_or(*held + OTHER_FILES, |maximum| maximum.min(*held + OTHER_FILES));
        if current.is_some_and(|current| current < wanted)
            && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
        {
            tracing::warn!(%error, "the limit of open files cannot be raised");
        }
        Self { connections }
    }

    pub(super) const fn connections(&self) -> usize {
        self.connections
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *held = held.saturating_sub(self.connections as u64);
    }
}

impl Share {
    /// Connections of a listener in a process that may have so many files.
    fn connections(self, files: u64) -> u64 {
        let connections = match self {
            Self::Eighth => files / 8,
            Self::Sixteenth => files / 16,
            Self::Rest => files - files / 8 - files / 16 - OTHER_FILES.min(files / 4),
        };
        connections.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_no_more_than_the_whole() {
        for files in [16, 64, 256, 1024, 4096, 65_536, 1 << 30] {
            let [rest, api, metrics] =
                [Share::Rest, Share::Eighth, Share::Sixteenth].map(|share| share.connections(files));
            assert!(rest + api + metrics + OTHER_FILES.min(files / 4) <= files, "{files}");
            assert!(rest >= files / 2, "{files}");
        }
        assert_eq!(Share::Rest.connections(1024), 1024 - 128 - 64 - 128);
    }
}
