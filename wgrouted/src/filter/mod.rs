//! The packet filter's commands, as far as they need no daemon.
//!
//! Here live what `wgrouted filter check` prints, the packet that `wgrouted filter test` asks
//! about, and how a verdict is said. Nothing here opens a socket or a map.

pub mod answer;
pub mod check;
pub mod probe;
