//! libFuzzer around one target, which the environment names. Built and started by `fuzz`.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use millrace_fuzz::{TARGET_VARIABLE, Target};

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var(TARGET_VARIABLE).unwrap_or_default();
    Target::of(&name).unwrap_or_else(|| panic!("set {TARGET_VARIABLE} to one of {}", Target::names()))
});

fuzz_target!(|input: &[u8]| TARGET.check(input));
