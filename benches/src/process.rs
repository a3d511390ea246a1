//! What processes cost, read from `/proc`: CPU time, memory, and which processes a process has started.

use std::{fs, io, time::Duration};

use rustix::{
    param::clock_ticks_per_second,
    time::{ClockId, clock_gettime},
};

/// CPU time, user and system, of this process.
pub fn own_cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// CPU time, user and system, of a process and of its children that have ended, to a clock tick (10 ms).
pub fn cpu(pid: u32) -> io::Result<Duration> {
    let stat = Stat::read(pid)?;
    Ok(Duration::from_secs_f64(stat.cpu_ticks as f64 / clock_ticks_per_second() as f64))
}

/// CPU time of several processes together.
pub fn cpu_of_all(pids: &[u32]) -> io::Result<Duration> {
    pids.iter().map(|pid| cpu(*pid)).sum()
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident.
    pub rss: u64,
    /// Resident, with pages that n processes share counted as an nth: these can be added up.
    pub pss: u64,
}

/// Memory of a process now.
pub fn memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(Memory { rss: kib(&text, "Rss:"), pss: kib(&text, "Pss:") })
}

/// The most that a process has ever had resident, in bytes.
pub fn rss_peak(pid: u32) -> io::Result<u64> {
    Ok(kib(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmHWM:"))
}

/// The value of a line like `Rss:   1234 kB`, in bytes; 0 when there is none.
fn kib(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse::<u64>().ok());
    number.unwrap_or(0) * 1024
}

/// A process's program, as the kernel cuts its name: at most 15 bytes.
pub fn name(pid: u32) -> io::Result<String> {
    Ok(Stat::read(pid)?.name)
}

/// The processes that descend from one, without it.
pub fn descendants(of: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let pid = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        // A process may end while the list is read.
        if let Some((pid, stat)) = pid.and_then(|pid| Some((pid, Stat::read(pid).ok()?))) {
            parents.push((pid, stat.parent));
        }
    }
    let mut found = vec![of];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, its)| *its == parent).map(|(pid, _)| *pid));
        at += 1;
    }
    found.remove(0);
    Ok(found)
}

/// Descendants of this process that run a program.
pub fn descendants_named(program: &str) -> io::Result<Vec<u32>> {
    let mut found = descendants(std::process::id())?;
    found.retain(|pid| name(*pid).is_ok_and(|name| name == program));
    Ok(found)
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    cpu_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> io::Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a process's state"))
    }

    /// `pid (name) state parent …`; the name may hold blanks and parentheses.
    fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once('(')?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            name: name.into(),
            parent: u32::try_from(number(1)?).ok()?,
            // utime, stime, cutime, cstime.
            cpu_ticks: number(11)? + number(12)? + number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_and_parentheses() {
        let text = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 99 1 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat, Stat { name: "a (b) c".into(), parent: 7, cpu_ticks: 127 });
        assert_eq!(Stat::parse("42 (a) S"), None);
    }

    #[test]
    fn this_process_is_seen() {
        let pid = std::process::id();
        let work: u64 = (0..20_000_000_u64).map(|number| std::hint::black_box(number) % 7).sum();
        assert!(work > 0 && own_cpu() > Duration::ZERO);
        // Ticks and the precise clock are two accounts of the kernel's; they only roughly agree.
        assert!(cpu(pid).unwrap() > Duration::ZERO);
        let memory = memory(pid).unwrap();
        assert!(memory.pss > 0 && memory.pss <= memory.rss);
        assert!(rss_peak(pid).unwrap() > 0);
        assert!(descendants(1).unwrap().contains(&pid) || pid == 1);
    }
}
