//! What a superuser does to a local Postgres, in single-user mode while the server is down: making it, and bringing one
//! that an earlier build made up to this build's set-up ([`millrace_schemas::postgres::set_up`]).
//!
//! * The role's password is kept in `<data_dir>.url` and nowhere else. With that file gone, the next start makes a new one.
//! * `<data_dir>/millrace_set_up` says which set-up has been run, so that later starts have nothing to do. It is written
//!   after the set-up, and removed before anything changes that the set-up must know: a crash in between repeats it.
//! * Data directories made before passwords were asked for hold a role that can make roles, and whatever somebody has made
//!   with it. The set-up takes its rights away and closes the roles; it says so in warnings.

use std::fs;
use std::io;
use std::path::Path;

use millrace_schemas::postgres as contract;
use millrace_service::private;
use rand::Rng as _;
use sha2::{Digest as _, Sha256};

use super::{Config, DATA_FD, Error, NAME, beside, bin_dir, in_data_dir, io_error, make_data_dir, run};

/// Which set-up a data directory has had.
const MARK: &str = "millrace_set_up";

/// Makes the data directory unless it exists.
pub(super) async fn initialise(config: &Config) -> Result<(), Error> {
    let data_dir = &config.data_dir;
    if data_dir.join("PG_VERSION").exists() {
        return Ok(());
    }
    let bin_dir = bin_dir(config)?;
    let fresh = beside(data_dir, "new");
    let parent = data_dir.parent().unwrap_or(Path::new("/"));
    // One that is there may be somebody else's: its mode is not ours to change.
    if !parent.exists() {
        private::create_dir_all(parent).map_err(io_error("create", parent))?;
    }
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(io_error("remove", &fresh))?;
    }
    make_data_dir(&fresh).await?;

    let mut initdb = in_data_dir(&fresh, bin_dir.join("initdb").as_os_str());
    initdb.args(["--pgdata", DATA_FD, "--username", "postgres", "--auth", "reject"]);
    initdb.args(["--encoding", "UTF8", "--locale", "C.UTF-8"]);
    if !config.durable {
        initdb.arg("--no-sync");
    }
    run("initdb", initdb, "").await?;
    // The rest is the set-up's. The superuser gets no password and can thus not log in.
    let commands = format!("CREATE ROLE {NAME};\n\nCREATE DATABASE {NAME};\n\n");
    single_user(config, &fresh, "postgres", &commands).await?;
    fs::rename(&fresh, data_dir).map_err(io_error("rename", &fresh))
}

/// Runs the set-up unless it has been run, and writes down the address. Nobody may be using the directory.
pub(super) async fn bring_up_to_date(config: &Config) -> Result<String, Error> {
    let (mark, url_file) = (config.data_dir.join(MARK), config.url_file());
    let kept = kept_password(&url_file).map_err(io_error("read", &url_file))?;
    let password = match kept {
        Some(password) => password,
        None => {
            remove(&mark)?;
            new_password()
        }
    };
    let url = format!("postgres://{NAME}:{password}@{}:{}/{NAME}", config.address, config.port);
    private::write(&url_file, url.as_bytes()).map_err(io_error("write", &url_file))?;

    let role_error = |error: contract::RoleError| Error::Io {
        action: "make the set-up of Postgres".into(),
        source: io::Error::other(error),
    };
    let script = contract::set_up(NAME).map_err(role_error)?;
    let wanted = hex(&Sha256::digest(script.clone() + &contract::one_machine("")));
    if fs::read_to_string(&mark).is_ok_and(|done| done == wanted) {
        return Ok(url);
    }
    let mut salt = [0_u8; 16];
    rand::rng().fill_bytes(&mut salt);
    let extra = contract::one_machine(&contract::scram_verifier(&password, salt));
    for warning in single_user(config, &config.data_dir, NAME, &format!("{script}\n{extra}")).await? {
        tracing::warn!("Postgres: {warning}");
    }
    private::write(&mark, wanted.as_bytes()).map_err(io_error("write", &mark))?;
    // Where earlier builds kept a password that was rarely asked for.
    remove(&beside(&config.data_dir, "password"))?;
    Ok(url)
}

/// Runs commands as the superuser; answers the warnings.
pub(super) async fn single_user(
    config: &Config,
    dir: &Path,
    database: &str,
    commands: &str,
) -> Result<Vec<String>, Error> {
    let mut single = in_data_dir(dir, bin_dir(config)?.join("postgres").as_os_str());
    single.args(["--single", "-j", "-D", DATA_FD]);
    if !config.durable {
        single.args(["-c", "fsync=off"]);
    }
    single.arg(database);
    let said = run("postgres --single", single, commands).await?;
    let warnings = said.lines().filter_map(|line| line.split_once("WARNING:"));
    Ok(warnings.map(|(_, warning)| warning.trim().to_owned()).collect())
}

/// The password in an address that was written here.
fn kept_password(url_file: &Path) -> io::Result<Option<String>> {
    let url = match fs::read_to_string(url_file) {
        Ok(url) => url,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let password = url.strip_prefix(&format!("postgres://{NAME}:")).and_then(|rest| rest.split_once('@'));
    Ok(password
        .map(|(password, _)| password.to_owned())
        .filter(|password| password.len() >= 32 && password.bytes().all(|byte| byte.is_ascii_alphanumeric())))
}

/// 192 random bits.
fn new_password() -> String {
    let mut bytes = [0_u8; 24];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}
