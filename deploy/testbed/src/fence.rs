//! What a lone broker says after it was away for longer than its session, for as long as a test wants it.
//!
//! The controller has fenced it, so for a moment its metadata list the topics and not one broker. A real broker does that
//! for some milliseconds only, now and then. This stands between clients and a real broker and takes the brokers out of
//! its answers; all else is carried on as it is. Frames of Kafka's protocol are a length (4 bytes) and as many bytes; a
//! request begins with its kind (2), version (2) and number (4), an answer with the number of its request.
//!
//! Only old versions are understood, so the broker's list of versions is cut down to them.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

const METADATA: u16 = 3;
const FIND_COORDINATOR: u16 = 10;
const API_VERSIONS: u16 = 18;
/// The last versions without the compact encoding.
const NEWEST: [(u16, u16); 2] = [(METADATA, 8), (FIND_COORDINATOR, 2)];
const FRAME_BYTES_MAX: usize = 64 << 20;

/// A fence around one broker. Dropping it closes its port.
#[derive(Debug)]
pub struct Fence {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    port: u16,
    /// Whether the broker is fenced; a change ends all connections.
    is_up: watch::Sender<bool>,
    emptied: AtomicU64,
}

impl Drop for Fence {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fence {
    /// Stands in front of the broker at `target`, like `127.0.0.1:9092`; not fenced yet.
    pub async fn start(target: &str) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            port: address.port(),
            is_up: watch::Sender::new(false),
            emptied: AtomicU64::new(0),
        });
        let (accepting, target) = (state.clone(), target.to_owned());
        let task = tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let (state, target) = (accepting.clone(), target.clone());
                tokio::spawn(async move {
                    // Either end may close at any time.
                    let _ = carry(client, &target, &state).await;
                });
            }
        });
        Ok(Self { address, state, task })
    }

    /// The value of `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        self.address.to_string()
    }

    /// From now on no broker is listed. Connections are closed, as they are when a broker was away.
    pub fn raise(&self) {
        self.state.is_up.send_replace(true);
    }

    /// The broker is listed again. Connections stay.
    pub fn lower(&self) {
        self.state.is_up.send_replace(false);
    }

    /// How many answers listed no broker.
    pub fn emptied(&self) -> u64 {
        self.state.emptied.load(SeqCst)
    }
}

async fn carry(client: TcpStream, target: &str, state: &State) -> io::Result<()> {
    let server = TcpStream::connect(target).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asked = Mutex::new(HashMap::new());
    let mut raised = state.is_up.subscribe();
    raised.mark_unchanged();
    let up = async {
        loop {
            let frame = read_frame(&mut from_client).await?;
            if let (Some(kind), Some(version), Some(number)) =
                (u16_at(&frame, 4), u16_at(&frame, 6), frame.get(8..12))
            {
                asked.lock().unwrap_or_else(PoisonError::into_inner).insert(number.to_vec(), (kind, version));
            }
            to_server.write_all(&frame).await?;
        }
    };
    let down = async {
        loop {
            let mut frame = read_frame(&mut from_server).await?;
            let number = frame.get(4..8).unwrap_or_default().to_vec();
            let asked = asked.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            if let Some((kind, version)) = asked {
                state.change(kind, version, &mut frame).ok_or(io::ErrorKind::InvalidData)?;
            }
            to_client.write_all(&frame).await?;
        }
    };
    let ended: io::Result<()> = tokio::select! {
        ended = up => ended,
        ended = down => ended,
        () = async { while raised.changed().await.is_ok() && !*raised.borrow() {} } => Ok(()),
    };
    ended
}

impl State {
    /// Changes an answer where that is needed; nothing: it is not understood.
    fn change(&self, kind: u16, version: u16, frame: &mut Vec<u8>) -> Option<()> {
        match kind {
            API_VERSIONS => limit_versions(version, frame),
            METADATA => self.change_metadata(version, frame),
            // Wait (4), error (2), message, node, host, port (4).
            FIND_COORDINATOR if version >= 1 && u16_at(frame, 12)? == 0 => {
                let at = frame.len().checked_sub(4)?;
                self.change_port(frame, at)
            }
            _ => Some(()),
        }
    }

    fn change_metadata(&self, version: u16, frame: &mut Vec<u8>) -> Option<()> {
        let count_at = if version >= 3 { 12 } else { 8 };
        let count = u32_at(frame, count_at)?;
        let mut at = count_at + 4;
        for _ in 0..count {
            // Node (4), host, port (4), rack.
            at += 4;
            at += 2 + usize::from(u16_at(frame, at)?);
            self.change_port(frame, at)?;
            at += 4;
            at += 2 + usize::from(Some(u16_at(frame, at)?).filter(|length| *length != u16::MAX).unwrap_or(0));
        }
        if *self.is_up.borrow() {
            frame.drain(count_at + 4..at);
            frame.get_mut(count_at..count_at + 4)?.fill(0);
            let length = u32::try_from(frame.len() - 4).ok()?;
            frame.get_mut(..4)?.copy_from_slice(&length.to_be_bytes());
            self.emptied.fetch_add(1, Relaxed);
        }
        Some(())
    }

    fn change_port(&self, frame: &mut [u8], at: usize) -> Option<()> {
        frame.get_mut(at..at + 4)?.copy_from_slice(&u32::from(self.port).to_be_bytes());
        Some(())
    }
}

/// Error (2), count (4, or one or two bytes from version 3 on), and for each kind its number, oldest and newest version
/// (2 each), which an empty byte follows from version 3 on.
fn limit_versions(version: u16, frame: &mut [u8]) -> Option<()> {
    let is_compact = version >= 3;
    let count_bytes = if !is_compact { 4 } else { 1 + usize::from(*frame.get(10)? >= 0x80) };
    for entry in frame.get_mut(10 + count_bytes..)?.chunks_exact_mut(6 + usize::from(is_compact)) {
        let limit = NEWEST.iter().find(|(kind, _)| u16_at(entry, 0) == Some(*kind));
        if let Some((_, newest)) = limit {
            entry.get_mut(4..6)?.copy_from_slice(&newest.to_be_bytes());
        }
    }
    Some(())
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = from.read_u32().await?;
    let bytes = usize::try_from(length).ok().filter(|bytes| *bytes <= FRAME_BYTES_MAX);
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + bytes.ok_or(io::ErrorKind::InvalidData)?, 0);
    from.read_exact(&mut frame[4..]).await?;
    Ok(frame)
}

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(frame: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(frame.get(at..at + 4)?.try_into().ok()?))
}
