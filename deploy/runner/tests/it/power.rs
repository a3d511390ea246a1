//! Loss of power on one machine: its file system is told, under load, to forget whatever was not synced. What was
//! acknowledged is there afterwards, once, and counted.
//!
//! The file system is an ext4 in a file, mounted where nobody else sees it. That needs root.

use std::{
    collections::BTreeSet,
    fs::File,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use millrace_local::process::{Process, Signal, bound, program};
use uuid::Uuid;

use crate::{
    pipeline::OneMachine,
    shutdown::{ask, eventually},
};

/// Mounts a disk, `$0`, in a namespace that goes with the last process in it, and becomes the command behind its place.
const MOUNT: &str = r#"mount -o loop "$0" "$1" && shift && exec "$@""#;
/// `EXT4_IOC_SHUTDOWN` without writing the journal: from here on every write fails, and what waited for one is gone.
const CUT: &str = r#"open(my $place, "<", $ARGV[0]) or die $!;
    my $flags = pack("L", 2); ioctl($place, 0x8004587d, $flags) or die $!"#;
const EVENTS: usize = 10;
const IDS: &str = "SELECT DISTINCT event_id FROM millrace.events FORMAT TSV";

struct Shop {
    machine: OneMachine,
    disk: PathBuf,
    /// The data directory as we see it while a runner has it mounted: passwords lie in it.
    data_dir: Mutex<PathBuf>,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Default)]
struct Sent {
    accepted: BTreeSet<String>,
    /// Nobody heard what became of them.
    open: BTreeSet<String>,
}

impl Shop {
    fn new() -> Self {
        let machine = OneMachine::new();
        let disk = machine.dir.path().join("disk");
        File::create(&disk).unwrap().set_len(2 << 30).unwrap();
        std::fs::create_dir(machine.data_dir()).unwrap();
        said(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk));
        Self { machine, disk, data_dir: Mutex::default(), sent: Arc::default() }
    }

    async fn start(&self) -> Process {
        let log =
            File::options().create(true).append(true).open(self.machine.dir.path().join("millrace.log"));
        let log = log.unwrap();
        let mut command = bound(Signal::KILL, "unshare");
        command.args(["--mount", "sh", "-c", MOUNT]).arg(&self.disk).arg(self.machine.data_dir());
        command.arg(program("millrace").unwrap()).args(self.machine.arguments());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut running = Process::spawn(command).unwrap();
        self.machine.ready(&mut running).await;
        *self.data_dir.lock().unwrap() = self.seen_by(&running);
        running
    }

    /// The data directory, which is mounted for the runner alone.
    fn seen_by(&self, running: &Process) -> PathBuf {
        format!("/proc/{}/root{}", running.id(), self.machine.data_dir().display()).into()
    }

    fn data_dir(&self) -> PathBuf {
        self.data_dir.lock().unwrap().clone()
    }

    /// Sends until nobody answers any more.
    async fn send(url: String, sent: Arc<Mutex<Sent>>) {
        let client = reqwest::Client::new();
        loop {
            let ids: [String; EVENTS] = std::array::from_fn(|_| Uuid::new_v4().to_string());
            let events = ids.each_ref().map(|id| {
                // Visitors of their own: one who did it all would be a bot.
                let page = r#""type":"page_view","url":"https://a.example/""#;
                format!(r#"{{{page},"visitor_id":"{id}","event_id":"{id}"}}"#)
            });
            let request = client.post(&url).header("x-write-key", "demo-write-key");
            let answer = request.body(format!("[{}]", events.join(","))).send().await;
            let mut sent = sent.lock().unwrap();
            match answer {
                Ok(answer) if answer.status() == 202 => sent.accepted.extend(ids),
                _ => return sent.open.extend(ids),
            }
        }
    }

    async fn ids(&self) -> BTreeSet<String> {
        let clickhouse = self.machine.clickhouse_url_by(&self.data_dir());
        ask(&clickhouse, IDS).await.lines().map(str::to_owned).collect()
    }

    /// The power goes while events come in, some time after the first of them were stored.
    async fn loses_power(&self, mut running: Process, after: Duration) {
        let before = self.sent.lock().unwrap().accepted.len();
        let url = format!("http://127.0.0.1:{}/v1/collect", self.machine.ports[0].number());
        let senders = [(); 4].map(|()| tokio::spawn(Self::send(url.clone(), Arc::clone(&self.sent))));
        eventually("events are stored", async || self.ids().await.len() > before + 100).await;
        tokio::time::sleep(after).await;
        said(Command::new("perl").args(["-e", CUT]).arg(self.seen_by(&running)));
        running.kill().unwrap();
        for sender in senders {
            sender.await.unwrap();
        }
        let loops = || said(Command::new("losetup").arg("--associated").arg(&self.disk));
        eventually("the disk is free", async || loops().is_empty()).await;
    }

    async fn has_everything_once(&self) {
        let is_stored = async || {
            let stored = self.ids().await;
            self.sent.lock().unwrap().accepted.is_subset(&stored)
        };
        eventually("what was acknowledged is stored", is_stored).await;
        let sum = async || {
            let target = self.machine.target_by(&self.data_dir()).await;
            let sum = "SELECT coalesce(sum(page_views), 0)::bigint FROM analytics_summary
                       WHERE store_id = 'demo' AND period_type = 'day'";
            sqlx::query_scalar::<_, i64>(sum).fetch_one(&target.postgres).await.unwrap_or_default()
        };
        let count = async || self.ids().await.len() as i64;
        eventually("it is counted, once", async || sum().await == count().await).await;
        let mut strange = self.ids().await;
        let sent = self.sent.lock().unwrap();
        strange.retain(|id| !sent.accepted.contains(id) && !sent.open.contains(id));
        assert!(strange.is_empty(), "{strange:?}");
    }
}

/// What a program prints; it must succeed.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn what_is_acknowledged_survives_a_loss_of_power() {
    if !rustix::process::geteuid().is_root() {
        return println!("Only root may mount a disk; no power is lost.");
    }
    let shop = Shop::new();
    let mut running = shop.start().await;
    for after_ms in [0, 700, 2_500] {
        shop.loses_power(running, Duration::from_millis(after_ms)).await;
        running = shop.start().await;
        shop.has_everything_once().await;
    }
    assert!(running.stop(Signal::INT, Duration::from_secs(180)).await.unwrap().success());
}
