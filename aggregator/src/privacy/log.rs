//! When everything that was accepted until a moment has come out of the log.
//!
//! Where the spool is the log (one machine) this can be seen, by three files of the contract (`millrace_schemas::spool`):
//! some time after the moment, when every request from before it has been answered, the offset behind the last durable
//! frame is noted; once the consumer's position has passed it and the segments below it are deleted, all of it is in
//! ClickHouse, or among the dead letters, and nothing of it in the spool.
//!
//! With Kafka nobody knows: a collector that is away may hold a spool, a consumer may be behind. There it is taken for
//! out of the log after a time that is set (`--erasure-horizon-seconds`).

use std::{fs, io, path::Path};

use millrace_schemas::{
    spool::{CONSUMER_FILE, DURABLE_FILE, Position, segment_offset},
    topic,
};
use serde_json::{Map, Value, json};

const TOPICS: [&str; 2] = [topic::EVENTS, topic::CLICKS];

/// Offset behind the last durable frame of each topic.
pub fn ends(spool_dir: &Path) -> io::Result<Value> {
    let mut ends = Map::new();
    for topic in TOPICS {
        let bytes = match fs::read(spool_dir.join(topic).join(DURABLE_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        let end = bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        ends.insert(topic.into(), json!(end));
    }
    Ok(Value::Object(ends))
}

/// Whether the consumer has passed these offsets, and no segment holds any frame below them.
pub fn has_passed(spool_dir: &Path, ends: &Value) -> io::Result<bool> {
    for topic in TOPICS {
        let end = ends.get(topic).and_then(Value::as_u64).unwrap_or(0);
        let dir = spool_dir.join(topic);
        let position = match fs::read(dir.join(CONSUMER_FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Position::default(),
            other => serde_json::from_slice(&other?)?,
        };
        if position.next < end {
            return Ok(false);
        }
        if end == 0 {
            continue;
        }
        for entry in fs::read_dir(&dir)? {
            if entry?.file_name().to_str().and_then(segment_offset).is_some_and(|first| first < end) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use millrace_schemas::spool::segment_name;

    use super::*;

    #[test]
    fn a_log_has_passed_when_position_and_segments_have() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ends(dir.path()).unwrap(), json!({topic::EVENTS: 0, topic::CLICKS: 0}));
        let events = dir.path().join(topic::EVENTS);
        fs::create_dir_all(&events).unwrap();
        fs::write(events.join(DURABLE_FILE), 5_u64.to_le_bytes()).unwrap();
        fs::write(events.join(segment_name(0)), b"").unwrap();
        let ends = ends(dir.path()).unwrap();
        assert_eq!(ends[topic::EVENTS], 5);
        let has_passed = || has_passed(dir.path(), &ends).unwrap();
        assert!(!has_passed());
        fs::write(events.join(CONSUMER_FILE), br#"{"next":4}"#).unwrap();
        assert!(!has_passed());
        fs::write(events.join(CONSUMER_FILE), br#"{"next":5}  "#).unwrap();
        assert!(!has_passed());
        fs::write(events.join(segment_name(5)), b"").unwrap();
        assert!(!has_passed());
        fs::remove_file(events.join(segment_name(0))).unwrap();
        assert!(has_passed());
    }
}
