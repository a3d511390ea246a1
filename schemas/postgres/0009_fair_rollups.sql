-- A store that is too expensive, or fails, keeps no other store waiting, and a day of it no other day.

ALTER TABLE touched_days
    -- Since when it waits, however often it is touched meanwhile.
    ADD COLUMN waiting_since TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- A day that failed by itself: how often in a row, and when it is tried again.
    ADD COLUMN failures      INTEGER NOT NULL DEFAULT 0,
    ADD COLUMN retry_at      TIMESTAMPTZ;
UPDATE touched_days SET waiting_since = touched_at;

-- Stores whose last rollup failed, or took longer than rollups usually may.
CREATE TABLE rollup_backoff (
    store_id       TEXT PRIMARY KEY REFERENCES stores (id) ON DELETE CASCADE,
    -- In a row; 0: the last one succeeded, with more than the usual budget.
    failures       INTEGER NOT NULL,
    -- What the next one may take, and how many days at once.
    budget_ms      BIGINT NOT NULL,
    days_max       BIGINT NOT NULL,
    -- When it is tried.
    retry_at       TIMESTAMPTZ NOT NULL,
    -- Since when not all of its days can be rolled up, and why; null: they can, slowly.
    failing_since  TIMESTAMPTZ,
    reason         TEXT
);
