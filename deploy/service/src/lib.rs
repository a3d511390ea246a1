//! What every process of Millrace does alike.
//!
//! * [`host`]: which names a listener answers to, so that no web page reaches it under a name of its own;
//! * [`private`]: directories and files that their owner alone may read;
//! * [`mod@serve`]: how a listener serves, with bounds for whatever is sent to it;
//! * [`setting`]: settings that hold secrets, checked without repeating them.

pub mod host;
pub mod private;
pub mod serve;
pub mod setting;
