//! `millrace-clickhouse`, the engine behind ClickHouse's HTTP protocol, as a child process: started, watched, stopped.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use millrace_service::private;
use rand::Rng as _;
use tokio::{net::TcpStream, time::Instant};

use crate::process::{Process, Signal, bound, program};

const START_PATIENCE: Duration = Duration::from_secs(60);
/// The engine lets running statements end for 10 s before it kills them.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// A killed engine gives back hundreds of megabytes before it is gone.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// File name of the engine's server; it lies beside the running program.
const PROGRAM: &str = "millrace-clickhouse";

/// Where an engine keeps its data and where it listens.
#[derive(Clone, Debug)]
pub struct Config {
    /// The engine library.
    pub library: PathBuf,
    /// Directory of its tables.
    pub data_dir: PathBuf,
    /// File that gets what it says.
    pub log: PathBuf,
    /// Port on 127.0.0.1.
    pub port: u16,
    /// Further arguments.
    pub arguments: Vec<OsString>,
}

/// Why an engine does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It ended while starting.
    #[error("the ClickHouse engine ended while starting ({status}): {tail}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The last it said.
        tail: String,
    },
    /// It does not answer.
    #[error("the ClickHouse engine did not answer for {} s; see {}", START_PATIENCE.as_secs(), .0.display())]
    Slow(PathBuf),
    /// A file or process operation failed.
    #[error("cannot start the ClickHouse engine: {0}")]
    Io(#[from] io::Error),
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the password in {path}: {source}", path = path.display())]
pub struct PasswordError {
    /// Its file.
    path: PathBuf,
    /// The system's reason.
    source: io::Error,
}

/// A running engine. Dropping it kills it; what it acknowledged is on disk.
#[derive(Debug)]
pub struct LocalEngine {
    process: Process,
}

impl LocalEngine {
    /// Starts the engine and waits until it answers. The engine of a runner that was killed a moment ago may still
    /// hold its directory and its port; one that goes on holding them is somebody else's.
    pub async fn start(config: &Config) -> Result<Self, Error> {
        let deadline = Instant::now() + PREDECESSOR_PATIENCE;
        loop {
            match Self::try_start(config).await {
                Err(Error::Ended { tail, .. }) if is_held(&tail) && Instant::now() < deadline => {
                    tokio::time::sleep(POLL * 10).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_start(config: &Config) -> Result<Self, Error> {
        let mut command = bound(Signal::KILL, program(PROGRAM)?);
        command
            .arg(format!("--listen=127.0.0.1:{}", config.port))
            .arg("--data-dir")
            .arg(&config.data_dir)
            .arg("--library")
            .arg(&config.library)
            .args(&config.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(private::create(&config.log)?);
        let mut process = Process::spawn(command)?;
        let deadline = Instant::now() + START_PATIENCE;
        while !answers(config.port).await {
            if let Some(status) = process.exited()? {
                return Err(Error::Ended { status, tail: tail(&config.log) });
            }
            if Instant::now() > deadline {
                return Err(Error::Slow(config.log.clone()));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(Self { process })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits until it ends by itself, which it should not.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// Lets running statements end, and stops it.
    pub async fn stop(mut self) -> io::Result<ExitStatus> {
        self.process.stop(Signal::TERM, STOP_PATIENCE).await
    }

    /// Kills it with no chance to write anything, as a crash would.
    pub fn kill9(mut self) -> io::Result<ExitStatus> {
        self.process.kill()
    }
}

/// The password that a file keeps, for a user of the engine: made when there is none yet.
pub fn kept_password(path: &Path) -> Result<String, PasswordError> {
    let failed = |source| PasswordError { path: path.to_owned(), source };
    match std::fs::read_to_string(path) {
        Ok(password) => Ok(password.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut random = [0; 24];
            rand::rng().fill_bytes(&mut random);
            let password: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
            private::write(path, password.as_bytes()).map_err(failed)?;
            Ok(password)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whether an engine ended because another one holds its directory or its port.
fn is_held(said: &str) -> bool {
    said.contains("in use by another process") || said.contains("cannot listen on")
}

/// Whether `GET /ping` is answered. Written out, so that this needs no HTTP client.
async fn answers(port: u16) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.take(4096).read_to_string(&mut answer).await?;
        io::Result::Ok(answer.starts_with("HTTP/1.1 200"))
    };
    matches!(tokio::time::timeout(Duration::from_secs(5), ask).await, Ok(Ok(true)))
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_made_once() {
        let dir = tempfile::tempdir().expect("directory");
        let [services, reader] = ["a", "b"].map(|name| dir.path().join(name));
        let (millrace, people) =
            (kept_password(&services).expect("made"), kept_password(&reader).expect("made"));
        assert_eq!(kept_password(&services).expect("read"), millrace);
        assert!(millrace.len() >= 32 && millrace != people);
    }
}
