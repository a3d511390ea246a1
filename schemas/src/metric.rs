//! Names of all metrics, with what they count; base units and `_total` as Prometheus asks.

/// Buckets of histograms by the end of the metric's name, the same in every service, so that they can be added up.
pub const BUCKETS: [(&str, &[f64]); 3] = [
    (
        "_seconds",
        &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
    ),
    ("_rows", &[1.0, 10.0, 100.0, 1_000.0, 10_000.0, 50_000.0, 100_000.0, 500_000.0]),
    ("_bytes", &[1e3, 1e4, 1e5, 1e6, 4e6, 1.6e7, 6.4e7, 2.56e8]),
];

macro_rules! metrics {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: &str = $text;)+

        /// Every metric with its meaning, for `# HELP` and the documentation.
        pub const ALL: &[(&str, &str)] = &[$(($text, concat!($($doc, " ",)+).trim_ascii()),)+];
    };
}

metrics! {
    /// Requests, by `endpoint` and `status`.
    COLLECTOR_REQUESTS = "millrace_collector_requests_total";
    /// Bytes of request bodies, as they arrived.
    COLLECTOR_BODY_BYTES = "millrace_collector_body_bytes_total";
    /// Bytes of memory that request bodies have taken and not given back, those beyond the first 16 KiB of each.
    COLLECTOR_BODIES_BYTES = "millrace_collector_bodies_bytes";
    /// Events accepted, by `type`.
    COLLECTOR_EVENTS_ACCEPTED = "millrace_collector_events_accepted_total";
    /// Events and requests refused, by `reason`.
    COLLECTOR_REJECTED = "millrace_collector_rejected_total";
    /// Events refused, by `store` (the first 200 of a process, then `other`) and `reason`.
    COLLECTOR_REFUSED_EVENTS = "millrace_collector_refused_events_total";
    /// Fields of accepted events that could not be kept as they were sent, by `reason`.
    COLLECTOR_REPAIRED = "millrace_collector_repaired_fields_total";
    /// Events whose time was corrected or replaced, by `time_source`.
    COLLECTOR_TIMES_ADJUSTED = "millrace_collector_event_times_adjusted_total";
    /// Events taken for a bot's, by `reason`.
    COLLECTOR_BOTS = "millrace_collector_bot_events_total";
    /// Events accepted without a visitor, as none was sent and no salt of the day was known to derive one.
    COLLECTOR_ANONYMOUS = "millrace_collector_anonymous_events_total";
    /// Seconds from a request's first byte to its answer.
    COLLECTOR_REQUEST_SECONDS = "millrace_collector_request_seconds";
    /// Connections closed to make room for others, because all were taken.
    COLLECTOR_CONNECTIONS_CLOSED = "millrace_collector_connections_closed_for_room_total";
    /// Messages handed to the log and not yet acknowledged.
    COLLECTOR_LOG_QUEUE = "millrace_collector_log_queue_messages";
    /// Seconds until the log acknowledged a request's messages.
    COLLECTOR_LOG_SECONDS = "millrace_collector_log_ack_seconds";
    /// Bytes of the spool on disk, by `topic`.
    COLLECTOR_SPOOL_BYTES = "millrace_collector_spool_bytes";
    /// Bytes in the spool of the store of which the most wait there, for the consumer or the drain to Kafka.
    COLLECTOR_SPOOL_STORE_BYTES = "millrace_collector_spool_store_bytes_max";
    /// Age of the oldest event in the spool that its reader (the consumer, or the drain to Kafka) has not taken, by
    /// `topic`; 0 when there is none.
    COLLECTOR_SPOOL_OLDEST_SECONDS = "millrace_collector_spool_oldest_age_seconds";
    /// Messages of the spool that Kafka has acknowledged, by `topic`.
    COLLECTOR_SPOOL_DRAINED = "millrace_collector_spool_drained_messages_total";
    /// Rows that Kafka refuses for good although they were acknowledged, kept in the spool's directory, by `topic`.
    COLLECTOR_REFUSED_BY_KAFKA = "millrace_collector_refused_by_kafka_rows_total";
    /// Rows kept there now, until Kafka takes them, by `topic`.
    COLLECTOR_REFUSED_WAITING = "millrace_collector_refused_by_kafka_waiting_rows";
    /// Whether accepted events go to the spool because Kafka is away or its turn has not come yet (1), or to Kafka (0).
    COLLECTOR_SPOOLING = "millrace_collector_spooling";
    /// Seconds since the stores' keys were last read from Postgres.
    COLLECTOR_KEYS_AGE_SECONDS = "millrace_collector_keys_age_seconds";

    /// Rows inserted, by `table`.
    CONSUMER_ROWS = "millrace_consumer_rows_inserted_total";
    /// Messages read, by `topic`.
    CONSUMER_MESSAGES = "millrace_consumer_messages_total";
    /// Messages that Kafka deleted before they were read, at most (offsets are counted), by `topic`.
    CONSUMER_LOST_MESSAGES = "millrace_consumer_lost_messages_total";
    /// Rows in a batch, by `table`.
    CONSUMER_BATCH_ROWS = "millrace_consumer_batch_rows";
    /// Bytes of a batch's message values, by `table`.
    CONSUMER_BATCH_BYTES = "millrace_consumer_batch_bytes";
    /// Seconds from a batch's first message to its close, by `table`.
    CONSUMER_BATCH_SECONDS = "millrace_consumer_batch_seconds";
    /// Seconds an insert took, by `table`.
    CONSUMER_INSERT_SECONDS = "millrace_consumer_insert_seconds";
    /// Inserts that were tried again, by `table` and ClickHouse error `code`.
    CONSUMER_RETRIES = "millrace_consumer_insert_retries_total";
    /// Inserts that were spared because reading back found all of their rows stored, by `table`.
    CONSUMER_READ_BACK = "millrace_consumer_inserts_read_back_total";
    /// Dead letters written, by `reason`.
    CONSUMER_DEAD_LETTERS = "millrace_consumer_dead_letters_total";
    /// Bytes of messages held in memory.
    CONSUMER_BUFFERED_BYTES = "millrace_consumer_buffered_bytes";
    /// Messages in the log that are not yet stored, by `topic` and `partition`.
    CONSUMER_LAG_MESSAGES = "millrace_consumer_lag_messages";
    /// Seconds between the receipt of the newest stored event and now, while there is lag; else 0.
    CONSUMER_LAG_SECONDS = "millrace_consumer_lag_seconds";
    /// Partitions that are paused because memory is full.
    CONSUMER_PAUSED = "millrace_consumer_paused_partitions";
    /// Seconds for which the slowest partition has been unable to move its position: a batch is on its way, a recorded
    /// range is being rebuilt, or the log cannot be read; 0 when none waits.
    CONSUMER_STALLED_SECONDS = "millrace_consumer_stalled_seconds";

    /// Seconds one rollup of one store took, by `rollup`.
    AGGREGATOR_ROLLUP_SECONDS = "millrace_aggregator_rollup_seconds";
    /// Store-days rolled up.
    AGGREGATOR_STORE_DAYS = "millrace_aggregator_store_days_total";
    /// Store-days waiting to be rolled up, those of failing stores included.
    AGGREGATOR_STORE_DAYS_WAITING = "millrace_aggregator_store_days_waiting";
    /// Rollups that failed and will be tried again.
    AGGREGATOR_FAILURES = "millrace_aggregator_failures_total";
    /// Stores some of whose days cannot be rolled up, by `reason`: `time`, `memory`, `rows`, `settings`, `refused`.
    AGGREGATOR_STORES_FAILING = "millrace_aggregator_stores_failing";
    /// Seconds since which a `store` fails, 0 when it no longer does: of the first 20 stores that ever failed in this
    /// process. `/readyz` names those that fail now.
    AGGREGATOR_STORE_FAILING_SECONDS = "millrace_aggregator_store_failing_seconds";
    /// Rows stored and not looked at yet, of which the next look takes a slice.
    AGGREGATOR_ARRIVALS_WAITING = "millrace_aggregator_arrivals_waiting_rows";
    /// Age of the watermark: seconds since the last moment whose arrivals are all rolled up, those of failing stores left
    /// out. It grows while rolling up falls behind, or Postgres or ClickHouse is away.
    AGGREGATOR_WATERMARK_AGE_SECONDS = "millrace_aggregator_watermark_age_seconds";
    /// Seconds from an event's receipt to its rollup's commit.
    AGGREGATOR_FRESHNESS_SECONDS = "millrace_end_to_end_freshness_seconds";
    /// Sessions of logins for people that were ended because they went beyond their bounds.
    AGGREGATOR_LOGIN_SESSIONS_ENDED = "millrace_aggregator_login_sessions_ended_total";
    /// Requests to the read and admin API, by `endpoint` and `status`.
    AGGREGATOR_REQUESTS = "millrace_aggregator_requests_total";
}
