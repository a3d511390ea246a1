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

#[test]
fn kept_inputs_break_nothing() {
    let mut bytes = 0;
    for target in Target::ALL {
        let inputs = kept_inputs(target).unwrap();
        assert!(inputs.len() >= 20, "{}: {} inputs", target.name(), inputs.len());
        for (path, input) in inputs {
            bytes += input.len();
            let checked = std::panic::catch_unwind(|| target.check(&input));
            assert!(checked.is_ok(), "{} breaks {}", path.display(), target.name());
        }
        seeds::of(target).iter().for_each(|seed| target.check(seed));
    }
    assert!(bytes < CORPUS_BYTES_MAX, "{bytes} bytes: make fuzz ARGS='--minimise --seconds 1'");
}

/// `MILLRACE_FUZZ_SECONDS` of each target, a minute when it is not set. A failure names the input and how to repeat it.
#[test]
fn a_minute_of_fuzzing_breaks_nothing() {
    let seconds = std::env::var("MILLRACE_FUZZ_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let fuzzer = Fuzzer::build().unwrap();
    // All at once, also on few cores: a minute each, and a minute in all.
    let at_once = Target::ALL.len();
    let results = run_all(&fuzzer, &Target::ALL, Duration::from_secs(seconds), at_once, |_, _| {});
    assert_eq!(results.len(), Target::ALL.len());
    for (target, result) in results {
        let end = result.unwrap_or_else(|error| panic!("{error:#}"));
        println!("{}: {} inputs, {} places reached", target.name(), end.inputs, end.reached);
        // An uninstrumented program would try as many, and learn nothing from any.
        assert!(end.reached > 50 && end.inputs > 100, "{}: {end:?}", target.name());
    }
}
