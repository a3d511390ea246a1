//! Settings of the collector: each a flag and an environment variable.

use std::{fmt, net::SocketAddr, path::PathBuf};

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, ValueEnum};
use ipnet::IpNet;
use millrace_schemas::limits::Limits;
use millrace_service::host::HostConfig;

use crate::{enrich, mend::DEPTH_MAX};

/// Takes analytics events over HTTP and hands them to the log.
///
/// SIGTERM or SIGINT drains: not ready any more, then no longer listening, open requests finished, the log closed, within
/// the times below. A second signal ends the process at once, with exit code 130; what was acknowledged is in the log.
#[derive(Clone, Parser)]
#[command(name = "millrace-collector", version)]
pub struct Config {
    /// Address that events are posted to.
    #[arg(long, env = "MILLRACE_COLLECTOR_ADDRESS", default_value = "127.0.0.1:8080")]
    pub address: SocketAddr,

    /// Address of `/metrics`, for Prometheus.
    #[arg(long, env = "MILLRACE_METRICS_ADDRESS", default_value = "127.0.0.1:9101")]
    pub metrics_address: SocketAddr,

    /// Postgres with the stores and their keys.
    #[arg(
        long,
        env = "MILLRACE_POSTGRES_URL",
        default_value = "postgres://millrace@127.0.0.1:5433/millrace",
        hide_env_values = true
    )]
    pub postgres_url: String,

    /// Milliseconds between two looks for changed stores and keys: how long a key that was revoked is still taken, at most.
    /// A key that is not known has Postgres looked at without waiting for it.
    #[arg(long, env = "MILLRACE_KEYS_REFRESH_MS", default_value_t = 500, value_parser = clap::value_parser!(u64).range(50..=3_600_000))]
    pub keys_refresh_ms: u64,

    /// File that keeps the stores and keys last read, so that the collector can start while Postgres is away.
    #[arg(long, env = "MILLRACE_KEYS_SNAPSHOT")]
    pub keys_snapshot: Option<PathBuf>,

    /// Seconds since Postgres last answered after which that file is not read any more: nobody knows which of its keys were
    /// revoked meanwhile.
    #[arg(long, env = "MILLRACE_KEYS_SNAPSHOT_AGE_MAX_SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys_snapshot_age_max_seconds: u64,

    /// Seconds that the clock may stand behind the newest receipt, or before this program's build; further back, requests
    /// are answered 503: what such a clock receives would be removed as too old.
    #[arg(long, env = "MILLRACE_CLOCK_BEHIND_MAX_SECONDS", default_value_t = 3 * 86_400, value_parser = clap::value_parser!(u64).range(1..))]
    pub clock_behind_max_seconds: u64,

    /// Proxies whose `X-Forwarded-For` is believed, as networks (`10.0.0.0/8,::1/128`).
    #[arg(long, env = "MILLRACE_TRUSTED_PROXIES", value_delimiter = ',')]
    pub trusted_proxies: Vec<IpNet>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub hosts: HostConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub log: LogConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub enrich: EnrichConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub rates: RateConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub connections: ConnectionConfig,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub limits: LimitConfig,
}

/// Settings may hold passwords; nothing of them is shown.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// Kinds of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogKind {
    /// Apache Kafka; while it is away, files on this machine, from which it is caught up in order.
    Kafka,
    /// Files on this machine, which a consumer on it reads.
    Spool,
}

/// Where accepted events go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Log")]
pub struct LogConfig {
    /// What holds accepted events.
    #[arg(long = "log", env = "MILLRACE_LOG", value_enum, default_value = "kafka")]
    pub kind: LogKind,

    /// Kafka's brokers.
    #[arg(long, env = "MILLRACE_KAFKA_BROKERS", default_value = "127.0.0.1:9092")]
    pub kafka_brokers: String,

    /// Compression of Kafka batches: none, gzip, snappy, lz4, zstd.
    #[arg(long, env = "MILLRACE_KAFKA_COMPRESSION", default_value = "lz4", value_parser = ["none", "gzip", "snappy", "lz4", "zstd"])]
    pub kafka_compression: String,

    /// Milliseconds a message waits for others to share its Kafka batch with.
    #[arg(long, env = "MILLRACE_KAFKA_LINGER_MS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub kafka_linger_ms: u32,

    /// Milliseconds, and up to a second more, until a message that Kafka has not acknowledged goes to the spool
    /// instead, with all that come after it until Kafka answers again.
    #[arg(long, env = "MILLRACE_KAFKA_ACK_TIMEOUT_MS", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(100..=300_000))]
    pub kafka_ack_timeout_ms: u32,

    /// Messages that may wait for Kafka in memory.
    #[arg(long, env = "MILLRACE_KAFKA_QUEUE_MESSAGES_MAX", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub kafka_queue_messages_max: u32,

    /// Bytes of messages that may wait for Kafka in memory.
    #[arg(long, env = "MILLRACE_KAFKA_QUEUE_BYTES_MAX", default_value_t = 128 << 20, value_parser = clap::value_parser!(u32).range(1 << 20..=2_000_000_000))]
    pub kafka_queue_bytes_max: u32,

    /// Partitions of Kafka topics that are not there yet.
    #[arg(long, env = "MILLRACE_KAFKA_PARTITIONS", default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..))]
    pub partitions: i32,

    /// Replicas of Kafka topics that are not there yet.
    #[arg(long, env = "MILLRACE_KAFKA_REPLICATION_FACTOR", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..))]
    pub replication_factor: i32,

    /// Directory of the spool: the log itself, or where events wait while Kafka is away. Of one collector alone.
    #[arg(long, env = "MILLRACE_SPOOL_DIR", default_value = ".millrace/spool")]
    pub spool_dir: PathBuf,

    /// Bytes that the spool may take on disk; beyond, requests are answered 503.
    #[arg(long, env = "MILLRACE_SPOOL_BYTES_MAX", default_value_t = 4 << 30)]
    pub spool_bytes_max: u64,

    /// Percent of the spool that events of one store may take while they wait for the consumer or for Kafka; the last
    /// quarter of the spool is for stores of which less than 1/256 of it waits. Beyond, that store alone is answered 429; its
    /// write keys are so at three quarters of this.
    /// 100: one store may take all of it, as suits whoever has only one.
    #[arg(long, env = "MILLRACE_SPOOL_STORE_PERCENT_MAX", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub spool_store_percent_max: u32,

    /// Seconds that an event may wait in the spool, for the consumer or for Kafka. Once the oldest has waited longer,
    /// requests are answered 503: nothing that was acknowledged is dropped.
    #[arg(long, env = "MILLRACE_SPOOL_AGE_MAX_SECONDS", default_value_t = 7 * 24 * 3600, value_parser = clap::value_parser!(u64).range(60..))]
    pub spool_age_max_seconds: u64,

    /// Seconds after which the spool's last segment is followed by another one; a segment is deleted as soon as all in it
    /// was consumed, and is not the last. So nothing that was consumed stays on the disk for longer.
    #[arg(long, env = "MILLRACE_SPOOL_SEGMENT_AGE_MAX_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub spool_segment_age_max_seconds: u64,
}

/// Steps of enrichment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Step {
    /// Browser, operating system and device, from the user agent.
    UserAgent,
    /// Country, region and city, from the address, by `--geo-database`.
    Geo,
    /// Campaign, click id, referrer's host and channel, from the page's address and the one before.
    Campaign,
    /// A visitor that lasts a day for events that name none.
    Visitor,
    /// Whether an event is a program's.
    Bot,
    /// Addresses and titles without parameters that are not listed, emails and secrets.
    Url,
}

/// What is learned of an event from its request.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Enrichment")]
pub struct EnrichConfig {
    /// Steps that are left out.
    #[arg(long = "enrich-skip", env = "MILLRACE_ENRICH_SKIP", value_enum, value_delimiter = ',')]
    pub skip: Vec<Step>,

    /// Seconds between two looks whether one of the files below has changed, which is then read again.
    #[arg(long = "enrich-refresh-seconds", env = "MILLRACE_ENRICH_REFRESH_SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub refresh_seconds: u64,

    /// File with rules for user agents (uap-core's `regexes.yaml`), in place of those that are built in.
    #[arg(long, env = "MILLRACE_USER_AGENT_RULES")]
    pub user_agent_rules: Option<PathBuf>,

    /// File with places by address (MaxMind DB: GeoLite2 City or Country, or alike); without one places stay empty.
    #[arg(long, env = "MILLRACE_GEO_DATABASE")]
    pub geo_database: Option<PathBuf>,

    /// File with the networks of data centres, one a line; whoever sends from there is marked as a bot, but for the shop's
    /// own servers.
    #[arg(long, env = "MILLRACE_DATA_CENTRE_NETWORKS")]
    pub data_centre_networks: Option<PathBuf>,

    /// Events per minute of one visitor, by the times at which they happened; those beyond are marked as a bot's. A
    /// visitor that was derived may be several people and has ten times as many. 0: no limit.
    #[arg(long, env = "MILLRACE_BOT_EVENTS_PER_MINUTE", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(..=60_000))]
    pub bot_events_per_minute: u32,

    /// Keep the client's network (24 bits of IPv4, 48 of IPv6) in the column `ip`. The address itself is never kept.
    #[arg(long, env = "MILLRACE_KEEP_NETWORK")]
    pub keep_network: bool,

    /// Parameters that stay in the addresses of pages and referrers, whatever the case of their letters; one that ends in
    /// `*` stands for all that begin so. All others are removed before anything is stored.
    #[arg(long, env = "MILLRACE_URL_PARAMETERS", value_delimiter = ',', default_value = enrich::PARAMETERS)]
    pub url_parameters: Vec<String>,

    /// Keep fragments that are routes of single-page applications (`#/…`, `#!/…`); all others are removed.
    #[arg(long, env = "MILLRACE_URL_ROUTES")]
    pub url_routes: bool,

    /// Hosts, with all below them, that bring nobody, beside the payment providers that are built in: where a customer pays
    /// or logs in, and comes back from.
    #[arg(long, env = "MILLRACE_REFERRERS_IGNORED", value_delimiter = ',')]
    pub referrers_ignored: Vec<String>,

    /// File with sites that make up visits to be seen, beside those that are built in: words between blanks, `#` begins a
    /// comment. Who comes from one, or from below it, is a bot.
    #[arg(long, env = "MILLRACE_REFERRER_SPAM")]
    pub referrer_spam: Option<PathBuf>,
}

impl Default for EnrichConfig {
    /// The defaults that `--help` names.
    fn default() -> Self {
        Config::default().enrich
    }
}

/// How much may be sent.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Rates")]
pub struct RateConfig {
    /// Events per second of one store, over all its write keys, and as many again over all its secret keys, where the store
    /// has no rate of its own.
    #[arg(long, env = "MILLRACE_EVENTS_PER_SECOND", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub events_per_second: u32,

    /// Bytes per second that one store may write to the log, over all its write keys, and as many again over all its secret
    /// keys, as rows (an event takes about 700 bytes and
    /// what it carries). One request always fits; the store waits for the rate after it.
    #[arg(long, env = "MILLRACE_STORE_BYTES_PER_SECOND", default_value_t = 64 << 20, value_parser = clap::value_parser!(u64).range(1024..))]
    pub store_bytes_per_second: u64,

    /// Requests per second of one client address (an IPv6 network of 64 bits); 0: no limit.
    #[arg(long, env = "MILLRACE_CLIENT_REQUESTS_PER_SECOND", default_value_t = 5_000)]
    pub client_requests_per_second: u32,
}

/// How connections are treated.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connections")]
pub struct ConnectionConfig {
    /// Connections at a time, and never more than open files allow: the limit is raised as far as it may be, an eighth of
    /// it is kept for an API in this process, a sixteenth for metrics, and 128 files for the log and the databases. When
    /// all are taken, those that wait for their client's next bytes make room for new ones: first of the address that
    /// holds the most, and of its connections the one waited for the longest.
    #[arg(long, env = "MILLRACE_CONNECTIONS_MAX", default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,

    /// Milliseconds until a request's head must be complete; also how long a connection may stay idle.
    #[arg(long, env = "MILLRACE_HEAD_TIMEOUT_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub head_timeout_ms: u64,

    /// Milliseconds until a request's body must be complete.
    #[arg(long, env = "MILLRACE_BODY_TIMEOUT_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub body_timeout_ms: u64,

    /// Milliseconds that a client may take none of its answer's bytes, before its connection is closed.
    #[arg(long, env = "MILLRACE_WRITE_TIMEOUT_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub write_timeout_ms: u64,

    /// Bytes of a request's head.
    #[arg(long, env = "MILLRACE_HEAD_BYTES_MAX", default_value_t = 32 << 10, value_parser = clap::value_parser!(u32).range(8192..=1 << 20))]
    pub head_bytes_max: u32,

    /// Headers of a request.
    #[arg(long, env = "MILLRACE_HEADERS_MAX", default_value_t = 100, value_parser = clap::value_parser!(u16).range(10..))]
    pub headers_max: u16,

    /// Bytes of request bodies in memory at a time, not counting those of at most 16 KiB. One client address (an IPv6
    /// network of 64 bits) may have an eighth of it; what it has beyond waits, and is answered 503 after two seconds.
    #[arg(long, env = "MILLRACE_BODIES_BYTES_MAX", default_value_t = 128 << 20, value_parser = clap::value_parser!(u32).range(1 << 20..))]
    pub bodies_bytes_max: u32,

    /// Bytes of accepted events that may wait for the log's word; beyond, requests are answered 503.
    #[arg(long, env = "MILLRACE_UNLOGGED_BYTES_MAX", default_value_t = 128 << 20, value_parser = clap::value_parser!(u32).range(1 << 20..=1 << 29))]
    pub unlogged_bytes_max: u32,

    /// Milliseconds between SIGTERM or SIGINT, when `/readyz` begins to answer 503, and the end of listening: the time
    /// that a load balancer needs to notice. Requests are served meanwhile, each answer with `Connection: close`.
    #[arg(long, env = "MILLRACE_DRAIN_DELAY_MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=600_000))]
    pub drain_delay_ms: u64,

    /// Milliseconds in which the collector ends after that: three quarters for open requests, the rest for the log. What
    /// is not finished then is cut off, unanswered. A second signal ends the process at once.
    #[arg(long, env = "MILLRACE_DRAIN_TIMEOUT_MS", default_value_t = 15_000, value_parser = clap::value_parser!(u64).range(100..=600_000))]
    pub drain_timeout_ms: u64,
}

macro_rules! limit_config {
    ($($(#[doc = $doc:literal])+ $field:ident, $env:literal, $range:expr;)+) => {
        /// How large anything may be.
        #[derive(Clone, Debug, Args)]
        #[command(next_help_heading = "Limits")]
        pub struct LimitConfig {
            $($(#[doc = $doc])+
            #[arg(long, env = $env, default_value_t = Limits::default().$field, value_parser = bounded($range))]
            pub $field: usize,)+
        }

        impl LimitConfig {
            /// The limits as validation takes them.
            pub fn limits(&self) -> Limits {
                Limits { $($field: self.$field,)+ }
            }
        }
    };
}

limit_config! {
    /// Bytes of a request body as it arrives.
    body_bytes_max, "MILLRACE_BODY_BYTES_MAX", 1..=16 << 20;
    /// Bytes of a request body after `Content-Encoding` is undone.
    inflated_bytes_max, "MILLRACE_INFLATED_BYTES_MAX", 1..=24 << 20;
    /// Events in one request.
    events_max, "MILLRACE_EVENTS_MAX", 1..=100_000;
    /// Bytes of one event as it arrives, and of the `context` of a request's events. With more than 256 KiB Kafka's topics
    /// need a larger `max.message.bytes`.
    event_bytes_max, "MILLRACE_EVENT_BYTES_MAX", 1..=1 << 20;
    /// Entries in `properties`.
    properties_max, "MILLRACE_PROPERTIES_MAX", 0..=1000;
    /// Items in `items`.
    items_max, "MILLRACE_ITEMS_MAX", 0..=10_000;
    /// Bytes of any string but a URL.
    string_bytes_max, "MILLRACE_STRING_BYTES_MAX", 1..=32 << 10;
    /// Bytes of a URL.
    url_bytes_max, "MILLRACE_URL_BYTES_MAX", 1..=64 << 10;
    /// Levels of objects and arrays in an event, the event itself being the first.
    nesting_max, "MILLRACE_NESTING_MAX", 2..=DEPTH_MAX as u64;
    /// Largest amount (total, tax, shipping, discount, price times quantity, and the sum of these over the items) and
    /// largest quantity that an event sent with a write key may name; beyond it the event is refused. In whole units of a
    /// currency like the dollar or the euro; of currencies whose unit is worth a hundredth of that, a thousandth and so
    /// on, as many times more (yen: a hundred times). What a server says with a secret key has no such limit.
    untrusted_amount_max, "MILLRACE_UNTRUSTED_AMOUNT_MAX", 1..=1_000_000_000;
}

fn bounded(range: std::ops::RangeInclusive<u64>) -> impl clap::builder::TypedValueParser<Value = usize> {
    use clap::builder::TypedValueParser as _;
    clap::value_parser!(u64).range(range).map(|value| value as usize)
}

impl Default for Config {
    /// The defaults that `--help` names, whatever the environment says.
    fn default() -> Self {
        let matches = Self::command().mut_args(|arg| arg.env(None)).get_matches_from(["millrace-collector"]);
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_the_contracts() {
        Config::command().debug_assert();
        let config = Config::default();
        assert_eq!(config.address.to_string(), "127.0.0.1:8080");
        assert_eq!(config.limits.limits(), Limits::default());
    }

    #[test]
    fn no_secret_is_shown() {
        assert_eq!(millrace_service::setting::secrets_in_help(&Config::command()), Vec::<String>::new());
        let config = Config { postgres_url: "postgres://u:canary@h/d".into(), ..Config::default() };
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn bad_values_are_named() {
        let error = Config::try_parse_from(["c", "--events-max", "0"]).unwrap_err().to_string();
        assert!(error.contains("--events-max"), "{error}");
    }
}
