//! The programs of this package, run.

mod bench;
mod load;
