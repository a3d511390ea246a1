//! The consumer's links: decode and native blocks.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use millrace_benches::rows::{Maker, now_ms};
use millrace_consumer::{
    decode::{Decoder, Table, lines},
    native::{BlockBuilder, Source},
};
use millrace_schemas::{row::EventRow, topic};

/// Rows in a block: so many that dictionaries and buffers are as large as in life.
const ROWS: usize = 20_000;

fn source(row: usize) -> Source<'static> {
    Source { topic: topic::EVENTS, partition: 0, offset: row as u64, row: 0 }
}

fn consumer(criterion: &mut Criterion) {
    let mut maker = Maker::new(10, 1000, 1);
    let mut rows_json: Vec<Vec<u8>> = Vec::new();
    while rows_json.len() < ROWS {
        for message in maker.messages(now_ms(), 250).expect("the collector takes it") {
            rows_json.extend(lines(&message.value).map(|(_, line)| line.to_vec()));
        }
    }
    rows_json.truncate(ROWS);
    let mut group = criterion.benchmark_group("consumer");
    group.throughput(Throughput::Elements(ROWS as u64)).sample_size(20);

    let (mut buffers, mut scratch) = (simd_json::Buffers::default(), Vec::new());
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            for line in &rows_json {
                scratch.clear();
                scratch.extend_from_slice(line);
                let row: EventRow<'_> = simd_json::serde::from_slice_with_buffers(&mut scratch, &mut buffers)
                    .expect("it is a row");
                black_box(&row);
            }
        });
    });

    let mut inputs = rows_json.clone();
    let rows: Vec<EventRow<'_>> =
        inputs.iter_mut().map(|line| simd_json::serde::from_slice(line).expect("it is a row")).collect();
    group.bench_function("native", |bencher| {
        bencher.iter_batched(
            || BlockBuilder::new(Table::Events.columns()),
            |mut builder| {
                rows.iter().enumerate().for_each(|(index, row)| builder.push(row, source(index)));
                builder.finish()
            },
            BatchSize::LargeInput,
        );
    });

    let mut decoder = Decoder::default();
    group.bench_function("decode and native", |bencher| {
        bencher.iter_batched(
            || BlockBuilder::new(Table::Events.columns()),
            |mut builder| {
                for (index, line) in rows_json.iter().enumerate() {
                    decoder.push(Table::Events, line, source(index), &mut builder).expect("it is a row");
                }
                builder.finish()
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, consumer);
criterion_main!(benches);
