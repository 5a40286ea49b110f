//! The packet filter: what its maps shall hold.
//!
//! Here live its rules, its policies and the data that go between it and the target that holds the
//! maps.

pub mod policy;
pub mod rule;
pub mod table;
