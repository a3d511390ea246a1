//! Whose rows: a condition on ClickHouse's tables that names nobody.
//!
//! Ids are compared by a salted hash, SHA-256 of salt and id. So no statement, no log of statements, no receipt and no
//! row in Postgres holds the id of somebody who asked to be forgotten, also while the work is under way.
//!
//! * **A visitor's** rows are those with this visitor id, whatever user they name.
//! * **A user's** rows are those with this user id, and those without any user id of visitors that were seen with this
//!   user. On a browser that several people share, what names another user stays.
//! * **Copies** of these rows (the same sorting key) are theirs too, whenever they were received and whomever they were
//!   put down to: of an event without a visitor that is sent twice from two networks, each copy has a derived visitor of
//!   its own, and the second would come to light when the first is gone.
//! * **Dead letters** that name the visitor or user, wherever in their bytes; damaged ones too, as far as the name is
//!   whole.

use clickhouse::Row;
use rand::Rng as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::tables;
use crate::{
    clickhouse::Warehouse,
    error::{Error, Result},
};

/// Visitors of one user, at most: beyond, it is no person's id (`guest`, `0`), and a statement would become too long.
pub const VISITORS_MAX: usize = 2_000;
/// Copies under other visitors that one statement names.
const COPIES_MAX: usize = 300;

/// What a subject is named by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A visitor id.
    Visitor,
    /// A user id.
    User,
}

impl Kind {
    /// As it stands in Postgres and in paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Visitor => "visitor",
            Kind::User => "user",
        }
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Kind::Visitor, Kind::User].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// Whose rows, up to which receipt.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Their store.
    pub store_id: String,
    /// What they are named by.
    pub kind: Kind,
    /// Salt of the hashes.
    pub salt: [u8; 16],
    /// SHA-256 of salt and id.
    pub hash: [u8; 32],
    /// Hashes of the visitors that were seen with a user.
    pub visitors: Vec<u64>,
    /// Epoch milliseconds.
    pub until_ms: i64,
}

/// Rows of a subject by table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Page views and named events, copies counted.
    pub events: u64,
    /// Clicks, copies counted.
    pub clicks: u64,
    /// Dead letters.
    pub dead_letters: u64,
}

impl Counts {
    /// Whether there is nothing.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Row, Deserialize)]
struct Visitor {
    hash: u64,
}

fn literal(text: &str) -> String {
    // In hexadecimal there is nothing to escape.
    format!("unhex('{}')", hex::encode(text))
}

impl Subject {
    /// A subject under a new salt.
    pub fn new(store_id: &str, kind: Kind, id: &str, until_ms: i64) -> Self {
        let mut salt = [0; 16];
        rand::rng().fill_bytes(&mut salt);
        let hash = Sha256::new().chain_update(salt).chain_update(id).finalize().into();
        Self { store_id: store_id.to_owned(), kind, salt, hash, visitors: Vec::new(), until_ms }
    }

    fn hashed(&self, id: &str) -> String {
        format!("SHA256(concat(unhex('{}'), {id}))", hex::encode(self.salt))
    }

    fn is_subject(&self, id: &str) -> String {
        format!("{} = unhex('{}')", self.hashed(id), hex::encode(self.hash))
    }

    /// Whether an id is one of the visitors of the user.
    fn short_hash(&self, id: &str) -> String {
        format!("reinterpretAsUInt64(substring({}, 1, 8))", self.hashed(id))
    }

    fn visitor_list(&self) -> String {
        self.visitors.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
    }

    /// Condition of the subject's own rows in `events` and `clicks`, in brackets.
    pub fn rows(&self) -> String {
        let whose = match self.kind {
            Kind::Visitor => self.is_subject("visitor_id"),
            Kind::User if self.visitors.is_empty() => self.is_subject("user_id"),
            Kind::User => format!(
                "({} OR (user_id = '' AND visitor_id != '' AND {} IN ({})))",
                self.is_subject("user_id"),
                self.short_hash("visitor_id"),
                self.visitor_list()
            ),
        };
        format!(
            "(store_id = {} AND received_at <= fromUnixTimestamp64Milli(toInt64({}), 'UTC') AND {whose})",
            literal(&self.store_id),
            self.until_ms
        )
    }

    /// Condition of the dead letters that name the subject, in brackets. A letter is what one visitor sent in one
    /// request, whole or one line of it.
    pub fn letters(&self) -> String {
        let any = |field: &str, is: String| format!("arrayExists(v -> {is}, {})", texts_of(field));
        let whose = match self.kind {
            Kind::Visitor => any("visitor_id", self.is_subject("v")),
            Kind::User if self.visitors.is_empty() => any("user_id", self.is_subject("v")),
            Kind::User => format!(
                "({} OR (empty({}) AND {}))",
                any("user_id", self.is_subject("v")),
                texts_of("user_id"),
                any("visitor_id", format!("{} IN ({})", self.short_hash("v"), self.visitor_list()))
            ),
        };
        let mut until = Vec::new();
        millrace_schemas::time::write_instant(&mut until, self.until_ms);
        format!(
            "({} AND ({} OR empty({})) AND {whose})",
            letters_of_store(&self.store_id),
            any("received_at", format!("v <= '{}'", String::from_utf8_lossy(&until))),
            texts_of("received_at"),
        )
    }

    /// Looks for visitors that were seen with the user, and adds those that are new.
    pub async fn find_visitors(&mut self, warehouse: &Warehouse) -> Result<()> {
        if self.kind == Kind::Visitor {
            return Ok(());
        }
        let alone = Self { visitors: Vec::new(), ..self.clone() };
        for table in ["events", "clicks"] {
            let query = warehouse.long_query(&format!(
                "SELECT DISTINCT {} AS hash FROM {table} WHERE visitor_id != '' AND {} LIMIT {}",
                self.short_hash("visitor_id"),
                alone.rows(),
                VISITORS_MAX + 1
            ));
            let found: Vec<Visitor> = warehouse.rows(query).await?;
            self.visitors.extend(found.iter().map(|visitor| visitor.hash));
        }
        self.visitors.sort_unstable();
        self.visitors.dedup();
        if self.visitors.len() > VISITORS_MAX {
            return Err(Error::Store {
                store_id: self.store_id.clone(),
                message: format!(
                    "more than {VISITORS_MAX} visitors were seen with one user: that is no person's id; erase visitors \
                     instead"
                ),
            });
        }
        Ok(())
    }

    /// How many rows there are. Letters first: who replays them stores their rows before they go, so that what is no
    /// letter any more is a row by now.
    pub async fn count(&self, warehouse: &Warehouse) -> Result<Counts> {
        let mut counts = [0; 3];
        for table in ["dead_letters", "clicks", "events"] {
            let rows = if table == "dead_letters" { self.letters() } else { self.rows() };
            let query = warehouse.long_query(&format!("SELECT count() FROM {table} WHERE {rows}"));
            let count = warehouse.rows::<u64>(query).await?.first().copied().unwrap_or_default();
            if let Some(at) = tables::ALL.iter().position(|name| *name == table) {
                counts[at] = count;
            }
        }
        let [events, clicks, dead_letters] = counts;
        Ok(Counts { events, clicks, dead_letters })
    }

    /// Condition of the subject's rows in a table together with their copies, in brackets. When there are too many copies
    /// for one statement it is of copies alone, and the second is `true`: theirs must go before the rows by which they
    /// are found.
    pub async fn rows_with_copies(&self, warehouse: &Warehouse, table: &str) -> Result<(String, bool)> {
        let (own, store) = (self.rows(), literal(&self.store_id));
        // The sorting key, but for names as hashes: they may be long, and a statement holds this several times.
        let (name, name_literal) = match table {
            "events" => ("sipHash64(name), ", "toString(sipHash64(name)), ',', "),
            _ => ("", ""),
        };
        let key = format!("(key_date, {name}visitor_hash, event_id)");
        let query = warehouse.long_query(&format!(
            "SELECT DISTINCT concat('(toDate(', toString(toUInt16(key_date)), '),', {name_literal}
                                    toString(visitor_hash), ',toUUID(''', toString(event_id), '''))')
             FROM {table}
             WHERE store_id = {store} AND NOT {own} AND {key} IN (SELECT {key} FROM {table} WHERE {own})
             LIMIT {COPIES_MAX}"
        ));
        let copies: Vec<String> = warehouse.rows(query).await?;
        if copies.is_empty() {
            return Ok((own, false));
        }
        let is_all = copies.len() < COPIES_MAX;
        let copies = format!("(store_id = {store} AND {key} IN ({}))", copies.join(","));
        if is_all { Ok((format!("({own} OR {copies})"), false)) } else { Ok((copies, true)) }
    }
}

/// All texts that stand under a name in a dead letter's bytes, be they JSON or the half of it.
fn texts_of(field: &str) -> String {
    format!(
        r#"arrayMap(v -> JSONExtractString(concat('{{"v":"', v, '"}}'), 'v'), extractAll(raw, '"{field}"\\s*:\\s*"((?:[^"\\\\]|\\\\.)*)"'))"#
    )
}

/// Condition of the dead letters of a store, and of those whose store cannot be told.
fn letters_of_store(store_id: &str) -> String {
    let stores = texts_of("store_id");
    format!("(has({stores}, {}) OR empty({stores}))", literal(store_id))
}

/// Condition of the dead letters that are certainly a store's.
pub(super) fn letters_certainly_of(store_id: &str) -> String {
    format!("has({}, {})", texts_of("store_id"), literal(store_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_statement_names_anybody() {
        let mut subject = Subject::new("demo", Kind::User, "jane@example.org", 1_700_000_000_000);
        subject.visitors = vec![7, 8];
        for text in [subject.rows(), subject.letters()] {
            assert!(!text.contains("jane") && !text.contains(&hex::encode("jane")), "{text}");
            assert!(text.starts_with('(') && text.ends_with(')'));
        }
        let other = Subject::new("demo", Kind::User, "jane@example.org", 1_700_000_000_000);
        assert_ne!(subject.hash, other.hash);
    }
}
