//! What a rollup is of: a store with its settings, and a few consecutive local days.

use std::{collections::BTreeSet, sync::Arc};

use clickhouse::query::Query;
use jiff::civil::Date;
use rust_decimal::Decimal;
use sqlx::{PgConnection, Row as _};

use crate::{
    calendar::{Calendar, Grid, Period, shift},
    clickhouse::{Warehouse, text},
    error::{Error, Result},
    money::{RATE_AGE_MAX_DAYS, Rates},
    postgres::{Answer as _, parse_date},
};

/// A store as its rollups see it.
#[derive(Clone, Debug)]
pub struct Store {
    /// Its id.
    pub id: String,
    /// Its currency.
    pub currency: String,
    /// Its time zone, as it is set.
    pub timezone: String,
    /// Its days.
    pub calendar: Calendar,
}

impl Store {
    /// Reads a store's settings; `None`: there is no such store.
    pub async fn read(postgres: &mut PgConnection, id: &str) -> Result<Option<Self>> {
        let row = sqlx::query("SELECT timezone, currency FROM stores WHERE id = $1")
            .bind(id)
            .fetch_optional(postgres)
            .within()
            .await?;
        let Some(row) = row else { return Ok(None) };
        let timezone: String = row.try_get("timezone")?;
        let calendar = Calendar::new(&timezone).ok_or_else(|| Error::Store {
            store_id: id.to_owned(),
            message: format!("{timezone:?} is no time zone"),
        })?;
        Ok(Some(Self { id: id.to_owned(), currency: row.try_get("currency")?, timezone, calendar }))
    }

    /// Whether the settings are still those that were read, and stay so until the transaction ends. Who changes them
    /// touches all days that have rows *then*: rows of an older zone must not be committed afterwards.
    pub async fn is_current(&self, postgres: &mut PgConnection) -> Result<bool> {
        let same =
            sqlx::query_scalar("SELECT timezone = $2 AND currency = $3 FROM stores WHERE id = $1 FOR SHARE")
                .bind(&self.id)
                .bind(&self.timezone)
                .bind(&self.currency)
                .fetch_optional(postgres)
                .within()
                .await?;
        Ok(same.unwrap_or(false))
    }

    /// The rates into the store's currency that hold from one day to another.
    pub async fn rates(&self, postgres: &mut PgConnection, from: Date, to: Date) -> Result<Rates> {
        let rows = sqlx::query(
            "SELECT date::text AS date, currency, rate FROM exchange_rates
             WHERE base = $1 AND date BETWEEN $2::date AND $3::date",
        )
        .bind(&self.currency)
        .bind(shift(from, -RATE_AGE_MAX_DAYS).to_string())
        .bind(to.to_string())
        .fetch_all(postgres)
        .within()
        .await?;
        let mut rates = Vec::with_capacity(rows.len());
        for row in rows {
            let date: String = row.try_get("date")?;
            rates.push((parse_date(&date)?, row.try_get("currency")?, row.try_get::<Decimal, _>("rate")?));
        }
        Ok(Rates::new(&self.currency, rates))
    }
}

/// Consecutive days of a store that are computed together.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The store.
    pub store: Arc<Store>,
    /// The days.
    pub grid: Grid,
}

impl Chunk {
    /// The day of the chunk that holds an instant.
    pub fn date(&self, epoch_ms: i64) -> Option<Date> {
        (epoch_ms >= self.grid.lo()).then(|| self.grid.date(epoch_ms)).flatten()
    }

    /// A query of one of the texts with the store and the period as parameters.
    pub fn query(&self, warehouse: &Warehouse, name: &str) -> Query {
        period_query(warehouse, name, &self.store, &self.grid)
    }
}

/// A query with `store`, `lo`, `hi` and `bounds` as parameters.
pub fn period_query(warehouse: &Warehouse, name: &str, store: &Store, grid: &Grid) -> Query {
    warehouse
        .query(&text::assemble(name))
        .param("store", &store.id)
        .param("lo", grid.lo())
        .param("hi", grid.end)
        .param("bounds", &grid.starts)
}

/// Grids over the periods that hold the given days: consecutive periods together, at most `len_max` at a time.
pub fn grids(calendar: &Calendar, period: Period, days: &BTreeSet<Date>, len_max: usize) -> Vec<Grid> {
    let starts: BTreeSet<Date> = days.iter().map(|day| period.start(*day)).collect();
    let mut runs: Vec<(Date, Date, usize)> = Vec::new();
    for start in starts {
        match runs.last_mut() {
            Some((_, last, len)) if period.after(*last, 1) == start && *len < len_max => {
                *last = start;
                *len += 1;
            }
            _ => runs.push((start, start, 1)),
        }
    }
    runs.into_iter().map(|(first, last, _)| calendar.grid(period, first, last)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::civil::date;

    #[test]
    fn days_that_follow_each_other_go_together() {
        let calendar = Calendar::new("America/New_York").unwrap();
        let days = [date(2026, 10, 30), date(2026, 10, 31), date(2026, 11, 1), date(2026, 11, 5)];
        let days = BTreeSet::from(days);
        let lens = |period, max| -> Vec<usize> {
            grids(&calendar, period, &days, max).iter().map(|grid| grid.dates.len()).collect()
        };
        assert_eq!(lens(Period::Day, 7), [3, 1]);
        assert_eq!(lens(Period::Day, 2), [2, 1, 1]);
        assert_eq!(lens(Period::Week, 7), [2]);
        assert_eq!(lens(Period::Month, 1), [1, 1]);
    }
}
