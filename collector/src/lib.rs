//! millrace-collector
