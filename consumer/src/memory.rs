//! One bound, in bytes, over everything that partitions hold: what waits to be decoded, what is being gathered, what is on
//! its way. Sources stop reading above it; nothing else grows.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::sync::Notify;

/// The bound and what is used of it.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    bytes_max: usize,
    filled: Notify,
}

/// Bytes that are held, given back when dropped.
#[derive(Debug)]
pub struct Charge {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Memory {
    /// A bound of so many bytes.
    pub fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), bytes_max, filled: Notify::new() })
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether reading must pause.
    pub fn is_full(&self) -> bool {
        self.used() >= self.bytes_max
    }

    /// Whether paused reading may go on: lower than [`Memory::is_full`], so that it does not flutter.
    pub fn has_room(&self) -> bool {
        self.used() < self.bytes_max / 4 * 3
    }

    /// Bytes that one partition may have waiting to be decoded.
    pub fn waiting_bytes_max(&self) -> usize {
        (self.bytes_max / 16).clamp(256 << 10, 8 << 20)
    }

    /// Comes when memory becomes full (and only then: look at [`Memory::is_full`] first).
    pub async fn filled(&self) {
        self.filled.notified().await;
    }

    /// Holds so many bytes.
    pub fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        let mut charge = Charge { memory: self.clone(), bytes: 0 };
        charge.set(bytes);
        charge
    }
}

impl Charge {
    /// Changes how many bytes are held.
    pub fn set(&mut self, bytes: usize) {
        let memory = &self.memory;
        if bytes > self.bytes {
            let more = bytes - self.bytes;
            let before = memory.used.fetch_add(more, Relaxed);
            if before < memory.bytes_max && before + more >= memory.bytes_max {
                memory.filled.notify_waiters();
            }
        } else {
            memory.used.fetch_sub(self.bytes - bytes, Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_charged_comes_back() {
        let memory = Memory::new(100);
        let mut charge = memory.charge(60);
        assert!(memory.has_room() && !memory.is_full());
        charge.set(100);
        assert!(memory.is_full() && !memory.has_room());
        charge.set(80);
        assert!(!memory.is_full() && !memory.has_room());
        drop(charge);
        assert_eq!(memory.used(), 0);
    }
}
