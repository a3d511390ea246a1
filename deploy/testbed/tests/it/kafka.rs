use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use millrace_testbed::Kafka;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{FutureProducer, FutureRecord};

/// What was acknowledged before `kill -9` is there after a restart on the same directory.
#[tokio::test]
async fn a_killed_broker_comes_back_with_its_records() {
    let mut kafka = Kafka::start().await.unwrap();
    kafka.create_topics(&[("millrace.events", 6), ("millrace.clicks", 3)]).await.unwrap();
    let producer: FutureProducer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    let record = FutureRecord::to("millrace.events").partition(2).key("visitor").payload("row");
    producer.send(record, Duration::from_secs(60)).await.unwrap();

    kafka.kill9().unwrap();
    kafka.restart().await.unwrap();

    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().unwrap();
    let timeout = Duration::from_secs(60);
    let topic = consumer.fetch_metadata(Some("millrace.events"), timeout).unwrap();
    assert_eq!(topic.topics()[0].partitions().len(), 6);
    assert_eq!(consumer.fetch_watermarks("millrace.events", 2, timeout).unwrap(), (0, 1));
}

/// Tests run beside each other, each with a broker of its own.
#[tokio::test]
async fn brokers_do_not_share() {
    let (one, other) = tokio::join!(Kafka::start(), Kafka::start());
    let (one, other) = (one.unwrap(), other.unwrap());
    one.create_topics(&[("only.here", 1)]).await.unwrap();
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", other.bootstrap()).create().unwrap();
    assert!(consumer.fetch_metadata(None, Duration::from_secs(60)).unwrap().topics().is_empty());
}

/// A checkout with these files of the script's, and the jars that are here.
fn checkout(dir: &Path) -> (PathBuf, PathBuf) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kafka");
    let kafka = dir.join("deploy/kafka");
    fs::create_dir_all(&kafka).unwrap();
    for file in ["kafka.sh", "pom.xml", "log4j2.properties", "SHA512SUMS"] {
        fs::copy(source.join(file), kafka.join(file)).unwrap();
    }
    let tools = source.join("../../.tools/kafka").canonicalize().unwrap();
    let pom = fs::read_to_string(source.join("pom.xml")).unwrap();
    let version = pom.split_once("<kafka.version>").unwrap().1.split_once('<').unwrap().0.to_owned();
    let home = dir.join(".tools/kafka").join(&version);
    fs::create_dir_all(home.join("lib")).unwrap();
    for entry in fs::read_dir(tools.join(&version)).unwrap().map(Result::unwrap) {
        if entry.file_name() != "lib" {
            symlink(entry.path(), home.join(entry.file_name())).unwrap();
        }
    }
    for jar in fs::read_dir(tools.join(&version).join("lib")).unwrap().map(Result::unwrap) {
        symlink(jar.path(), home.join("lib").join(jar.file_name())).unwrap();
    }
    (kafka.join("kafka.sh"), home.join("lib"))
}

/// Nothing is run of a jar that is not the one whose hash is committed, be it changed, missing or one too many.
#[tokio::test]
async fn a_jar_that_is_not_ours_is_not_run() {
    drop(Kafka::start().await.unwrap());
    let dir = tempfile::TempDir::new().unwrap();
    let (script, jars) = checkout(dir.path());
    let jar = fs::read_dir(&jars).unwrap().next().unwrap().unwrap().path();
    let name = jar.file_name().unwrap().to_str().unwrap().to_owned();
    let original = fs::read(&jar).unwrap();
    let refused = |what: &str, file: &str| {
        // A port on which nobody answers: a class path that is taken gets that far.
        let output = Command::new(&script).args(["topics", "--port", "1", "none:1"]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            !output.status.success() && said.contains("SHA512SUMS") && said.contains(file),
            "{what}: {said}"
        );
        let data = dir.path().join("data");
        let output = Command::new(&script).arg("start").arg("--data").arg(&data).output().unwrap();
        assert!(!output.status.success() && !data.exists(), "{what}");
    };
    fs::remove_file(&jar).unwrap();
    refused("missing", &name);
    let mut changed = original.clone();
    *changed.last_mut().unwrap() ^= 1;
    fs::write(&jar, changed).unwrap();
    refused("changed", &name);
    fs::write(&jar, original).unwrap();
    fs::write(jars.join("zz-more.jar"), b"").unwrap();
    refused("one too many", "zz-more.jar");
}
