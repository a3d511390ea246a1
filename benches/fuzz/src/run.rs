//! Builds the instrumented program and lets libFuzzer loose on targets, several at once.
//!
//! The kept corpus (`corpus/<target>/`) is read and never written, except by [`minimise`]; what a run finds goes to
//! `fuzz/<target>/` in the target directory and is where the next run goes on.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

use crate::{TARGET_VARIABLE, Target, seeds};

const HERE: &str = env!("CARGO_MANIFEST_DIR");
/// Longer inputs find little that shorter ones do not, and take longer.
const INPUT_BYTES_MAX: usize = 2_000;
/// An input that takes this long is reported as a hang; on a busy machine one that waits for threads takes seconds.
const INPUT_TIMEOUT_S: usize = 120;
const MEMORY_MB_MAX: usize = 1_024;
/// Lines of what a program said last that tell why it failed.
const LAST_LINES: usize = 12;

/// The instrumented program, and where runs keep what they find.
#[derive(Clone, Debug)]
pub struct Fuzzer {
    program: PathBuf,
    work: PathBuf,
}

/// What libFuzzer says while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Inputs tried.
    pub inputs: u64,
    /// Places in the code that were reached.
    pub reached: u64,
    /// Inputs that reach all of them.
    pub corpus: u64,
}

impl Progress {
    /// From a line like `#1234 NEW cov: 56 ft: 78 corp: 9/10Kb …`.
    fn read(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix('#')?.split_ascii_whitespace();
        let inputs = words.next()?.parse().ok()?;
        let mut progress = Self { inputs, ..Self::default() };
        while let Some(word) = words.next() {
            match word {
                "cov:" => progress.reached = words.next()?.parse().ok()?,
                "corp:" => progress.corpus = words.next()?.split('/').next()?.parse().ok()?,
                _ => {}
            }
        }
        Some(progress)
    }
}

impl Fuzzer {
    /// Builds the program where this one was built.
    pub fn build() -> anyhow::Result<Self> {
        // A test lies one directory deeper than a program.
        let current = std::env::current_exe().context("this program has no path")?;
        let mut profile_dir = current.parent().context("a program lies in a directory")?;
        if profile_dir.ends_with("deps") {
            profile_dir = profile_dir.parent().context("deps lies in a profile's directory")?;
        }
        let target_dir =
            profile_dir.parent().context("a profile's directory lies in the target directory")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // All packages are named, so that dependencies have the features that they have in everybody else's build.
        let built = Command::new(cargo)
            .args([
                "build",
                "--quiet",
                "--locked",
                "--workspace",
                "--bin=fuzz-target",
                "--features=millrace-fuzz/libfuzzer",
            ])
            .arg("--target-dir")
            .arg(target_dir)
            .current_dir(HERE)
            .env("RUSTC_WORKSPACE_WRAPPER", Path::new(HERE).join("instrument.sh"))
            .env("CARGO_INCREMENTAL", "0")
            .output()
            .context("cargo cannot be started")?;
        let said = String::from_utf8_lossy(&built.stderr);
        let said: Vec<_> = said.lines().filter(|line| !line.is_empty()).collect();
        ensure!(
            built.status.success(),
            "the instrumented program was not built:\n{}",
            last(&said).join("\n")
        );
        Ok(Self { program: target_dir.join("debug/fuzz-target"), work: target_dir.join("fuzz") })
    }

    /// Tries one input.
    pub fn repeat(&self, target: Target, input: &Path) -> anyhow::Result<()> {
        let status = self.command(target).arg(input).status().context("the program cannot be started")?;
        ensure!(status.success(), "{} breaks {}", input.display(), target.name());
        Ok(())
    }

    /// Fuzzes a target for so long, from this seed on or from any. `tell` hears what libFuzzer says.
    pub fn run(
        &self,
        target: Target,
        time: Duration,
        seed: Option<u32>,
        mut tell: impl FnMut(Progress),
    ) -> anyhow::Result<Progress> {
        let dir = self.work.join(target.name());
        let found = dir.join("found");
        fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
        for (number, seed) in seeds::of(target).iter().enumerate() {
            fs::write(found.join(format!("seed-{number}")), seed).context("a seed was not written")?;
        }
        let log_path = dir.join("log");
        let mut log = File::create(&log_path).with_context(|| log_path.display().to_string())?;
        let mut child = self
            .command(target)
            .args([&found, &kept(target)])
            .arg(format!("-max_total_time={}", time.as_secs().max(1)))
            .args(seed.map(|seed| format!("-seed={seed}")))
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .arg(format!("-dict={HERE}/words.dict"))
            .arg(format!("-artifact_prefix={}/", dir.display()))
            .stderr(Stdio::piped())
            .spawn()
            .context("the program cannot be started")?;
        let mut progress = Progress::default();
        let mut said = Vec::new();
        for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufReader::lines) {
            let Ok(line) = line else { continue };
            writeln!(log, "{line}").context("the log cannot be written")?;
            match Progress::read(&line) {
                Some(read) => {
                    progress = read;
                    tell(progress.clone());
                }
                None => said.push(line),
            }
        }
        let status = child.wait().context("the program cannot be waited for")?;
        ensure!(status.success(), "{}\neverything that was said: {}", why(target, &said), log_path.display());
        Ok(progress)
    }

    /// Replaces the kept corpus by the fewest and shortest inputs that reach what it and what was found reach.
    pub fn minimise(&self, target: Target) -> anyhow::Result<()> {
        let (kept, fresh) = (kept(target), self.work.join(target.name()).join("minimised"));
        if fresh.exists() {
            fs::remove_dir_all(&fresh).with_context(|| fresh.display().to_string())?;
        }
        fs::create_dir_all(&fresh).with_context(|| fresh.display().to_string())?;
        let found = self.work.join(target.name()).join("found");
        let output = self
            .command(target)
            .args(["-set_cover_merge=1", "-use_counters=0"])
            .args([&fresh, &kept, &found])
            .output();
        ensure!(output.context("the program cannot be started")?.status.success(), "nothing was merged");
        // Regressions have names of their own and stay whatever they reach.
        for entry in fs::read_dir(&kept).with_context(|| kept.display().to_string())? {
            let path = entry.context("the corpus cannot be read")?.path();
            if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("regression-")) {
                fs::remove_file(&path).with_context(|| path.display().to_string())?;
            }
        }
        for entry in fs::read_dir(&fresh).with_context(|| fresh.display().to_string())? {
            let entry = entry.context("the new corpus cannot be read")?;
            fs::copy(entry.path(), kept.join(entry.file_name())).context("an input was not kept")?;
        }
        Ok(())
    }

    fn command(&self, target: Target) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env(TARGET_VARIABLE, target.name())
            .arg(format!("-timeout={INPUT_TIMEOUT_S}"))
            .arg(format!("-rss_limit_mb={MEMORY_MB_MAX}"))
            .stdin(Stdio::null());
        command
    }
}

/// Why libFuzzer ended as it did: what panicked, or else what was said last, and the input itself, because what is printed
/// may be all that is left of the run.
fn why(target: Target, said: &[String]) -> String {
    let panic = said.iter().position(|line| line.contains("panicked at"));
    let reason = panic.map_or_else(|| last(said), |at| &said[at..said.len().min(at + 4)]).join("\n");
    let path =
        said.iter().rev().find_map(|line| line.split_once("Test unit written to ").map(|(_, path)| path));
    let Some(path) = path else { return format!("{} ended: {reason}", target.name()) };
    let input = fs::read(path).unwrap_or_default();
    format!(
        "{name} is broken: {reason}\nby the {length} bytes \"{input}\"\nrepeat it: make fuzz ARGS='--target {name} --repeat {path}'",
        name = target.name(),
        length = input.len(),
        input = input.escape_ascii()
    )
}

fn last<T>(lines: &[T]) -> &[T] {
    &lines[lines.len().saturating_sub(LAST_LINES)..]
}

/// Runs targets, so many at once, and returns the failures. `tell` hears of each target's progress.
pub fn run_all(
    fuzzer: &Fuzzer,
    targets: &[Target],
    time: Duration,
    seed: Option<u32>,
    at_once: usize,
    tell: impl Fn(Target, Progress) + Sync,
) -> Vec<(Target, anyhow::Result<Progress>)> {
    let waiting = Mutex::new(targets.to_vec());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..at_once.clamp(1, targets.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let next = lock(&waiting).pop();
                    let Some(target) = next else { return };
                    let result = fuzzer.run(target, time, seed, |progress| tell(target, progress));
                    lock(&results).push((target, result));
                }
            });
        }
    });
    results.into_inner().unwrap_or_default()
}

/// The corpus of a target that is kept in the repository.
pub fn kept(target: Target) -> PathBuf {
    Path::new(HERE).join("corpus").join(target.name())
}

/// Every input of a kept corpus.
pub fn kept_inputs(target: Target) -> anyhow::Result<Vec<(PathBuf, Vec<u8>)>> {
    let dir = kept(target);
    let mut inputs = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
        let path = entry.context("the corpus cannot be read")?.path();
        inputs.push((path.clone(), fs::read(path).context("an input cannot be read")?));
    }
    inputs.sort();
    Ok(inputs)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
