-- What one machine's Postgres gets beyond the set-up: there, Millrace is alone, and nobody else has made roles.

BEGIN;

SET LOCAL search_path = pg_catalog, pg_temp;

ALTER ROLE millrace CONNECTION LIMIT -1 VALID UNTIL 'infinity' PASSWORD '{verifier}';

ALTER ROLE millrace RESET ALL;

ALTER ROLE postgres PASSWORD NULL;

ALTER ROLE postgres RESET ALL;

ALTER DATABASE millrace RESET ALL;

REVOKE ALL ON DATABASE postgres, template1 FROM PUBLIC;

-- Earlier versions asked for no password here and let whoever connected make roles. Such roles are nobody's any more.
DO $do$
DECLARE
    stranger record;
    membership record;
BEGIN
    FOR membership IN
        SELECT member.rolname AS member, granted.rolname AS granted, pg_auth_members.grantor
        FROM pg_auth_members
        JOIN pg_roles AS member ON member.oid = pg_auth_members.member
        JOIN pg_roles AS granted ON granted.oid = pg_auth_members.roleid
        WHERE member.oid <> 10 AND member.rolname !~ '^pg_'
          AND NOT (member.rolname = 'millrace' AND granted.rolname = 'millrace_dashboard')
          AND NOT (member.rolname ~ '{login_pattern}' AND granted.rolname = 'millrace_reader')
    LOOP
        PERFORM millrace_admin.end_membership(membership.granted, membership.member, membership.grantor);
        RAISE WARNING 'the role % is no longer a member of %', membership.member, membership.granted;
    END LOOP;
    FOR stranger IN
        SELECT rolname FROM pg_roles
        -- Numbers tell nothing: what single-user mode makes has those of the system.
        WHERE oid <> 10 AND rolname !~ '^pg_' AND rolname NOT IN ('millrace', 'millrace_dashboard', 'millrace_reader')
          AND rolname !~ '{login_pattern}'
          AND (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
    LOOP
        EXECUTE format('ALTER ROLE %I NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS PASSWORD NULL',
                       stranger.rolname);
        RAISE WARNING 'the role % can no longer log in: make a login for its store through the admin API',
            stranger.rolname;
    END LOOP;
END $do$;

COMMIT;
