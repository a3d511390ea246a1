//! Replacing a store's rows of some days: new ones inserted, changed ones updated, vanished ones deleted. Rows that are
//! as they were are not written, so a cycle that changes one product writes one row.

use std::collections::{BTreeMap, HashSet};

use jiff::civil::Date;
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgConnection, types::Json};

use crate::{error::Result, postgres::Answer as _};

/// Rows sent to Postgres in one statement: a `jsonb` holds 256 MiB, and one day of one store may have more.
const BATCH_ROWS: usize = 5_000;
/// Bytes of text in them, at most, but for a single row: Postgres holds a statement several times over.
const BATCH_TEXT_BYTES: usize = 8 << 20;

/// Bytes of a key's text that are kept; a B-tree's entry holds 2,704 of all columns together.
const KEY_BYTES_MAX: usize = 1_000;
/// Bytes of the hash that a key ends in which does not stay as it is.
const KEY_HASH_BYTES: usize = 12;

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
    /// A value that no two rows of a key's first columns share: before it moves to another row, the row that has it goes.
    pub unique: Option<&'static str>,
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

    /// What tells rows apart that may stay from those that must go.
    fn identity(&self) -> impl Iterator<Item = &'static str> {
        self.key().chain(self.unique)
    }

    fn identity_of(&self, row: &Value) -> String {
        Value::Array(self.identity().map(|column| row[column].clone()).collect()).to_string()
    }

    /// `$1` the store, `$2` the days, `$3`… the fixed columns.
    fn present_sql(&self) -> String {
        let (name, date) = (self.name, self.date);
        let columns: Vec<_> = self.identity().map(|column| format!("'{column}', {column}")).collect();
        let fixed: String =
            (3..).zip(self.fixed).map(|(at, column)| format!(" AND {column} = ${at}")).collect();
        format!(
            "SELECT jsonb_build_object({}) FROM {name} WHERE store_id = $1 AND {date} = ANY ($2::date[]){fixed}",
            columns.join(", ")
        )
    }

    fn delete_sql(&self) -> String {
        let name = self.name;
        let same: Vec<_> = self
            .key()
            .map(|column| match self.null_key {
                Some(null_key) if null_key == column => {
                    format!("{name}.{column} IS NOT DISTINCT FROM gone.{column}")
                }
                _ => format!("{name}.{column} = gone.{column}"),
            })
            .collect();
        format!(
            "DELETE FROM {name} USING jsonb_populate_recordset(NULL::{name}, $1) AS gone WHERE {}",
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
        let mut lines: Vec<Value> = Vec::new();
        for date in dates {
            let day = rows.by_date.remove(date).unwrap_or_default();
            lines.extend(day.into_iter().map(|row| self.complete(row, store_id, fixed, *date)));
        }
        let kept: HashSet<String> = lines.iter().map(|row| self.identity_of(row)).collect();
        let present = self.present_sql();
        let days: Vec<String> = dates.iter().map(Date::to_string).collect();
        let mut query = sqlx::query_scalar(AssertSqlSafe(present)).bind(store_id).bind(days);
        for value in fixed {
            query = query.bind(*value);
        }
        let mut stale: Vec<Value> = query.fetch_all(&mut *postgres).within().await?;
        stale.retain(|row| !kept.contains(&self.identity_of(row)));
        for (sql, rows) in [(self.delete_sql(), stale), (self.upsert_sql(), lines)] {
            for batch in batches(&rows) {
                sqlx::query(AssertSqlSafe(sql.as_str()))
                    .bind(Json(batch))
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

/// Rows in batches that a statement holds.
fn batches(mut rows: &[Value]) -> impl Iterator<Item = &[Value]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = rows.iter().take(BATCH_ROWS).take_while(|row| {
            bytes += text_bytes(row);
            bytes <= BATCH_TEXT_BYTES
        });
        let (batch, rest) = rows.split_at(fitting.count().max(1).min(rows.len()));
        rows = rest;
        (!batch.is_empty()).then_some(batch)
    })
}

fn text_bytes(row: &Value) -> usize {
    let columns = row.as_object().into_iter().flat_map(serde_json::Map::values);
    columns.filter_map(Value::as_str).map(str::len).sum()
}

/// Makes a sender's text one that Postgres takes: it keeps no NUL, and a key only where it fits into an index. A key that
/// does not stay as it is ends in its hash, and so does one that only looks as if it did: each differs from every other.
/// Nobody who can send an event must be able to stop a store's rollups.
fn fit(text: &mut String, is_key: bool) {
    let stays = !text.contains('\0') && !(is_key && (text.len() > KEY_BYTES_MAX || is_fitted(text)));
    if stays {
        return;
    }
    let hash = crate::stores::hash(text);
    *text = text.replace('\0', "\u{fffd}");
    if is_key {
        text.truncate(text.floor_char_boundary(KEY_BYTES_MAX));
        text.push('…');
        text.push_str(&hex::encode(&hash[..KEY_HASH_BYTES]));
    }
}

/// Whether a key looks as if it ended in its hash.
fn is_fitted(key: &str) -> bool {
    key.rsplit_once('…').is_some_and(|(_, hash)| {
        hash.len() == 2 * KEY_HASH_BYTES && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
    })
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
        unique: None,
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
        unique: None,
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
        unique: None,
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
        unique: None,
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
            "unexplained_amount_cents",
            "cancelled_orders",
        ],
    };
    /// `funnel_analytics`.
    pub const FUNNELS: Table = Table {
        name: "funnel_analytics",
        date: "date",
        fixed: &["funnel_name"],
        key: &["step_order"],
        null_key: None,
        unique: Some("step_name"),
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
        unique: None,
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
        unique: None,
        values: &["clicks", "rage_clicks", "dead_clicks"],
    };
    /// `heatmap_elements`.
    pub const ELEMENTS: Table = Table {
        name: "heatmap_elements",
        date: "date",
        fixed: &[],
        key: &["url", "viewport_class", "element_selector"],
        null_key: None,
        unique: None,
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
        // Nobody can name a key what another's is made.
        assert_ne!(fitted(&fitted("a\0")), fitted("a\0"));
        let mut value = "a\0b".to_owned();
        fit(&mut value, false);
        assert_eq!(value, "a\u{fffd}b");
    }
}
