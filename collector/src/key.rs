//! Keys to stores, and which pages may send with them. A key is known by its SHA-256 alone.

use std::{
    collections::HashMap,
    num::{NonZeroU32, NonZeroU64},
    sync::Arc,
    time::Instant,
};

use jiff::tz::{Offset, TimeZone};
use millrace_schemas::{demo, zone::fixed_offset_seconds};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    limit::{ByteRate, StoreRate, StoreUnlogged},
    origin::{Entry, Origin},
    salts::Salts,
    stores::after,
};

/// No key is longer; longer ones are not worth hashing.
const KEY_BYTES_MAX: usize = 256;

/// What Postgres says about stores and keys; also what the snapshot file holds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) version: i64,
    pub(crate) stores: Vec<StoreSettings>,
    pub(crate) keys: Vec<KeptKey>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoreSettings {
    pub(crate) id: String,
    pub(crate) currency: String,
    /// As IANA calls it; of a snapshot of an earlier release empty, which stands for UTC.
    #[serde(default)]
    pub(crate) timezone: String,
    pub(crate) max_event_age_days: u32,
    pub(crate) allowed_origins: Vec<String>,
    pub(crate) events_per_second: Option<u32>,
}

/// A key in the snapshot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeptKey {
    /// Hexadecimal.
    sha256: String,
    #[serde(flatten)]
    settings: KeySettings,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeySettings {
    pub(crate) store_id: String,
    /// A secret key, not a write key.
    pub(crate) is_secret: bool,
    /// When it ends, epoch milliseconds, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) valid_until_ms: Option<i64>,
}

/// What has changed since stores were last read.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// This is all there is; what is not in it is gone.
    pub(crate) is_all: bool,
    pub(crate) stores: Vec<StoreSettings>,
    /// With the moment at which a key ends here.
    pub(crate) keys: Vec<(Hash, KeySettings, Option<Instant>)>,
    /// Keys that do not hold any more.
    pub(crate) ended: Vec<Hash>,
}

impl Settings {
    /// As a reading of everything. Keys that have ended meanwhile, by this machine's clock, are left out.
    pub(crate) fn into_changes(self, now_ms: i64) -> Changes {
        let now = Instant::now();
        let key = |KeptKey { sha256, settings }: KeptKey| {
            let mut hash = [0; 32];
            hex::decode_to_slice(&sha256, &mut hash).ok()?;
            let left_ms = settings.valid_until_ms.map(|until| until.saturating_sub(now_ms));
            let holds = left_ms.is_none_or(|left| left > 0);
            holds.then(|| (hash, settings, left_ms.and_then(|left| after(now, left))))
        };
        let keys = self.keys.into_iter().filter_map(key).collect();
        Changes { is_all: true, stores: self.stores, keys, ended: Vec::new() }
    }
}

/// A store, as a request needs it.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) id: String,
    pub(crate) currency: String,
    pub(crate) timezone: TimeZone,
    pub(crate) event_age_max_days: u32,
    allowed_origins: Vec<Entry>,
    /// By [`Key::is_trusted`]: what anybody sends with the write key takes nothing from the store's own server.
    flows: [Flow; 2],
    /// Memory of its events that wait for the log's word.
    pub(crate) unlogged: StoreUnlogged,
    /// As it is set, for the snapshot.
    settings: StoreSettings,
}

/// What may come with the keys of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) events: Arc<StoreRate>,
    pub(crate) bytes: Arc<ByteRate>,
}

/// What a key opens.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) store: Arc<Store>,
    /// Whether it is a secret key: its events come from the shop's own server.
    pub(crate) is_trusted: bool,
    ends: Option<End>,
}

/// When a key ends: on the clock of this process, which nobody sets, and for the snapshot.
#[derive(Clone, Copy, Debug)]
struct End {
    at: Option<Instant>,
    epoch_ms: i64,
}

impl Key {
    fn holds(&self) -> bool {
        self.ends.and_then(|end| end.at).is_none_or(|at| Instant::now() < at)
    }
}

/// SHA-256 of a key.
pub(crate) type Hash = [u8; 32];

/// What is known of a key; `None`: no key is so long.
pub(crate) fn hash(key: &str) -> Option<Hash> {
    (key.len() <= KEY_BYTES_MAX).then(|| Sha256::digest(key).into())
}

/// All that is known of stores; replaced as a whole when something changes.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    keys: HashMap<Hash, Key>,
    stores: HashMap<String, Arc<Store>>,
    pub(crate) salts: Salts,
    /// Whether stores were ever read.
    pub(crate) is_loaded: bool,
}

impl Directory {
    /// What is known after these changes. Stores whose rate is as before keep what they have used of it.
    pub(crate) fn with(&self, changes: &Changes, rules: Rules) -> Self {
        let (mut keys, mut stores) = match changes.is_all {
            true => (HashMap::new(), HashMap::new()),
            false => (self.keys.clone(), self.stores.clone()),
        };
        for settings in &changes.stores {
            let store = Store::new(settings, self.stores.get(&settings.id), rules.rates);
            stores.insert(settings.id.clone(), Arc::new(store));
        }
        if !changes.stores.is_empty() {
            // Keys lead to the stores as they are now.
            for key in keys.values_mut() {
                if let Some(store) = stores.get(&key.store.id) {
                    key.store = Arc::clone(store);
                }
            }
        }
        for ended in &changes.ended {
            keys.remove(ended);
        }
        let known: Vec<Hash> = demo::KNOWN_KEYS.iter().copied().filter_map(hash).collect();
        for (hash, settings, at) in &changes.keys {
            // What everybody knows is taken only where nobody else can send it.
            let is_taken = rules.takes_known_keys || !known.contains(hash);
            if let (true, Some(store)) = (is_taken, stores.get(&settings.store_id)) {
                let ends = settings.valid_until_ms.map(|epoch_ms| End { at: *at, epoch_ms });
                keys.insert(*hash, Key { store: Arc::clone(store), is_trusted: settings.is_secret, ends });
            }
        }
        Self { keys, stores, salts: self.salts.clone(), is_loaded: true }
    }

    /// Everything, as the snapshot keeps it.
    pub(crate) fn settings(&self, version: i64) -> Settings {
        let key = |(hash, key): (&Hash, &Key)| KeptKey {
            sha256: hex::encode(hash),
            settings: KeySettings {
                store_id: key.store.id.clone(),
                is_secret: key.is_trusted,
                valid_until_ms: key.ends.map(|end| end.epoch_ms),
            },
        };
        Settings {
            version,
            stores: self.stores.values().map(|store| store.settings.clone()).collect(),
            keys: self.keys.iter().map(key).collect(),
        }
    }

    /// The same stores with other salts.
    pub(crate) fn with_salts(&self, salts: Salts) -> Self {
        Self { keys: self.keys.clone(), stores: self.stores.clone(), salts, is_loaded: self.is_loaded }
    }

    /// What this key opens, if anything. Unknown keys are looked up like any other, in memory: nothing is remembered of
    /// them.
    pub(crate) fn find(&self, key: &str) -> Option<&Key> {
        self.find_hash(&hash(key)?)
    }

    /// The same, by the key's hash.
    pub(crate) fn find_hash(&self, hash: &Hash) -> Option<&Key> {
        self.keys.get(hash).filter(|key| key.holds())
    }
}

/// What stores get that say nothing about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) events_per_second: NonZeroU32,
    pub(crate) events_max: u32,
    pub(crate) bytes_per_second: NonZeroU64,
}

/// What a collector makes of what Postgres says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) rates: Rates,
    /// Whether keys that everybody knows are taken.
    pub(crate) takes_known_keys: bool,
}

impl Store {
    fn new(settings: &StoreSettings, before: Option<&Arc<Self>>, rates: Rates) -> Self {
        let per_second =
            settings.events_per_second.and_then(NonZeroU32::new).unwrap_or(rates.events_per_second);
        let flow = |trusted: bool| {
            let before = before.map(|store| store.flow(trusted));
            let events = before.map(|flow| Arc::clone(&flow.events));
            let bytes = before.map(|flow| Arc::clone(&flow.bytes));
            Flow {
                events: events
                    .filter(|rate| rate.per_second == per_second)
                    .unwrap_or_else(|| Arc::new(StoreRate::new(per_second, rates.events_max))),
                bytes: bytes.unwrap_or_else(|| Arc::new(ByteRate::new(rates.bytes_per_second))),
            }
        };
        Self {
            id: settings.id.clone(),
            currency: settings.currency.clone(),
            // The aggregator refuses a name that it does not know.
            timezone: time_zone(&settings.timezone).unwrap_or(TimeZone::UTC),
            event_age_max_days: settings.max_event_age_days,
            allowed_origins: settings.allowed_origins.iter().map(|entry| Entry::parse(entry)).collect(),
            flows: [flow(false), flow(true)],
            unlogged: before.map(|store| Arc::clone(&store.unlogged)).unwrap_or_default(),
            settings: settings.clone(),
        }
    }

    /// What may come with its secret keys, or with its write keys.
    pub(crate) fn flow(&self, trusted: bool) -> &Flow {
        &self.flows[usize::from(trusted)]
    }

    /// Whether pages of this origin may send with the write key. Where nobody is listed, all may.
    pub(crate) fn allows(&self, origin: &str) -> bool {
        if self.allowed_origins.is_empty() {
            return true;
        }
        Origin::parse(origin)
            .is_some_and(|origin| self.allowed_origins.iter().any(|entry| entry.admits(&origin)))
    }
}
/// The time zone that a store's setting means.
fn time_zone(name: &str) -> Option<TimeZone> {
    match fixed_offset_seconds(name) {
        Some(seconds) => Offset::from_seconds(seconds).ok().map(TimeZone::fixed),
        None => TimeZone::get(name).ok(),
    }
}
