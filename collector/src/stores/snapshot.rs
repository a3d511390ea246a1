//! The file that keeps what was last read of stores and keys, so that a collector can start while Postgres is away.
//!
//! * It is written whenever something has changed, beside the looks at Postgres, one writing at a time: a key that this
//!   collector knows to be revoked does not come back with a restart. What cannot be written is removed: better no file than
//!   one that brings back what was revoked.
//! * Its time of change says when Postgres last answered. One that is older than a setting is not read: what was revoked
//!   meanwhile nobody knows.

use std::{
    fs::File,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use millrace_service::private;
use tokio::task::JoinHandle;

use crate::key::{Directory, Settings};

/// Between two notes that Postgres still answers the same.
const TOUCHED_APART: Duration = Duration::from_secs(30);

/// The file, and what has to be done about it.
pub(super) struct Snapshot {
    path: PathBuf,
    /// What is in memory stands in the file.
    is_written: bool,
    touched_at: Option<Instant>,
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl Snapshot {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), is_written: false, touched_at: None, writing: None }
    }

    /// What the file holds, if it is not older than `age_max`.
    pub(super) fn read(&self, age_max: Duration) -> Option<Settings> {
        let path = self.path.display();
        let mut json = Vec::new();
        let mut file = File::open(&self.path).ok()?;
        // An earlier version left it readable to all.
        if let Err(error) = private::narrow_file(&file).and_then(|()| file.read_to_end(&mut json).map(drop)) {
            tracing::warn!(%error, %path, "the snapshot of stores is unreadable");
            return None;
        }
        // A time that is still to come is that of a clock that was wrong.
        let age = file.metadata().and_then(|file| file.modified()).ok()?.elapsed().unwrap_or_default();
        if age > age_max {
            tracing::warn!(
                %path,
                age_seconds = age.as_secs(),
                "the snapshot of stores is too old: which of its keys were revoked since is not known"
            );
            return None;
        }
        match serde_json::from_slice(&json) {
            Ok(settings) => Some(settings),
            Err(error) => {
                tracing::warn!(%error, %path, "the snapshot of stores is unreadable");
                None
            }
        }
    }

    /// Something has changed.
    pub(super) fn changed(&mut self) {
        self.is_written = false;
    }

    /// Postgres has answered: writes what has changed, or notes that nothing has.
    pub(super) async fn keep(&mut self, directory: &Arc<Directory>, version: i64) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        self.finish().await;
        let path = self.path.clone();
        if !self.is_written {
            let directory = Arc::clone(directory);
            self.is_written = true;
            self.touched_at = Some(Instant::now());
            self.writing = Some(tokio::task::spawn_blocking(move || {
                let json = serde_json::to_vec(&directory.settings(version))?;
                private::write(&path, &json).inspect_err(|_| drop(std::fs::remove_file(&path)))
            }));
        } else if self.touched_at.is_none_or(|at| at.elapsed() >= TOUCHED_APART) {
            self.touched_at = Some(Instant::now());
            self.writing = Some(tokio::task::spawn_blocking(move || {
                File::options().append(true).open(&path)?.set_modified(SystemTime::now())
            }));
        }
    }

    /// Waits until nothing is being written.
    pub(super) async fn finish(&mut self) {
        let Some(writing) = self.writing.take() else { return };
        let failed = match writing.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(panic) => panic.to_string(),
        };
        // Tried again with the next look.
        self.is_written = false;
        tracing::warn!(error = failed, path = %self.path.display(), "the snapshot of stores could not be written");
    }
}
