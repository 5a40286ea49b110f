//! The packet filter's commands.
//!
//! Here live what `wgrouted filter` prints, the packet that `filter test` asks about, and how a
//! verdict is said. Nothing here opens a socket or a map.

pub mod answer;
pub mod check;
pub mod probe;
pub mod view;
pub mod watch;
