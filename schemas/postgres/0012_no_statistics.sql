-- What people may read has no statistics. The planner's are over the rows of all stores, row security or not, and its estimates
-- tell them to whoever asks with EXPLAIN: what another store's greatest revenue is, and how its products are called. Every
-- query on these tables goes by their keys, which begin with the store. What was gathered before this is removed by the set-up.

CREATE FUNCTION keep_no_statistics(shown REGCLASS) RETURNS VOID LANGUAGE plpgsql AS $$
DECLARE
    attribute NAME;
BEGIN
    FOR attribute IN
        SELECT attname FROM pg_attribute WHERE attrelid = shown AND attnum > 0 AND NOT attisdropped
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', shown, attribute);
    END LOOP;
END $$;

-- As before, and without statistics.
CREATE OR REPLACE FUNCTION show_by_store(shown REGCLASS) RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', shown);
    EXECUTE format('DROP POLICY IF EXISTS one_store ON %s', shown);
    EXECUTE format('CREATE POLICY one_store ON %s FOR SELECT TO millrace_dashboard
        USING (store_id = (SELECT current_setting(''millrace.store_id'', true)))', shown);
    EXECUTE format('CREATE POLICY own_store ON %s FOR SELECT TO millrace_reader
        USING (store_id = (SELECT store_of_login()))', shown);
    EXECUTE format('GRANT SELECT ON %s TO millrace_dashboard, millrace_reader', shown);
    PERFORM keep_no_statistics(shown);
END $$;

SELECT keep_no_statistics(attrelid) FROM (
    SELECT DISTINCT attrelid::regclass FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'm')
      AND has_any_column_privilege('millrace_reader', attrelid, 'SELECT')
) AS shown;
