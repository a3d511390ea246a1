-- Prepares a Postgres (15 to 18) for Millrace. A superuser runs it in Millrace's database, once, and again when the
-- aggregator asks for it after an upgrade; run twice, it changes nothing more.
--
-- {role} is the role of the services. Afterwards it has no attribute but LOGIN, is a member of nothing but
-- millrace_dashboard, and owns the schema public but not the database. Roles it cannot make; three functions of the schema
-- millrace_admin make and drop logins for people, each bound to one store, and end what such a login does for too long.
--
-- What the functions trust: nothing that a caller can set. Names come from one pattern, passwords as SCRAM verifiers, the
-- search path is fixed.

BEGIN;

SET LOCAL search_path = pg_catalog, pg_temp;

SET LOCAL client_min_messages = warning;

DO $do$
BEGIN
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        RAISE EXCEPTION 'a superuser has to run this, in the database of Millrace';
    END IF;
    IF current_user = '{role}' OR EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}' AND oid = 10) THEN
        RAISE EXCEPTION '{role} is a superuser that must stay one: give the services a role of their own';
    END IF;
END $do$;

-- What stands in the schema is the script's, whoever made it before.
DROP SCHEMA IF EXISTS millrace_admin CASCADE;

CREATE SCHEMA millrace_admin;

-- From version 16 on a grant goes only if its grantor is named; before that, the grantor may be one that is no more.
CREATE FUNCTION millrace_admin.end_membership(granted name, member name, grantor oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $function$
BEGIN
    IF current_setting('server_version_num')::integer >= 160000 THEN
        EXECUTE format('REVOKE %I FROM %I GRANTED BY %s CASCADE', granted, member, grantor::regrole);
    ELSE
        EXECUTE format('REVOKE %I FROM %I CASCADE', granted, member);
    END IF;
END $function$;

-- The roles. millrace_dashboard is taken by the read API for each of its transactions; what people's logins have in common
-- is millrace_reader. Neither can log in.
DO $do$
DECLARE
    needed name;
BEGIN
    FOREACH needed IN ARRAY ARRAY['{role}', 'millrace_dashboard', 'millrace_reader']::name[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = needed) THEN
            EXECUTE format('CREATE ROLE %I', needed);
        END IF;
        EXECUTE format('ALTER ROLE %I NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS INHERIT', needed);
    END LOOP;
END $do$;

ALTER ROLE {role} LOGIN;

ALTER ROLE millrace_dashboard NOLOGIN PASSWORD NULL;

ALTER ROLE millrace_reader NOLOGIN PASSWORD NULL;

-- Whatever they were members of, or may hand on, goes.
DO $do$
DECLARE
    membership record;
BEGIN
    FOR membership IN
        SELECT member.rolname AS member, granted.rolname AS granted, pg_auth_members.grantor
        FROM pg_auth_members
        JOIN pg_roles AS member ON member.oid = pg_auth_members.member
        JOIN pg_roles AS granted ON granted.oid = pg_auth_members.roleid
        WHERE member.rolname IN ('{role}', 'millrace_dashboard', 'millrace_reader')
          AND NOT (member.rolname = '{role}' AND granted.rolname = 'millrace_dashboard' AND NOT admin_option)
    LOOP
        RAISE WARNING 'the role % is no longer a member of %', membership.member, membership.granted;
        PERFORM millrace_admin.end_membership(membership.granted, membership.member, membership.grantor);
    END LOOP;
END $do$;

GRANT millrace_dashboard TO {role};

-- The database is not the services' own: who owns it may install extensions, whose scripts a superuser runs. The schema is.
DO $do$
DECLARE
    owner name;
BEGIN
    SELECT rolname INTO owner FROM pg_roles JOIN pg_database ON datdba = pg_roles.oid WHERE datname = current_database();
    IF owner = '{role}' THEN
        EXECUTE format('ALTER DATABASE %I OWNER TO CURRENT_USER', current_database());
    END IF;
    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC, {role}, millrace_dashboard, millrace_reader', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO {role}, millrace_reader', current_database());
END $do$;

ALTER SCHEMA public OWNER TO {role};

REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- What anybody may call unless told otherwise, and nobody here needs: advisory locks and their place in the table of locks,
-- which is shared with everybody's; what writes to the disk from a SELECT (large objects, messages in the write-ahead log,
-- snapshots); what uses up transaction ids, or the queue of notifications.
DO $do$
DECLARE
    risky regprocedure;
BEGIN
    FOR risky IN
        SELECT pg_proc.oid FROM pg_proc
        WHERE pronamespace = 'pg_catalog'::regnamespace
          AND (proname ~ '^(pg_|pg_try_)advisory_|^lo_'
               OR proname IN ('loread', 'lowrite', 'pg_logical_emit_message', 'pg_export_snapshot', 'pg_notify',
                              'txid_current', 'pg_current_xact_id'))
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', risky);
    END LOOP;
END $do$;

-- Grows when the aggregator needs more than what an older script has made.
CREATE FUNCTION millrace_admin.set_up_version() RETURNS integer LANGUAGE sql IMMUTABLE AS $function$
    SELECT {version}
$function$;

-- Gives a login its bounds. Those that it may SET for itself are there for queries that went wrong; what holds against
-- somebody who wants to do harm is the limit of connections, the limit of temporary files, and watch_logins.
CREATE FUNCTION millrace_admin.limit_login(login name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
BEGIN
    EXECUTE format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS INHERIT
                    CONNECTION LIMIT {login_connections}', login);
    EXECUTE format('ALTER ROLE %I RESET ALL', login);
    EXECUTE format('ALTER ROLE %I SET statement_timeout = ''{statement_seconds}s''', login);
    EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = ''{statement_seconds}s''', login);
    EXECUTE format('ALTER ROLE %I SET idle_session_timeout = ''15min''', login);
    EXECUTE format('ALTER ROLE %I SET lock_timeout = ''5s''', login);
    EXECUTE format('ALTER ROLE %I SET default_transaction_read_only = on', login);
    EXECUTE format('ALTER ROLE %I SET max_parallel_workers_per_gather = 0', login);
    EXECUTE format('ALTER ROLE %I SET work_mem = ''8MB''', login);
    EXECUTE format('ALTER ROLE %I SET temp_file_limit = ''256MB''', login);
    -- What a login says is not written to the server's log: RAISE LOG would fill its disk. Only a superuser may set these.
    EXECUTE format('ALTER ROLE %I SET log_min_messages = panic', login);
    EXECUTE format('ALTER ROLE %I SET log_min_error_statement = panic', login);
END $function$;

-- Closes a login that keeps more than it may, and forgets what that was. It may be holding its own row: this waits only for
-- what ends soon.
CREATE FUNCTION millrace_admin.close_login(login name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET lock_timeout = '1s' AS $function$
BEGIN
    IF (SELECT octet_length(rolpassword) > {password_bytes} FROM pg_authid WHERE rolname = login) THEN
        EXECUTE format('ALTER ROLE %I PASSWORD NULL', login);
    END IF;
    PERFORM millrace_admin.limit_login(login);
    EXECUTE format('ALTER ROLE %I NOLOGIN', login);
END $function$;

-- Makes a login. Its rights are those of millrace_reader: which store's rows it sees is decided by public.store_logins.
CREATE FUNCTION millrace_admin.create_login(login text, verifier text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
DECLARE
    connections bigint;
    taken bigint;
BEGIN
    IF login IS NULL OR login !~ '{login_pattern}' THEN
        RAISE EXCEPTION 'no name of a login' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF verifier IS NULL
       OR verifier !~ '^SCRAM-SHA-256[$]4096:[A-Za-z0-9+/]{22}==[$][A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$' THEN
        RAISE EXCEPTION 'no SCRAM verifier' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    connections := current_setting('max_connections')::bigint
                   - current_setting('superuser_reserved_connections')::bigint - {service_connections};
    SELECT coalesce(sum(rolconnlimit), 0) INTO taken FROM pg_roles WHERE rolname ~ '{login_pattern}';
    IF taken + {login_connections} > connections THEN
        RAISE EXCEPTION 'logins may take % connections, and these are promised', connections
            USING ERRCODE = 'configuration_limit_exceeded', HINT = 'raise max_connections, or drop logins';
    END IF;
    EXECUTE format('CREATE ROLE %I LOGIN PASSWORD %L IN ROLE millrace_reader', login, verifier);
    EXECUTE format('COMMENT ON ROLE %I IS %L', login, 'login of Millrace in ' || current_database());
    PERFORM millrace_admin.limit_login(login);
END $function$;

-- Drops a login of this database, with whatever it left behind, and ends its sessions. False: there is none. A session of it
-- may hold the role's row, or come back while this is at work: sessions are ended first, and what waits for a lock behind
-- them comes before whoever connects later. After ten attempts the last one's error is the caller's.
CREATE FUNCTION millrace_admin.drop_login(login text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on SET lock_timeout = '1s'
AS $function$
DECLARE
    role oid;
BEGIN
    IF login IS NULL OR login !~ '{login_pattern}' THEN
        RAISE EXCEPTION 'no name of a login' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT oid INTO role FROM pg_roles
    WHERE rolname = login AND shobj_description(oid, 'pg_authid') = 'login of Millrace in ' || current_database();
    IF role IS NULL THEN
        RETURN false;
    END IF;
    FOR attempt IN 1..10 LOOP
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = role;
        BEGIN
            EXECUTE format('ALTER ROLE %I NOLOGIN', login);
            EXECUTE format('DROP OWNED BY %I CASCADE', login);
            EXECUTE format('DROP ROLE %I', login);
            EXIT;
        EXCEPTION
            -- The last but one: "tuple concurrently updated".
            WHEN lock_not_available OR deadlock_detected OR internal_error OR dependent_objects_still_exist THEN
                IF attempt = 10 THEN
                    RAISE;
                END IF;
                -- What others see of the sessions is read once in a transaction, unless it is asked for anew.
                PERFORM pg_stat_clear_snapshot();
        END;
    END LOOP;
    PERFORM pg_stat_clear_snapshot();
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = role;
    RETURN true;
END $function$;

-- Ends what a login does beyond its bounds, whatever it has SET; says how many sessions that were. First of all it does that:
-- whatever waits for a lock may wait for one that such a session holds.
-- * A transaction or a statement that is older than overdue_seconds: it holds locks that a migration waits for, and rows
--   that could be vacuumed.
-- * A session of a login that is no more, or is closed.
-- * Sessions of all logins while the queue of notifications fills: NOTIFY cannot be taken from anybody, and nobody else
--   uses it.
-- * A login that keeps large settings (ALTER ROLE … SET) or a large password (as a verifier of its own making), the things that
--   it can write: it is closed, in this call or, if something holds that up, in a later one.
CREATE FUNCTION millrace_admin.watch_logins(overdue_seconds integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET standard_conforming_strings = on AS $function$
DECLARE
    overdue timestamptz := clock_timestamp() - make_interval(secs => overdue_seconds);
    oversized name[] := ARRAY(
        SELECT rolname FROM pg_authid
        WHERE rolname ~ '{login_pattern}'
          AND (octet_length(rolpassword) > {password_bytes}
               OR (SELECT sum(octet_length(array_to_string(setconfig, ','))) FROM pg_db_role_setting
                   WHERE setrole = pg_authid.oid) > 8192));
    login name;
    ended integer;
BEGIN
    SELECT count(pg_terminate_backend(pid)) INTO ended
    FROM pg_stat_activity LEFT JOIN pg_roles ON pg_roles.oid = usesysid
    WHERE datname = current_database() AND backend_type = 'client backend' AND usesysid IS NOT NULL
      AND (rolname IS NULL
           OR rolname = ANY (oversized)
           OR rolname ~ '{login_pattern}'
              AND (NOT rolcanlogin
                   OR xact_start < overdue
                   OR state = 'active' AND query_start < overdue
                   OR pg_notification_queue_usage() > 0.01));
    FOREACH login IN ARRAY oversized LOOP
        BEGIN
            PERFORM millrace_admin.close_login(login);
            RAISE WARNING 'the login % wrote large settings and is closed', login;
        EXCEPTION WHEN lock_not_available OR deadlock_detected OR internal_error OR undefined_object THEN
            RAISE WARNING 'the login % wrote large settings and cannot be closed yet: %', login, SQLERRM;
        END;
    END LOOP;
    RETURN ended;
END $function$;

REVOKE ALL ON SCHEMA millrace_admin FROM PUBLIC;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA millrace_admin FROM PUBLIC;

GRANT USAGE ON SCHEMA millrace_admin TO {role};

GRANT EXECUTE ON FUNCTION millrace_admin.set_up_version(), millrace_admin.create_login(text, text),
    millrace_admin.drop_login(text), millrace_admin.watch_logins(integer) TO {role};

-- Logins that are there get the bounds of this script, and nothing beyond.
DO $do$
DECLARE
    login name;
    membership record;
BEGIN
    -- A session may hold its role's row.
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename ~ '{login_pattern}';
    FOR login IN SELECT rolname FROM pg_roles WHERE rolname ~ '{login_pattern}' LOOP
        PERFORM millrace_admin.limit_login(login);
    END LOOP;
    FOR membership IN
        SELECT member.rolname AS member, granted.rolname AS granted, pg_auth_members.grantor
        FROM pg_auth_members
        JOIN pg_roles AS member ON member.oid = pg_auth_members.member
        JOIN pg_roles AS granted ON granted.oid = pg_auth_members.roleid
        WHERE member.rolname ~ '{login_pattern}' AND granted.rolname <> 'millrace_reader'
    LOOP
        PERFORM millrace_admin.end_membership(membership.granted, membership.member, membership.grantor);
    END LOOP;
END $do$;

-- What logins may read has no statistics. Those are over the rows of all stores, and the planner's estimates tell them to whoever
-- asks with EXPLAIN. Migrations keep the columns free of them; what was gathered before is for a superuser to remove.
DO $do$
DECLARE
    shown record;
BEGIN
    FOR shown IN
        SELECT attrelid::regclass AS name, attname FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm') AND attnum > 0 AND NOT attisdropped
          AND has_any_column_privilege('millrace_reader', attrelid, 'SELECT') AND coalesce(attstattarget, -1) <> 0
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', shown.name, shown.attname);
    END LOOP;
    DELETE FROM pg_statistic USING pg_class
    WHERE pg_class.oid = starelid AND relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'm')
      AND has_any_column_privilege('millrace_reader', starelid, 'SELECT');
END $do$;

COMMIT;
