//! millrace-consumer
