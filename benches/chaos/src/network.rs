//! Cables between the processes, that can be pulled.
//!
//! * The whole run lives in a network namespace of its own (the program started itself anew in it), in which Kafka,
//!   ClickHouse, Postgres and the client have addresses. Each service has a further namespace and, for each of those
//!   four, a cable: a pair of virtual interfaces with a subnet of its own.
//! * Pulling a cable is taking its near end down. Packets of the service then vanish, as do those to it: nobody is told,
//!   connections stay open and hang. Plugged in again, they go on or time out.
//! * No namespace has a name. Each belongs to a process that sleeps in it, so that all of it is gone when we are,
//!   however we end.
//! * Without the right to make namespaces everything listens on 127.0.0.1 and no cable can be pulled.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use millrace_local::process::{Process, Signal, bound};
use millrace_testbed::Port;

use super::node::Node;

/// What a service has a cable to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Kafka,
    ClickHouse,
    Postgres,
    Client,
}

const ENDS: [End; 4] = [End::Kafka, End::ClickHouse, End::Postgres, End::Client];
/// How long the kernel may take to make a namespace.
const NAMESPACE_PATIENCE: Duration = Duration::from_secs(10);

impl End {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Postgres => "postgres",
            Self::Client => "client",
        }
    }

    /// The address of a server, where there are cables.
    fn address(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 255, 1 + self as u8)
    }
}

/// A place for every process, and the cables between them.
pub(super) struct Network {
    /// The processes that keep the services' namespaces; none where there are no namespaces.
    spaces: BTreeMap<Node, Process>,
    /// Reserved for as long as we run, where everything shares one address.
    ports: BTreeMap<(Node, u16), Port>,
}

/// Number of a service's cable to `end`; the near end is interface `cable<number>`.
fn cable(service: Node, end: End) -> u8 {
    service as u8 * ENDS.len() as u8 + end as u8
}

impl Network {
    /// Lays the cables, if `is_separate` says that this process has a namespace to itself.
    pub(super) fn lay(is_separate: bool) -> anyhow::Result<Self> {
        let mut network = Self { spaces: BTreeMap::new(), ports: BTreeMap::new() };
        if !is_separate {
            return Ok(network);
        }
        let mut near = vec!["link set lo up".to_owned()];
        for server in [End::Kafka, End::ClickHouse, End::Postgres] {
            near.push(format!("address add {}/32 dev lo", server.address()));
        }
        ip(None, &near)?;
        for service in Node::SERVICES {
            let space = sleeper()?;
            let mut near = Vec::new();
            let mut far = vec!["link set lo up".to_owned()];
            for end in ENDS {
                let number = cable(service, end);
                near.push(format!(
                    "link add cable{number} type veth peer name {end} netns {}",
                    space.id(),
                    end = end.name()
                ));
                near.push(format!("address add 10.77.{number}.1/30 dev cable{number}"));
                near.push(format!("link set cable{number} up"));
                far.push(format!("address add 10.77.{number}.2/30 dev {}", end.name()));
                far.push(format!("link set {} up", end.name()));
                if end != End::Client {
                    far.push(format!(
                        "route add {}/32 via 10.77.{number}.1 dev {}",
                        end.address(),
                        end.name()
                    ));
                }
            }
            ip(None, &near)?;
            ip(Some(space.id()), &far)?;
            network.spaces.insert(service, space);
        }
        Ok(network)
    }

    /// Whether cables can be pulled.
    pub(super) fn has_cables(&self) -> bool {
        !self.spaces.is_empty()
    }

    /// The address at which a server listens and is reached.
    pub(super) fn server(&mut self, server: End, port: u16) -> anyhow::Result<SocketAddr> {
        if self.has_cables() {
            return Ok((server.address(), port).into());
        }
        let node = match server {
            End::Kafka => Node::Kafka,
            End::ClickHouse => Node::ClickHouse,
            End::Postgres | End::Client => Node::Postgres,
        };
        self.reserved(node, port)
    }

    /// Where a service listens, and where the client reaches it.
    pub(super) fn service(&mut self, service: Node, port: u16) -> anyhow::Result<(SocketAddr, SocketAddr)> {
        if self.has_cables() {
            let reached = Ipv4Addr::new(10, 77, cable(service, End::Client), 2);
            return Ok(((Ipv4Addr::UNSPECIFIED, port).into(), (reached, port).into()));
        }
        let address = self.reserved(service, port)?;
        Ok((address, address))
    }

    fn reserved(&mut self, node: Node, port: u16) -> anyhow::Result<SocketAddr> {
        let reserved = match self.ports.entry((node, port)) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Port::reserve()?),
        };
        Ok((Ipv4Addr::LOCALHOST, reserved.number()).into())
    }

    /// A command that runs in its node's place and ends with us.
    pub(super) fn command(&self, node: Node, program: impl AsRef<std::ffi::OsStr>) -> Command {
        match self.spaces.get(&node) {
            None => bound(Signal::KILL, program),
            Some(space) => {
                let mut command = bound(Signal::KILL, "nsenter");
                command.arg(format!("--net=/proc/{}/ns/net", space.id())).arg("--").arg(program);
                command
            }
        }
    }

    /// Pulls a cable.
    pub(super) fn cut(&self, service: Node, end: End) -> anyhow::Result<()> {
        ip(None, &[format!("link set cable{} down", cable(service, end))])
    }

    /// Plugs it in again.
    pub(super) fn mend(&self, service: Node, end: End) -> anyhow::Result<()> {
        ip(None, &[format!("link set cable{} up", cable(service, end))])
    }
}

/// A process that sleeps in a network namespace of its own, and that namespace with it.
fn sleeper() -> anyhow::Result<Process> {
    let mut command = bound(Signal::KILL, "unshare");
    command.args(["--net", "--", "sleep", "infinity"]).stdin(Stdio::null());
    let mut process = Process::spawn(command)?;
    let ours = fs::read_link("/proc/self/ns/net")?;
    let path = format!("/proc/{}/ns/net", process.id());
    let deadline = Instant::now() + NAMESPACE_PATIENCE;
    while fs::read_link(&path).is_ok_and(|theirs| theirs == ours) {
        ensure!(process.exited()?.is_none(), "a network namespace could not be made (unshare --net ended)");
        ensure!(Instant::now() < deadline, "a network namespace was not made within 10 s");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(process)
}

/// Runs commands of iproute2, in the namespace of a process or in ours.
fn ip(space: Option<u32>, lines: &[String]) -> anyhow::Result<()> {
    let mut command = match space {
        None => Command::new("ip"),
        Some(pid) => {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).args(["--", "ip"]);
            command
        }
    };
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot run `ip`; install it with: apt-get install iproute2")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all((lines.join("\n") + "\n").as_bytes())?;
    }
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
