-- Parts of a day's summary that add up to a week's and a month's: sessions and orders belong to exactly one day. Only
-- what is distinct within a period (visitors, page views) is counted anew for each.
CREATE TABLE summary_days (
    store_id          TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    date              DATE NOT NULL,
    sessions          BIGINT NOT NULL,
    bounces           BIGINT NOT NULL,
    engaged           BIGINT NOT NULL,
    converted         BIGINT NOT NULL,
    length_ms         BIGINT NOT NULL,
    orders            BIGINT NOT NULL,
    -- Orders that are in revenue_cents: those whose currency has a rate.
    orders_converted  BIGINT NOT NULL,
    revenue_cents     BIGINT NOT NULL,
    unconverted       JSONB NOT NULL,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, date)
);

-- Has a day rolled up again, within seconds: of the store that the setting `millrace.store_id` names, else of all.
-- It asks and does not compute: the aggregator is the one place that knows what an order is.
CREATE FUNCTION calculate_daily_revenue(target_date DATE DEFAULT CURRENT_DATE) RETURNS VOID LANGUAGE sql AS $$
    INSERT INTO touched_days (store_id, date, received_at)
    SELECT stores.id, target_date, coalesce(rollup_watermarks.received_at, 'epoch')
    FROM stores
    LEFT JOIN rollup_watermarks ON rollup_watermarks.store_id = stores.id
    WHERE stores.id = coalesce(nullif(current_setting('millrace.store_id', true), ''), stores.id)
    ON CONFLICT (store_id, date) DO UPDATE SET touched_at = clock_timestamp();
$$;

-- The read API takes the dashboards' role for every read, so that row level security guards it too.
DO $$
BEGIN
    EXECUTE format('GRANT millrace_dashboard TO %I', current_user);
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'the role millrace_dashboard belongs to somebody else: grant it to %', current_user;
END $$;
