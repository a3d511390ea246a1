//! A fresh store through the admin API.

use anyhow::Context as _;
use millrace_recount::Funnel;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Keys, Scenario};

/// A store, and what opens it.
#[derive(Clone, Debug, Deserialize)]
pub struct Account {
    /// Identity of the store.
    pub store_id: String,
    /// Public key, for pages.
    pub write_key: String,
    /// Key of the shop's server.
    pub secret_key: String,
    /// Token for the read API.
    pub api_token: String,
}

impl Account {
    /// The keys for sending.
    pub fn keys(&self) -> Keys {
        Keys { write: self.write_key.clone(), secret: self.secret_key.clone() }
    }
}

async fn post(
    client: &reqwest::Client,
    url: &str,
    admin_token: &str,
    body: &Value,
) -> anyhow::Result<String> {
    let answer = client
        .post(url)
        .bearer_auth(admin_token)
        .json(body)
        .send()
        .await
        .with_context(|| format!("the admin API at {url} does not answer"))?;
    let status = answer.status();
    let text = answer.text().await?;
    anyhow::ensure!(status.is_success(), "the admin API at {url} answered {status}: {text}");
    Ok(text)
}

/// Creates the store that a scenario needs.
pub async fn create_store(
    client: &reqwest::Client,
    api: &str,
    admin_token: &str,
    name: &str,
    scenario: &Scenario,
) -> anyhow::Result<Account> {
    let body = json!({
        "name": name,
        "timezone": scenario.time_zone.iana_name().unwrap_or("UTC"),
        "currency": scenario.currency,
        "max_event_age_days": scenario.event_age_days().max(30),
    });
    let text = post(client, &format!("{api}/api/v1/stores"), admin_token, &body).await?;
    serde_json::from_str(&text).context("the admin API's answer is not a store")
}

/// Creates a funnel of a store.
pub async fn create_funnel(
    client: &reqwest::Client,
    api: &str,
    admin_token: &str,
    store_id: &str,
    funnel: &Funnel,
) -> anyhow::Result<()> {
    let steps: Vec<Value> = funnel
        .steps
        .iter()
        .map(|step| json!({ "step_name": step.name, "event": step.event, "filters": step.filters }))
        .collect();
    let body = json!({
        "funnel_name": funnel.name,
        "order_mode": funnel.order_mode,
        "window_seconds": funnel.window_seconds,
        "steps": steps,
    });
    post(client, &format!("{api}/api/v1/stores/{store_id}/funnels"), admin_token, &body).await?;
    Ok(())
}
