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
    let answer = send(3).await;
    assert_eq!(answer.error(), (429, "rate_limited"));
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=3).contains(&wait), "{wait}");
    assert_eq!(service.rejected("rate_limited"), 1.0);
    assert_eq!(service.post(GOOD).await.status, 202, "other stores are not concerned");
}

#[tokio::test]
async fn an_address_over_its_rate_is_refused_and_proxies_speak_for_others() {
    let service = Service::with(|config| {
        config.rates.client_requests_per_second = 1;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let from = |address: &str| {
        service.send(service.request("demo-write-key").header("x-forwarded-for", address).body(GOOD))
    };
    let mut statuses = Vec::new();
    for address in ["192.0.2.1", "192.0.2.1", "192.0.2.1", "198.51.100.7", "192.0.2.1"] {
        statuses.push(from(address).await.status);
    }
    assert_eq!(statuses[..2], [202, 202], "two seconds' worth");
    assert_eq!(statuses[2..], [429, 202, 429]);
}

#[tokio::test]
async fn what_is_no_event_counts_towards_the_addresss_rate() {
    let service = Service::with(|config| {
        config.rates.client_requests_per_second = 1;
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let mut statuses = Vec::new();
    for path in ["/t.js", "/nothing", "/openapi.json", "/v1/collect", "/v1/pixel.gif", "/healthz"] {
        let request = service.client.get(format!("{}{path}", service.url));
        let answer = request.header("x-forwarded-for", "192.0.2.1").send().await.unwrap();
        statuses.push(answer.status().as_u16());
    }
    assert_eq!(statuses, [200, 404, 429, 429, 429, 429]);
}
