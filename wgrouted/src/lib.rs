//! wgrouted keeps WireGuard's AllowedIPs equal to the kernel's routing table.
//!
//! ```text
//!  BIRD / babeld / FRR ──install──► kernel FIB ──rtnetlink──► wgrouted ──batches──► AllowedIPs
//! ```
//!
//! - [`core`] decides. It is pure: events and the time in, requests out. Everything else is I/O.
//! - [`source`] turns rtnetlink into events.
//! - [`target`] turns requests into WireGuard's generic netlink.
//! - [`serve`] answers questions over a Unix socket and TCP; [`show`] prints the answers.
//! - [`config`] and [`cli`] say what the operator wants; [`filter`] says what that means to packets.
//! - [`explain`] follows one packet to its peer and back.
//! - [`live`] shows what changes while it does.
//! - [`reach`] watches peers and tells routing daemons.
//! - [`doctor`] looks at the machine, and changes nothing; [`cleanup`] takes away what was left.
//! - [`daemon`] is the only place that knows all parts; [`oneshot`] is its little sister that
//!   reads everything once and changes nothing.

pub mod cleanup;
pub mod cli;
pub mod config;
pub mod core;
pub mod daemon;
pub mod doctor;
pub mod exits;
pub mod explain;
pub mod filter;
pub mod live;
pub mod oneshot;
pub mod reach;
pub mod serve;
pub mod show;
pub mod source;
pub mod target;
mod terminal;
