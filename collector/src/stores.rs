//! Keeps the [`Directory`] up to date from Postgres. When Postgres is away the collector goes on with what it knows; a
//! snapshot on disk lets it start, too.

use std::{
    fs::File,
    io::Read as _,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use millrace_service::private;
use rand::Rng as _;
use sqlx::{ConnectOptions as _, PgConnection, Row as _, postgres::PgConnectOptions};
use tokio_util::sync::CancellationToken;

use crate::key::{Directory, KeySettings, Rates, Salt, Settings, StoreSettings};

const DAY_MS: i64 = 86_400_000;
/// Longest that one look at Postgres may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why stores could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    #[error("Postgres did not answer within 5 s")]
    Slow,
}

/// The one task that reads stores and keys.
pub(crate) struct Refresher {
    options: PgConnectOptions,
    /// Kept from one look to the next, but only while it answers: one that was frozen, or behind a cut network, may never
    /// answer again, and nobody says so.
    connection: Option<PgConnection>,
    directory: Arc<ArcSwap<Directory>>,
    rates: Rates,
    snapshot: Option<std::path::PathBuf>,
    version: Option<i64>,
    read_at: ReadAt,
    is_away: bool,
}

/// When Postgres last answered, on the monotonic clock: the time of day may be set meanwhile.
pub(crate) type ReadAt = Arc<ArcSwap<Instant>>;

impl Refresher {
    pub(crate) fn new(
        postgres_url: &str,
        snapshot: Option<&Path>,
        rates: Rates,
    ) -> Result<(Self, Arc<ArcSwap<Directory>>), sqlx::Error> {
        let options: PgConnectOptions = postgres_url.parse()?;
        let directory = Arc::new(ArcSwap::from_pointee(Directory::default()));
        if let Some(settings) = snapshot.and_then(read_snapshot) {
            let known = Directory::new(&settings, Vec::new(), &Directory::default(), rates);
            directory.store(Arc::new(known));
        }
        let refresher = Self {
            options: options.application_name("millrace-collector"),
            connection: None,
            directory: Arc::clone(&directory),
            rates,
            snapshot: snapshot.map(Path::to_owned),
            version: None,
            read_at: Arc::new(ArcSwap::from_pointee(Instant::now())),
            is_away: false,
        };
        Ok((refresher, directory))
    }

    /// When Postgres last answered.
    pub(crate) fn read_at(&self) -> ReadAt {
        Arc::clone(&self.read_at)
    }

    /// Looks for changes until it is told to stop.
    pub(crate) async fn run(mut self, every: Duration, stop: CancellationToken) {
        loop {
            let result = tokio::select! {
                () = stop.cancelled() => return,
                result = tokio::time::timeout(PATIENCE, self.refresh()) => result,
            };
            match result.map_err(|_| Error::Slow).flatten() {
                Ok(()) => {
                    if std::mem::take(&mut self.is_away) {
                        tracing::info!("Postgres answers again");
                    }
                    self.read_at.store(Arc::new(Instant::now()));
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.is_away, true) {
                        tracing::warn!(%error, "stores could not be read; going on with those that are known");
                    }
                    self.forget_old_salts();
                }
            }
            // Until stores were read once nothing can be accepted: ask more often.
            let pause =
                if self.directory.load().is_loaded { every } else { every.min(Duration::from_millis(500)) };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn refresh(&mut self) -> Result<(), Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.options.connect().await?,
        };
        self.read(&mut connection).await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn read(&mut self, postgres: &mut PgConnection) -> Result<(), Error> {
        // Read before the stores: a change in between is then read again, not missed.
        let version: i64 =
            sqlx::query_scalar("SELECT version FROM settings_version").fetch_one(&mut *postgres).await?;
        let today = now_ms().div_euclid(DAY_MS);
        let known = self.directory.load_full();
        let needs_salts = !(today..=today + 1).all(|day| known.salts.iter().any(|(known, _)| *known == day));
        let salts = if needs_salts { read_salts(postgres, today).await? } else { known.salts.clone() };
        if self.version == Some(version) {
            if needs_salts {
                self.directory.store(Arc::new(known.with_salts(salts)));
            }
            return Ok(());
        }
        let settings = read_settings(postgres, version).await?;
        self.directory.store(Arc::new(Directory::new(&settings, salts, &known, self.rates)));
        tracing::debug!(version, stores = settings.stores.len(), keys = settings.keys.len(), "stores read");
        if let Some(path) = &self.snapshot
            && let Err(error) = write_snapshot(path, &settings)
        {
            tracing::warn!(%error, path = %path.display(), "the snapshot of stores could not be written");
        }
        self.version = Some(version);
        Ok(())
    }

    /// Salts are destroyed on time, whether Postgres is there or not.
    fn forget_old_salts(&self) {
        let today = now_ms().div_euclid(DAY_MS);
        let known = self.directory.load_full();
        if known.salts.iter().any(|(day, _)| *day <= today - 2) {
            let salts = known.salts.iter().filter(|(day, _)| *day > today - 2).copied().collect();
            self.directory.store(Arc::new(known.with_salts(salts)));
        }
    }
}

async fn read_settings(postgres: &mut PgConnection, version: i64) -> Result<Settings, Error> {
    let stores = sqlx::query(
        "SELECT id, currency, max_event_age_days, allowed_origins, events_per_second FROM stores",
    )
    .fetch_all(&mut *postgres)
    .await?;
    let keys = sqlx::query(
        "SELECT encode(key_sha256, 'hex') AS sha256, store_id, kind = 'secret' AS is_secret
         FROM store_keys WHERE revoked_at IS NULL AND kind IN ('write', 'secret')",
    )
    .fetch_all(&mut *postgres)
    .await?;
    let store = |row: &sqlx::postgres::PgRow| {
        Ok::<_, sqlx::Error>(StoreSettings {
            id: row.try_get("id")?,
            currency: row.try_get("currency")?,
            max_event_age_days: row.try_get::<i32, _>("max_event_age_days")?.unsigned_abs(),
            allowed_origins: row.try_get("allowed_origins")?,
            events_per_second: row.try_get::<Option<i32>, _>("events_per_second")?.map(i32::unsigned_abs),
        })
    };
    let key = |row: &sqlx::postgres::PgRow| {
        Ok::<_, sqlx::Error>(KeySettings {
            sha256: row.try_get("sha256")?,
            store_id: row.try_get("store_id")?,
            is_secret: row.try_get("is_secret")?,
        })
    };
    Ok(Settings {
        version,
        stores: stores.iter().map(store).collect::<Result<_, _>>()?,
        keys: keys.iter().map(key).collect::<Result<_, _>>()?,
    })
}

/// Makes the salts of today and tomorrow, destroys those whose day began 48 h ago, and reads the rest. All
/// collectors share the rows, so all derive the same visitors.
async fn read_salts(postgres: &mut PgConnection, today: i64) -> Result<Vec<Salt>, Error> {
    let mut fresh = [[0_u8; 32]; 2];
    fresh.iter_mut().for_each(|salt| rand::rng().fill_bytes(salt));
    let today_number = today as i32;
    sqlx::query(
        "INSERT INTO visitor_salts (day, salt)
         VALUES (DATE '1970-01-01' + $1, $2), (DATE '1970-01-01' + $1 + 1, $3) ON CONFLICT DO NOTHING",
    )
    .bind(today_number)
    .bind(fresh[0].as_slice())
    .bind(fresh[1].as_slice())
    .execute(&mut *postgres)
    .await?;
    sqlx::query("DELETE FROM visitor_salts WHERE day <= DATE '1970-01-01' + $1 - 2")
        .bind(today_number)
        .execute(&mut *postgres)
        .await?;
    let rows = sqlx::query("SELECT day - DATE '1970-01-01' AS day, salt FROM visitor_salts")
        .fetch_all(&mut *postgres)
        .await?;
    let mut salts = Vec::new();
    for row in rows {
        let salt: Vec<u8> = row.try_get("salt")?;
        if let Ok(salt) = <[u8; 32]>::try_from(salt) {
            salts.push((i64::from(row.try_get::<i32, _>("day")?), salt));
        }
    }
    Ok(salts)
}

/// Now, epoch milliseconds.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

fn read_snapshot(path: &Path) -> Option<Settings> {
    let mut json = Vec::new();
    let mut file = File::open(path).ok()?;
    // An earlier version left it readable to all.
    if let Err(error) = private::narrow_file(&file).and_then(|()| file.read_to_end(&mut json).map(drop)) {
        tracing::warn!(%error, path = %path.display(), "the snapshot of stores is unreadable");
        return None;
    }
    match serde_json::from_slice(&json) {
        Ok(settings) => Some(settings),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the snapshot of stores is unreadable");
            None
        }
    }
}

/// Replaces the snapshot atomically: a crash leaves the old one.
fn write_snapshot(path: &Path, settings: &Settings) -> std::io::Result<()> {
    private::write(path, &serde_json::to_vec(settings)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn salts_are_forgotten_on_time_with_postgres_away() {
        let rates = Rates {
            events_per_second: std::num::NonZeroU32::MIN,
            events_max: 1,
            bytes_per_second: std::num::NonZeroU64::MIN,
        };
        // Nobody listens on port 1.
        let (refresher, directory) = Refresher::new("postgres://m@127.0.0.1:1/m", None, rates).unwrap();
        let today = now_ms().div_euclid(DAY_MS);
        let salts: Vec<Salt> = (today - 4..=today + 1).map(|day| (day, [7; 32])).collect();
        directory.store(Arc::new(directory.load().with_salts(salts)));
        let stop = CancellationToken::new();
        let running = tokio::spawn(refresher.run(Duration::from_millis(20), stop.clone()));
        let days = || directory.load().salts.iter().map(|(day, _)| *day).collect::<Vec<_>>();
        let deadline = Instant::now() + Duration::from_secs(60);
        while days().len() > 3 {
            assert!(Instant::now() < deadline, "{:?} are known on {today}", days());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // Midnight may have passed meanwhile.
        let now = now_ms().div_euclid(DAY_MS);
        assert!(days().iter().all(|day| *day >= now - 2) && days().contains(&now), "{:?} on {now}", days());
        stop.cancel();
        running.await.unwrap();
    }
}
