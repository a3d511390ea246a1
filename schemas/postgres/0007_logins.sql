-- Logins for people, each bound to one store. Their roles are made and dropped by the functions of the schema
-- millrace_admin, which the set-up has made; what a login sees is decided here.

CREATE TABLE store_logins (
    login       TEXT PRIMARY KEY,
    store_id    TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    -- What it is for, in its owner's words.
    name        TEXT,
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now()
);
CREATE INDEX store_logins_store ON store_logins (store_id, created_at);

-- A store that goes takes its logins with it.
CREATE FUNCTION drop_store_login() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM millrace_admin.drop_login(OLD.login);
    RETURN NULL;
END $$;
CREATE TRIGGER store_logins_are_roles AFTER DELETE ON store_logins
    FOR EACH ROW EXECUTE FUNCTION drop_store_login();

-- The store of whoever has logged in. By `session_user`: nothing that a login can say in SQL changes that.
DO $$
BEGIN
    EXECUTE format('CREATE FUNCTION store_of_login() RETURNS TEXT LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS ''SELECT store_id FROM %I.store_logins WHERE login = session_user''', current_schema());
END $$;

-- Lets people and the read API see a table's rows, of one store each: the one place where that is said. A person's login
-- has the store that store_logins names, whatever it sets. The API's role, which no login is a member of, has the one that
-- its setting names. Both are looked up once for a statement.
CREATE FUNCTION show_by_store(shown REGCLASS) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', shown);
    EXECUTE format('DROP POLICY IF EXISTS one_store ON %s', shown);
    EXECUTE format('CREATE POLICY one_store ON %s FOR SELECT TO millrace_dashboard
        USING (store_id = (SELECT current_setting(''millrace.store_id'', true)))', shown);
    EXECUTE format('CREATE POLICY own_store ON %s FOR SELECT TO millrace_reader
        USING (store_id = (SELECT store_of_login()))', shown);
    EXECUTE format('GRANT SELECT ON %s TO millrace_dashboard, millrace_reader', shown);
END $$;

SELECT show_by_store(shown) FROM unnest(ARRAY['analytics_summary', 'product_analytics', 'revenue_analytics', 'funnels',
    'funnel_steps', 'funnel_analytics', 'cohort_analytics', 'heatmap_data', 'heatmap_elements',
    'rollup_watermarks']::regclass[]) AS shown;

-- Functions are their owner's alone unless something else is said: those that are there, and those to come.
DO $$
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO millrace_reader', current_schema());
    EXECUTE format('REVOKE ALL ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', current_schema());
END $$;
ALTER DEFAULT PRIVILEGES REVOKE ALL ON FUNCTIONS FROM PUBLIC;
GRANT EXECUTE ON FUNCTION store_of_login() TO millrace_reader;
