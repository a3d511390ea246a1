//! Which other days rows decide, beside their own.
//!
//! What these queries need grows with what the senders' ids tie together: a visitor with millions of events is one list.
//! So where they need more than they may have, they are asked about fewer stores at a time, until it is known whose rows
//! those are; such a store's arrivals then touch every day that it has, which is always enough.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use clickhouse::{Row, query::Query};
use serde::Deserialize;

use super::lanes::{Discovery, SLICE_ROWS_MIN, Source};
use crate::{
    clickhouse::{Warehouse, text},
    error::Result,
};

const QUARTER_MS: i64 = 900_000;
const DAY_MS: i64 = 86_400_000;

/// Quarters of an hour by store.
#[derive(Default)]
pub(super) struct Touched {
    pub(super) quarters: BTreeMap<String, BTreeSet<i64>>,
    pub(super) received_ms: HashMap<String, i64>,
    /// Reports of orders among what has arrived.
    pub(super) order_reports: BTreeMap<String, u64>,
    /// Stores of which every day is touched.
    pub(super) whole_stores: BTreeSet<String>,
}

impl Touched {
    fn add(&mut self, store: &str, quarter: i64) {
        match self.quarters.get_mut(store) {
            Some(quarters) => {
                quarters.insert(quarter);
            }
            None => {
                self.quarters.insert(store.to_owned(), BTreeSet::from([quarter]));
            }
        }
    }
}

#[derive(Row, Deserialize)]
struct Arrived {
    store: String,
    quarter: i64,
    received_ms: i64,
    rows: u64,
    order_reports: u64,
    showings: u64,
}

#[derive(Row, Deserialize)]
struct Copies {
    store: String,
    quarter: i64,
    /// Those that have not arrived now.
    others: u64,
}

#[derive(Row, Deserialize)]
struct Related {
    store: String,
    quarter: i64,
}

/// What has arrived in a store.
#[derive(Clone, Copy, Debug)]
struct Arrivals {
    rows: u64,
    orders: u64,
    showings: u64,
    /// From the first quarter's beginning to the last one's end.
    first: i64,
    last: i64,
}

impl Arrivals {
    fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            orders: self.orders + other.orders,
            showings: self.showings + other.showings,
            first: self.first.min(other.first),
            last: self.last.max(other.last),
        }
    }
}

/// Touches what rows decide, whether they come or go: it is the difference that counts.
pub(super) async fn touch(
    warehouse: &Warehouse,
    source: &Source,
    rows: &str,
    ask: impl Fn(&str, &str) -> Query,
    touched: &mut Touched,
    discovery: &mut Discovery,
) -> Result<()> {
    let arrived = touch_own(warehouse, source, rows, &ask, touched).await?;
    let (apart, together) = arrived.keys().map(String::as_str).partition(|store| discovery.is_apart(store));
    let mut groups: Vec<Vec<&str>> = vec![together];
    let mut whole: Vec<&str> = apart;
    while let Some(group) = groups.pop() {
        let error = match relate(warehouse, source, rows, &ask, &arrived, &group, touched).await {
            Ok(()) => continue,
            // Memory that others have taken is asked for again; who has waited for it in vain may need too much of it.
            Err(error) if error.is_of_size() => error,
            Err(error) => return Err(error),
        };
        match group[..] {
            _ if discovery.is_exact() => return Err(error),
            // With fewer rows it may be possible.
            [store] if arrived[store].rows > SLICE_ROWS_MIN && discovery.can_halve() => return Err(error),
            [store] => {
                tracing::warn!(store, %error, "which days the arrivals decide is not known; all of its days are touched");
                discovery.set_apart(store);
                whole.push(store);
            }
            _ => {
                let (one, other) = group.split_at(group.len() / 2);
                groups.extend([one.to_vec(), other.to_vec()]);
            }
        }
    }
    touched.whole_stores.extend(whole.into_iter().map(str::to_owned));
    Ok(())
}

/// The rows' own days, and what there is of each store.
async fn touch_own(
    warehouse: &Warehouse,
    source: &Source,
    rows: &str,
    ask: impl Fn(&str, &str) -> Query,
    touched: &mut Touched,
) -> Result<BTreeMap<String, Arrivals>> {
    let own: Vec<Arrived> = warehouse.rows(ask(source.days, rows)).await?;
    let mut arrived: BTreeMap<String, Arrivals> = BTreeMap::new();
    for row in own {
        touched.add(&row.store, row.quarter);
        let received = touched.received_ms.entry(row.store.clone()).or_default();
        *received = row.received_ms.max(*received);
        if row.order_reports > 0 {
            *touched.order_reports.entry(row.store.clone()).or_default() += row.order_reports;
        }
        let arrivals = Arrivals {
            rows: row.rows,
            orders: row.order_reports,
            showings: row.showings,
            first: row.quarter,
            last: row.quarter + QUARTER_MS,
        };
        arrived.entry(row.store).and_modify(|known| *known = known.and(arrivals)).or_insert(arrivals);
    }
    Ok(arrived)
}

/// The days that the rows of these stores decide elsewhere.
async fn relate(
    warehouse: &Warehouse,
    source: &Source,
    rows: &str,
    ask: impl Fn(&str, &str) -> Query,
    arrived: &BTreeMap<String, Arrivals>,
    stores: &[&str],
    touched: &mut Touched,
) -> Result<()> {
    let all = stores.iter().filter_map(|store| arrived.get(*store)).copied().reduce(Arrivals::and);
    let Some(all) = all else { return Ok(()) };
    let (mut first, mut last, mut others) = (all.first, all.last, 0);
    for row in warehouse.rows::<Copies>(ask(source.copies, rows).param("stores", stores)).await? {
        touched.add(&row.store, row.quarter);
        first = first.min(row.quarter);
        last = last.max(row.quarter + QUARTER_MS);
        others += row.others;
    }
    let with_copies;
    let rows = if others > 0 {
        let key = source.key;
        with_copies = format!(
            "({key}) IN (SELECT {key} FROM {} WHERE store_id IN {{stores:Array(String)}} AND ({rows}))",
            source.table
        );
        &with_copies
    } else {
        rows
    };
    let mut wanted = Vec::new();
    if all.orders > 0 {
        wanted.push(text::arrivals_orders);
    }
    if all.showings > 0 || others > 0 {
        wanted.push(text::arrivals_showings);
    }
    let (arrived_first, arrived_last) = (first, last);
    for name in wanted {
        let query =
            ask(name, rows).param("stores", stores).param("first", arrived_first).param("last", arrived_last);
        for row in warehouse.rows::<Related>(query).await? {
            touched.add(&row.store, row.quarter);
            first = first.min(row.quarter);
            last = last.max(row.quarter + QUARTER_MS);
        }
    }
    if !source.has_sessions {
        return Ok(());
    }
    for name in [text::arrivals_sessions, text::arrivals_chains] {
        let query = ask(name, rows)
            .param("stores", stores)
            .param("first", first)
            .param("last", last)
            .param("since", first - DAY_MS);
        for row in warehouse.rows::<Related>(query).await? {
            touched.add(&row.store, row.quarter);
        }
    }
    Ok(())
}
