//! Replacing a store's rows of some days: new ones inserted, changed ones updated, vanished ones deleted. Rows that are
//! as they were are not written, so a cycle that changes one product writes one row.

use std::collections::BTreeMap;

use jiff::civil::Date;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::{error::Result, postgres::Answer as _};

/// Rows sent to Postgres in one statement, unless one day alone has more.
const BATCH_ROWS: usize = 5_000;

/// Bytes of a key's text that are kept; a B-tree's entry holds 2,704 of all columns together.
const KEY_BYTES_MAX: usize = 1_000;

/// Rows by day; each an object of columns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    by_date: BTreeMap<Date, Vec<Value>>,
}

impl Rows {
    /// Adds a row of a day.
    pub fn push(&mut self, date: Date, row: Value) {
        self.by_date.entry(date).or_default().push(row);
    }
}

/// A table of rollups. Columns that every table has (`store_id`, `created_at`, `updated_at`) are not listed.
#[derive(Clone, Copy, Debug)]
pub struct Table {
    /// Its name.
    pub name: &'static str,
    /// The column that holds the day.
    pub date: &'static str,
    /// Columns that have one value in everything that is replaced at once.
    pub fixed: &'static [&'static str],
    /// The rest of the unique key.
    pub key: &'static [&'static str],
    /// A numeric column of the key that may be null.
    pub null_key: Option<&'static str>,
    /// All other columns.
    pub values: &'static [&'static str],
}

impl Table {
    fn key(&self) -> impl Iterator<Item = &'static str> {
        ["store_id", self.date]
            .into_iter()
            .chain(self.fixed.iter().copied())
            .chain(self.key.iter().copied())
            .chain(self.null_key)
    }

    fn upsert_sql(&self) -> String {
        let key: Vec<_> = self.key().collect();
        let (name, columns, key) = (self.name, [&key, self.values].concat().join(", "), key.join(", "));
        let list = |prefix: &str| {
            self.values.iter().map(|column| format!("{prefix}.{column}")).collect::<Vec<_>>().join(", ")
        };
        let sets =
            self.values.iter().map(|column| format!("{column} = EXCLUDED.{column}")).collect::<Vec<_>>();
        format!(
            "INSERT INTO {name} ({columns}) SELECT {columns} FROM jsonb_populate_recordset(NULL::{name}, $1)
             ON CONFLICT ({key}) DO UPDATE SET {}, updated_at = now()
             WHERE ({}) IS DISTINCT FROM ({})",
            sets.join(", "),
            list(name),
            list("EXCLUDED"),
        )
    }

    /// `$1` the store, `$2` the days, `$3` the rows that stay, `$4`… the fixed columns.
    fn delete_sql(&self) -> String {
        let (name, date) = (self.name, self.date);
        let mut same = vec![format!("kept.{date} = {name}.{date}")];
        same.extend(self.key.iter().map(|column| format!("kept.{column} = {name}.{column}")));
        same.extend(
            self.null_key
                .map(|column| format!("coalesce(kept.{column}, -1) = coalesce({name}.{column}, -1)")),
        );
        let fixed: String = self
            .fixed
            .iter()
            .enumerate()
            .map(|(index, column)| format!(" AND {name}.{column} = ${}", index + 4))
            .collect();
        format!(
            "DELETE FROM {name} WHERE {name}.store_id = $1 AND {name}.{date} = ANY ($2::date[]){fixed}
             AND NOT EXISTS (SELECT 1 FROM jsonb_populate_recordset(NULL::{name}, $3) AS kept WHERE {})",
            same.join(" AND ")
        )
    }

    /// Makes the table hold exactly `rows` for these days of the store (and these values of the fixed columns).
    pub async fn replace(
        &self,
        postgres: &mut PgConnection,
        store_id: &str,
        fixed: &[&str],
        dates: &[Date],
        mut rows: Rows,
    ) -> Result<()> {
        let (upsert, delete) = (self.upsert_sql(), self.delete_sql());
        let mut rest = dates;
        while !rest.is_empty() {
            let mut batch: Vec<Value> = Vec::new();
            let mut taken = 0;
            for date in rest {
                let day = rows.by_date.remove(date).unwrap_or_default();
                batch.extend(day.into_iter().map(|row| self.complete(row, store_id, fixed, *date)));
                taken += 1;
                if batch.len() >= BATCH_ROWS {
                    break;
                }
            }
            let (now, later) = rest.split_at(taken);
            rest = later;
            let days: Vec<String> = now.iter().map(Date::to_string).collect();
            let batch = Value::Array(batch);
            let mut stale =
                sqlx::query(AssertSqlSafe(delete.as_str())).bind(store_id).bind(days).bind(&batch);
            for value in fixed {
                stale = stale.bind(value);
            }
            stale.execute(&mut *postgres).within().await?;
            if batch.as_array().is_some_and(|rows| !rows.is_empty()) {
                sqlx::query(AssertSqlSafe(upsert.as_str()))
                    .bind(&batch)
                    .execute(&mut *postgres)
                    .within()
                    .await?;
            }
        }
        Ok(())
    }

    fn complete(&self, mut row: Value, store_id: &str, fixed: &[&str], date: Date) -> Value {
        row["store_id"] = store_id.into();
        row[self.date] = date.to_string().into();
        for (column, value) in self.fixed.iter().zip(fixed) {
            row[*column] = (*value).into();
        }
        if let Value::Object(columns) = &mut row {
            for (column, value) in columns {
                if let Value::String(text) = value {
                    fit(text, self.key.contains(&column.as_str()));
                }
            }
        }
        row
    }
}

/// Makes a sender's text one that Postgres takes: it keeps no NUL, and a key only where it fits into an index. A key that
/// does not stay as it is ends in its hash, so that it still differs from every other. Nobody who can send an event must
/// be able to stop a store's rollups.
fn fit(text: &mut String, is_key: bool) {
    if !text.contains('\0') && (!is_key || text.len() <= KEY_BYTES_MAX) {
        return;
    }
    let hash = crate::stores::hash(text);
    *text = text.replace('\0', "\u{fffd}");
    if is_key {
        text.truncate(text.floor_char_boundary(KEY_BYTES_MAX));
        text.push('…');
        text.push_str(&hex::encode(&hash[..12]));
    }
}

/// The tables that rollups replace.
pub mod table {
    use super::Table;

    /// All of them.
    pub const ALL: [Table; 8] =
        [SUMMARY, SUMMARY_DAYS, PRODUCTS, REVENUE, FUNNELS, COHORTS, HEATMAP, ELEMENTS];
    /// `analytics_summary`.
    pub const SUMMARY: Table = Table {
        name: "analytics_summary",
        date: "date",
        fixed: &["period_type"],
        key: &[],
        null_key: None,
        values: &[
            "total_sessions",
            "unique_visitors",
            "page_views",
            "bounce_rate",
            "engagement_rate",
            "avg_session_duration",
            "total_orders",
            "total_revenue",
            "avg_order_value",
            "currency",
            "unconverted",
            "conversion_rate",
            "bot_events",
        ],
    };
    /// `summary_days`.
    pub const SUMMARY_DAYS: Table = Table {
        name: "summary_days",
        date: "date",
        fixed: &[],
        key: &[],
        null_key: None,
        values: &[
            "sessions",
            "bounces",
            "engaged",
            "converted",
            "length_ms",
            "orders",
            "orders_converted",
            "revenue_cents",
            "unconverted",
        ],
    };
    /// `product_analytics`, but for `stock_turns`, which other days' rows decide too.
    pub const PRODUCTS: Table = Table {
        name: "product_analytics",
        date: "date",
        fixed: &[],
        key: &["product_id"],
        null_key: None,
        values: &[
            "views_count",
            "unique_views_count",
            "add_to_cart_count",
            "cart_removal_count",
            "checkout_count",
            "purchase_count",
            "units_sold",
            "revenue_cents",
            "currency",
            "unconverted",
            "average_time_on_page",
            "bounce_rate",
            "conversion_rate",
            "stock_level",
            "average_rating",
            "review_count",
        ],
    };
    /// `revenue_analytics`.
    pub const REVENUE: Table = Table {
        name: "revenue_analytics",
        date: "date",
        fixed: &[],
        key: &["currency"],
        null_key: None,
        values: &[
            "gross_revenue_cents",
            "net_revenue_cents",
            "orders_count",
            "average_order_value_cents",
            "returns_count",
            "returns_amount_cents",
            "discounts_amount_cents",
            "shipping_amount_cents",
            "tax_amount_cents",
            "refunds_amount_cents",
        ],
    };
    /// `funnel_analytics`.
    pub const FUNNELS: Table = Table {
        name: "funnel_analytics",
        date: "date",
        fixed: &["funnel_name"],
        key: &["step_order"],
        null_key: None,
        values: &[
            "step_name",
            "users_entered",
            "users_completed",
            "completion_rate",
            "average_time_to_complete",
            "is_open",
        ],
    };
    /// `cohort_analytics`.
    pub const COHORTS: Table = Table {
        name: "cohort_analytics",
        date: "cohort_date",
        fixed: &["period_type"],
        key: &["period_number"],
        null_key: None,
        values: &[
            "user_count",
            "active_user_count",
            "retention_rate",
            "unbounded_user_count",
            "unbounded_retention_rate",
            "revenue_cents",
            "currency",
            "unconverted",
            "average_revenue_per_user",
        ],
    };
    /// `heatmap_data`.
    pub const HEATMAP: Table = Table {
        name: "heatmap_data",
        date: "date",
        fixed: &[],
        key: &["url", "viewport_class", "click_y"],
        null_key: Some("click_x_percent"),
        values: &["clicks", "rage_clicks", "dead_clicks"],
    };
    /// `heatmap_elements`.
    pub const ELEMENTS: Table = Table {
        name: "heatmap_elements",
        date: "date",
        fixed: &[],
        key: &["url", "viewport_class", "element_selector"],
        null_key: None,
        values: &["element_text", "clicks", "rage_clicks", "dead_clicks"],
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_fit_and_still_differ() {
        let fitted = |text: &str| {
            let mut text = text.to_owned();
            fit(&mut text, true);
            text
        };
        let long = "é".repeat(4_000);
        assert_eq!(fitted("https://shop.example/é"), "https://shop.example/é");
        assert!(fitted(&long).len() < 1_100 && fitted(&long) != fitted(&format!("{long}x")));
        assert!(fitted("a\0") != fitted("a\u{fffd}") && !fitted("a\0").contains('\0'));
        let mut value = "a\0b".to_owned();
        fit(&mut value, false);
        assert_eq!(value, "a\u{fffd}b");
    }
}
