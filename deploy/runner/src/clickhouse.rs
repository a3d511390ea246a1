//! The passwords of one machine's ClickHouse, made at its first start with a data directory.
//!
//! | file | whose |
//! |---|---|
//! | `clickhouse.password` | the services' user, `millrace` |
//! | `clickhouse_reader.password` | people's user, `reader`, who only reads |
//! | `clickhouse.url` | the address with `reader` and its password, for `curl` and clients; written at each start |

use std::{ffi::OsString, fs, io, path::Path};

use anyhow::Context as _;
use millrace_local::engine::kept_password;
use millrace_schemas::clickhouse::{READER, SERVICES};
use millrace_service::private;

use super::data_dir::DataDir;

const PASSWORD: &str = "clickhouse.password";
const READER_PASSWORD: &str = "clickhouse_reader.password";
const URL: &str = "clickhouse.url";

/// How the services log in, and how the engine knows them.
pub(super) struct Login {
    pub(super) user: &'static str,
    pub(super) password: String,
    /// Arguments of `millrace-clickhouse`.
    pub(super) arguments: [OsString; 6],
}

impl Login {
    /// Makes what the data directory lacks, and writes the address for people.
    pub(super) fn keep(data_dir: &DataDir, port: u16, database: &str) -> anyhow::Result<Self> {
        let (services, reader) = (data_dir.join(PASSWORD), data_dir.join(READER_PASSWORD));
        let password = kept_password(&services)?;
        let people = kept_password(&reader)?;
        let url = data_dir.join(URL);
        let address = format!("http://{READER}:{people}@127.0.0.1:{port}/?database={database}");
        private::write(&url, address.as_bytes())
            .with_context(|| format!("cannot write {}", url.display()))?;
        let arguments = [
            "--password-file".into(),
            services.into(),
            "--reader-password-file".into(),
            reader.into(),
            "--database".into(),
            database.into(),
        ];
        Ok(Self { user: SERVICES, password, arguments })
    }
}

/// User and password of the services in a data directory, if a runner has made them there.
pub fn kept_clickhouse_login(data_dir: &Path) -> io::Result<Option<(String, String)>> {
    match fs::read_to_string(data_dir.join(PASSWORD)) {
        Ok(password) => Ok(Some((SERVICES.to_owned(), password.trim().to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
