//! `heatmap_data` and `heatmap_elements`: both are counted in ClickHouse and written as they come.

use clickhouse::Row;
use serde::Deserialize;
use serde_json::json;

use super::{scope::Chunk, write::Rows};
use crate::{
    clickhouse::{Warehouse, text},
    error::Result,
};

#[derive(Row, Deserialize)]
struct Bin {
    day: i64,
    url: String,
    class: String,
    click_x_percent: Option<u8>,
    click_y: u64,
    clicks: u64,
    rage_clicks: u64,
    dead_clicks: u64,
}

#[derive(Row, Deserialize)]
struct Element {
    day: i64,
    url: String,
    class: String,
    element_selector: String,
    element_text: String,
    clicks: u64,
    rage_clicks: u64,
    dead_clicks: u64,
}

/// The chunk's rows of `heatmap_data`.
pub async fn bins(warehouse: &Warehouse, chunk: &Chunk) -> Result<Rows> {
    let bins: Vec<Bin> = warehouse.rows(chunk.query(warehouse, text::heatmap_bins)).await?;
    let mut rows = Rows::default();
    for bin in bins {
        let Some(date) = chunk.date(bin.day) else { continue };
        rows.push(
            date,
            json!({
                "url": bin.url,
                "viewport_class": bin.class,
                "click_x_percent": bin.click_x_percent,
                "click_y": bin.click_y,
                "clicks": bin.clicks,
                "rage_clicks": bin.rage_clicks,
                "dead_clicks": bin.dead_clicks,
            }),
        );
    }
    Ok(rows)
}

/// The chunk's rows of `heatmap_elements`.
pub async fn elements(warehouse: &Warehouse, chunk: &Chunk) -> Result<Rows> {
    let elements: Vec<Element> = warehouse.rows(chunk.query(warehouse, text::heatmap_elements)).await?;
    let mut rows = Rows::default();
    for element in elements {
        let Some(date) = chunk.date(element.day) else { continue };
        rows.push(
            date,
            json!({
                "url": element.url,
                "viewport_class": element.class,
                "element_selector": element.element_selector,
                "element_text": element.element_text,
                "clicks": element.clicks,
                "rage_clicks": element.rage_clicks,
                "dead_clicks": element.dead_clicks,
            }),
        );
    }
    Ok(rows)
}
