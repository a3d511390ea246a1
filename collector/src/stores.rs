//! Keeps the [`Directory`] up to date from Postgres. When Postgres is away the collector goes on with what it knows; a
//! snapshot on disk lets it start, too.
//!
//! * A look reads one row, `settings_version`, and then only what was changed since the last one. Over a new connection it
//!   reads everything: a Postgres that was restored, or took over from another one, may have forgotten changes.
//! * Looks follow each other by the clock, and as soon as a request has a key that is not known ([`ask`]).

pub(crate) mod ask;
mod snapshot;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rand::Rng as _;
use sqlx::{ConnectOptions as _, PgConnection, Row as _, postgres::PgConnectOptions, postgres::PgRow};
use tokio_util::sync::CancellationToken;

use self::{
    ask::{Asking, LOOKS_APART},
    snapshot::Snapshot,
};
use crate::{
    clock::now_ms,
    key::{Changes, Directory, KeySettings, Rules, StoreSettings},
    salts::{HOURS_KEPT, HOURS_MADE, Salt, Salts},
};

/// Longest that one look at Postgres may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Whether a key holds now, by Postgres's clock.
const HOLDS: &str =
    "revoked_at IS NULL AND suspended_at IS NULL AND (valid_until IS NULL OR valid_until > now())";

/// Why stores could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    #[error("Postgres did not answer within 5 s")]
    Slow,
}

/// Where a collector's stores come from.
pub(crate) struct Source {
    pub(crate) postgres_url: String,
    /// The file that keeps what was read, and how old it may be to be read itself.
    pub(crate) snapshot: Option<(PathBuf, Duration)>,
    pub(crate) rules: Rules,
}

/// The one task that reads stores and keys.
pub(crate) struct Refresher {
    options: PgConnectOptions,
    /// Kept from one look to the next, but only while it answers: one that was frozen, or behind a cut network, may never
    /// answer again, and nobody says so.
    connection: Option<PgConnection>,
    directory: Arc<ArcSwap<Directory>>,
    rules: Rules,
    snapshot: Option<Snapshot>,
    /// Everything up to it was read, over this connection.
    version: Option<i64>,
    asking: Arc<Asking>,
    read_at: ReadAt,
    is_away: bool,
}

/// When Postgres last answered, on the monotonic clock: the time of day may be set meanwhile.
pub(crate) type ReadAt = Arc<ArcSwap<Instant>>;

impl Refresher {
    pub(crate) fn new(source: Source) -> Result<(Self, Arc<ArcSwap<Directory>>), sqlx::Error> {
        let Source { postgres_url, snapshot, rules } = source;
        let options: PgConnectOptions = postgres_url.parse()?;
        let directory = Arc::new(ArcSwap::from_pointee(Directory::default()));
        let snapshot = snapshot.map(|(path, age_max)| {
            let snapshot = Snapshot::new(&path);
            if let Some(settings) = snapshot.read(age_max) {
                let known = Directory::default().with(&settings.into_changes(now_ms()), rules);
                directory.store(Arc::new(known));
            }
            snapshot
        });
        let refresher = Self {
            options: options.application_name("millrace-collector"),
            connection: None,
            directory: Arc::clone(&directory),
            rules,
            snapshot,
            version: None,
            asking: Arc::default(),
            read_at: Arc::new(ArcSwap::from_pointee(Instant::now())),
            is_away: false,
        };
        Ok((refresher, directory))
    }

    /// How Postgres is connected to.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// When Postgres last answered.
    pub(crate) fn read_at(&self) -> ReadAt {
        Arc::clone(&self.read_at)
    }

    /// How requests have Postgres asked at once.
    pub(crate) fn asking(&self) -> Arc<Asking> {
        Arc::clone(&self.asking)
    }

    /// Looks for changes until it is told to stop.
    pub(crate) async fn run(mut self, every: Duration, stop: CancellationToken) {
        loop {
            let begun = tokio::time::Instant::now();
            let number = self.asking.begin();
            let result = tokio::select! {
                () = stop.cancelled() => break,
                result = tokio::time::timeout(PATIENCE, self.refresh()) => result,
            };
            match result.map_err(|_| Error::Slow).flatten() {
                Ok(()) => {
                    if std::mem::take(&mut self.is_away) {
                        tracing::info!("Postgres answers again");
                    }
                    self.read_at.store(Arc::new(Instant::now()));
                    self.asking.answered(number);
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.is_away, true) {
                        tracing::warn!(%error, "stores could not be read; going on with those that are known");
                    }
                    self.asking.away();
                    self.forget_old_salts();
                }
            }
            // Until stores were read once nothing can be accepted: ask more often.
            let pause =
                if self.directory.load().is_loaded { every } else { every.min(Duration::from_millis(500)) };
            let asked = async {
                self.asking.wanted().await;
                tokio::time::sleep_until(begun + LOOKS_APART).await;
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
                () = asked => {}
            }
        }
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.finish().await;
        }
    }

    async fn refresh(&mut self) -> Result<(), Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                self.version = None;
                self.options.connect().await?
            }
        };
        self.read(&mut connection).await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn read(&mut self, postgres: &mut PgConnection) -> Result<(), Error> {
        // Read before the stores: a change in between is then read again, not missed.
        let row = sqlx::query("SELECT version, reload_version FROM settings_version")
            .fetch_one(&mut *postgres)
            .await?;
        let (version, reload): (i64, i64) = (row.try_get("version")?, row.try_get("reload_version")?);
        let hour = Salts::hour(now_ms());
        let known = self.directory.load_full();
        let needs_salts = !known.salts.are_made(hour);
        let salts = if needs_salts { read_salts(postgres, hour).await? } else { known.salts.clone() };
        if self.version != Some(version) {
            let since = self.version.filter(|known| *known >= reload && *known < version);
            let changes = read_changes(postgres, since).await?;
            let (stores, keys) = (changes.stores.len(), changes.keys.len());
            tracing::debug!(version, since, stores, keys, "stores read");
            self.directory.store(Arc::new(known.with(&changes, self.rules).with_salts(salts)));
            self.version = Some(version);
            if let Some(snapshot) = &mut self.snapshot {
                snapshot.changed();
            }
        } else if needs_salts {
            self.directory.store(Arc::new(known.with_salts(salts)));
        }
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.keep(&self.directory.load_full(), version).await;
        }
        Ok(())
    }

    /// Salts are destroyed on time, whether Postgres is there or not.
    fn forget_old_salts(&self) {
        let known = self.directory.load_full();
        let kept = known.salts.kept(Salts::hour(now_ms()));
        if kept.len() < known.salts.len() {
            self.directory.store(Arc::new(known.with_salts(kept)));
        }
    }
}

/// What was changed after a version; everything without one.
async fn read_changes(postgres: &mut PgConnection, since: Option<i64>) -> Result<Changes, Error> {
    let stores = sqlx::query(
        "SELECT id, currency, timezone, max_event_age_days, allowed_origins, events_per_second FROM stores
         WHERE $1::bigint IS NULL OR changed_version > $1",
    )
    .bind(since)
    .fetch_all(&mut *postgres)
    .await?;
    // How long a key has still to go is for Postgres's clock to say: a collector's own may be wrong.
    let sql = format!(
        "SELECT key_sha256, store_id, kind = 'secret' AS is_secret, {HOLDS} AS holds,
                CASE WHEN isfinite(valid_until)
                     THEN (1000 * extract(epoch FROM valid_until))::bigint END AS valid_until_ms,
                CASE WHEN isfinite(valid_until)
                     THEN (1000 * extract(epoch FROM valid_until - clock_timestamp()))::bigint END AS left_ms
         FROM store_keys
         WHERE kind IN ('write', 'secret') AND CASE WHEN $1::bigint IS NULL THEN {HOLDS} ELSE changed_version > $1 END"
    );
    let keys = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(since).fetch_all(&mut *postgres).await?;
    let now = Instant::now();
    let mut changes = Changes { is_all: since.is_none(), ..Changes::default() };
    changes.stores = stores.iter().map(store).collect::<Result<_, _>>()?;
    for row in &keys {
        let Ok(hash) = <[u8; 32]>::try_from(row.try_get::<&[u8], _>("key_sha256")?) else { continue };
        if !row.try_get("holds")? {
            changes.ended.push(hash);
            continue;
        }
        let left_ms: Option<i64> = row.try_get("left_ms")?;
        let settings = KeySettings {
            store_id: row.try_get("store_id")?,
            is_secret: row.try_get("is_secret")?,
            valid_until_ms: row.try_get("valid_until_ms")?,
        };
        changes.keys.push((hash, settings, left_ms.and_then(|left| after(now, left))));
    }
    Ok(changes)
}

fn store(row: &PgRow) -> Result<StoreSettings, sqlx::Error> {
    Ok(StoreSettings {
        id: row.try_get("id")?,
        currency: row.try_get("currency")?,
        timezone: row.try_get("timezone")?,
        max_event_age_days: row.try_get::<i32, _>("max_event_age_days")?.unsigned_abs(),
        allowed_origins: row.try_get("allowed_origins")?,
        events_per_second: row.try_get::<Option<i32>, _>("events_per_second")?.map(i32::unsigned_abs),
    })
}

/// So many milliseconds later; `None`: later than any clock here will show.
pub(crate) fn after(now: Instant, left_ms: i64) -> Option<Instant> {
    now.checked_add(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)))
}

/// Makes the salts of the hours about this one, destroys those of 48 h ago, and reads the rest. All collectors share the rows,
/// so all derive the same visitors.
async fn read_salts(postgres: &mut PgConnection, hour: i64) -> Result<Salts, Error> {
    let hours: Vec<i64> = HOURS_MADE.map(|apart| hour + apart).collect();
    let fresh: Vec<Vec<u8>> = hours
        .iter()
        .map(|_| {
            let mut salt = vec![0; 32];
            rand::rng().fill_bytes(&mut salt);
            salt
        })
        .collect();
    sqlx::query(
        "INSERT INTO visitor_salts (hour, salt)
         SELECT to_timestamp(hour * 3600), salt FROM unnest($1::bigint[], $2::bytea[]) AS made (hour, salt)
         ON CONFLICT DO NOTHING",
    )
    .bind(&hours)
    .bind(&fresh)
    .execute(&mut *postgres)
    .await?;
    sqlx::query("DELETE FROM visitor_salts WHERE hour <= to_timestamp($1 * 3600)")
        .bind(hour - HOURS_KEPT)
        .execute(&mut *postgres)
        .await?;
    let rows =
        sqlx::query("SELECT (extract(epoch FROM hour) / 3600)::bigint AS hour, salt FROM visitor_salts")
            .fetch_all(&mut *postgres)
            .await?;
    let mut salts: Vec<Salt> = Vec::new();
    for row in rows {
        let salt: Vec<u8> = row.try_get("salt")?;
        if let Ok(salt) = <[u8; 32]>::try_from(salt) {
            salts.push((row.try_get("hour")?, salt));
        }
    }
    Ok(Salts::new(salts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Rates;

    #[tokio::test]
    async fn salts_are_forgotten_on_time_with_postgres_away() {
        let rates = Rates {
            events_per_second: std::num::NonZeroU32::MIN,
            events_max: 1,
            bytes_per_second: std::num::NonZeroU64::MIN,
        };
        // Nobody listens on port 1.
        let source = Source {
            postgres_url: "postgres://m@127.0.0.1:1/m".to_owned(),
            snapshot: None,
            rules: Rules { rates, takes_known_keys: true },
        };
        let (refresher, directory) = Refresher::new(source).unwrap();
        let hour = Salts::hour(now_ms());
        let salts = Salts::new((hour - 60..=hour + 1).map(|hour| (hour, [7; 32])).collect());
        directory.store(Arc::new(directory.load().with_salts(salts)));
        let stop = CancellationToken::new();
        let running = tokio::spawn(refresher.run(Duration::from_millis(20), stop.clone()));
        let hours = || directory.load().salts.hours();
        let deadline = Instant::now() + Duration::from_secs(60);
        while hours().len() > 49 {
            assert!(Instant::now() < deadline, "{:?} are known at {hour}", hours());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The hour may have passed meanwhile.
        let now = Salts::hour(now_ms());
        assert!(
            hours().iter().all(|hour| *hour >= now - 48) && hours().contains(&now),
            "{:?} at {now}",
            hours()
        );
        stop.cancel();
        running.await.unwrap();
    }
}
