//! The collector under attack: what clients who behave get before and during each attack, and what it costs in memory.
//!
//! Clients who behave send single events at a steady rate, over connections that they open when the attack is under way.
//! Attackers are on the same machine and take their share of its processors, so a real collector stands at least this.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, LazyLock, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use millrace_schemas::demo;
use millrace_testbed::Postgres;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use super::{Progress, Sizes, collector::make_store};
use crate::{
    event::Mix,
    load::{Load, Plan, Summary, read_answer},
    process,
    service::Service,
    table::thousands,
    watch::mib,
};

/// Lines of the section.
pub const MEASUREMENTS: u64 = ATTACKS.len() as u64;

/// Connections of those who behave.
const HONEST_CONNECTIONS: usize = 64;
/// An attacker's connection that was closed is opened again after this.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// How an attacker's connection behaves.
#[derive(Clone, Copy)]
enum Manner {
    /// Sends this much, and then a byte a second.
    Holds(fn() -> Vec<u8>),
    /// One request after the other.
    Sends(fn(u64) -> Vec<u8>),
    /// Requests without end, and no answer is read.
    NeverReads(fn(u64) -> Vec<u8>),
}

struct Attack {
    name: &'static str,
    connections: usize,
    /// From one address, or from an address for each connection.
    is_one_address: bool,
    manner: Manner,
}

static ATTACKS: [Attack; 10] = [
    Attack {
        name: "idle connections of one address",
        connections: 9_000,
        is_one_address: true,
        manner: Manner::Holds(Vec::new),
    },
    Attack {
        name: "idle connections, each of another address",
        connections: 9_000,
        is_one_address: false,
        manner: Manner::Holds(Vec::new),
    },
    Attack {
        name: "slow heads of 30 KiB",
        connections: 4_000,
        is_one_address: false,
        manner: Manner::Holds(|| format!("GET /healthz HTTP/1.1\r\nx: {}", "y".repeat(30 << 10)).into()),
    },
    Attack {
        name: "slow bodies of 1 MiB, 100 KiB of it sent",
        connections: 1_000,
        is_one_address: false,
        manner: Manner::Holds(|| [head("", 1 << 20), vec![b' '; 100 << 10]].concat()),
    },
    Attack {
        name: "flood of one address over its rate",
        connections: 64,
        is_one_address: true,
        manner: Manner::Sends(|_| [head("", EVENT.len()), EVENT.into()].concat()),
    },
    Attack {
        name: "unknown keys, through a proxy, each of another address",
        connections: 64,
        is_one_address: true,
        manner: Manner::Sends(|number| {
            let [_, a, b, c] = (number as u32).to_be_bytes();
            let head = format!(
                "POST /v1/collect?key={number:x} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.{a}.{b}.{c}\r\n\
                 content-length: {}\r\n\r\n{EVENT}",
                EVENT.len()
            );
            head.into()
        }),
    },
    Attack {
        name: "heads of 30 KiB in 90 headers",
        connections: 64,
        is_one_address: false,
        manner: Manner::Sends(|_| {
            let header = |number| format!("x-{number}: {}\r\n", "y".repeat(330));
            format!("GET /healthz HTTP/1.1\r\n{}\r\n", (0..90).map(header).collect::<String>()).into()
        }),
    },
    Attack {
        name: "compression bombs: 84 KB that inflate to 8 MiB of numbers",
        connections: 64,
        is_one_address: false,
        manner: Manner::Sends(|_| {
            static BOMB: LazyLock<Vec<u8>> = LazyLock::new(bomb);
            [head("content-encoding: gzip\r\n", BOMB.len()), BOMB.clone()].concat()
        }),
    },
    Attack {
        name: "huge batches: a context of 48 KiB for 300 events",
        connections: 32,
        is_one_address: false,
        manner: Manner::Sends(|_| {
            let context: Vec<String> =
                (0..6).map(|number| format!(r#""k{number}":"{}""#, "y".repeat(8_000))).collect();
            let events = vec![EVENT; 300].join(",");
            let context = context.join(",");
            let body = format!(r#"{{"context":{{"properties":{{{context}}}}},"events":[{events}]}}"#);
            [head("", body.len()), body.into()].concat()
        }),
    },
    Attack {
        name: "answers that are never read",
        connections: 256,
        is_one_address: false,
        manner: Manner::NeverReads(|_| "GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(50).into()),
    },
];

const EVENT: &str = r#"{"type":"event","name":"attack","visitor_id":"a"}"#;

fn head(headers: &str, body_bytes: usize) -> Vec<u8> {
    format!(
        "POST /v1/collect?key={} HTTP/1.1\r\nhost: a\r\ncontent-length: {body_bytes}\r\n{headers}\r\n",
        demo::WRITE_KEY
    )
    .into()
}

/// As much as the collector lets a body inflate: a hundredfold, to eight megabytes.
fn bomb() -> Vec<u8> {
    let mut noise = 1_u64;
    let mut noise = || {
        noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{:08x}", noise >> 32)
    };
    let noise: String = (0..20_000).map(|_| noise()).collect();
    let json = format!("[{}\"{noise}\"]", "1,".repeat((8 << 20) / 2 - 90_000));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    // Memory takes everything.
    let _ = encoder.write_all(json.as_bytes());
    encoder.finish().unwrap_or_default()
}

/// One line of the report.
struct Stood {
    name: &'static str,
    before: Summary,
    during: Summary,
    attackers: BTreeMap<String, u64>,
    attacked_for: Duration,
    rss_peak: u64,
}

/// Measures every attack; a table in Markdown.
pub async fn measure(sizes: &Sizes, rate: f64, progress: &Progress) -> anyhow::Result<String> {
    let database = Postgres::start().await?;
    make_store(database.url()).await?;
    let mut lines = Vec::new();
    for attack in &ATTACKS {
        progress.now(format!("under attack: {}", attack.name));
        lines.push(stand(attack, sizes, rate, database.url()).await.with_context(|| attack.name)?);
        progress.inc();
    }
    Ok(render(&lines, rate))
}

async fn stand(
    attack: &'static Attack,
    sizes: &Sizes,
    rate: f64,
    postgres_url: &str,
) -> anyhow::Result<Stood> {
    let spool = tempfile::tempdir_in(&sizes.data_dir)?;
    let settings = [
        ("postgres-url", postgres_url.to_owned()),
        ("log", "spool".into()),
        ("spool-dir", spool.path().display().to_string()),
        // The flood of one address is over its rate, and those who behave are far below.
        ("client-requests-per-second", (2 * rate as u32).to_string()),
        ("trusted-proxies", "127.0.0.2/32".into()),
    ];
    let settings = &settings[..settings.len() - usize::from(!attack.is_through_proxy())];
    let mut collector = Service::start("millrace-collector", &["address", "metrics-address"], settings)?;
    collector.await_answer(0, "/readyz").await?;
    let before = honest(&collector, sizes, rate).await?;
    let address = collector.url(0);
    let address: SocketAddr = address.trim_start_matches("http://").parse()?;
    let attackers = Attackers::start(attack, address)?;
    let began = Instant::now();
    tokio::time::sleep(sizes.warm_up.max(Duration::from_millis(200))).await;
    let during = honest(&collector, sizes, rate).await?;
    let attacked_for = began.elapsed();
    let attackers = tokio::task::spawn_blocking(|| attackers.stop()).await??;
    let rss_peak = process::rss_peak(collector.id())?;
    collector.stop().await?;
    Ok(Stood { name: attack.name, before, during, attackers, attacked_for, rss_peak })
}

/// Those who behave.
async fn honest(collector: &Service, sizes: &Sizes, rate: f64) -> anyhow::Result<Summary> {
    let plan = Plan {
        url: format!("{}/v1/collect", collector.url(0)),
        key: demo::WRITE_KEY.into(),
        rate: Some(rate),
        mix: Mix { events: 1, clicks_percent: 0 },
        connections: HONEST_CONNECTIONS,
        threads: 1,
        duration: sizes.load,
        seed: 1,
    };
    let load = Load::start(&plan)?;
    tokio::task::spawn_blocking(|| load.join()).await?
}

impl Attack {
    fn is_through_proxy(&self) -> bool {
        self.name.contains("proxy")
    }
}

/// What attackers were told: a status, or that their connection was closed.
type Told = Arc<Mutex<BTreeMap<String, u64>>>;

/// Attackers at work, on a thread of their own.
struct Attackers {
    stop: Arc<AtomicBool>,
    told: Told,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Attackers {
    fn start(attack: &'static Attack, to: SocketAddr) -> anyhow::Result<Self> {
        let (stop, told) = (Arc::<AtomicBool>::default(), Told::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stopped, tells) = (Arc::clone(&stop), Arc::clone(&told));
        let attack_all = async move {
            let mut tasks = tokio::task::JoinSet::new();
            for number in 0..attack.connections {
                let (stop, told) = (Arc::clone(&stopped), Arc::clone(&tells));
                tasks.spawn(async move {
                    let mut sent = number as u64;
                    while !stop.load(Ordering::Relaxed) {
                        let ended = over_one_connection(attack, number, to, &mut sent, &stop, &told).await;
                        if ended.is_err() {
                            tell(&told, "closed");
                        }
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                });
            }
            while !stopped.load(Ordering::Relaxed) {
                tokio::time::sleep(AGAIN_AFTER).await;
            }
            tasks.shutdown().await;
            Ok(())
        };
        let thread =
            std::thread::Builder::new().name("attack".into()).spawn(move || runtime.block_on(attack_all))?;
        Ok(Self { stop, told, thread })
    }

    fn stop(self) -> anyhow::Result<BTreeMap<String, u64>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the attackers panicked"))??;
        Ok(std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn tell(told: &Told, what: impl Into<String>) {
    *told.lock().unwrap_or_else(PoisonError::into_inner).entry(what.into()).or_default() += 1;
}

async fn over_one_connection(
    attack: &Attack,
    number: usize,
    to: SocketAddr,
    sent: &mut u64,
    stop: &AtomicBool,
    told: &Told,
) -> anyhow::Result<()> {
    let from = match attack.is_one_address {
        true => Ipv4Addr::new(127, 0, 0, 2),
        false => Ipv4Addr::from_bits(0x7f01_0000 + number as u32 + 1),
    };
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0))?;
    let mut stream = socket.connect(to).await?;
    match attack.manner {
        Manner::Holds(start) => {
            stream.write_all(&start()).await?;
            let mut answer = [0; 4096];
            loop {
                tokio::select! {
                    read = stream.read(&mut answer) => {
                        anyhow::ensure!(read? == 0, "it was answered");
                        anyhow::bail!("it was closed");
                    }
                    () = tokio::time::sleep(Duration::from_secs(1)) => {
                        if !start().is_empty() {
                            stream.write_all(b" ").await?;
                        }
                    }
                }
            }
        }
        Manner::Sends(request) => {
            while !stop.load(Ordering::Relaxed) {
                let request = request(*sent);
                *sent += attack.connections as u64;
                // An answer can come before everything is sent.
                let _ = stream.write_all(&request).await;
                if !answered(&mut stream, told).await? {
                    break;
                }
            }
            Ok(())
        }
        Manner::NeverReads(request) => loop {
            stream.write_all(&request(*sent)).await?;
        },
    }
}

/// Reads an answer and notes its status; whether the connection can be used again.
async fn answered(stream: &mut TcpStream, told: &Told) -> anyhow::Result<bool> {
    let mut bytes = Vec::with_capacity(4096);
    loop {
        if let Some(answer) = read_answer(&bytes)? {
            tell(told, answer.status.to_string());
            return Ok(answer.keeps_alive);
        }
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "it was closed");
    }
}

fn render(lines: &[Stood], rate: f64) -> String {
    let mut text = format!(
        "| under attack ({} requests/s offered by those who behave) | 202/s before | 202/s during | p99 before, ms | \
         p99 during, ms | not 202 during | attackers were told, /s | peak RSS, MiB |\n\
         |---|---:|---:|---:|---:|---:|---|---:|\n",
        thousands(rate)
    );
    for line in lines {
        let served = |summary: &Summary| {
            let count = summary.statuses.get(&202).copied().unwrap_or(0);
            thousands(count as f64 / summary.wall.as_secs_f64())
        };
        let p99 =
            |summary: &Summary| format!("{:.1}", summary.latency_us.value_at_quantile(0.99) as f64 / 1000.0);
        let during = &line.during;
        let refused = during.requests - during.statuses.get(&202).copied().unwrap_or(0) + during.broken;
        let seconds = line.attacked_for.as_secs_f64();
        let told: Vec<String> = line
            .attackers
            .iter()
            .map(|(what, count)| format!("{what}: {}", thousands(*count as f64 / seconds)))
            .collect();
        let told = if told.is_empty() { "nothing".to_owned() } else { told.join(", ") };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {refused} | {told} | {} |",
            line.name,
            served(&line.before),
            served(during),
            p99(&line.before),
            p99(during),
            mib(line.rss_peak),
        );
    }
    text
}
