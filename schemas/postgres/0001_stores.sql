-- Stores, their keys and settings: what the collector needs to know about a request.

CREATE TABLE stores (
    id                  TEXT PRIMARY KEY,
    name                TEXT NOT NULL,
    timezone            TEXT NOT NULL,
    currency            TEXT NOT NULL,
    max_event_age_days  INTEGER NOT NULL DEFAULT 30 CHECK (max_event_age_days BETWEEN 1 AND 3650),
    -- Empty: any origin may send with the write key.
    allowed_origins     TEXT[] NOT NULL DEFAULT '{}',
    -- Events per second over all keys of the store; null: the collector's setting.
    events_per_second   INTEGER CHECK (events_per_second > 0),
    created_at          TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at          TIMESTAMPTZ NOT NULL DEFAULT now()
);

-- A key is found by its SHA-256. A write key is public and shown again; of the others nothing else is kept.
CREATE TABLE store_keys (
    key_sha256  BYTEA PRIMARY KEY CHECK (length(key_sha256) = 32),
    store_id    TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    kind        TEXT NOT NULL CHECK (kind IN ('write', 'secret', 'api')),
    write_key   TEXT CHECK ((write_key IS NOT NULL) = (kind = 'write')),
    created_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    revoked_at  TIMESTAMPTZ
);
CREATE INDEX store_keys_store ON store_keys (store_id);

-- One salt per UTC day hashes visitors who sent no id; a day's salt is destroyed 48 h after its day began.
CREATE TABLE visitor_salts (
    day   DATE PRIMARY KEY,
    salt  BYTEA NOT NULL CHECK (length(salt) = 32)
);

-- Grows with every change to stores or keys: collectors reload when it does.
CREATE TABLE settings_version (
    only_row  BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    version   BIGINT NOT NULL
);
INSERT INTO settings_version (version) VALUES (1);

CREATE FUNCTION bump_settings_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE settings_version SET version = version + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER stores_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON stores
    FOR EACH STATEMENT EXECUTE FUNCTION bump_settings_version();
CREATE TRIGGER store_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON store_keys
    FOR EACH STATEMENT EXECUTE FUNCTION bump_settings_version();

-- 1 unit of `currency` in `base`, on that day of the store's calendar. Both ISO 4217.
CREATE TABLE exchange_rates (
    date      DATE NOT NULL,
    currency  TEXT NOT NULL,
    base      TEXT NOT NULL,
    rate      NUMERIC NOT NULL CHECK (rate > 0),
    PRIMARY KEY (date, currency, base)
);

-- Who changed what through the admin API.
CREATE TABLE admin_audit (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    action    TEXT NOT NULL,
    store_id  TEXT,
    detail    JSONB NOT NULL DEFAULT '{}'
);
