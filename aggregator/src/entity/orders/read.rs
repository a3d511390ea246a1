//! Reports of orders as ClickHouse has them, and what of their stores decides about them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use clickhouse::{Row, query::Query};
use jiff::civil::Date;
use rust_decimal::Decimal;
use serde::Deserialize;
use sqlx::{PgConnection, Row as _};

use crate::{
    calendar::Calendar,
    clickhouse::Warehouse,
    entity::order::{self, Kind, Line, Order, Report},
    error::{Error, Result},
    money::{RATE_AGE_MAX_DAYS, Rates},
    postgres::{Answer as _, parse_date},
};

/// Reports by store and order.
pub(super) type Reports = BTreeMap<(String, String), Vec<Report>>;
/// Days of stores whose events are gone because they were old.
pub(super) type Kept = HashSet<(String, Date)>;
/// Rates by currency into which they convert.
type RatesByBase = HashMap<String, Rates>;

#[derive(Row, Deserialize)]
struct ReportRow {
    store: String,
    order_id: String,
    kind: String,
    trusted: u8,
    at_ms: i64,
    in_currency: String,
    value: Option<f64>,
    total_minor: Option<i64>,
    tax_minor: Option<i64>,
    shipping_minor: Option<i64>,
    discount_minor: Option<i64>,
    product_ids: Vec<String>,
    variant_ids: Vec<String>,
    prices: Vec<i64>,
    quantities: Vec<i64>,
    refund_id: String,
    refunds_included: u8,
    visitor_id: String,
    session_id: String,
    user_id: String,
}

impl ReportRow {
    fn into_report(self) -> Result<Report> {
        let kind = match self.kind.as_str() {
            "purchase" => Kind::Placed,
            "order_updated" => Kind::Updated,
            "refund" => Kind::Refunded,
            "order_cancelled" => Kind::Cancelled,
            other => return Err(Error::Internal(format!("{other:?} is no report of an order"))),
        };
        // Who inserts rows without variants writes none.
        let variants = self.variant_ids.into_iter().chain(std::iter::repeat(String::new()));
        let items = self.product_ids.into_iter().zip(variants).zip(self.prices).zip(self.quantities);
        let line =
            |(((product_id, variant_id), price), quantity)| Line { product_id, variant_id, price, quantity };
        Ok(Report {
            kind,
            trusted: self.trusted == 1,
            at_ms: self.at_ms,
            currency: self.in_currency,
            value_minor: self.total_minor,
            value: self.value,
            tax_minor: self.tax_minor,
            shipping_minor: self.shipping_minor,
            discount_minor: self.discount_minor,
            lines: items.map(line).collect(),
            refund_id: self.refund_id,
            refunds_included: self.refunds_included == 1,
            visitor_id: self.visitor_id,
            session_id: self.session_id,
            user_id: self.user_id,
        })
    }
}

/// The reports that a query answers with, by store and order.
pub(super) async fn reports(warehouse: &Warehouse, query: Query) -> Result<Reports> {
    let mut all = Reports::new();
    for row in warehouse.rows::<ReportRow>(query).await? {
        let key = (row.store.clone(), row.order_id.clone());
        all.entry(key).or_default().push(row.into_report()?);
    }
    Ok(all)
}

struct StoreTerms {
    currency: String,
    prices_include_tax: bool,
    calendar: Calendar,
}

/// What of stores decides about their orders.
pub(super) struct Terms {
    stores: BTreeMap<String, StoreTerms>,
    rates: RatesByBase,
}

impl Terms {
    /// Reads them. Stores that are gone, or whose zone is none, have no orders.
    pub(super) async fn read(
        postgres: &mut PgConnection,
        store_ids: &[&str],
        reports: &Reports,
    ) -> Result<Self> {
        let rows =
            sqlx::query("SELECT id, timezone, currency, prices_include_tax FROM stores WHERE id = ANY ($1)")
                .bind(store_ids)
                .fetch_all(&mut *postgres)
                .within()
                .await?;
        let mut stores: BTreeMap<String, StoreTerms> = BTreeMap::new();
        for row in rows {
            let zone: String = row.try_get("timezone")?;
            let Some(calendar) = Calendar::new(&zone) else { continue };
            let terms = StoreTerms {
                currency: row.try_get("currency")?,
                prices_include_tax: row.try_get("prices_include_tax")?,
                calendar,
            };
            stores.insert(row.try_get("id")?, terms);
        }
        let mut terms = Self { stores, rates: RatesByBase::new() };
        terms.read_rates(postgres, reports).await?;
        Ok(terms)
    }

    /// The rates of days on which refunds in other currencies than their orders' were made, into the stores' own.
    async fn read_rates(&mut self, postgres: &mut PgConnection, reports: &Reports) -> Result<()> {
        let (mut currencies, mut days) = (BTreeSet::new(), BTreeSet::new());
        for ((store, _), reports) in reports {
            let Some(terms) = self.stores.get(store) else { continue };
            let placed: BTreeSet<&str> = reports
                .iter()
                .filter(|report| report.kind == Kind::Placed)
                .map(|report| if report.currency.is_empty() { &*terms.currency } else { &*report.currency })
                .collect();
            let foreign = reports.iter().filter(|report| {
                report.kind == Kind::Refunded
                    && !report.currency.is_empty()
                    && placed.iter().any(|currency| *currency != report.currency)
            });
            for refund in foreign {
                days.insert(terms.calendar.date(refund.at_ms).to_string());
                currencies.extend(placed.iter().copied().chain([&*refund.currency]).map(str::to_owned));
            }
        }
        if days.is_empty() {
            return Ok(());
        }
        let bases: BTreeSet<&str> = self.stores.values().map(|terms| &*terms.currency).collect();
        let rows = sqlx::query(
            "SELECT DISTINCT date::text AS date, currency, base, rate FROM exchange_rates
             JOIN unnest($1::date[]) AS day ON date BETWEEN day - $4 AND day
             WHERE currency = ANY ($2) AND base = ANY ($3)",
        )
        .bind(days.into_iter().collect::<Vec<_>>())
        .bind(currencies.into_iter().collect::<Vec<_>>())
        .bind(bases.into_iter().collect::<Vec<_>>())
        .bind(i32::try_from(RATE_AGE_MAX_DAYS).unwrap_or(i32::MAX))
        .fetch_all(postgres)
        .within()
        .await?;
        let mut by_base: BTreeMap<String, Vec<(Date, String, Decimal)>> = BTreeMap::new();
        for row in rows {
            let (date, base): (String, String) = (row.try_get("date")?, row.try_get("base")?);
            let rate = (parse_date(&date)?, row.try_get("currency")?, row.try_get("rate")?);
            by_base.entry(base).or_default().push(rate);
        }
        self.rates =
            by_base.into_iter().map(|(base, rates)| (base.clone(), Rates::new(base, rates))).collect();
        Ok(())
    }

    /// The store's day that holds an instant.
    pub(super) fn day(&self, store: &str, at_ms: i64) -> Option<(String, Date)> {
        let terms = self.stores.get(store)?;
        Some((store.to_owned(), terms.calendar.date(at_ms)))
    }

    /// Those of the days that hold these instants whose events are gone because they were old.
    pub(super) async fn kept<'p>(
        &self,
        postgres: &mut PgConnection,
        places: impl Iterator<Item = (&'p str, i64)>,
    ) -> Result<Kept> {
        let days: Kept = places.filter_map(|(store, at_ms)| self.day(store, at_ms)).collect();
        let (stores, dates): (Vec<&str>, Vec<String>) =
            days.iter().map(|(store, date)| (store.as_str(), date.to_string())).unzip();
        let rows = sqlx::query(
            "SELECT store_id, date::text AS date FROM thinned_days
             JOIN unnest($1::text[], $2::date[]) AS asked (store_id, date) USING (store_id, date)",
        )
        .bind(stores)
        .bind(dates)
        .fetch_all(postgres)
        .within()
        .await?;
        rows.iter()
            .map(|row| {
                let date: String = row.try_get("date")?;
                Ok((row.try_get("store_id")?, parse_date(&date)?))
            })
            .collect()
    }

    /// What these reports tell of an order of the store.
    pub(super) fn order(&self, store: &str, reports: &[Report]) -> Option<Order> {
        let StoreTerms { currency, prices_include_tax, calendar, .. } = self.stores.get(store)?;
        let convert = |at_ms: i64, from: &str, into: &str, amount: i128| {
            self.rates.get(currency)?.exchange(calendar.date(at_ms), from, into, amount)
        };
        let terms = order::Terms { currency, prices_include_tax: *prices_include_tax, convert: &convert };
        Order::of(reports, &terms)
    }
}
