//! Rolling up one store-day against one scan of the same columns.

use std::time::{Duration, Instant};

use millrace_aggregator::{Config, clickhouse::Warehouse};
use millrace_schemas::{
    metric,
    row::{ColumnType, EventRow, Row as _},
};
use millrace_testbed::Postgres;
use sqlx::PgPool;

use super::{
    Progress, Sizes,
    collector::make_store,
    consumer::{blocks, insert},
    engine::Bed,
};
use crate::{
    process,
    rows::{Maker, now_ms},
    service::{Service, metric_labels, metric_sum},
    table::{Line, Section},
};

/// Lines that move the bar.
pub const MEASUREMENTS: u64 = 2;

const DAY_MS: i64 = 86_400_000;
/// A visit is so many events, 20 s apart.
const EVENTS_OF_A_VISIT: usize = 8;
/// The day's first visit ends here, so that it lies within the day.
const FIRST_VISIT_MS: i64 = 300_000;
/// A scan is repeated, because one takes a fraction of a second.
const SCANS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(600);

/// Columns of the events that the rollups read, the day's own text not counted (URLs, titles, user agents).
const SCANNED: [&str; 24] = [
    "event_id",
    "type",
    "name",
    "event_time",
    "received_at",
    "key_date",
    "visitor_id",
    "visitor_hash",
    "session_id",
    "user_id",
    "sequence",
    "non_interactive",
    "page_view_id",
    "duration_ms",
    "value",
    "currency",
    "total_minor",
    "order_id",
    "refund_id",
    "item_product_id",
    "item_price",
    "item_quantity",
    "trusted",
    "is_bot",
];

/// Measures one store-day.
pub async fn measure(sizes: &Sizes, progress: &Progress) -> anyhow::Result<Vec<Section>> {
    let events = sizes.day_events.div_ceil(EVENTS_OF_A_VISIT as u64) * EVENTS_OF_A_VISIT as u64;
    progress.now(format!("aggregator: storing a day of {events} events"));
    let day_ms = (now_ms() / DAY_MS - 1) * DAY_MS;
    let (bed, database) = tokio::join!(Bed::start(), Postgres::start());
    let (mut bed, database) = (bed?, database?);
    let pool = make_store(database.url()).await?;
    store_day(&bed, sizes, events, day_ms).await?;
    bed.await_rest(events).await?;

    progress.now("aggregator: scanning the day");
    let config =
        Config { postgres_url: database.url().into(), clickhouse_url: bed.url(), ..Config::default() };
    let mut lines = vec![progress.done(scan(&mut bed, &config, events, day_ms).await?)];
    progress.now("aggregator: rolling up the day");
    lines.extend(roll_up(&mut bed, &config, &pool, events, progress).await?);
    let title = format!("aggregator, one store-day of {} events", crate::table::thousands(events as f64));
    Ok(vec![Section { title, counts_behind: true, lines }])
}

async fn store_day(bed: &Bed, sizes: &Sizes, events: u64, day_ms: i64) -> anyhow::Result<()> {
    // A visitor comes back now and then.
    let mut maker = Maker::new(EVENTS_OF_A_VISIT, events / 10, 2);
    let length_ms = DAY_MS - FIRST_VISIT_MS - 1;
    let at_ms = |made: u64| day_ms + FIRST_VISIT_MS + (length_ms as u64 * made / events) as i64;
    let blocks = blocks(&mut maker, events, sizes.batch_rows, at_ms)?;
    insert(&bed.store(), &blocks).await?;
    bed.await_rows(Instant::now(), events).await?;
    Ok(())
}

/// One pass over the day: deduplicated, each column read and added up.
async fn scan(bed: &mut Bed, config: &Config, events: u64, day_ms: i64) -> anyhow::Result<Line> {
    let sums: Vec<String> = EventRow::COLUMNS
        .iter()
        .filter(|column| SCANNED.contains(&column.name))
        .map(|column| match column.ty {
            ColumnType::Symbol | ColumnType::Text => format!("max(length(`{}`))", column.name),
            ColumnType::Texts | ColumnType::Millionths | ColumnType::Thousandths | ColumnType::Map => {
                format!("sum(length(`{}`))", column.name)
            }
            _ => format!("max(`{}`)", column.name),
        })
        .collect();
    // The text of all sums is asked for, so that none of them can be left out.
    let query = format!(
        "SELECT length(toString(tuple({}))) FROM events FINAL WHERE store_id = '{}' AND is_bot = 0 \
         AND event_time >= fromUnixTimestamp64Milli({day_ms}, 'UTC') \
         AND event_time < fromUnixTimestamp64Milli({}, 'UTC')",
        sums.join(", "),
        millrace_schemas::demo::STORE,
        day_ms + DAY_MS,
    );
    // The aggregator's own client: its memory, threads and settings.
    let warehouse = Warehouse::new(config);
    let run = || warehouse.query(&query).fetch_one::<u64>();
    run().await?;
    bed.reset_cpu()?;
    let started = Instant::now();
    for _ in 0..SCANS {
        run().await?;
    }
    Ok(Line {
        wall: Some(started.elapsed() / SCANS),
        behind: Some(bed.cpu()? / SCANS),
        ..Line::new(format!("limit: one scan of {} columns, FINAL", sums.len()), events)
    })
}

/// The service finds the day by what has arrived, and rolls it up.
async fn roll_up(
    bed: &mut Bed,
    config: &Config,
    pool: &PgPool,
    events: u64,
    progress: &Progress,
) -> anyhow::Result<Vec<Line>> {
    let settings = [
        ("postgres-url", config.postgres_url.clone()),
        ("clickhouse-url", config.clickhouse_url.clone()),
        ("interval-ms", "100".into()),
    ];
    bed.reset_cpu()?;
    let postgres = process::descendants_named("postgres")?;
    let postgres_before = process::cpu_of_all(&postgres)?;
    let started = Instant::now();
    let aggregator = Service::start("millrace-aggregator", &["api-address", "metrics-address"], &settings)?;
    while !is_rolled_up(pool).await? {
        anyhow::ensure!(started.elapsed() < PATIENCE, "the day was not rolled up in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (wall, cpu) = (started.elapsed(), aggregator.cpu()?);
    let postgres_cpu: Duration = process::descendants_named("postgres")?
        .iter()
        .map(|pid| process::cpu(*pid).unwrap_or_default())
        .sum::<Duration>()
        .saturating_sub(postgres_before);
    let mut lines = vec![progress.done(Line {
        wall: Some(wall),
        cpu: Some(cpu),
        behind: Some(bed.cpu()? + postgres_cpu),
        ..Line::new("start, arrivals, all rollups, Postgres", events)
    })];
    let metrics = aggregator.metrics(1).await?;
    let sum = format!("{}_sum", metric::AGGREGATOR_ROLLUP_SECONDS);
    for rollup in metric_labels(&metrics, &sum, "rollup") {
        let seconds = metric_sum(&metrics, &sum, &format!("rollup=\"{rollup}\""));
        let wall = Some(Duration::from_secs_f64(seconds));
        lines.push(Line { wall, ..Line::new(format!("of it: {rollup}"), events) });
    }
    aggregator.stop().await?;
    Ok(lines)
}

/// The watermark is written in one transaction with the last rollup.
async fn is_rolled_up(pool: &PgPool) -> anyhow::Result<bool> {
    Ok(sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM rollup_watermarks) AND NOT EXISTS (SELECT 1 FROM touched_days)",
    )
    .fetch_one(pool)
    .await?)
}
