//! Exchange rates. They are settings of the whole instance, so `millrace demo` only reads them; tests bring their own.

use jiff::{ToSpan as _, civil::Date};
use millrace_recount::Rates;
use rust_decimal::Decimal;
use sqlx::{PgPool, Row as _};

use super::Scenario;

/// Rates of the second currency, another one each day, and none on every fourth.
pub fn example_rates(scenario: &Scenario) -> Rates {
    let mut rates = Rates::default();
    for number in (0..i64::from(scenario.days)).filter(|number| number % 4 != 2) {
        let day = scenario.first_day.saturating_add(number.days());
        rates.by_day.insert((day, scenario.second_currency.clone()), Decimal::new(10_837 + 113 * number, 4));
    }
    rates
}

/// Writes rates into `exchange_rates`.
pub async fn insert_rates(pool: &PgPool, base: &str, rates: &Rates) -> Result<(), sqlx::Error> {
    for ((day, currency), rate) in &rates.by_day {
        sqlx::query(
            "INSERT INTO exchange_rates (date, currency, base, rate) VALUES ($1::text::date, $2, $3, $4)
             ON CONFLICT (date, currency, base) DO UPDATE SET rate = excluded.rate",
        )
        .bind(day.to_string())
        .bind(currency)
        .bind(base)
        .bind(rate)
        .execute(pool)
        .await?;
    }
    Ok(())
}

/// The rates into a currency that Postgres holds.
pub async fn read_rates(pool: &PgPool, base: &str) -> anyhow::Result<Rates> {
    let rows = sqlx::query("SELECT date::text, currency, rate FROM exchange_rates WHERE base = $1")
        .bind(base)
        .fetch_all(pool)
        .await?;
    let mut rates = Rates::default();
    for row in rows {
        let day: Date = row.try_get::<String, _>(0)?.parse()?;
        rates.by_day.insert((day, row.try_get(1)?), row.try_get(2)?);
    }
    Ok(rates)
}
