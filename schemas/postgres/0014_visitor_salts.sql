-- A store's day begins at its own midnight, and so does the salt of its visitors: days that begin in the same hour, in whatever
-- time zone, share one, which is destroyed 48 h after that hour. Who had no id on the day of the upgrade is somebody else
-- after it. Collectors of an earlier release go on with the stores and keys that they know, and learn of no changes.
DROP TABLE visitor_salts;
CREATE TABLE visitor_salts (
    hour  TIMESTAMPTZ PRIMARY KEY,
    salt  BYTEA NOT NULL CHECK (length(salt) = 32)
);
