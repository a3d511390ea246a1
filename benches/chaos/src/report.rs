//! The table at the end: one line per kind of fault.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use jiff::Zoned;

/// Remarks that a report lists; the rest is only counted.
const REMARKS_MAX: usize = 40;

/// What rounds came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) rounds: usize,
    pub(super) accepted: usize,
    pub(super) stored: usize,
    pub(super) dead: usize,
    /// Rows beyond the first of an event, for a reader without `FINAL`.
    pub(super) copies: usize,
    /// Events seen more than once by a reader with `FINAL`.
    pub(super) doubled: usize,
    pub(super) lost: usize,
    /// Answers that asked to come again later.
    pub(super) later: usize,
    /// The longest time from the end of the fault until all was whole.
    pub(super) whole_after: Duration,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.accepted += other.accepted;
        self.stored += other.stored;
        self.dead += other.dead;
        self.copies += other.copies;
        self.doubled += other.doubled;
        self.lost += other.lost;
        self.later += other.later;
        self.whole_after = self.whole_after.max(other.whole_after);
    }

    fn row(&self, name: &str) -> String {
        let Self { rounds, accepted, stored, dead, copies, doubled, lost, later, whole_after } = self;
        let seconds = whole_after.as_secs_f64();
        format!(
            "| {name:<26} | {rounds:>6} | {accepted:>8} | {stored:>8} | {dead:>6} | {doubled:>7} | {copies:>7} | \
             {lost:>4} | {later:>6} | {seconds:>8.1} s |\n"
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { accepted, stored, dead, copies, doubled, lost, later, whole_after, .. } = self;
        let seconds = whole_after.as_secs_f64();
        write!(
            f,
            "accepted {accepted}, stored {stored}, dead-lettered {dead}, doubled {doubled}, lost {lost}; {copies} \
             copies without FINAL, {later} answers 503, whole after {seconds:.1} s"
        )
    }
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Report {
    seed: u64,
    begin: Instant,
    /// What stood here when the run began: it takes long enough for somebody to work on.
    source: Source,
    pub(super) planned: usize,
    kinds: BTreeMap<String, Tally>,
    all: Tally,
    /// Comparisons of all rollups of a store with the recount.
    pub(super) comparisons: usize,
    pub(super) remarks: Vec<String>,
    pub(super) versions: String,
}

impl Report {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            begin: Instant::now(),
            source: Source::now(),
            planned: 0,
            kinds: BTreeMap::new(),
            all: Tally::default(),
            comparisons: 0,
            remarks: Vec::new(),
            versions: String::new(),
        }
    }

    /// Adds a round with these faults.
    pub(super) fn add(&mut self, names: Vec<String>, tally: &Tally) {
        for name in names {
            self.kinds.entry(name).or_default().add(tally);
        }
        self.all.add(tally);
    }

    /// As Markdown, readable as it stands.
    pub(super) fn table(&self) -> String {
        let mut text = format!(
            "| {:<26} | rounds | accepted |   stored |   dead | doubled |  copies | lost | 503    | whole after |\n\
             |{:-<28}|-------:|---------:|---------:|-------:|--------:|--------:|-----:|-------:|-----------:|\n",
            "fault", ""
        );
        for (name, tally) in &self.kinds {
            text += &tally.row(name);
        }
        text += &self.all.row("all rounds");
        text += &format!(
            "\nSeed {}; {} of {} rounds in {:.0} s; rollups equal to the recount in {} comparisons.\n",
            self.seed,
            self.all.rounds,
            self.planned,
            self.begin.elapsed().as_secs_f64(),
            self.comparisons
        );
        for remark in self.remarks.iter().take(REMARKS_MAX) {
            text += &format!("* {remark}\n");
        }
        match self.remarks.len().saturating_sub(REMARKS_MAX) {
            0 => text,
            more => text + &format!("* … and {more} more\n"),
        }
    }

    /// Writes the table with what it was made on.
    pub(super) fn write(&self, dir: &Path) -> anyhow::Result<PathBuf> {
        fs::create_dir_all(dir)?;
        let Source { commit, is_changed } = &self.source;
        let changes = if *is_changed { " with changes that are not committed" } else { "" };
        let path = dir.join(format!("{}-chaos-{commit}.md", Zoned::now().date()));
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let cpu = cpuinfo
            .lines()
            .find_map(|line| Some(line.strip_prefix("model name")?.trim_start_matches([' ', '\t', ':'])));
        let build = if cfg!(debug_assertions) { "a debug build" } else { "a release build" };
        let text = format!(
            "# Chaos\n\n\
             `make chaos` with `CHAOS_SEED={} CHAOS_ROUNDS={}`, {build} of commit {commit}{changes}.\n\
             {cores} cores of {}, Linux {}; {}.\n\n\
             Accepted = stored (distinct `event_id`) + dead, compared by identity after every round. *Doubled* are events\n\
             that a reader with `FINAL` sees twice; *copies* are rows that one without `FINAL` sees beyond the first of an\n\
             event, most of them posted twice on purpose. A round with two faults stands in both their lines. *Whole after*\n\
             is the longest time from the end of a fault until every request was answered and nothing was missing.\n\n{}",
            self.seed,
            self.planned,
            cpu.unwrap_or("unknown"),
            kernel.trim(),
            self.versions,
            self.table()
        );
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// Of what the programs were built, if they were built before the run, as `make chaos` does.
#[derive(Debug)]
struct Source {
    commit: String,
    is_changed: bool,
}

impl Source {
    fn now() -> Self {
        let commit = said("git", &["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".into());
        let is_changed = said("git", &["status", "--porcelain", "-uno"]).is_some_and(|text| !text.is_empty());
        Self { commit, is_changed }
    }
}

/// The version that `kafka.sh` runs.
pub(super) fn kafka_version() -> String {
    let pom = include_str!("../../../deploy/kafka/pom.xml");
    let version = pom.split_once("<kafka.version>").and_then(|(_, rest)| rest.split_once('<'));
    version.map_or_else(|| "unknown".into(), |(version, _)| version.to_owned())
}

fn said(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
