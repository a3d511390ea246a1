//! What `millrace run` prints when everything is up.

use std::fmt;

/// Addresses and keys, for people.
pub(super) struct Banner {
    pub(super) collector: String,
    pub(super) api: String,
    pub(super) admin_token: String,
    pub(super) postgres: String,
    pub(super) clickhouse: String,
    pub(super) metrics: String,
    pub(super) data_dir: String,
}

impl fmt::Display for Banner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { collector, api, admin_token, postgres, clickhouse, metrics, data_dir } = self;
        write!(
            f,
            "\nMillrace is up. Ctrl-C drains and stops it.\n
  post events to   {collector}/v1/collect
  read rollups at  {api}/api/v1/stores/demo/analytics_summary
  or by SQL from   {postgres}
  raw events       {clickhouse} (ClickHouse's HTTP protocol; with user and password: {data_dir}/clickhouse.url)
  metrics          {metrics}/metrics
  data             {data_dir}

  store demo       write key demo-write-key, secret key demo-secret-key, API token demo-api-token
  admin token      {admin_token}
"
        )
    }
}
