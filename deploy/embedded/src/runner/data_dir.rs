//! The data directory: held by one runner at a time, and the place of what is made once.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use millrace_service::private;

const ADMIN_TOKEN: &str = "admin_token";

/// A data directory that nobody else uses while this value lives.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("another millrace runs on {}; stop it first, or choose another --data-dir", .0.display())]
    Busy(PathBuf),
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

impl DataDir {
    /// Makes the directory if necessary, and takes it.
    pub(super) fn take(path: &Path) -> Result<Self, Error> {
        private::create_dir_all(path).map_err(failed("create", path))?;
        let path = path.canonicalize().map_err(failed("find", path))?;
        let lock_path = path.join("lock");
        let lock = private::create(&lock_path).map_err(failed("write", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Busy(path)),
            Err(fs::TryLockError::Error(source)) => Err(failed("lock", &lock_path)(source)),
        }
    }

    /// A place in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The admin token of this directory: made at the first start, the same ever after.
    pub(super) fn admin_token(&self) -> Result<String, Error> {
        let path = self.join(ADMIN_TOKEN);
        if let Some(token) = kept_admin_token(&self.path).map_err(failed("read", &path))? {
            return Ok(token);
        }
        let token = format!("mr_admin_{}", uuid::Uuid::new_v4().simple());
        // Only its owner may read it: who has the token may create and erase stores.
        private::write(&path, token.as_bytes()).map_err(failed("write", &path))?;
        Ok(token)
    }
}

/// The admin token of a data directory, if a runner has made one there.
pub fn kept_admin_token(data_dir: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(data_dir.join(ADMIN_TOKEN)) {
        Ok(token) => Ok(Some(token.trim().to_owned()).filter(|token| !token.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { action, path, source }
}
