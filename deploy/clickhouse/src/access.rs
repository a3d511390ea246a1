//! Who may ask, and for what.
//!
//! The engine knows one user, whose rights stand in [`super::rights`]. The endpoint knows two:
//!
//! * [`User::Services`], `millrace`: makes tables, inserts, removes, within those rights;
//! * [`User::Reader`], `reader`: people. Each of their statements runs on a connection with `readonly=1`.
//!
//! Passwords come in files that their owner alone may read, since what stands on a command line or in an environment is
//! shown by `ps` and `/proc`. Only their digests are kept.

use std::{
    io,
    path::{Path, PathBuf},
};

use millrace_schemas::clickhouse::{READER, SERVICES};
use sha2::{Digest, Sha256};

use super::config::Config;

/// Shorter passwords can be guessed.
const PASSWORD_BYTES_MIN: usize = 16;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// The services of Millrace.
    Services,
    /// People, and what they use to look at events.
    Reader,
}

/// Why the passwords cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// None is set, and nobody said that none is wanted.
    #[error(
        "no password is set: name its file with --password-file, or let everybody who reaches the port change everything \
         with --no-password"
    )]
    NoPassword,
    /// A file cannot be read.
    #[error("cannot use the password in {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A password is too short.
    #[error("the password in {path} is shorter than {PASSWORD_BYTES_MIN} bytes", path = .0.display())]
    Short(PathBuf),
}

/// Digests of the passwords.
#[derive(Debug, Clone)]
pub struct Passwords {
    /// `None`: everybody is [`User::Services`].
    services: Option<[u8; 32]>,
    reader: Option<[u8; 32]>,
}

impl Passwords {
    /// Reads the files that the settings name.
    pub fn read(config: &Config) -> Result<Self, Error> {
        let read = |path: &Option<PathBuf>| path.as_deref().map(read_password).transpose();
        let (services, reader) = (read(&config.password_file)?, read(&config.reader_password_file)?);
        if services.is_none() && !config.no_password {
            return Err(Error::NoPassword);
        }
        Ok(Self { services, reader })
    }

    /// Who a user name and a password stand for.
    pub fn user(&self, name: &str, password: &str) -> Option<User> {
        let Some(services) = &self.services else { return Some(User::Services) };
        let given = digest(password.as_bytes());
        match name {
            SERVICES if same(&given, services) => Some(User::Services),
            READER if self.reader.is_some_and(|reader| same(&given, &reader)) => Some(User::Reader),
            _ => None,
        }
    }
}

fn read_password(path: &Path) -> Result<[u8; 32], Error> {
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::File { path: path.to_owned(), source })?;
    let password = text.trim();
    if password.len() < PASSWORD_BYTES_MIN {
        return Err(Error::Short(path.to_owned()));
    }
    Ok(digest(password.as_bytes()))
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// Compares without telling by its time how much was right.
fn same(given: &[u8; 32], expected: &[u8; 32]) -> bool {
    given.iter().zip(expected).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[test]
    fn each_user_has_a_password_of_its_own() {
        let dir = tempfile::tempdir().expect("directory");
        let [services, reader] = ["a", "b"].map(|name| dir.path().join(name));
        let [millrace, people] = ["the-services-password", "the-readers-password"];
        std::fs::write(&services, millrace).expect("written");
        std::fs::write(&reader, format!("{people}\n")).expect("written");
        let config = Config::parse_from([
            "x".as_ref(),
            "--password-file".as_ref(),
            services.as_os_str(),
            "--reader-password-file".as_ref(),
            reader.as_os_str(),
        ]);
        let passwords = Passwords::read(&config).expect("read");
        assert_eq!(passwords.user("millrace", millrace), Some(User::Services));
        assert_eq!(passwords.user("reader", people), Some(User::Reader));
        for (name, password) in
            [("millrace", people), ("reader", millrace), ("default", millrace), ("millrace", ""), ("", "")]
        {
            assert_eq!(passwords.user(name, password), None, "{name}");
        }
    }

    #[test]
    fn a_start_without_a_password_must_be_wanted() {
        let read = |arguments: &[&str]| Passwords::read(&Config::parse_from(arguments));
        assert!(matches!(read(&["x"]), Err(Error::NoPassword)));
        let open = read(&["x", "--no-password"]).expect("wanted");
        assert_eq!(open.user("anybody", ""), Some(User::Services));
        let dir = tempfile::tempdir().expect("directory");
        let short = dir.path().join("short");
        std::fs::write(&short, "secret\n").expect("written");
        let config = Config::parse_from(["x".as_ref(), "--password-file".as_ref(), short.as_os_str()]);
        assert!(matches!(Passwords::read(&config), Err(Error::Short(_))));
    }
}
