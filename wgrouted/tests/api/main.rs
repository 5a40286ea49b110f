//! The daemon's HTTP interface as its clients meet it: real sockets, a real engine, and a picture of
//! reachability that is filled by hand.

#![allow(unreachable_pub, clippy::unwrap_used, reason = "a test program")]

mod events;
mod hooks;
mod metrics;
mod openapi;
mod tcp;
mod world;
