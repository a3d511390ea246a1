//! The table of results: what was measured, what it cost, and how that compares with its limit.

use std::{fmt::Write as _, time::Duration};

/// What was measured against one limit.
#[derive(Clone, Debug)]
pub struct Section {
    /// What is compared.
    pub title: String,
    /// Whether the CPU time of the servers behind (broker, engine) belongs to what is compared.
    pub counts_behind: bool,
    /// The limit first, if it was measured.
    pub lines: Vec<Line>,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Line {
    /// What was done.
    pub what: String,
    /// Events or rows that it was done to.
    pub events: u64,
    /// Requests that they came in, where there were any.
    pub requests: Option<u64>,
    /// How long it took, where that says anything.
    pub wall: Option<Duration>,
    /// CPU time of what is measured.
    pub cpu: Option<Duration>,
    /// CPU time of the servers behind it.
    pub behind: Option<Duration>,
    /// Whether it had one thread where the limit had all processors: then only CPU times compare.
    pub is_one_thread: bool,
}

impl Line {
    /// A line with nothing measured yet.
    pub fn new(what: impl Into<String>, events: u64) -> Self {
        Self {
            what: what.into(),
            events,
            requests: None,
            wall: None,
            cpu: None,
            behind: None,
            is_one_thread: false,
        }
    }

    /// What is compared with the limit, in seconds for an event.
    fn cost(&self, counts_behind: bool) -> Option<f64> {
        let behind = self.behind.filter(|_| counts_behind);
        // What a server does by itself has no process beside it.
        let cost = match (self.cpu, behind) {
            (None, None) => return None,
            (cpu, behind) => cpu.unwrap_or_default() + behind.unwrap_or_default(),
        };
        Some(cost.as_secs_f64() / self.events as f64)
    }

    fn rate(&self, of: u64) -> Option<f64> {
        self.wall.map(|wall| of as f64 / wall.as_secs_f64())
    }
}

const HEAD: [&str; 8] = [
    "what",
    "events/s",
    "requests/s",
    "CPU, µs/request",
    "CPU, µs/event",
    "CPU behind it, µs/event",
    "CPU, × limit",
    "time, × limit",
];

/// The table in Markdown, its columns aligned for a terminal, too.
pub fn render(sections: &[Section]) -> String {
    let mut rows: Vec<[String; 8]> = vec![HEAD.map(String::from)];
    for section in sections {
        rows.push(std::array::from_fn(|column| {
            if column == 0 { format!("**{}**", section.title) } else { String::new() }
        }));
        rows.extend(section.lines.iter().map(|line| cells(line, section)));
    }
    let widths: [usize; 8] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Writing to a String cannot fail.
            let _ = if column == 0 {
                write!(text, "| {cell:<width$} ")
            } else {
                write!(text, "| {cell:>width$} ")
            };
        }
        text.push_str("|\n");
        if index == 0 {
            for (column, width) in widths.iter().enumerate() {
                let dashes = "-".repeat(*width);
                let _ = if column == 0 { write!(text, "|-{dashes}-") } else { write!(text, "|-{dashes}:") };
            }
            text.push_str("|\n");
        }
    }
    text
}

fn cells(line: &Line, section: &Section) -> [String; 8] {
    let limit = section.lines.first();
    let per = |time: Option<Duration>, count: Option<u64>| {
        let micros = time.zip(count.filter(|count| *count > 0));
        micros.map_or(String::new(), |(time, count)| three(time.as_secs_f64() * 1e6 / count as f64))
    };
    let ratio = |value: Option<f64>, limit: Option<f64>| {
        let ratio = value.zip(limit.filter(|limit| *limit > 0.0)).map(|(value, limit)| value / limit);
        ratio.map_or(String::new(), three)
    };
    let cost = |line: &Line| line.cost(section.counts_behind);
    let time = |line: &Line| line.rate(line.events).filter(|_| !line.is_one_thread).map(f64::recip);
    [
        line.what.clone(),
        line.rate(line.events).map_or(String::new(), thousands),
        line.requests.and_then(|requests| line.rate(requests)).map_or(String::new(), thousands),
        per(line.cpu, line.requests),
        per(line.cpu, Some(line.events)),
        per(line.behind, Some(line.events)),
        ratio(cost(line), limit.and_then(cost)),
        ratio(time(line), limit.and_then(time)),
    ]
}

/// Three significant digits, which is more than a repetition confirms.
fn three(number: f64) -> String {
    match number {
        number if number >= 99.95 => format!("{number:.0}"),
        number if number >= 9.995 => format!("{number:.1}"),
        number => format!("{number:.2}"),
    }
}

/// A whole number with commas between thousands.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(what: &str, cpu_ms: u64, behind_ms: Option<u64>) -> Line {
        Line {
            requests: Some(100),
            wall: Some(Duration::from_millis(2 * cpu_ms)),
            cpu: Some(Duration::from_millis(cpu_ms)),
            behind: behind_ms.map(Duration::from_millis),
            ..Line::new(what, 1000)
        }
    }

    fn ratios(counts_behind: bool) -> Vec<String> {
        let section = Section {
            title: "t".into(),
            counts_behind,
            lines: vec![line("limit", 10, None), line("more", 30, Some(10))],
        };
        let text = render(&[section]);
        let last = text.lines().last().unwrap().split('|').map(|cell| cell.trim().to_owned());
        last.collect()
    }

    #[test]
    fn lines_are_compared_with_the_first() {
        assert_eq!(ratios(false)[1..9], ["more", "16,667", "1,667", "300", "30.0", "10.0", "3.00", "3.00"]);
        assert_eq!(ratios(true)[7], "4.00");
    }

    #[test]
    fn what_was_not_measured_is_empty() {
        let section = Section { title: "t".into(), counts_behind: true, lines: vec![Line::new("a", 1)] };
        let text = render(&[section]);
        assert!(text.lines().last().unwrap().split('|').skip(2).all(|cell| cell.trim().is_empty()), "{text}");
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([three(0.034), three(1.0), three(12.34), three(99.96)], ["0.03", "1.00", "12.3", "100"]);
        assert_eq!([thousands(999.6), thousands(1_234_567.0), thousands(12.0)], ["1,000", "1,234,567", "12"]);
    }
}
