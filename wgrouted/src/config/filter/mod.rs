//! The packet filter's part of the configuration.
//!
//! Here live its keys, the language of its rules, and what both mean. Invariant: a [`Filter`] that
//! exists is valid, and so is what interfaces and peers say about it: policies that they name
//! exist, and all of them fit the maps.

pub mod defaults;
mod grammar;
pub(super) mod meaning;
pub(super) mod raw;
mod words;

use std::path::PathBuf;

pub use self::{
    grammar::{Canonical, RuleError, parse},
    words::{has_ports, icmp_type, icmp_types, is_icmp, protocol_name, protocol_number},
};
use crate::core::filter::rule::{FilterRule, LinkFilter, PeerFilter, Sizes};

/// What concerns the packet filter as a whole. It is in use if an interface has a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Where maps and programs are pinned.
    pub directory: PathBuf,
    /// What holds for all links.
    pub rule: FilterRule,
}

impl Default for Filter {
    fn default() -> Self {
        Filter {
            directory: defaults::DIRECTORY.into(),
            rule: FilterRule {
                hook: defaults::HOOK,
                sizes: Sizes {
                    sources_v4: defaults::IPV4_SOURCES,
                    sources_v6: defaults::IPV6_SOURCES,
                    peers: defaults::PEERS,
                    rules: defaults::RULES,
                    flows: defaults::FLOWS,
                },
                samples_per_second: defaults::SAMPLES,
                grace: defaults::GRACE,
                audit: defaults::AUDIT_INTERVAL,
                on_exit: defaults::ON_EXIT,
                policies: Vec::new(),
            },
        }
    }
}

/// The filter of a link about which nothing is said but that it has one.
pub(super) fn link_defaults() -> LinkFilter {
    let peers = PeerFilter {
        source: defaults::SOURCE,
        monitor: false,
        list: Vec::new(),
        group: None,
        policy: None,
        link_local: true,
        unspecified: true,
        control: true,
        ignore_default: false,
    };
    LinkFilter { peers, open: false }
}
