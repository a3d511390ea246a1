//! What `millrace run` prints when everything is up.

use std::{fmt, net::SocketAddr};

use millrace_schemas::demo;

/// Addresses and keys, for people.
pub(super) struct Banner {
    pub(super) collector: String,
    pub(super) api: String,
    pub(super) admin_token: String,
    pub(super) clickhouse: String,
    pub(super) metrics: String,
    pub(super) data_dir: String,
    pub(super) demo: Demo,
}

/// What the keys of the store `demo`, which everybody knows, are good for.
pub(super) enum Demo {
    /// Nobody else reaches a listener.
    Holds,
    /// This listener can be reached from another machine.
    IsSuspendedBy(SocketAddr),
}

impl fmt::Display for Demo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Holds => write!(
                f,
                "write key {}, secret key {}, API token {}",
                demo::WRITE_KEY,
                demo::SECRET_KEY,
                demo::API_TOKEN
            ),
            Self::IsSuspendedBy(address) => write!(
                f,
                "its keys, known to everybody, do not hold: {address} is no loopback address; make a store of your own\n                 \x20                  (README, \"Keys\"), or give it other keys: POST /api/v1/stores/demo/keys"
            ),
        }
    }
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { collector, api, admin_token, clickhouse, metrics, data_dir, demo } = self;
        write!(
            f,
            "\nMillrace is up. Ctrl-C drains and stops it.\n
  post events to   {collector}/v1/collect
  read rollups at  {api}/api/v1/stores/demo/analytics_summary
  or by SQL        psql \"$(cat {data_dir}/postgres.url)\"
  raw events       {clickhouse} (ClickHouse's HTTP protocol; with user and password: {data_dir}/clickhouse.url)
  metrics          {metrics}/metrics
  data             {data_dir}

  store demo       {demo}
  admin token      {admin_token}
"
        )
    }
}
