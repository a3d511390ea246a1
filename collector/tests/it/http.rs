//! What browsers, monitors and people without JavaScript ask for.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::service::{Service, eventually};

const GOOD: &str = r#"{"type":"event","name":"test"}"#;

#[tokio::test]
async fn pages_of_listed_origins_may_send() {
    let service = Service::start().await;
    let from = |key: &str, origin: &str| service.request(key).header("origin", origin).body(GOOD);
    let header = |answer: &crate::service::Answer, name: &str| {
        answer.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
    };

    let answer = service.send(from("demo-write-key", "https://any.example")).await;
    assert_eq!(answer.status, 202);
    assert_eq!(header(&answer, "access-control-allow-origin").unwrap(), "https://any.example");
    assert_eq!(header(&answer, "access-control-allow-credentials").unwrap(), "true");
    assert_eq!(header(&answer, "vary").unwrap(), "origin");

    assert_eq!(service.send(from("strict-write-key", "https://shop.example")).await.status, 202);
    for origin in ["https://evil.example", "http://shop.example", "null"] {
        let answer = service.send(from("strict-write-key", origin)).await;
        assert_eq!(answer.error(), (403, "origin_not_allowed"), "{origin}");
    }
    let in_body = format!(r#"{{"write_key":"strict-write-key","events":[{GOOD}]}}"#);
    let request =
        service.client.post(format!("{}/v1/collect", service.url)).header("origin", "https://evil.example");
    assert_eq!(service.send(request.body(in_body)).await.status, 403);
    assert_eq!(service.send(from("strict-secret-key", "https://evil.example")).await.status, 202);
    assert_eq!(service.send(service.request("strict-write-key").body(GOOD)).await.status, 202);
    assert_eq!(service.rejected("origin_not_allowed"), 4.0);

    let preflight = |path: &str, origin: &str| {
        let url = format!("{}{path}", service.url);
        service.client.request(reqwest::Method::OPTIONS, url).header("origin", origin)
    };
    let answer = service.send(preflight("/v1/collect", "https://any.example")).await;
    assert_eq!(answer.status, 204);
    assert_eq!(header(&answer, "access-control-allow-origin").unwrap(), "https://any.example");
    assert!(header(&answer, "access-control-allow-headers").unwrap().contains("x-write-key"));
    let strict = "/v1/collect?key=strict-write-key";
    assert_eq!(service.send(preflight(strict, "https://shop.example")).await.status, 204);
    assert_eq!(service.send(preflight(strict, "https://evil.example")).await.status, 403);
}

/// A picture says nothing of its page but the referrer, and that only if the page lets it.
#[tokio::test]
async fn pictures_of_foreign_pages_are_refused() {
    let service = Service::start().await;
    let ga4 = "g/collect?v=2&tid=G-1&cid=1.2&en=page_view&dl=https%3A%2F%2Fshop.example%2F";
    let snowplow = "i?e=pv&p=web&tv=js&url=https%3A%2F%2Fshop.example%2F";
    for (round, path) in [
        "/v1/pixel.gif?key=strict-write-key&type=page_view&url=https%3A%2F%2Fshop.example%2F".to_owned(),
        format!("/k/strict-write-key/{ga4}"),
        format!("/k/strict-write-key/{snowplow}"),
    ]
    .into_iter()
    .enumerate()
    {
        let from = async |headers: &[(&str, &str)]| {
            let request = service.client.get(format!("{}{path}", service.url));
            let request =
                headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
            service.send(request).await.status
        };
        let site = ("sec-fetch-site", "cross-site");
        for foreign in [
            [("referer", "https://evil.example/"), site],
            [("referer", "https://evil.example/https://shop.example/"), ("sec-fetch-site", "none")],
            [("accept", "image/*"), site],
            [("origin", "https://evil.example"), ("referer", "https://shop.example/")],
        ] {
            assert!(!matches!(from(&foreign).await, 200 | 202), "{path} {foreign:?}");
        }
        assert_eq!(service.rejected("origin_not_allowed"), 4.0 * (round + 1) as f64, "{path}");
        assert_eq!(service.events().len(), 2 * round, "{path}");
        // The shop's own page; and programs, which say nothing of the kind and are not held up by a list of pages.
        assert!(matches!(from(&[("referer", "https://shop.example/a"), site]).await, 200..=204), "{path}");
        assert!(matches!(from(&[]).await, 200..=204), "{path}");
        assert_eq!(service.events().len(), 2 * (round + 1), "{path}");
    }
    service.stop().await;
}

/// A page learns from an answer only where it is the page of an origin that no store has refused.
#[tokio::test]
async fn only_checked_origins_are_repeated() {
    let service = Service::start().await;
    let allowed =
        |answer: &crate::service::Answer| answer.headers.contains_key("access-control-allow-origin");
    let from = async |key: &str, origin: &str| {
        service.send(service.request(key).header("origin", origin).body(GOOD)).await
    };
    for origin in ["https://www.good.example", "https://a.b.good.example"] {
        let answer = from("wide-write-key", origin).await;
        assert_eq!((answer.status, allowed(&answer)), (202, true), "{origin}");
    }
    for origin in [
        "https://evil.example",
        "https://evil/.good.example",
        "https://evil.example/.good.example",
        "https://evil.example#.good.example",
        "https://evil.example@www.good.example",
        "https://evil.example, https://www.good.example",
        "https://good.example",
        "null",
    ] {
        let answer = from("wide-write-key", origin).await;
        assert_eq!((answer.error(), allowed(&answer)), ((403, "origin_not_allowed"), false), "{origin}");
        for path in ["/v1/collect?key=wide-write-key", "/k/wide-write-key/v1/t"] {
            let url = format!("{}{path}", service.url);
            let preflight = service.client.request(reqwest::Method::OPTIONS, url).header("origin", origin);
            let answer = service.send(preflight).await;
            assert_eq!((answer.status, allowed(&answer)), (403, false), "{origin} {path}");
        }
    }
    // Two headers are of no browser.
    let request = service.request("wide-write-key").header("origin", "https://www.good.example");
    let request = request.header("origin", "https://evil.example").body(GOOD);
    assert_eq!(service.send(request).await.status, 403);
    // Where any page may send, what is no origin is taken, and not repeated.
    for (origin, is_repeated) in
        [("https://any.example", true), ("null", true), ("https://any.example/x", false)]
    {
        let answer = from("demo-write-key", origin).await;
        assert_eq!((answer.status, allowed(&answer)), (202, is_repeated), "{origin}");
    }
    // Who does not know why it is refused may read it.
    let answer = from("nobodys", "https://www.good.example").await;
    assert_eq!((answer.status, allowed(&answer)), (401, true));
}

/// Pages that were made for another product: their consoles show that there is nothing, and no complaint about the answer.
#[tokio::test]
async fn pages_learn_that_there_is_nothing() {
    let service = Service::start().await;
    let page = "https://shop.example";
    let ask = async |method: reqwest::Method, path: &str| {
        let request = service.client.request(method, format!("{}{path}", service.url)).header("origin", page);
        let request = request.header("access-control-request-method", "POST");
        service.send(request.header("access-control-request-headers", "content-type,x-own")).await
    };
    for path in ["/2/httpapi", "/matomo.php?idsite=1", "/api/s/track", "/groups/", "/k/demo-write-key/none"] {
        let preflight = ask(reqwest::Method::OPTIONS, path).await;
        assert_eq!(preflight.status, 204, "{path}");
        assert_eq!(preflight.headers["access-control-allow-headers"], "content-type,x-own");
        let answer = ask(reqwest::Method::POST, path).await;
        assert_eq!(answer.error(), (404, "not_found"), "{path}");
        for answer in [preflight, answer] {
            assert_eq!(answer.headers["access-control-allow-origin"], page, "{path}");
            assert_eq!(answer.headers["access-control-allow-credentials"], "true", "{path}");
            assert_eq!(answer.headers["vary"], "origin", "{path}");
        }
    }
    // What is asked by no page is no preflight; and what operators ask is no page's business.
    let request = service.client.request(reqwest::Method::OPTIONS, format!("{}/nothing", service.url));
    assert_eq!(service.send(request).await.error(), (404, "not_found"));
    for path in ["/healthz", "/readyz"] {
        for method in [reqwest::Method::GET, reqwest::Method::OPTIONS] {
            let answer = ask(method, path).await;
            assert!(!answer.headers.contains_key("access-control-allow-origin"), "{path}");
        }
    }
}

#[tokio::test]
async fn what_is_written_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let widen = |path: &std::path::Path| {
        let wide = std::fs::Permissions::from_mode(if path.is_dir() { 0o755 } else { 0o644 });
        std::fs::set_permissions(path, wide).unwrap();
    };
    fn walk(dir: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
            found.push(entry.path());
            if entry.path().is_dir() {
                walk(&entry.path(), found);
            }
        }
    }
    let service = Service::start().await;
    assert_eq!(service.post(GOOD).await.status, 202);
    let spool = service.dir.path().join("spool");
    let all_private = |dir: &tempfile::TempDir| {
        let mut found = vec![spool.clone(), dir.path().join("stores.json")];
        walk(&spool, &mut found);
        for path in &found {
            let expected = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode(path), expected, "{}", path.display());
        }
        found
    };
    let found = all_private(&service.dir);
    assert!(found.len() >= 8, "{found:?}");
    // What an earlier version left open to all is narrowed at the next start.
    let dir = service.stop().await;
    found.iter().for_each(|path| widen(path));
    let service = Service::in_dir(dir, |_| {}).await;
    assert_eq!(service.post(GOOD).await.status, 202);
    all_private(&service.dir);
    let dir = service.stop().await;
    drop(dir);
}

#[tokio::test]
async fn the_pixel_is_an_event() {
    let service = Service::start().await;
    let get = |query: &str| service.client.get(format!("{}/v1/pixel.gif?{query}", service.url));
    let response =
        get("key=demo-write-key&type=page_view&url=https%3A%2F%2Fa.example%2F&scroll_depth=40&visitor_id=v")
            .send()
            .await
            .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "image/gif");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.bytes().await.unwrap().len(), 43);
    let event = &service.events()[0];
    assert_eq!((&event["url"], &event["scroll_depth"]), (&json!("https://a.example/"), &json!(40)));

    assert_eq!(service.send(get("type=page_view&url=https://a.example/")).await.status, 401);
    assert_eq!(service.send(get("key=demo-write-key&type=page_view")).await.error(), (422, "missing_field"));
    let strict = "key=strict-write-key&type=event&name=a";
    for (referrer, status) in [("https://shop.example/cart?a=b", 200), ("https://evil.example/", 403)] {
        assert_eq!(service.send(get(strict).header("referer", referrer)).await.status, status);
    }
}

#[tokio::test]
async fn health_readiness_and_documents() {
    let service = Service::start().await;
    assert_eq!(service.get("/healthz").await.body, json!({ "status": "ok" }));
    assert_eq!(service.get("/readyz").await.body, json!({ "status": "ready" }));
    assert_eq!(service.get("/openapi.json").await.body["openapi"], "3.1.0");
    let tracker = service.client.get(format!("{}/t.js", service.url)).send().await.unwrap();
    assert!(tracker.headers()["content-type"].to_str().unwrap().starts_with("text/javascript"));
    assert!(tracker.text().await.unwrap().contains("sendBeacon"));
    assert_eq!(service.get("/nothing").await.error(), (404, "not_found"));
    assert_eq!(service.get("/v1/collect").await.error(), (405, "method_not_allowed"));
    assert_eq!(service.requests("other", 404), 1.0);

    let service = Service::with(|config| config.keys_snapshot = None).await;
    let answer = service.get("/readyz").await;
    assert_eq!(answer.status, 503);
    assert!(answer.body["reasons"][0].as_str().unwrap().contains("Postgres"));
    let answer = service.post(GOOD).await;
    assert_eq!(answer.error(), (503, "unavailable"));
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn open_requests_are_finished_when_it_is_stopped() {
    let service = Service::start().await;
    let url = service.url.clone();
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    let head = format!(
        "POST /v1/collect?key=demo-write-key HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        GOOD.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Said when the collector begins to wait for the body.
    let mut said = [0; 12];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 100");

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let finish = async {
        let let_in = async || client.get(format!("{url}/healthz")).send().await.is_ok();
        eventually("nobody new is let in", async || !let_in().await).await;
        stream.write_all(GOOD.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (dir, answer) = tokio::join!(service.stop(), finish);
    assert!(answer.contains("HTTP/1.1 202"), "{answer}");
    let records = crate::service::records(&dir.path().join("spool/millrace.events"));
    assert_eq!(records.len(), 1);
}
