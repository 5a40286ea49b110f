//! Which flow leaves by which exit.
//!
//! Here live the promises of `[[exit]]` and `[[flow]]`, one subject a file. Invariant: by which way a
//! packet left is what the far end saw, not what a daemon says.

mod configs;
mod mesh;
mod shared;
mod support;

use super::Scenario;

/// All of them.
pub(super) fn scenarios() -> Vec<Scenario> {
    [mesh::SCENARIOS, shared::SCENARIOS].concat()
}
