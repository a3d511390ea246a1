//! `load`: sends events to a running collector.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use millrace_benches::{
    event::Mix,
    load::{Load, Plan, Summary},
    table::thousands,
    watch::{Watch, Watched, mib},
};

/// Sends fresh events to a collector over kept connections, and says what became of them.
///
/// At a rate, latency counts from the moment a request was due. With --watch-pids or --watch-tree, the memory of those
/// processes is looked at meanwhile.
#[derive(Debug, Parser)]
#[command(name = "load")]
struct Arguments {
    /// Where events are posted to.
    #[arg(long, default_value = "http://127.0.0.1:8080/v1/collect")]
    url: String,

    /// Key of the store.
    #[arg(long, default_value = "demo-write-key")]
    key: String,

    /// Events a second, over all connections; 0: as many as the collector takes.
    #[arg(long, default_value_t = 1000.0, value_parser = rate)]
    rate: f64,

    /// Events in a request, all of one visitor.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=500))]
    events_per_request: u16,

    /// Of a hundred events, so many are heatmap clicks.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    clicks_percent: u32,

    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    connections: u16,

    /// Threads that share the connections.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    threads: u16,

    /// How long: seconds, or with a unit (90s, 10m, 1h).
    #[arg(long, default_value = "10s", value_parser = duration)]
    duration: Duration,

    /// Determines visitors, ids and contents.
    #[arg(long, default_value_t = 1)]
    seed: u64,

    /// Processes whose memory is watched.
    #[arg(long, value_delimiter = ',')]
    watch_pids: Vec<u32>,

    /// Processes whose memory is watched together with that of everything they started.
    #[arg(long, value_delimiter = ',')]
    watch_tree: Vec<u32>,

    /// How often their memory is looked at: seconds, or with a unit.
    #[arg(long, default_value = "1s", value_parser = duration)]
    watch_every: Duration,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let plan = Plan {
        url: arguments.url,
        key: arguments.key,
        rate: (arguments.rate > 0.0).then_some(arguments.rate),
        mix: Mix { events: arguments.events_per_request.into(), clicks_percent: arguments.clicks_percent },
        connections: arguments.connections.into(),
        threads: arguments.threads.into(),
        duration: arguments.duration,
        seed: arguments.seed,
    };
    let mut watch = Watch::new(Watched { pids: arguments.watch_pids, trees: arguments.watch_tree });
    let bar = bar(arguments.duration);
    let load = Load::start(&plan)?;
    let counters = load.counters();
    let every = if watch.is_empty() { Duration::from_millis(200) } else { arguments.watch_every };
    let step = |memory: u64| {
        let (accepted, rejected) =
            (counters.accepted.load(Ordering::Relaxed), counters.rejected.load(Ordering::Relaxed));
        let mut message =
            format!("{} accepted, {} rejected", thousands(accepted as f64), thousands(rejected as f64));
        if memory > 0 {
            message.push_str(&format!(", {} MiB", mib(memory)));
        }
        bar.set_message(message);
        bar.set_position(bar.elapsed().as_secs().min(plan.duration.as_secs()));
        load.is_finished()
    };
    if watch.is_empty() {
        while !step(0) {
            std::thread::sleep(every);
        }
    } else {
        watch.run(every, |memory| step(memory.pss));
    }
    let summary = load.join()?;
    bar.finish_and_clear();
    let mut out = std::io::stdout();
    write!(out, "{}", text(&summary))?;
    if !watch.is_empty() {
        write!(out, "\n{}", watch.report())?;
    }
    // What was not accepted is what a script has to notice.
    anyhow::ensure!(summary.rejected == 0 && summary.broken == 0, "not every event was accepted");
    Ok(())
}

fn bar(duration: Duration) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} s {msg}");
    ProgressBar::new(duration.as_secs()).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn text(summary: &Summary) -> String {
    let Summary { requests, accepted, rejected, statuses, broken, problems, latency_us, wall, cpu } = summary;
    let seconds = wall.as_secs_f64();
    let statuses: Vec<String> = statuses.iter().map(|(status, count)| format!("{status}: {count}")).collect();
    let ms = |quantile: f64| latency_us.value_at_quantile(quantile) as f64 / 1000.0;
    let mut text = format!(
        "{requests} requests ({}) in {seconds:.1} s: {accepted} events accepted, {rejected} rejected, \
         {broken} connections broken\n\
         {} requests/s, {} events/s\n\
         latency, ms: p50 {:.2}, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, most {:.2}\n\
         this sender: {:.2} s CPU, {:.1} µs a request\n",
        statuses.join(", "),
        thousands(*requests as f64 / seconds),
        thousands((accepted + rejected) as f64 / seconds),
        ms(0.5),
        ms(0.9),
        ms(0.99),
        ms(0.999),
        latency_us.max() as f64 / 1000.0,
        cpu.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / (*requests).max(1) as f64,
    );
    for problem in problems {
        text.push_str(&format!("  {problem}\n"));
    }
    text
}

fn rate(text: &str) -> anyhow::Result<f64> {
    let rate: f64 = text.parse().context("not a number")?;
    anyhow::ensure!(rate >= 0.0 && rate.is_finite(), "a rate is 0 or more");
    Ok(rate)
}

fn duration(text: &str) -> anyhow::Result<Duration> {
    let (number, unit) = text.split_at(text.find(|last: char| last.is_alphabetic()).unwrap_or(text.len()));
    let number: f64 = number.parse().with_context(|| format!("{text:?} is no time like 30s or 10m"))?;
    let seconds = match unit {
        "" | "s" => number,
        "ms" => number / 1000.0,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => anyhow::bail!("{unit:?} is no unit of time; there are ms, s, m and h"),
    };
    let duration = Duration::try_from_secs_f64(seconds)?;
    anyhow::ensure!(duration > Duration::ZERO, "a time is more than nothing");
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_and_without_a_unit() {
        assert_eq!(duration("600").unwrap(), duration("10m").unwrap());
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        for wrong in ["", "m", "0", "-1s", "5 days", "1e400"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert!(rate("-1").is_err() && rate("NaN").is_err() && rate("0").is_ok());
    }
}
