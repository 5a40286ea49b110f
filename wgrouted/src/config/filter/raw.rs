//! What the operator wrote about the packet filter.
//!
//! Here live the keys of `[filter]`, `[[filter.policy]]` and the `filter` tables of interfaces and
//! peers. Single values are checked; what they mean together is `meaning`'s business.

use std::{path::PathBuf, time::Duration};

use super::defaults;
use crate::{
    config::{
        document::{At, Section},
        raw::EXITS,
        value,
    },
    core::{
        filter::rule::{Hook, SourceMode},
        prefix::Prefix,
        rule::{Audit, OnExit},
    },
};

/// `[filter]`.
pub(in crate::config) struct RawFilter {
    pub(super) at: usize,
    pub(super) hook: Option<Hook>,
    pub(super) directory: Option<PathBuf>,
    pub(super) grace: Option<Duration>,
    pub(super) samples: Option<u32>,
    pub(super) audit_interval: Option<Audit>,
    pub(super) on_exit: Option<OnExit>,
    pub(super) ipv4_sources: Option<u32>,
    pub(super) ipv6_sources: Option<u32>,
    pub(super) peers: Option<At<u32>>,
    pub(super) rules: Option<At<u32>>,
    pub(super) flows: Option<u32>,
    /// `None` if it is not a list of tables.
    pub(super) policies: Option<Vec<RawPolicy>>,
}

/// `[[filter.policy]]`.
pub(super) struct RawPolicy {
    pub(super) at: usize,
    pub(super) name: Option<At<String>>,
    pub(super) accept: Option<bool>,
    pub(super) stateful: Option<bool>,
    pub(super) most_specific: Option<bool>,
    pub(super) rules: Vec<At<String>>,
}

/// `[interface.filter]` and `[interface.peer.filter]`.
pub(in crate::config) struct RawLinkFilter {
    pub(super) at: usize,
    pub(super) source: Option<At<SourceMode>>,
    pub(super) monitor: Option<bool>,
    pub(super) list: Option<Vec<At<Prefix>>>,
    pub(super) group: Option<String>,
    pub(super) policy: Option<At<String>>,
    pub(super) link_local: Option<bool>,
    pub(super) unspecified: Option<bool>,
    pub(super) control: Option<bool>,
    pub(super) ignore_default: Option<bool>,
    pub(super) open: Option<At<bool>>,
}

fn value_of<T>(at: At<T>) -> T {
    at.value
}

impl RawFilter {
    pub(in crate::config) fn read(mut section: Section<'_, '_>) -> Self {
        const HOOKS: [(&str, Hook); 3] =
            [("auto", Hook::Auto), ("xdp", Hook::Xdp), ("tcx", Hook::Tcx)];
        let filter = RawFilter {
            at: section.at,
            hook: section.take("hook", |v| value::choice(v, &HOOKS)).map(value_of),
            directory: section.take("directory", value::absolute_path).map(value_of),
            grace: section
                .take("grace", |v| value::duration(v, &defaults::GRACE_RANGE))
                .map(value_of),
            samples: section
                .take("samples", |v| value::count(v, &defaults::SAMPLES_RANGE))
                .map(value_of),
            audit_interval: section.take("audit_interval", value::audit).map(value_of),
            on_exit: section.take("on_exit", |v| value::choice(v, &EXITS)).map(value_of),
            ipv4_sources: section
                .take("ipv4_sources", |v| value::count(v, &defaults::SOURCES_RANGE))
                .map(value_of),
            ipv6_sources: section
                .take("ipv6_sources", |v| value::count(v, &defaults::SOURCES_RANGE))
                .map(value_of),
            peers: section.take("peers", |v| value::count(v, &defaults::PEERS_RANGE)),
            rules: section.take("rules", |v| value::count(v, &defaults::RULES_RANGE)),
            flows: section.take("flows", |v| value::count(v, &defaults::FLOWS_RANGE)).map(value_of),
            policies: section.sections(
                "policy",
                "a table in double brackets, [[filter.policy]],",
                RawPolicy::read,
            ),
        };
        section.finish();
        filter
    }
}

impl RawPolicy {
    fn read(mut section: Section<'_, '_>) -> Self {
        const DEFAULTS: [(&str, bool); 2] = [("accept", true), ("drop", false)];
        const ORDERS: [(&str, bool); 2] = [("listed", false), ("most-specific", true)];
        let policy = RawPolicy {
            at: section.at,
            name: section.require("name", "name = \"clients\"", value::policy_name),
            accept: section.take("default", |v| value::choice(v, &DEFAULTS)).map(value_of),
            stateful: section.take("stateful", value::boolean).map(value_of),
            most_specific: section.take("order", |v| value::choice(v, &ORDERS)).map(value_of),
            rules: section.list("rules", None, value::rule).unwrap_or_default(),
        };
        section.finish();
        policy
    }
}

impl RawLinkFilter {
    /// Whether it opens AllowedIPs.
    pub(in crate::config) fn is_open(&self) -> bool {
        self.open.is_some_and(|open| open.value)
    }

    /// The filter of an interface.
    pub(in crate::config) fn of_link(mut section: Section<'_, '_>) -> Self {
        let open = section.take("open", value::boolean);
        RawLinkFilter { open, ..Self::read(section) }
    }

    /// The filter of a peer.
    pub(in crate::config) fn of_peer(section: Section<'_, '_>) -> Self {
        Self::read(section)
    }

    fn read(mut section: Section<'_, '_>) -> Self {
        const MODES: [(&str, SourceMode); 6] = [
            ("off", SourceMode::Off),
            ("strict", SourceMode::Strict),
            ("feasible", SourceMode::Feasible),
            ("loose", SourceMode::Loose),
            ("list", SourceMode::List),
            ("group", SourceMode::Group),
        ];
        const ACTIONS: [(&str, bool); 2] = [("enforce", false), ("monitor", true)];
        let filter = RawLinkFilter {
            at: section.at,
            source: section.take("source", |v| value::choice(v, &MODES)),
            monitor: section.take("action", |v| value::choice(v, &ACTIONS)).map(value_of),
            list: section.list("list", None, value::parsed),
            group: section.take("group", value::group_name).map(value_of),
            policy: section.take("policy", value::policy_name),
            link_local: section.take("link_local", value::boolean).map(value_of),
            unspecified: section.take("unspecified", value::boolean).map(value_of),
            control: section.take("control", value::boolean).map(value_of),
            ignore_default: section.take("ignore_default", value::boolean).map(value_of),
            open: None,
        };
        section.finish();
        filter
    }
}
