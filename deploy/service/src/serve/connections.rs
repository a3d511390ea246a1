//! Who holds the connections, and who loses one when all are taken.
//!
//! Connections are bounded in number, so whoever holds them keeps others out. When one more is wanted than there may be,
//! room is made among those whose next bytes the service waits for: idle ones, slow heads, slow bodies, and clients
//! that do not read their answers. First among the connections of the address that holds the most, and of those the one
//! waited for the longest. So one address that takes them all only ever takes them from itself, and many addresses that
//! hold one each lose the oldest. A request that is complete is never cut off by this.
//!
//! Connections of trusted proxies stand for many clients, and are closed last.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use ipnet::IpNet;
use tokio::task::AbortHandle;

use super::body::Unread;

/// A request of this connection is complete, and not answered yet.
const BUSY: u64 = u64::MAX;
/// It is being closed to make room.
const CLOSED: u64 = u64::MAX - 1;

/// Looking for whom to close costs a look at every connection; so of a full table this part is closed at once.
const CLOSED_AT_ONCE: usize = 64;

/// All open connections.
#[derive(Debug)]
pub(super) struct Connections {
    began: Instant,
    connections_max: usize,
    trusted_proxies: Vec<IpNet>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next_id: u64,
    by_id: HashMap<u64, Entry>,
    /// Connections of each client's network; those of trusted proxies are not counted.
    held: HashMap<IpAddr, u32>,
}

#[derive(Debug)]
struct Entry {
    connection: Arc<Connection>,
    /// `None`: of a trusted proxy.
    network: Option<IpAddr>,
    task: Option<AbortHandle>,
}

/// What a connection's requests say of it.
#[derive(Debug)]
pub struct Connection {
    began: Instant,
    /// Milliseconds at which the wait for the client began, or [`BUSY`], or [`CLOSED`].
    waiting_since_ms: AtomicU64,
    /// What was left of the present request's body.
    unread: Mutex<Option<Unread>>,
}

impl Connection {
    /// The client's turn, since `now`.
    pub(super) fn wait(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.began).as_millis();
        self.waiting_since_ms.store(u64::try_from(ms).unwrap_or(0), Ordering::Relaxed);
    }

    /// The service's turn: a request is complete. Said by itself when a body has been read to its end.
    pub fn work(&self) {
        self.waiting_since_ms.store(BUSY, Ordering::Relaxed);
    }

    /// What a handler has left of its request's body.
    pub(super) fn leave(&self, unread: Unread) {
        *self.unread.lock().unwrap_or_else(PoisonError::into_inner) = Some(unread);
    }

    pub(super) fn take_unread(&self) -> Option<Unread> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A connection's place in the table; dropping it gives the place back.
#[derive(Debug)]
pub(super) struct Seat {
    connections: Arc<Connections>,
    id: u64,
    pub(super) connection: Arc<Connection>,
}

impl Connections {
    pub(super) fn new(connections_max: usize, trusted_proxies: Vec<IpNet>) -> Arc<Self> {
        let open = Mutex::default();
        Arc::new(Self { began: Instant::now(), connections_max, trusted_proxies, open })
    }

    /// Enters a connection that has just been accepted.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr) -> Seat {
        let peer = peer.to_canonical();
        let is_proxy = self.trusted_proxies.iter().any(|network| network.contains(&peer));
        let network = (!is_proxy).then(|| network(peer));
        let connection = Arc::new(Connection {
            began: self.began,
            waiting_since_ms: AtomicU64::new(0),
            unread: Mutex::default(),
        });
        connection.wait(Instant::now());
        let mut open = self.lock();
        let id = open.next_id;
        open.next_id += 1;
        if let Some(network) = network {
            *open.held.entry(network).or_default() += 1;
        }
        open.by_id.insert(id, Entry { connection: Arc::clone(&connection), network, task: None });
        Seat { connections: Arc::clone(self), id, connection }
    }

    /// Tells how a connection can be closed. It may have ended meanwhile.
    pub(super) fn served_by(&self, id: u64, task: AbortHandle) {
        if let Some(entry) = self.lock().by_id.get_mut(&id) {
            entry.task = Some(task);
        }
    }

    /// Closes some connections, as the module says; returns how many.
    pub(super) fn make_room(&self) -> usize {
        let open = self.lock();
        let mut waiting: Vec<_> = open
            .by_id
            .values()
            .filter_map(|entry| {
                let since_ms = entry.connection.waiting_since_ms.load(Ordering::Relaxed);
                let held = entry.network.and_then(|network| open.held.get(&network)).copied().unwrap_or(0);
                (since_ms < CLOSED).then_some((Reverse(held), since_ms, entry))
            })
            .collect();
        let most = (self.connections_max / CLOSED_AT_ONCE).max(1);
        if most < waiting.len() {
            waiting.select_nth_unstable_by_key(most, |(held, since_ms, _)| (*held, *since_ms));
            waiting.truncate(most);
        }
        let mut closed = 0;
        for (_, since_ms, entry) in waiting {
            let Entry { connection, task: Some(task), .. } = entry else { continue };
            // Its request may have become complete since.
            let is_waiting = connection
                .waiting_since_ms
                .compare_exchange(since_ms, CLOSED, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
            if is_waiting {
                task.abort();
                closed += 1;
            }
        }
        closed
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        let Some(Entry { network: Some(network), .. }) = open.by_id.remove(&self.id) else { return };
        if let Some(held) = open.held.get_mut(&network) {
            *held -= 1;
            if *held == 0 {
                open.held.remove(&network);
            }
        }
    }
}

/// The part of an address that belongs to one customer of a provider: an IPv6 network of 64 bits is the least.
pub fn network(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with a task for each seat; the task ends when its connection is closed.
    struct Table {
        connections: Arc<Connections>,
        tasks: Vec<(Arc<Connection>, tokio::task::JoinHandle<()>)>,
    }

    impl Table {
        fn enter(&mut self, peer: &str, waited_ms: u64) {
            let seat = self.connections.enter(peer.parse().unwrap());
            let connection = Arc::clone(&seat.connection);
            connection.waiting_since_ms.store(1_000 - waited_ms, Ordering::Relaxed);
            let id = seat.id();
            let task = tokio::spawn(async move {
                let _seat = seat;
                std::future::pending::<()>().await;
            });
            self.connections.served_by(id, task.abort_handle());
            self.tasks.push((connection, task));
        }

        async fn make_room(&mut self) -> Vec<usize> {
            let left = self.connections.len() - self.connections.make_room();
            while self.connections.len() > left {
                tokio::task::yield_now().await;
            }
            (0..self.tasks.len()).filter(|index| self.tasks[*index].1.is_finished()).collect()
        }
    }

    #[tokio::test]
    async fn who_holds_most_loses_what_waited_longest() {
        let trusted = vec!["10.0.0.0/8".parse().unwrap()];
        let mut table = Table { connections: Connections::new(8, trusted), tasks: Vec::new() };
        table.enter("10.0.0.1", 900);
        table.enter("10.0.0.1", 900);
        table.enter("10.0.0.1", 900);
        table.enter("192.0.2.1", 800);
        table.enter("2001:db8::1", 10);
        table.enter("2001:db8::2", 20);
        table.enter("2001:db8::3", 30);
        // Two of one network are left, and one of them has a complete request.
        assert_eq!(table.make_room().await, [6]);
        table.tasks[5].0.work();
        assert_eq!(table.make_room().await, [4, 6]);
        assert_eq!(table.make_room().await, [3, 4, 6]);
        assert_eq!(table.make_room().await.len(), 4, "proxies come last");
        assert_eq!(table.connections.len(), 3);
        table.tasks[5].1.abort();
        let (_, last) = table.tasks.swap_remove(5);
        assert!(last.await.unwrap_err().is_cancelled());
        assert!(table.connections.lock().held.is_empty(), "networks without connections are forgotten");
    }
}
