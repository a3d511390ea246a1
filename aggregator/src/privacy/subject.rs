//! Whose rows: a condition on ClickHouse's tables that names nobody.
//!
//! Ids are compared by a salted hash, SHA-256 of salt and id. So no statement, no log of statements, no receipt and no
//! row in Postgres holds the id of somebody who asked to be forgotten, also while the work is under way.
//!
//! * **A visitor's** rows are those with this visitor id, whatever user they name.
//! * **A user's** rows are those with this user id, and by **link** those without any user id of visitors whom servers
//!   named with this user and with no other. A page's word links nobody: whoever has read the write key off it can name any
//!   visitor with any user, and would have other people's rows erased, or handed out, as theirs. Where servers name more
//!   visitors with one user than a person has (`guest`, `0`), nothing goes by link.
//! * **Copies** of a derived visitor's rows (the same sorting key, without a visitor that was sent), where the row to be
//!   erased is the one that counts: of an event that is sent twice from two networks each copy has a derived visitor of its
//!   own, and the second would come to light when the first is gone. A copy that counts itself is not its row.
//! * **Dead letters** that name the visitor or user, wherever in their bytes; damaged ones too, as far as the name is
//!   whole. What a letter tells of other users as well is not handed out.

use std::collections::BTreeSet;

use clickhouse::Row;
use rand::Rng as _;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::tables;
use crate::{
    clickhouse::{Warehouse, text},
    error::Result,
};

/// Visitors of one user, at most: beyond, it is no person's id.
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
    /// Hashes of the visitors that are linked with a user.
    pub visitors: Vec<u64>,
    /// There are more than [`VISITORS_MAX`], and none is taken.
    pub links_ignored: bool,
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

pub(super) fn literal(text: &str) -> String {
    // In hexadecimal there is nothing to escape.
    format!("unhex('{}')", hex::encode(text))
}

impl Subject {
    /// A subject under a new salt.
    pub fn new(store_id: &str, kind: Kind, id: &str, until_ms: i64) -> Self {
        let mut salt = [0; 16];
        rand::rng().fill_bytes(&mut salt);
        let hash = Sha256::new().chain_update(salt).chain_update(id).finalize().into();
        Self {
            store_id: store_id.to_owned(),
            kind,
            salt,
            hash,
            visitors: Vec::new(),
            links_ignored: false,
            until_ms,
        }
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
        format!(
            "(store_id = {} AND received_at <= fromUnixTimestamp64Milli(toInt64({}), 'UTC') AND {})",
            literal(&self.store_id),
            self.until_ms,
            self.whose()
        )
    }

    /// Condition of the subject's rows in `orders`, in brackets.
    pub fn orders(&self) -> String {
        format!("(store_id = {} AND {})", literal(&self.store_id), self.whose())
    }

    fn whose(&self) -> String {
        match self.kind {
            Kind::Visitor => self.is_subject("visitor_id"),
            Kind::User if self.visitors.is_empty() => self.is_subject("user_id"),
            Kind::User => format!(
                "({} OR (user_id = '' AND visitor_id != '' AND {} IN ({})))",
                self.is_subject("user_id"),
                self.short_hash("visitor_id"),
                self.visitor_list()
            ),
        }
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

    /// Condition of the dead letters that are handed out as the subject's, in brackets: none that names another user.
    pub fn exported_letters(&self) -> String {
        match self.kind {
            Kind::Visitor => self.letters(),
            Kind::User => format!(
                "({} AND arrayAll(v -> {}, {}))",
                self.letters(),
                self.is_subject("v"),
                texts_of("user_id")
            ),
        }
    }

    /// Looks for visitors that servers named with the user, adds those that are new, and drops those that servers named with
    /// another user as well.
    pub async fn find_visitors(&mut self, warehouse: &Warehouse) -> Result<()> {
        if self.kind == Kind::Visitor || self.links_ignored {
            return Ok(());
        }
        let alone = Self { visitors: Vec::new(), ..self.clone() };
        self.visitors.extend(self.trusted_visitors(warehouse, &alone.rows()).await?);
        self.visitors.sort_unstable();
        self.visitors.dedup();
        if self.visitors.len() > VISITORS_MAX {
            self.visitors.clear();
            self.links_ignored = true;
        }
        if self.visitors.is_empty() {
            return Ok(());
        }
        let of_others = format!(
            "store_id = {} AND user_id != '' AND NOT {} AND {} IN ({})",
            literal(&self.store_id),
            self.is_subject("user_id"),
            self.short_hash("visitor_id"),
            self.visitor_list()
        );
        let shared = self.trusted_visitors(warehouse, &of_others).await?;
        self.visitors.retain(|visitor| !shared.contains(visitor));
        Ok(())
    }

    /// Visitors of rows that servers sent, as hashes; one more than [`VISITORS_MAX`] of each table at most.
    async fn trusted_visitors(&self, warehouse: &Warehouse, rows: &str) -> Result<BTreeSet<u64>> {
        let mut visitors = BTreeSet::new();
        for table in ["events", "clicks"] {
            let query = warehouse.long_query(&format!(
                "SELECT DISTINCT {} AS hash FROM {table} WHERE trusted = 1 AND visitor_id != '' AND {rows} LIMIT {}",
                self.short_hash("visitor_id"),
                VISITORS_MAX + 1
            ));
            let found: Vec<Visitor> = warehouse.rows(query).await?;
            visitors.extend(found.iter().map(|visitor| visitor.hash));
        }
        Ok(visitors)
    }

    /// The part of the subject's rows that was received first, about so many of each table; and whether there are more.
    pub async fn slice(&self, warehouse: &Warehouse, rows_max: u32) -> Result<(Self, bool)> {
        let mut slice = self.clone();
        for table in ["events", "clicks"] {
            let query = warehouse.long_query(&format!(
                "SELECT toUnixTimestamp64Milli(received_at) AS received_ms FROM {table} WHERE {}
                 ORDER BY received_at LIMIT 1 OFFSET {rows_max}",
                self.rows()
            ));
            for received_ms in warehouse.rows::<i64>(query).await? {
                slice.until_ms = slice.until_ms.min(received_ms);
            }
        }
        let has_more = slice.until_ms < self.until_ms;
        Ok((slice, has_more))
    }

    /// Whether there are orders of the subject's of which no report is left: their events have ended their term.
    pub async fn has_orders_alone(&self, warehouse: &Warehouse) -> Result<bool> {
        let orders = self.orders();
        let query = warehouse.long_query(&format!(
            "SELECT count() FROM orders FINAL
             WHERE {orders} AND order_id NOT IN (
                 SELECT order_id FROM events
                 WHERE store_id = {} AND name IN {}
                   AND order_id IN (SELECT order_id FROM orders FINAL WHERE {orders}))",
            literal(&self.store_id),
            text::assemble(text::order_names)
        ));
        Ok(warehouse.rows::<u64>(query).await?.first().is_some_and(|count| *count > 0))
    }

    /// How many rows there are. Letters first: who replays them stores their rows before they go, so that what is no
    /// letter any more is a row by now.
    pub async fn count(&self, warehouse: &Warehouse) -> Result<Counts> {
        let mut counts = [0; 3];
        for table in ["dead_letters", "clicks", "events"] {
            let rows = if table == "dead_letters" { self.letters() } else { self.rows() };
            let query = warehouse.long_query(&format!("SELECT count() FROM {table} WHERE {rows}"));
            let count = warehouse.rows::<u64>(query).await?.first().copied().unwrap_or_default();
            if let Some(at) = tables::SENT.iter().position(|name| *name == table) {
                counts[at] = count;
            }
        }
        let [events, clicks, dead_letters] = counts;
        Ok(Counts { events, clicks, dead_letters })
    }

    /// Condition of the subject's rows in a table together with the copies that would come to light without them, in
    /// brackets. When there are too many copies for one statement it is of copies alone, and the second is `true`: theirs
    /// must go before the rows by which they are found.
    pub async fn rows_with_copies(&self, warehouse: &Warehouse, table: &str) -> Result<(String, bool)> {
        let (own, store) = (self.rows(), literal(&self.store_id));
        // All copies of an event with a visitor name that visitor. A user's copies that name nobody are like other such
        // rows: what was sent is not theirs because its `event_id` is.
        if self.kind == Kind::User {
            return Ok((own, false));
        }
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
             WHERE store_id = {store} AND visitor_hash = 0 AND NOT {own}
               AND {key} IN (SELECT {key} FROM {table} FINAL WHERE visitor_hash = 0 AND {own})
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
        for text in [subject.rows(), subject.letters(), subject.exported_letters()] {
            assert!(!text.contains("jane") && !text.contains(&hex::encode("jane")), "{text}");
            assert!(text.starts_with('(') && text.ends_with(')'));
        }
        let other = Subject::new("demo", Kind::User, "jane@example.org", 1_700_000_000_000);
        assert_ne!(subject.hash, other.hash);
    }
}
