-- What all reports of an order say together is kept in ClickHouse, where the aggregator writes it.

ALTER TABLE stores
    -- Prices of items hold the tax, so that a total that was not sent does not count it twice.
    ADD COLUMN prices_include_tax BOOLEAN NOT NULL DEFAULT false;

ALTER TABLE revenue_analytics
    -- Of gross revenue, what items, discounts, shipping and tax do not come to.
    ADD COLUMN unexplained_amount_cents BIGINT NOT NULL DEFAULT 0,
    -- Orders that were cancelled on the day; what was left of them is among the refunds.
    ADD COLUMN cancelled_orders BIGINT NOT NULL DEFAULT 0;
SELECT keep_no_statistics('revenue_analytics');

-- The last version under which rows were written there; no number is given out twice.
CREATE TABLE entity_versions (
    only_row  BOOLEAN PRIMARY KEY DEFAULT true CHECK (only_row),
    version   BIGINT NOT NULL
);
INSERT INTO entity_versions (version) VALUES (0);

-- Stores of which all orders have to be made anew. Until then no day of theirs is rolled up.
CREATE TABLE stale_orders (
    store_id    TEXT PRIMARY KEY REFERENCES stores (id) ON DELETE CASCADE,
    since       TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- Parts that are done, of so many; null: nobody has begun.
    done_parts  INTEGER NOT NULL DEFAULT 0,
    parts       INTEGER,
    -- A part needed more than there is: when it is tried again.
    retry_at    TIMESTAMPTZ
);
INSERT INTO stale_orders (store_id) SELECT id FROM stores;

-- From the beginning again, whoever has come how far.
CREATE FUNCTION make_orders_stale() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO stale_orders (store_id) VALUES (NEW.id)
    ON CONFLICT (store_id) DO UPDATE SET since = now(), done_parts = 0, parts = NULL;
    RETURN NULL;
END $$;
CREATE TRIGGER stores_orders_stale AFTER UPDATE OF timezone, currency, prices_include_tax ON stores
    FOR EACH ROW
    WHEN ((OLD.timezone, OLD.currency, OLD.prices_include_tax)
          IS DISTINCT FROM (NEW.timezone, NEW.currency, NEW.prices_include_tax))
    EXECUTE FUNCTION make_orders_stale();
