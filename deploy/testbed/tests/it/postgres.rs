use std::{os::unix::fs::PermissionsExt, time::Duration};

use millrace_local::postgres::{Config, Error, LocalPostgres};
use millrace_testbed::{Port, Postgres};
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

/// Nobody gets in without the password, and nobody but the services' role at all.
#[tokio::test]
async fn whoever_connects_gives_a_password_and_has_no_attribute() {
    let postgres = Postgres::start().await.unwrap();
    let mut connection = PgConnection::connect(postgres.url()).await.unwrap();
    let attributes = "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
                      FROM pg_roles WHERE rolname = session_user";
    let has_any: bool = sqlx::query_scalar(attributes).fetch_one(&mut connection).await.unwrap();
    assert!(!has_any);
    // Tables can be made, as migrations do.
    sqlx::raw_sql("CREATE TABLE t (i int); DROP TABLE t").execute(&mut connection).await.unwrap();

    let (login, place) = postgres.url().rsplit_once('@').unwrap();
    let (place, _) = place.split_once('/').unwrap();
    let password = login.rsplit_once(':').unwrap().1;
    assert!(password.len() >= 32 && password.bytes().all(|byte| byte.is_ascii_hexdigit()), "{password}");
    let other = password.replace(char::is_alphanumeric, "0");
    for (user, password, database) in [
        ("millrace", "", "millrace"),
        ("millrace", other.as_str(), "millrace"),
        ("millrace", password, "postgres"),
        ("millrace", password, "template1"),
        ("postgres", "", "millrace"),
        ("postgres", password, "postgres"),
        ("millrace_dashboard", password, "millrace"),
        ("millrace_reader", password, "millrace"),
        ("root", password, "millrace"),
    ] {
        let url = format!("postgres://{user}:{password}@{place}/{database}");
        let error = PgConnection::connect(&url).await.unwrap_err().to_string();
        let refused = ["password authentication failed", "no pg_hba.conf entry", "empty password"];
        assert!(refused.iter().any(|reason| error.contains(reason)), "{user}, {database}: {error}");
    }
    let rules = std::fs::read_to_string(postgres.data_dir().join("pg_hba.conf")).unwrap();
    assert!(rules.lines().all(|rule| rule.ends_with(" 127.0.0.1/32 scram-sha-256")), "{rules}");
}

/// The address is for its owner's eyes, says where Postgres is now, and is made again where it is lost.
#[tokio::test]
async fn the_address_lies_in_the_data_directory() {
    let dir = tempfile::tempdir().unwrap();
    let ports = [Port::reserve().unwrap(), Port::reserve().unwrap()];
    let config =
        Config { durable: false, ..Config::new(dir.path().join("data/postgres"), ports[0].number()) };
    let file = dir.path().join("data/postgres.url");
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;

    let server = LocalPostgres::start(&config).await.unwrap();
    let first = std::fs::read_to_string(&file).unwrap();
    assert_eq!((mode(&file), mode(file.parent().unwrap()), server.url()), (0o600, 0o700, first.as_str()));
    PgConnection::connect(&first).await.unwrap().ping().await.unwrap();
    server.stop().await.unwrap();

    let moved = Config { port: ports[1].number(), ..config };
    let server = LocalPostgres::start(&moved).await.unwrap();
    let second = std::fs::read_to_string(&file).unwrap();
    assert_eq!(
        second,
        first.replace(&format!(":{}/", ports[0].number()), &format!(":{}/", ports[1].number()))
    );
    PgConnection::connect(&second).await.unwrap().ping().await.unwrap();
    server.stop().await.unwrap();

    std::fs::remove_file(&file).unwrap();
    let _server = LocalPostgres::start(&moved).await.unwrap();
    let third = std::fs::read_to_string(&file).unwrap();
    assert_ne!(third, second);
    PgConnection::connect(&third).await.unwrap().ping().await.unwrap();
    PgConnection::connect(&second).await.unwrap_err();
}

/// What a data directory was like that asked for no password, after somebody had made use of that.
const AS_IT_WAS: &str = "
ALTER ROLE millrace CREATEROLE CREATEDB PASSWORD 'old' CONNECTION LIMIT 7;

ALTER ROLE millrace SET search_path = evil, public;

ALTER DATABASE millrace OWNER TO millrace;

GRANT ALL ON DATABASE millrace TO PUBLIC;

GRANT pg_execute_server_program, pg_read_server_files, pg_write_server_files TO millrace WITH ADMIN OPTION;

CREATE ROLE evil LOGIN SUPERUSER PASSWORD 'evil' IN ROLE millrace, millrace_dashboard, pg_read_all_data;

CREATE ROLE other LOGIN CREATEROLE;

GRANT other TO millrace;

GRANT millrace_dashboard TO millrace WITH ADMIN OPTION;

ALTER ROLE millrace_dashboard LOGIN PASSWORD 'known';

CREATE ROLE millrace_login_0123456789abcdef LOGIN CREATEROLE PASSWORD 'forged' IN ROLE pg_execute_server_program;

CREATE ROLE reports LOGIN PASSWORD 'reports' IN ROLE millrace_dashboard;

DROP SCHEMA millrace_admin CASCADE;

CREATE SCHEMA millrace_admin AUTHORIZATION millrace;

SET ROLE millrace;

CREATE FUNCTION public.format(text, name) RETURNS text LANGUAGE sql AS $$SELECT 'ALTER ROLE other SUPERUSER'$$;

RESET ROLE;

ALTER SCHEMA public OWNER TO pg_database_owner;

GRANT ALL ON FUNCTION pg_advisory_lock(bigint), lo_create(oid) TO PUBLIC;

";

#[tokio::test]
async fn an_old_directory_is_closed_at_its_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve().unwrap();
    let config = Config { durable: false, ..Config::new(dir.path().join("postgres"), port.number()) };
    let url = LocalPostgres::initialise(&config).await.unwrap();
    assert_eq!(LocalPostgres::single_user(&config, AS_IT_WAS).await.unwrap(), [] as [&str; 0]);
    for file in ["postgres.url", "postgres/millrace_set_up"] {
        std::fs::remove_file(dir.path().join(file)).unwrap();
    }
    std::fs::write(dir.path().join("postgres.password"), "old").unwrap();

    let server = LocalPostgres::start(&config).await.unwrap();
    assert!(server.url() != url && !dir.path().join("postgres.password").exists());
    let mut connection = PgConnection::connect(server.url()).await.unwrap();
    let with_attributes = "SELECT rolname::text FROM pg_roles WHERE oid <> 10
        AND (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls) ORDER BY 1";
    let can_log_in = "SELECT rolname::text FROM pg_roles WHERE oid <> 10 AND rolcanlogin ORDER BY 1";
    let members = "SELECT member::regrole || ' in ' || roleid::regrole FROM pg_auth_members
        WHERE member::regrole::text !~ '^pg_' ORDER BY 1";
    let owner = "SELECT datdba::regrole::text FROM pg_database WHERE datname = 'millrace'
        UNION ALL SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname IN ('millrace_admin', 'public')
        ORDER BY 1";
    let settings = "SELECT unnest(setconfig) FROM pg_db_role_setting WHERE setrole = 'millrace'::regrole";
    let functions = "SELECT proname::text FROM pg_proc
        WHERE oid IN ('pg_advisory_lock(bigint)'::regprocedure, 'lo_create(oid)'::regprocedure)
          AND has_function_privilege('millrace', oid, 'EXECUTE')";
    for (sql, expected) in [
        (with_attributes, &[] as &[&str]),
        // Who has a name like this is but a login, and of no store.
        (can_log_in, &["millrace", "millrace_login_0123456789abcdef"]),
        (members, &["millrace in millrace_dashboard"]),
        (owner, &["millrace", "postgres", "postgres"]),
        (settings, &[]),
        (functions, &[]),
    ] {
        let found: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut connection).await.unwrap();
        assert_eq!(found, expected, "{sql}");
    }
    let place = server.url().rsplit_once('@').unwrap().1;
    let forged = "millrace_login_0123456789abcdef:forged";
    for who in ["evil:evil", "reports:reports", "millrace_dashboard:known", "millrace:old", forged] {
        PgConnection::connect(&format!("postgres://{who}@{place}")).await.unwrap_err();
    }
    server.stop().await.unwrap();
    // The set-up is not run again.
    let mark = dir.path().join("postgres/millrace_set_up");
    let written_at = || std::fs::metadata(&mark).unwrap().modified().unwrap();
    let first = written_at();
    LocalPostgres::start(&config).await.unwrap().stop().await.unwrap();
    assert_eq!(written_at(), first);
}

/// Under root, the server's own user cannot walk through the directories above the data.
#[tokio::test]
async fn a_directory_that_others_cannot_enter_will_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
    let port = Port::reserve().unwrap();
    let config = Config::new(dir.path().join("postgres"), port.number());
    let server = LocalPostgres::start(&config).await.unwrap();
    PgConnection::connect(server.url()).await.unwrap().ping().await.unwrap();
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
    PgConnection::connect(first.url()).await.unwrap().ping().await.unwrap();
}

/// Also while it runs: whoever reaches the port can make it write.
#[tokio::test]
async fn the_log_is_kept_short_while_the_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve().unwrap();
    let config = Config { durable: false, ..Config::new(dir.path().join("postgres"), port.number()) };
    let mut server = LocalPostgres::start(&config).await.unwrap();
    let (url, log) = (server.url().to_owned(), server.log());
    let bytes = || std::fs::metadata(&log).unwrap().len();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let much = "DO $$ BEGIN FOR i IN 1..50 LOOP RAISE LOG '%', repeat('x', 100000); END LOOP; END $$";
    sqlx::raw_sql(much).execute(&mut connection).await.unwrap();
    assert!(bytes() > 4 << 20);
    let is_short = async {
        while bytes() >= 1 << 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        ended = server.wait() => panic!("{ended:?}"),
        short = tokio::time::timeout(Duration::from_secs(180), is_short) => short.expect("it is short"),
    }
    // The server goes on where the file now ends.
    sqlx::raw_sql("DO $$ BEGIN RAISE LOG 'the next line'; END $$").execute(&mut connection).await.unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.contains("the next line") && !text.contains('\0') && text.len() < 1 << 20);
    server.stop().await.unwrap();
}
