//! The tables `orders` and `refunds`: what [`super::order`] makes of all reports of each order.
//!
//! When reports arrive, or go, their orders are made anew from all that there is, and written under a new version; a row
//! that no longer is (the order was placed on another day, a refund less was taken) is written as deleted. Who does this holds
//! [`crate::locks::Work::Arrivals`], so versions are written in their order; one that comes late, from an instance that
//! was frozen and has lost the lock, is smaller and counts for nothing.
//!
//! The days that this changes are those of the reports, whatever stood in the tables before. So the same may be done twice,
//! and a crash at any point costs nothing: rows come first, then the marks of the days together with how far arrivals were
//! looked at.
//!
//! A store whose settings have changed is *stale* (`stale_orders`): all of its orders are made anew, a part at a time, and
//! nothing of it is rolled up until that is done.

mod read;
mod rows;

use std::collections::HashSet;

use clickhouse::query::Query;
use millrace_schemas::entity::{ORDERS, REFUNDS};
use sqlx::{PgConnection, PgPool, Row as _};

use self::{
    read::{Kept, Terms, reports},
    rows::{OrderPlace, OrderRow, RefundPlace, RefundRow},
};
use super::order::Order;
use crate::{
    backfill::touch_everything,
    clickhouse::{Warehouse, is_unknown_table, text},
    error::{Error, Result},
    locks::Work,
    postgres::{Answer as _, begin, beside},
    rollup::scope::Store,
};

/// Orders that are held in memory at once, about.
const PART_ORDERS: u64 = 5_000;
/// Reports of one order that count: a server's, then the earliest.
const REPORTS_MAX: u64 = 1_000;

/// Which orders are made anew: those that some rows of `events` tell of.
pub struct Scope<'a> {
    /// Stores whose rows they are.
    pub stores: Vec<&'a str>,
    /// A condition on rows of `events`.
    pub rows: &'a str,
    /// Gives a query the parameters of that condition.
    pub bind: &'a (dyn Fn(Query) -> Query + Sync),
    /// The condition is true for all rows of the stores: then orders of which nothing is left are found, too.
    pub are_all: bool,
    /// What is about to go.
    pub going: Option<&'a Going>,
}

/// What is about to be erased of a store.
#[derive(Debug)]
pub struct Going {
    /// A condition on rows of `events`: they tell nothing any more.
    pub reports: String,
    /// A condition on rows of `orders` that are made anew, too, and go if no report of them is left.
    pub orders: String,
}

/// One of so many parts of the orders, by a hash of their ids.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    parts: u64,
    part: u64,
}

/// Orders as they are now, to be written.
#[derive(Debug, Default)]
pub struct Made {
    orders: Vec<OrderRow>,
    refunds: Vec<RefundRow>,
}

impl Part {
    /// So many parts as orders need of which there are about so many.
    pub fn of(orders: u64) -> impl Iterator<Item = Self> {
        let parts = parts_of(orders);
        (0..parts).map(move |part| Self { parts, part })
    }
}

fn parts_of(orders: u64) -> u64 {
    orders.div_ceil(PART_ORDERS).max(1)
}

impl Scope<'_> {
    fn query(&self, warehouse: &Warehouse, name: &str, part: Part) -> Query {
        let others = self.going.map(|going| {
            let Going { orders, .. } = going;
            format!("UNION ALL SELECT store_id, order_id FROM orders FINAL WHERE {orders}")
        });
        let given = [
            (text::lane_rows, self.rows),
            ("other_orders", others.as_deref().unwrap_or("")),
            ("going_rows", self.going.map_or("false", |going| &going.reports)),
        ];
        (self.bind)(warehouse.long_query(&text::assemble_with(name, &given)))
            .param("stores", &self.stores)
            .param("parts", part.parts)
            .param("part", part.part)
            .param("are_all", u8::from(self.are_all))
            .param("reports_max", REPORTS_MAX)
    }
}

/// Makes the orders of a scope that have arrived anew, and writes them.
pub async fn refresh(
    warehouse: &Warehouse,
    pool: &PgPool,
    postgres: &mut PgConnection,
    scope: &Scope<'_>,
    parts: impl Iterator<Item = Part>,
) -> Result<()> {
    for part in parts {
        let made = make(warehouse, postgres, scope, part).await?;
        made.write(warehouse, pool, postgres).await?;
    }
    Ok(())
}

/// Makes a part of the orders of a scope.
pub async fn make(
    warehouse: &Warehouse,
    postgres: &mut PgConnection,
    scope: &Scope<'_>,
    part: Part,
) -> Result<Made> {
    let query = |name| scope.query(warehouse, name, part);
    let (told, was_orders, was_refunds) = beside(postgres, async {
        Ok((
            reports(warehouse, query(text::order_reports)).await?,
            warehouse.rows::<OrderPlace>(query(text::order_keys)).await?,
            warehouse.rows::<RefundPlace>(query(text::refund_keys)).await?,
        ))
    })
    .await?;
    let terms = Terms::read(postgres, &scope.stores, &told).await?;
    let mut kept = Kept::default();
    if scope.going.is_none() {
        let places = was_orders.iter().map(|row| (&*row.store, row.at_ms));
        kept = terms
            .kept(postgres, places.chain(was_refunds.iter().map(|row| (&*row.store, row.at_ms))))
            .await?;
    }
    let mut made = Made::default();
    for ((store, order_id), reports) in &told {
        if let Some(order) = terms.order(store, reports) {
            made.add(store, order_id, &order);
        }
    }
    // Reports of old orders end their term, and the orders stay; what is erased does not.
    let stays =
        |store: &str, placed_at: i64| terms.day(store, placed_at).is_some_and(|day| kept.contains(&day));
    made.add_gone(
        was_orders.into_iter().filter(|row| !stays(&row.store, row.at_ms)).map(OrderRow::deleted),
        was_refunds.into_iter().filter(|row| !stays(&row.store, row.at_ms)).map(RefundRow::deleted),
    );
    Ok(made)
}

impl Made {
    fn add(&mut self, store: &str, order_id: &str, order: &Order) {
        self.orders.push(OrderRow::new(store, order_id, order));
        let refunds = (1..).zip(&order.taken);
        self.refunds
            .extend(refunds.map(|(number, taken)| RefundRow::new(store, order_id, number, order, taken)));
    }

    /// Those that stood there and are no more.
    fn add_gone(&mut self, orders: impl Iterator<Item = OrderRow>, refunds: impl Iterator<Item = RefundRow>) {
        let here: HashSet<_> = self.orders.iter().map(OrderRow::key).collect();
        let gone: Vec<OrderRow> = orders.filter(|row| !here.contains(&row.key())).collect();
        self.orders.extend(gone);
        let here: HashSet<_> = self.refunds.iter().map(RefundRow::key).collect();
        let gone: Vec<RefundRow> = refunds.filter(|row| !here.contains(&row.key())).collect();
        self.refunds.extend(gone);
    }

    /// Leaves out those that stood there and are no more: whoever takes the rows themselves away leaves no sign of them.
    pub fn forget_gone(&mut self) {
        self.orders.retain(|row| !row.is_deleted());
        self.refunds.retain(|row| !row.is_deleted());
    }

    /// Whether there is nothing to be written.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.refunds.is_empty()
    }

    /// Ids of the orders.
    pub fn order_ids(&self) -> impl Iterator<Item = &str> {
        self.orders.iter().map(OrderRow::order_id)
    }

    /// Writes them under a version of their own.
    pub async fn write(
        mut self,
        warehouse: &Warehouse,
        pool: &PgPool,
        postgres: &mut PgConnection,
    ) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let version = next_version(pool).await?;
        self.orders.iter_mut().for_each(|row| row.set_version(version));
        self.refunds.iter_mut().for_each(|row| row.set_version(version));
        beside(postgres, async {
            warehouse.insert(ORDERS.name, &self.orders).await?;
            warehouse.insert(REFUNDS.name, &self.refunds).await
        })
        .await
    }
}

/// A version that is greater than all before, also where Postgres was restored from a backup. It is committed at once: no other
/// is given the same, whatever becomes of this one.
async fn next_version(pool: &PgPool) -> Result<u64> {
    let version: i64 = sqlx::query_scalar(
        "UPDATE entity_versions
         SET version = greatest(version, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint) + 1
         RETURNING version",
    )
    .fetch_one(pool)
    .within()
    .await?;
    Ok(version.cast_unsigned())
}

/// Makes a part of the orders of a stale store anew. `false`: no store is stale, or others are at work.
pub async fn refresh_stale(warehouse: &Warehouse, pool: &PgPool) -> Result<bool> {
    let mut transaction = begin(pool).within().await?;
    if !Work::Arrivals.try_take(&mut transaction).await? {
        return Ok(false);
    }
    let stale = sqlx::query(
        "SELECT store_id, done_parts, parts FROM stale_orders
         WHERE retry_at IS NULL OR retry_at <= clock_timestamp()
         ORDER BY parts IS NULL, since LIMIT 1 FOR UPDATE SKIP LOCKED",
    )
    .fetch_optional(&mut *transaction)
    .within()
    .await?;
    let Some(row) = stale else { return Ok(false) };
    let store_id: String = row.try_get("store_id")?;
    let done: i32 = row.try_get("done_parts")?;
    let parts = match row.try_get::<Option<i32>, _>("parts")? {
        Some(parts) => i64::from(parts).cast_unsigned(),
        None => parts_of(beside(&mut transaction, count(warehouse, &store_id)).await?),
    };
    let part = i64::from(done).cast_unsigned();
    let scope =
        Scope { stores: vec![&store_id], rows: "true", bind: &|query| query, are_all: true, going: None };
    let refreshed = refresh(warehouse, pool, &mut transaction, &scope, std::iter::once(Part { parts, part }));
    match refreshed.await {
        Err(error) if error.is_of_size() => {
            tracing::warn!(store = store_id, %error, "orders needed too much at once; trying again later");
            step_aside(&mut transaction, &store_id).await?;
            transaction.commit().within().await?;
            return Ok(true);
        }
        refreshed => refreshed?,
    }
    if part + 1 < parts {
        note_progress(&mut transaction, &store_id, done + 1, parts).await?;
    } else {
        sqlx::query("DELETE FROM stale_orders WHERE store_id = $1")
            .bind(&store_id)
            .execute(&mut *transaction)
            .within()
            .await?;
        match Store::read(&mut transaction, &store_id).await {
            Ok(Some(store)) => drop(touch_everything(warehouse, &mut transaction, &store).await?),
            // Its zone is none: its arrivals are not rolled up either, which is said there.
            Ok(None) | Err(Error::Store { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    transaction.commit().within().await?;
    Ok(true)
}

/// Others come first for a while.
async fn step_aside(postgres: &mut PgConnection, store_id: &str) -> Result<()> {
    sqlx::query(
        "UPDATE stale_orders SET retry_at = clock_timestamp() + interval '5 minutes' WHERE store_id = $1",
    )
    .bind(store_id)
    .execute(postgres)
    .within()
    .await?;
    Ok(())
}

async fn count(warehouse: &Warehouse, store_id: &str) -> Result<u64> {
    let query = warehouse.query(&text::assemble(text::order_count)).param("store", store_id);
    Ok(warehouse.rows::<u64>(query).await?.first().copied().unwrap_or(0))
}

async fn note_progress(postgres: &mut PgConnection, store_id: &str, done: i32, parts: u64) -> Result<()> {
    sqlx::query("UPDATE stale_orders SET done_parts = $2, parts = $3 WHERE store_id = $1")
        .bind(store_id)
        .bind(done)
        .bind(i32::try_from(parts).unwrap_or(i32::MAX))
        .execute(postgres)
        .within()
        .await?;
    Ok(())
}

/// Has all orders of these stores made anew.
pub async fn make_stale(postgres: &mut PgConnection, store_ids: &[&str]) -> Result<()> {
    sqlx::query(
        "INSERT INTO stale_orders (store_id) SELECT id FROM stores WHERE id = ANY ($1)
         ON CONFLICT (store_id) DO UPDATE SET since = now(), done_parts = 0, parts = NULL",
    )
    .bind(store_ids)
    .execute(postgres)
    .within()
    .await?;
    Ok(())
}

/// The same of stores in which one of these currencies was asked back for an order in another: rates decide how much that is.
pub async fn make_stale_of_refunds(
    warehouse: &Warehouse,
    postgres: &mut PgConnection,
    currencies: &[&str],
) -> Result<()> {
    let query = warehouse.query(&text::assemble(text::foreign_refunds)).param("currencies", currencies);
    let stores: Vec<String> = match beside(postgres, warehouse.rows(query)).await {
        Err(error) if is_unknown_table(&error) => Vec::new(),
        stores => stores?,
    };
    let stores: Vec<&str> = stores.iter().map(String::as_str).collect();
    make_stale(postgres, &stores).await
}

/// Whether the store's orders wait to be made anew.
pub async fn is_stale(postgres: &mut PgConnection, store_id: &str) -> Result<bool> {
    let is_stale = sqlx::query_scalar("SELECT EXISTS (SELECT FROM stale_orders WHERE store_id = $1)")
        .bind(store_id)
        .fetch_one(postgres)
        .within()
        .await?;
    Ok(is_stale)
}
