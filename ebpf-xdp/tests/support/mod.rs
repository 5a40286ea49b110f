//! What tests of the verdict share, the loaded program's too: packets, and tables that are searched
//! line by line.

#![allow(clippy::unwrap_used, dead_code, missing_docs, unreachable_pub, reason = "test support")]

pub mod packets;
pub mod world;
