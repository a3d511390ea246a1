-- Rows of one insert are not seen all at once, and its last may be seen first. Everything below the newest batch is
-- there; what has been seen of it is looked at again, and counts as new when it is not what it was.

ALTER TABLE arrival_watermarks
    ADD COLUMN batch_offset BIGINT,
    -- Rows from there up to next_offset, and the sum of their hashes.
    ADD COLUMN batch_rows BIGINT NOT NULL DEFAULT 0,
    ADD COLUMN batch_hash BIGINT NOT NULL DEFAULT 0;
UPDATE arrival_watermarks SET batch_offset = next_offset;
ALTER TABLE arrival_watermarks ALTER COLUMN batch_offset SET NOT NULL;
