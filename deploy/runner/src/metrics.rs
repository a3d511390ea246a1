//! One Prometheus recorder for all services, and the listener that serves it with `/healthz` and `/readyz`.

use std::time::Duration;

use anyhow::Context as _;
use axum::{Json, Router, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use millrace_consumer::Health;
use millrace_schemas::metric;
use millrace_service::{host::Hosts, serve::serve_metrics};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Histograms collect samples until they are looked at; without upkeep they would grow where nobody scrapes.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);
/// A service in this process that does not answer in this time is not well.
const READY_PATIENCE: Duration = Duration::from_secs(2);

/// Makes the recorder of this process.
pub(super) fn install() -> anyhow::Result<PrometheusHandle> {
    let mut builder = PrometheusBuilder::new();
    for (ending, buckets) in metric::BUCKETS {
        builder = builder.set_buckets_for_metric(Matcher::Suffix(ending.to_owned()), buckets)?;
    }
    let handle = builder.install_recorder().context("cannot install the metrics recorder")?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP_EVERY).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// Whom `/readyz` asks.
#[derive(Clone)]
pub(super) struct Services {
    /// The consumer has no listener of its own here.
    pub(super) consumer: Health,
    /// Services with a `/readyz` of their own: name and base address.
    pub(super) asked: Vec<(&'static str, String)>,
}

impl Services {
    /// Waits until everybody is ready, but not for ever: what is not ready then says why by itself.
    pub(super) async fn ready(&self, patience: Duration) {
        let client = reqwest::Client::new();
        let all = async {
            while self.readiness(&client).await.0 != StatusCode::OK {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            let (_, Json(why)) = self.readiness(&client).await;
            tracing::warn!(%why, "not everything is ready");
        }
    }

    /// Everybody's answer in one: ready when all are.
    async fn readiness(&self, client: &reqwest::Client) -> (StatusCode, Json<Value>) {
        let consumer = self.consumer.readiness();
        let mut ready = consumer.ready;
        let mut all = Map::new();
        all.insert("consumer".to_owned(), json!(consumer));
        for (name, address) in &self.asked {
            let (is_ready, detail) = ask(client, address).await;
            ready &= is_ready;
            all.insert((*name).to_owned(), detail);
        }
        all.insert("ready".to_owned(), Value::Bool(ready));
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, Json(Value::Object(all)))
    }
}

async fn ask(client: &reqwest::Client, address: &str) -> (bool, Value) {
    match client.get(format!("{address}/readyz")).timeout(READY_PATIENCE).send().await {
        Ok(answer) => {
            let is_ready = answer.status().is_success();
            (is_ready, answer.json().await.unwrap_or(Value::Bool(is_ready)))
        }
        Err(error) => (false, Value::String(format!("does not answer: {error}"))),
    }
}

/// Serves until `shutdown`.
pub(super) async fn serve(
    listener: TcpListener,
    handle: PrometheusHandle,
    services: Services,
    hosts: Hosts,
    shutdown: CancellationToken,
) {
    let client = reqwest::Client::new();
    let readyz = move || {
        let (services, client) = (services.clone(), client.clone());
        async move { services.readiness(&client).await }
    };
    let router = Router::new()
        .route("/healthz", get(|| std::future::ready(Json(json!({"status": "ok"})))))
        .route("/readyz", get(readyz));
    serve_metrics(listener, router, move || handle.render(), hosts, shutdown).await;
}
