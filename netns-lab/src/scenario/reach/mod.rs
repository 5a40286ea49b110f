//! Reachability: peers that die, return, roam and flap, and who is told.
//!
//! Here lives the list; each file beside this one holds the scenarios of one subject.

mod announce;
mod api;
mod crowd;
mod liveness;
mod reroute;
mod restarts;
mod rivals;
mod sockets;
mod support;

use super::Scenario;

/// Every scenario about reachability.
pub(super) fn scenarios() -> Vec<Scenario> {
    [
        liveness::SCENARIOS,
        announce::SCENARIOS,
        sockets::SCENARIOS,
        api::SCENARIOS,
        reroute::SCENARIOS,
        restarts::SCENARIOS,
        crowd::SCENARIOS,
    ]
    .concat()
}
