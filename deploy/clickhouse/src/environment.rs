//! The environment a statement can see is one without secrets.
//!
//! `/proc/self/environ` shows a process its environment as it was at its start, whatever was removed since. So a process that
//! was started with more than it needs starts itself once again with what it needs.

use std::{env, ffi::OsStr, io, os::unix::process::CommandExt as _, process::Command};

/// What the engine and its endpoint read. Those that end in `_` are beginnings.
const NEEDED: [&str; 10] = [
    "MILLRACE_CLICKHOUSE_",
    "MILLRACE_CHDB_LIBRARY",
    "MILLRACE_ALLOWED_HOSTS",
    "RUST_LOG",
    "RUST_BACKTRACE",
    "TZ",
    "TZDIR",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
];
/// Of those, what other programs mean by it: a client's password.
const SECRET: [&str; 2] = ["MILLRACE_CLICKHOUSE_PASSWORD", "MILLRACE_CLICKHOUSE_URL"];

/// Starts this program again, as the same process, unless its environment is clean. Returns only when it is, or when that
/// fails.
pub fn clean() -> io::Result<()> {
    let kept = || env::vars_os().filter(|(name, _)| is_needed(name));
    if kept().count() == env::vars_os().count() {
        return Ok(());
    }
    let mut arguments = env::args_os();
    let mut command = Command::new(env::current_exe()?);
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    Err(command.args(arguments).env_clear().envs(kept()).exec())
}

fn is_needed(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    !SECRET.contains(&name)
        && NEEDED.iter().any(|needed| name == *needed || needed.ends_with('_') && name.starts_with(needed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_needed() {
        for name in [
            "MILLRACE_ADMIN_TOKEN",
            "MILLRACE_CLICKHOUSE_PASSWORD",
            "MILLRACE_POSTGRES_URL",
            "AWS_SECRET_ACCESS_KEY",
        ] {
            assert!(!is_needed(name.as_ref()), "{name}");
        }
        for name in ["MILLRACE_CLICKHOUSE_PASSWORD_FILE", "MILLRACE_CLICKHOUSE_MEMORY_BYTES_MAX", "TZ"] {
            assert!(is_needed(name.as_ref()), "{name}");
        }
    }
}
