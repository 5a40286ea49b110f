//! The packet filter on real kernels.
//!
//! Here live its scenarios, a file for each subject. Invariant: what passed is counted on a node
//! behind the hub, never on the filtered device, where taps see packets before tc drops them.

mod daemons;
mod lifecycle;
mod moves;
mod policies;
mod questions;
mod scale;
mod service;
mod shared;
mod sources;
mod support;
mod tunnels;

use super::Scenario;

/// All of them.
pub(super) fn scenarios() -> Vec<Scenario> {
    [
        sources::SCENARIOS,
        policies::SCENARIOS,
        shared::SCENARIOS,
        tunnels::SCENARIOS,
        moves::SCENARIOS,
        lifecycle::SCENARIOS,
        service::SCENARIOS,
        questions::SCENARIOS,
        daemons::SCENARIOS,
        scale::SCENARIOS,
    ]
    .concat()
}
