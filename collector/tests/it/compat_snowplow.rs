//! Snowplow's protocol, as a tracker writes it and as nobody should.

use base64::{Engine as _, engine::general_purpose};
use serde_json::{Value, json};

use crate::service::{KEPT, Service, WRITE_KEY, assert_row};

const TP2: &str = "/com.snowplowanalytics.snowplow/tp2";

/// Status, content type and text of an answer.
type Said = (u16, String, String);

async fn send(request: reqwest::RequestBuilder) -> Said {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").map_or("", |kind| kind.to_str().unwrap()).to_owned();
    (status, kind, String::from_utf8_lossy(&response.bytes().await.unwrap()).into_owned())
}

async fn post(service: &Service, body: impl Into<reqwest::Body>) -> Said {
    send(service.client.post(format!("{}{TP2}", service.url)).body(body)).await
}

/// A payload of events, which are given the key.
async fn payload(service: &Service, events: &[&str]) -> Said {
    let events: Vec<_> = events
        .iter()
        .map(|event| event.replacen('{', &format!(r#"{{"aid":"{WRITE_KEY}","#), 1).replace(",}", "}"))
        .collect();
    let schema = "iglu:com.snowplowanalytics.snowplow/payload_data/jsonschema/1-0-4";
    post(service, format!(r#"{{"schema":"{schema}","data":[{}]}}"#, events.join(","))).await
}

fn ok() -> Said {
    (200, "text/plain; charset=utf-8".into(), "ok".into())
}

fn self_describing(schema: &str, data: &Value) -> Value {
    let inner = json!({ "schema": format!("iglu:{schema}/jsonschema/1-0-0"), "data": data });
    json!({ "schema": "iglu:com.snowplowanalytics.snowplow/unstruct_event/jsonschema/1-0-0", "data": inner })
}

#[tokio::test]
async fn events_come_in_bodies_and_in_addresses() {
    let service = Service::start().await;
    let event = r#"{"e":"se","se_ca":"c","se_ac":"a","duid":"d","uid":"u","sid":"s","eid":"not a uuid"}"#;
    assert_eq!(payload(&service, &[event]).await, ok());
    let query = format!("e=se&se_ca=c&se_ac=a&duid=d&uid=u&sid=s&eid=not%20a%20uuid&aid={WRITE_KEY}");
    let (status, kind, _) = send(service.client.get(format!("{}/i?{query}", service.url))).await;
    assert_eq!((status, kind.as_str()), (200, "image/gif"));
    let keyed = format!("{}/k/{WRITE_KEY}/i?{}", service.url, query.replace(WRITE_KEY, "a-shop"));
    assert_eq!(send(service.client.get(keyed)).await.0, 200);
    let rows = service.events();
    assert_eq!(rows.len(), 3);
    for row in &rows {
        assert_eq!(
            (&row["visitor_id"], &row["user_id"], &row["session_id"]),
            (&json!("d"), &json!("u"), &json!("s"))
        );
        assert_eq!(row["event_id"], rows[0]["event_id"], "the same event, sent thrice");
    }
    // Who wants no trace.
    let request = service.client.post(format!("{}{TP2}", service.url)).header("SP-Anonymous", "*");
    let body = format!(r#"{{"data":[{}]}}"#, event.replacen('{', &format!(r#"{{"aid":"{WRITE_KEY}","#), 1));
    assert_eq!(send(request.body(body)).await, ok());
    let rows = service.events();
    let row = rows.last().unwrap();
    assert_eq!(row["user_id"].as_str().unwrap_or_default(), "");
    assert_ne!(row["visitor_id"], "d");
}

#[tokio::test]
async fn pages_may_send_with_credentials() {
    let service = Service::start().await;
    let origin = "https://shop.example";
    let preflight = service
        .client
        .request(reqwest::Method::OPTIONS, format!("{}{TP2}", service.url))
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,sp-anonymous");
    let asked = service.send(preflight).await;
    assert_eq!(asked.headers["access-control-allow-headers"], "content-type,sp-anonymous");
    let sent = service.client.post(format!("{}{TP2}", service.url)).header("origin", origin).body("x");
    for answer in [asked, service.send(sent).await] {
        assert_eq!(answer.headers["access-control-allow-origin"], origin);
        assert_eq!(answer.headers["access-control-allow-credentials"], "true");
    }
}

#[tokio::test]
async fn what_is_no_request_is_refused_for_good() {
    let service = Service::start().await;
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let many = vec!["{}"; 2_501].join(",");
    for body in [
        Vec::new(),
        b"x".to_vec(),
        b"[]".to_vec(),
        b"{}".to_vec(),
        br#"{"data":{}}"#.to_vec(),
        br#"{"data":null}"#.to_vec(),
        format!(r#"{{"data":[{many}]}}"#).into_bytes(),
        // Its trackers would send what is too large again for ever.
        vec![b' '; 2 << 20],
    ] {
        let (status, kind, said) = post(&service, body).await;
        assert_eq!(
            (status, kind.as_str(), said.is_empty()),
            (400, "text/plain; charset=utf-8", false),
            "{said}"
        );
    }
    let event = r#"{"data":[{"e":"se","se_ac":"a"}]}"#;
    for keyless in [event.to_owned(), format!(r#"{{"data":{deep}}}"#), r#"{"data":["x"]}"#.into()] {
        assert_eq!(post(&service, keyless).await.0, 401, "no key");
    }
    assert_eq!(post(&service, event.replace("{\"e\"", "{\"aid\":\"nobody\",\"e\"")).await.0, 401);
    assert_eq!(post(&service, event.replace("{\"e\"", "{\"aid\":{},\"e\"")).await.0, 401);
    let strict = event.replace("{\"e\"", "{\"aid\":\"strict-write-key\",\"e\"");
    let request =
        service.client.post(format!("{}{TP2}", service.url)).header("origin", "https://elsewhere.example");
    assert_eq!(send(request.body(strict)).await.0, 403);
    for query in ["", "?", "?e=pv", "?e=%ff&aid=%00", "?aid=demo-write-key", "?aid=demo-write-key&e=xx"] {
        let (status, ..) = send(service.client.get(format!("{}/i{query}", service.url))).await;
        assert!(matches!(status, 400 | 401), "{query}: {status}");
    }
    assert_eq!(service.events(), Vec::<Value>::new());
    let starting = Service::with(|config| config.keys_snapshot = None).await;
    let response = starting.client.post(format!("{}{TP2}", starting.url)).body(event).send().await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (503, &"2".parse().unwrap())
    );
}

#[tokio::test]
async fn a_bad_event_costs_its_neighbours_nothing() {
    let service = Service::start().await;
    let good = r#"{"e":"se","se_ac":"good"}"#;
    assert_eq!(payload(&service, &[good]).await, ok());
    let ue = |json: &str| format!(r#"{{"e":"ue","ue_pr":{}}}"#, Value::from(json));
    let shop = |kind: &str, entities: Value| {
        let action = json!({ "type": kind });
        let event =
            self_describing("com.snowplowanalytics.snowplow.ecommerce/snowplow_ecommerce_action", &action);
        let contexts = json!({ "schema": "iglu:x/contexts/jsonschema/1-0-0", "data": entities });
        json!({ "e": "ue", "ue_pr": event.to_string(), "co": contexts.to_string() }).to_string()
    };
    let entity = |name: &str, data: Value| json!([{ "schema": format!("iglu:com.snowplowanalytics.snowplow.ecommerce/{name}/jsonschema/1-0-0"), "data": data }]);
    let long = "x".repeat(9_000);
    for (event, reason) in [
        (r#"{"e":"xx"}"#.into(), "unknown_type"),
        (r#"{"e":7}"#.into(), "missing_field"),
        (r#"{"x":"pv"}"#.into(), "missing_field"),
        (r#"{"e":"pv"}"#.into(), "missing_field"),
        (r#"{"e":"pv","url":"/relative"}"#.into(), KEPT),
        (r#"{"e":"pv","url":["https://shop.example/"]}"#.into(), "wrong_type"),
        (format!(r#"{{"e":"pv","url":"https://shop.example/{long}"}}"#), KEPT),
        (r#"{"e":"se","se_ca":"c"}"#.into(), "missing_field"),
        (r#"{"e":"se","se_ac":"a","se_va":"many"}"#.into(), KEPT),
        (r#"{"e":"se","se_ac":"a","dtm":"now"}"#.into(), KEPT),
        (r#"{"e":"tr","tr_tt":"1"}"#.into(), "empty_order_id"),
        (r#"{"e":"tr","tr_id":"1","tr_tt":"-1"}"#.into(), KEPT),
        (r#"{"e":"tr","tr_id":"1","tr_tt":"1","tr_cu":"gold"}"#.into(), KEPT),
        (r#"{"e":"ti","ti_id":"none","ti_pr":"x"}"#.into(), KEPT),
        (r#"{"e":"ue"}"#.into(), "missing_field"),
        (r#"{"e":"ue","ue_px":"!!!"}"#.into(), "missing_field"),
        (r#"{"e":"ue","ue_px":7}"#.into(), "missing_field"),
        (r#"{"e":"ue","ue_px":"e30"}"#.into(), "missing_field"),
        (r#"{"e":"ue","ue_px":"/w=="}"#.into(), "missing_field"),
        (ue("{}"), "missing_field"),
        (ue("[]"), "missing_field"),
        (ue(r#"{"data":{"schema":"iglu:a/b/jsonschema/1-0-0","data":7}}"#), "missing_field"),
        (ue(r#"{"data":{"schema":7,"data":{}}}"#), "missing_field"),
        (ue(&("[".repeat(100_000) + &"]".repeat(100_000))), "missing_field"),
        (shop("transaction", json!([])), "empty_order_id"),
        (shop("transaction", entity("transaction", json!({ "transaction_id": "1", "revenue": -1 }))), KEPT),
        (
            shop("transaction", entity("transaction", json!({ "transaction_id": "1", "currency": "gold" }))),
            KEPT,
        ),
        (shop("product_view", entity("product", json!({ "id": "p", "price": "dear" }))), KEPT),
        (shop("product_view", entity("product", json!({ "id": "p", "price": -1 }))), KEPT),
        (shop("", json!([])), "missing_field"),
    ] {
        let (before, stored) = (service.rejected(reason), service.events().len());
        if reason == KEPT {
            assert_eq!(payload(&service, &[good, &event, good]).await, ok(), "{event}");
            assert_eq!(service.events().len() - stored, 3, "{event}");
            continue;
        }
        assert_eq!(payload(&service, &[good, &event, good]).await, ok(), "{event}");
        assert_eq!(service.rejected(reason) - before, 1.0, "{reason}: {event}");
        assert_eq!(service.events().len() - stored, 2, "{event}");
        assert_eq!(payload(&service, &[&event]).await.0, 400, "{event}");
    }
}

#[tokio::test]
async fn what_only_describes_an_event_never_costs_it() {
    let service = Service::start().await;
    for extra in [
        r#""cx":"!!!""#,
        r#""cx":7"#,
        r#""co":"{""#,
        r#""co":"[]""#,
        r#""co":"{\"data\":[7,{},{\"schema\":\"x\",\"data\":{}}]}""#,
        r#""res":"1x","vp":"x","ds":"axb""#,
        r#""res":"-1x99999999","vp":7,"ds":[]"#,
        r#""tz":{},"lang":7,"page":[],"refr":{},"uid":[]"#,
        r#""stm":"never","ip":"here","ua":{}"#,
        r#""eid":{}"#,
    ] {
        let event = format!(r#"{{"e":"se","se_ac":"a",{extra}}}"#);
        assert_eq!(payload(&service, &[&event]).await, ok(), "{extra}");
    }
    assert_eq!(service.events().len(), 10);
}

#[tokio::test]
async fn both_alphabets_of_base64_are_read() {
    let service = Service::start().await;
    let event = self_describing("com.shop/tasted", &json!({ "of": "Grüße ÿ þ ~~~???" })).to_string();
    for encoded in [
        general_purpose::URL_SAFE_NO_PAD.encode(&event),
        general_purpose::URL_SAFE.encode(&event),
        general_purpose::STANDARD.encode(&event),
    ] {
        let event = json!({ "e": "ue", "ue_px": encoded }).to_string();
        assert_eq!(payload(&service, &[&event]).await, ok());
        let rows = service.events();
        let row = rows.last().unwrap();
        assert_eq!((&row["name"], &row["properties"]["of"]), (&json!("tasted"), &json!("Grüße ÿ þ ~~~???")));
    }
}

#[tokio::test]
async fn page_pings_belong_to_their_page_view() {
    let service = Service::start().await;
    let page = json!({ "schema": "iglu:com.snowplowanalytics.snowplow/web_page/jsonschema/1-0-0", "data": { "id": "p" } });
    let contexts = json!({ "schema": "iglu:x/contexts/jsonschema/1-0-0", "data": [page] }).to_string();
    let ping = json!({
        "e": "pp", "url": "https://shop.example/", "co": contexts, "pp_may": "500", "ds": "1000x2000", "vp": "800x600",
    });
    let mut alone = ping.clone();
    alone.as_object_mut().unwrap().remove("co");
    let mut still = ping.clone();
    still.as_object_mut().unwrap().remove("pp_may");
    assert_eq!(payload(&service, &[&ping.to_string(), &alone.to_string(), &still.to_string()]).await, ok());
    let said: Vec<_> = service
        .events()
        .iter()
        .map(|row| {
            let depth = row["scroll_depth"].as_u64().unwrap_or(0);
            (row["name"].clone(), row["page_view_id"].clone(), depth)
        })
        .collect();
    let text = |text: &str| json!(text);
    assert_eq!(said[0], (text("page_view"), text("p"), 55));
    assert_eq!((&said[1].0, said[1].2), (&text("page_ping"), 55));
    assert_eq!(said[2], (text("page_view"), text("p"), 30));
}

#[tokio::test]
async fn items_join_the_order_before_them() {
    let service = Service::start().await;
    let order = r#"{"e":"tr","tr_id":"1","tr_tt":"30","tr_cu":"eur"}"#;
    let item = r#"{"e":"ti","ti_id":"1","ti_sk":"mug","ti_pr":"10","ti_qu":"3"}"#;
    let stray = r#"{"e":"ti","ti_id":"2","ti_sk":"tea","ti_pr":"1","ti_qu":"1"}"#;
    assert_eq!(payload(&service, &[order, item, item, stray]).await, ok());
    let rows = service.events();
    assert_eq!(rows.len(), 2);
    assert_eq!((&rows[0]["name"], &rows[0]["currency"]), (&json!("purchase"), &json!("EUR")));
    assert_eq!(rows[0]["item_product_id"], json!(["mug", "mug"]));
    assert_eq!((&rows[1]["name"], &rows[1]["order_id"]), (&json!("transaction_item"), &json!("2")));
}

#[tokio::test]
async fn web_vitals_and_errors_are_named_as_the_snippet_names_them() {
    let service = Service::start().await;
    let told = |name: &str, data: Value| {
        let event = self_describing(&format!("com.snowplowanalytics.snowplow/{name}"), &data).to_string();
        json!({ "e": "ue", "ue_pr": event, "eid": "0190a0b0-0000-4000-8000-000000000001", "duid": "d" })
            .to_string()
    };
    let vitals = told("web_vitals", json!({ "lcp": 1200.5, "cls": 0.01, "inp": null, "fid": 3 }));
    let error =
        told("application_error", json!({ "message": "no tea", "fileName": "a.js", "lineNumber": 7 }));
    assert_eq!(payload(&service, &[&vitals, &error]).await, ok());
    let rows = service.events();
    let seen: Vec<_> = rows.iter().map(|row| (&row["name"], &row["label"], &row["value"])).collect();
    assert_eq!(
        seen,
        [
            (&json!("web_vitals"), &json!("LCP"), &json!(1200.5)),
            (&json!("web_vitals"), &json!("CLS"), &json!(0.01)),
            (&json!("exception"), &Value::Null, &Value::Null),
        ]
    );
    assert!(rows.iter().all(|row| row["non_interactive"] == 1));
    assert_ne!(rows[0]["event_id"], rows[1]["event_id"]);
    assert_eq!(rows[2]["properties"], json!({ "message": "no tea", "source": "a.js", "line": "7" }));
}

#[tokio::test]
async fn an_item_says_the_currency_that_its_order_does_not() {
    let service = Service::start().await;
    let order = r#"{"e":"tr","tr_id":"1","tr_tt":"30"}"#;
    let item = r#"{"e":"ti","ti_id":"1","ti_sk":"mug","ti_pr":"10","ti_qu":"3","ti_cu":"jpy"}"#;
    let other = r#"{"e":"ti","ti_id":"1","ti_sk":"tea","ti_pr":"10","ti_qu":"3","ti_cu":"EUR"}"#;
    let next = [order, item].map(|event| event.replace(r#"_id":"1""#, r#"_id":"2""#));
    let before = r#"{"e":"se","se_ac":"a"}"#;
    assert_eq!(payload(&service, &[before, order, item, other, before, &next[0], &next[1]]).await, ok());
    let rows = service.events();
    assert_eq!(rows.len(), 4);
    for (row, items) in [(&rows[1], json!(["mug", "tea"])), (&rows[3], json!(["mug"]))] {
        assert_eq!((&row["currency"], &row["total_minor"]), (&json!("JPY"), &json!(30)));
        assert_eq!(row["item_product_id"], items);
    }
}

#[tokio::test]
async fn a_shops_own_schemas_are_its_own() {
    let service = Service::start().await;
    let entity = |vendor: &str, name: &str, data: Value| json!({ "schema": format!("iglu:{vendor}/{name}/jsonschema/1-0-0"), "data": data });
    let contexts =
        |entities: Value| json!({ "schema": "iglu:x/contexts/jsonschema/1-0-0", "data": entities });
    let own = json!([
        entity("com.shop", "user", json!({ "id": "u" })),
        entity("com.shop", "web_page", json!({ "id": "p" })),
        entity("com.snowplowanalytics.snowplow", "web_page", json!({ "id": "page" })),
    ]);
    let seen = json!({ "e": "pv", "url": "https://shop.example/", "co": contexts(own).to_string() });
    // Its orders are orders, as with every other product.
    let order = json!({ "order_id": 7, "total": "30", "currency": "eur", "products": [{ "sku": "mug" }], "gift": true });
    let order =
        json!({ "e": "ue", "ue_pr": self_describing("com.shop/order_completed", &order).to_string() });
    // Refunds of some products are several.
    let refund = json!({ "order_id": 7, "total": 3, "currency": "eur", "products": [{ "sku": "mug" }] });
    let refund = self_describing("com.shop/refund", &refund).to_string();
    let refund = json!({ "e": "ue", "eid": "5f3a4c1e-8d2b-4f6a-9c7e-1b2d3e4f5a6b", "ue_pr": refund });
    let sent = [&seen, &order, &refund].map(Value::to_string);
    assert_eq!(payload(&service, &sent.each_ref().map(String::as_str)).await, ok());
    let rows = service.events();
    assert_eq!((&rows[2]["name"], &rows[2]["refund_id"]), (&json!("refund"), &refund["eid"]));
    assert_eq!((&rows[0]["user_id"], &rows[0]["page_view_id"]), (&Value::Null, &json!("page")));
    assert_eq!(rows[0]["properties"], json!({ "user.id": "u", "web_page.id": "p" }));
    assert_eq!((&rows[1]["name"], &rows[1]["order_id"]), (&json!("purchase"), &json!("7")));
    assert_eq!((&rows[1]["total_minor"], &rows[1]["currency"]), (&json!(3000), &json!("EUR")));
    assert_eq!(
        (&rows[1]["item_product_id"], &rows[1]["properties"]),
        (&json!(["mug"]), &json!({ "gift": "true" }))
    );
}

/// What trackers wrap is JSON of the page's own, and as careless as that.
#[tokio::test]
async fn what_is_wrapped_is_mended() {
    let service = Service::start().await;
    let order = r#"{"order_id":7980012345678901234567890123,"total":50.5,"currency":"USD","n":"\ud83d","x":NaN,"y":1e400,"\ud83d":1}"#;
    let event = self_describing("com.shop/purchase", &json!("@")).to_string().replace(r#""@""#, order);
    let context = r#"{"schema":"x","data":[{"schema":"iglu:com.shop/cart/jsonschema/1-0-0","data":{"id":9007199254740993,"n":"\ud83d","x":NaN}}]}"#;
    let encoded = |json: &str| general_purpose::STANDARD.encode(json);
    let lines = |json: &str| {
        let text = encoded(json);
        let lines: Vec<_> =
            text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        lines.join("\r\n")
    };
    for sent in [
        json!({ "e": "ue", "ue_px": encoded(&event), "cx": encoded(context) }),
        json!({ "e": "ue", "ue_px": lines(&event), "cx": lines(context) }),
        json!({ "e": " ue", "ue_pr": event, "co": context }),
        json!({ "e": "ue", "ue_px": "!!!", "ue_pr": event, "cx": 7, "co": context }),
    ] {
        let sent = sent.to_string();
        assert_eq!(payload(&service, &[&sent]).await, ok(), "{sent}");
        let row = service.events().pop().unwrap();
        let wanted =
            json!({ "name": "purchase", "order_id": "7980012345678901234567890123", "total_minor": 5_050 });
        assert_row(&row, &wanted);
        let said = (&row["properties"]["cart.id"], &row["properties"]["cart.n"], &row["properties"]["n"]);
        assert_eq!(said, (&json!("9007199254740993"), &json!("\u{fffd}"), &json!("\u{fffd}")), "{sent}");
    }
}

#[tokio::test]
async fn items_join_an_order_of_any_spelling() {
    let service = Service::start().await;
    for (order_id, item_id) in [("1", "1"), (r#""1 ""#, r#""1""#), ("1", r#""1""#), (r#""1""#, "1.0")] {
        let order = format!(r#"{{"e":"tr","tr_id":{order_id},"tr_cu":"USD"}}"#);
        let item = format!(r#"{{"e":"ti","ti_id":{item_id},"ti_sk":"mug","ti_pr":"10","ti_qu":"3"}}"#);
        let before = service.events().len();
        assert_eq!(payload(&service, &[&order, &item]).await, ok(), "{order}");
        let rows = service.events().split_off(before);
        assert_eq!(rows.len(), 1, "{order} {item}");
        assert_row(&rows[0], &json!({ "name": "purchase", "order_id": "1", "item_product_id": ["mug"] }));
    }
}

#[tokio::test]
async fn of_two_lists_both_are_taken() {
    let service = Service::start().await;
    let event = |action: &str| format!(r#"{{"aid":"{WRITE_KEY}","e":"se","se_ac":"{action}"}}"#);
    let body = format!(r#"{{"schema":"x","data":[{}],"data":[{}]}}"#, event("a"), event("b"));
    assert_eq!(post(&service, body).await, ok());
    let names: Vec<_> = service.events().iter().map(|row| row["name"].clone()).collect();
    assert_eq!(names, ["a", "b"]);
}
