//! Small inputs that came out wrong once, each sent as it was then, under the number that it had in their list. Here the
//! rows have to be right; what rollups make of them is tested where rollups are.

use millrace_schemas::money::{exponent, to_minor};
use millrace_testbed::Postgres;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::{
    postgres::{add_key, migrated},
    service::{SECRET_KEY, Service, WRITE_KEY, assert_row, eventually},
};

const PHONE: &str = "Mozilla/5.0 (Linux; Android 13; SM-G991B) AppleWebKit/537.36 (KHTML, like Gecko) \
                     Chrome/125 Mobile Safari/537.36";
const DAY_MS: i64 = 86_400_000;

/// The rows that a request became; it must have been taken.
async fn sent(service: &Service, request: reqwest::RequestBuilder) -> Vec<Value> {
    let before = service.events().len();
    let answer = service.send(request).await;
    assert!((200..300).contains(&answer.status), "{answer:?}");
    service.events().split_off(before)
}

/// Of events for `POST /v1/collect`.
async fn native(service: &Service, key: &str, events: &Value) -> Vec<Value> {
    sent(service, service.request(key).body(events.to_string())).await
}

/// Of another product's client.
async fn post(service: &Service, path: &str, body: impl Into<reqwest::Body>) -> Vec<Value> {
    sent(service, service.client.post(format!("{}{path}", service.url)).body(body)).await
}

/// Of Google's tag, on a page of the shop.
async fn tag(service: &Service, parameters: &str) -> Vec<Value> {
    let page = "v=2&tid=demo-write-key&cid=1.2&sid=99&dl=https%3A%2F%2Fshop.example%2F";
    sent(service, service.client.get(format!("{}/g/collect?{page}&{parameters}", service.url))).await
}

fn purchase(more: &Value) -> Value {
    let mut event = json!({ "type": "event", "name": "purchase", "order_id": "1" });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

fn refund(more: &Value) -> Value {
    let mut event = purchase(more);
    event["name"] = "refund".into();
    event
}

fn page_view(url: &str, referrer: &str) -> Value {
    json!({ "type": "page_view", "visitor_id": "v", "url": url, "referrer": referrer })
}

/// What the lines of a row come to, minor units of its currency, each rounded once.
fn lines_minor(row: &Value) -> i64 {
    let decimals = exponent(row["currency"].as_str().unwrap()).unwrap();
    let numbers = |column: &str| -> Vec<Decimal> {
        let texts = row[column].as_array().unwrap();
        texts.iter().map(|text| text.as_str().unwrap().parse().unwrap()).collect()
    };
    let (prices, quantities) = (numbers("item_price"), numbers("item_quantity"));
    let line = |(price, quantity): (&Decimal, &Decimal)| to_minor(price * quantity, decimals).unwrap();
    prices.iter().zip(&quantities).map(line).sum()
}

/// What the table is sorted by: rows that have it in common are one event.
fn sorting_key(row: &Value) -> [&Value; 5] {
    ["store_id", "key_date", "name", "visitor_hash", "event_id"].map(|column| &row[column])
}

fn ms(row: &Value, column: &str) -> i64 {
    let text = row[column].as_str().unwrap().replace(' ', "T");
    format!("{text}Z").parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

#[tokio::test]
async fn half_an_emoji_costs_neither_its_event_nor_a_neighbour() {
    let service = Service::start().await;
    // 1
    let whole = r#"{"type":"track","event":"a","anonymousId":"1"}"#;
    let broken = r#"{"type":"track","event":"b","anonymousId":"2","properties":{"t":"\ud83d"}}"#;
    let batch = format!(r#"{{"writeKey":"{SECRET_KEY}","batch":[{whole},{broken}]}}"#);
    let rows = post(&service, "/v1/batch", batch).await;
    assert_eq!(rows.len(), 2, "{rows:#?}");
    let of = |name: &str| rows.iter().find(|row| row["name"] == name).unwrap();
    assert_row(of("a"), &json!({ "visitor_id": "1", "trusted": 1, "repairs": null }));
    assert_row(
        of("b"),
        &json!({ "visitor_id": "2", "properties": { "t": "\u{fffd}" }, "repairs": ["properties:characters"] }),
    );
    // 2
    let answer = service.post(r#"{"type":"event","name":"x","label":"x\ud83d"}"#).await;
    assert_eq!((answer.status, &answer.body["accepted"]), (202, &json!(1)), "{answer:?}");
    assert_eq!(answer.body["repaired"], json!([{ "index": 0, "field": "label", "reason": "characters" }]));
    let row = service.events().pop().unwrap();
    assert_row(&row, &json!({ "name": "x", "label": "x\u{fffd}", "repairs": ["label:characters"] }));
}

/// Whose an order is, what completes a funnel and which session converts is decided later, by what stands here.
#[tokio::test]
async fn who_ordered_stands_there_as_it_was_told() {
    let service = Service::start().await;
    // 3
    let visitor = json!({ "visitor_id": "v", "session_id": "s", "value": 50 });
    let mut view = page_view("https://shop.example/", "");
    view["session_id"] = "s".into();
    let rows = native(&service, WRITE_KEY, &json!([view, purchase(&visitor)])).await;
    for row in &rows {
        assert_row(row, &json!({ "visitor_id": "v", "session_id": "s", "trusted": 0, "is_bot": 0 }));
    }
    assert_row(&rows[1], &json!({ "order_id": "1", "total_minor": 5_000 }));
    let [row] = native(&service, SECRET_KEY, &purchase(&json!({ "value": 50 }))).await.try_into().unwrap();
    assert_row(&row, &json!({ "order_id": "1", "total_minor": 5_000, "trusted": 1, "visitor_id": null }));
    // 18
    let at = jiff::Timestamp::now().as_millisecond();
    let (later_id, earlier_id) =
        ("f31c2b4a-6d7e-4f80-9a1b-2c3d4e5f6071", "0a1b2c3d-4e5f-4607-8819-2a3b4c5d6e7f");
    let checkout = json!({
        "type": "event", "name": "begin_checkout", "visitor_id": "v", "timestamp": at, "event_id": later_id,
    });
    let order = purchase(&json!({ "visitor_id": "v", "timestamp": at, "event_id": earlier_id }));
    let rows = native(&service, WRITE_KEY, &json!([checkout, order])).await;
    assert_eq!([&rows[0]["event_id"], &rows[1]["event_id"]], [later_id, earlier_id]);
    for row in &rows {
        assert_eq!((ms(row, "event_time"), &row["time_source"]), (at, &json!("client")));
    }
    // 20
    let row = native(&service, SECRET_KEY, &purchase(&json!({ "visitor_id": "v" }))).await.remove(0);
    assert_row(&row, &json!({ "visitor_id": "v", "session_id": null, "trusted": 1, "is_bot": 0 }));
}

#[tokio::test]
async fn refunds_and_cancellations_say_what_was_sent() {
    let service = Service::start().await;
    // 5: it is the order's, which the row leaves open; the euros of another refund are its own.
    for (sent, currency) in
        [(json!({ "value": 100 }), Value::Null), (json!({ "currency": "EUR" }), "EUR".into())]
    {
        let row = native(&service, SECRET_KEY, &refund(&sent)).await.remove(0);
        assert_row(&row, &json!({ "order_id": "1", "currency": currency }));
    }
    // 6
    let items = json!([{ "product_id": "a", "price": 60 }, { "product_id": "b", "price": 40 }]);
    let row = native(&service, SECRET_KEY, &purchase(&json!({ "items": items }))).await.remove(0);
    assert_row(
        &row,
        &json!({ "item_product_id": ["a", "b"], "item_price": ["60", "40"], "total_minor": null }),
    );
    let items = json!({ "items": [{ "product_id": "b" }] });
    let row = native(&service, SECRET_KEY, &refund(&items)).await.remove(0);
    assert_row(
        &row,
        &json!({ "order_id": "1", "item_product_id": ["b"], "item_price": ["0"], "item_quantity": ["0"], "total_minor": null }),
    );
    // 7
    let items = json!({ "items": [{ "product_id": "a", "price": 20, "discount": 5, "quantity": 2 }] });
    let row = native(&service, SECRET_KEY, &purchase(&items)).await.remove(0);
    assert_row(&row, &json!({ "item_price": ["20"], "item_discount": ["5"], "item_quantity": ["2"] }));
    let items = json!({ "items": [{ "product_id": "a", "quantity": 1 }] });
    let row = native(&service, SECRET_KEY, &refund(&items)).await.remove(0);
    assert_row(&row, &json!({ "item_product_id": ["a"], "item_quantity": ["1"], "total_minor": null }));
    // 17
    let part = |product: &str, value: u32| {
        let items = json!([{ "product_id": product, "price": value }]);
        refund(&json!({ "value": value, "items": items }))
    };
    let rows = native(&service, SECRET_KEY, &json!([part("b", 40), part("a", 60)])).await;
    assert_row(&rows[0], &json!({ "refund_id": null, "total_minor": 4_000, "item_product_id": ["b"] }));
    assert_row(&rows[1], &json!({ "refund_id": null, "total_minor": 6_000, "item_product_id": ["a"] }));
    assert_ne!(rows[0]["event_id"], rows[1]["event_id"]);
    // 25
    let mut cancelled = purchase(&json!({}));
    cancelled["name"] = "order_cancelled".into();
    let row = native(&service, SECRET_KEY, &cancelled).await.remove(0);
    assert_row(
        &row,
        &json!({ "name": "order_cancelled", "order_id": "1", "trusted": 1, "total_minor": null, "currency": null }),
    );
    // 33
    let items = json!([{ "product_id": "a", "price": 25, "quantity": -1 }]);
    let row = native(&service, WRITE_KEY, &refund(&json!({ "value": -25, "items": items }))).await.remove(0);
    assert_row(
        &row,
        &json!({
            "total_minor": 2_500, "value": 25, "item_price": ["25"], "item_quantity": ["1"], "repairs": null,
        }),
    );
}

#[tokio::test]
async fn lines_keep_prices_and_quantities_to_the_last_decimal() {
    let service = Service::start().await;
    // 8
    let params = json!({
        "transaction_id": "1", "value": 7.79, "currency": "USD",
        "items": [{ "item_id": "a", "price": 7.79, "discount": 2.22, "quantity": 1 }],
    });
    let body = json!({ "client_id": "1.2", "events": [{ "name": "purchase", "params": params }] });
    let path = "/mp/collect?measurement_id=G-1&api_secret=demo-secret-key";
    let row = post(&service, path, body.to_string()).await.remove(0);
    assert_row(&row, &json!({ "item_price": ["7.79"], "item_discount": ["2.22"], "item_quantity": ["1"] }));
    assert_eq!(lines_minor(&row), 779);
    // 13
    let items = json!([{ "product_id": "a", "price": 10, "quantity": 1.85 }]);
    let row =
        native(&service, WRITE_KEY, &purchase(&json!({ "value": 18.5, "items": items }))).await.remove(0);
    assert_row(&row, &json!({ "total_minor": 1_850, "item_price": ["10"], "item_quantity": ["1.85"] }));
    assert_eq!(lines_minor(&row), 1_850);
    // 22
    let items = json!([{ "product_id": "a", "price": 60 }, { "product_id": "voucher", "price": -10 }]);
    let row = native(&service, WRITE_KEY, &purchase(&json!({ "items": items }))).await.remove(0);
    assert_row(&row, &json!({ "item_price": ["60", "-10"], "total_minor": null, "repairs": null }));
    assert_eq!(lines_minor(&row), 5_000);
    // 23
    let items = vec![json!({ "product_id": "p", "price": 1.00 }); 201];
    let row = native(&service, WRITE_KEY, &purchase(&json!({ "items": items }))).await.remove(0);
    assert_row(&row, &json!({ "repairs": ["items:cut"], "total_minor": null }));
    assert_eq!(lines_minor(&row), 20_100);
    // 26
    let order = |currency: &str, price: f64, quantity: u32| {
        let items = json!([{ "product_id": "a", "price": price, "quantity": quantity }]);
        purchase(&json!({ "currency": currency, "items": items }))
    };
    for (currency, price, quantity, minor) in
        [("USD", 0.0035, 1_000, 350), ("JPY", 12.5, 4, 50), ("USD", 8.403361, 10, 8_403)]
    {
        let row = native(&service, SECRET_KEY, &order(currency, price, quantity)).await.remove(0);
        assert_eq!(lines_minor(&row), minor, "{quantity} times {price} {currency}");
    }
    for quantity in [json!(5_000), json!("5,000")] {
        let products = json!([{ "product_id": "a", "price": 0.029, "quantity": quantity }]);
        let row = order_completed(&service, &products).await;
        assert_eq!(lines_minor(&row), 14_500, "{quantity}");
    }
}

/// The row of an order as Segment's clients name it.
async fn order_completed(service: &Service, products: &Value) -> Value {
    let call = json!({
        "writeKey": WRITE_KEY, "event": "Order Completed", "anonymousId": "a",
        "properties": { "order_id": "1", "currency": "USD", "products": products },
    });
    let row = post(service, "/v1/track", call.to_string()).await.remove(0);
    assert_row(&row, &json!({ "name": "purchase", "order_id": "1" }));
    row
}

#[tokio::test]
async fn products_are_a_list_however_they_are_written() {
    let service = Service::start().await;
    // 24
    let (p, q) = (json!({ "product_id": "p", "price": 10 }), json!({ "product_id": "q", "price": 5 }));
    let with_gap = json!({ "0": p, "2": q });
    for products in [with_gap.clone(), with_gap.to_string().into(), json!([p, q]).to_string().into()] {
        let row = order_completed(&service, &products).await;
        assert_row(&row, &json!({ "item_product_id": ["p", "q"], "item_price": ["10", "5"] }));
    }
}

#[tokio::test]
async fn one_event_and_one_order_have_one_key() {
    let service = Service::start().await;
    // 14: of an id that says its own time. Of a random one nothing but the timestamp tells the day.
    let seen = |timestamp: &str| {
        json!({
            "type": "event", "name": "x", "visitor_id": "v", "timestamp": timestamp,
            "event_id": "01a19467-e418-7000-8000-000000000014",
        })
    };
    let before = native(&service, WRITE_KEY, &seen("2026-10-31T23:59:59Z")).await.remove(0);
    let after = native(&service, WRITE_KEY, &seen("2026-11-01T00:00:01Z")).await.remove(0);
    assert_eq!(sorting_key(&before), sorting_key(&after));
    assert_eq!(ms(&after, "client_time") - ms(&before, "client_time"), 2_000);
    // 16
    let by_tag = tag(&service, "en=purchase&epn.transaction_id=1002&epn.value=5&cu=USD").await.remove(0);
    assert_row(&by_tag, &json!({ "order_id": "1002", "total_minor": 500 }));
    for id in [json!(1002), json!(1002.0), json!("1002")] {
        let params = json!({ "transaction_id": id, "value": 5, "currency": "USD" });
        let body = json!({ "client_id": "1.2", "events": [{ "name": "purchase", "params": params }] });
        let row = post(&service, "/mp/collect?api_secret=demo-secret-key", body.to_string()).await.remove(0);
        assert_row(&row, &json!({ "order_id": "1002", "total_minor": 500, "trusted": 1 }));
    }
    // 27: of an id that says nothing, and of one that says a time long ago.
    for id in ["6f1b1f1e-5c2a-4b7e-9d3f-2a1c0e4b5d6f", "0190a0b0-0000-7000-8000-000000000027"] {
        let mut rows = Vec::new();
        for before_midnight in [3_000, -3_000] {
            let since_midnight = jiff::Timestamp::now().as_millisecond().rem_euclid(DAY_MS);
            let offset = since_midnight + before_midnight;
            let event = json!({ "event": "seen", "distinct_id": "d", "uuid": id, "offset": offset });
            let body = json!({ "api_key": WRITE_KEY, "batch": [event] });
            rows.append(&mut post(&service, "/batch/", body.to_string()).await);
            let row = rows.last().unwrap();
            assert_eq!(ms(row, "received_at") - ms(row, "event_time"), offset);
        }
        assert_eq!(sorting_key(&rows[0]), sorting_key(&rows[1]));
    }
}

#[tokio::test]
async fn times_are_what_was_meant() {
    // These lie before what a store takes by default.
    let service = Service::with(|config| {
        let snapshot = config.keys_snapshot.as_ref().unwrap();
        let settings = std::fs::read_to_string(snapshot).unwrap();
        let settings = settings.replace("\"max_event_age_days\":30", "\"max_event_age_days\":3650");
        std::fs::write(snapshot, settings).unwrap();
    })
    .await;
    // 21
    for (timestamp, time) in [
        ("2026-03-01T08:00:00+0000", "2026-03-01 08:00:00.000"),
        ("2026-03-01", "2026-03-01 00:00:00.000"),
        ("2026-03-01T08:00:00", "2026-03-01 08:00:00.000"),
    ] {
        let order = purchase(&json!({ "value": 5, "timestamp": timestamp }));
        let row = native(&service, WRITE_KEY, &order).await.remove(0);
        assert_row(
            &row,
            &json!({
                "event_time": time, "client_time": time, "time_source": "client", "key_date": "2026-03-01",
                "total_minor": 500, "repairs": ["timestamp:converted"],
            }),
        );
    }
    // 32
    let two_days_ago = jiff::Timestamp::now().as_millisecond() - 2 * DAY_MS;
    let text = jiff::Timestamp::from_millisecond(two_days_ago).unwrap().to_string();
    let call = json!({
        "writeKey": WRITE_KEY, "type": "track", "event": "x", "anonymousId": "a",
        "originalTimestamp": text, "sentAt": text, "timestamp": text, "receivedAt": text,
    });
    for (path, body) in [("/v1/track", call.clone()), ("/v1/batch", json!({ "batch": [call] }))] {
        let row = post(&service, path, body.to_string()).await.remove(0);
        assert_eq!((ms(&row, "event_time"), &row["time_source"]), (two_days_ago, &json!("client")), "{path}");
    }
}

#[tokio::test]
async fn people_are_people_and_programs_are_programs() {
    let service = Service::start().await;
    let view = page_view("https://shop.example/", "");
    // 4
    let told = json!({ "value": 70, "user_agent": format!("{PHONE} CamScanner/4.5") });
    let row = native(&service, SECRET_KEY, &purchase(&told)).await.remove(0);
    assert_row(&row, &json!({ "total_minor": 7_000, "is_bot": 0, "bot_reason": null, "device": "mobile" }));
    // 11
    for app in ["CamScanner/4.5", "fuboTV/4.75", "OrangeBotswana/2.1"] {
        for event in [&view, &purchase(&json!({ "value": 70 }))] {
            let request = service.request(WRITE_KEY).header("user-agent", format!("{PHONE} {app}"));
            let row = sent(&service, request.body(event.to_string())).await.remove(0);
            assert_row(&row, &json!({ "is_bot": 0, "bot_reason": null, "device": "mobile" }));
        }
    }
    // 12
    let monitor = "Mozilla/5.0 (Windows NT 6.1; WOW64) AppleWebKit/534+ (KHTML, like Gecko) \
                   Chrome/98 Safari/537.4 (StatusCake)";
    let inspector = "Mozilla/5.0 (compatible; Google-InspectionTool/1.0)";
    let as_a_phone = format!("{PHONE} (compatible; Google-InspectionTool/1.0)");
    for (user_agent, kind, name) in [
        (monitor, "monitor", "StatusCake"),
        (inspector, "search", "Google-InspectionTool"),
        (&*as_a_phone, "search", "Google-InspectionTool"),
    ] {
        let request = service.request(WRITE_KEY).header("user-agent", user_agent);
        let row = sent(&service, request.body(view.to_string())).await.remove(0);
        let verdict = json!({
            "is_bot": 1, "bot_reason": "user_agent", "bot_kind": kind, "bot_name": name, "device": "bot",
        });
        assert_row(&row, &verdict);
    }
}

#[tokio::test]
async fn what_led_to_a_page_is_its_channel() {
    let service = Service::start().await;
    // 15
    for (referrer, channel) in [
        ("https://www.pinterest.de/", "Organic Social"),
        ("https://lens.google.com/", "Organic Search"),
        ("https://news.google.com/", "Organic Search"),
        ("https://shopping.yahoo.com/", "Organic Shopping"),
        ("https://m.naver.com/", "Organic Search"),
    ] {
        let view = page_view("https://shop.example/", referrer);
        let row = native(&service, WRITE_KEY, &view).await.remove(0);
        assert_row(&row, &json!({ "channel": channel, "referrer": referrer }));
    }
    // 29
    let view = page_view("https://shop.example/", "https://www.google.com/");
    let order = purchase(&json!({ "visitor_id": "v", "url": "https://shop.example/thanks" }));
    let rows = native(&service, WRITE_KEY, &json!([view, order])).await;
    assert_row(&rows[0], &json!({ "channel": "Organic Search", "referrer_host": "google.com" }));
    assert_row(&rows[1], &json!({ "name": "purchase", "channel": null, "referrer_host": null }));
    // 30
    let row = tag(&service, "en=page_view&cs=newsletter&cm=email&cn=autumn").await.remove(0);
    assert_row(
        &row,
        &json!({
            "type": "page_view", "channel": "Email", "utm_source": "newsletter", "utm_medium": "email",
            "utm_campaign": "autumn",
        }),
    );
    let mut view = page_view("https://shop.example/", "");
    view["properties"] = json!({ "utm_source": "newsletter", "utm_medium": "email" });
    let row = native(&service, SECRET_KEY, &view).await.remove(0);
    assert_row(&row, &json!({ "channel": "Email", "utm_source": "newsletter", "utm_medium": "email" }));
    // 31
    for referrer in ["https://blog.brand.com/", "https://www.paypal.com/"] {
        let view = page_view("https://shop.brand.com/", referrer);
        let row = native(&service, WRITE_KEY, &view).await.remove(0);
        assert_row(&row, &json!({ "channel": null, "referrer_host": null, "referrer": referrer }));
    }
}

/// Who has no id gets one of the day's salt, which Postgres keeps.
#[tokio::test]
async fn who_sends_no_id_is_told_from_others_and_found_again() {
    let postgres = Postgres::start().await.unwrap();
    let pool = migrated(&postgres).await;
    add_key(&pool, "write", "write").await;
    add_key(&pool, "secret", "secret").await;
    let url = postgres.url().to_owned();
    let service = Service::with(|config| {
        config.postgres_url = url;
        config.keys_snapshot = None;
    })
    .await;
    eventually("it gets ready", async || service.get("/readyz").await.status == 200).await;
    // 9
    let view = json!({ "n": "pageview", "u": "https://shop.example/", "d": "secret" }).to_string();
    let mut visitors = Vec::new();
    for forwarded in ["203.0.113.9:51234, 10.0.0.1", "198.51.100.7:40001"] {
        let request = service.client.post(format!("{}/api/event", service.url)).body(view.clone());
        let request = request.header("x-forwarded-for", forwarded).header("user-agent", PHONE);
        let row = sent(&service, request).await.remove(0);
        assert_row(&row, &json!({ "trusted": 1, "is_bot": 0, "device": "mobile", "repairs": null }));
        visitors.push(row["visitor_id"].as_str().unwrap().to_owned());
    }
    assert!(visitors.iter().all(|visitor| visitor.len() == 32) && visitors[0] != visitors[1], "{visitors:?}");
    // 28
    let view = json!({ "type": "page_view", "url": "https://shop.example/", "page_view_id": "p" });
    let anonymous = native(&service, "write", &view).await.remove(0);
    assert_row(&anonymous, &json!({ "page_view_id": "p", "session_id": null, "visitor_hash": null }));
    assert_eq!(anonymous["visitor_id"].as_str().unwrap().len(), 32);
    let who = json!({ "visitor_id": "v", "session_id": "s" });
    let mut named = view;
    named.as_object_mut().unwrap().extend(who.as_object().unwrap().clone());
    let rows = native(&service, "write", &json!([named, purchase(&who)])).await;
    assert_row(&rows[0], &json!({ "page_view_id": "p", "visitor_id": "v", "session_id": "s" }));
    assert_row(&rows[1], &json!({ "order_id": "1", "visitor_id": "v", "session_id": "s" }));
    service.stop().await;
}
