//! The rounds, one after the other, and what each came to.
//!
//! Traffic comes in chapters of some rounds. Each has a store of its own and ends with the comparison of its rollups, so
//! that no comparison grows with the length of the run.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io::IsTerminal as _,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::{Timestamp, tz::TimeZone};
use millrace_demo::{Scenario, create_funnel, create_store, example_rates, insert_rates, read_rates};
use millrace_recount::{Patience, Store, verify};
use rdkafka::{
    ClientConfig,
    producer::{FutureProducer, FutureRecord},
};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    Config, Sabotage,
    check::{Account, ClickHouse, Held, poison},
    fault::{self, Round},
    load::Load,
    node::Stack,
    recipe::ADMIN_TOKEN,
    report::{Report, Tally},
};

/// How long after the last fault everything may take to be whole again. A busy machine is slow.
const WHOLE_WITHIN: Duration = Duration::from_secs(180);
/// The same for a check that is expected to fail.
const SABOTAGE_WITHIN: Duration = Duration::from_secs(3);
/// How long the first start may take.
const START_PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(200);
/// Rounds whose traffic belongs to one store.
const CHAPTER_ROUNDS: usize = 10;
/// Seconds of load for which a round's share of a chapter's traffic is made up.
const ROUND_SECONDS: usize = 15;
/// Load before the first fault of a round and after the last.
const CALM: Duration = Duration::from_millis(500);
/// Messages that no consumer can decode, in each round.
const POISON_PER_ROUND: usize = 2;

/// A store, its traffic, and what became of it.
struct Chapter {
    scenario: Scenario,
    store: Store,
    sent_from: Timestamp,
    load: Load,
    /// The account after the last round.
    account: Account,
}

/// A chapter that is over.
struct Past {
    scenario: Scenario,
    store: Store,
    sent_from: Timestamp,
    accepted: HashSet<Uuid>,
}

/// A run.
pub(super) struct Campaign {
    stack: Arc<Stack>,
    clickhouse: ClickHouse,
    postgres: PgPool,
    client: reqwest::Client,
    seed: u64,
    rate: u32,
    sabotage: Option<Sabotage>,
    chapters: u64,
    past: Vec<Past>,
    /// Names of the poison messages that Kafka has taken.
    poison: BTreeSet<String>,
    report: Report,
    bar: ProgressBar,
}

impl Campaign {
    pub(super) async fn new(config: &Config, seed: u64, stack: Arc<Stack>) -> anyhow::Result<Self> {
        let addresses = &stack.addresses;
        let postgres = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(30))
            .connect_lazy(&addresses.postgres)?;
        Ok(Self {
            clickhouse: ClickHouse::new(&addresses.clickhouse)?,
            postgres,
            client: reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?,
            seed,
            rate: config.rate,
            sabotage: config.sabotage,
            chapters: 0,
            past: Vec::new(),
            poison: BTreeSet::new(),
            report: Report::new(seed),
            bar: ProgressBar::hidden(),
            stack,
        })
    }

    /// All rounds; the first difference ends it.
    pub(super) async fn run(&mut self, rounds: &[Round]) -> anyhow::Result<()> {
        self.bar = progress_bar(rounds.len())?;
        self.report.planned = rounds.len();
        let outcome = self.rounds(rounds).await;
        self.bar.finish_and_clear();
        outcome
    }

    /// What came of it, whole or not.
    pub(super) async fn report(&mut self) -> Report {
        let clickhouse = self.clickhouse.query("SELECT version()").await.unwrap_or_default();
        let postgres: Result<String, _> =
            sqlx::query_scalar("SHOW server_version").fetch_one(&self.postgres).await;
        self.report.remarks.extend(self.stack.take_remarks());
        self.report.versions = format!(
            "ClickHouse {} (engine), Postgres {}, Kafka {}",
            clickhouse.trim(),
            postgres.unwrap_or_default(),
            super::report::kafka_version()
        );
        std::mem::replace(&mut self.report, Report::new(self.seed))
    }

    async fn rounds(&mut self, rounds: &[Round]) -> anyhow::Result<()> {
        self.say("starting");
        self.until_ready().await?;
        let mut chapter: Option<Chapter> = None;
        for (number, round) in rounds.iter().enumerate() {
            let mut current = match chapter.take() {
                Some(chapter) => chapter,
                None => self.open((rounds.len() - number).min(CHAPTER_ROUNDS)).await?,
            };
            self.say(&round.name());
            let place = || format!("round {} of {} ({})", number + 1, rounds.len(), round.name());
            self.round(round, &mut current).await.with_context(place)?;
            self.bar.inc(1);
            let is_last = number + 1 == rounds.len();
            if is_last {
                self.break_something(&current).await.with_context(place)?;
            }
            let is_full = (number + 1) % CHAPTER_ROUNDS == 0 || current.load.posted() > 0.8;
            if is_last || is_full {
                self.close(current).await.with_context(place)?;
            } else {
                chapter = Some(current);
            }
        }
        self.break_rollup().await?;
        self.say("everything once more");
        self.look_back().await
    }

    /// Waits for the first start.
    async fn until_ready(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_PATIENCE;
        for base in [&self.stack.addresses.api, &self.stack.addresses.collector] {
            let mut said = String::new();
            while !ready(&self.client, base, &mut said).await {
                ensure!(Instant::now() < deadline, "{base} is not ready: {said}");
                sleep(POLL).await;
            }
        }
        // The consumer makes the tables.
        while self.clickhouse.query("SELECT count() FROM millrace.dead_letters").await.is_err() {
            ensure!(Instant::now() < deadline, "the consumer makes no tables");
            sleep(POLL).await;
        }
        Ok(())
    }

    /// A store, its keys known to the collector, and its traffic.
    async fn open(&mut self, rounds: usize) -> anyhow::Result<Chapter> {
        let begin = Instant::now();
        self.chapters += 1;
        let zone = TimeZone::get("America/New_York")?;
        let mut scenario = Scenario {
            seed: self.seed.wrapping_mul(1_000).wrapping_add(self.chapters),
            events: self.rate as usize * ROUND_SECONDS * rounds.max(2),
            has_copies: false,
            ..Scenario::over_clock_change(Timestamp::now(), 3, zone)?
        };
        // A visitor without an id is another one on the next day, and the ledger does not know when that begins.
        if Timestamp::now().to_zoned(TimeZone::UTC).hour() == 23 {
            scenario.anonymous = 0.0;
        }
        let traffic = scenario.generate()?;
        let name = format!("Chaos shop {}", self.chapters);
        let api = &self.stack.addresses.api;
        insert_rates(&self.postgres, &scenario.currency, &example_rates(&scenario)).await?;
        let account = loop {
            match create_store(&self.client, api, ADMIN_TOKEN, &name, &scenario).await {
                Ok(account) => break account,
                Err(error) if begin.elapsed() > WHOLE_WITHIN => return Err(error),
                Err(_) => sleep(POLL).await,
            }
        };
        for funnel in &traffic.funnels {
            create_funnel(&self.client, api, ADMIN_TOKEN, &account.store_id, funnel).await?;
        }
        let store = Store {
            store_id: account.store_id.clone(),
            time_zone: scenario.time_zone.clone(),
            currency: scenario.currency.clone(),
            prices_include_tax: false,
            rates: read_rates(&self.postgres, &scenario.currency).await?,
            funnels: traffic.funnels.clone(),
        };
        let keys = account.keys();
        for key in [&keys.write, &keys.secret] {
            while !self.is_known(key).await {
                ensure!(begin.elapsed() < WHOLE_WITHIN, "the collector does not learn of a new store's keys");
                sleep(POLL).await;
            }
        }
        let held = Held::read(&self.clickhouse, &store.store_id).await?;
        let collector = &self.stack.addresses.collector;
        let load = Load::start(collector, keys, traffic.requests, f64::from(self.rate))?;
        let account = Account::new(&HashSet::new(), &self.poison, &held);
        ensure!(account.is_whole(), "before the first event: {}", account.differences());
        Ok(Chapter { scenario, store, sent_from: Timestamp::now(), load, account })
    }

    async fn is_known(&self, key: &str) -> bool {
        let url = format!("{}/v1/collect", self.stack.addresses.collector);
        let request =
            self.client.post(url).header("x-write-key", key).header("content-type", "application/json");
        let answer = request.body("[]").send().await;
        answer.is_ok_and(|answer| !matches!(answer.status().as_u16(), 401 | 503))
    }

    async fn round(&mut self, round: &Round, chapter: &mut Chapter) -> anyhow::Result<()> {
        let requests_before = chapter.load.ledger().statuses.clone();
        chapter.load.resume();
        self.send_poison().await?;
        sleep(CALM).await;
        fault::inject(&self.stack, &self.clickhouse, round).await?;
        let healed = Instant::now();
        sleep(CALM).await;
        chapter.load.pause(healed + WHOLE_WITHIN).await?;
        let account = self.reconcile(chapter, healed + WHOLE_WITHIN).await?;
        let before = std::mem::replace(&mut chapter.account, account.clone());
        let ledger = chapter.load.ledger();
        let later = |statuses: &BTreeMap<u16, usize>| statuses.get(&503).copied().unwrap_or(0);
        let tally = Tally {
            rounds: 1,
            accepted: account.accepted - before.accepted,
            stored: account.stored - before.stored,
            dead: account.dead - before.dead,
            copies: account.copies.saturating_sub(before.copies),
            doubled: account.doubled.len(),
            lost: account.lost.len(),
            later: later(&ledger.statuses) - later(&requests_before),
            whole_after: healed.elapsed(),
        };
        let names = round.faults.iter().map(|(fault, _)| fault.name());
        self.report.add(names.collect(), &tally);
        self.bar.println(format!("  {}: {tally}", round.name()));
        if self.bar.is_hidden() {
            println!("  {}: {tally}", round.name());
        }
        ensure!(ledger.wrong.is_empty(), "answers of the collector are wrong:\n{}", ledger.wrong.join("\n"));
        drop(ledger);
        for remark in self.stack.take_remarks() {
            self.report.remarks.push(format!("{}: {remark}", round.name()));
        }
        let panics = self.stack.panics();
        ensure!(panics.is_empty(), "a process panicked:\n{}", panics.join("\n"));
        Ok(())
    }

    /// Looks until all is whole. What can only get worse ends it at once.
    async fn reconcile(&self, chapter: &Chapter, deadline: Instant) -> anyhow::Result<Account> {
        loop {
            let held = Held::read(&self.clickhouse, &chapter.store.store_id).await;
            let account = held.map(|held| Account::new(&chapter.load.ledger().accepted, &self.poison, &held));
            match account {
                Ok(account) if account.is_whole() => return Ok(account),
                Ok(account) if !account.doubled.is_empty() || Instant::now() > deadline => {
                    bail!("{}", account.differences())
                }
                Err(error) if Instant::now() > deadline => return Err(error),
                Ok(_) | Err(_) => sleep(POLL).await,
            }
        }
    }

    async fn send_poison(&mut self) -> anyhow::Result<()> {
        // A new one each time: it must not matter to the check how a client of ours comes through a fault.
        let producer: FutureProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.stack.addresses.kafka)
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "60000")
            .set("reconnect.backoff.max.ms", "500")
            .set("log_level", "0")
            .create()?;
        for _ in 0..POISON_PER_ROUND {
            let number = self.poison.len();
            let (name, message) = poison(self.seed, number);
            let topic = if number.is_multiple_of(2) { "millrace.events" } else { "millrace.clicks" };
            let record = FutureRecord::to(topic).key(&name).payload(&message);
            let sent = producer.send(record, Duration::from_secs(60)).await;
            sent.map_err(|(error, _)| error).context("Kafka, in good health, takes no message")?;
            self.poison.insert(name);
        }
        Ok(())
    }

    /// Compares the rollups and keeps of the chapter what [`Campaign::look_back`] needs.
    async fn close(&mut self, chapter: Chapter) -> anyhow::Result<()> {
        self.say("comparing rollups");
        let accepted = std::mem::take(&mut chapter.load.ledger().accepted);
        let Chapter { scenario, store, sent_from, .. } = chapter;
        let past = Past { scenario, store, sent_from, accepted };
        self.compare_rollups(&past).await?;
        self.report.comparisons += 1;
        self.past.push(past);
        Ok(())
    }

    /// The rollups must show what is stored; that this is what was accepted is for [`Campaign::reconcile`] to say.
    async fn compare_rollups(&self, past: &Past) -> anyhow::Result<()> {
        let held = Held::read(&self.clickhouse, &past.store.store_id).await?;
        let account = Account::new(&past.accepted, &self.poison, &held);
        ensure!(account.is_whole(), "{}", account.differences());
        let mut sent = past.scenario.generate()?.ledger;
        sent.retain(|event| {
            let id = event.json.get("event_id").and_then(|id| id.as_str()?.parse().ok());
            id.is_some_and(|id: Uuid| held.events.contains_key(&id))
        });
        ensure!(
            sent.len() == held.events.len(),
            "the traffic has another {} events",
            held.events.len() - sent.len()
        );
        let patience =
            Patience { poll: POLL, quiet: Duration::from_secs(60), total: Duration::from_secs(300) };
        let verdict = verify(&self.postgres, &sent, &past.store, past.sent_from, patience).await?;
        ensure!(
            verdict.is_equal(),
            "the rollups of {} differ from the recount:\n{verdict}",
            past.store.store_id
        );
        Ok(())
    }

    /// Everything that was ever sent, once more: what was whole has to stay so.
    async fn look_back(&mut self) -> anyhow::Result<()> {
        for past in std::mem::take(&mut self.past) {
            self.compare_rollups(&past).await.context("at the end")?;
            self.report.comparisons += 1;
        }
        Ok(())
    }

    /// See [`Sabotage`].
    async fn break_something(&self, chapter: &Chapter) -> anyhow::Result<()> {
        let Some(sabotage) = self.sabotage else { return Ok(()) };
        let store_id = &chapter.store.store_id;
        let stored = format!("SELECT event_id FROM millrace.events WHERE store_id = '{store_id}' LIMIT 1");
        let id = self.clickhouse.query(&stored).await?.trim().to_owned();
        match sabotage {
            Sabotage::Lose => {
                self.clickhouse
                    .query(&format!("DELETE FROM millrace.events WHERE event_id = '{id}'"))
                    .await?;
            }
            Sabotage::Double => {
                let copy = format!(
                    "INSERT INTO millrace.events SELECT * REPLACE (key_date + 1 AS key_date) FROM millrace.events
                     WHERE event_id = '{id}' LIMIT 1"
                );
                self.clickhouse.query(&copy).await?;
            }
            Sabotage::Forget => {
                let id = id.parse::<Uuid>()?;
                ensure!(chapter.load.ledger().accepted.remove(&id), "{id} was not accepted");
            }
            // Its turn comes when no rolling up is under way any more that would mend it.
            Sabotage::Rollup => return Ok(()),
        }
        self.reconcile(chapter, Instant::now() + SABOTAGE_WITHIN).await.map(drop)
    }

    /// Changes a number that was compared and found right.
    async fn break_rollup(&self) -> anyhow::Result<()> {
        let Some(past) = self.past.last().filter(|_| self.sabotage == Some(Sabotage::Rollup)) else {
            return Ok(());
        };
        let change = "UPDATE analytics_summary SET page_views = page_views + 1
                      WHERE ctid = (SELECT min(ctid) FROM analytics_summary WHERE store_id = $1)";
        let changed = sqlx::query(change).bind(&past.store.store_id).execute(&self.postgres).await?;
        ensure!(changed.rows_affected() == 1, "there is no rollup to change");
        Ok(())
    }

    fn say(&self, text: &str) {
        self.bar.set_message(text.to_owned());
    }
}

async fn ready(client: &reqwest::Client, base: &str, said: &mut String) -> bool {
    match client.get(format!("{base}/readyz")).send().await {
        Err(error) => {
            *said = error.to_string();
            false
        }
        Ok(answer) => {
            let is_ready = answer.status().is_success();
            *said = answer.text().await.unwrap_or_default();
            is_ready
        }
    }
}

fn progress_bar(rounds: usize) -> anyhow::Result<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let style = "{bar:30} {pos}/{len} rounds  {elapsed} gone, {eta} left  {msg}";
    let bar = ProgressBar::new(rounds as u64).with_style(ProgressStyle::with_template(style)?);
    bar.enable_steady_tick(Duration::from_millis(200));
    Ok(bar)
}
