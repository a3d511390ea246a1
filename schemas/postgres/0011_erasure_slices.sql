-- Erasures in slices: each ends, and leaves the erasure further on, however much was sent under one id.

ALTER TABLE erasures
    -- Rows that one sweep takes, about; halved where ClickHouse gives up on so many.
    ADD COLUMN slice_rows INTEGER NOT NULL DEFAULT 20000 CHECK (slice_rows >= 1),
    -- Servers named more visitors with this user than one person has: rows that name no user stay.
    ADD COLUMN links_ignored BOOLEAN NOT NULL DEFAULT false;
