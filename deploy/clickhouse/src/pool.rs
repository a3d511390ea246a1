//! The engine of this process: started once, given a bounded number of statements at a time, and stopped in
//! order.
//!
//! Every statement gets a connection of its own. Opening one costs about a tenth of a millisecond, and with
//! it settings, current database and temporary tables end with the statement: nothing can leak into the next
//! one. One more connection, the anchor, stays open so that the engine outlives its statements.
//!
//! A fetch cannot be interrupted through the C API, so a statement is killed the way an operator does it: each
//! connection carries its statement's number in `log_comment`, and `KILL QUERY` finds it by that.

use std::{
    collections::HashSet,
    ffi::CString,
    fs::{File, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use millrace_service::private;

use super::{
    config::Config,
    error::{Exception, code},
    ffi::{Api, Connection},
    rights,
};

/// How often a kill is repeated until the statement is gone.
const KILL_INTERVAL: Duration = Duration::from_millis(100);
/// Kills that may wait; a statement whose kill does not fit runs to its end.
const KILL_QUEUE: usize = 1024;

/// How long closing the engine may take once no statement runs.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why the engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The library is missing or is not one.
    #[error("cannot load the engine library {path}: {source}", path = path.display())]
    Library {
        /// Where it was looked for.
        path: PathBuf,
        /// The loader's reason.
        source: libloading::Error,
    },
    /// The data directory cannot be made or written.
    #[error("cannot use the data directory {path}: {source}", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Another process has the data directory.
    #[error("the data directory {path} is in use by another process ({holder})", path = path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the other process wrote into the lock file.
        holder: String,
    },
    /// The engine refused; it says why on standard error.
    #[error("the engine does not start in {path} (its reason is printed above)", path = path.display())]
    Refused {
        /// The directory.
        path: PathBuf,
    },
    /// A setting has a zero byte in it.
    #[error("a setting contains a zero byte")]
    Setting,
    /// The engine started but does not answer.
    #[error("the engine started but does not answer: {0}")]
    Silent(#[from] Exception),
}

/// The engine, started.
pub struct Engine {
    api: Arc<Api>,
    /// Arguments of every connection.
    arguments: Vec<CString>,
    anchor: Mutex<Option<Connection>>,
    version: String,
    places: Arc<Semaphore>,
    queue_timeout: Duration,
    next_number: AtomicU64,
    running: Mutex<HashSet<u64>>,
    kills: mpsc::SyncSender<u64>,
    _lock: File,
}

impl Engine {
    /// Locks the data directory and starts the engine in it. Blocks; once per process.
    pub fn start(config: &Config) -> Result<Arc<Self>, StartError> {
        let directory = |source| StartError::Directory { path: config.data_dir.clone(), source };
        private::create_dir_all(&config.data_dir).map_err(directory)?;
        let data_dir = config.data_dir.canonicalize().map_err(directory)?;
        let lock = lock(&data_dir)?;
        let rights = rights::write(config, &data_dir).map_err(directory)?;
        let api = Api::load(&config.library)
            .map_err(|source| StartError::Library { path: config.library.clone(), source })?;

        let arguments = |groups: &[&[(String, String)]]| {
            let mut arguments =
                vec!["millrace-clickhouse".to_owned(), format!("--path={}", data_dir.display())];
            arguments
                .extend(groups.iter().copied().flatten().map(|(name, value)| format!("--{name}={value}")));
            arguments
                .into_iter()
                .map(CString::new)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|_| StartError::Setting)
        };
        let settings = config.statement_settings();
        let rights = [("config-file".to_owned(), rights.display().to_string())];
        let first = arguments(&[&rights, &config.server_options(), &settings])?;
        let mut anchor =
            api.connect(&first).ok_or_else(|| StartError::Refused { path: config.data_dir.clone() })?;
        let version = anchor.query("SELECT version()", "TabSeparatedRaw", &[])?;
        let version = String::from_utf8_lossy(version.as_ref()).trim().to_owned();
        for name in config.databases.iter().filter(|name| *name != "*") {
            let made = format!("CREATE DATABASE IF NOT EXISTS {}", rights::database(name));
            anchor.query(&made, "Null", &[])?;
        }

        let (kills, kill_queue) = mpsc::sync_channel(KILL_QUEUE);
        let engine = Arc::new(Self {
            api,
            arguments: arguments(&[&settings])?,
            anchor: Mutex::new(Some(anchor)),
            version,
            places: Arc::new(Semaphore::new(config.statements_max as usize)),
            queue_timeout: config.queue_timeout(),
            next_number: AtomicU64::new(1),
            running: Mutex::new(HashSet::new()),
            kills,
            _lock: lock,
        });
        let killer = Arc::downgrade(&engine);
        std::thread::Builder::new()
            .name("killer".to_owned())
            .spawn(move || {
                let mut targets = HashSet::new();
                loop {
                    match kill_queue.recv_timeout(KILL_INTERVAL) {
                        Ok(number) => drop(targets.insert(number)),
                        Err(mpsc::RecvTimeoutError::Timeout) => {}
                        Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    }
                    let Some(engine) = killer.upgrade() else { return };
                    targets.retain(|number| engine.kill_once(*number));
                }
            })
            .map_err(directory)?;
        Ok(engine)
    }

    /// The engine's version, as `SELECT version()` gives it.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Waits for a place to run a statement in, no longer than configured. How many may wait is the server's
    /// to bound, because a waiting request holds more than its turn.
    pub async fn place(self: &Arc<Self>) -> Result<Place, Exception> {
        let place = tokio::time::timeout(self.queue_timeout, Arc::clone(&self.places).acquire_owned());
        let permit = place.await.map_err(|_| too_many())?.map_err(|_| shutting_down())?;
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        guard(&self.running).insert(number);
        metrics::gauge!("millrace_clickhouse_statements_running").increment(1);
        Ok(Place { engine: Arc::clone(self), number, _permit: permit })
    }

    /// Kills a statement if it is still running: the client is gone. Does not wait.
    pub fn kill(&self, number: u64) {
        if guard(&self.running).contains(&number) && self.kills.try_send(number).is_err() {
            tracing::warn!(number, "too many statements to kill; this one runs to its end");
        }
    }

    /// One try; `true` while the statement may need another, for instance because it has not begun yet.
    fn kill_once(&self, number: u64) -> bool {
        if !guard(&self.running).contains(&number) {
            return false;
        }
        let Some(mut connection) = self.api.connect(&self.arguments) else { return true };
        let tag = tag(number);
        // A client's own comment stands behind it.
        let sql = format!("KILL QUERY WHERE splitByChar(' ', Settings['log_comment'])[1] = '{tag}' ASYNC");
        if let Err(error) = connection.query(&sql, "Null", &[]) {
            tracing::warn!(number, %error, "cannot kill a statement");
        }
        true
    }

    /// Takes no more statements, lets the running ones end within `grace`, kills what is left and closes
    /// the engine. `false` when a statement would not end: the process must exit without an orderly close,
    /// which loses nothing that was acknowledged.
    pub async fn stop(self: &Arc<Self>, grace: Duration) -> bool {
        self.places.close();
        if !self.idle(grace).await {
            let left: Vec<u64> = guard(&self.running).iter().copied().collect();
            tracing::info!(statements = left.len(), "killing statements that have not ended");
            left.into_iter().for_each(|number| self.kill(number));
            if !self.idle(grace.max(Duration::from_secs(2))).await {
                return false;
            }
        }
        let engine = Arc::clone(self);
        let closed = tokio::task::spawn_blocking(move || {
            // The last connection takes the engine down with it: parts are flushed, merges stopped.
            drop(guard(&engine.anchor).take());
            // This ends the threads left over. Some pools refuse; they hold nothing by now.
            if !engine.api.shutdown() {
                tracing::debug!("the engine keeps some threads until the process ends");
            }
        });
        tokio::time::timeout(CLOSE_TIMEOUT, closed).await.is_ok_and(|closed| closed.is_ok())
    }

    async fn idle(&self, within: Duration) -> bool {
        let idle = async {
            while !guard(&self.running).is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(within, idle).await.is_ok()
    }
}

/// The right to run one statement.
pub struct Place {
    engine: Arc<Engine>,
    number: u64,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// The statement's number, for [`Engine::kill`].
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The engine.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Opens the statement's connection. `comment` is the client's own `log_comment`.
    pub fn connect(&self, comment: Option<&str>) -> Result<Connection, Exception> {
        let mut value = tag(self.number);
        if let Some(comment) = comment {
            value.push(' ');
            value.push_str(comment);
        }
        let mut arguments = self.engine.arguments.clone();
        arguments.extend(CString::new(format!("--log_comment={value}")).ok());
        self.engine.api.connect(&arguments).ok_or_else(shutting_down)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        guard(&self.engine.running).remove(&self.number);
        metrics::gauge!("millrace_clickhouse_statements_running").decrement(1);
    }
}

/// The statement's number as it stands in `log_comment`.
fn tag(number: u64) -> String {
    format!("statement-{number}")
}

/// The error of a statement that the shutdown got ahead of.
pub fn shutting_down() -> Exception {
    Exception::new(code::ABORTED, "ABORTED", "Server is shutting down")
}

/// The error of a statement for which there is no room.
pub fn too_many() -> Exception {
    Exception::new(
        code::TOO_MANY_SIMULTANEOUS_QUERIES,
        "TOO_MANY_SIMULTANEOUS_QUERIES",
        "Too many simultaneous queries",
    )
}

/// What these mutexes guard is valid after any panic, so a poisoned one is used as it is.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the directory for this process. The system releases it when the process ends, however it ends.
fn lock(data_dir: &Path) -> Result<File, StartError> {
    let path = data_dir.join("millrace-clickhouse.lock");
    let failed = |source| StartError::Directory { path: path.clone(), source };
    let mut file =
        private::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0).map_err(failed)?;
            write!(file, "process {}", std::process::id()).map_err(failed)?;
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // What is in the file only helps the message.
            let _ = file.rewind().and_then(|()| file.read_to_string(&mut holder));
            Err(StartError::InUse { path: data_dir.to_owned(), holder })
        }
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}
