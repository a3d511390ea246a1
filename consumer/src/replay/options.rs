//! What a replay is told.

use clap::{Args, builder::PossibleValuesParser};
use jiff::{Timestamp, civil::Date, tz::TimeZone};
use millrace_schemas::reject::Reason;

use crate::source::TOPICS;

/// Which dead-letter records, and what to do with them.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Only dead-letter records of this reason.
    #[arg(long, value_parser = PossibleValuesParser::new(
        [Reason::Undecodable.as_str(), Reason::RefusedByStore.as_str()]))]
    pub reason: Option<String>,

    /// Only records that were dead-lettered at or after this: a date like 2026-11-01 (UTC) or an instant like
    /// 2026-11-01T12:00:00Z.
    #[arg(long, value_name = "WHEN", value_parser = instant)]
    pub since: Option<i64>,

    /// Only records that were dead-lettered before this. Without it: before now.
    #[arg(long, value_name = "WHEN", value_parser = instant)]
    pub until: Option<i64>,

    /// Only records from this topic.
    #[arg(long, value_parser = PossibleValuesParser::new(TOPICS))]
    pub topic: Option<String>,

    /// At most so many records.
    #[arg(long)]
    pub limit: Option<u64>,

    /// Only say how many records there are and how many can be read; nothing is stored or removed.
    #[arg(long)]
    pub dry_run: bool,

    /// Also records whose rows were of a version that the consumer which dead-lettered them did not know. Give it once this
    /// build knows that version: read as another one, fields would be dropped in silence.
    #[arg(long)]
    pub unknown_version: bool,
}

/// Epoch milliseconds of a date or an instant.
fn instant(text: &str) -> Result<i64, String> {
    if let Ok(timestamp) = text.parse::<Timestamp>() {
        return Ok(timestamp.as_millisecond());
    }
    let date = text.parse::<Date>().ok().and_then(|date| date.to_zoned(TimeZone::UTC).ok());
    date.map(|date| date.timestamp().as_millisecond())
        .ok_or_else(|| "give a date like 2026-11-01 or an instant like 2026-11-01T12:00:00Z".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_dates_or_instants() {
        assert_eq!(instant("1970-01-02"), Ok(86_400_000));
        assert_eq!(instant("1970-01-01T00:00:01.5Z"), Ok(1_500));
        assert_eq!(instant("1970-01-01T01:00:00+01:00"), Ok(0));
        assert!(instant("yesterday").is_err());
    }
}
