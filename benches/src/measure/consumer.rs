//! The consumer against inserting the same rows from memory, and against ClickHouse's own Kafka engine.

use std::{sync::Arc, time::Instant};

use futures::stream::{self, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use millrace_collector::{encode::Message, log::Log, log::spool::SpoolLog};
use millrace_consumer::{
    decode::{Decoder, Table, lines},
    native::{Block, BlockBuilder, Source},
};
use millrace_schemas::{
    row::{Column, EventRow, Row as _},
    spool::SEGMENT_BYTES,
    topic,
};
use millrace_testbed::Kafka;

use super::{
    Progress, Sizes,
    collector::{close, kafka_log},
    engine::Bed,
    in_process::await_log,
};
use crate::{
    process::own_cpu,
    rows::{Maker, now_ms},
    service::{Service, metric_sum},
    table::{Line, Section},
};

/// Lines of one section.
pub const MEASUREMENTS: u64 = 4;

/// The consumer inserts so many blocks at a time.
const INSERTS_AT_A_TIME: usize = 2;
/// Requests that wait for the log while it is filled.
const APPENDS_AT_A_TIME: usize = 2_000;

/// Measures each number of rows in a message.
pub async fn measure(sizes: &Sizes, progress: &Progress) -> anyhow::Result<Vec<Section>> {
    let mut sections = Vec::new();
    for events in &sizes.events_per_request {
        let bench = Bench { events: *events, sizes, progress };
        sections.push(bench.section().await?);
    }
    Ok(sections)
}

struct Bench<'a> {
    events: usize,
    sizes: &'a Sizes,
    progress: &'a Progress,
}

impl Bench<'_> {
    async fn section(&self) -> anyhow::Result<Section> {
        let plural = if self.events == 1 { "" } else { "s" };
        let title = format!("consumer, {} row{plural} a message", self.events);
        self.progress.now(format!("{title}: inserting from memory"));
        let mut lines = vec![self.insert_from_memory().await?];

        self.progress.now(format!("{title}: from Kafka"));
        let kafka = Kafka::start().await?;
        let log = kafka_log(kafka.bootstrap(), self.sizes.partitions)?;
        await_log(&log).await?;
        self.fill(&log).await?;
        close(log).await?;
        let settings = [("log", "kafka".into()), ("kafka-brokers", kafka.bootstrap())];
        lines.push(self.consumer("consumer ← Kafka", &settings).await?);
        self.progress.now(format!("{title}: ClickHouse's Kafka engine"));
        let by_engine = self.kafka_engine(&kafka).await?;
        drop(kafka);

        self.progress.now(format!("{title}: from the spool"));
        let dir = tempfile::tempdir_in(&self.sizes.data_dir)?;
        let log: Arc<dyn Log> = Arc::new(SpoolLog::open(dir.path(), u64::MAX / 2, SEGMENT_BYTES)?);
        self.fill(&log).await?;
        close(log).await?;
        let settings = [("log", "spool".into()), ("spool-dir", dir.path().display().to_string())];
        lines.push(self.consumer("consumer ← spool", &settings).await?);
        lines.push(by_engine);
        Ok(Section { title, counts_behind: true, lines })
    }

    fn maker(&self) -> Maker {
        Maker::new(self.events, 100_000, 1)
    }

    /// Rows are made from whole requests, so there are a few more than asked for.
    fn rows(&self) -> u64 {
        self.requests() * self.events as u64
    }

    fn requests(&self) -> u64 {
        self.sizes.rows.div_ceil(self.events as u64)
    }

    async fn insert_from_memory(&self) -> anyhow::Result<Line> {
        let blocks = blocks(&mut self.maker(), self.rows(), self.sizes.batch_rows, |_| now_ms())?;
        let mut bed = Bed::start().await?;
        let store = bed.store();
        bed.reset_cpu()?;
        let (started, cpu) = (Instant::now(), own_cpu());
        insert(&store, &blocks).await?;
        let (wall, cpu) = (started.elapsed(), own_cpu() - cpu);
        bed.await_rows(started, self.rows()).await?;
        bed.await_rest(self.rows()).await?;
        Ok(self.progress.done(Line {
            wall: Some(wall),
            cpu: Some(cpu),
            behind: Some(bed.cpu()?),
            ..Line::new("limit: the same rows from memory, native blocks", self.rows())
        }))
    }

    /// Puts the rows into a log, as the collector would.
    async fn fill(&self, log: &Arc<dyn Log>) -> anyhow::Result<()> {
        let mut maker = self.maker();
        let mut waiting = FuturesUnordered::new();
        for _ in 0..self.requests() {
            let messages: Vec<Message> = maker.messages(now_ms(), 250)?;
            waiting.push(log.append(messages));
            if waiting.len() >= APPENDS_AT_A_TIME {
                waiting.try_next().await?;
            }
        }
        while waiting.try_next().await?.is_some() {}
        Ok(())
    }

    async fn consumer(&self, what: &str, settings: &[(&str, String)]) -> anyhow::Result<Line> {
        let bed = Bed::start().await?;
        let mut all = vec![("clickhouse-url", bed.url()), ("batch-rows", self.sizes.batch_rows.to_string())];
        all.extend_from_slice(settings);
        let started = Instant::now();
        let consumer = Service::start("millrace-consumer", &["metrics-address"], &all)?;
        let arrival = bed.await_rows(started, self.rows()).await?;
        let cpu = consumer.cpu()?;
        let metrics = consumer.metrics(0).await?;
        let batches = metric_sum(&metrics, "millrace_consumer_batch_rows_count", "table=\"events\"");
        bed.await_rest(self.rows()).await?;
        consumer.stop().await?;
        let per_batch = self.rows() as f64 / batches.max(1.0);
        Ok(self.progress.done(Line {
            wall: Some(arrival.steady(self.rows())),
            cpu: Some(cpu),
            behind: Some(bed.cpu()?),
            ..Line::new(format!("{what} ({per_batch:.0} rows an insert)"), self.rows())
        }))
    }

    /// ClickHouse reads the topic by itself, into the same tables in another engine.
    async fn kafka_engine(&self, kafka: &Kafka) -> anyhow::Result<Line> {
        let mut bed = Bed::start().await?;
        bed.reset_cpu()?;
        bed.tell(&queue(&kafka.bootstrap(), self.sizes)).await?;
        let started = Instant::now();
        bed.tell(&feed()).await?;
        let arrival = bed.await_rows(started, self.rows()).await?;
        bed.await_rest(self.rows()).await?;
        Ok(self.progress.done(Line {
            wall: Some(arrival.steady(self.rows())),
            behind: Some(bed.cpu()?),
            ..Line::new("ClickHouse's Kafka engine, JSONEachRow", self.rows())
        }))
    }
}

/// Rows as blocks of the consumer's own making; `at_ms` says when each event happens, by its place.
pub fn blocks(
    maker: &mut Maker,
    rows: u64,
    batch_rows: u32,
    at_ms: impl Fn(u64) -> i64,
) -> anyhow::Result<Vec<Block>> {
    let (mut blocks, mut decoder) = (Vec::new(), Decoder::default());
    let mut builder = BlockBuilder::new(Table::Events.columns());
    let (mut offset, mut made) = (0, 0);
    while made < rows {
        for message in maker.messages(at_ms(made), 20_000)? {
            for (row, line) in lines(&message.value) {
                let source = Source { topic: topic::EVENTS, partition: 0, offset, row };
                decoder.push(Table::Events, line, source, &mut builder)?;
                made += 1;
                if builder.rows() == batch_rows {
                    let full = std::mem::replace(&mut builder, BlockBuilder::new(Table::Events.columns()));
                    blocks.push(full.finish());
                }
            }
            offset += 1;
        }
    }
    if builder.rows() > 0 {
        blocks.push(builder.finish());
    }
    Ok(blocks)
}

/// Inserts blocks as the consumer does.
pub async fn insert(store: &millrace_consumer::store::Store, blocks: &[Block]) -> anyhow::Result<()> {
    stream::iter(blocks.iter().enumerate())
        .map(|(number, block)| async move {
            store.insert(Table::Events, Some(&format!("bench-{number}")), block).await.map(drop)
        })
        .buffer_unordered(INSERTS_AT_A_TIME)
        .try_collect::<()>()
        .await?;
    Ok(())
}

/// A table that is the topic, read by one thread for each partition.
fn queue(brokers: &str, sizes: &Sizes) -> String {
    let columns: Vec<String> = EventRow::COLUMNS
        .iter()
        .map(|Column { name, ty, .. }| format!("`{name}` {}", ty.clickhouse()))
        .collect();
    let Sizes { partitions, batch_rows, .. } = sizes;
    format!(
        "CREATE TABLE millrace.events_queue ({}) ENGINE = Kafka SETTINGS kafka_broker_list = '{brokers}', \
         kafka_topic_list = '{}', kafka_group_name = 'clickhouse', kafka_format = 'JSONEachRow', \
         kafka_num_consumers = {partitions}, kafka_thread_per_consumer = 1, \
         kafka_max_block_size = {batch_rows}, kafka_flush_interval_ms = 1000",
        columns.join(", "),
        topic::EVENTS,
    )
}

/// What moves the topic's rows into the table.
fn feed() -> String {
    let names: Vec<String> = EventRow::COLUMNS.iter().map(|column| format!("`{}`", column.name)).collect();
    format!(
        "CREATE MATERIALIZED VIEW millrace.events_feed TO millrace.events AS SELECT {}, _topic, \
         toUInt32(_partition) AS _partition, _offset, toUInt32(0) AS _row FROM millrace.events_queue",
        names.join(", ")
    )
}
