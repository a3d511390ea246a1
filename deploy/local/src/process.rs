//! Child processes that cannot outlive us.
//!
//! * A child gets a signal from the kernel when we die, however we die (`PR_SET_PDEATHSIG`, set by
//!   util-linux's `setpriv`: setting it ourselves between fork and exec would need unsafe code).
//! * The kernel means "when the *thread* that started the child ends". Runtime worker threads and test threads
//!   end while the process lives on, so one thread that never ends starts all children.
//! * Each child leads a process group of its own: Ctrl-C in a terminal reaches us only, and we decide in which
//!   order the children stop.

use std::ffi::OsStr;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, WaitId, WaitIdOptions, kill_process, kill_process_group, test_kill_process_group, waitid,
};

pub use rustix::process::Signal;

/// A child's end is looked for often at first, when somebody waits for it, and rarely once it has run for long.
const POLL_MIN: Duration = Duration::from_millis(5);
const POLL_MAX: Duration = Duration::from_millis(200);
/// For what a killed child has started.
const MEMBERS_PATIENCE: Duration = Duration::from_secs(1);

/// A running child process. Dropping it kills it and everything it started.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Pid,
}

impl Process {
    /// Starts `command`, which should have been made by [`bound`].
    pub fn spawn(mut command: Command) -> io::Result<Self> {
        command.process_group(0);
        let child = spawn_on_lasting_thread(command)?;
        let pid = i32::try_from(child.id())
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("the kernel gave an impossible process id"))?;
        Ok(Self { child, pid })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if the child has ended.
    pub fn exited(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits until the child ends by itself.
    pub async fn wait(&mut self) -> io::Result<ExitStatus> {
        let mut pause = POLL_MIN;
        loop {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL_MAX);
        }
    }

    /// Sends a signal to the child, not to what it started. A child that has ended is no error.
    pub fn signal(&mut self, signal: Signal) -> io::Result<()> {
        match self.exited()? {
            Some(_) => Ok(()),
            // Until we have reaped it, the id cannot belong to anybody else.
            None => Ok(kill_process(self.pid, signal)?),
        }
    }

    /// Stops the child where it stands (`kill -STOP`), and waits until none of its threads runs any more: on a busy machine
    /// the last of them does some milliseconds after the signal. [`Signal::CONT`] ends it.
    pub fn freeze(&mut self) -> io::Result<()> {
        self.signal(Signal::STOP)?;
        if self.exited()?.is_none() {
            let is_over = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            waitid(WaitId::Pid(self.pid), is_over)?;
        }
        Ok(())
    }

    /// Asks the child to end with `signal`, and kills it when it has not after `patience`.
    pub async fn stop(&mut self, signal: Signal, patience: Duration) -> io::Result<ExitStatus> {
        self.signal(signal)?;
        match tokio::time::timeout(patience, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill(),
        }
    }

    /// Kills the child and what it started (`kill -9`) and waits for its end.
    pub fn kill(&mut self) -> io::Result<ExitStatus> {
        if let Some(status) = self.exited()? {
            return Ok(status);
        }
        kill_process_group(self.pid, Signal::KILL)?;
        let status = self.child.wait()?;
        // What it started ends a moment after it, and writes until then. A container whose first process reaps nobody
        // keeps them as zombies, so this has a limit.
        let deadline = Instant::now() + MEMBERS_PATIENCE;
        while test_kill_process_group(self.pid).is_ok() && Instant::now() < deadline {
            std::thread::sleep(POLL_MIN);
        }
        Ok(status)
    }

    /// Like [`Process::stop`], for places that cannot await, such as `drop`.
    pub fn stop_blocking(&mut self, signal: Signal, patience: Duration) -> io::Result<ExitStatus> {
        self.signal(signal)?;
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if let Some(status) = self.exited()? {
                return Ok(status);
            }
            std::thread::sleep(POLL_MIN);
        }
        self.kill()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            tracing::warn!(%error, pid = self.id(), "cannot kill a child process");
        }
    }
}

/// The path of another of Millrace's programs: they lie in one directory (tests run one directory deeper).
pub fn program(name: &str) -> io::Result<PathBuf> {
    let running = std::env::current_exe()?;
    let found = running.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    found.ok_or_else(|| {
        let place = running.display();
        let message = format!("no {name} near {place}; build it with: cargo build --workspace --bins");
        io::Error::new(io::ErrorKind::NotFound, message)
    })
}

/// A command line that runs `program` bound to our life: the kernel sends it `signal` when we die. KILL is right
/// for whatever survives a crash anyway and starts nothing itself.
pub fn bound(signal: Signal, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", name(signal), "--"]).arg(program);
    command
}

/// The name that `setpriv` wants; it takes no numbers.
pub(crate) fn name(signal: Signal) -> &'static str {
    match signal {
        Signal::INT => "INT",
        Signal::QUIT => "QUIT",
        Signal::TERM => "TERM",
        _ => "KILL",
    }
}

type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Forks on a thread that lives as long as the process; see the module's second point.
fn spawn_on_lasting_thread(command: Command) -> io::Result<Child> {
    static ORDERS: LazyLock<io::Result<mpsc::SyncSender<Order>>> = LazyLock::new(|| {
        let (sender, orders) = mpsc::sync_channel::<Order>(1);
        std::thread::Builder::new().name("children".to_owned()).spawn(move || {
            for (mut command, answer) in orders {
                // The caller waits for the answer, so it can only be gone when the process ends.
                let _ = answer.send(command.spawn());
            }
        })?;
        Ok(sender)
    });
    let gone = || io::Error::other("the thread that starts child processes is gone");
    let orders = ORDERS.as_ref().map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
    let (answer, child) = mpsc::sync_channel(1);
    orders.send((command, answer)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}
