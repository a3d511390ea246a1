//! The reconciliation: what the client was promised against what the tables hold.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;
use uuid::Uuid;

/// Ids that a report lists; the rest is only counted.
const LISTED_MAX: usize = 20;
/// Starts every poison message; see [`poison`].
const POISON: &str = "chaos-poison-";

/// Asks ClickHouse over HTTP.
pub(super) struct ClickHouse {
    client: reqwest::Client,
    url: String,
}

impl ClickHouse {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { client, url: url.to_owned() })
    }

    pub(super) async fn query(&self, statement: &str) -> anyhow::Result<String> {
        let answer = self.client.post(&self.url).body(statement.to_owned()).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{statement:.200}: {text:.600}");
        Ok(text)
    }
}

/// What the tables hold of a store, and the dead letters of all.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// How often a reader of deduplicated rows (`FINAL`) sees each event.
    pub(super) events: HashMap<Uuid, usize>,
    /// Rows that a reader sees who does without `FINAL`.
    pub(super) rows: usize,
    /// Events of the store among the dead letters.
    pub(super) dead: HashSet<Uuid>,
    /// How often each poison message was found among the dead letters.
    pub(super) poison: BTreeMap<String, usize>,
}

impl Held {
    pub(super) async fn read(clickhouse: &ClickHouse, store_id: &str) -> anyhow::Result<Self> {
        ensure!(!store_id.contains(['\'', '\\']), "{store_id} is no store's id");
        let of = |table: &str, last: &str| {
            format!("SELECT event_id FROM millrace.{table} {last} WHERE store_id = '{store_id}'")
        };
        let both = |last: &str| format!("({} UNION ALL {})", of("events", last), of("clicks", last));
        let mut held = Self::default();
        let ids = clickhouse.query(&format!("SELECT event_id FROM {} FORMAT TSV", both("FINAL"))).await?;
        for id in ids.lines() {
            *held.events.entry(id.parse()?).or_default() += 1;
        }
        let rows = clickhouse.query(&format!("SELECT count() FROM {} FORMAT TSV", both(""))).await?;
        held.rows = rows.trim().parse()?;
        let letters = clickhouse.query("SELECT hex(raw) FROM millrace.dead_letters FINAL FORMAT TSV").await?;
        for raw in letters.lines() {
            held.read_letter(&hex(raw)?, store_id)?;
        }
        Ok(held)
    }

    /// A dead letter is poison of ours, or rows as the collector wrote them.
    fn read_letter(&mut self, raw: &[u8], store_id: &str) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(raw);
        if let Some(at) = text.find(POISON) {
            let name = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            *self.poison.entry(name).or_default() += 1;
            return Ok(());
        }
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let row: Value = serde_json::from_str(line)
                .with_context(|| format!("a dead letter of nobody's: {line:.300}"))?;
            if row["store_id"] == store_id {
                let id = row["event_id"].as_str().context("a dead letter without event_id")?;
                self.dead.insert(id.parse()?);
            }
        }
        Ok(())
    }
}

/// The outcome of a reconciliation.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Different events that were answered 202.
    pub(super) accepted: usize,
    /// Different events in the tables.
    pub(super) stored: usize,
    /// Accepted events that are among the dead letters and not in the tables, and poison found there.
    pub(super) dead: usize,
    /// Events that a reader with `FINAL` sees more than once, and poison that is among the dead letters twice.
    pub(super) doubled: Vec<String>,
    /// Rows that a reader without `FINAL` sees beyond the first of each event.
    pub(super) copies: usize,
    /// Accepted events, and poison, that are nowhere.
    pub(super) lost: Vec<String>,
    /// Stored events that nobody was promised.
    pub(super) unknown: Vec<String>,
}

impl Account {
    /// `accepted` are all events of the store that were answered 202, and nothing else is under way.
    pub(super) fn new(accepted: &HashSet<Uuid>, poison: &BTreeSet<String>, held: &Held) -> Self {
        let is_dead = |id: &&Uuid| held.dead.contains(id) && !held.events.contains_key(id);
        let dead = accepted.iter().filter(is_dead).count();
        let is_lost = |id: &&Uuid| !held.dead.contains(id) && !held.events.contains_key(id);
        let mut lost: Vec<String> = accepted.iter().filter(is_lost).map(Uuid::to_string).collect();
        lost.extend(poison.iter().filter(|name| !held.poison.contains_key(*name)).cloned());
        let twice = |(_, times): &(&String, &usize)| **times > 1;
        let mut doubled: Vec<String> =
            held.events.iter().filter(|(_, times)| **times > 1).map(|(id, _)| id.to_string()).collect();
        doubled.extend(held.poison.iter().filter(twice).map(|(name, _)| name.clone()));
        let unknown = held.events.keys().chain(&held.dead).filter(|id| !accepted.contains(id));
        Self {
            accepted: accepted.len() + poison.len(),
            stored: held.events.len(),
            dead: dead + poison.iter().filter(|name| held.poison.contains_key(*name)).count(),
            copies: held.rows.saturating_sub(held.events.len()),
            doubled,
            lost,
            unknown: unknown.map(Uuid::to_string).collect(),
        }
    }

    /// accepted = stored + dead-lettered, each once, and nothing else.
    pub(super) fn is_whole(&self) -> bool {
        self.lost.is_empty()
            && self.doubled.is_empty()
            && self.unknown.is_empty()
            && self.accepted == self.stored + self.dead
    }

    /// What is wrong, for people.
    pub(super) fn differences(&self) -> String {
        let list = |what: &str, ids: &[String]| match ids {
            [] => String::new(),
            ids => format!("\n{} {what}: {}", ids.len(), ids[..ids.len().min(LISTED_MAX)].join(" ")),
        };
        format!(
            "accepted {} = stored {} + dead-lettered {}?{}{}{}",
            self.accepted,
            self.stored,
            self.dead,
            list("lost", &self.lost),
            list("seen twice by a reader with FINAL", &self.doubled),
            list("stored though nobody was promised it", &self.unknown)
        )
    }
}

/// A message that no consumer can decode, and its name.
pub(super) fn poison(seed: u64, number: usize) -> (String, Vec<u8>) {
    let name = format!("{POISON}{seed}-{number}");
    let message = match number % 3 {
        0 => format!("{name} is not JSON").into_bytes(),
        1 => format!(r#"{{"store_id":"{name}","event_id":17}}"#).into_bytes(),
        _ => [format!("{{\"{name} \"").as_bytes(), &[0xFF, 0, 0xFE]].concat(),
    };
    (name, message)
}

fn hex(text: &str) -> anyhow::Result<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).context("not hexadecimal");
    text.as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Ok((digit(*high)? * 16 + digit(*low)?) as u8),
            _ => anyhow::bail!("half a byte"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(events: &[(u128, usize)], dead: &[u128]) -> Held {
        Held {
            events: events.iter().map(|(id, times)| (Uuid::from_u128(*id), *times)).collect(),
            rows: events.iter().map(|(_, times)| times).sum(),
            dead: dead.iter().map(|id| Uuid::from_u128(*id)).collect(),
            poison: BTreeMap::new(),
        }
    }

    fn accepted(ids: &[u128]) -> HashSet<Uuid> {
        ids.iter().map(|id| Uuid::from_u128(*id)).collect()
    }

    #[test]
    fn only_what_is_stored_or_dead_once_is_whole() {
        let none = BTreeSet::new();
        let ledger = accepted(&[1, 2, 3]);
        assert!(Account::new(&ledger, &none, &held(&[(1, 1), (2, 1), (3, 1)], &[])).is_whole());
        // Refused once and stored when it was sent again: it counts as stored.
        let account = Account::new(&ledger, &none, &held(&[(1, 1), (2, 1)], &[2, 3]));
        assert!(account.is_whole());
        assert_eq!((account.accepted, account.stored, account.dead), (3, 2, 1));

        let lost = Account::new(&ledger, &none, &held(&[(1, 1), (2, 1)], &[]));
        assert!(!lost.is_whole());
        assert_eq!(lost.lost, [Uuid::from_u128(3).to_string()]);
        let doubled = Account::new(&ledger, &none, &held(&[(1, 1), (2, 2), (3, 1)], &[]));
        assert!(!doubled.is_whole());
        assert_eq!((doubled.doubled.len(), doubled.copies), (1, 1));
        let unknown = Account::new(&ledger, &none, &held(&[(1, 1), (2, 1), (3, 1), (4, 1)], &[]));
        assert!(!unknown.is_whole());
        assert!(unknown.differences().contains("1 stored though"), "{}", unknown.differences());
        assert!(!Account::new(&ledger, &none, &held(&[(1, 1), (2, 1), (3, 1)], &[4])).is_whole());
    }

    #[test]
    fn poison_is_found_once_in_the_dead_letters() {
        let mut held = Held::default();
        let mut names = BTreeSet::new();
        for number in 0..3 {
            let (name, message) = poison(7, number);
            held.read_letter(&message, "s").unwrap();
            names.insert(name);
        }
        let account = Account::new(&HashSet::new(), &names, &held);
        assert!(account.is_whole(), "{account:?}");
        assert_eq!(account.dead, 3);
        held.read_letter(&poison(7, 1).1, "s").unwrap();
        assert!(!Account::new(&HashSet::new(), &names, &held).is_whole());
        names.insert(poison(7, 3).0);
        assert_eq!(Account::new(&HashSet::new(), &names, &held).lost, ["chaos-poison-7-3"]);
    }

    #[test]
    fn dead_letters_of_the_store_are_its_events() {
        let id = Uuid::from_u128(5);
        let mut held = Held::default();
        held.read_letter(format!("{{\"store_id\":\"s\",\"event_id\":\"{id}\"}}\n").as_bytes(), "s").unwrap();
        held.read_letter(format!("{{\"store_id\":\"t\",\"event_id\":\"{id}\"}}\n").as_bytes(), "t2").unwrap();
        assert_eq!(held.dead, HashSet::from([id]));
        assert!(held.read_letter(b"nonsense", "s").is_err());
        assert_eq!(hex("00fF7A").unwrap(), [0, 255, 0x7A]);
    }
}
