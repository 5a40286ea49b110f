//! What tests against the real kernel share: a network namespace of their own ([`netns`]) and a
//! fast way to fill its routing tables ([`routes`]).
//!
//! Nothing here knows what is tested.

#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs)]

pub mod netns;
pub mod routes;
