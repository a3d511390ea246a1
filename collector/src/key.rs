//! Keys to stores, and which pages may send with them. A key is known by its SHA-256 alone.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    limit::{ByteRate, StoreRate, StoreUnlogged},
    origin::{Entry, Origin},
};

const DAY_MS: i64 = 86_400_000;
/// No key is longer; longer ones are not worth hashing.
const KEY_BYTES_MAX: usize = 256;

/// What Postgres says about stores and keys; also what the snapshot file holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) version: i64,
    pub(crate) stores: Vec<StoreSettings>,
    pub(crate) keys: Vec<KeySettings>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoreSettings {
    pub(crate) id: String,
    pub(crate) currency: String,
    pub(crate) max_event_age_days: u32,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) events_per_second: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeySettings {
    /// Hexadecimal.
    pub(crate) sha256: String,
    pub(crate) store_id: String,
    /// A secret key, not a write key.
    pub(crate) is_secret: bool,
}

/// A store, as a request needs it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) id: String,
    pub(crate) currency: String,
    pub(crate) event_age_max_days: u32,
    allowed_origins: Vec<Entry>,
    pub(crate) rate: Arc<StoreRate>,
    pub(crate) bytes: Arc<ByteRate>,
    /// Memory of its events that wait for the log's word.
    pub(crate) unlogged: StoreUnlogged,
}

/// What a key opens.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) store: Arc<Store>,
    /// Whether it is a secret key: its events come from the shop's own server.
    pub(crate) is_trusted: bool,
}

/// A day's salt.
pub(crate) type Salt = (i64, [u8; 32]);

/// All that is known of stores; replaced as a whole when something changes.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    keys: HashMap<[u8; 32], Key>,
    stores: HashMap<String, Arc<Store>>,
    pub(crate) salts: Vec<Salt>,
    /// Whether stores were ever read.
    pub(crate) is_loaded: bool,
}

impl Directory {
    /// Builds a directory. Stores whose rate is as before keep what they have used of it.
    pub(crate) fn new(settings: &Settings, salts: Vec<Salt>, before: &Self, rates: Rates) -> Self {
        let mut stores = HashMap::new();
        for store in &settings.stores {
            let per_second =
                store.events_per_second.and_then(NonZeroU32::new).unwrap_or(rates.events_per_second);
            let known = before.stores.get(&store.id);
            let rate = known.map(|store| Arc::clone(&store.rate));
            let bytes = known.map(|store| Arc::clone(&store.bytes));
            let bytes = bytes.unwrap_or_else(|| Arc::new(ByteRate::new(rates.bytes_per_second)));
            let unlogged = known.map(|store| Arc::clone(&store.unlogged)).unwrap_or_default();
            let rate = rate
                .filter(|rate| rate.per_second == per_second)
                .unwrap_or_else(|| Arc::new(StoreRate::new(per_second, rates.events_max)));
            let store = Store {
                id: store.id.clone(),
                currency: store.currency.clone(),
                event_age_max_days: store.max_event_age_days,
                allowed_origins: store.allowed_origins.iter().map(|entry| Entry::parse(entry)).collect(),
                rate,
                bytes,
                unlogged,
            };
            stores.insert(store.id.clone(), Arc::new(store));
        }
        let mut keys = HashMap::new();
        for key in &settings.keys {
            let mut hash = [0; 32];
            let is_hash = hex::decode_to_slice(&key.sha256, &mut hash).is_ok();
            if let (true, Some(store)) = (is_hash, stores.get(&key.store_id)) {
                keys.insert(hash, Key { store: Arc::clone(store), is_trusted: key.is_secret });
            }
        }
        Self { keys, stores, salts, is_loaded: true }
    }

    /// The same stores with other salts.
    pub(crate) fn with_salts(&self, salts: Vec<Salt>) -> Self {
        Self { keys: self.keys.clone(), stores: self.stores.clone(), salts, is_loaded: self.is_loaded }
    }

    /// What this key opens, if anything. Unknown keys are looked up like any other, in memory: nothing is remembered of
    /// them, and nobody is asked.
    pub(crate) fn find(&self, key: &str) -> Option<&Key> {
        if key.len() > KEY_BYTES_MAX {
            return None;
        }
        let hash: [u8; 32] = Sha256::digest(key).into();
        self.keys.get(&hash)
    }

    /// The salt of the day that an instant lies in.
    pub(crate) fn salt(&self, epoch_ms: i64) -> Option<&[u8; 32]> {
        let today = epoch_ms.div_euclid(DAY_MS);
        self.salts.iter().find(|(day, _)| *day == today).map(|(_, salt)| salt)
    }
}

/// What stores get that say nothing about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) events_per_second: NonZeroU32,
    pub(crate) events_max: u32,
    pub(crate) bytes_per_second: NonZeroU64,
}

impl Store {
    /// Whether pages of this origin may send with the write key. Where nobody is listed, all may.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        if self.allowed_origins.is_empty() {
            return true;
        }
        Origin::parse(origin)
            .is_some_and(|origin| self.allowed_origins.iter().any(|entry| entry.admits(&origin)))
    }
}
