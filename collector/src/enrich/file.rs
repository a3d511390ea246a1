//! Data that an operator gives as a file, read again whenever the file changes.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {reason}", path = path.display())]
pub struct FileError {
    path: PathBuf,
    reason: String,
}

/// What a file holds.
pub(crate) struct FileData<T> {
    path: PathBuf,
    read: fn(&[u8]) -> Result<T, String>,
    data: ArcSwap<T>,
    stamp: Mutex<Option<Stamp>>,
}

/// By what a changed file is known. A file that was put in another's place has another number, whatever its time.
type Stamp = (Option<SystemTime>, u64, u64);

impl<T> FileData<T> {
    /// Reads the file.
    pub(crate) fn open(path: &Path, read: fn(&[u8]) -> Result<T, String>) -> Result<Self, FileError> {
        let error = |reason: String| FileError { path: path.to_owned(), reason };
        // Looked at before it is read: what changes in between is seen the next time.
        let stamp = stamp(path).map_err(|problem| error(problem.to_string()))?;
        let bytes = fs::read(path).map_err(|problem| error(problem.to_string()))?;
        let data = read(&bytes).map_err(error)?;
        Ok(Self {
            path: path.to_owned(),
            read,
            data: ArcSwap::from_pointee(data),
            stamp: Mutex::new(Some(stamp)),
        })
    }

    /// What it held when it was last read whole.
    pub(crate) fn load(&self) -> arc_swap::Guard<Arc<T>> {
        self.data.load()
    }

    /// Reads the file if it has changed; one that cannot be used changes nothing. Waits for the disk.
    pub(crate) fn refresh(&self) {
        let now = stamp(&self.path).ok();
        let mut known = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if now == *known {
            return;
        }
        *known = now;
        let path = self.path.display();
        match fs::read(&self.path).map_err(|error| error.to_string()).and_then(|bytes| (self.read)(&bytes)) {
            Ok(data) => {
                self.data.store(Arc::new(data));
                tracing::info!(%path, "read again, as it changed");
            }
            Err(error) => tracing::warn!(%path, error, "cannot be used; going on with what it held before"),
        }
    }
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path)?;
    Ok((metadata.modified().ok(), metadata.len(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(bytes: &[u8]) -> Result<u32, String> {
        String::from_utf8_lossy(bytes).trim().parse().map_err(|_| "it holds no number".to_owned())
    }

    #[test]
    fn changed_files_are_read_again_and_broken_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("number");
        assert!(FileData::open(&path, number).err().unwrap().to_string().contains("number: "));
        fs::write(&path, "1").unwrap();
        let data = FileData::open(&path, number).unwrap();
        // Put in its place as `mv` does, with as many bytes; then broken; then gone; then there again.
        for (text, expected) in [(Some("2"), 2), (Some("broken"), 2), (None, 2), (Some("34"), 34)] {
            let _ = fs::remove_file(&path);
            if let Some(text) = text {
                let other = dir.path().join("other");
                fs::write(&other, text).unwrap();
                fs::rename(&other, &path).unwrap();
            }
            data.refresh();
            assert_eq!(**data.load(), expected);
        }
    }
}
