-- Erasure by visitor or user, and retention by store.

-- Days that a store's events, clicks and dead letters are kept after their receipt; null: as long as ClickHouse's tables
-- keep them. Two months at least: a day's, week's and month's rows are settled by then.
ALTER TABLE stores ADD COLUMN retention_days INTEGER CHECK (retention_days BETWEEN 62 AND 3650);

-- Days some of whose events are gone because they were old. Their rollups are never computed anew.
CREATE TABLE thinned_days (
    store_id  TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    date      DATE NOT NULL,
    PRIMARY KEY (store_id, date)
);

-- When a store's old events were last removed.
CREATE TABLE retention_runs (
    store_id   TEXT PRIMARY KEY REFERENCES stores (id) ON DELETE CASCADE,
    ran_at     TIMESTAMPTZ NOT NULL,
    -- What was received before this is gone; null: only ClickHouse's own limit applies.
    received_before  TIMESTAMPTZ
);

-- Erasures and their receipts. Nobody's id stands here, only salted hashes: nothing needs to be erased from Postgres, its
-- write-ahead log or its backups afterwards.
CREATE TABLE erasures (
    id              TEXT PRIMARY KEY,
    store_id        TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    kind            TEXT NOT NULL CHECK (kind IN ('visitor', 'user')),
    salt            BYTEA NOT NULL CHECK (length(salt) = 16),
    -- SHA-256 of salt and id.
    subject_sha256  BYTEA NOT NULL CHECK (length(subject_sha256) = 32),
    -- The visitors that were seen with a user: first 8 bytes of the same hash of theirs. Emptied when final.
    visitors        BIGINT[] NOT NULL DEFAULT '{}',
    -- What was received up to here is erased.
    requested_at    TIMESTAMPTZ NOT NULL,
    -- requested: rows may be there. removed: none can be read; days wait to be rolled up, parts to be rewritten.
    -- deleted: rollups and parts are without them. final: nothing on its way can bring them back.
    state           TEXT NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'removed', 'deleted', 'final')),
    events          BIGINT NOT NULL DEFAULT 0,
    clicks          BIGINT NOT NULL DEFAULT 0,
    dead_letters    BIGINT NOT NULL DEFAULT 0,
    sweeps          INTEGER NOT NULL DEFAULT 0,
    -- Days whose rollups the erased rows decided.
    days            DATE[] NOT NULL DEFAULT '{}',
    -- A removal that was begun: what it found. Not null after a crash.
    removing        JSONB,
    touched_at      TIMESTAMPTZ,
    -- Parts of ClickHouse's tables still hold rows that cannot be read any more.
    must_rewrite    BOOLEAN NOT NULL DEFAULT false,
    -- By ClickHouse's clock: replaced parts that went out of use until then held such rows.
    rewritten_at    BIGINT,
    -- Where the spool ended, by topic, when all that had been received until the request was in it.
    log_ends        JSONB,
    letters_at      TIMESTAMPTZ,
    swept_at        TIMESTAMPTZ,
    next_at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    deleted_at      TIMESTAMPTZ,
    final_at        TIMESTAMPTZ,
    error           TEXT
);
CREATE INDEX erasures_store ON erasures (store_id, requested_at);
CREATE INDEX erasures_next ON erasures (next_at) WHERE state <> 'final';
