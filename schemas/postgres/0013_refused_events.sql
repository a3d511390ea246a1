-- What collectors refused of a store's events, so that somebody finds out: the newest few of each reason as samples, and how
-- many there were on each day. No sample holds an id, or a text that a person may have written: there is nothing to erase from the write-ahead
-- log or from backups.

CREATE TABLE refused_events (
    id           UUID PRIMARY KEY,
    store_id     TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    refused_at   TIMESTAMPTZ NOT NULL,
    reason       TEXT NOT NULL,
    detail       TEXT NOT NULL,
    -- JSON: values of the fields that say what it was, kinds of the others.
    sample       TEXT NOT NULL,
    -- Of whom it told, for erasures: 8 bytes of a hash of store and id.
    visitor_key  BIGINT,
    user_key     BIGINT
);
CREATE INDEX refused_events_by_store ON refused_events (store_id, reason, refused_at DESC, id);
CREATE INDEX refused_events_by_age ON refused_events (refused_at);

-- By the process that counted, since it began: written again, a number is the same.
CREATE TABLE refused_counts (
    store_id   TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    date       DATE NOT NULL,
    reason     TEXT NOT NULL,
    collector  UUID NOT NULL,
    events     BIGINT NOT NULL,
    PRIMARY KEY (store_id, date, reason, collector)
);

-- Whose refused events go; null once the erasure is final.
ALTER TABLE erasures ADD COLUMN person_key BIGINT;
