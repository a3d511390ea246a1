//! A real ClickHouse engine for one test: [`LocalEngine`] in a temporary directory.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitStatus,
};

use millrace_local::engine::{Config, LocalEngine, PasswordError, kept_password};
use millrace_schemas::clickhouse::{READER, SERVICES};
use tempfile::TempDir;

use super::{Error, Port};

/// A server of its own. Dropping it kills it and removes its data.
#[derive(Debug)]
pub struct Engine {
    // Declared before the directory: the server ends first.
    server: Option<LocalEngine>,
    config: Config,
    _port: Port,
    dir: TempDir,
}

impl Engine {
    /// Starts a server with its default settings and waits until it answers.
    pub async fn start() -> Result<Self, Error> {
        Self::start_with([] as [&str; 0]).await
    }

    /// Starts a server with further arguments. It asks for no password, and each test may make databases of its own.
    pub async fn start_with(arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Result<Self, Error> {
        let open = ["--no-password", "--database=*"].map(OsString::from);
        Self::launch(|_| Ok(open.into_iter().chain(arguments.into_iter().map(Into::into)).collect())).await
    }

    /// Starts a server as `millrace run` does: with passwords, see [`Engine::password`], and for the database `millrace` alone.
    pub async fn start_guarded() -> Result<Self, Error> {
        Self::start_guarded_with([] as [&str; 0]).await
    }

    /// The same, with further arguments.
    pub async fn start_guarded_with(
        arguments: impl IntoIterator<Item = impl Into<OsString>>,
    ) -> Result<Self, Error> {
        Self::launch(|dir| {
            let [services, reader] = [SERVICES, READER].map(|user| password_file(dir, user));
            kept_password(&services)?;
            kept_password(&reader)?;
            let files: [OsString; 4] =
                ["--password-file".into(), services.into(), "--reader-password-file".into(), reader.into()];
            Ok(files.into_iter().chain(arguments.into_iter().map(Into::into)).collect())
        })
        .await
    }

    async fn launch(
        arguments: impl FnOnce(&Path) -> Result<Vec<OsString>, PasswordError>,
    ) -> Result<Self, Error> {
        let port = Port::reserve()?;
        let dir = tempfile::Builder::new().prefix("millrace-engine-").tempdir()?;
        let config = Config {
            library: library(),
            data_dir: dir.path().join("clickhouse"),
            log: dir.path().join("log"),
            port: port.number(),
            arguments: arguments(dir.path())?,
        };
        let server = Some(LocalEngine::start(&config).await?);
        Ok(Self { server, config, _port: port, dir })
    }

    /// The password of one of a guarded server's users.
    pub fn password(&self, user: &str) -> Result<String, Error> {
        Ok(kept_password(&password_file(self.dir.path(), user))?)
    }

    /// The server's address; the same after a restart.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.config.port)
    }

    /// Where its tables are.
    pub fn data_dir(&self) -> PathBuf {
        self.config.data_dir.clone()
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.server.as_ref().map(LocalEngine::id)
    }

    /// Kills the server with no chance to write anything; its data stays for [`Engine::restart`].
    pub fn kill9(&mut self) -> Result<(), Error> {
        if let Some(server) = self.server.take() {
            server.kill9()?;
        }
        Ok(())
    }

    /// Stops the server in good order; its data stays for [`Engine::restart`].
    pub async fn stop(&mut self) -> Result<Option<ExitStatus>, Error> {
        match self.server.take() {
            Some(server) => Ok(Some(server.stop().await?)),
            None => Ok(None),
        }
    }

    /// Starts the server again on the same port and data, killing it first if it runs.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.kill9()?;
        self.server = Some(LocalEngine::start(&self.config).await?);
        Ok(())
    }
}

fn password_file(dir: &Path, user: &str) -> PathBuf {
    dir.join(format!("{user}.password"))
}

/// The engine library: `MILLRACE_CHDB_LIBRARY`, or where the repository's script puts it.
pub fn library() -> PathBuf {
    let installed = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/chdb/libchdb.so");
    std::env::var_os("MILLRACE_CHDB_LIBRARY").map_or_else(installed, PathBuf::from)
}
