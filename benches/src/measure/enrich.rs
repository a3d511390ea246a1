//! What each step of enrichment costs, in this process on one thread, over the bytes that the load sends.

use std::{fmt::Write as _, path::Path};

use anyhow::Context as _;
use millrace_collector::{EnrichConfig, Step, enrich::Enricher};

use super::{Progress, Sizes, in_process::Requests};
use crate::table::{Line, Section};

/// Lines of one section.
pub const MEASUREMENTS: u64 = 9;

/// Networks in the list of data centres: about what the large ones publish.
const NETWORKS: u32 = 10_000;

const STEPS: [Step; 6] = [Step::UserAgent, Step::Geo, Step::Visitor, Step::Campaign, Step::Url, Step::Bot];

/// MaxMind's own test database, which the collector's tests have, too. It is small: a large one is as deep, and colder.
const DATABASE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../collector/tests/data/GeoIP2-City-Test.mmdb");

/// Measures each number of events in a request: half of the steps are made once for a request.
pub fn measure(sizes: &Sizes, progress: &Progress) -> anyhow::Result<Vec<Section>> {
    let dir = tempfile::tempdir()?;
    let networks = dir.path().join("networks");
    std::fs::write(&networks, list_of_networks())?;
    sizes.events_per_request.iter().map(|events| section(*events, &networks, sizes, progress)).collect()
}

fn section(events: usize, networks: &Path, sizes: &Sizes, progress: &Progress) -> anyhow::Result<Section> {
    let plural = if events == 1 { "" } else { "s" };
    let title = format!("enrichment, {events} event{plural} a request, one thread");
    progress.now(title.clone());
    let requests = Requests::new(events)?;
    let enricher = |done: &[Step]| {
        let config = EnrichConfig {
            skip: STEPS.into_iter().filter(|step| !done.contains(step)).collect(),
            geo_database: Some(DATABASE.into()),
            data_centre_networks: Some(networks.to_owned()),
            ..EnrichConfig::default()
        };
        let enricher = Enricher::new(&config).context("the files of the enrichment")?;
        enricher.warm();
        anyhow::Ok(enricher)
    };
    let mut lines = Vec::new();
    let mut take = |line: Line| lines.push(progress.done(line));
    take(requests.enriched("parse, validate, encode: no step", &enricher(&[])?, sizes)?);
    take(requests.enriched("with user_agent, seen before", &enricher(&[Step::UserAgent])?, sizes)?);
    take(requests.enriched_anew("with user_agent, never seen", &enricher(&[Step::UserAgent])?, sizes)?);
    for (what, step) in [
        ("with geo", Step::Geo),
        ("with visitor", Step::Visitor),
        ("with campaign", Step::Campaign),
        ("with url", Step::Url),
        ("with bot, of all four kinds", Step::Bot),
    ] {
        take(requests.enriched(what, &enricher(&[step])?, sizes)?);
    }
    take(requests.enriched("with all steps", &enricher(&STEPS)?, sizes)?);
    Ok(Section { title, counts_behind: false, lines })
}

fn list_of_networks() -> String {
    (0..NETWORKS).fold(String::new(), |mut list, number| {
        // Apart, so that none are merged. Writing to a String cannot fail.
        let [_, high, low, _] = (number << 9).to_be_bytes();
        let _ = writeln!(list, "{}.{high}.{low}.0/24", 11 + number % 200);
        list
    })
}
