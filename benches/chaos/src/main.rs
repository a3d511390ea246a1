//! `millrace-chaos`: real faults on the whole pipeline, for those who change it. See `make chaos`.

use std::{
    ffi::OsStr,
    io::IsTerminal as _,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, Stdio},
};

use clap::Parser as _;
use millrace_chaos::Config;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Set for the program that runs in a network namespace of its own.
const INSIDE: &str = "CHAOS_NETWORK";

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(
            EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,sqlx=error")),
        )
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let config = Config::parse();
    match begin(config) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn begin(config: Config) -> anyhow::Result<ExitCode> {
    let inside = std::env::var_os(INSIDE);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if inside.is_none() {
        runtime.block_on(millrace_chaos::prepare())?;
        drop(runtime);
        // The same process becomes the program again, with nothing but the new network around it.
        let program = std::env::current_exe()?;
        let separate = may_separate();
        let mut command = if separate { Command::new("unshare") } else { Command::new(&program) };
        if separate {
            command.args(["--net", "--"]).arg(&program);
        }
        let own = if separate { "own" } else { "shared" };
        return Err(command.args(std::env::args_os().skip(1)).env(INSIDE, own).exec().into());
    }
    let has_network = inside.as_deref() == Some(OsStr::new("own"));
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        // Dropping the run ends its processes and removes its directory.
        tokio::select! {
            outcome = millrace_chaos::run(config, has_network) => outcome.map(|()| ExitCode::SUCCESS),
            _ = interrupt.recv() => Ok(ExitCode::from(130)),
            _ = terminate.recv() => Ok(ExitCode::from(143)),
            _ = hangup.recv() => Ok(ExitCode::from(129)),
        }
    })
}

/// Whether this machine lets us have network namespaces, and cables between them.
fn may_separate() -> bool {
    let trial = "ip link set lo up && ip link add trial type veth peer name trial2";
    let tried =
        Command::new("unshare").args(["--net", "--", "sh", "-c", trial]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}
