use std::os::unix::fs::PermissionsExt;

use millrace_embedded::postgres::{Config, Error, LocalPostgres};
use millrace_embedded::testbed::{Port, Postgres};
use sqlx::{Connection, PgConnection};

#[tokio::test]
async fn committed_rows_survive_kill_and_stop() {
    let mut postgres = Postgres::start().await.unwrap();
    let mut connection = PgConnection::connect(postgres.url()).await.unwrap();
    sqlx::raw_sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)").execute(&mut connection).await.unwrap();

    // An open connection has a worker that outlives the killed server for a moment.
    postgres.kill9().unwrap();
    postgres.restart().await.unwrap();
    let mut connection = PgConnection::connect(postgres.url()).await.unwrap();
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM t").fetch_one(&mut connection).await.unwrap();
    assert_eq!(rows, 1);

    postgres.stop().await.unwrap();
    postgres.restart().await.unwrap();
    PgConnection::connect(postgres.url()).await.unwrap().ping().await.unwrap();
}

/// The role can do what the migrations need, and no more.
#[tokio::test]
async fn the_role_owns_its_database_and_nothing_else() {
    let postgres = Postgres::start().await.unwrap();
    let mut connection = PgConnection::connect(postgres.url()).await.unwrap();
    let may = "CREATE SCHEMA s; CREATE ROLE reader NOLOGIN; GRANT USAGE ON SCHEMA s TO reader; \
               CREATE DATABASE other";
    for statement in may.split(';') {
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
    }
    let read_a_file = sqlx::raw_sql("SELECT pg_read_file('/etc/passwd')").execute(&mut connection).await;
    assert!(read_a_file.unwrap_err().to_string().contains("permission denied"));

    let as_superuser = format!("postgres://postgres@{}", postgres.url().split('@').next_back().unwrap());
    PgConnection::connect(&as_superuser).await.unwrap_err();
}

/// Under root, the server's own user cannot walk through the directories above the data.
#[tokio::test]
async fn a_directory_that_others_cannot_enter_will_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let port = Port::reserve().unwrap();
    let config = Config::new(dir.path().join("postgres"), port.number());
    let server = LocalPostgres::start(&config).await.unwrap();
    PgConnection::connect(&server.url()).await.unwrap().ping().await.unwrap();
    server.stop().await.unwrap();
}

/// A killed server that nobody reaped leaves a lock file that names a process which seems to live.
#[tokio::test]
async fn a_lock_file_of_a_dead_or_foreign_process_is_no_obstacle() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve().unwrap();
    let config = Config { durable: false, ..Config::new(dir.path().join("postgres"), port.number()) };
    LocalPostgres::initialise(&config).await.unwrap();
    for pid in [std::process::id(), 4_000_000] {
        std::fs::write(config.data_dir.join("postmaster.pid"), format!("{pid}\n/elsewhere\n")).unwrap();
        LocalPostgres::start(&config).await.unwrap().stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
    let config = Config { durable: false, ..Config::new(dir.path().join("postgres"), ports[0].number()) };
    let first = LocalPostgres::start(&config).await.unwrap();
    let config = Config { port: ports[1].number(), ..config };
    assert!(matches!(LocalPostgres::start(&config).await, Err(Error::Busy { .. })));
    PgConnection::connect(&first.url()).await.unwrap().ping().await.unwrap();
}
