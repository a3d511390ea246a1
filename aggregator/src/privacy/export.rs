//! What is known of a visitor or a user: every row that an erasure would remove but copies, and but dead letters that name
//! other users as well, as lines of JSON, the table's name first. It streams: nothing is gathered, and a client that reads slowly slows ClickHouse down.

use std::io;

use axum::body::Bytes;
use clickhouse::query::BytesCursor;
use futures::{Stream, stream::try_unfold};

use super::subject::Subject;
use crate::{
    clickhouse::Warehouse,
    error::{Error, Result},
};

/// Longest that an export may take.
const SECONDS_MAX: u64 = 3600;

/// Where the reading stands.
struct Reading {
    warehouse: Warehouse,
    /// What is asked after this.
    rest: Vec<String>,
    cursor: Option<BytesCursor>,
}

/// The lines of a subject; its visitors must be known. A stream that breaks off ends in an error, never in silence.
pub fn lines(warehouse: &Warehouse, subject: &Subject) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let (rows, letters) = (subject.rows(), subject.exported_letters());
    // Taken from the end.
    let rest = vec![
        format!("SELECT 'dead_letters' AS `table`, * FROM dead_letters FINAL WHERE {letters}"),
        format!("SELECT 'clicks' AS `table`, * FROM clicks FINAL WHERE {rows}"),
        format!("SELECT 'events' AS `table`, * FROM events FINAL WHERE {rows}"),
    ];
    let reading = Reading { warehouse: warehouse.clone(), rest, cursor: None };
    try_unfold(reading, |mut reading| async move {
        loop {
            if reading.cursor.is_none() {
                let Some(sql) = reading.rest.pop() else { return Ok(None) };
                reading.cursor = Some(reading.ask(&sql).map_err(io::Error::other)?);
            }
            let Some(cursor) = &mut reading.cursor else { return Ok(None) };
            match cursor.next().await {
                Ok(Some(bytes)) => return Ok(Some((bytes, reading))),
                Ok(None) => reading.cursor = None,
                Err(error) => {
                    let error = Error::from(error);
                    tracing::warn!(%error, "an export broke off");
                    return Err(io::Error::other("the export broke off"));
                }
            }
        }
    })
}

impl Reading {
    fn ask(&self, sql: &str) -> Result<BytesCursor> {
        let query = self
            .warehouse
            .long_query(sql)
            .with_setting("max_execution_time", SECONDS_MAX.to_string())
            .with_setting("output_format_json_quote_64bit_integers", "0");
        Ok(query.fetch_bytes("JSONEachRow")?)
    }
}
