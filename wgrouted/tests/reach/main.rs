//! Probes on the real kernel: two network namespaces, a cable between them.
//!
//! Needs root and iproute2: `sudo -E cargo test -p wgrouted --test reach -- --ignored`

#![allow(clippy::unwrap_used, missing_docs)]

mod answers;
mod failures;
mod lab;
mod probes;
mod scale;

#[path = "../support/mod.rs"]
mod support;
