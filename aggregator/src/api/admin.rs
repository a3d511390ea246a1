//! Administering: stores, funnels, exchange rates. Every change is written down in `admin_audit`, in its transaction,
//! and has the days rolled up again whose numbers it changes.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State as Shared},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use millrace_schemas::money::exponent;
use rust_decimal::Decimal;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

use super::{Answer, Failure, State};
use crate::{
    backfill::touch_everything,
    calendar::Calendar,
    entity::orders,
    funnel::{FILTERS_MAX, Filter, OrderMode, STEPS_MAX, StoredStep, TEXT_BYTES_MAX, check_filter},
    money::RATE_AGE_MAX_DAYS,
    postgres::begin,
    rollup::scope::Store,
    stores::{HOLDS, KeyKind, add_key},
};

/// Rates in one request, at most.
pub(super) const RATES_MAX: usize = 10_000;
/// Allowed origins of a store, at most.
pub(super) const ORIGINS_MAX: usize = 100;
/// Funnels of a store, at most: each is one more query for every day.
pub(super) const FUNNELS_MAX: i64 = 100;

pub(super) fn parse<T: DeserializeOwned>(body: &Bytes) -> Answer<T> {
    let mut from = serde_json::Deserializer::from_slice(body);
    serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let (path, message) = (error.path().to_string(), error.inner().to_string());
        // A missing or unknown field is named in the message, the path is that of the object around it.
        let named = message.split('`').nth(1).filter(|_| message.contains("field `")).map(str::to_owned);
        Failure::field(named.unwrap_or(path), message)
    })
}

pub(super) fn check_text(field: &str, text: &str) -> Answer<()> {
    if text.is_empty() || text.len() > TEXT_BYTES_MAX || text.contains('\0') {
        return Err(Failure::field(field, format!("a text of 1 to {TEXT_BYTES_MAX} bytes, without NUL")));
    }
    Ok(())
}

pub(super) async fn audit(
    postgres: &mut PgConnection,
    action: &str,
    store_id: Option<&str>,
    detail: Value,
) -> Answer<()> {
    sqlx::query("INSERT INTO admin_audit (action, store_id, detail) VALUES ($1, $2, $3)")
        .bind(action)
        .bind(store_id)
        .bind(detail)
        .execute(postgres)
        .await?;
    Ok(())
}

/// Settings of a store; all that is not given stays, or gets its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    name: Option<String>,
    timezone: Option<String>,
    currency: Option<String>,
    max_event_age_days: Option<i32>,
    allowed_origins: Option<Vec<String>>,
    prices_include_tax: Option<bool>,
    /// Null: the collector's setting.
    #[serde(default, deserialize_with = "given")]
    events_per_second: Option<Option<i32>>,
    /// Null: as long as ClickHouse's tables keep them.
    #[serde(default, deserialize_with = "given")]
    retention_days: Option<Option<i32>>,
}

/// Tells a null from a field that is not there.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Option<i32>>, D::Error> {
    Option::<i32>::deserialize(from).map(Some)
}

impl Settings {
    fn check(&self) -> Answer<()> {
        if let Some(name) = &self.name {
            check_text("name", name)?;
        }
        if self.timezone.as_deref().is_some_and(|zone| Calendar::new(zone).is_none()) {
            return Err(Failure::field(
                "timezone",
                "an IANA time zone like Europe/Berlin, or an offset like +05:30",
            ));
        }
        if self.currency.as_deref().is_some_and(|currency| exponent(currency).is_none()) {
            return Err(Failure::field("currency", "an ISO 4217 code like EUR"));
        }
        if self.max_event_age_days.is_some_and(|days| !(1..=3650).contains(&days)) {
            return Err(Failure::field("max_event_age_days", "a number from 1 to 3650"));
        }
        if let Some(origins) = &self.allowed_origins {
            if origins.len() > ORIGINS_MAX {
                return Err(Failure::field("allowed_origins", format!("at most {ORIGINS_MAX} origins")));
            }
            for origin in origins {
                check_text("allowed_origins", origin)?;
            }
        }
        if self.events_per_second.flatten().is_some_and(|rate| rate < 1) {
            return Err(Failure::field("events_per_second", "a number from 1, or null"));
        }
        if self.retention_days.flatten().is_some_and(|days| !(62..=3650).contains(&days)) {
            return Err(Failure::field("retention_days", "a number from 62 to 3650, or null"));
        }
        Ok(())
    }
}

/// `POST /api/v1/stores`.
pub(super) async fn create_store(Shared(state): Shared<State>, body: Bytes) -> Answer<Response> {
    let settings: Settings = parse(&body)?;
    settings.check()?;
    let required = |field: &'static str, value: &Option<String>| {
        value.clone().ok_or_else(|| Failure::field(field, "required"))
    };
    let (name, timezone) = (required("name", &settings.name)?, required("timezone", &settings.timezone)?);
    let currency = required("currency", &settings.currency)?;
    let store_id = Uuid::now_v7().to_string();
    let mut transaction = begin(&state.pool).await?;
    sqlx::query(
        "INSERT INTO stores (id, name, timezone, currency, max_event_age_days, allowed_origins, events_per_second,
                             retention_days, prices_include_tax)
         VALUES ($1, $2, $3, $4, coalesce($5, 30), coalesce($6, '{}'), $7, $8, coalesce($9, false))",
    )
    .bind(&store_id)
    .bind(&name)
    .bind(&timezone)
    .bind(&currency)
    .bind(settings.max_event_age_days)
    .bind(&settings.allowed_origins)
    .bind(settings.events_per_second.flatten())
    .bind(settings.retention_days.flatten())
    .bind(settings.prices_include_tax)
    .execute(&mut *transaction)
    .await?;
    let mut keys = [KeyKind::Write, KeyKind::Secret, KeyKind::Api].map(|kind| (kind, kind.generate()));
    for (kind, key) in &keys {
        add_key(&mut transaction, &store_id, *kind, key, "").await?;
    }
    let detail = json!({"name": name, "timezone": timezone, "currency": currency});
    audit(&mut transaction, "create_store", Some(&store_id), detail).await?;
    transaction.commit().await?;
    let [write_key, secret_key, api_token] = keys.each_mut().map(|(_, key)| std::mem::take(key));
    let made = json!({
        "store_id": store_id, "write_key": write_key, "secret_key": secret_key, "api_token": api_token,
    });
    // It holds secrets: nobody on the way keeps it.
    Ok((StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(made)).into_response())
}

/// `GET /api/v1/stores`: settings and the public keys.
pub(super) async fn list_stores(Shared(state): Shared<State>) -> Answer {
    let sql = format!(
        "SELECT jsonb_build_object('store_id', id, 'name', name, 'timezone', timezone, 'currency', currency,
                    'max_event_age_days', max_event_age_days, 'allowed_origins', allowed_origins,
                    'events_per_second', events_per_second, 'retention_days', retention_days,
                    'prices_include_tax', prices_include_tax,
                    'created_at', created_at,
                    'write_keys', (SELECT coalesce(jsonb_agg(write_key ORDER BY created_at), '[]')
                                   FROM store_keys
                                   WHERE store_id = stores.id AND kind = 'write' AND {HOLDS}))
         FROM stores ORDER BY created_at, id LIMIT 10000"
    );
    let rows: Vec<Value> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&state.pool).await?;
    Ok(Json(json!({"data": rows})))
}

/// `PATCH /api/v1/stores/{store_id}`.
pub(super) async fn change_store(
    Shared(state): Shared<State>,
    Path(store_id): Path<String>,
    body: Bytes,
) -> Answer {
    let settings: Settings = parse(&body)?;
    settings.check()?;
    let detail: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut transaction = begin(&state.pool).await?;
    let before = sqlx::query("SELECT timezone, currency FROM stores WHERE id = $1 FOR UPDATE")
        .bind(&store_id)
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such store"))?;
    let (zone, currency): (String, String) = (before.try_get("timezone")?, before.try_get("currency")?);
    if settings.retention_days.is_some() {
        // It is due at once.
        sqlx::query("DELETE FROM retention_runs WHERE store_id = $1")
            .bind(&store_id)
            .execute(&mut *transaction)
            .await?;
    }
    let moved = Store {
        id: store_id.clone(),
        currency: settings.currency.clone().unwrap_or_else(|| currency.clone()),
        calendar: calendar(settings.timezone.as_ref().unwrap_or(&zone))?,
        timezone: settings.timezone.clone().unwrap_or_else(|| zone.clone()),
    };
    let mut days = 0;
    if moved.timezone != zone || moved.currency != currency {
        days = touch_everything(&state.warehouse, &mut transaction, &moved).await?;
    }
    // Last: from here on until the commit no other store's settings or keys can be changed.
    sqlx::query(
        "UPDATE stores SET name = coalesce($2, name), timezone = coalesce($3, timezone),
                currency = coalesce($4, currency), max_event_age_days = coalesce($5, max_event_age_days),
                allowed_origins = coalesce($6, allowed_origins),
                events_per_second = CASE WHEN $7 THEN $8 ELSE events_per_second END,
                retention_days = CASE WHEN $9 THEN $10 ELSE retention_days END,
                prices_include_tax = coalesce($11, prices_include_tax), updated_at = now()
         WHERE id = $1",
    )
    .bind(&store_id)
    .bind(&settings.name)
    .bind(&settings.timezone)
    .bind(&settings.currency)
    .bind(settings.max_event_age_days)
    .bind(&settings.allowed_origins)
    .bind(settings.events_per_second.is_some())
    .bind(settings.events_per_second.flatten())
    .bind(settings.retention_days.is_some())
    .bind(settings.retention_days.flatten())
    .bind(settings.prices_include_tax)
    .execute(&mut *transaction)
    .await?;
    audit(&mut transaction, "change_store", Some(&store_id), detail).await?;
    transaction.commit().await?;
    Ok(Json(json!({"store_id": store_id, "days_to_roll_up": days})))
}

fn calendar(zone: &str) -> Answer<Calendar> {
    Calendar::new(zone).ok_or_else(|| {
        Failure::field("timezone", "an IANA time zone like Europe/Berlin, or an offset like +05:30")
    })
}

/// Has all days of a store rolled up again.
async fn touch_store(state: &State, postgres: &mut PgConnection, store_id: &str) -> Answer<usize> {
    let store = Store::read(postgres, store_id)
        .await?
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "there is no such store"))?;
    Ok(touch_everything(&state.warehouse, postgres, &store).await?)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewFunnel {
    #[serde(alias = "name")]
    funnel_name: String,
    #[serde(default)]
    order_mode: OrderMode,
    #[serde(default = "window_default")]
    window_seconds: i64,
    steps: Vec<NewStep>,
}

fn window_default() -> i64 {
    1_209_600
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewStep {
    #[serde(alias = "name")]
    step_name: String,
    event: String,
    #[serde(default)]
    filters: Vec<Filter>,
    #[serde(alias = "step_description")]
    description: Option<String>,
}

impl NewFunnel {
    fn check(&self) -> Answer<()> {
        check_text("funnel_name", &self.funnel_name)?;
        if !(1..=7_776_000).contains(&self.window_seconds) {
            return Err(Failure::field("window_seconds", "a number from 1 to 7776000"));
        }
        if !(2..=STEPS_MAX).contains(&self.steps.len()) {
            return Err(Failure::field("steps", format!("2 to {STEPS_MAX} steps")));
        }
        for (index, step) in self.steps.iter().enumerate() {
            check_text(&format!("steps[{index}].step_name"), &step.step_name)?;
            check_text(&format!("steps[{index}].event"), &step.event)?;
            if let Some(description) = &step.description {
                check_text(&format!("steps[{index}].description"), description)?;
            }
            if self.steps[..index].iter().any(|before| before.step_name == step.step_name) {
                return Err(Failure::field(format!("steps[{index}].step_name"), "two steps have this name"));
            }
            if step.filters.len() > FILTERS_MAX {
                let field = format!("steps[{index}].filters");
                return Err(Failure::field(field, format!("at most {FILTERS_MAX} filters")));
            }
            for (at, filter) in step.filters.iter().enumerate() {
                check_filter(filter)
                    .map_err(|message| Failure::field(format!("steps[{index}].filters[{at}]"), message))?;
            }
        }
        Ok(())
    }
}

/// `POST /api/v1/stores/{store_id}/funnels`: makes a funnel, or replaces the one of this name.
pub(super) async fn put_funnel(
    Shared(state): Shared<State>,
    Path(store_id): Path<String>,
    body: Bytes,
) -> Answer<(StatusCode, Json<Value>)> {
    let funnel: NewFunnel = parse(&body)?;
    funnel.check()?;
    let mut transaction = begin(&state.pool).await?;
    // What was counted under another definition goes with it. First: a rollup, too, writes its funnels before it forgets
    // the days that it has done, and who waits for whom must not go round.
    sqlx::query("DELETE FROM funnels WHERE store_id = $1 AND funnel_name = $2")
        .bind(&store_id)
        .bind(&funnel.funnel_name)
        .execute(&mut *transaction)
        .await?;
    let days = touch_store(&state, &mut transaction, &store_id).await?;
    let others: i64 = sqlx::query_scalar("SELECT count(*) FROM funnels WHERE store_id = $1")
        .bind(&store_id)
        .fetch_one(&mut *transaction)
        .await?;
    if others >= FUNNELS_MAX {
        return Err(Failure::new(StatusCode::CONFLICT, format!("a store has at most {FUNNELS_MAX} funnels")));
    }
    sqlx::query(
        "INSERT INTO funnels (store_id, funnel_name, order_mode, window_seconds) VALUES ($1, $2, $3, $4)",
    )
    .bind(&store_id)
    .bind(&funnel.funnel_name)
    .bind(funnel.order_mode.as_str())
    .bind(funnel.window_seconds)
    .execute(&mut *transaction)
    .await?;
    for (order, step) in (1_i32..).zip(&funnel.steps) {
        let stored = StoredStep { event: step.event.clone(), filters: step.filters.clone() };
        sqlx::query(
            "INSERT INTO funnel_steps (store_id, funnel_name, step_name, step_order, step_description, definition)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&store_id)
        .bind(&funnel.funnel_name)
        .bind(&step.step_name)
        .bind(order)
        .bind(&step.description)
        .bind(serde_json::to_value(stored).map_err(crate::Error::from)?)
        .execute(&mut *transaction)
        .await?;
    }
    let detail: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    audit(&mut transaction, "put_funnel", Some(&store_id), detail).await?;
    transaction.commit().await?;
    let made = json!({"store_id": store_id, "funnel_name": funnel.funnel_name, "days_to_roll_up": days});
    Ok((StatusCode::CREATED, Json(made)))
}

/// `DELETE /api/v1/stores/{store_id}/funnels/{funnel_name}`.
pub(super) async fn delete_funnel(
    Shared(state): Shared<State>,
    Path((store_id, funnel_name)): Path<(String, String)>,
) -> Answer<StatusCode> {
    let mut transaction = begin(&state.pool).await?;
    let gone = sqlx::query("DELETE FROM funnels WHERE store_id = $1 AND funnel_name = $2")
        .bind(&store_id)
        .bind(&funnel_name)
        .execute(&mut *transaction)
        .await?;
    if gone.rows_affected() == 0 {
        return Err(Failure::new(StatusCode::NOT_FOUND, "there is no such funnel"));
    }
    audit(&mut transaction, "delete_funnel", Some(&store_id), json!({"funnel_name": funnel_name})).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewRate {
    date: jiff::civil::Date,
    currency: String,
    base: String,
    rate: Value,
}

/// `POST /api/v1/exchange_rates`: sets rates; days are rolled up again on which stores that count in the base have taken money
/// in the currency. A rate holds for the days behind it too, as long as they have none.
pub(super) async fn put_exchange_rates(Shared(state): Shared<State>, body: Bytes) -> Answer {
    let rates: Vec<NewRate> = parse(&body)?;
    if rates.is_empty() || rates.len() > RATES_MAX {
        return Err(Failure::field("", format!("a list of 1 to {RATES_MAX} rates")));
    }
    // Of a rate that stands twice, the later one holds.
    let mut by_day = BTreeMap::new();
    for (index, rate) in rates.iter().enumerate() {
        let field = |name: &str| format!("[{index}].{name}");
        for (name, code) in [("currency", &rate.currency), ("base", &rate.base)] {
            if exponent(code).is_none() {
                return Err(Failure::field(field(name), "an ISO 4217 code like EUR"));
            }
        }
        let number = parse_rate(&rate.rate)
            .ok_or_else(|| Failure::field(field("rate"), "a number above 0 of at most 18 digits"))?;
        by_day.insert((rate.date.to_string(), rate.currency.as_str(), rate.base.as_str()), number);
    }
    let (keys, numbers): (Vec<_>, Vec<_>) = by_day.into_iter().unzip();
    let mut transaction = begin(&state.pool).await?;
    sqlx::query(
        "INSERT INTO exchange_rates (date, currency, base, rate)
         SELECT * FROM unnest($1::date[], $2::text[], $3::text[], $4::numeric[])
         ON CONFLICT (date, currency, base) DO UPDATE SET rate = EXCLUDED.rate",
    )
    .bind(keys.iter().map(|(date, ..)| date.clone()).collect::<Vec<_>>())
    .bind(keys.iter().map(|(_, currency, _)| *currency).collect::<Vec<_>>())
    .bind(keys.iter().map(|(.., base)| *base).collect::<Vec<_>>())
    .bind(numbers)
    .execute(&mut *transaction)
    .await?;
    let dates: Vec<String> = rates.iter().map(|rate| rate.date.to_string()).collect();
    let currencies: Vec<&str> = rates.iter().map(|rate| rate.currency.as_str()).collect();
    let bases: Vec<&str> = rates.iter().map(|rate| rate.base.as_str()).collect();
    // Days that wait already may be under somebody's hands, with the rates as they were.
    let touched = sqlx::query(
        "INSERT INTO touched_days (store_id, date, received_at, touched_at)
         SELECT stores.id, days.date, coalesce(marks.received_at, 'epoch'), clock_timestamp()
         FROM (SELECT DISTINCT date + age AS date, currency, base
               FROM unnest($1::date[], $2::text[], $3::text[]) AS rates (date, currency, base)
               CROSS JOIN generate_series(0, $4) AS age) AS days
         JOIN (SELECT store_id, date, currency FROM revenue_analytics
               UNION ALL SELECT store_id, date, NULL FROM touched_days) AS taken
           ON taken.date = days.date AND coalesce(taken.currency, days.currency) = days.currency
         JOIN stores ON stores.id = taken.store_id AND stores.currency = days.base
         LEFT JOIN rollup_watermarks AS marks ON marks.store_id = stores.id
         GROUP BY stores.id, days.date, marks.received_at
         ON CONFLICT (store_id, date) DO UPDATE SET touched_at = EXCLUDED.touched_at",
    )
    .bind(dates)
    .bind(&currencies)
    .bind(bases)
    .bind(i32::try_from(RATE_AGE_MAX_DAYS).unwrap_or(i32::MAX))
    .execute(&mut *transaction)
    .await?;
    orders::make_stale_of_refunds(&state.warehouse, &mut transaction, &currencies).await?;
    let detail: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    audit(&mut transaction, "put_exchange_rates", None, detail).await?;
    transaction.commit().await?;
    Ok(Json(json!({"rates": rates.len(), "days_to_roll_up": touched.rows_affected()})))
}

/// A rate as a decimal, from a string or from a number's shortest form. Up to 18 digits: a product with any 64-bit sum
/// then fits into 128 bits.
fn parse_rate(value: &Value) -> Option<Decimal> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    let rate = text.parse::<Decimal>().or_else(|_| Decimal::from_scientific(&text)).ok()?.normalize();
    (rate > Decimal::ZERO && rate.mantissa() < 10_i128.pow(18) && rate.scale() <= 18).then_some(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_positive_decimals() {
        for (value, is) in [
            (json!("1.08505"), Some("1.08505")),
            (json!(0.0065), Some("0.0065")),
            (json!(1e-7), Some("0.0000001")),
            (json!(0), None),
            (json!("-1"), None),
            (json!("1.0000000000000000001"), None),
            (json!(null), None),
        ] {
            assert_eq!(parse_rate(&value).map(|rate| rate.to_string()).as_deref(), is, "{value}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let field = |body: &str| {
            parse::<NewFunnel>(&Bytes::copy_from_slice(body.as_bytes()))
                .and_then(|funnel| funnel.check())
                .unwrap_err()
                .field
                .unwrap()
        };
        assert_eq!(field(r#"{"steps": []}"#), "funnel_name");
        assert_eq!(field(r#"{"name": "f", "steps": []}"#), "steps");
        assert_eq!(field(r#"{"name": "f", "steps": [{"name": "a", "event": 5}]}"#), "steps[0].event");
        assert_eq!(field(r#"{"name": "f", "stepz": []}"#), "stepz");
        let two = r#"{"name": "f", "steps": [{"name": "a", "event": "x"},
            {"name": "b", "event": "y", "filters": [{"field": "store_id", "operator": "exists"}]}]}"#;
        assert_eq!(field(two), "steps[1].filters[0]");
    }
}
