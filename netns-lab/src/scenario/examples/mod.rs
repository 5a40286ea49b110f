//! The shipped examples, as they stand.
//!
//! Here live scenarios that run the files of `bird-examples` and `babel-examples`, a file for each
//! family. Invariant: what is run is what is shipped, set up by the script that is shipped with it.
//! Examples for BIRD run on BIRD 2 and on BIRD 3.

mod babel;
mod bgp;
mod exits;
mod links;
mod support;

use super::Scenario;

/// All of them.
pub(super) fn scenarios() -> Vec<Scenario> {
    [bgp::SCENARIOS, exits::SCENARIOS, links::SCENARIOS, babel::SCENARIOS].concat()
}
