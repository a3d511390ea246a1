//! Attacks on a real process: its memory stays under its bound, and who behaves is served. How many requests that are,
//! and how fast, the bench says (`bench --only attack`).

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::{
    process::{Collector, head},
    service::{WRITE_KEY, eventually},
};

const GOOD: &str = r#"{"type":"event","name":"test","visitor_id":"v"}"#;
const CLOSED: &str = "millrace_collector_connections_closed_for_room_total";
/// What somebody who behaves waits for at most, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection from one of the many addresses that a machine has to itself.
async fn from(address: &str, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::new(address.parse::<IpAddr>().unwrap(), 0))?;
    socket.connect(to).await
}

const GZIPPED: &str = "content-encoding: gzip\r\n";

async fn post(from_address: &str, to: SocketAddr, headers: &str, body: &[u8]) -> u16 {
    post_to("/v1/collect", from_address, to, headers, body).await
}

/// Sends over a connection of its own; the status, or 0 when there is none in time.
async fn post_to(path: &str, from_address: &str, to: SocketAddr, headers: &str, body: &[u8]) -> u16 {
    let send = async {
        let mut stream = from(from_address, to).await?;
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        // An answer can come before everything is sent.
        let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer[9..]).parse().unwrap())
    };
    tokio::time::timeout(PATIENCE, send).await.map_or(0, |status| status.unwrap_or(0))
}

async fn honest(collector: &Collector, body: &[u8]) -> u16 {
    post("127.0.0.1", collector.address(), &format!("x-write-key: {WRITE_KEY}\r\n"), body).await
}

/// A body of so many bytes at least.
fn large(bytes: usize) -> Vec<u8> {
    let event = format!(r#"{{"type":"event","name":"test","label":"{}"}}"#, "x".repeat(4_000));
    let count = bytes.div_ceil(event.len() + 1);
    format!("[{}]", vec![event; count].join(",")).into_bytes()
}

#[tokio::test]
async fn whoever_takes_all_connections_keeps_nobody_out() {
    let collector = Collector::start(&["--connections-max=40".into()]).await;
    let to = collector.address();
    // One address holds them all: idle, in the middle of a head, in the middle of a body.
    let starts = [String::new(), "POST /v1/collect HTT".into(), head(100) + "["];
    let mut held = Vec::new();
    for start in starts.iter().cycle().take(120) {
        let mut stream = from("127.0.0.2", to).await.unwrap();
        stream.write_all(start.as_bytes()).await.unwrap();
        held.push(stream);
    }
    for _ in 0..20 {
        assert_eq!(honest(&collector, GOOD.as_bytes()).await, 202);
    }
    collector.has_metric(CLOSED, 80.0).await;
    // A connection that behaves is not the one that is closed, though it is the oldest by now.
    let mut mine = from("127.0.0.1", to).await.unwrap();
    let whole = head(GOOD.len()) + GOOD;
    for round in 0..3 {
        for _ in 0..60 {
            held.push(from("127.0.0.2", to).await.unwrap());
        }
        mine.write_all(whole.as_bytes()).await.unwrap();
        let mut answer = [0; 4096];
        let read = tokio::time::timeout(PATIENCE, mine.read(&mut answer)).await.unwrap().unwrap();
        assert!(answer[..read].starts_with(b"HTTP/1.1 202"), "{round}");
    }
    drop(held);
    // Many addresses hold one each.
    let mut held = Vec::new();
    for number in 0..120 {
        held.push(from(&format!("127.0.1.{number}"), to).await.unwrap());
        if number % 10 == 9 {
            assert_eq!(honest(&collector, GOOD.as_bytes()).await, 202);
        }
    }
}

#[tokio::test]
async fn who_comes_while_all_are_busy_is_served_when_they_are_not() {
    let settings = ["--connections-max=1", "--head-timeout-ms=300000"].map(String::from);
    let collector = Collector::start(&settings).await;
    let whole = head(GOOD.len()) + GOOD;
    let mut held = Vec::new();
    for round in 0..50 {
        for _ in 0..2 {
            let mut stream = TcpStream::connect(collector.address()).await.unwrap();
            stream.write_all(whole.as_bytes()).await.unwrap();
            held.push(stream);
        }
        let mut answer = [0; 12];
        let answered = held.last_mut().unwrap().read_exact(&mut answer);
        tokio::time::timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("{round}")).unwrap();
        assert_eq!(&answer, b"HTTP/1.1 202");
    }
}

#[tokio::test]
async fn bodies_that_are_announced_or_held_back_take_no_memory_from_others() {
    let settings = ["--bodies-bytes-max=16777216", "--body-timeout-ms=300000"].map(String::from);
    let collector = Collector::start(&settings).await;
    let (to, mib) = (collector.address(), 1 << 20);
    let take = async |bytes: usize| {
        let taken = async || collector.metric("millrace_collector_bodies_bytes").await == bytes as f64;
        eventually("bodies take so much memory", taken).await;
    };
    let mut held = Vec::new();
    for sent in [0, 10_000, 17_000] {
        for _ in 0..32 {
            let mut stream = from("127.0.0.2", to).await.unwrap();
            stream.write_all((head(mib) + &" ".repeat(sent)).as_bytes()).await.unwrap();
            held.push(stream);
        }
    }
    // What was announced takes nothing, nor do the first bytes; what is beyond them takes a step of 64 KiB.
    take(32 * (64 << 10)).await;
    // Bodies that are there but for their last byte: an address has room for two of them, an eighth of the whole.
    let mut own = Vec::new();
    for _ in 0..2 {
        let mut stream = from("127.0.0.3", to).await.unwrap();
        stream.write_all((head(mib) + &" ".repeat(mib - 1)).as_bytes()).await.unwrap();
        own.push(stream);
    }
    take(32 * (64 << 10) + 2 * mib).await;
    let key = format!("x-write-key: {WRITE_KEY}\r\n");
    for _ in 0..2 {
        assert_eq!(post("127.0.0.3", to, &key, &vec![b' '; mib]).await, 503);
    }
    // The others are served, and so are those two: what they are refused for is what they hold.
    for _ in 0..3 {
        assert_eq!(honest(&collector, &large(900_000)).await, 202);
    }
    for mut stream in own {
        stream.write_all(b" ").await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 400");
    }
    take(32 * (64 << 10)).await;
    // Who hangs up gives everything back.
    drop(held);
    take(0).await;
}

#[tokio::test]
async fn refused_bodies_take_no_memory_and_keep_nobody_out() {
    let settings = ["--connections-max=40", "--body-timeout-ms=300000"].map(String::from);
    let collector = Collector::start(&settings).await;
    let (to, mib) = (collector.address(), 1 << 20);
    assert_eq!(honest(&collector, GOOD.as_bytes()).await, 202);
    // Held back: too large, for nobody's key, and where none belongs.
    let announced = head(4 * mib);
    let starts = [
        announced.clone(),
        announced.replace(WRITE_KEY, "nobodys"),
        announced.replace("POST /v1/collect?", "GET /v1/pixel.gif?type=event&name=a&"),
    ];
    let mut held = Vec::new();
    for start in starts {
        for _ in 0..60 {
            let mut stream = from("127.0.0.2", to).await.unwrap();
            stream.write_all((start.clone() + &" ".repeat(10_000)).as_bytes()).await.unwrap();
            held.push(stream);
        }
        for _ in 0..10 {
            assert_eq!(honest(&collector, GOOD.as_bytes()).await, 202, "{start}");
        }
    }
    collector.has_metric(CLOSED, 140.0).await;
    drop(held);
    // Sent as fast as they are taken.
    let before = collector.rss_peak();
    let key = format!("x-write-key: {WRITE_KEY}\r\n");
    let body: Arc<[u8]> = vec![b' '; 4 * mib].into();
    let mut senders = tokio::task::JoinSet::new();
    for number in 0..16 {
        let (key, body) = (key.clone(), Arc::clone(&body));
        senders.spawn(async move {
            for _ in 0..4 {
                assert_eq!(post(&format!("127.0.2.{number}"), to, &key, &body).await, 413);
            }
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended.unwrap();
    }
    let grown = collector.rss_peak() - before;
    assert!(grown < 24 << 20, "{} KiB", grown >> 10);
}

#[tokio::test]
async fn answers_that_nobody_reads_end_the_connection() {
    let collector = Collector::start(&["--write-timeout-ms=300".into()]).await;
    let mut stream = TcpStream::connect(collector.address()).await.unwrap();
    let requests = "GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n".repeat(100);
    // The kernel holds some megabytes for both sides; then the collector can write no more, reads no more, and hangs up.
    let until_it_hangs_up = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, until_it_hangs_up).await.unwrap();
    assert_eq!(honest(&collector, GOOD.as_bytes()).await, 202);
}

#[tokio::test]
async fn floods_over_a_rate_and_unknown_keys_leave_no_trace_in_memory() {
    let settings = ["--client-requests-per-second=200", "--trusted-proxies=127.0.0.9/32"].map(String::from);
    let collector = Collector::start(&settings).await;
    let flood = async |headers: &(dyn Fn(usize) -> String + Sync), requests: usize, address: &str| {
        let mut stream = from(address, collector.address()).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let write = async {
            for number in 0..requests {
                let head = "GET /v1/pixel.gif?type=event&name=a&";
                let headers = headers(number);
                let close = if number + 1 == requests { "\r\nconnection: close" } else { "" };
                writer.write_all(format!("{head}{headers}{close}\r\n\r\n").as_bytes()).await.unwrap();
            }
        };
        let mut answers = Vec::new();
        let read = async { reader.read_to_end(&mut answers).await.unwrap() };
        tokio::join!(write, read);
        let text = String::from_utf8_lossy(&answers).into_owned();
        let count = |status: &str| text.matches(&format!("HTTP/1.1 {status}")).count();
        (count("200"), count("401"), count("429"))
    };
    // The rules for user agents are there once one has been read: they are no trace of anybody.
    let browser =
        format!("x-write-key: {WRITE_KEY}\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64) Firefox/140.0\r\n");
    assert_eq!(post("127.0.0.1", collector.address(), &browser, GOOD.as_bytes()).await, 202);
    let before = collector.rss_peak();
    // One address over its rate.
    let one = |_| format!("key={WRITE_KEY} HTTP/1.1\r\nhost: a");
    let (ok, _, limited) = flood(&one, 5_000, "127.0.0.2").await;
    assert!(limited > 1_000 && ok >= 200 && ok + limited == 5_000, "{ok} {limited}");
    // A store over its rate, from addresses that a trusted proxy names.
    let slow = |number: usize| {
        format!(
            "key=slow-write-key HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.{}.{}.1",
            number >> 8 & 255,
            number & 255
        )
    };
    let (ok, _, limited) = flood(&slow, 2_000, "127.0.0.9").await;
    assert!(ok <= 600 && limited >= 1_400, "{ok} {limited}");
    // Unknown keys, each another, from addresses each another.
    let unknown = |number: usize| {
        let (high, low) = (number >> 8 & 255, number & 255);
        format!("key={number:0>200} HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 11.{}.{high}.{low}", number >> 16)
    };
    let (_, unknown, limited) = flood(&unknown, 100_000, "127.0.0.9").await;
    assert_eq!((unknown, limited), (100_000, 0));
    assert_eq!(honest(&collector, GOOD.as_bytes()).await, 202);
    let grown = collector.rss_peak() - before;
    assert!(grown < 24 << 20, "{} KiB", grown >> 10);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Every attack at once; the bound is the one that the configuration promises.
#[tokio::test]
async fn memory_stays_under_its_bound_and_who_behaves_is_served() {
    const MIB: u64 = 1 << 20;
    let (connections, bodies, unlogged) = (400, 32 * MIB, 16 * MIB);
    let settings = [
        format!("--connections-max={connections}"),
        format!("--bodies-bytes-max={bodies}"),
        format!("--unlogged-bytes-max={unlogged}"),
    ];
    let collector = Collector::start(&settings).await;
    let to = collector.address();
    let key = format!("x-write-key: {WRITE_KEY}\r\n");
    // Eight megabytes of numbers: what a parser makes of them is larger still. A context that every event gets.
    let numbers = format!("[{}1]", "1,".repeat(4 << 20));
    let bomb = gzip(&[numbers.as_bytes(), &vec![b' '; 100 << 10]].concat());
    let context: String = (0..7).map(|number| format!(r#""k{number}":"{}","#, "y".repeat(8_000))).collect();
    let events = vec![GOOD; 450].join(",");
    let huge = format!(r#"{{"context":{{"properties":{{{context}"z":1}}}},"events":[{events}]}}"#);
    let deep = "[".repeat(900_000);
    let heads = format!("GET /healthz HTTP/1.1\r\nx: {}", "y".repeat(31 << 10));
    let gzipped = format!("{key}content-encoding: gzip\r\n");
    let attacks: [(&str, Vec<u8>); 4] =
        [(&gzipped, bomb), (&key, huge.into_bytes()), (&key, deep.into_bytes()), (&key, vec![b' '; 1 << 20])];
    let stop = Arc::<AtomicBool>::default();
    let mut attackers = tokio::task::JoinSet::new();
    for (number, (headers, body)) in attacks.iter().cycle().take(32).cloned().enumerate() {
        let (headers, stop) = (headers.to_owned(), Arc::clone(&stop));
        attackers.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                post(&format!("127.0.2.{number}"), to, &headers, &body).await;
            }
        });
    }
    for number in 0..8 {
        let (heads, stop) = (heads.clone(), Arc::clone(&stop));
        attackers.spawn(async move {
            let mut held = std::collections::VecDeque::new();
            while !stop.load(Ordering::Relaxed) {
                if let Ok(mut stream) = from(&format!("127.0.3.{number}"), to).await {
                    let start =
                        if held.len() % 2 == 0 { heads.clone() } else { head(16_000) + &" ".repeat(15_000) };
                    let _ = stream.write_all(start.as_bytes()).await;
                    held.push_back(stream);
                }
                if held.len() > 200 {
                    held.pop_front();
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    let (start, mut served, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    while served < 100 || start.elapsed() < Duration::from_secs(3) {
        let start = Instant::now();
        assert_eq!(honest(&collector, GOOD.as_bytes()).await, 202, "after {served}");
        slowest = slowest.max(start.elapsed());
        served += 1;
    }
    stop.store(true, Ordering::Relaxed);
    while attackers.join_next().await.is_some() {}
    let threads = std::thread::available_parallelism().unwrap().get() as u64;
    let bound = 64 * MIB + connections * (64 << 10) + bodies + unlogged + threads * 2 * 96 * MIB;
    let peak = collector.rss_peak();
    eprintln!("{served} served, the slowest after {slowest:?}; {} of {} MiB", peak / MIB, bound / MIB);
    assert!(peak < bound, "{} MiB of {} MiB", peak / MIB, bound / MIB);
}

/// Large bodies of somebody without a key take their half of the processors; small ones wait for none of them, in whatever
/// encoding they come.
#[tokio::test]
async fn small_bodies_wait_for_no_large_ones() {
    let collector = Collector::start(&[]).await;
    let to = collector.address();
    // It inflates to less than a hundred times its size: more is refused at once.
    let list = |key: &str, events: u64, repeats: usize| {
        let event = |number: u64| {
            let words =
                (1..20).map(|word| format!("{:x}", (20 * number + word).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let text = words.collect::<String>().repeat(repeats);
            format!(r#"{{"event":"a","anonymousId":"b","type":"track","properties":{{"c":"{text}"}}}}"#)
        };
        let events: Vec<_> = (1..=events).map(event).collect();
        gzip(format!(r#"{{"writeKey":"{key}","batch":[{}]}}"#, events.join(",")).as_bytes())
    };
    let large = list("made-up", 500, 16);
    // Once one of them has found no processor, they do stand in each other's way.
    let (stop, crowded) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let mut flood = tokio::task::JoinSet::new();
    for number in 0..48 {
        let (stop, crowded, large) = (Arc::clone(&stop), Arc::clone(&crowded), large.clone());
        flood.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let status = post_to("/v1/batch", &format!("127.0.2.{number}"), to, GZIPPED, &large).await;
                crowded.fetch_or(status == 503, Ordering::Relaxed);
            }
        });
    }
    let small = list(WRITE_KEY, 1, 10);
    let mut served = 0;
    while served < 20 || !crowded.load(Ordering::Relaxed) {
        assert_eq!(post_to("/v1/batch", "127.0.0.1", to, GZIPPED, &small).await, 200, "after {served}");
        served += 1;
        assert!(served < 100_000, "the large ones are too small to stand in each other's way");
    }
    stop.store(true, Ordering::Relaxed);
    flood.join_all().await;
}

/// What a hostile key may send that takes long, much, or others' places; each a body, and headers beside the key.
fn hostile_bodies() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    let event = |rest: &str| format!(r#"{{"type":"event","name":"test","visitor_id":"h"{rest}}}"#);
    let list = |count: usize, event: &dyn Fn(usize) -> String| {
        format!("[{}]", (0..count).map(event).collect::<Vec<_>>().join(",")).into_bytes()
    };
    let object = |count: usize, entry: &dyn Fn(usize) -> String| {
        format!(r#","properties":{{{}}}"#, (0..count).map(entry).collect::<Vec<_>>().join(","))
    };
    let page = |url: &str, rest: &str| {
        format!(r#"{{"type":"page_view","visitor_id":"h","url":"https://shop.example{url}"{rest}}}"#)
    };
    let deep = format!("{}1{}", r#"{"a":"#.repeat(50_000), "}".repeat(50_000));
    let bomb = gzip(&list(450, &|_| event(&format!(r#","label":"{}""#, "x".repeat(8_000)))));
    vec![
        ("arrays in arrays", "", "[".repeat(900_000).into_bytes()),
        ("objects in objects", "", deep.into_bytes()),
        ("a number of many digits", "", event(&format!(r#","value":{}"#, "9".repeat(60_000))).into_bytes()),
        ("numbers at the edge", "", list(500, &|n| event(&format!(r#","value":1e{}"#, 290 + n % 30)))),
        (
            "long names of properties",
            "",
            list(10, &|_| event(&object(100, &|n| format!(r#""{n}{}":1"#, "n".repeat(400))))),
        ),
        (
            "a name of 60 kB",
            "",
            event(&object(1, &|_| format!(r#""{}":1"#, "n".repeat(60_000)))).into_bytes(),
        ),
        ("a key a thousand times", "", event(&object(1_000, &|_| r#""a":1"#.to_owned())).into_bytes()),
        ("many names", "", list(200, &|n| event(&object(100, &|m| format!(r#""{n}.{m}":1"#))))),
        ("a body that inflates", "content-encoding: gzip\r\n", bomb),
        (
            "many visitors",
            "",
            list(500, &|n| event("").replace(r#""h""#, &format!(r#""{n}{}""#, uuid::Uuid::now_v7()))),
        ),
        ("one visitor in a hurry", "", list(500, &|_| event(""))),
        ("addresses of many segments", "", list(200, &|_| page(&"/a1b2c3d".repeat(500), ""))),
        (
            "addresses of many parameters",
            "",
            list(200, &|_| page(&format!("/?{}", "q=/orders/a1b2c3d4e5f6&".repeat(150)), "")),
        ),
        (
            "titles of long words",
            "",
            list(100, &|_| page("/", &format!(r#","title":"{}""#, "aB3-".repeat(2_000)))),
        ),
        (
            "large events",
            "",
            list(15, &|_| event(&object(7, &|n| format!(r#""p{n}":"{}""#, "x".repeat(8_000))))),
        ),
        ("a small event", "", event("").into_bytes()),
    ]
}

/// Every way at once in which one key could cost another its events: decoders, maps, memory, the spool, rates, the table
/// of visitors' rates. The honest one is served each time, is nobody's bot, and loses nothing.
#[tokio::test]
async fn a_hostile_key_costs_an_honest_one_nothing() {
    const BROWSER: &str =
        "user-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n";
    let settings = ["--spool-bytes-max=16777216", "--unlogged-bytes-max=8388608"].map(String::from);
    let collector = Collector::start(&settings).await;
    let to = collector.address();
    let stop = Arc::<AtomicBool>::default();
    let mut attackers = tokio::task::JoinSet::new();
    let bodies: Vec<(_, Arc<str>, Arc<[u8]>)> = hostile_bodies()
        .into_iter()
        .map(|(name, headers, body)| {
            (name, format!("x-write-key: wide-write-key\r\n{headers}").into(), body.into())
        })
        .collect();
    for (number, (_, headers, body)) in bodies.iter().cycle().take(2 * bodies.len()).cloned().enumerate() {
        let stop = Arc::clone(&stop);
        attackers.spawn(async move {
            let mut seen = std::collections::BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                seen.insert(post(&format!("127.0.2.{number}"), to, &headers, &body).await);
            }
            (number, seen)
        });
    }
    let honest = async |number: usize, ids: &mut Vec<String>| {
        let id = uuid::Uuid::now_v7().to_string();
        let body = format!(
            r#"{{"type":"event","name":"test","visitor_id":"honest-{number}","event_id":"{id}","label":"{}"}}"#,
            "x".repeat(200)
        );
        let headers = format!("x-write-key: strict-write-key\r\n{BROWSER}");
        let status = post("127.0.0.1", to, &headers, body.as_bytes()).await;
        assert_eq!(status, 202, "after {}", ids.len());
        ids.push(id);
    };
    let (start, mut ids) = (Instant::now(), Vec::new());
    // Until the hostile one has met the bound of its share, six megabytes, and then on.
    let share = "millrace_collector_spool_store_bytes_max";
    while collector.metric(share).await < 5.5e6 {
        assert!(start.elapsed() < PATIENCE * 4, "the hostile key does not come to its share");
        honest(ids.len() % 7, &mut ids).await;
    }
    for _ in 0..60 {
        honest(ids.len() % 7, &mut ids).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut seen = std::collections::BTreeMap::<_, std::collections::BTreeSet<u16>>::new();
    while let Some(attacker) = attackers.join_next().await {
        let (number, statuses) = attacker.unwrap();
        seen.entry(bodies[number % bodies.len()].0).or_default().extend(statuses);
    }
    eprintln!("{} of the honest key; {seen:?}", ids.len());
    // Nothing that it sends is an error of ours.
    assert!(seen.values().flatten().all(|status| *status != 500), "{seen:?}");
    // It has met its share; who of its senders had a turn since is the machine's to say.
    assert!(seen.values().flatten().any(|status| *status == 429), "{seen:?}");
    let rows = crate::service::records(&collector.spool(millrace_schemas::topic::EVENTS));
    let own: Vec<serde_json::Value> = rows
        .iter()
        .filter(|(key, _)| key.starts_with("strict:"))
        .flat_map(|(_, value)| value.lines())
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let stored: Vec<_> = own.iter().map(|row| row["event_id"].as_str().unwrap()).collect();
    assert_eq!(stored, ids, "all of it, in order");
    assert!(own.iter().all(|row| row["is_bot"].is_null()), "{own:?}");
}
