//! The kept corpora, and a minute of looking for more.

// Clippy knows test functions, not their helpers.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use millrace_fuzz::{
    Target,
    run::{Fuzzer, kept_inputs, run_all},
    seeds,
};

/// What is kept of all targets together, so that a clone stays small.
const CORPUS_BYTES_MAX: usize = 300 << 10;
const SEED: u32 = 1;

#[test]
fn kept_inputs_break_nothing() {
    let mut bytes = 0;
    for target in Target::ALL {
        let inputs = kept_inputs(target).unwrap();
        let seeds = seeds::of(target);
        let number = inputs.len() + seeds.len();
        assert!(number >= 20, "{}: {number} inputs", target.name());
        for (path, input) in inputs {
            bytes += input.len();
            let checked = std::panic::catch_unwind(|| target.check(&input));
            assert!(checked.is_ok(), "{} breaks {}", path.display(), target.name());
        }
        seeds.iter().for_each(|seed| target.check(seed));
    }
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes: make fuzz ARGS='--minimise --seconds 1'");
}

/// `MILLRACE_FUZZ_SECONDS` of each target, a minute when it is not set. The dice are the same each time: what a change is
/// refused for should be in the change, and luck is for `make fuzz`. A failure names the input and how to repeat it.
#[test]
fn a_minute_of_fuzzing_breaks_nothing() {
    let seconds = std::env::var("MILLRACE_FUZZ_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let fuzzer = Fuzzer::build().unwrap_or_else(|error| panic!("{error:#}"));
    // All at once, also on few cores: a minute each, and a minute in all.
    let at_once = Target::ALL.len();
    let time = Duration::from_secs(seconds);
    let results = run_all(&fuzzer, &Target::ALL, time, Some(SEED), at_once, |_, _| {});
    assert_eq!(results.len(), Target::ALL.len());
    let mut broken = Vec::new();
    for (target, result) in results {
        let kept = kept_inputs(target).unwrap().len() as u64;
        match result {
            Err(error) => broken.push(format!("{error:#}")),
            // An uninstrumented program would try as many, and learn nothing from any.
            Ok(end) if end.reached > 50 && end.inputs >= kept => {
                println!("{}: {} inputs, {} places reached", target.name(), end.inputs, end.reached);
            }
            Ok(end) => broken.push(format!("{} was not fuzzed: {end:?}", target.name())),
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}
