//! Reachability's part of the configuration.
//!
//! Here live its keys and what they mean. Invariant: rules that exist are valid.

pub mod defaults;
pub(super) mod meaning;
pub(super) mod raw;

use super::defaults as defaults_of_all;
use crate::core::reach::rule::{LinkReach, ReachRule};

/// What concerns reachability as a whole, with nothing configured.
pub(super) fn rule_defaults() -> ReachRule {
    ReachRule { port: defaults::PORT, bird: None, babeld: None, hooks: Vec::new() }
}

/// The reachability of a link about which nothing is said but that it is watched.
pub(super) fn link_defaults() -> LinkReach {
    LinkReach {
        probe: defaults::PROBE,
        interval: defaults::INTERVAL,
        lost: defaults::LOST,
        answered: defaults::ANSWERED,
        hold_down: defaults::HOLD_DOWN,
        announce: None,
        dormant: false,
        babeld: None,
        on_exit: defaults_of_all::ON_EXIT,
    }
}
