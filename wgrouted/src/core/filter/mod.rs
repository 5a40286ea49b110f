//! The packet filter: what its maps shall hold, and how to get there.
//!
//! Here live its rules ([`rule`]), its policies ([`policy`]), what is legal for whom ([`legal`]) and
//! the state machine ([`machine`]) with the tables it reconciles. How maps and programs are handled
//! is the target's business; the data that go between the two are in [`table`].

mod domain;
pub mod judge;
pub mod legal;
pub mod machine;
pub mod owners;
pub mod policy;
pub mod report;
pub mod roster;
pub mod rule;
pub mod sources;
pub mod table;
pub mod words;

pub use self::{legal::View, machine::Filter};
