//! What the operator wrote about reachability.
//!
//! Here live the keys of `[reach]`, `[[reach.hook]]` and the `reach` tables of interfaces and peers.
//! Single values are checked; what they mean together is `meaning`'s business.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::defaults;
use crate::{
    config::{
        document::{At, Section},
        names::Names,
        value,
    },
    core::{
        prefix::Prefix,
        reach::rule::{BabeldSocket, ProbeKind},
        route::TableId,
    },
};

/// `[reach]`.
pub(in crate::config) struct RawReach {
    pub(super) port: Option<u16>,
    pub(super) bird: Option<PathBuf>,
    pub(super) babeld: Option<BabeldSocket>,
    pub(super) hooks: Vec<RawHook>,
}

/// `[[reach.hook]]`.
pub(in crate::config) struct RawHook {
    pub(super) at: usize,
    pub(super) command: Option<Vec<At<String>>>,
    pub(super) webhook: Option<String>,
    pub(super) interval: Option<Duration>,
    pub(super) timeout: Option<Duration>,
}

/// `[interface.reach]`.
pub(in crate::config) struct RawLinkReach {
    pub(super) probe: Option<ProbeKind>,
    pub(super) interval: Option<Duration>,
    pub(super) lost: Option<u32>,
    pub(super) answered: Option<u32>,
    pub(super) hold_down: Option<Duration>,
    pub(super) dormant: Option<At<bool>>,
    pub(super) announce: Option<RawAnnounce>,
    pub(super) babeld: Option<RawBabeld>,
}

/// `[interface.reach.announce]`.
pub(in crate::config) struct RawAnnounce {
    pub(super) table: Option<TableId>,
    pub(super) protocol: Option<u8>,
    pub(super) metric: Option<u32>,
    pub(super) metric_from_rtt: Option<bool>,
    pub(super) hosts: Option<bool>,
}

/// `[interface.reach.babeld]`.
pub(in crate::config) struct RawBabeld {
    pub(super) at: usize,
    pub(super) options: Option<String>,
    pub(super) rxcost: Option<u32>,
}

/// `[interface.peer.reach]`.
pub(in crate::config) struct RawPeerReach {
    pub(super) at: usize,
    pub(super) addresses: Option<Vec<At<IpAddr>>>,
    pub(super) announce: Option<Vec<At<Prefix>>>,
    pub(super) bird: Option<Vec<At<String>>>,
}

fn value_of<T>(at: At<T>) -> T {
    at.value
}

impl RawReach {
    pub(in crate::config) fn read(mut section: Section<'_, '_>) -> Self {
        let reach = RawReach {
            port: section.take("port", value::port).map(value_of),
            bird: section.take("bird", value::absolute_path).map(value_of),
            babeld: section.take("babeld", value::babeld_socket).map(value_of),
            hooks: section
                .sections("hook", "a table in double brackets, [[reach.hook]],", RawHook::read)
                .unwrap_or_default(),
        };
        section.finish();
        reach
    }
}

impl RawHook {
    fn read(mut section: Section<'_, '_>) -> Self {
        let hook = RawHook {
            at: section.at,
            command: section.list(
                "command",
                Some("name the program, or leave `command` out"),
                value::argument,
            ),
            webhook: section.take("webhook", value::url).map(value_of),
            interval: section
                .take("interval", |v| value::duration(v, &defaults::HOOK_INTERVAL_RANGE))
                .map(value_of),
            timeout: section
                .take("timeout", |v| value::duration(v, &defaults::HOOK_TIMEOUT_RANGE))
                .map(value_of),
        };
        section.finish();
        hook
    }
}

impl RawLinkReach {
    pub(in crate::config) fn read(mut section: Section<'_, '_>, names: &Names) -> Self {
        const PROBES: [(&str, ProbeKind); 3] =
            [("icmp", ProbeKind::Icmp), ("udp", ProbeKind::Udp), ("off", ProbeKind::Off)];
        let reach = RawLinkReach {
            probe: section.take("probe", |v| value::choice(v, &PROBES)).map(value_of),
            interval: section
                .take("interval", |v| value::duration(v, &defaults::INTERVAL_RANGE))
                .map(value_of),
            lost: section.take("lost", |v| value::count(v, &defaults::LOST_RANGE)).map(value_of),
            answered: section
                .take("answered", |v| value::count(v, &defaults::ANSWERED_RANGE))
                .map(value_of),
            hold_down: section
                .take("hold_down", |v| value::duration(v, &defaults::HOLD_DOWN_RANGE))
                .map(value_of),
            dormant: section.take("dormant", value::boolean),
            announce: section.table("announce").map(|section| RawAnnounce::read(section, names)),
            babeld: section.table("babeld").map(RawBabeld::read),
        };
        section.finish();
        reach
    }
}

impl RawAnnounce {
    fn read(mut section: Section<'_, '_>, names: &Names) -> Self {
        let announce = RawAnnounce {
            table: section.take("table", |v| value::table(v, names)).map(value_of),
            protocol: section.take("protocol", |v| value::own_protocol(v, names)).map(value_of),
            metric: section
                .take("metric", |v| value::count(v, &defaults::ANNOUNCE_METRIC_RANGE))
                .map(value_of),
            metric_from_rtt: section.take("metric_from_rtt", value::boolean).map(value_of),
            hosts: section.take("hosts", value::boolean).map(value_of),
        };
        section.finish();
        announce
    }
}

impl RawBabeld {
    fn read(mut section: Section<'_, '_>) -> Self {
        let babeld = RawBabeld {
            at: section.at,
            options: section.take("options", value::argument).map(value_of),
            rxcost: section.take("rxcost", |v| value::count(v, &(1..=65_534))).map(value_of),
        };
        section.finish();
        babeld
    }
}

impl RawPeerReach {
    pub(in crate::config) fn read(mut section: Section<'_, '_>) -> Self {
        let reach = RawPeerReach {
            at: section.at,
            addresses: section.list("addresses", None, value::address),
            announce: section.list("announce", None, value::parsed),
            bird: section.list("bird", None, value::bird_protocol),
        };
        section.finish();
        reach
    }
}
