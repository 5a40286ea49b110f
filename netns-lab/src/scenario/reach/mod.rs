//! Reachability: peers that die, return, roam and flap, and who is told.
//!
//! Here lives the list; each file beside this one holds the scenarios of one subject.

mod api;
mod liveness;
mod support;

use super::Scenario;

/// Every scenario about reachability.
pub(super) fn scenarios() -> Vec<Scenario> {
    [liveness::SCENARIOS, api::SCENARIOS].concat()
}
