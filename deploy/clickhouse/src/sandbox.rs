//! The kernel's wall around the engine (Landlock): this process opens files below its data directory alone, reads beside
//! them what every program reads, starts no program, and connects to nobody.
//!
//! The engine's access rights refuse what asks for another file or port by name. They leave ways out that no list of names
//! finds: the function `file()`, which is under no right at all, called from a default inside a string; an engine of a new
//! version. Those end here, whoever asks.
//!
//! Linux has it from 5.13 on, for files; from 6.7 on for connections; some containers switch it off. Where it is missing, the
//! start says so, and the rights and [`super::forbidden`] alone stand.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, CompatLevel, Compatible as _, PathBeneath, PathFd, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetStatus, Scope,
};

/// What is asked of the kernel; it does what it knows of it.
const WANTED: ABI = ABI::V6;
/// Read by the C library and by the engine, which looks at what the machine has. None of these holds a secret: `/proc/self` is
/// this process's alone, whose environment was cleaned.
const READABLE: &[&str] = &[
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/zoneinfo",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/timezone",
    "/dev/null",
    "/dev/zero",
    "/dev/random",
    "/dev/urandom",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/loadavg",
    "/proc/uptime",
    "/proc/sys/vm",
    "/proc/sys/kernel",
    "/sys/devices/system",
    "/sys/fs/cgroup",
];

/// How much of it the kernel does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    /// Everything that was asked for.
    Whole,
    /// Files, and not the rest: an older kernel.
    Partial,
    /// Nothing: the kernel does not know it, or a container has switched it off.
    None,
}

/// Why the wall cannot be built although the kernel could.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refuses to confine the engine: {0}")]
pub struct Error(#[from] landlock::RulesetError);

/// Confines this thread and every one that it starts from now on: to be called before there are others. `connects`: the
/// settings allow sources, to which statements connect.
pub fn confine(data_dir: &Path, library: &Path, connects: bool) -> Result<Wall, Error> {
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))?
        .scope(Scope::from_all(WANTED))?;
    if !connects {
        rules = rules.handle_access(AccessNet::from_all(WANTED))?;
    }
    let mut rules = rules.create()?;
    let readable = READABLE.iter().map(PathBuf::from).chain([library.to_owned()]);
    for path in readable {
        rules = allow(rules, &path, AccessFs::ReadFile | AccessFs::ReadDir)?;
    }
    rules = allow(rules, Path::new("/dev/null"), AccessFs::ReadFile | AccessFs::WriteFile)?;
    rules = allow(rules, data_dir, AccessFs::from_all(WANTED) & !AccessFs::Execute)?;
    Ok(match rules.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Wall::Whole,
        RulesetStatus::PartiallyEnforced => Wall::Partial,
        RulesetStatus::NotEnforced => Wall::None,
    })
}

/// Nothing is allowed on a path that this machine does not have.
fn allow(
    rules: RulesetCreated,
    path: &Path,
    access: landlock::BitFlags<AccessFs>,
) -> Result<RulesetCreated, Error> {
    match PathFd::new(path) {
        Ok(opened) => {
            let access = if path.is_dir() { access } else { access & AccessFs::from_file(WANTED) };
            Ok(rules.add_rule(PathBeneath::new(opened, access))?)
        }
        Err(_) => Ok(rules),
    }
}
