-- Keys that are listed, named, rotated and revoked by API; and changes that collectors read one by one.

ALTER TABLE store_keys
    ADD COLUMN key_id           TEXT NOT NULL UNIQUE DEFAULT gen_random_uuid()::text,
    ADD COLUMN name             TEXT NOT NULL DEFAULT '',
    -- So that people recognise a key; empty for keys from before this.
    ADD COLUMN last_characters  TEXT NOT NULL DEFAULT '' CHECK (length(last_characters) <= 4),
    -- A key that was rotated ends then.
    ADD COLUMN valid_until      TIMESTAMPTZ,
    -- Does not hold for now: a key that is known to everybody, while a listener can be reached from elsewhere.
    ADD COLUMN suspended_at     TIMESTAMPTZ,
    -- settings_version with which the row was last changed.
    ADD COLUMN changed_version  BIGINT NOT NULL DEFAULT 0;
ALTER TABLE stores
    ADD COLUMN changed_version  BIGINT NOT NULL DEFAULT 0;
CREATE INDEX store_keys_changed ON store_keys (changed_version);
CREATE INDEX stores_changed ON stores (changed_version);

-- Whoever has read less than this reads everything again: a row was deleted, which nothing else tells.
ALTER TABLE settings_version ADD COLUMN reload_version BIGINT NOT NULL DEFAULT 0;

DROP TRIGGER stores_changed ON stores;
DROP TRIGGER store_keys_changed ON store_keys;
DROP FUNCTION bump_settings_version();

-- The row of settings_version stays locked until the transaction ends. So versions follow each other in the order of
-- commits, and whoever sees a version sees every row that was changed with it or before.
CREATE FUNCTION raise_settings_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE settings_version
    SET version = version + 1,
        reload_version = CASE WHEN TG_OP IN ('DELETE', 'TRUNCATE') THEN version + 1 ELSE reload_version END;
    RETURN NULL;
END $$;
CREATE FUNCTION stamp_settings_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_version := (SELECT version FROM settings_version);
    RETURN NEW;
END $$;
CREATE TRIGGER stores_raise BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON stores
    FOR EACH STATEMENT EXECUTE FUNCTION raise_settings_version();
CREATE TRIGGER stores_stamp BEFORE INSERT OR UPDATE ON stores
    FOR EACH ROW EXECUTE FUNCTION stamp_settings_version();
CREATE TRIGGER store_keys_raise BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON store_keys
    FOR EACH STATEMENT EXECUTE FUNCTION raise_settings_version();
CREATE TRIGGER store_keys_stamp BEFORE INSERT OR UPDATE ON store_keys
    FOR EACH ROW EXECUTE FUNCTION stamp_settings_version();
