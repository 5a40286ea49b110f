//! Which peers can be reached: what is known, how it is known, and what is said about it.
//!
//! Here live the pure parts: the rules ([`rule`]), whom they concern ([`roster`]), one peer's state
//! machine ([`liveness`]), the machine of all peers ([`machine`]), the messages to and from the edge
//! ([`event`]), what is published ([`status`]), when hooks are told of it ([`hooks`]), which kernel
//! routes follow from it ([`announce`], [`route`]), and the machines that bring BIRD ([`bird`]) and
//! babeld ([`babeld`]) in line by [`dialogue`]. Sockets, sinks and the clock are in `crate::reach`.
//! Invariant: a peer of which nothing is heard, and of which nothing need be heard, is `unknown`,
//! never `down`.

pub mod announce;
pub mod babeld;
pub mod bird;
pub mod dialogue;
pub mod event;
mod hold;
pub mod hooks;
mod line;
pub mod lines;
pub mod liveness;
pub mod machine;
mod passive;
pub mod roster;
pub mod route;
pub mod rule;
pub mod status;
