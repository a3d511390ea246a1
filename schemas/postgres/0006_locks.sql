-- Who does what: whoever holds a row's lock (FOR UPDATE), until the transaction ends. Rows, because whoever can log in can
-- take an advisory lock; these two tables nobody can see but their owner. The rows themselves say nothing.
CREATE TABLE work_locks (
    name  TEXT PRIMARY KEY
);
INSERT INTO work_locks (name) VALUES ('arrivals'), ('erasures'), ('logins');

-- Who rolls a store up.
CREATE TABLE store_locks (
    store_id  TEXT PRIMARY KEY REFERENCES stores (id) ON DELETE CASCADE
);
INSERT INTO store_locks (store_id) SELECT id FROM stores;

CREATE FUNCTION make_store_locks() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO store_locks (store_id) SELECT id FROM new_stores;
    RETURN NULL;
END $$;
CREATE TRIGGER stores_have_locks AFTER INSERT ON stores REFERENCING NEW TABLE AS new_stores
    FOR EACH STATEMENT EXECUTE FUNCTION make_store_locks();
