//! millrace-aggregator
