//! Reading rollups. Every read runs as the dashboards' role with the store in its setting, so row level security stands
//! behind the check of the token.

use std::collections::BTreeMap;

use axum::{
    extract::{Path, Query, State as Shared},
    http::StatusCode,
    response::Response,
};
use jiff::civil::Date;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{Answer, Failure, State, readers};
use crate::postgres::begin;

/// Rows of an answer when `limit` is not given.
const LIMIT_DEFAULT: i64 = 1_000;
/// Rows of an answer, at most.
pub(super) const LIMIT_MAX: i64 = 10_000;

/// A rollup that can be read.
pub(super) struct Rollup {
    /// Name in the path; also the table.
    pub(super) name: &'static str,
    /// What it is.
    pub(super) doc: &'static str,
    /// Column that `from` and `to` bound.
    pub(super) date: &'static str,
    /// Columns that a parameter of the same name filters by.
    pub(super) filters: &'static [&'static str],
    /// Order of the rows; unique together with the store.
    order: &'static str,
    /// Columns with their JSON type.
    pub(super) columns: &'static [(&'static str, Type)],
}

/// How a column stands in JSON.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Date,
    Integer,
    /// A share or a mean.
    Number,
    /// An amount in units of the currency, as a decimal in a string: no client rounds it by reading it.
    Money,
    Object,
    Flag,
}

use Type::{Date as D, Flag, Integer as I, Money as M, Number as N, Object as O, Text as T};

pub(super) const ROLLUPS: [Rollup; 7] = [
    Rollup {
        name: "analytics_summary",
        doc: "Traffic and orders by day, week and month.",
        date: "date",
        filters: &["period_type"],
        order: "date, period_type",
        columns: &[
            ("date", D),
            ("period_type", T),
            ("total_sessions", I),
            ("unique_visitors", I),
            ("page_views", I),
            ("bounce_rate", N),
            ("engagement_rate", N),
            ("avg_session_duration", I),
            ("total_orders", I),
            ("total_revenue", M),
            ("avg_order_value", M),
            ("currency", T),
            ("unconverted", O),
            ("conversion_rate", N),
            ("bot_events", I),
        ],
    },
    Rollup {
        name: "product_analytics",
        doc: "Views, carts, orders, stock and ratings by product and day.",
        date: "date",
        filters: &["product_id"],
        order: "date, product_id",
        columns: &[
            ("product_id", T),
            ("date", D),
            ("views_count", I),
            ("unique_views_count", I),
            ("add_to_cart_count", I),
            ("cart_removal_count", I),
            ("checkout_count", I),
            ("purchase_count", I),
            ("units_sold", I),
            ("revenue_cents", I),
            ("currency", T),
            ("unconverted", O),
            ("average_time_on_page", I),
            ("bounce_rate", N),
            ("conversion_rate", N),
            ("stock_level", I),
            ("stock_turns", N),
            ("average_rating", N),
            ("review_count", I),
        ],
    },
    Rollup {
        name: "revenue_analytics",
        doc: "Orders and refunds by day and currency.",
        date: "date",
        filters: &["currency"],
        order: "date, currency",
        columns: &[
            ("date", D),
            ("currency", T),
            ("gross_revenue_cents", I),
            ("net_revenue_cents", I),
            ("orders_count", I),
            ("average_order_value_cents", I),
            ("returns_count", I),
            ("returns_amount_cents", I),
            ("discounts_amount_cents", I),
            ("shipping_amount_cents", I),
            ("tax_amount_cents", I),
            ("refunds_amount_cents", I),
            ("unexplained_amount_cents", I),
            ("cancelled_orders", I),
        ],
    },
    Rollup {
        name: "funnel_analytics",
        doc: "Visitors by funnel, step and day of entry.",
        date: "date",
        filters: &["funnel_name"],
        order: "date, funnel_name, step_order",
        columns: &[
            ("funnel_name", T),
            ("step_name", T),
            ("step_order", I),
            ("date", D),
            ("users_entered", I),
            ("users_completed", I),
            ("completion_rate", N),
            ("average_time_to_complete", I),
            ("is_open", Flag),
        ],
    },
    Rollup {
        name: "cohort_analytics",
        doc: "Persons by the period of their first event, and their activity and orders since.",
        date: "cohort_date",
        filters: &["period_type"],
        order: "cohort_date, period_type, period_number",
        columns: &[
            ("cohort_date", D),
            ("period_type", T),
            ("period_number", I),
            ("user_count", I),
            ("active_user_count", I),
            ("retention_rate", N),
            ("unbounded_user_count", I),
            ("unbounded_retention_rate", N),
            ("revenue_cents", I),
            ("currency", T),
            ("unconverted", O),
            ("average_revenue_per_user", M),
        ],
    },
    Rollup {
        name: "heatmap_data",
        doc: "Clicks by page, class of viewport and place.",
        date: "date",
        filters: &["url", "viewport_class"],
        order: "date, url, viewport_class, click_y, click_x_percent",
        columns: &[
            ("date", D),
            ("url", T),
            ("viewport_class", T),
            ("click_x_percent", I),
            ("click_y", I),
            ("clicks", I),
            ("rage_clicks", I),
            ("dead_clicks", I),
        ],
    },
    Rollup {
        name: "heatmap_elements",
        doc: "Clicks by page, class of viewport and element.",
        date: "date",
        filters: &["url", "viewport_class"],
        order: "date, url, viewport_class, element_selector",
        columns: &[
            ("date", D),
            ("url", T),
            ("viewport_class", T),
            ("element_selector", T),
            ("element_text", T),
            ("clicks", I),
            ("rage_clicks", I),
            ("dead_clicks", I),
        ],
    },
];

pub(super) type Parameters = BTreeMap<String, String>;

/// `GET /api/v1/stores/{store_id}/{rollup}`.
pub(super) async fn rollup(
    Shared(state): Shared<State>,
    Path((store_id, name)): Path<(String, String)>,
    Query(mut parameters): Query<Parameters>,
) -> Answer<Response> {
    let rollup = ROLLUPS
        .iter()
        .find(|rollup| rollup.name == name)
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such rollup"))?;
    let page = Page::take(&mut parameters)?;
    let from = take_date(&mut parameters, "from")?;
    let to = take_date(&mut parameters, "to")?;
    if let (Some(from), Some(to)) = (from, to)
        && from > to
    {
        return Err(Failure::field("from", "from lies after to"));
    }
    let mut filters = Vec::new();
    for filter in rollup.filters {
        if let Some(value) = parameters.remove(*filter) {
            check_filter(filter, &value)?;
            filters.push((*filter, value));
        }
    }
    refuse_rest(&parameters)?;

    let date = rollup.date;
    let columns: Vec<String> = rollup
        .columns
        .iter()
        .map(
            |(name, ty)| {
                if *ty == Type::Money { format!("{name}::text AS {name}") } else { (*name).to_owned() }
            },
        )
        .collect();
    let mut conditions = vec![format!(
        "store_id = $1 AND {date} >= coalesce($2::date, '-infinity') AND {date} <= coalesce($3::date, 'infinity')"
    )];
    conditions.extend(filters.iter().enumerate().map(|(at, (name, _))| format!("{name} = ${}", at + 6)));
    let sql = format!(
        "SELECT to_jsonb(row)::text FROM (SELECT {} FROM {} WHERE {} ORDER BY {} LIMIT $4 OFFSET $5) AS row",
        columns.join(", "),
        rollup.name,
        conditions.join(" AND "),
        rollup.order,
    );
    let place = state.readers.enter(&store_id).await?;
    let mut transaction = as_dashboard(&state, &store_id).await?;
    let watermark = watermark(&mut transaction).await?;
    let mut query = sqlx::query_scalar::<_, String>(AssertSqlSafe(sql))
        .bind(&store_id)
        .bind(from.map(|date| date.to_string()))
        .bind(to.map(|date| date.to_string()))
        .bind(page.limit + 1)
        .bind(page.offset);
    for (_, value) in &filters {
        query = query.bind(value);
    }
    let answer = readers::page(&page, query.fetch(&mut *transaction), &watermark).await?;
    Ok(place.answer(answer))
}

/// `GET /api/v1/stores/{store_id}/funnels`: what is defined.
pub(super) async fn funnels(
    Shared(state): Shared<State>,
    Path(store_id): Path<String>,
    Query(mut parameters): Query<Parameters>,
) -> Answer<Response> {
    let page = Page::take(&mut parameters)?;
    let name = parameters.remove("funnel_name");
    refuse_rest(&parameters)?;
    let place = state.readers.enter(&store_id).await?;
    let mut transaction = as_dashboard(&state, &store_id).await?;
    let watermark = watermark(&mut transaction).await?;
    let rows = sqlx::query_scalar::<_, String>(
        "SELECT jsonb_build_object('funnel_name', funnel_name, 'order_mode', order_mode,
                    'window_seconds', window_seconds, 'steps', jsonb_agg(definition || jsonb_build_object(
                        'step_name', step_name, 'step_order', step_order, 'step_description', step_description)
                    ORDER BY step_order))::text
         FROM funnels JOIN funnel_steps USING (store_id, funnel_name)
         WHERE store_id = $1 AND funnel_name = coalesce($2, funnel_name)
         GROUP BY funnel_name, order_mode, window_seconds ORDER BY funnel_name LIMIT $3 OFFSET $4",
    )
    .bind(&store_id)
    .bind(name)
    .bind(page.limit + 1)
    .bind(page.offset)
    .fetch(&mut *transaction);
    Ok(place.answer(readers::page(&page, rows, &watermark).await?))
}

pub(super) struct Page {
    pub(super) limit: i64,
    pub(super) offset: i64,
}

impl Page {
    pub(super) fn take(parameters: &mut Parameters) -> Answer<Self> {
        let mut number = |name: &str, default: i64, from: i64, to: i64| match parameters.remove(name) {
            None => Ok(default),
            Some(text) => text
                .parse()
                .ok()
                .filter(|number| (from..=to).contains(number))
                .ok_or_else(|| Failure::field(name, format!("a whole number from {from} to {to}"))),
        };
        Ok(Self {
            limit: number("limit", LIMIT_DEFAULT, 1, LIMIT_MAX)?,
            offset: number("offset", 0, 0, i64::MAX)?,
        })
    }
}

pub(super) fn take_date(parameters: &mut Parameters, name: &str) -> Answer<Option<Date>> {
    parameters
        .remove(name)
        .map(|text| {
            let is_plain = text.len() == 10;
            text.parse()
                .ok()
                .filter(|_| is_plain)
                .ok_or_else(|| Failure::field(name, "a date like 2026-11-01"))
        })
        .transpose()
}

/// All values that a filter takes; none: any text.
pub(super) fn filter_values(name: &str) -> &'static [&'static str] {
    match name {
        "period_type" => &["day", "week", "month"],
        "viewport_class" => &["mobile", "tablet", "desktop"],
        _ => &[],
    }
}

fn check_filter(name: &str, value: &str) -> Answer<()> {
    let allowed = filter_values(name);
    if allowed.is_empty() && value.contains('\0') {
        return Err(Failure::field(name, "a text without NUL"));
    }
    if allowed.is_empty() || allowed.contains(&value) {
        Ok(())
    } else {
        Err(Failure::field(name, format!("one of {}", allowed.join(", "))))
    }
}

/// A misspelt filter must not read as "everything".
pub(super) fn refuse_rest(parameters: &Parameters) -> Answer<()> {
    match parameters.keys().next() {
        Some(name) => Err(Failure::field(name, "there is no such parameter here")),
        None => Ok(()),
    }
}

async fn as_dashboard(state: &State, store_id: &str) -> Answer<sqlx::Transaction<'static, sqlx::Postgres>> {
    let mut transaction = begin(&state.pool).await?;
    // One snapshot: the watermark is that of the rows.
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SET LOCAL ROLE millrace_dashboard").execute(&mut *transaction).await?;
    sqlx::query("SELECT set_config('millrace.store_id', $1, true)")
        .bind(store_id)
        .execute(&mut *transaction)
        .await?;
    Ok(transaction)
}

/// Up to which receipt the rows are complete.
async fn watermark(postgres: &mut PgConnection) -> Answer<Value> {
    let row = sqlx::query(
        "SELECT to_char(received_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS at FROM rollup_watermarks",
    )
    .fetch_optional(postgres)
    .await?;
    Ok(row.map(|row| row.try_get::<String, _>("at")).transpose()?.map_or(Value::Null, Value::String))
}
