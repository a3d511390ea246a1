//! `make fuzz`: fuzzes every target, long, with a bar for each.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use anyhow::bail;
use clap::{Parser, builder::PossibleValuesParser};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use millrace_fuzz::{
    Target,
    run::{Fuzzer, kept, kept_inputs, run_all},
};

/// Looks for bytes that break a promise of the parts that read what others send, or what a crash has left behind.
#[derive(Parser)]
struct Arguments {
    /// Only these targets: decode, body, row, spool, enrich, or the name of a product whose clients may send here.
    #[arg(long = "target", value_parser = PossibleValuesParser::new(Target::ALL.map(Target::name)))]
    targets: Vec<String>,

    /// How long each of them.
    #[arg(long, env = "MILLRACE_FUZZ_SECONDS", default_value_t = 600)]
    seconds: u64,

    /// Where libFuzzer's dice begin; anywhere, when not given.
    #[arg(long)]
    seed: Option<u32>,

    /// So many at once; the machine's cores, when not given.
    #[arg(long)]
    at_once: Option<usize>,

    /// Try this input once, and fuzz nothing.
    #[arg(long, value_name = "FILE", requires = "targets")]
    repeat: Option<PathBuf>,

    /// Afterwards, keep the fewest inputs that reach everything that was reached, in the repository's corpus.
    #[arg(long)]
    minimise: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut targets: Vec<Target> = arguments.targets.iter().filter_map(|name| Target::of(name)).collect();
    if targets.is_empty() {
        targets = Target::ALL.to_vec();
    }
    let fuzzer = Fuzzer::build()?;
    if let Some(input) = &arguments.repeat {
        return targets.iter().try_for_each(|target| fuzzer.repeat(*target, input));
    }
    let at_once =
        arguments.at_once.or(std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix:9} {bar:30} {elapsed} of {len} s, {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar_of: HashMap<&str, ProgressBar> = targets
        .iter()
        .map(|target| {
            let bar =
                ProgressBar::new(arguments.seconds).with_style(style.clone()).with_prefix(target.name());
            (target.name(), bars.add(bar))
        })
        .collect();
    let time = Duration::from_secs(arguments.seconds);
    let results = run_all(&fuzzer, &targets, time, arguments.seed, at_once, |target, now| {
        let bar = &bar_of[target.name()];
        if bar.position() == 0 {
            bar.reset_elapsed();
        }
        bar.set_position(bar.elapsed().as_secs().max(1));
        bar.set_message(format!("{} inputs, {} places reached", now.inputs, now.reached));
    });
    bar_of.values().for_each(ProgressBar::finish);
    let mut broken = 0;
    for (target, result) in results {
        match result {
            Ok(end) => println!(
                "{:9} {} inputs, {} places reached, nothing broken",
                target.name(),
                end.inputs,
                end.reached
            ),
            Err(error) => {
                broken += 1;
                println!("{:9} {error:#}", target.name());
            }
        }
    }
    if broken > 0 {
        bail!("{broken} of {} targets broken", targets.len());
    }
    if arguments.minimise {
        for target in targets {
            fuzzer.minimise(target)?;
            let inputs = kept_inputs(target)?;
            let bytes: usize = inputs.iter().map(|(_, input)| input.len()).sum();
            println!("{}: {} inputs, {bytes} bytes", kept(target).display(), inputs.len());
        }
    }
    Ok(())
}
