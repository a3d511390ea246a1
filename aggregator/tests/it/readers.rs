//! Who reads much, or takes what was read slowly, keeps neither other readers nor the rollups waiting.

use millrace_schemas::row::EventRow;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{
    api::Service,
    harness::{Bed, event, eventually},
    keys::make_store,
};

/// Rows that the hostile store's answers have, of more bytes together than one answer.
const ROWS: usize = 10_000;

/// Asks, and takes no more of the answer than its status.
async fn ask_and_wait(service: &Service, path: &str, token: &str) -> (u16, TcpStream) {
    let address = service.address.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    (std::str::from_utf8(&status[9..]).unwrap().parse().unwrap(), stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_who_take_nothing_keep_nobody_waiting() {
    let bed = Bed::start().await;
    bed.demo().await;
    let service = Service::start(&bed).await;
    let [other, _, _, token] = make_store(&service, "other").await;
    sqlx::query(
        "INSERT INTO product_analytics (store_id, product_id, date, views_count, unique_views_count, add_to_cart_count,
             cart_removal_count, checkout_count, purchase_count, units_sold, revenue_cents, currency,
             average_time_on_page, bounce_rate, conversion_rate, review_count)
         SELECT 'demo', repeat('p', 900) || i, '2026-10-01', 1, 1, 1, 0, 0, 1, 1, 0, 'USD', 0, 0.25, 0, 0
         FROM generate_series(1, $1) AS i",
    )
    .bind(i32::try_from(ROWS).unwrap())
    .execute(&bed.pool)
    .await
    .unwrap();

    // A page ends where its answer is long enough, and the next one begins there.
    let path = format!("/api/v1/stores/demo/product_analytics?limit={ROWS}");
    let (mut seen, mut pages, mut next) = (0, 0, json!(0));
    while next != Value::Null {
        let (status, page) = service.get(&format!("{path}&offset={next}"), "demo-api-token").await;
        assert_eq!(status, 200, "{page}");
        let rows = page["data"].as_array().unwrap();
        assert!(!rows.is_empty() && rows.iter().all(|row| row["bounce_rate"] == json!(0.25)));
        (seen, pages, next) = (seen + rows.len(), pages + 1, page["next_offset"].clone());
    }
    assert_eq!((seen, pages), (ROWS, 2));

    let asking = (0..40).map(|_| ask_and_wait(&service, &path, "demo-api-token"));
    let asked = futures::future::join_all(asking).await;
    let refused = asked.iter().filter(|(status, _)| *status == 429).count();
    let served = asked.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(refused + served, asked.len());
    assert!(served > 0 && refused >= 20, "{served} were served, {refused} refused");
    // Beside them another store's rollups come, and are read.
    for (number, day) in [(1, "2026-10-02"), (2, "2026-10-03")] {
        let time = format!("{day} 10:00:00");
        bed.insert(&[EventRow { store_id: &other, ..event(number, "page_view", &time, "v", "a") }]).await;
        let own = format!("/api/v1/stores/{other}/analytics_summary?period_type=day&from={day}");
        eventually("another store is read beside them", async || {
            let (status, answer) = service.get(&own, &token).await;
            assert_eq!(status, 200, "{answer}");
            answer["data"].as_array().unwrap().len() == 1
        })
        .await;
    }
    drop(asked);
    eventually("who went away left their places", async || {
        service.get(&format!("{path}&offset=9000"), "demo-api-token").await.0 == 200
    })
    .await;
    service.stop().await;
}
