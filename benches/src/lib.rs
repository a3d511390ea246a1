//! What the benchmarks share, and the two programs over it.
//!
//! * `bench` measures the services against the limits of the same machine, in one run, and keeps the table;
//! * `load` sends events to a running collector at a rate, and can watch the memory of processes meanwhile.
//!
//! In the order of use: [`event`] makes requests, [`load`] sends them, [`floor`] is the server that does nothing with
//! them, [`service`] starts the real ones, [`process`] and [`watch`] read what they cost, [`measure`] has one module
//! for each service, [`table`] and [`machine`] write down what came out.

pub mod event;
pub mod floor;
pub mod load;
pub mod machine;
pub mod measure;
pub mod process;
pub mod rows;
pub mod service;
pub mod table;
pub mod watch;
