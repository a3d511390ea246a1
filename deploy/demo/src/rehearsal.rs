//! The whole round: a fresh store, its traffic, the wait for the rollups, the comparison.

use std::time::Duration;

use anyhow::Context as _;
use jiff::Timestamp;
use millrace_recount::{Patience, Rates, Store, Verdict, verify};
use sqlx::PgPool;

use super::{
    Account, Keys, Pace, Scenario, SendReport, Traffic, create_funnel, create_store, insert_rates,
    read_rates, send,
};

/// How long a collector may take to learn of a new key.
const KEY_KNOWN_WITHIN: Duration = Duration::from_secs(30);

/// A running instance.
#[derive(Clone, Debug)]
pub struct Target {
    /// Base URL of the collector.
    pub collector: String,
    /// Base URL of the admin API.
    pub api: String,
    /// Token of the admin API.
    pub admin_token: String,
    /// Where the rollups are.
    pub postgres: PgPool,
}

/// What came of a rehearsal.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The store it happened in.
    pub account: Account,
    /// The store's settings, for a later [`verify`].
    pub store: Store,
    /// What was sent.
    pub traffic: Traffic,
    /// Before the first request.
    pub sent_from: Timestamp,
    /// How the collector answered.
    pub sent: SendReport,
    /// What the rollups showed.
    pub verdict: Verdict,
}

impl Outcome {
    /// An error that says what is wrong, if anything is.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.sent.wrong_answers == 0,
            "{} answers of the collector are wrong:\n{}",
            self.sent.wrong_answers,
            self.sent.listed.join("\n")
        );
        anyhow::ensure!(self.verdict.is_equal(), "the rollups differ from the recount:\n{}", self.verdict);
        Ok(())
    }
}

/// Makes a store, sends a scenario's traffic into it, waits for the rollups and compares them.
///
/// `rates` are written into the instance first; without, those that it has apply.
pub async fn rehearse(
    target: &Target,
    scenario: &Scenario,
    rates: Option<&Rates>,
    pace: Pace,
    patience: Patience,
) -> anyhow::Result<Outcome> {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(60)).build()?;
    let traffic = scenario.generate()?;
    if let Some(rates) = rates {
        insert_rates(&target.postgres, &scenario.currency, rates).await?;
    }
    let name = format!("Demo shop {}", scenario.seed);
    let account = create_store(&client, &target.api, &target.admin_token, &name, scenario).await?;
    for funnel in &traffic.funnels {
        create_funnel(&client, &target.api, &target.admin_token, &account.store_id, funnel).await?;
    }
    let store = Store {
        store_id: account.store_id.clone(),
        time_zone: scenario.time_zone.clone(),
        currency: scenario.currency.clone(),
        prices_include_tax: false,
        rates: read_rates(&target.postgres, &scenario.currency).await?,
        funnels: traffic.funnels.clone(),
    };
    await_keys(&client, &target.collector, &account.keys()).await?;

    let sent_from = Timestamp::now();
    let sent = send(&client, &target.collector, &account.keys(), &traffic.requests, pace).await?;
    let verdict = verify(&target.postgres, &traffic.ledger, &store, sent_from, patience).await?;
    Ok(Outcome { account, store, traffic, sent_from, sent, verdict })
}

/// Waits until the collector knows the keys of a new store, by requests that hold no events.
async fn await_keys(client: &reqwest::Client, collector: &str, keys: &Keys) -> anyhow::Result<()> {
    let begin = tokio::time::Instant::now();
    for key in [&keys.write, &keys.secret] {
        loop {
            let answer = client
                .post(format!("{collector}/v1/collect"))
                .header("x-write-key", key)
                .header("content-type", "application/json")
                .body("[]")
                .send()
                .await
                .with_context(|| format!("the collector at {collector} does not answer"))?;
            if answer.status().as_u16() != 401 {
                break;
            }
            anyhow::ensure!(
                begin.elapsed() < KEY_KNOWN_WITHIN,
                "the collector does not learn of a new store's keys"
            );
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    Ok(())
}
