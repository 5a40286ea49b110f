//! Which flow leaves by which exit.
//!
//! Here live the promises of `[[exit]]` and `[[flow]]`, one subject a file. Invariant: by which way a
//! packet left is what the far end saw, not what a daemon says.

mod cleanup;
mod client;
mod coexist;
mod configs;
mod dies;
mod everything;
mod kill_switch;
mod mesh;
mod shared;
mod support;
mod taken;
mod thousand;

use super::Scenario;

/// All of them.
pub(super) fn scenarios() -> Vec<Scenario> {
    [
        mesh::SCENARIOS,
        shared::SCENARIOS,
        dies::SCENARIOS,
        kill_switch::SCENARIOS,
        everything::SCENARIOS,
        thousand::SCENARIOS,
        cleanup::SCENARIOS,
        coexist::SCENARIOS,
        taken::SCENARIOS,
    ]
    .concat()
}
