//! Disks in trouble: real file systems that are full or read-only, and fsyncs that fail.
//!
//! A collector gets a small file system of its own at its spool's directory, in its own mount namespace: it is gone with
//! the process, however the test ends. The test sees it through `/proc`.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use millrace_collector::{
    encode::{Message, Topic},
    log::{
        Log as _,
        spool::{Error, SpoolLog},
    },
};
use millrace_local::process::Signal;
use millrace_schemas::{
    spool::{CONSUMER_FILE, DURABLE_FILE, Position, SEGMENT_BYTES, SEGMENT_MAGIC, read_frame, segment_name},
    topic,
};
use millrace_testbed::Kafka;

use crate::{
    process::{Collector, client},
    service::{WRITE_KEY, eventually, records},
    shutdown::{ids_of, topic_values},
};

const PATIENCE: Duration = Duration::from_secs(180);

/// Mounts 512 KiB at the spool's directory, nearly half of them taken, and becomes the collector.
const SMALL_DISK: [&str; 6] = [
    "unshare",
    "--mount",
    "--map-root-user",
    "sh",
    "-c",
    r#"for argument in "$0" "$@"; do
           case $argument in --spool-dir=*) spool=${argument#*=} ;; esac
       done
       mkdir -p "$spool" && mount -t tmpfs -o size=512k tmpfs "$spool" &&
       head -c 200k /dev/zero >"$spool/ballast" && exec setpriv --pdeathsig KILL -- "$0" "$@""#,
];

/// One store may fill it.
const WHOLE: &str = "--spool-store-percent-max=100";

struct Sender {
    client: reqwest::Client,
    url: String,
    accepted: BTreeSet<String>,
}

impl Sender {
    fn new(collector: &Collector) -> Self {
        let url = format!("{}/v1/collect", collector.url());
        Self { client: client(), url, accepted: BTreeSet::new() }
    }

    async fn send(&mut self) -> u16 {
        let id = uuid::Uuid::now_v7().to_string();
        let body = format!(
            r#"{{"type":"event","name":"test","visitor_id":"v","event_id":"{id}","label":"{}"}}"#,
            "x".repeat(1000)
        );
        let request = self.client.post(&self.url).header("x-write-key", WRITE_KEY).body(body);
        let answer = request.send().await.unwrap();
        if answer.status() == 202 {
            self.accepted.insert(id);
        } else {
            assert!(answer.headers().contains_key("retry-after"));
        }
        answer.status().as_u16()
    }

    /// Sends until it is refused.
    async fn fill(&mut self) {
        for _ in 0..2_000 {
            if self.send().await == 503 {
                return;
            }
        }
        panic!("the disk is never full");
    }

    async fn is_accepted_again(&mut self) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while self.send().await != 202 {
            assert!(std::time::Instant::now() < deadline, "it is refused for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn stored(dir: &Path) -> BTreeSet<String> {
    ids_of(records(dir).iter().map(|(_, value)| value.as_str()))
}

async fn ready(collector: &Collector) -> (u16, String) {
    let answer = client().get(format!("{}/readyz", collector.url())).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The spool's directory, as the collector sees it.
fn seen(collector: &Collector, path: &Path) -> PathBuf {
    collector.root().join(path.strip_prefix("/").unwrap())
}

#[tokio::test]
async fn a_full_disk_refuses_and_loses_nothing_and_recovers_by_itself() {
    let collector = Collector::start_under(&SMALL_DISK, &[WHOLE.to_owned()], &[]).await;
    let mut sender = Sender::new(&collector);
    sender.fill().await;
    let (status, said) = ready(&collector).await;
    assert!(status == 503 && said.contains("disk refuses writes"), "{status} {said}");
    let dir = seen(&collector, &collector.spool(topic::EVENTS));
    let accepted = sender.accepted.clone();
    // All of what was acknowledged is there, and the frame that had no room is not, not even its beginning.
    assert_eq!(stored(&dir), accepted);
    let segment = fs::read(dir.join("00000000000000000000.seg")).unwrap();
    let mut rest = segment.strip_prefix(SEGMENT_MAGIC).unwrap();
    while !rest.is_empty() {
        rest = &rest[read_frame(rest).expect("whole frames only").1..];
    }
    fs::remove_file(dir.parent().unwrap().join("ballast")).unwrap();
    sender.is_accepted_again().await;
    for _ in 0..10 {
        assert_eq!(sender.send().await, 202);
    }
    assert_eq!(ready(&collector).await.0, 200);
    assert_eq!(stored(&dir), sender.accepted);
}

/// The disk is smaller than what the spool may take: the room that there is is shared.
#[tokio::test]
async fn a_hostile_key_does_not_fill_a_small_disk() {
    let collector = Collector::start_under(&SMALL_DISK, &[], &[]).await;
    let mut hostile = Sender::new(&collector);
    let mut status = 202;
    while status == 202 {
        status = hostile.send().await;
    }
    assert_eq!(status, 429);
    assert!(hostile.accepted.len() > 20, "{}", hostile.accepted.len());
    let client = client();
    for _ in 0..20 {
        let request = client.post(&hostile.url).header("x-write-key", "strict-write-key");
        let answer = request.body(r#"{"type":"event","name":"test","visitor_id":"v"}"#).send().await.unwrap();
        assert_eq!(answer.status(), 202);
    }
    assert_eq!(ready(&collector).await.0, 200);
}

#[tokio::test]
async fn a_full_disk_is_given_back_what_was_consumed() {
    let aged = ["--spool-segment-age-max-seconds=1", WHOLE].map(String::from);
    let collector = Collector::start_under(&SMALL_DISK, &aged, &[]).await;
    let dir = seen(&collector, &collector.spool(topic::EVENTS));
    // It is there while there is room for it, and is overwritten in place.
    let position = |next| {
        let json = serde_json::to_string(&Position { next, pending_next: None }).unwrap();
        let file = File::options().create(true).truncate(false).write(true).open(dir.join(CONSUMER_FILE));
        file.unwrap().write_all_at(format!("{json:<30}").as_bytes(), 0).unwrap();
    };
    position(0);
    let mut sender = Sender::new(&collector);
    for _ in 0..60 {
        assert_eq!(sender.send().await, 202);
    }
    let consumed = sender.accepted.clone();
    let follows = async |next| fs::metadata(dir.join(segment_name(next))).is_ok_and(|file| file.len() >= 8);
    eventually("another segment follows", async || follows(60).await).await;
    sender.fill().await;
    // Once a second the writer looks for room, also for a segment behind the last, which has grown old.
    let reason = "consumed segments could not be deleted";
    eventually("it has looked", async || collector.said().matches(reason).count() > 1).await;
    assert_eq!(ready(&collector).await.0, 503);
    assert!(!collector.said().contains("takes writes again"), "{}", collector.said());
    position(60);
    sender.is_accepted_again().await;

    let next = sender.accepted.len() as u64;
    eventually("another segment follows again", async || follows(next).await).await;
    // A segment that could not be made is not in the way of those that were.
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join(topic::EVENTS)).unwrap();
    for file in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), copy.path().join(topic::EVENTS).join(file.file_name())).unwrap();
    }
    SpoolLog::open(copy.path(), 1 << 30, SEGMENT_BYTES).unwrap().close(PATIENCE);
    assert_eq!(stored(&dir), &sender.accepted - &consumed);
}

#[tokio::test]
async fn a_full_disk_is_drained_to_kafka() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.stop().await.unwrap();
    let arguments =
        ["--log=kafka".to_owned(), WHOLE.to_owned(), format!("--kafka-brokers={}", kafka.bootstrap())];
    let mut collector = Collector::start_under(&SMALL_DISK, &arguments, &[]).await;
    let mut sender = Sender::new(&collector);
    sender.fill().await;
    let ready_without = ready(&collector).await;
    assert!(ready_without.0 == 503 && ready_without.1.contains("disk refuses writes"), "{ready_without:?}");
    kafka.restart().await.unwrap();
    // There is no room for a new file with the position, and none is needed.
    let spooling = "millrace_collector_spooling";
    let deadline = std::time::Instant::now() + PATIENCE;
    while collector.metric(spooling).await == 1.0 {
        assert!(std::time::Instant::now() < deadline, "it is not drained: {}", collector.said());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let dir = seen(&collector, &collector.spool(topic::EVENTS));
    let position: Position = serde_json::from_slice(&fs::read(dir.join(CONSUMER_FILE)).unwrap()).unwrap();
    let durable = u64::from_le_bytes(fs::read(dir.join(DURABLE_FILE)).unwrap().try_into().unwrap());
    assert_eq!(position.next, durable);
    for _ in 0..10 {
        assert_eq!(sender.send().await, 202);
    }
    // With Kafka there it is ready, and says that the disk is not.
    assert_eq!(ready(&collector).await.0, 200);
    collector.signal(Signal::TERM);
    collector.ended(PATIENCE).await;
    let values = topic_values(&kafka);
    let stored = ids_of(values.iter().map(String::as_str));
    assert!(
        sender.accepted.is_subset(&stored),
        "{} accepted, {} stored",
        sender.accepted.len(),
        stored.len()
    );
}

#[tokio::test]
async fn after_an_fsync_that_failed_nothing_is_appended_to_that_file() {
    // The fourth to the sixth of each thread; those of the start are the main thread's.
    let strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "-e"];
    let wrapper = [
        strace.as_slice(),
        &["inject=fdatasync:error=EIO:when=4..6", "setpriv", "--pdeathsig", "KILL", "--"],
    ]
    .concat();
    let collector = Collector::start_under(&wrapper, &[], &[]).await;
    let mut sender = Sender::new(&collector);
    sender.fill().await;
    assert_eq!(sender.accepted.len(), 3);
    let (status, said) = ready(&collector).await;
    assert!(status == 503 && said.contains("disk refuses writes"), "{status} {said}");
    sender.is_accepted_again().await;
    assert_eq!(sender.send().await, 202);
    eventually("it is ready", async || ready(&collector).await.0 == 200).await;
    // What was refused is not there, and the file that failed was left behind.
    let dir = collector.spool(topic::EVENTS);
    assert_eq!(stored(&dir), sender.accepted);
    assert!(dir.join("00000000000000000003.seg").exists());
    let log = collector.said();
    assert!(log.contains("refuses writes") && log.contains("takes writes again"), "{log}");
}

#[test]
fn a_read_only_directory_is_a_start_that_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o ro tmpfs "$1" && exec "$0" --log=spool --spool-dir="$1/spool" \
        --address=127.0.0.1:0 --metrics-address=127.0.0.1:0"#;
    let output = Command::new("unshare")
        .args(["--mount", "--map-root-user", "sh", "-c", script])
        .arg(env!("CARGO_BIN_EXE_millrace-collector"))
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("Read-only") && said.contains("/spool"), "{said}");
}

/// What was durable comes back from whatever becomes of the bytes behind it; nothing is ever misread.
#[tokio::test]
async fn a_last_group_cut_or_corrupted_at_any_byte_leaves_a_prefix() {
    // On memory: thousands of fsyncs.
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let message = |value: &str| Message {
        topic: Topic::Events,
        key: b"demo:v".to_vec(),
        value: value.as_bytes().to_vec(),
    };
    let all = ["one", "", "three three", "new"];
    let log = SpoolLog::open(dir.path(), 1 << 30, SEGMENT_BYTES).unwrap();
    log.append(vec![message(all[0])]).await.unwrap();
    let topic_dir = dir.path().join(topic::EVENTS);
    let segment = topic_dir.join("00000000000000000000.seg");
    let before = fs::read(&segment).unwrap().len();
    log.append(vec![message(all[1]), message(all[2])]).await.unwrap();
    log.close(PATIENCE);
    drop(log);
    let whole = fs::read(&segment).unwrap();
    let damages = (before..whole.len()).flat_map(|at| {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x41;
        let mut zeroed = whole.clone();
        zeroed[at..].fill(0);
        [whole[..at].to_vec(), flipped, zeroed]
    });
    for bytes in damages {
        // The group was acknowledged, its offset is durable: that is damage, and is said.
        fs::write(&segment, &bytes).unwrap();
        fs::write(topic_dir.join(DURABLE_FILE), 3_u64.to_le_bytes()).unwrap();
        let is_whole = bytes == whole;
        match SpoolLog::open(dir.path(), 1 << 30, SEGMENT_BYTES) {
            Err(Error::Damaged { .. }) => assert!(!is_whole),
            Err(error) => panic!("{error}"),
            Ok(log) => {
                assert!(is_whole, "{bytes:?}");
                log.close(PATIENCE);
            }
        }
        assert_eq!(fs::read(&segment).unwrap(), bytes, "what is damaged is left for a person to look at");
        // A crash before the group was durable: a prefix of it is left, and appending goes on behind that.
        fs::write(topic_dir.join(DURABLE_FILE), 1_u64.to_le_bytes()).unwrap();
        let log = SpoolLog::open(dir.path(), 1 << 30, SEGMENT_BYTES).unwrap();
        log.append(vec![message(all[3])]).await.unwrap();
        log.close(PATIENCE);
        drop(log);
        let mut left: Vec<_> = records(&topic_dir).into_iter().map(|(_, value)| value).collect();
        assert_eq!(left.pop().unwrap(), all[3]);
        assert!(!left.is_empty() && all[..3].iter().zip(&left).all(|(was, is)| was == is), "{left:?}");
    }
}
