//! A local Postgres in a directory of ours, from whatever server binaries the machine has.
//!
//! * Postgres refuses to run as root, so under root it runs as the user `postgres`, without any capability.
//!   That user often cannot reach the data directory (`/root/…` has mode 700). The directory is therefore
//!   opened before the privileges are dropped, and Postgres is told to work in `/proc/self/fd/9`, which needs
//!   no way through the directories above.
//! * A new data directory is made beside its place and renamed into it when complete: a start that was killed
//!   half-way leaves nothing that looks like a database. One that is given up takes its set-up step with it.
//! * Settings are given on the command line at every start. A setting changed here reaches old directories.
//! * The server listens on loopback (chaos runs alone, in a network of their own, say otherwise), no Unix socket, and asks
//!   everybody for a password. Who may log in: the services' role `millrace`, and the logins that it makes for people through
//!   one function. None of them has any attribute; the superuser that initdb made cannot log in at all.
//! * What takes a superuser is done in single-user mode while the server is down (`set_up`).
//! * Beside `<data_dir>` lie `<data_dir>.log` and `<data_dir>.url`: the address with the role's password.

mod log;
mod set_up;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::process::{Process, Signal, bound, name};

/// The database, and the services' role.
const NAME: &str = millrace_schemas::postgres::SERVICE_ROLE;
/// Debian's server package creates this user; only used when we are root.
const SYSTEM_USER: &str = "postgres";
/// Where the data directory is open for Postgres and for everything Postgres starts.
const DATA_FD: &str = "/proc/self/fd/9";
/// Crash recovery of a full write-ahead log takes seconds; a disk that just woke up some more.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// A fast shutdown writes one checkpoint.
const STOP_PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// How often the log's size is looked at while the server runs.
const LOG_LOOK_EVERY: Duration = Duration::from_secs(2);
/// Kilobytes of memory of its own that one process of the server may have; the pages that all share are not among them. A
/// statement that wants more is refused; without it, one `repeat('x', 1000000000)` after the other ends with the kernel
/// killing whom it likes. Not a limit of address space (`ulimit -v`): that counts the stack too, and a process whose stack
/// cannot grow is killed, and all sessions with it.
const PROCESS_KB_MAX: u32 = 900_000;

/// Where a local Postgres keeps its data, and how large it may grow.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory; made when absent.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub address: Ipv4Addr,
    /// The port there.
    pub port: u16,
    /// Postgres's own page cache. The kernel's cache lies behind it, so small is fast enough.
    pub shared_buffers_mb: u32,
    /// Connections at the same time; each costs about 2 MB while it is in use.
    pub connections_max: u16,
    /// `false` for tests: a crash of the machine (not of Postgres) may then damage the data.
    pub durable: bool,
    /// The directory of `initdb` and `postgres`; searched for when absent.
    pub bin_dir: Option<PathBuf>,
}

impl Config {
    /// The settings of the one-machine runner: small and durable.
    pub fn new(data_dir: impl Into<PathBuf>, port: u16) -> Self {
        Self {
            data_dir: data_dir.into(),
            address: Ipv4Addr::LOCALHOST,
            port,
            shared_buffers_mb: 32,
            connections_max: 100,
            durable: true,
            bin_dir: None,
        }
    }

    /// The file with the connection string of the role and database `millrace`. It is there once the server was.
    pub fn url_file(&self) -> PathBuf {
        beside(&self.data_dir, "url")
    }

    fn absolute(&self) -> Result<Self, Error> {
        let data_dir = std::path::absolute(&self.data_dir).map_err(io_error("resolve", &self.data_dir))?;
        Ok(Self { data_dir, ..self.clone() })
    }
}

/// Why a local Postgres does not run. Each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server binaries on this machine.
    #[error("no Postgres server found; run deploy/install/deps.sh run, or: apt-get install postgresql")]
    NotInstalled,
    /// The data directory belongs to another major version than the binaries.
    #[error("{} was written by Postgres {version}; install postgresql-{version}", data_dir.display())]
    WrongVersion {
        /// The directory.
        data_dir: PathBuf,
        /// Its major version.
        version: String,
    },
    /// Somebody else runs on this directory.
    #[error("another Postgres (process {pid}) is using {}; stop it first", data_dir.display())]
    Busy {
        /// The directory.
        data_dir: PathBuf,
        /// The other server.
        pid: i32,
    },
    /// A set-up step failed.
    #[error("cannot set up Postgres: {step} failed ({status}): {output}")]
    SetUp {
        /// The program.
        step: &'static str,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// The server ended while starting.
    #[error("Postgres ended while starting ({status}): {}: {tail}", log.display())]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The last lines of the log.
        tail: String,
    },
    /// The server did not become ready.
    #[error("Postgres was not ready after {} s; see {}", START_PATIENCE.as_secs(), log.display())]
    Slow {
        /// Its log file.
        log: PathBuf,
    },
    /// A file or process operation failed.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted, with the path.
        action: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// A running Postgres. Dropping it stops it hard (its next start recovers); prefer [`LocalPostgres::stop`].
#[derive(Debug)]
pub struct LocalPostgres {
    config: Config,
    url: String,
    process: Process,
}

impl LocalPostgres {
    /// Makes the data directory with its roles and database, unless it exists; answers the address with the password.
    pub async fn initialise(config: &Config) -> Result<String, Error> {
        let config = config.absolute()?;
        set_up::initialise(&config).await?;
        set_up::bring_up_to_date(&config).await
    }

    /// Initialises if necessary, brings what an earlier build made up to date, starts the server and waits until it
    /// accepts connections.
    pub async fn start(config: &Config) -> Result<Self, Error> {
        let config = config.absolute()?;
        set_up::initialise(&config).await?;
        let deadline = Instant::now() + START_PATIENCE;
        wait_for_predecessor(&config.data_dir, deadline).await?;
        let url = set_up::bring_up_to_date(&config).await?;
        loop {
            let process = spawn_server(&config)?;
            let mut server = Self { config: config.clone(), url: url.clone(), process };
            match server.ready(deadline).await {
                // Workers of a killed server end a moment after it and keep its memory until then.
                Err(Error::Died { tail, .. })
                    if tail.contains("pre-existing shared memory block") && Instant::now() < deadline =>
                {
                    tokio::time::sleep(POLL * 10).await;
                }
                Err(error) => return Err(error),
                Ok(()) => return Ok(server),
            }
        }
    }

    /// What a superuser says while the server is down, in the database `millrace`. A command ends with a semicolon and an
    /// empty line. Answers the warnings.
    pub async fn single_user(config: &Config, commands: &str) -> Result<Vec<String>, Error> {
        let config = config.absolute()?;
        set_up::single_user(&config, &config.data_dir, NAME, commands).await
    }

    /// The connection string of the role and database `millrace`, with its password.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The server's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// The server's log file.
    pub fn log(&self) -> PathBuf {
        beside(&self.config.data_dir, "log")
    }

    /// Waits until the server ends by itself, which it should not. Meanwhile it keeps the log short.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let path = self.log();
        loop {
            if let Ok(ended) = tokio::time::timeout(LOG_LOOK_EVERY, self.process.wait()).await {
                return ended;
            }
            if let Err(error) = log::shorten(&path) {
                tracing::warn!(%error, "cannot shorten {}", path.display());
            }
        }
    }

    /// Ends all connections, writes a checkpoint and stops.
    pub async fn stop(mut self) -> io::Result<ExitStatus> {
        self.process.stop(Signal::INT, STOP_PATIENCE).await
    }

    /// Kills the server with no chance to write anything, as a crash would.
    pub fn kill9(mut self) -> io::Result<ExitStatus> {
        self.process.kill()
    }

    /// Postgres says in its lock file when it accepts connections; that is what pg_ctl looks at too.
    async fn ready(&mut self, deadline: Instant) -> Result<(), Error> {
        let lock_file = self.config.data_dir.join("postmaster.pid");
        while Instant::now() < deadline {
            let running = self.process.exited().map_err(io_error("wait for", &lock_file))?;
            if let Some(status) = running {
                let tail = log::tail(&self.log());
                return Err(Error::Died { status, log: self.log(), tail });
            }
            if let Some(lock) = LockFile::read(&lock_file)
                && u32::try_from(lock.pid) == Ok(self.process.id())
                && lock.ready
            {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Err(Error::Slow { log: self.log() })
    }
}

impl Drop for LocalPostgres {
    fn drop(&mut self) {
        // "Immediate shutdown": the server ends its workers first, so that none lingers on the directory.
        if let Err(error) = self.process.stop_blocking(Signal::QUIT, Duration::from_secs(5)) {
            tracing::warn!(%error, "cannot stop Postgres");
        }
    }
}

/// What `postmaster.pid` says: the process on its first line, its state on its eighth.
struct LockFile {
    pid: i32,
    ready: bool,
}

impl LockFile {
    fn read(path: &Path) -> Option<Self> {
        let text = fs::read_to_string(path).ok()?;
        let mut lines = text.lines();
        let pid = lines.next()?.trim().parse().ok()?;
        Some(Self { pid, ready: lines.nth(6).is_some_and(|state| state.trim() == "ready") })
    }

    /// Whether the process is a Postgres that still runs. One that was killed but not yet reaped by its parent
    /// (in a container perhaps never) would look alive to Postgres and bar every later start.
    fn holder_runs(&self) -> bool {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return false };
        // "pid (name) state …"; the name may contain anything.
        let Some((name, rest)) = stat.rsplit_once(')') else { return false };
        name.ends_with("(postgres") && !rest.trim_start().starts_with(['Z', 'X'])
    }
}

/// The server of a runner that was killed a moment ago is still shutting down; one that stays is somebody's.
async fn wait_for_predecessor(data_dir: &Path, deadline: Instant) -> Result<(), Error> {
    let path = data_dir.join("postmaster.pid");
    let asked = Instant::now();
    while let Some(lock) = LockFile::read(&path) {
        if !lock.holder_runs() {
            return fs::remove_file(&path).map_err(io_error("remove", &path));
        }
        // It says so in the lock file when it is shutting down.
        let patience = Duration::from_secs(if lock.ready { 2 } else { 15 });
        if Instant::now() > deadline.min(asked + patience) {
            return Err(Error::Busy { data_dir: data_dir.to_owned(), pid: lock.pid });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Runs a set-up step with `input` on its standard input; answers what it said. Whoever gives up waiting ends it.
async fn run(step: &'static str, mut command: Command, input: &str) -> Result<String, Error> {
    let failed = |source| Error::Io { action: format!("run {step}"), source };
    let file_with = |text: &str| {
        let mut file = tempfile::tempfile()?;
        file.write_all(text.as_bytes())?;
        file.rewind()?;
        Ok(file)
    };
    let (stdin, mut stderr) = (file_with(input).map_err(failed)?, file_with("").map_err(failed)?);
    command.stdin(stdin).stdout(Stdio::null()).stderr(stderr.try_clone().map_err(failed)?);
    let status = Process::spawn(command).map_err(failed)?.wait().await.map_err(failed)?;
    let mut said = Vec::new();
    stderr.rewind().and_then(|()| stderr.read_to_end(&mut said)).map_err(failed)?;
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    // Single-user mode reports a failed statement and carries on.
    if status.success() && !said.contains("ERROR:") {
        return Ok(said);
    }
    Err(Error::SetUp { step, status, output: said })
}

fn spawn_server(config: &Config) -> Result<Process, Error> {
    let access = config.data_dir.join("pg_hba.conf");
    let clients = if config.address.is_loopback() { "127.0.0.1/32" } else { "0.0.0.0/0" };
    let rule = |who: &str| format!("host {NAME} {who} {clients} scram-sha-256\n");
    let rules = rule(NAME) + &rule("+millrace_reader");
    fs::write(&access, rules).map_err(io_error("write", &access))?;
    let bin_dir = bin_dir(config)?;
    let log_path = beside(&config.data_dir, "log");
    let log = log::open(&log_path).map_err(io_error("open", &log_path))?;
    let log_too = log.try_clone().map_err(io_error("open", &log_path))?;
    let limit = format!("ulimit -d {PROCESS_KB_MAX}");
    let mut command = in_data_dir_with(&limit, &config.data_dir, bin_dir.join("postgres").as_os_str());
    command.args(["-D", DATA_FD]);
    for setting in settings(config) {
        command.arg("-c").arg(setting);
    }
    command.stdin(Stdio::null()).stdout(log).stderr(log_too);
    Process::spawn(command).map_err(io_error("start", &bin_dir.join("postgres")))
}

fn settings(config: &Config) -> Vec<String> {
    let mut settings = vec![
        format!("listen_addresses={}", config.address),
        format!("port={}", config.port),
        format!("shared_buffers={}MB", config.shared_buffers_mb),
        format!("max_connections={}", config.connections_max),
    ];
    let fixed = [
        "unix_socket_directories=",
        "logging_collector=off",
        "log_line_prefix=%m [%p] ",
        "log_checkpoints=off",
        "password_encryption=scram-sha-256",
        // Somebody who connects and then says nothing takes a place.
        "authentication_timeout=10s",
        "max_prepared_transactions=0",
        // Rollups sort and upsert at most some 10,000 rows at a time.
        "work_mem=8MB",
        "maintenance_work_mem=32MB",
        "effective_cache_size=256MB",
        "wal_buffers=1MB",
        "max_wal_size=256MB",
        "min_wal_size=32MB",
        // Nobody replicates from here, and short statements gain nothing from workers or from compiling.
        "wal_level=minimal",
        "max_wal_senders=0",
        "max_replication_slots=0",
        "max_logical_replication_workers=0",
        "max_worker_processes=2",
        "max_parallel_workers_per_gather=0",
        "autovacuum_max_workers=1",
        "jit=off",
        "timezone=UTC",
    ];
    settings.extend(fixed.map(str::to_owned));
    if !config.durable {
        // Commits still reach the kernel before they are acknowledged, so killing the server loses none.
        settings.extend(["fsync=off", "full_page_writes=off"].map(str::to_owned));
    }
    settings
}

/// What Postgres's programs need of our environment; tests set its clock by the last one.
const NEEDED_VARIABLES: [&str; 6] = ["PATH", "TZ", "TZDIR", "LANG", "LD_LIBRARY_PATH", "LD_PRELOAD"];

/// A command line that opens `dir` as file 9, drops root and becomes `program`, in the same process.
fn in_data_dir(dir: &Path, program: &OsStr) -> Command {
    in_data_dir_with(":", dir, program)
}

/// The same, after a command of the shell.
fn in_data_dir_with(first: &str, dir: &Path, program: &OsStr) -> Command {
    // QUIT is Postgres's immediate shutdown: it ends its workers before itself.
    let mut command = bound(Signal::QUIT, "sh");
    command.arg("-c").arg(format!(r#"{first} && exec 9<"$0" && cd / && exec "$@""#)).arg(dir);
    if is_root() {
        command.arg("setpriv").arg(format!("--reuid={SYSTEM_USER}")).arg(format!("--regid={SYSTEM_USER}"));
        // Changing the user clears the death signal, so it is set again here.
        command.args(["--clear-groups", "--no-new-privs", "--pdeathsig", name(Signal::QUIT), "--"]);
    }
    command.arg(program);
    // Its environment stands in /proc, and whoever may read files by it reads that, too: nothing of ours, and no PGDATA.
    let needed = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        NEEDED_VARIABLES.contains(&&*name) || name.starts_with("FAKETIME_")
    });
    command.env_clear().envs(needed).env("LC_ALL", "C.UTF-8");
    command
}

async fn make_data_dir(dir: &Path) -> Result<(), Error> {
    let mut command = Command::new("install");
    command.args(["-d", "-m", "700"]);
    if is_root() {
        command.args(["-o", SYSTEM_USER, "-g", SYSTEM_USER]);
    }
    command.arg(dir);
    run("install -d", command, "").await.map(drop)
}

/// The newest server on the machine, or the one that wrote the data directory.
fn bin_dir(config: &Config) -> Result<PathBuf, Error> {
    if let Some(dir) = &config.bin_dir {
        return Ok(dir.clone());
    }
    let has_server = |dir: &PathBuf| dir.join("initdb").exists() && dir.join("postgres").exists();
    let debian = Path::new("/usr/lib/postgresql");
    if let Ok(version) = fs::read_to_string(config.data_dir.join("PG_VERSION")) {
        let version = version.trim().to_owned();
        let dir = debian.join(&version).join("bin");
        if has_server(&dir) {
            return Ok(dir);
        }
        if debian.exists() {
            return Err(Error::WrongVersion { data_dir: config.data_dir.clone(), version });
        }
    }
    let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(debian)
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, dir)| has_server(dir))
        .collect();
    versions.sort_unstable();
    if let Some((_, newest)) = versions.pop() {
        return Ok(newest);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(has_server).ok_or(Error::NotInstalled)
}

/// `<path>.<suffix>`, a neighbour of the data directory.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".");
    name.push(suffix);
    PathBuf::from(name)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn io_error(action: &str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let action = format!("{action} {}", path.display());
    move |source| Error::Io { action, source }
}
