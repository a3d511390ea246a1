//! The data directory: held by one runner at a time, and the place of what is made once. Nobody but its owner may read
//! anything in it.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use millrace_service::{private, setting};

/// Name of the file with the admin token.
pub(super) const ADMIN_TOKEN: &str = "admin_token";

/// A data directory that nobody else uses while this value lives.
#[derive(Debug)]
pub(super) struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// The operator's token, and where it comes from.
pub(super) struct AdminToken {
    pub(super) token: String,
    pub(super) source: Source,
}

/// Where the admin token comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It was made just now: this once it is shown.
    New,
    /// The file of an earlier start.
    File,
    /// The setting.
    Setting,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("another millrace runs on {}; stop it first, or choose another --data-dir", .0.display())]
    Busy(PathBuf),
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Setting(#[from] setting::Error),
    #[error("{}: it holds no admin token of today's form; remove it, and the next start makes one", .0.display())]
    AdminToken(PathBuf),
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

    /// The operator's token: the setting while there is one, else that of this directory, made at the first start and the
    /// same ever after. The setting is written nowhere.
    pub(super) fn admin_token(&self, setting: Option<&str>) -> Result<AdminToken, Error> {
        if let Some(token) = setting.filter(|token| !token.is_empty()) {
            let token = setting::admin_token(token)?.to_owned();
            return Ok(AdminToken { token, source: Source::Setting });
        }
        let path = self.join(ADMIN_TOKEN);
        if let Some(token) = kept_admin_token(&self.path).map_err(failed("read", &path))? {
            // Where an earlier version left it readable for others.
            File::open(&path)
                .and_then(|file| private::narrow_file(&file))
                .map_err(failed("narrow", &path))?;
            let token = setting::admin_token(&token).map_err(|_| Error::AdminToken(path))?.to_owned();
            return Ok(AdminToken { token, source: Source::File });
        }
        let token = format!("mr_admin_{}", uuid::Uuid::new_v4().simple());
        private::write(&path, token.as_bytes()).map_err(failed("write", &path))?;
        Ok(AdminToken { token, source: Source::New })
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_admin_token_is_made_once_and_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("data");
        let made = DataDir::take(&path).unwrap().admin_token(None).unwrap();
        assert_eq!(made.source, Source::New);
        assert_eq!(setting::admin_token(&made.token), Ok(made.token.as_str()));
        for name in ["lock", ADMIN_TOKEN] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&path), 0o700);

        // An earlier version's.
        for name in ["lock", ADMIN_TOKEN, "."] {
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let data_dir = DataDir::take(&path).unwrap();
        let kept = data_dir.admin_token(Some("")).unwrap();
        assert_eq!((kept.source, &kept.token), (Source::File, &made.token), "set to nothing is not set");
        assert_eq!(
            [mode(&path), mode(&path.join("lock")), mode(&path.join(ADMIN_TOKEN))],
            [0o700, 0o600, 0o600]
        );

        // A setting wins while it is there, and leaves the file as it was.
        let set = "0123456789abcdef0123456789abcdef";
        let token = data_dir.admin_token(Some(set)).unwrap();
        assert_eq!((token.source, token.token.as_str()), (Source::Setting, set));
        assert_eq!(data_dir.admin_token(None).unwrap().token, made.token);
        let error = data_dir.admin_token(Some("hunter2")).err().unwrap().to_string();
        assert!(error.contains("openssl rand -hex 32") && !error.contains("hunter2"), "{error}");
        fs::write(path.join(ADMIN_TOKEN), "hunter2").unwrap();
        let error = data_dir.admin_token(None).err().unwrap().to_string();
        assert!(error.contains("admin_token") && !error.contains("hunter2"), "{error}");
    }
}
