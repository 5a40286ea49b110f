//! The pure core: what the daemon knows and decides.
//!
//! Here live the mirror of the kernel's routes, the assignment of routes to peers, the wanted and
//! installed AllowedIPs, and the state machine that turns one into the other. Nothing in this
//! module performs I/O, reads a clock, logs, draws random numbers or awaits: time is an argument
//! ([`time::Time`]), the outside world is [`event::Event`] in and [`event::Request`] out. A test
//! (`tests/purity.rs`) enforces it.

pub mod change;
pub mod device;
pub mod doctor;
pub mod election;
pub mod engine;
pub mod event;
pub mod exits;
pub mod filter;
pub mod interface;
pub mod links;
pub mod lookup;
pub mod nexthops;
pub mod path_table;
pub mod peer;
pub mod peers;
pub mod prefix;
pub mod prefix_map;
pub mod queue;
pub mod reach;
pub mod report;
pub mod resolve;
pub mod rib;
pub mod route;
pub mod rule;
pub mod slot;
pub mod snapshot;
pub mod sync;
pub mod time;
