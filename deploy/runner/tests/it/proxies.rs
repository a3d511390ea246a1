//! The collector below a shop's own host, through the proxies that `docs/same-origin.md` describes: the real nginx, the
//! real Caddy, and Cloudflare's own runtime for workers.
//!
//! All of 127.0.0.0/8 is this machine, so visitors have addresses of their own: the proxies reach the collector from
//! 127.0.0.1, which alone is trusted.

use std::{
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use millrace_local::process::{Process, Signal, bound};
use millrace_testbed::Port;
use reqwest::{
    Client, StatusCode,
    header::{CONTENT_ENCODING, ETAG, IF_NONE_MATCH, RETRY_AFTER},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
};

use crate::pipeline::{OneMachine, start};

const PATIENCE: Duration = Duration::from_secs(120);
const WRITE_KEY: &str = "demo-write-key";
/// The address that the files in `deploy/proxy` have for the collector.
const COLLECTOR: &str = "127.0.0.1:8080";
const ANNA: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 1, 5));
const BERND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 2, 5));
/// An address that nobody here has.
const FORGED: &str = "203.0.113.9";
const USER_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0";
/// A page that lets nothing but its own host do anything.
const PAGE: &str =
    "<!doctype html><title>Shop</title><script async src=/m/t.js data-key=demo-write-key></script>";
const POLICY: &str = "default-src 'none'; script-src 'self'; connect-src 'self'";

/// A proxy with a collector behind it, and with one that knows no store and lets an address ask once in a second.
struct Proxied {
    name: &'static str,
    good: String,
    closed: String,
    _process: Process,
    _ports: [Port; 2],
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// A configuration of `deploy/proxy`, for a collector elsewhere.
fn configuration(file: &str, collector: &str) -> String {
    let text = std::fs::read_to_string(repository("deploy/proxy").join(file)).unwrap();
    assert!(text.contains(COLLECTOR), "{file} names the collector's address");
    text.replace(COLLECTOR, collector)
}

/// A proxy's program: the system's, or the one that `deps.sh` has unpacked.
fn proxy_program(name: &str, dir: &str) -> PathBuf {
    let unpacked = repository(".tools/proxies").join(dir).join(name);
    if unpacked.exists() { unpacked } else { name.into() }
}

impl Proxied {
    /// Starts it and waits until it answers for both collectors.
    async fn start(
        name: &'static str,
        command: std::process::Command,
        ports: [Port; 2],
        dir: &Path,
    ) -> Proxied {
        let mut command = command;
        let log = std::fs::File::create(dir.join(format!("{name}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut process = Process::spawn(command).unwrap();
        let [good, closed] = ports.each_ref().map(|port| format!("http://127.0.0.1:{}", port.number()));
        let begin = Instant::now();
        for url in [&good, &closed] {
            while !reqwest::get(format!("{url}/m/healthz"))
                .await
                .is_ok_and(|answer| answer.status().is_success())
            {
                let said = || std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap();
                assert!(process.exited().unwrap().is_none(), "{name} ended: {}", said());
                assert!(begin.elapsed() < PATIENCE, "{name} does not answer: {}", said());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Proxied { name, good, closed, _process: process, _ports: ports }
    }

    async fn nginx(collectors: &[String; 2], dir: &Path) -> Proxied {
        let dir = dir.join("nginx");
        std::fs::create_dir(&dir).unwrap();
        let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let mut servers = String::new();
        for (index, (collector, port)) in collectors.iter().zip(&ports).enumerate() {
            let included = dir.join(format!("millrace-{index}.conf"));
            let upstream = format!("collector_{index}");
            std::fs::write(&included, configuration("nginx.conf", &upstream)).unwrap();
            // Connections are kept, so what one request leaves behind would meet the next.
            servers += &format!(
                "upstream {upstream} {{ server {collector}; keepalive 4; }}
                 server {{ listen 127.0.0.1:{port}; include {included};
                  location / {{
                    default_type text/html;
                    add_header Content-Security-Policy \"{POLICY}\";
                    return 200 '{PAGE}';
                  }} }}\n",
                port = port.number(),
                included = included.display()
            );
        }
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|path| format!("{path}_temp_path {}/{path};\n", dir.display()))
            .concat();
        let text = format!(
            "daemon off; master_process off; pid {dir}/pid; error_log stderr;
             events {{ worker_connections 256; }}
             http {{ access_log off; {paths} {servers} }}\n",
            dir = dir.display()
        );
        let file = dir.join("nginx.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = bound(Signal::KILL, proxy_program("nginx", "usr/sbin"));
        command.arg("-p").arg(&dir).arg("-c").arg(&file);
        Self::start("nginx", command, ports, &dir).await
    }

    async fn caddy(collectors: &[String; 2], dir: &Path) -> Proxied {
        let dir = dir.join("caddy");
        std::fs::create_dir(&dir).unwrap();
        let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let mut text = "{\n\tadmin off\n\tauto_https off\n}\n".to_owned();
        for (index, (collector, port)) in collectors.iter().zip(&ports).enumerate() {
            let included = dir.join(format!("millrace-{index}"));
            // Both in one file, so one needs another name.
            let snippet =
                configuration("Caddyfile", collector).replace("(millrace)", &format!("(millrace_{index})"));
            std::fs::write(&included, snippet).unwrap();
            text += &format!(
                "import {included}\nhttp://127.0.0.1:{port} {{\n\tbind 127.0.0.1\n\timport millrace_{index}\n}}\n",
                included = included.display(),
                port = port.number()
            );
        }
        let file = dir.join("Caddyfile");
        std::fs::write(&file, text).unwrap();
        let mut command = bound(Signal::KILL, proxy_program("caddy", "usr/bin"));
        command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
        for home in ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"] {
            command.env(home, &dir);
        }
        Self::start("caddy", command, ports, &dir).await
    }

    async fn worker(collectors: &[String; 2], dir: &Path) -> Proxied {
        let dir = dir.join("worker");
        std::fs::create_dir(&dir).unwrap();
        let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
        let (mut services, mut sockets) = (String::new(), String::new());
        for (index, (collector, port)) in collectors.iter().zip(&ports).enumerate() {
            services += &format!(
                "(name = \"worker{index}\", worker = (
                    modules = [(name = \"worker\", esModule = embed \"cloudflare-worker.js\")],
                    bindings = [(name = \"COLLECTOR\", text = \"http://{collector}\")],
                    compatibilityDate = \"2026-01-01\", globalOutbound = \"network\")),\n"
            );
            sockets += &format!(
                "(name = \"http{index}\", address = \"127.0.0.1:{}\", http = (), service = \"worker{index}\"),\n",
                port.number()
            );
        }
        let text = format!(
            "using Workerd = import \"/workerd/workerd.capnp\";
             const config :Workerd.Config = (
               services = [{services} (name = \"network\", network = (allow = [\"private\", \"public\"]))],
               sockets = [{sockets}]);\n"
        );
        let file = dir.join("config.capnp");
        std::fs::write(&file, text).unwrap();
        std::fs::copy(repository("deploy/proxy/cloudflare-worker.js"), dir.join("cloudflare-worker.js"))
            .unwrap();
        let program =
            "deploy/runner/tests/clients/worker/node_modules/@cloudflare/workerd-linux-64/bin/workerd";
        let mut command = bound(Signal::KILL, repository(program));
        command.arg("serve").arg(&file);
        Self::start("worker", command, ports, &dir).await
    }

    /// What visitors send with, through this proxy.
    async fn post(
        &self,
        url: &str,
        from: IpAddr,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> reqwest::Response {
        let client = Client::builder().no_proxy().local_address(from).user_agent(USER_AGENT).build().unwrap();
        let mut request = client.post(format!("{url}/m/v1/collect?key={WRITE_KEY}")).body(body);
        // Cloudflare's edge says who the visitor is, and lets nobody else say it.
        if self.name == "worker" {
            request = request.header("CF-Connecting-IP", from.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }
}

fn page_view(path: &str) -> Vec<u8> {
    json!({ "type": "page_view", "url": format!("https://shop.example/{path}") }).to_string().into_bytes()
}

/// Visitors of the pages below a path, by page; waits for so many.
async fn visitors(clickhouse: &str, below: &str, count: usize) -> Vec<(String, String)> {
    let sql = format!(
        "SELECT substring(path(url), {}), visitor_id FROM millrace.events FINAL
         WHERE path(url) LIKE '/{below}/%' ORDER BY 1 FORMAT JSONCompactEachRow",
        below.len() + 3
    );
    let begin = Instant::now();
    loop {
        let answer =
            Client::new().post(clickhouse).body(sql.clone()).send().await.unwrap().text().await.unwrap();
        let rows: Vec<(String, String)> = answer
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{answer}")))
            .collect();
        if rows.len() >= count {
            assert_eq!(rows.len(), count, "{rows:?}");
            return rows;
        }
        assert!(begin.elapsed() < PATIENCE, "{count} page views below {below}, so far {rows:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The snippet comes through as it is, once.
async fn snippet_passes(proxied: &Proxied, collector: &str) {
    let client = Client::builder().no_proxy().build().unwrap();
    let get = async |url: String, etag: Option<&str>| {
        let mut request = client.get(url);
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        request.send().await.unwrap()
    };
    let direct = get(format!("{collector}/t.js"), None).await;
    let through = get(format!("{}/m/t.js", proxied.good), None).await;
    assert_eq!((direct.status(), through.status()), (StatusCode::OK, StatusCode::OK));
    for header in ["etag", "cache-control", "content-type"] {
        assert!(direct.headers().contains_key(header), "{header}");
        assert_eq!(
            direct.headers().get(header),
            through.headers().get(header),
            "{header} through {}",
            proxied.name
        );
    }
    let etag = through.headers()[ETAG].to_str().unwrap().to_owned();
    assert_eq!(direct.bytes().await.unwrap(), through.bytes().await.unwrap());
    let again = get(format!("{}/m/t.js", proxied.good), Some(&etag)).await;
    assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "through {}", proxied.name);
    // Beside the prefix there is nothing of Millrace's.
    let beside = get(format!("{}/v1/collect", proxied.good), None).await.text().await.unwrap();
    assert!(!beside.contains("method_not_allowed"), "{beside}");
}

/// Bodies come through whole, compressed or not.
async fn bodies_pass(proxied: &Proxied) {
    let Proxied { name, good, .. } = proxied;
    // Digits that repeat seldom: what inflates a hundredfold is refused.
    let text = |n: u32| (0..200).map(|m: u32| (n * 7_919 + m * m * 31).to_string()).collect::<String>();
    let event = |n| json!({ "type": "event", "name": "many", "properties": { "n": n, "text": text(n) } });
    let many: Vec<_> = (0..400).map(event).collect();
    let many = Value::Array(many).to_string().into_bytes();
    let mut packed = GzEncoder::new(Vec::new(), Compression::default());
    packed.write_all(&many).unwrap();
    let packed = packed.finish().unwrap();
    let gzip = [(CONTENT_ENCODING.as_str(), "gzip")];
    for (headers, body) in [(&[][..], many), (&gzip[..], packed)] {
        let answer = proxied.post(good, ANNA, headers, body).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "through {name}");
        assert_eq!(
            answer.json::<Value>().await.unwrap(),
            json!({ "accepted": 400, "rejected": [], "repaired": [] })
        );
    }
}

/// Whoever is refused for now is told until when; and is refused alone.
async fn refusals_pass(proxied: &Proxied) {
    let Proxied { name, closed, .. } = proxied;
    // Together, so that they are more than one in a second on any machine.
    let flood =
        futures::future::join_all((0..40).map(|_| proxied.post(closed, ANNA, &[], page_view("x")))).await;
    let mut limited = 0;
    for answer in flood {
        let (status, wait) = (answer.status(), answer.headers().get(RETRY_AFTER).cloned());
        assert!(wait.is_some(), "{status} without a word of when, through {name}");
        assert!([429, 503].contains(&status.as_u16()), "{status} through {name}");
        limited += usize::from(status == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(limited > 0, "nobody was over the rate, through {name}");
    // Of whom no other proxy's test has heard.
    let quiet = IpAddr::from([127, 0, 3, u8::try_from(name.len()).unwrap() + name.as_bytes()[0]]);
    let other = proxied.post(closed, quiet, &[], page_view("x")).await;
    assert_eq!(other.status(), StatusCode::SERVICE_UNAVAILABLE, "another's flood, through {name}");
    assert_eq!(other.headers()[RETRY_AFTER], "2");
}

/// Whoever sends everything before looking for an answer gets it, and so does everybody else: a refused body breaks no
/// connection that the proxy keeps.
async fn large_bodies_are_refused(proxied: &Proxied) {
    let Proxied { name, good, .. } = proxied;
    // nginx refuses more itself.
    let large = vec![b' '; if *name == "nginx" { 2_000_000 } else { 5 << 20 }];
    let send = async |key: &str, from: IpAddr, body: &[u8]| {
        let to = good.strip_prefix("http://").unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let mut stream = socket.connect(to.parse().unwrap()).await.unwrap();
        let head = format!(
            "POST /m/v1/collect?key={key} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\
             cf-connecting-ip: {from}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
        String::from_utf8(answer).unwrap()
    };
    let refused = async |key: &str, wanted: &str, reason: &str| {
        for round in 0..20 {
            let answer = send(key, ANNA, &large).await;
            let is_right = answer.starts_with(wanted) && answer.contains(reason);
            assert!(is_right, "round {round} through {name}: {answer}");
        }
    };
    let accepted = async || {
        for round in 0..100 {
            let answer = send(WRITE_KEY, BERND, &page_view("beside")).await;
            assert!(answer.starts_with("HTTP/1.1 202"), "round {round} through {name}: {answer}");
        }
    };
    tokio::join!(
        refused(WRITE_KEY, "HTTP/1.1 413", "body_too_large"),
        refused("nobodys", "HTTP/1.1 401", "unknown_key"),
        accepted()
    );
}

/// Visitors are who they are without a proxy, whatever they say.
async fn addresses_pass(proxied: &Proxied, clickhouse: &str, direct: &[(String, String)]) {
    let Proxied { name, good, .. } = proxied;
    let bernds = BERND.to_string();
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let forged: [(&str, IpAddr, Headers<'_>); 4] = [
        ("anna", ANNA, &[]),
        ("bernd", BERND, &[]),
        (
            "forged",
            ANNA,
            &[("X-Forwarded-For", FORGED), ("Forwarded", "for=203.0.113.9"), ("X-Real-IP", FORGED)],
        ),
        ("forged-twice", ANNA, &[("X-Forwarded-For", FORGED), ("X-Forwarded-For", &bernds)]),
    ];
    for (page, from, headers) in forged {
        let answer = proxied.post(good, from, headers, page_view(&format!("{name}/{page}"))).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "{page} through {name}");
    }
    let seen = visitors(clickhouse, name, forged.len()).await;
    let of = |rows: &[(String, String)], page: &str| {
        let row = rows.iter().find(|(of, _)| of == page);
        row.unwrap_or_else(|| panic!("{page}: {rows:?}")).1.clone()
    };
    let (anna, bernd) = (of(direct, "anna"), of(direct, "bernd"));
    assert!(!anna.is_empty() && anna != bernd, "{direct:?}");
    assert_eq!(of(&seen, "bernd"), bernd, "through {name}");
    for page in ["anna", "forged", "forged-twice"] {
        assert_eq!(of(&seen, page), anna, "{page} through {name}");
    }
}

/// Chromium, on a page of the shop's host that lets nothing else through.
async fn a_page_measures_itself(proxied: &Proxied) {
    let folder = repository("deploy/runner/tests/clients/worker");
    let mut command = tokio::process::Command::new("node");
    command
        .args(["same-origin.mjs", &proxied.good])
        .current_dir(folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("the browser ends").unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{complained}");
    let said: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
    assert_eq!(said["wrong"], json!([]), "{said}");
    let answers = said["answers"].as_array().unwrap();
    let status = |path: &str| {
        let begins = format!("{}{path}", proxied.good);
        let found = answers.iter().find(|answer| answer["url"].as_str().unwrap().starts_with(&begins));
        found.unwrap_or_else(|| panic!("{path}: {said}"))["status"].as_u64().unwrap()
    };
    assert_eq!((status("/m/t.js"), status("/m/v1/collect")), (200, 202), "{said}");
}

#[tokio::test]
async fn a_shop_serves_millrace_below_its_own_host() {
    let machine = OneMachine::new();
    let trusted = ("MILLRACE_TRUSTED_PROXIES", "127.0.0.1/32".to_owned());
    let _running = machine.start_with(&[trusted]).await;
    let dir = TempDir::new().unwrap();
    let (port, metrics) = (Port::reserve().unwrap(), Port::reserve().unwrap());
    let arguments = [
        "--log=spool".into(),
        format!("--spool-dir={}", dir.path().join("spool").display()),
        // Nothing listens there, so it knows no store.
        "--postgres-url=postgres://millrace@127.0.0.1:1/millrace".into(),
        "--trusted-proxies=127.0.0.1/32".into(),
        "--client-requests-per-second=1".into(),
        format!("--address=127.0.0.1:{}", port.number()),
        format!("--metrics-address=127.0.0.1:{}", metrics.number()),
    ];
    let _closed = start("millrace-collector", &arguments, dir.path());
    let collectors = [machine.ports[0].number(), port.number()].map(|port| format!("127.0.0.1:{port}"));
    let clickhouse = machine.clickhouse_url();

    let collector = format!("http://{}", collectors[0]);
    for (page, from) in [("anna", ANNA), ("bernd", BERND)] {
        let client = Client::builder().no_proxy().local_address(from).user_agent(USER_AGENT).build().unwrap();
        let url = format!("{collector}/v1/collect?key={WRITE_KEY}");
        // Nobody between them and the collector: nobody is believed.
        let request =
            client.post(url).header("X-Forwarded-For", FORGED).body(page_view(&format!("direct/{page}")));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::ACCEPTED);
    }
    let direct = visitors(&clickhouse, "direct", 2).await;

    let nginx = Proxied::nginx(&collectors, dir.path()).await;
    let caddy = Proxied::caddy(&collectors, dir.path()).await;
    let worker = Proxied::worker(&collectors, dir.path()).await;
    for proxied in [&nginx, &caddy, &worker] {
        snippet_passes(proxied, &collector).await;
        bodies_pass(proxied).await;
        large_bodies_are_refused(proxied).await;
        refusals_pass(proxied).await;
        addresses_pass(proxied, &clickhouse, &direct).await;
    }
    a_page_measures_itself(&nginx).await;
}
