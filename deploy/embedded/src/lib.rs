//! One-machine Millrace.
