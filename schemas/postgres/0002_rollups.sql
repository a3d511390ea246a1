-- What dashboards read. Rows are recomputed and upserted, never incremented. Amounts named `_cents` are minor units
-- of their currency; amounts of several currencies are converted into the store's with that day's rate, and what has
-- no rate stands in `unconverted` as {"EUR": minor units}.

-- How far the arrivals of a partition have been turned into touched days.
CREATE TABLE arrival_watermarks (
    topic        TEXT NOT NULL,
    partition    INTEGER NOT NULL,
    next_offset  BIGINT NOT NULL,
    PRIMARY KEY (topic, partition)
);

-- Store-days that wait for their rollup. Written in one transaction with arrival_watermarks, taken away in one
-- transaction with the rollup.
CREATE TABLE touched_days (
    store_id     TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    date         DATE NOT NULL,
    -- Newest receipt among the arrivals: what the rollup's freshness is measured from.
    received_at  TIMESTAMPTZ NOT NULL,
    touched_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, date)
);

-- Up to which receipt a store's rollups are complete.
CREATE TABLE rollup_watermarks (
    store_id     TEXT PRIMARY KEY REFERENCES stores (id) ON DELETE CASCADE,
    received_at  TIMESTAMPTZ NOT NULL,
    rolled_at    TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE analytics_summary (
    store_id              TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    date                  DATE NOT NULL,
    period_type           TEXT NOT NULL CHECK (period_type IN ('day', 'week', 'month')),
    total_sessions        BIGINT NOT NULL,
    unique_visitors       BIGINT NOT NULL,
    page_views            BIGINT NOT NULL,
    bounce_rate           NUMERIC(5, 4) NOT NULL,
    engagement_rate       NUMERIC(5, 4) NOT NULL,
    avg_session_duration  BIGINT NOT NULL,
    total_orders          BIGINT NOT NULL,
    total_revenue         NUMERIC NOT NULL,
    avg_order_value       NUMERIC NOT NULL,
    currency              TEXT NOT NULL,
    unconverted           JSONB NOT NULL DEFAULT '{}',
    conversion_rate       NUMERIC(5, 4) NOT NULL,
    bot_events            BIGINT NOT NULL,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, date, period_type)
);

CREATE TABLE product_analytics (
    store_id              TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    product_id            TEXT NOT NULL,
    date                  DATE NOT NULL,
    views_count           BIGINT NOT NULL,
    unique_views_count    BIGINT NOT NULL,
    add_to_cart_count     BIGINT NOT NULL,
    cart_removal_count    BIGINT NOT NULL,
    checkout_count        BIGINT NOT NULL,
    purchase_count        BIGINT NOT NULL,
    units_sold            BIGINT NOT NULL,
    revenue_cents         BIGINT NOT NULL,
    currency              TEXT NOT NULL,
    unconverted           JSONB NOT NULL DEFAULT '{}',
    average_time_on_page  BIGINT NOT NULL,
    bounce_rate           NUMERIC(5, 4) NOT NULL,
    conversion_rate       NUMERIC NOT NULL,
    stock_level           BIGINT,
    stock_turns           NUMERIC,
    average_rating        NUMERIC(4, 2),
    review_count          BIGINT NOT NULL,
    -- The same numbers under the other names that shops' schemas have for them.
    views                 BIGINT GENERATED ALWAYS AS (views_count) STORED,
    cart_additions        BIGINT GENERATED ALWAYS AS (add_to_cart_count) STORED,
    revenue_amount        BIGINT GENERATED ALWAYS AS (revenue_cents) STORED,
    created_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at            TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, date, product_id)
);
CREATE INDEX product_analytics_product ON product_analytics (store_id, product_id, date);

CREATE TABLE revenue_analytics (
    store_id                   TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    date                       DATE NOT NULL,
    currency                   TEXT NOT NULL,
    gross_revenue_cents        BIGINT NOT NULL,
    net_revenue_cents          BIGINT NOT NULL,
    orders_count               BIGINT NOT NULL,
    average_order_value_cents  BIGINT NOT NULL,
    returns_count              BIGINT NOT NULL,
    returns_amount_cents       BIGINT NOT NULL,
    discounts_amount_cents     BIGINT NOT NULL,
    shipping_amount_cents      BIGINT NOT NULL,
    tax_amount_cents           BIGINT NOT NULL,
    refunds_amount_cents       BIGINT NOT NULL,
    created_at                 TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at                 TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, date, currency)
);

CREATE TABLE funnels (
    store_id        TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    funnel_name     TEXT NOT NULL,
    order_mode      TEXT NOT NULL DEFAULT 'sequential' CHECK (order_mode IN ('sequential', 'strict', 'any')),
    window_seconds  BIGINT NOT NULL DEFAULT 1209600 CHECK (window_seconds BETWEEN 1 AND 7776000),
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, funnel_name)
);

CREATE TABLE funnel_steps (
    store_id          TEXT NOT NULL,
    funnel_name       TEXT NOT NULL,
    step_name         TEXT NOT NULL,
    step_order        INTEGER NOT NULL CHECK (step_order BETWEEN 1 AND 20),
    step_description  TEXT,
    -- {"event": "add_to_cart", "filters": [{"field": "…", "operator": "…", "value": …}]}
    definition        JSONB NOT NULL,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, funnel_name, step_order),
    UNIQUE (store_id, funnel_name, step_name),
    FOREIGN KEY (store_id, funnel_name) REFERENCES funnels ON DELETE CASCADE
);

CREATE TABLE funnel_analytics (
    store_id                  TEXT NOT NULL,
    funnel_name               TEXT NOT NULL,
    step_name                 TEXT NOT NULL,
    step_order                INTEGER NOT NULL,
    date                      DATE NOT NULL,
    users_entered             BIGINT NOT NULL,
    users_completed           BIGINT NOT NULL,
    completion_rate           NUMERIC(5, 2) NOT NULL,
    average_time_to_complete  BIGINT NOT NULL,
    -- The window of the day's last visitor has not passed yet: the row may still grow.
    is_open                   BOOLEAN NOT NULL,
    created_at                TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at                TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, funnel_name, date, step_order),
    UNIQUE (store_id, funnel_name, step_name, date),
    FOREIGN KEY (store_id, funnel_name) REFERENCES funnels ON DELETE CASCADE
);

CREATE TABLE cohort_analytics (
    store_id                   TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    cohort_date                DATE NOT NULL,
    period_type                TEXT NOT NULL CHECK (period_type IN ('day', 'week', 'month')),
    period_number              INTEGER NOT NULL,
    user_count                 BIGINT NOT NULL,
    -- Active on the period (bounded), and on it or any later one (unbounded).
    active_user_count          BIGINT NOT NULL,
    retention_rate             NUMERIC(5, 2) NOT NULL,
    unbounded_user_count       BIGINT NOT NULL,
    unbounded_retention_rate   NUMERIC(5, 2) NOT NULL,
    revenue_cents              BIGINT NOT NULL,
    currency                   TEXT NOT NULL,
    unconverted                JSONB NOT NULL DEFAULT '{}',
    average_revenue_per_user   NUMERIC NOT NULL,
    created_at                 TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at                 TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, period_type, cohort_date, period_number)
);

-- Clicks in a grid of 1% of the page's width by 20 px, by page and class of viewport.
CREATE TABLE heatmap_data (
    store_id          TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    date              DATE NOT NULL,
    -- The page: its address without query and fragment.
    url               TEXT NOT NULL,
    viewport_class    TEXT NOT NULL CHECK (viewport_class IN ('mobile', 'tablet', 'desktop')),
    -- Left edge of the bin in percent of the page's width; null where no width was sent.
    click_x_percent   SMALLINT CHECK (click_x_percent BETWEEN 0 AND 99),
    -- Top edge of the bin in CSS pixels.
    click_y           BIGINT NOT NULL,
    clicks            BIGINT NOT NULL,
    rage_clicks       BIGINT NOT NULL,
    dead_clicks       BIGINT NOT NULL,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE NULLS NOT DISTINCT (store_id, date, url, viewport_class, click_x_percent, click_y)
);

-- The elements that were clicked, by page and class of viewport.
CREATE TABLE heatmap_elements (
    store_id          TEXT NOT NULL REFERENCES stores (id) ON DELETE CASCADE,
    date              DATE NOT NULL,
    url               TEXT NOT NULL,
    viewport_class    TEXT NOT NULL,
    element_selector  TEXT NOT NULL,
    element_text      TEXT NOT NULL,
    clicks            BIGINT NOT NULL,
    rage_clicks       BIGINT NOT NULL,
    dead_clicks       BIGINT NOT NULL,
    created_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at        TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (store_id, date, url, viewport_class, element_selector)
);

-- A dashboard's connection sees the one store that its setting `millrace.store_id` names. The role is shared by all
-- databases of a server, and may be there already.
DO $$
BEGIN
    CREATE ROLE millrace_dashboard NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

DO $$
DECLARE
    rollup TEXT;
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO millrace_dashboard', current_schema());
    FOREACH rollup IN ARRAY ARRAY['analytics_summary', 'product_analytics', 'revenue_analytics', 'funnels',
        'funnel_steps', 'funnel_analytics', 'cohort_analytics', 'heatmap_data', 'heatmap_elements',
        'rollup_watermarks']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', rollup);
        EXECUTE format('CREATE POLICY one_store ON %I FOR SELECT TO millrace_dashboard
            USING (store_id = current_setting(''millrace.store_id'', true))', rollup);
        EXECUTE format('GRANT SELECT ON %I TO millrace_dashboard', rollup);
    END LOOP;
END $$;
