//! Sessions that begin in a chunk of days: how far around the chunk events must be read, and what they come to.

use clickhouse::{Row, query::Query};
use millrace_schemas::limits::SESSION_LENGTH_MAX_MS;
use serde::Deserialize;

use super::scope::Chunk;
use crate::{
    clickhouse::{Warehouse, text},
    error::Result,
};

/// Visitors that one query is told to read further back for; beyond, all are.
const REACHING_MAX: u64 = 10_000;
/// Nobody clicks for a year without half an hour's pause.
const LOOKBACK_MAX_MS: i64 = 366 * SESSION_LENGTH_MAX_MS;

/// Since when events without a session id must be read, so that the session of each event of the chunk is known.
#[derive(Clone, Debug)]
pub struct Lookback {
    since: i64,
    /// Hashes of visitors.
    reaching: Vec<u64>,
    reaching_since: i64,
}

impl Lookback {
    /// Reads back a day, and further for those whose chain of events goes further.
    pub async fn find(warehouse: &Warehouse, chunk: &Chunk) -> Result<Self> {
        let lo = chunk.grid.lo();
        let mut since = lo - SESSION_LENGTH_MAX_MS;
        let mut reaching = reaching(warehouse, chunk, since, &[]).await?;
        while reaching.len() as u64 >= REACHING_MAX && lo - since < LOOKBACK_MAX_MS {
            since -= SESSION_LENGTH_MAX_MS;
            reaching = self::reaching(warehouse, chunk, since, &[]).await?;
        }
        let mut reaching_since = since;
        let mut further = reaching.clone();
        while !further.is_empty() && lo - reaching_since < LOOKBACK_MAX_MS {
            reaching_since = lo - 2 * (lo - reaching_since);
            further = self::reaching(warehouse, chunk, reaching_since, &further).await?;
        }
        if !reaching.is_empty() {
            tracing::debug!(
                store = chunk.store.id,
                visitors = reaching.len(),
                days = (lo - reaching_since) / SESSION_LENGTH_MAX_MS,
                "read further back for visitors without a pause"
            );
        }
        Ok(Self { since, reaching, reaching_since })
    }

    /// Adds itself to a query's parameters.
    pub fn param(&self, query: Query) -> Query {
        query
            .param("since", self.since)
            .param("reaching", &self.reaching)
            .param("reaching_since", self.reaching_since)
    }
}

async fn reaching(warehouse: &Warehouse, chunk: &Chunk, since: i64, among: &[u64]) -> Result<Vec<u64>> {
    let query = chunk
        .query(warehouse, text::reaching)
        .param("since", since)
        .param("reaching", among)
        .param("limit", REACHING_MAX);
    warehouse.rows(query).await
}

/// Sessions of a day: all of them, or those that entered on a product's page.
#[derive(Clone, Debug, Row, Deserialize)]
pub struct Sessions {
    /// Start of the day, epoch milliseconds.
    pub day: i64,
    /// The product; empty: all sessions.
    pub product_id: String,
    /// Sessions.
    pub sessions: u64,
    /// Of them, one page view and nothing else.
    pub bounces: u64,
    /// Of them, engaged.
    pub engaged: u64,
    /// Of them, with an order.
    pub converted: u64,
    /// Sum of their durations.
    pub length_sum_ms: i64,
}

/// The sessions that begin in the chunk.
pub async fn read(warehouse: &Warehouse, chunk: &Chunk, lookback: &Lookback) -> Result<Vec<Sessions>> {
    let last: Vec<i64> = warehouse.rows(chunk.query(warehouse, text::session_reach)).await?;
    let until = last.into_iter().max().unwrap_or(0).max(chunk.grid.end + SESSION_LENGTH_MAX_MS) + 1;
    let query = chunk.query(warehouse, text::sessions).param("until", until);
    warehouse.rows(lookback.param(query)).await
}
