//! The document and the answers agree.

use millrace_testbed::Conformance;

use crate::{process::Collector, service::WRITE_KEY};

#[tokio::test]
async fn answers_are_as_the_document_says() {
    let collector = Collector::start(&[]).await;
    // An event that is wrong costs its neighbours nothing, so some of what no schema allows is accepted in part; and of
    // what a schema allows, some has no sense: a purchase without an order, a text of so many characters and more bytes.
    // Every field of an event at each of its bounds, in each content type: thousands of cases.
    let coverage = match std::env::var_os("MILLRACE_ACCEPT") {
        Some(_) => "",
        None => "phases.coverage.enabled = false",
    };
    let settings = format!(
        r#"
[auth.openapi]
writeKey = {{ api_key = "{WRITE_KEY}" }}
bearer = {{ bearer = "{WRITE_KEY}" }}
query = {{ api_key = "{WRITE_KEY}" }}

[[operations]]
include-name = "POST /v1/collect"
checks.negative_data_rejection.expected-statuses = [202, 400, 401, 403, 413, 414, 415, 422, 431]
checks.positive_data_acceptance.expected-statuses = [202, 401, 422]

{coverage}

[[operations]]
include-name = "GET /v1/pixel.gif"
checks.negative_data_rejection.expected-statuses = [200, 401, 413, 414, 422, 431]
checks.positive_data_acceptance.expected-statuses = [200, 401, 422]
parameters."query.key" = "{WRITE_KEY}"
"#
    );
    let document = format!("{}/openapi.json", collector.url());
    if let Err(said) = (Conformance { document, settings }).check().await.unwrap() {
        panic!("{said}\n{}", collector.said());
    }
}
