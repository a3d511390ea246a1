//! What a measurement was made on, and of.

use std::{fmt, fs, path::Path, process::Command};

use millrace_testbed::{Engine, Postgres};
use sqlx::Connection as _;

/// The machine and what was built, for the head of a report.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Processors that this process may use.
    pub cores: usize,
    /// Their model.
    pub cpu: String,
    /// Memory, GiB.
    pub memory_gib: f64,
    /// Kernel.
    pub kernel: String,
    /// File system under the spool.
    pub file_system: String,
    /// How many processes wanted a processor in the minute before: what else the machine did.
    pub load: String,
    /// The compiler.
    pub rustc: String,
    /// Commit, `+` when there are changes to it.
    pub commit: String,
}

impl Machine {
    /// Describes this machine; `data_dir` is where spools are written.
    pub fn describe(data_dir: &Path) -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let memory_kib: f64 = field(&meminfo, "MemTotal")
            .and_then(|value| value.split(' ').next()?.parse().ok())
            .unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            memory_gib: memory_kib / f64::from(1 << 20),
            kernel: kernel.trim().to_owned(),
            file_system: file_system(data_dir),
            load: fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| Some(text.split_once(' ')?.0.to_owned()))
                .unwrap_or_else(|| "unknown".into()),
            rustc: said("rustc", &["--version"]).unwrap_or_else(|| "unknown".into()),
            commit: commit(),
        }
    }
}

impl Machine {
    /// The commit as a file's name holds it.
    pub fn commit_name(&self) -> &str {
        self.commit.trim_end_matches('+')
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, memory_gib, kernel, file_system, load, rustc, commit } = self;
        writeln!(
            f,
            "Machine: {cores} cores of {cpu}, {memory_gib:.0} GiB, Linux {kernel}, spool on {file_system}; its load average \
             before the run was {load}.\n"
        )?;
        let changes = if commit.ends_with('+') { " with changes that are not committed" } else { "" };
        writeln!(f, "Built from commit {}{changes} with {rustc}.", self.commit_name())
    }
}

/// Versions of the servers.
#[derive(Clone, Debug)]
pub struct Versions {
    engine: String,
    postgres: String,
    kafka: String,
    librdkafka: String,
}

impl Versions {
    /// Asks each server that can be asked.
    pub async fn ask() -> anyhow::Result<Self> {
        let (engine, database) = tokio::try_join!(Engine::start(), Postgres::start())?;
        let client = clickhouse::Client::default().with_url(engine.url());
        let mut connection = sqlx::PgConnection::connect(database.url()).await?;
        // The broker's version is the one that its package is fetched with.
        let pom = include_str!("../../deploy/kafka/pom.xml");
        let kafka = pom.split_once("<kafka.version>").and_then(|(_, rest)| rest.split_once('<'));
        Ok(Self {
            engine: client.query_raw("SELECT version()").fetch_one().await?,
            postgres: sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?,
            kafka: kafka.map_or("unknown", |(version, _)| version).to_owned(),
            librdkafka: rdkafka::util::get_rdkafka_version().1,
        })
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { engine, postgres, kafka, librdkafka } = self;
        writeln!(
            f,
            "Versions: ClickHouse engine {engine}, Apache Kafka {kafka}, librdkafka {librdkafka}, PostgreSQL {postgres}."
        )
    }
}

/// The value of a line like `model name : …`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, value) =
        text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name)?;
    Some(value.trim())
}

/// The type of the file system that a directory is on: of the mounts above it, the nearest.
fn file_system(dir: &Path) -> String {
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let fields = |line: &str| -> Option<(usize, String)> {
        let mut fields = line.split(' ').skip(1);
        let (point, kind) = (fields.next()?, fields.next()?);
        dir.starts_with(point).then(|| (point.len(), kind.to_owned()))
    };
    let nearest = mounts.lines().filter_map(fields).max_by_key(|(length, _)| *length);
    nearest.map_or_else(|| "unknown".into(), |(_, kind)| kind)
}

fn commit() -> String {
    let git = |arguments: &[&str]| said("git", &[&["-C", env!("CARGO_MANIFEST_DIR")], arguments].concat());
    match git(&["rev-parse", "--short", "HEAD"]) {
        Some(commit) if git(&["status", "--porcelain"]).is_some() => format!("{commit}+"),
        Some(commit) => commit,
        None => "no-commit".into(),
    }
}

/// What a program prints, if it says anything.
fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let text = "model name\t: Some CPU @ 2.0GHz\nflags : a b";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2.0GHz"));
        assert_eq!(field(text, "bogomips"), None);
        let machine = Machine::describe(&std::env::temp_dir());
        // The file system is unknown where the root is no mount of its own, as in a chroot.
        assert!(machine.cores > 0 && machine.memory_gib > 0.0);
    }
}
