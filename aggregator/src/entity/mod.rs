//! What events are about: orders, and the sessions of visitors. Each is a pure function of its own events and the store's
//! settings, so it can be computed again at any time, for a few keys or for all, and comes out the same.

pub mod order;
pub mod orders;
pub mod session;
pub mod visit;
