//! Ports for test servers.
//!
//! Asking the kernel for a free port is not enough here. Its answers come from the range of outgoing
//! connections: while a killed server is down, a client's connection may sit on its port, even one that tries to
//! reach that very port and meets itself. So the ports lie below that range, and a locked file reserves each
//! for the test that holds it, also while nothing listens.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

const FIRST: u16 = 12_000;
/// Linux hands out outgoing ports from 32,768 on.
const COUNT: u16 = 20_000;

/// A port of 127.0.0.1 that no other test uses until this value is dropped.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _reservation: File,
}

impl Port {
    /// Finds a port on which nothing listens and reserves it.
    pub fn reserve() -> io::Result<Self> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let user = rustix::process::getuid().as_raw();
        let dir = std::env::temp_dir().join(format!("millrace-ports-{user}"));
        fs::create_dir_all(&dir)?;
        // Processes start at different places, so that they seldom try the same ports.
        let start = std::process::id().wrapping_mul(7919) % u32::from(COUNT);
        for _ in 0..COUNT {
            let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
            let number = FIRST + ((start + step) % u32::from(COUNT)) as u16;
            let path = dir.join(number.to_string());
            let Ok(file) = OpenOptions::new().create(true).append(true).open(path) else { continue };
            if file.try_lock().is_ok() && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok() {
                return Ok(Self { number, _reservation: file });
            }
        }
        Err(io::Error::other("no free port on 127.0.0.1"))
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}
