//! The document and the answers agree.

use millrace_aggregator::api::{Access, routes};
use millrace_testbed::Conformance;
use serde_json::{Value, json};

use crate::{
    api::Service,
    harness::{ADMIN_TOKEN, Bed},
};

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_as_the_document_says() {
    let bed = Bed::start().await;
    bed.demo().await;
    let service = Service::start(&bed).await;
    // What no schema can say: that `from` is before `to`, that a filter's value fits its operator, that a rate has 18
    // digits, which names are a time zone's, that a whole number is written without a fraction.
    let mut settings = format!(
        r#"
[auth.openapi]
store = {{ bearer = "demo-api-token" }}
admin = {{ bearer = "{ADMIN_TOKEN}" }}

[parameters]
"path.store_id" = "demo"

"#
    );
    let (_, document) = service.get("/openapi.json", "").await;
    // 401: it revokes what it finds, the token that it goes on with, too. A case for each of 180 currencies, in each place
    // where one stands.
    let is_short = std::env::var_os("MILLRACE_ACCEPT").is_none();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let has_body = operation.get("requestBody").is_some();
            let is_read = method == "get" && operation["parameters"].is_array();
            if !(has_body || is_read) {
                continue;
            }
            let takes_currencies = has_body && operation["requestBody"].to_string().contains("\"ZWG\"");
            let coverage = !(is_short && takes_currencies);
            settings.push_str(&format!(
                "[[operations]]\ninclude-name = \"{} {path}\"\nphases.coverage.enabled = {coverage}\n\
                 checks.positive_data_acceptance.expected-statuses = [200, 201, 202, 400, 401, 404, 409]\n",
                method.to_uppercase()
            ));
        }
    }
    let conformance = Conformance { document: format!("{}/openapi.json", service.address), settings };
    if let Err(said) = conformance.check().await.unwrap() {
        panic!("{said}");
    }
    service.stop().await;
}

/// Whatever the document leaves out is no part of the API.
#[tokio::test(flavor = "multi_thread")]
async fn every_operation_says_what_it_may_answer() {
    let bed = Bed::start().await;
    let service = Service::start(&bed).await;
    let (_, document) = service.get("/openapi.json", "").await;
    let paths = document["paths"].as_object().unwrap();
    // Each rollup is a path of its own there.
    const ROLLUP: &str = "/api/v1/stores/{store_id}/{rollup}";
    let mut rollups = paths.clone();
    for route in routes().iter().filter(|route| route.path != ROLLUP) {
        let operation = &paths[route.path][route.method.as_str().to_lowercase()];
        let security = match route.access {
            Access::Open => Value::Null,
            Access::Store => json!([{"store": []}]),
            Access::Admin => json!([{"admin": []}]),
        };
        assert_eq!(operation["security"], security, "{} {}", route.method, route.path);
        rollups.remove(route.path);
    }
    assert_eq!(rollups.len(), 7, "{rollups:?}");
    for (path, methods) in &rollups {
        let rollup = path.strip_prefix("/api/v1/stores/{store_id}/").unwrap();
        assert!(
            !rollup.contains(['/', '{']) && methods["get"]["security"] == json!([{"store": []}]),
            "{path}"
        );
    }
    let operations = |paths: &serde_json::Map<String, Value>| -> usize {
        paths.values().map(|path| path.as_object().unwrap().len()).sum()
    };
    assert_eq!(operations(paths) - operations(&rollups), routes().len() - 1);
    for (path, methods) in paths {
        for (method, operation) in methods.as_object().unwrap() {
            let has = |status: &str| operation["responses"].get(status).is_some();
            for status in ["400", "421", "504"] {
                assert!(has(status), "{method} {path}: {status}");
            }
            let is_open = operation.get("security").is_none_or(Value::is_null);
            assert_eq!(is_open, !path.starts_with("/api/"), "{method} {path}");
            for status in ["401", "403", "503"].iter().filter(|_| !is_open) {
                assert!(has(status), "{method} {path}: {status}");
            }
            for status in ["408", "413", "415"] {
                assert_eq!(has(status), operation.get("requestBody").is_some(), "{method} {path}: {status}");
            }
        }
    }
    service.stop().await;
}
