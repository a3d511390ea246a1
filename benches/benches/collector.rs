//! The collector's links: parse, decode, validate, enrich and encode.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use millrace_benches::rows::{Maker, enricher, now_ms, sender};
use millrace_collector::{
    EnrichConfig, Step,
    chain::{accept, collect_body},
    decode::{Form, Scratch, decode},
    encode::Topic,
    enrich::Enricher,
};
use millrace_schemas::{
    limits::Limits,
    row::{EventRow, Row as _},
};
use simd_json::{Buffers, INPUT_PADDING, Node, Tape, fill_tape_padded};

fn collector(criterion: &mut Criterion) {
    for events in [1, 50] {
        let received_at = now_ms();
        let mut maker = Maker::new(events, 1000, 1);
        let body = maker.body(received_at, 250).to_vec();
        let mut group = criterion.benchmark_group(format!("collector/{events}"));
        group.throughput(Throughput::Elements(events as u64));

        let (mut input, mut buffers, mut spare) =
            (Vec::new(), Buffers::default(), Vec::<Node<'static>>::new());
        group.bench_function("parse", |bencher| {
            bencher.iter(|| {
                input.clear();
                input.extend_from_slice(&body);
                input.resize(body.len() + INPUT_PADDING, b' ');
                let mut tape = Tape(std::mem::take(&mut spare)).reset();
                fill_tape_padded(&mut input, body.len(), &mut buffers, &mut tape).expect("it is JSON");
                spare = black_box(tape).reset().0;
            });
        });

        let (limits, request, mut scratch) = (Limits::default(), sender(received_at), Scratch::default());
        group.bench_function("decode", |bencher| {
            bencher.iter(|| decode(&body, Form::Json, &limits, &mut scratch).map(|events| events.len()));
        });
        group.bench_function("validate, enrich, encode", |bencher| {
            let mut decoded = decode(&body, Form::Json, &limits, &mut scratch).expect("it is a request");
            bencher.iter(|| accept(&mut decoded, &request, enricher(), [usize::MAX; Topic::ALL.len()]));
        });
        group.bench_function("decode, validate, enrich, encode", |bencher| {
            bencher.iter(|| collect_body(&body, Form::Json, &request, enricher(), &mut scratch));
        });

        let off = [Step::UserAgent, Step::Geo, Step::Campaign, Step::Visitor, Step::Bot, Step::Url];
        let off = Enricher::new(&EnrichConfig { skip: off.to_vec(), ..EnrichConfig::default() });
        let off = off.expect("it reads no file");
        group.bench_function("decode, validate, encode", |bencher| {
            bencher.iter(|| collect_body(&body, Form::Json, &request, &off, &mut scratch));
        });

        let messages = maker.messages(received_at, 250).expect("the collector takes it");
        let mut lines: Vec<Vec<u8>> = messages
            .iter()
            .flat_map(|message| message.value.split(|byte| *byte == b'\n'))
            .map(<[u8]>::to_vec)
            .collect();
        let rows: Vec<EventRow<'_>> = lines
            .iter_mut()
            .map(|line| simd_json::serde::from_slice(line).expect("the collector writes rows"))
            .collect();
        let mut out = Vec::new();
        group.bench_function("encode", |bencher| {
            bencher.iter(|| {
                out.clear();
                rows.iter().for_each(|row| row.write_json(&mut out));
                black_box(out.len())
            });
        });
        group.finish();
    }
}

criterion_group!(benches, collector);
criterion_main!(benches);
