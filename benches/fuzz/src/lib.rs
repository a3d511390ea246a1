//! Fuzzing: what must hold for any bytes, and what runs it.
//!
//! Each target is a function from bytes to a panic or none, so that the kept corpora are plain tests too. libFuzzer finds
//! bytes that reach new code; the instrumented build is made beside the others' (`instrument.sh`), from the same
//! dependencies. One program holds all targets: to link is most of what building them costs.

pub mod body;
pub mod compat;
pub mod decode;
pub mod enrich;
pub mod row;
pub mod run;
pub mod seeds;
pub mod spool;

use millrace_collector::compat::Protocol;

/// Names the target that `fuzz-target` runs.
pub const TARGET_VARIABLE: &str = "MILLRACE_FUZZ_TARGET";

/// What can be fuzzed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A request's body to rows.
    Decode,
    /// A compressed body to its bytes.
    Body,
    /// A line of the log to a row of a block.
    Row,
    /// A spool that a crash or a disk has left behind.
    Spool,
    /// Addresses and a user agent to what is learned and kept of them.
    Enrich,
    /// A request of another product's client to rows.
    Compat(Protocol),
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 11] = [
        Target::Decode,
        Target::Body,
        Target::Row,
        Target::Spool,
        Target::Enrich,
        Target::Compat(Protocol::Segment),
        Target::Compat(Protocol::Ga4),
        Target::Compat(Protocol::Plausible),
        Target::Compat(Protocol::Umami),
        Target::Compat(Protocol::Posthog),
        Target::Compat(Protocol::Snowplow),
    ];

    /// Its name, also of its corpus.
    pub const fn name(self) -> &'static str {
        match self {
            Target::Decode => "decode",
            Target::Body => "body",
            Target::Row => "row",
            Target::Spool => "spool",
            Target::Enrich => "enrich",
            Target::Compat(protocol) => protocol.name(),
        }
    }

    /// The names of all.
    pub fn names() -> String {
        Self::ALL.map(Target::name).join(", ")
    }

    /// The target of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|target| target.name() == name)
    }

    /// Panics if these bytes break a promise.
    pub fn check(self, input: &[u8]) {
        match self {
            Target::Decode => decode::check(input),
            Target::Body => body::check(input),
            Target::Row => row::check(input),
            Target::Spool => spool::check(input),
            Target::Enrich => enrich::check(input),
            Target::Compat(protocol) => compat::check(protocol, input),
        }
    }
}
