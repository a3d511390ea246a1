//! Memory of processes over time: the most of each, and the most of all together at one moment.

use std::{collections::BTreeMap, time::Duration};

use crate::process::{self, Memory};

/// The processes to look at.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// These.
    pub pids: Vec<u32>,
    /// These and everything they have started, found again at every look.
    pub trees: Vec<u32>,
}

/// What one process has had at most.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: String,
    most: Memory,
    rss_peak: u64,
}

/// The most that was seen.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    watched: Watched,
    seen: BTreeMap<u32, Seen>,
    sum_most: Memory,
    looks: u64,
}

impl Watch {
    /// Nothing seen yet.
    pub fn new(watched: Watched) -> Self {
        Self { watched, ..Self::default() }
    }

    /// Whether there is anything to look at.
    pub fn is_empty(&self) -> bool {
        self.watched.pids.is_empty() && self.watched.trees.is_empty()
    }

    /// Looks once; returns what all have together now. A process that has ended is left out.
    pub fn look(&mut self) -> Memory {
        let mut pids = self.watched.pids.clone();
        for tree in &self.watched.trees {
            pids.push(*tree);
            pids.extend(process::descendants(*tree).unwrap_or_default());
        }
        pids.sort_unstable();
        pids.dedup();
        let mut sum = Memory::default();
        for pid in pids {
            // A zombie has no memory; it is not worth a line.
            let Some(now) = process::memory(pid).ok().filter(|memory| memory.rss > 0) else { continue };
            let seen = self.seen.entry(pid).or_default();
            if seen.name.is_empty() {
                seen.name = process::name(pid).unwrap_or_default();
            }
            seen.most = most(seen.most, now);
            seen.rss_peak = seen.rss_peak.max(process::rss_peak(pid).unwrap_or(0));
            sum = Memory { rss: sum.rss + now.rss, pss: sum.pss + now.pss };
        }
        self.sum_most = most(self.sum_most, sum);
        self.looks += 1;
        sum
    }

    /// Looks at once and then at an interval, until `stop` says so; blocks.
    pub fn run(&mut self, every: Duration, mut stop: impl FnMut(Memory) -> bool) {
        while !stop(self.look()) {
            std::thread::sleep(every);
        }
    }

    /// A table in Markdown.
    pub fn report(&self) -> String {
        let mut text = format!(
            "Memory, MiB, the most in {} looks (PSS counts a page that n processes share as an nth)\n\n\
             | process | id | RSS | PSS | RSS ever |\n|---|---:|---:|---:|---:|\n",
            self.looks
        );
        for (pid, Seen { name, most, rss_peak }) in &self.seen {
            let line =
                format!("| {name} | {pid} | {} | {} | {} |\n", mib(most.rss), mib(most.pss), mib(*rss_peak));
            text.push_str(&line);
        }
        let Memory { rss, pss } = self.sum_most;
        text.push_str(&format!("| **together, at one moment** | | {} | **{}** | |\n", mib(rss), mib(pss)));
        text
    }
}

fn most(a: Memory, b: Memory) -> Memory {
    Memory { rss: a.rss.max(b.rss), pss: a.pss.max(b.pss) }
}

/// Bytes as MiB with one decimal.
pub fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_of_one_moment_and_ended_processes_are_left_out() {
        let own = std::process::id();
        let mut watch = Watch::new(Watched { pids: vec![own, u32::MAX], trees: vec![own] });
        assert!(!watch.is_empty());
        let mut looks = 0;
        watch.run(Duration::ZERO, |now| {
            looks += 1;
            now.pss > 0 && looks == 2
        });
        let report = watch.report();
        assert!(report.contains("2 looks") && report.contains(&format!("| {own} |")), "{report}");
        assert!(!report.contains(&u32::MAX.to_string()), "{report}");
    }
}
