//! What people who may say SQL to Postgres try, and what comes of it: as the services' role, as a store's login, as the
//! API's role. Each statement must be refused for the right reason; a typing error would be refused as well.

use millrace_aggregator::{Config, logins, postgres};
use millrace_local::postgres::{self as local, LocalPostgres};
use millrace_testbed::{Port, Postgres};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};

use crate::harness::eventually;

/// Postgres's code for "insufficient privilege".
const DENIED: &str = "42501";
/// For a name or a verifier that is none.
const INVALID: &str = "22023";

/// Tables whose rows people see, each its own store's.
const SHOWN: [&str; 10] = [
    "funnels",
    "funnel_steps",
    "funnel_analytics",
    "analytics_summary",
    "product_analytics",
    "revenue_analytics",
    "cohort_analytics",
    "heatmap_data",
    "heatmap_elements",
    "rollup_watermarks",
];
/// Tables with a store's rows that nobody sees but their owner.
const HIDDEN_OF_STORES: [&str; 13] = [
    "admin_audit",
    "erasures",
    "refused_counts",
    "refused_events",
    "retention_runs",
    "rollup_backoff",
    "stale_orders",
    "store_keys",
    "store_locks",
    "store_logins",
    "summary_days",
    "thinned_days",
    "touched_days",
];

/// Fills the memory that a process may have, in pieces of ever smaller size, then calls itself deeper than it ever has.
const TAKES_ALL_AND_RECURSES: &str = "
    DO $$ DECLARE a text[] := '{}'; n int := 0; most int; deep int; size int;
    BEGIN
        FOR round IN 1..2 LOOP
            IF round = 1 THEN most := 500; deep := 10; ELSE most := 1000000; deep := 6000; END IF;
            BEGIN LOOP n := n + 1; EXIT WHEN n > most; a[n] := repeat('x', 60000); END LOOP;
            EXCEPTION WHEN out_of_memory THEN NULL; END;
            size := 32000;
            WHILE size > 8200 LOOP
                most := n + 200;
                BEGIN LOOP n := n + 1; EXIT WHEN n > most; a[n] := repeat('x', size); END LOOP;
                EXCEPTION WHEN out_of_memory THEN NULL; END;
                size := size - 5000;
            END LOOP;
            FOR k IN 1..299 LOOP a[k * 2] := 'y'; END LOOP;
            BEGIN PERFORM repeat('[', deep)::json; EXCEPTION WHEN OTHERS THEN NULL; END;
        END LOOP;
    END $$";

/// A database with the stores `own` and `other`, a row of each in every table that is shown, and a login of `own`.
struct Place {
    postgres: Postgres,
    pool: PgPool,
    url: String,
    login: String,
}

impl Place {
    async fn start() -> Self {
        let database = Postgres::start().await.unwrap();
        let config = Config { postgres_url: database.url().to_owned(), ..Config::default() };
        let pool = postgres::pool(&config).unwrap();
        postgres::migrate(&pool).await.unwrap();
        for store in ["own", "other"] {
            let canary = format!("canary of {store}");
            sqlx::query("INSERT INTO stores (id, name, timezone, currency) VALUES ($1, $2, 'UTC', 'USD')")
                .bind(store)
                .bind(&canary)
                .execute(&pool)
                .await
                .unwrap();
            sqlx::query(
                "INSERT INTO store_keys (key_sha256, store_id, kind, write_key)
                 VALUES (sha256(convert_to($2, 'UTF8')), $1, 'write', $2)",
            )
            .bind(store)
            .bind(&canary)
            .execute(&pool)
            .await
            .unwrap();
            for table in SHOWN {
                pool.execute(AssertSqlSafe(canary_row(&pool, table, store).await)).await.unwrap();
            }
        }
        pool.execute("ANALYZE").await.unwrap();
        let mut transaction = pool.begin().await.unwrap();
        let made = logins::create(&mut transaction, "own", None).await.unwrap();
        transaction.commit().await.unwrap();
        let url = logins::url(&pool.connect_options(), &made).unwrap();
        Self { postgres: database, pool, url, login: made.login }
    }

    async fn person(&self) -> PgConnection {
        PgConnection::connect(&self.url).await.unwrap()
    }

    /// Of the login's role.
    async fn role<T>(&self, value: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT {value} FROM pg_roles WHERE rolname = $1")))
            .bind(&self.login)
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    fn log_bytes(&self) -> u64 {
        std::fs::metadata(self.postgres.data_dir().with_extension("log")).unwrap().len()
    }

    /// No role has got anything by what was tried.
    async fn check_roles(&self) {
        let roles: Vec<String> = sqlx::query_scalar(
            "SELECT rolname || CASE WHEN rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
                                    THEN ' with attributes' ELSE '' END
             FROM pg_roles WHERE oid <> 10 AND rolname !~ '^pg_' ORDER BY 1",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let expected = ["millrace", "millrace_dashboard", self.login.as_str(), "millrace_reader"];
        assert_eq!(roles, expected);
        let members: Vec<String> = sqlx::query_scalar(
            "SELECT member::regrole || ' in ' || roleid::regrole FROM pg_auth_members
             WHERE member::regrole::text !~ '^pg_' ORDER BY 1",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        let login = format!("{} in millrace_reader", self.login);
        assert_eq!(members, ["millrace in millrace_dashboard", login.as_str()]);
    }
}

/// A statement that inserts a row whose texts are the store's canary.
async fn canary_row(pool: &PgPool, table: &str, store: &str) -> String {
    let columns: Vec<(String, String)> = sqlx::query_as(
        "SELECT column_name::text, data_type::text FROM information_schema.columns
         WHERE table_name = $1 AND is_nullable = 'NO' AND column_default IS NULL AND is_generated = 'NEVER'",
    )
    .bind(table)
    .fetch_all(pool)
    .await
    .unwrap();
    let value = |(name, kind): &(String, String)| match (name.as_str(), kind.as_str()) {
        ("store_id", _) => format!("'{store}'"),
        ("period_type", _) => "'day'".into(),
        ("viewport_class", _) => "'mobile'".into(),
        (_, "text") => format!("'canary of {store}'"),
        (_, "date") => "'2026-01-01'".into(),
        (_, "jsonb") => "'{}'".into(),
        (_, "boolean") => "false".into(),
        (_, "timestamp with time zone") => "now()".into(),
        _ => "1".into(),
    };
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let values: Vec<String> = columns.iter().map(value).collect();
    format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "))
}

/// The code with which statements are refused; `None`: they are not.
async fn refusal(connection: &mut PgConnection, sql: &str) -> Option<String> {
    match sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await {
        Ok(_) => None,
        Err(error) => {
            let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
            Some(code.unwrap_or_else(|| panic!("{sql}: {error}")))
        }
    }
}

async fn assert_refused(connection: &mut PgConnection, statements: &[&str], code: &str) {
    for sql in statements {
        assert_eq!(refusal(connection, sql).await.as_deref(), Some(code), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_services_role_gets_no_further_than_its_tables() {
    let place = Place::start().await;
    let dir = tempfile::tempdir().unwrap();
    let canary = dir.path().join("canary");
    std::fs::write(&canary, "canary\n").unwrap();
    let file = canary.to_str().unwrap();
    let written = dir.path().join("written");
    let out = written.to_str().unwrap();
    let mut millrace = PgConnection::connect(place.postgres.url()).await.unwrap();
    millrace.execute("CREATE TABLE t (line text)").await.unwrap();

    // Attributes and memberships, in every disguise.
    let more_rights = [
        "ALTER ROLE millrace SUPERUSER",
        "aLtEr/**/RoLe\n\"millrace\" -- \n SUPERUSER",
        "ALTER USER CURRENT_USER CREATEROLE",
        "ALTER ROLE millrace CREATEDB",
        "ALTER ROLE millrace BYPASSRLS",
        "ALTER ROLE U&\"millrac\\0065\" REPLICATION",
        "CREATE ROLE x",
        "CREATE USER x SUPERUSER",
        "SELECT 1; CREATE GROUP x",
        "GRANT postgres TO millrace",
        "GRANT pg_execute_server_program TO millrace",
        "GRANT pg_read_server_files, pg_write_server_files TO CURRENT_USER",
        "GRANT pg_read_all_data TO millrace",
        "GRANT pg_signal_backend TO millrace",
        "GRANT millrace_reader TO millrace",
        "GRANT millrace_dashboard TO millrace_reader",
        "SET ROLE postgres",
        "SET SESSION AUTHORIZATION postgres",
        "DO $$ BEGIN EXECUTE 'ALTER ROLE millrace SUPER' || 'USER'; END $$",
        "DO $$ BEGIN EXECUTE format('GRANT %I TO %I', 'pg_execute_server_program', current_user); END $$",
        "CREATE FUNCTION f() RETURNS VOID LANGUAGE plpgsql SECURITY DEFINER AS
            'BEGIN EXECUTE $e$ALTER ROLE millrace SUPERUSER$e$; END'; SELECT f()",
        "UPDATE pg_authid SET rolsuper = true WHERE rolname = 'millrace'",
        "INSERT INTO pg_auth_members (roleid, member) SELECT 10, oid FROM pg_roles WHERE rolname = 'millrace'",
        "SELECT rolpassword FROM pg_authid",
        "TABLE pg_shadow",
    ];
    assert_refused(&mut millrace, &more_rights, DENIED).await;
    // Programs and files.
    for sql in [
        format!("COPY t FROM PROGRAM 'touch {out}'"),
        format!("COPY (SELECT 1) TO PROGRAM 'cat > {out}'"),
        format!("copy/**/t from\tprogram $$touch {out}$$"),
        format!("DO $x$ BEGIN EXECUTE 'COPY t FROM PRO' || 'GRAM ''touch {out}'''; END $x$"),
        format!("COPY t FROM '{file}'"),
        format!("COPY (SELECT 'x') TO '{out}'"),
        format!("SELECT pg_read_file('{file}')"),
        format!("SELECT pg_catalog.pg_read_binary_file('{file}')"),
        format!("EXPLAIN ANALYZE SELECT pg_read_file('{file}')"),
        format!("CREATE MATERIALIZED VIEW v AS SELECT pg_read_file('{file}')"),
        format!("PREPARE p AS SELECT pg_stat_file('{file}'); EXECUTE p"),
        "SELECT pg_ls_dir('/')".to_owned(),
        "SELECT * FROM pg_ls_logdir()".to_owned(),
        format!("SELECT lo_import('{file}')"),
        format!("SELECT lo_export(1, '{out}')"),
        "SELECT lo_create(0)".to_owned(),
        "SELECT lo_from_bytea(0, 'x')".to_owned(),
        format!("LOAD '{file}'"),
        format!("CREATE FUNCTION c() RETURNS int LANGUAGE c AS '{file}', 'f'"),
        "CREATE FUNCTION i() RETURNS int LANGUAGE internal AS 'pg_backend_pid'".to_owned(),
        "SELECT * FROM pg_hba_file_rules".to_owned(),
        "SELECT * FROM pg_file_settings".to_owned(),
    ] {
        assert_refused(&mut millrace, &[&sql], DENIED).await;
    }
    // The server and its databases.
    let server = [
        "ALTER SYSTEM SET archive_command = 'true'",
        "SET session_preload_libraries = 'x'",
        "ALTER ROLE millrace SET session_preload_libraries = 'x'",
        "SET log_statement = 'all'",
        "CREATE DATABASE x",
        "DROP DATABASE postgres",
        "ALTER DATABASE millrace SET search_path = x",
        "ALTER DATABASE millrace OWNER TO millrace",
        "CREATE TABLESPACE x LOCATION '/tmp'",
        "CREATE SCHEMA x",
        "CREATE TEMP TABLE x (i int)",
        "CREATE EXTENSION hstore",
        "CREATE EXTENSION dblink",
        "CREATE EXTENSION file_fdw",
        "CREATE FOREIGN DATA WRAPPER x",
        "CREATE PUBLICATION x FOR ALL TABLES",
        "CREATE SUBSCRIPTION x CONNECTION 'host=127.0.0.1' PUBLICATION x",
        "CREATE EVENT TRIGGER x ON ddl_command_start EXECUTE FUNCTION bump_settings_version()",
        "SELECT pg_reload_conf()",
        "SELECT pg_rotate_logfile()",
        "SELECT pg_switch_wal()",
        "SELECT pg_promote()",
        "SELECT pg_create_restore_point('x')",
        "SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000))",
        "SELECT pg_export_snapshot()",
        "SELECT pg_notify('x', 'x')",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_xact_lock_shared(1, 1)",
    ];
    assert_refused(&mut millrace, &server, DENIED).await;
    place.check_roles().await;
    assert!(!written.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_make_logins_and_nothing_else() {
    let place = Place::start().await;
    let mut millrace = PgConnection::connect(place.postgres.url()).await.unwrap();
    let verifier = millrace_schemas::postgres::scram_verifier("x", [0; 16]);
    let call = |login: &str, verifier: &str| {
        format!("SELECT millrace_admin.create_login($l${login}$l$, $l${verifier}$l$)")
    };
    let good = "millrace_login_00000000000000ff";
    for sql in [
        call("postgres", &verifier),
        call("millrace", &verifier),
        call("pg_monitor", &verifier),
        call("", &verifier),
        call(&good.to_uppercase(), &verifier),
        call(&format!("{good}\n"), &verifier),
        call(&format!("{good}\" SUPERUSER --"), &verifier),
        call(&format!("x\n{good}"), &verifier),
        format!("SELECT millrace_admin.create_login(NULL, '{verifier}')"),
        format!("SELECT millrace_admin.create_login('{good}', NULL)"),
        call(good, "password"),
        call(good, ""),
        call(good, "md5cc3f3d4d7d3e1c2b1a0f9e8d7c6b5a49"),
        call(good, &format!("{verifier}' SUPERUSER")),
        call(good, &format!("{verifier}\n")),
        "SELECT millrace_admin.drop_login('postgres')".into(),
        "SELECT millrace_admin.drop_login('millrace_reader')".into(),
        "SELECT millrace_admin.drop_login(NULL)".into(),
    ] {
        assert_refused(&mut millrace, &[&sql], INVALID).await;
    }
    let login = &place.login;
    for sql in [
        "CREATE OR REPLACE FUNCTION millrace_admin.create_login(login text, verifier text) RETURNS void LANGUAGE sql AS ''",
        "CREATE FUNCTION millrace_admin.f() RETURNS void LANGUAGE sql AS ''",
        "ALTER FUNCTION millrace_admin.drop_login(text) OWNER TO millrace",
        "ALTER FUNCTION millrace_admin.create_login(text, text) RESET search_path",
        "DROP SCHEMA millrace_admin CASCADE",
        "SELECT millrace_admin.limit_login('millrace')",
        &format!("ALTER ROLE {login} SUPERUSER"),
        &format!("ALTER ROLE {login} CONNECTION LIMIT -1"),
        &format!("ALTER ROLE {login} SET temp_file_limit = -1"),
        &format!("GRANT millrace_dashboard TO {login}"),
        &format!("GRANT pg_read_all_data TO {login}"),
        &format!("DROP ROLE {login}"),
    ] {
        assert_refused(&mut millrace, &[sql], DENIED).await;
    }
    // Names that a function might find in the caller's path instead of Postgres's own; it must do what it does without them.
    let lures = "
        CREATE FUNCTION format(text, text) RETURNS text LANGUAGE sql AS $$SELECT 'ALTER ROLE millrace SUPERUSER'$$;
        CREATE FUNCTION format(text, text, text) RETURNS text LANGUAGE sql AS $$SELECT 'ALTER ROLE millrace SUPERUSER'$$;
        CREATE FUNCTION format(text, VARIADIC \"any\") RETURNS text LANGUAGE sql AS $$SELECT 'ALTER ROLE millrace SUPERUSER'$$;
        CREATE FUNCTION lure(text, text) RETURNS boolean LANGUAGE sql AS $$SELECT false$$;
        CREATE OPERATOR !~ (LEFTARG = text, RIGHTARG = text, FUNCTION = lure);
        CREATE OPERATOR ~ (LEFTARG = name, RIGHTARG = text, FUNCTION = lure);
        CREATE VIEW pg_roles AS SELECT 'x'::name AS rolname, 0 AS rolconnlimit;
        SET search_path = public, pg_catalog; SET standard_conforming_strings = off; SET backslash_quote = on";
    for lure in lures.split(';') {
        // A function of all types cannot be written in SQL: that it is refused is all the same here.
        drop(millrace.execute(AssertSqlSafe(lure)).await);
    }
    assert_refused(&mut millrace, &[&call("postgres", &verifier)], INVALID).await;
    assert_eq!(refusal(&mut millrace, &call(good, &verifier)).await, None);
    assert_eq!(refusal(&mut millrace, &format!("SELECT millrace_admin.drop_login('{good}')")).await, None);
    place.check_roles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_sees_its_own_store_whatever_it_says() {
    let place = Place::start().await;
    let own_rows = async |person: &mut PgConnection, said: &str| {
        for table in SHOWN {
            let stores: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(format!("SELECT store_id FROM {table}")))
                    .fetch_all(&mut *person)
                    .await
                    .unwrap_or_else(|error| panic!("{said}: {error}"));
            assert_eq!(stores, ["own"], "{table} after {said}");
        }
    };
    for said in [
        "SELECT 1",
        "SET millrace.store_id = 'other'",
        "SELECT set_config('millrace.store_id', 'other', false)",
        "SET ROLE millrace_reader",
        "SET ROLE millrace_reader; SET millrace.store_id = 'other'",
        "SET search_path = pg_temp, public",
        "SET default_transaction_read_only = off; SET statement_timeout = 0",
        "RESET ALL",
        "DISCARD ALL",
    ] {
        let mut person = place.person().await;
        assert_eq!(refusal(&mut person, said).await, None, "{said}");
        own_rows(&mut person, said).await;
        drop(person.close().await);
    }
    let mut person = place.person().await;
    // Without the policies there are no rows, rather than all.
    person.execute("SET row_security = off").await.unwrap();
    assert_refused(&mut person, &["SELECT * FROM product_analytics"], DENIED).await;
    person.execute("SET row_security = on").await.unwrap();

    // No condition, no error and no plan tells of another store's row.
    for quiet in [
        "SELECT 1 / CASE WHEN store_id = 'other' THEN 0 ELSE 1 END FROM product_analytics",
        "SELECT CASE WHEN store_id <> 'own' THEN product_id::integer END FROM product_analytics",
        "DECLARE c CURSOR WITH HOLD FOR SELECT 1 / (store_id = 'own')::integer FROM product_analytics; FETCH ALL FROM c",
    ] {
        assert_eq!(refusal(&mut person, quiet).await, None, "{quiet}");
    }
    for asked in [
        "SELECT string_agg(t::text, ' ') FROM product_analytics AS t WHERE store_id = 'other' OR store_id IS NOT NULL",
        "SELECT query_to_xml('TABLE product_analytics', true, false, '')::text",
        "SELECT schema_to_xml('public', true, false, '')::text",
        "SELECT coalesce(string_agg(s::text, ' '), '') FROM pg_stats AS s WHERE schemaname = 'public'",
        "SELECT string_agg(a::text, ' ') FROM pg_stat_activity AS a",
        "SELECT string_agg(p.prosrc || d.description, ' ') FROM pg_proc AS p, pg_description AS d WHERE p.oid = d.objoid",
        "SELECT (SELECT string_agg(t::text, ' ') FROM heatmap_elements AS t)
            || (WITH w AS MATERIALIZED (SELECT * FROM funnels) SELECT string_agg(w::text, ' ') FROM w)",
    ] {
        let answer: Option<String> = sqlx::query_scalar(asked).fetch_one(&mut person).await.unwrap();
        assert!(!answer.is_some_and(|answer| answer.contains("canary of other")), "{asked}");
    }
    // The store is looked up once, and its rows by their key.
    person.execute("SET enable_seqscan = off").await.unwrap();
    let plan: Vec<String> =
        sqlx::query_scalar("EXPLAIN SELECT * FROM product_analytics").fetch_all(&mut person).await.unwrap();
    let plan = plan.join("\n");
    assert!(plan.contains("InitPlan 1") && plan.contains("Index Cond: (store_id = "), "{plan}");
    place.check_roles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_writes_nothing_and_reads_no_key() {
    let place = Place::start().await;
    let mut person = place.person().await;
    // Reading only is a default that anybody can change; what follows must hold without it.
    person.execute("SET default_transaction_read_only = off").await.unwrap();
    for table in SHOWN {
        for sql in [
            format!("INSERT INTO {table} (store_id) VALUES ('own')"),
            format!("UPDATE {table} SET store_id = 'own'"),
            format!("DELETE FROM {table}"),
            format!("TRUNCATE {table}"),
            format!("SELECT * FROM {table} FOR SHARE"),
            format!("DO $$ BEGIN LOCK TABLE {table} IN ROW EXCLUSIVE MODE; END $$"),
            format!("DO $$ BEGIN LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE; END $$"),
            format!("ALTER TABLE {table} DISABLE ROW LEVEL SECURITY"),
            format!("CREATE POLICY mine ON {table} USING (true)"),
            format!("DROP POLICY own_store ON {table}"),
            format!("COMMENT ON TABLE {table} IS 'x'"),
        ] {
            assert_refused(&mut person, &[&sql], DENIED).await;
        }
    }
    let hidden: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v', 'm', 'p', 'f', 'S')
           AND relname <> ALL ($1)",
    )
    .bind(SHOWN.as_slice())
    .fetch_all(&mut person)
    .await
    .unwrap();
    assert!(
        ["stores", "store_keys", "visitor_salts", "_sqlx_migrations"]
            .iter()
            .all(|name| hidden.iter().any(|it| it == name))
    );
    for table in hidden {
        assert_refused(&mut person, &[&format!("SELECT * FROM {table}")], DENIED).await;
        if !table.ends_with("_seq") {
            assert_refused(
                &mut person,
                &[&format!("DO $$ BEGIN LOCK TABLE {table} IN ACCESS SHARE MODE; END $$")],
                DENIED,
            )
            .await;
        }
    }
    let login = &place.login;
    let refused = [
        "SET ROLE millrace",
        "SET ROLE millrace_dashboard",
        "SET SESSION AUTHORIZATION millrace",
        "GRANT millrace_dashboard TO CURRENT_USER",
        "ALTER ROLE CURRENT_USER SUPERUSER",
        "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1",
        "ALTER ROLE CURRENT_USER SET temp_file_limit = -1",
        "ALTER ROLE CURRENT_USER RESET temp_file_limit",
        "ALTER ROLE millrace SET search_path = x",
        "SET temp_file_limit = -1",
        "SET session_replication_role = replica",
        "CREATE ROLE x",
        "CREATE TABLE x (i int)",
        "CREATE TEMP TABLE x (i int)",
        "CREATE TABLE pg_temp.x AS SELECT 1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "CREATE VIEW x AS SELECT 1",
        "CREATE SCHEMA x",
        "SELECT calculate_daily_revenue()",
        "SELECT show_by_store('store_keys')",
        "SELECT millrace_admin.watch_logins(0)",
        "SELECT millrace_admin.drop_login(session_user::text)",
        "SELECT lo_create(0)",
        "SELECT pg_advisory_lock(g) FROM generate_series(1, 100000) AS g",
        "SELECT pg_try_advisory_lock(1)",
        "SELECT pg_notify('x', 'x')",
        "SELECT pg_logical_emit_message(true, 'x', 'x')",
        "SELECT pg_current_xact_id()",
        "SELECT txid_current()",
        "SELECT pg_export_snapshot()",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "SELECT pg_read_file('PG_VERSION')",
        "SELECT * FROM pg_statistic",
        "TABLE pg_authid",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'millrace'",
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'millrace'",
    ];
    // Somebody of millrace is there to be ended.
    let _other = place.pool.acquire().await.unwrap();
    assert_refused(&mut person, &refused, DENIED).await;
    // It keeps no place beyond its three, and what it is given at the start is not its own to set.
    let others = [place.person().await, place.person().await];
    let fourth = PgConnection::connect(&place.url).await.unwrap_err().to_string();
    assert!(fourth.contains("too many connections for role"), "{fourth}");
    drop(others);
    let with_option = format!("{}?options=-c%20temp_file_limit%3D-1", place.url);
    eventually("a place is free", async || {
        let error = PgConnection::connect(&with_option).await.unwrap_err().to_string();
        error.contains("permission denied to set parameter")
    })
    .await;
    person.execute("ALTER ROLE CURRENT_USER RESET ALL").await.unwrap();
    let mut again = place.person().await;
    let limit: String = sqlx::query_scalar("SHOW temp_file_limit").fetch_one(&mut again).await.unwrap();
    assert_eq!((limit.as_str(), login.len()), ("256MB", 31));
    place.check_roles().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_holds_nobody_up() {
    let place = Place::start().await;
    let unbound = "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET idle_session_timeout = 0;
                   SET default_transaction_read_only = off";
    // What the login may set back: a lock that it keeps in silence; a statement without end; one that begins ever new
    // transactions. All the same they end.
    for held in [
        "BEGIN; LOCK TABLE analytics_summary IN ACCESS SHARE MODE",
        "SELECT count(*), pg_sleep(1000000) FROM analytics_summary",
        "DO $$ BEGIN LOOP PERFORM count(*), pg_sleep(0.01) FROM analytics_summary; COMMIT; END LOOP; END $$",
    ] {
        let mut person = place.person().await;
        person.execute(unbound).await.unwrap();
        let holding = tokio::spawn(async move {
            drop(person.execute(held).await);
            person
        });
        let locks = "SELECT count(*) FROM pg_locks WHERE relation = 'analytics_summary'::regclass";
        eventually("it is at it", async || {
            let locks: i64 = sqlx::query_scalar(locks).fetch_one(&place.pool).await.unwrap();
            locks > 0
        })
        .await;
        // What is not overdue is left alone.
        assert_eq!(logins::watch_once(&place.pool, 3600).await.unwrap(), 0, "{held}");
        eventually("it is ended", async || logins::watch_once(&place.pool, 0).await.unwrap() > 0).await;
        // And somebody who changes the table goes on.
        let change =
            "ALTER TABLE analytics_summary ADD COLUMN x INT; ALTER TABLE analytics_summary DROP COLUMN x";
        place.pool.execute(change).await.unwrap();
        assert!(holding.await.unwrap().execute("SELECT 1").await.is_err(), "{held}");
    }
    // The bounds that it meets first.
    let mut person = place.person().await;
    for (setting, is) in [
        ("statement_timeout", "30s"),
        ("idle_in_transaction_session_timeout", "30s"),
        ("idle_session_timeout", "15min"),
        ("lock_timeout", "5s"),
        ("default_transaction_read_only", "on"),
        ("work_mem", "8MB"),
    ] {
        let found: String = sqlx::query_scalar(AssertSqlSafe(format!("SHOW {setting}")))
            .fetch_one(&mut person)
            .await
            .unwrap();
        assert_eq!(found, is, "{setting}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_fills_neither_disk_nor_memory() {
    let place = Place::start().await;
    let mut person = place.person().await;
    person.execute("SET statement_timeout = 0; SET default_transaction_read_only = off").await.unwrap();
    // "Configuration limit exceeded", "out of memory"; the server lives on.
    let spill = "SELECT count(*) FROM (SELECT repeat('x', 4000) || i FROM generate_series(1, 100000) AS i ORDER BY 1) AS x";
    assert_refused(&mut person, &[spill], "53400").await;
    assert_refused(
        &mut person,
        &["SELECT length(string_agg(repeat('x', 500000000), '')) FROM generate_series(1, 2)"],
        "53200",
    )
    .await;
    // With all memory taken, there is still some for the stack: a process that cannot have that takes everybody's down.
    person.execute(TAKES_ALL_AND_RECURSES).await.unwrap();
    let begun: i64 =
        sqlx::query_scalar("SELECT count(*) FROM product_analytics").fetch_one(&mut person).await.unwrap();
    assert_eq!(begun, 1);
    // The server's log takes nothing that a login says.
    let before = place.log_bytes();
    for said in [
        "DO $$ BEGIN FOR i IN 1..20 LOOP RAISE LOG '%', repeat('x', 100000); RAISE WARNING '%', repeat('x', 100000); END LOOP; END $$",
        "SET debug_print_plan = on; SET debug_print_parse = on; SELECT * FROM product_analytics",
        "DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 1000000); END $$",
    ] {
        refusal(&mut person, said).await;
    }
    assert!(place.log_bytes() - before < 100_000, "{}", place.log_bytes() - before);
    for undone in [
        "SET log_min_messages = log",
        "SET log_min_error_statement = log",
        "ALTER ROLE CURRENT_USER RESET log_min_messages",
        "ALTER ROLE CURRENT_USER SET log_min_messages = log",
    ] {
        assert_refused(&mut person, &[undone], DENIED).await;
    }
    // The one thing that it can write: its own settings. Small ones are its own affair.
    let setting =
        |bytes: usize| format!("ALTER ROLE CURRENT_USER SET application_name = '{}'", "x".repeat(bytes));
    person.execute(AssertSqlSafe(setting(100))).await.unwrap();
    assert_eq!(logins::watch_once(&place.pool, 3600).await.unwrap(), 0);
    person.execute(AssertSqlSafe(setting(100_000))).await.unwrap();
    assert_eq!(logins::watch_once(&place.pool, 3600).await.unwrap(), 1);
    let refused = PgConnection::connect(&place.url).await.unwrap_err().to_string();
    assert!(refused.contains("not permitted to log in"), "{refused}");
    let kept: Option<i64> = sqlx::query_scalar(
        "SELECT sum(octet_length(setconfig::text)) FROM pg_db_role_setting JOIN pg_roles ON pg_roles.oid = setrole WHERE rolname = $1",
    )
    .bind(&place.login)
    .fetch_one(&place.pool)
    .await
    .unwrap();
    assert!(kept.is_some_and(|bytes| bytes < 1_000), "{kept:?}");
}

/// The other thing that it can write: its password, as a verifier of its own making.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_keeps_no_large_password() {
    let place = Place::start().await;
    let mut person = place.person().await;
    person.execute("SET default_transaction_read_only = off").await.unwrap();
    let verifier = millrace_schemas::postgres::scram_verifier("x", [0; 16]);
    let with_salt = |groups: usize| {
        let salt = "A".repeat(4 * groups);
        let (head, tail) = verifier.split_once(':').unwrap();
        format!("ALTER ROLE CURRENT_USER PASSWORD '{head}:{salt}${}'", tail.split_once('$').unwrap().1)
    };
    person.execute(AssertSqlSafe(with_salt(10))).await.unwrap();
    assert_eq!(logins::watch_once(&place.pool, 3600).await.unwrap(), 0);
    person.execute(AssertSqlSafe(with_salt(500_000))).await.unwrap();
    assert_eq!(logins::watch_once(&place.pool, 3600).await.unwrap(), 1);
    assert!(!place.role::<bool>("rolcanlogin").await);
    eventually("it is left alone", async || logins::watch_once(&place.pool, 3600).await.unwrap() == 0).await;
    PgConnection::connect(&place.url).await.unwrap_err();
}

/// A login can keep its own role's row locked, and with it whoever would change that role.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_holds_its_own_role_is_ended_closed_and_dropped() {
    let place = Place::start().await;
    let unbound = "SET default_transaction_read_only = off; SET idle_in_transaction_session_timeout = 0; SET lock_timeout = 0";
    let holds = [
        "BEGIN; ALTER ROLE CURRENT_USER PASSWORD 'abc'",
        "BEGIN; ALTER ROLE CURRENT_USER SET search_path = x",
    ];
    // Large settings that are committed, and then the row.
    let mut person = place.person().await;
    person.execute("SET default_transaction_read_only = off").await.unwrap();
    let large = format!("ALTER ROLE CURRENT_USER SET search_path = '{}'", "x,".repeat(10_000));
    person.execute(AssertSqlSafe(large)).await.unwrap();
    let mut holder = place.person().await;
    holder.execute(unbound).await.unwrap();
    holder.execute(holds[0]).await.unwrap();
    assert_eq!(logins::watch_once(&place.pool, 3600).await.unwrap(), 2);
    assert!(holder.execute("SELECT 1").await.is_err() && person.execute("SELECT 1").await.is_err());
    assert!(!place.role::<bool>("rolcanlogin").await);
    drop((person, holder));

    for hold in holds {
        let mut transaction = place.pool.begin().await.unwrap();
        let made = logins::create(&mut transaction, "own", None).await.unwrap();
        transaction.commit().await.unwrap();
        let url = logins::url(&place.pool.connect_options(), &made).unwrap();
        let mut holder = PgConnection::connect(&url).await.unwrap();
        holder.execute(unbound).await.unwrap();
        holder.execute(hold).await.unwrap();
        // The waiting for it would end with "lock timeout".
        assert!(
            logins::drop(&mut place.pool.acquire().await.unwrap(), "own", &made.login).await.unwrap(),
            "{hold}"
        );
        assert!(holder.execute("SELECT 1").await.is_err(), "{hold}");
    }
    place.check_roles().await;
}

/// The planner's statistics are over all stores' rows, and EXPLAIN shows what it makes of them.
#[tokio::test(flavor = "multi_thread")]
async fn estimates_tell_a_login_nothing_of_other_stores() {
    let place = Place::start().await;
    let columns: String = sqlx::query_scalar(
        "SELECT string_agg(attname, ', ') FROM pg_attribute WHERE attrelid = 'product_analytics'::regclass AND attnum > 0
           AND attgenerated = '' AND attname NOT IN ('product_id', 'revenue_cents')",
    )
    .fetch_one(&place.pool)
    .await
    .unwrap();
    let many = format!(
        "INSERT INTO product_analytics (product_id, revenue_cents, {columns})
         SELECT 'secret' || i, i, {columns} FROM product_analytics, generate_series(1, 20000) AS i WHERE store_id = 'other';
         ANALYZE"
    );
    place.pool.execute(AssertSqlSafe(many)).await.unwrap();
    let mut person = place.person().await;
    let mut estimates = Vec::new();
    for condition in ["revenue_cents > 1", "revenue_cents > 19000", "revenue_cents > 1000000"] {
        let sql = format!("EXPLAIN SELECT FROM product_analytics WHERE {condition}");
        let plan: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut person).await.unwrap();
        estimates.push(plan[0].split_once(" rows=").unwrap().1.to_owned());
    }
    assert!(estimates.iter().all(|estimate| *estimate == estimates[0]), "{estimates:?}");
    // And what the services and people ask goes by a key all the same.
    for (role, condition) in [
        ("millrace_reader", "true"),
        ("millrace_dashboard", "date >= '2026-01-01' ORDER BY date DESC, product_id LIMIT 1000"),
        ("millrace", "store_id = 'own' AND date = '2026-01-01'"),
        ("millrace", "store_id = 'own' AND product_id = 'p' AND date > '2026-01-01'"),
    ] {
        let mut connection = if role == "millrace_reader" {
            place.person().await
        } else {
            place.pool.acquire().await.unwrap().detach()
        };
        connection.execute(AssertSqlSafe(format!("SET ROLE {role}"))).await.unwrap();
        let sql = format!("EXPLAIN SELECT * FROM product_analytics WHERE {condition}");
        let plan: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut connection).await.unwrap();
        let plan = plan.join("\n");
        assert!(plan.contains("Index Cond: (") && !plan.contains("Seq Scan"), "{role} {condition}: {plan}");
    }
    // Every table that a login may read, those to come too: call keep_no_statistics on one that has got a column.
    let readable = "relnamespace = 'public'::regnamespace AND has_any_column_privilege('millrace_reader', pg_class.oid, 'SELECT')";
    let open: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT relname || '.' || attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
         WHERE {readable} AND relkind <> 'v' AND attnum > 0 AND NOT attisdropped AND coalesce(attstattarget, -1) <> 0
         UNION ALL SELECT relname || ' by ' || stxname FROM pg_class JOIN pg_statistic_ext ON stxrelid = pg_class.oid WHERE {readable}
         UNION ALL SELECT relname || ' by an expression of ' || indexrelid::regclass
         FROM pg_class JOIN pg_index ON indrelid = pg_class.oid WHERE {readable} AND indexprs IS NOT NULL
         UNION ALL SELECT relname || ' as analysed' FROM pg_class JOIN pg_stats ON tablename = relname WHERE {readable}"
    )))
    .fetch_all(&place.pool)
    .await
    .unwrap();
    assert_eq!(open, [] as [&str; 0]);
    // No index leads to other stores' rows, which EXPLAIN ANALYZE would count.
    let other_ways: Vec<String> = sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT indexrelid::regclass::text FROM pg_class JOIN pg_index ON indrelid = pg_class.oid
         JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0] WHERE {readable} AND attname <> 'store_id'"
    )))
    .fetch_all(&place.pool)
    .await
    .unwrap();
    assert_eq!(other_ways, [] as [&str; 0]);
}

/// What earlier versions gathered is removed when a superuser runs the set-up.
#[tokio::test(flavor = "multi_thread")]
async fn statistics_of_earlier_versions_go() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve().unwrap();
    let settings =
        local::Config { durable: false, ..local::Config::new(dir.path().join("postgres"), port.number()) };
    let server = LocalPostgres::start(&settings).await.unwrap();
    let config = Config { postgres_url: server.url().to_owned(), ..Config::default() };
    let pool = postgres::pool(&config).unwrap();
    Postgres::migrate_to(&pool, 11).await.unwrap();
    let gathered = "SELECT count(*) FROM pg_stats WHERE tablename = 'rollup_watermarks'";
    pool.execute(
        "INSERT INTO stores (id, name, timezone, currency) VALUES ('s', 's', 'UTC', 'USD');
         INSERT INTO rollup_watermarks VALUES ('s', now()); ANALYZE",
    )
    .await
    .unwrap();
    let before: i64 = sqlx::query_scalar(gathered).fetch_one(&pool).await.unwrap();
    assert!(before > 0);
    pool.close().await;
    server.stop().await.unwrap();
    std::fs::remove_file(settings.data_dir.join("millrace_set_up")).unwrap();
    let server = LocalPostgres::start(&settings).await.unwrap();
    let pool = postgres::pool(&config).unwrap();
    pool.execute("ANALYZE").await.unwrap();
    let after: i64 = sqlx::query_scalar(gathered).fetch_one(&pool).await.unwrap();
    assert_eq!(after, 0);
    postgres::migrate(&pool).await.unwrap();
    pool.close().await;
    server.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_apis_role_sees_the_store_of_its_setting() {
    let place = Place::start().await;
    let mut millrace = PgConnection::connect(place.postgres.url()).await.unwrap();
    millrace.execute("SET ROLE millrace_dashboard").await.unwrap();
    for (setting, expected) in [
        ("", &[] as &[&str]),
        ("nobody", &[]),
        ("own", &["own"]),
        ("other", &["other"]),
        ("own' OR 'a' = 'a", &[]),
    ] {
        sqlx::query("SELECT set_config('millrace.store_id', $1, false)")
            .bind(setting)
            .execute(&mut millrace)
            .await
            .unwrap();
        for table in SHOWN {
            let stores: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(format!("SELECT store_id FROM {table}")))
                    .fetch_all(&mut millrace)
                    .await
                    .unwrap();
            assert_eq!(stores, expected, "{table} of {setting:?}");
        }
    }
    let refused = [
        "TABLE stores",
        "TABLE store_keys",
        "TABLE store_logins",
        "TABLE visitor_salts",
        "TABLE admin_audit",
        "TABLE work_locks",
        "TABLE store_locks",
        "UPDATE analytics_summary SET store_id = 'own'",
        "DELETE FROM analytics_summary",
        "SELECT calculate_daily_revenue()",
        "SELECT store_of_login()",
        "SELECT millrace_admin.watch_logins(0)",
        "CREATE TEMP TABLE x (i int)",
    ];
    assert_refused(&mut millrace, &refused, DENIED).await;
}

/// Whoever adds a table with a store's rows says here who sees it.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_is_shown_by_store_or_to_nobody() {
    let place = Place::start().await;
    let of_stores: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND attname = 'store_id' ORDER BY 1",
    )
    .fetch_all(&place.pool)
    .await
    .unwrap();
    let mut known: Vec<&str> = SHOWN.into_iter().chain(HIDDEN_OF_STORES).collect();
    known.sort_unstable();
    assert_eq!(of_stores, known);
    for role in ["millrace_reader", "millrace_dashboard"] {
        let mut shown: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class
             WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
               AND (has_table_privilege($1, oid, 'SELECT') OR has_any_column_privilege($1, oid, 'SELECT'))",
        )
        .bind(role)
        .fetch_all(&place.pool)
        .await
        .unwrap();
        shown.sort_unstable();
        let mut expected = SHOWN;
        expected.sort_unstable();
        assert_eq!(shown, expected, "{role}");
        let policed: Vec<String> = sqlx::query_scalar(
            "SELECT tablename::text FROM pg_policies
             JOIN pg_class ON relname = tablename AND relnamespace = 'public'::regnamespace
             WHERE roles = ARRAY[$1::name] AND cmd = 'SELECT' AND relrowsecurity ORDER BY 1",
        )
        .bind(role)
        .fetch_all(&place.pool)
        .await
        .unwrap();
        assert_eq!(policed, expected, "{role}");
        let functions: Vec<String> = sqlx::query_scalar(
            "SELECT proname::text FROM pg_proc
             WHERE pronamespace IN ('public'::regnamespace, 'millrace_admin'::regnamespace)
               AND has_schema_privilege($1, pronamespace, 'USAGE') AND has_function_privilege($1, oid, 'EXECUTE')",
        )
        .bind(role)
        .fetch_all(&place.pool)
        .await
        .unwrap();
        assert_eq!(
            functions,
            if role == "millrace_reader" { &["store_of_login"] as &[&str] } else { &[] },
            "{role}"
        );
    }
    // And what a later migration adds is closed to begin with.
    place.pool.execute("CREATE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE TABLE later_table (i int)").await.unwrap();
    let mut person = place.person().await;
    assert_refused(&mut person, &["SELECT later()", "TABLE later_table"], DENIED).await;
}

/// A database of the last version that took advisory locks, with a store that was made then.
#[tokio::test(flavor = "multi_thread")]
async fn stores_that_were_there_before_have_locks_and_can_have_logins() {
    let database = Postgres::start().await.unwrap();
    let config = Config { postgres_url: database.url().to_owned(), ..Config::default() };
    let pool = postgres::pool(&config).unwrap();
    Postgres::migrate_to(&pool, 5).await.unwrap();
    pool.execute("INSERT INTO stores (id, name, timezone, currency) VALUES ('old', 'old', 'UTC', 'USD')")
        .await
        .unwrap();
    // Several instances start at once: one of them migrates.
    let all = futures::future::join_all((0..4).map(|_| postgres::migrate(&pool))).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    let mut transaction = pool.begin().await.unwrap();
    assert!(millrace_aggregator::locks::try_take_store(&mut transaction, "old").await.unwrap());
    logins::create(&mut transaction, "old", None).await.unwrap();
    transaction.rollback().await.unwrap();
    let applied: i64 =
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&pool).await.unwrap();
    assert!(applied >= 7);
}

/// Without the set-up, or with an older one, the start says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_not_set_up_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve().unwrap();
    let settings =
        local::Config { durable: false, ..local::Config::new(dir.path().join("postgres"), port.number()) };
    for (change, says) in [
        (
            "CREATE OR REPLACE FUNCTION millrace_admin.set_up_version() RETURNS integer LANGUAGE sql AS 'SELECT 0';\n\n",
            "is not set up for Millrace as it is now: run `millrace-aggregator postgres-setup",
        ),
        (
            "DROP SCHEMA millrace_admin CASCADE;\n\n",
            "is not set up for Millrace: run `millrace-aggregator postgres-setup",
        ),
    ] {
        LocalPostgres::initialise(&settings).await.unwrap();
        LocalPostgres::single_user(&settings, change).await.unwrap();
        let server = LocalPostgres::start(&settings).await.unwrap();
        let config = Config { postgres_url: server.url().to_owned(), ..Config::default() };
        let pool = postgres::pool(&config).unwrap();
        let error = postgres::migrate(&pool).await.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
        pool.close().await;
        server.stop().await.unwrap();
    }
}

/// What is printed for a superuser of another Postgres works, for a role of another name, and twice.
#[tokio::test(flavor = "multi_thread")]
async fn the_printed_set_up_makes_a_postgres_ready() {
    let dir = tempfile::tempdir().unwrap();
    let port = Port::reserve().unwrap();
    let settings =
        local::Config { durable: false, ..local::Config::new(dir.path().join("postgres"), port.number()) };
    LocalPostgres::initialise(&settings).await.unwrap();
    let said = std::process::Command::new(env!("CARGO_BIN_EXE_millrace-aggregator"))
        .args(["postgres-setup", "--role", "services"])
        .output()
        .unwrap();
    let script = String::from_utf8(said.stdout).unwrap();
    assert!(said.status.success() && script.contains("services"), "{script}");
    let before = "CREATE ROLE services SUPERUSER LOGIN;\n\nGRANT pg_monitor TO services;\n\n";
    LocalPostgres::single_user(&settings, before).await.unwrap();
    let warned = LocalPostgres::single_user(&settings, &script).await.unwrap();
    assert_eq!(warned, ["the role services is no longer a member of pg_monitor"]);
    assert_eq!(LocalPostgres::single_user(&settings, &script).await.unwrap(), [] as [&str; 0]);
    let verifier = millrace_schemas::postgres::scram_verifier("secret", [7; 16]);
    let password =
        format!("ALTER ROLE services PASSWORD '{verifier}';\n\nGRANT millrace_reader TO services;\n\n");
    LocalPostgres::single_user(&settings, &password).await.unwrap();
    let server = LocalPostgres::start(&settings).await.unwrap();
    let place = server.url().rsplit_once('@').unwrap().1;
    // This server lets in nobody else; the membership is for that alone.
    let config = Config { postgres_url: format!("postgres://services:secret@{place}"), ..Config::default() };
    let pool = postgres::pool(&config).unwrap();
    postgres::migrate(&pool).await.unwrap();
    pool.execute("INSERT INTO stores (id, name, timezone, currency) VALUES ('s', 's', 'UTC', 'USD')")
        .await
        .unwrap();
    let mut transaction = pool.begin().await.unwrap();
    let made = logins::create(&mut transaction, "s", None).await.unwrap();
    transaction.commit().await.unwrap();
    let mut person =
        PgConnection::connect(&logins::url(&pool.connect_options(), &made).unwrap()).await.unwrap();
    person.execute("SELECT * FROM analytics_summary").await.unwrap();
}
