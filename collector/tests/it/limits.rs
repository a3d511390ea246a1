//! Rates of stores and of client addresses.

use crate::service::Service;

const GOOD: &str = r#"{"type":"event","name":"test"}"#;

#[tokio::test]
async fn a_store_over_its_rate_is_told_when_to_come_back() {
    let service = Service::start().await;
    let send = |events: usize| {
        let body = format!("[{}]", vec![GOOD; events].join(","));
        service.send(service.request("slow-write-key").body(body))
    };
    assert_eq!(send(500).await.status, 202);
    let answer = send(60).await;
    assert_eq!(answer.error(), (429, "rate_limited"));
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait), "{wait}");
    assert_eq!(service.rejected("rate_limited"), 1.0);
    assert_eq!(service.post(GOOD).await.status, 202, "other stores are not concerned");
}

/// For each address, of which a proxy speaks.
async fn one_request_a_second() -> Service {
    Service::with(|config| {
        config.rates.client_requests_per_second = 1;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await
}

/// More than one request a second is, however busy the machine, now and then.
async fn is_refused(mut send: impl AsyncFnMut() -> u16) {
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) {
        assert!(statuses.len() < 50, "{statuses:?}");
        statuses.push(send().await);
    }
}

#[tokio::test]
async fn an_address_over_its_rate_is_refused_and_proxies_speak_for_others() {
    let service = one_request_a_second().await;
    let from = |address: &str| {
        service.send(service.request("demo-write-key").header("x-forwarded-for", address).body(GOOD))
    };
    for _ in 0..2 {
        assert_eq!(from("192.0.2.1").await.status, 202, "two seconds' worth");
    }
    is_refused(async || from("192.0.2.1").await.status).await;
    assert_eq!(from("198.51.100.7").await.status, 202);
    is_refused(async || from("192.0.2.1").await.status).await;
}

#[tokio::test]
async fn what_is_no_event_counts_towards_the_addresss_rate() {
    let service = one_request_a_second().await;
    let get = async |path: &str| {
        let request = service.client.get(format!("{}{path}", service.url));
        request.header("x-forwarded-for", "192.0.2.1").send().await.unwrap().status().as_u16()
    };
    assert_eq!((get("/t.js").await, get("/nothing").await), (200, 404));
    for path in ["/openapi.json", "/v1/collect", "/v1/pixel.gif", "/healthz", "/nothing"] {
        is_refused(async || get(path).await).await;
    }
}

#[tokio::test]
async fn preflights_count_and_are_answered_at_any_rate() {
    let service = one_request_a_second().await;
    let mut addresses = 1..;
    // That an address's first request is refused can only be for its preflights.
    is_refused(async || {
        let address = format!("192.0.2.{}", addresses.next().unwrap());
        for path in ["/v1/collect", "/v1/t", "/k/demo-write-key/e", "/nothing"] {
            let request = service.client.request(reqwest::Method::OPTIONS, format!("{}{path}", service.url));
            let request =
                request.header("x-forwarded-for", &address).header("origin", "https://shop.example");
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 204, "{path}");
            assert_eq!(answer.headers()["access-control-allow-origin"], "https://shop.example");
        }
        let request = service.client.get(format!("{}/healthz", service.url));
        request.header("x-forwarded-for", &address).send().await.unwrap().status().as_u16()
    })
    .await;
}
