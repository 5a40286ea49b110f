//! What the operator meant by what was written about reachability.
//!
//! Here live the defaults' places and every check that needs more than one value.

use super::{
    defaults,
    raw::{RawHook, RawLinkReach, RawPeerReach, RawReach},
};
use crate::{
    config::{
        document::{At, Report},
        error::Problem,
        meaning::values,
    },
    core::{
        reach::rule::{
            AnnounceRule, BabeldRule, HookAction, HookRule, LinkReach, PeerReach, ReachRule,
        },
        rule::{LinkMode, OnExit},
    },
};

/// What concerns reachability as a whole.
pub(in crate::config) fn rule(raw: RawReach, report: &Report<'_>) -> ReachRule {
    let default = super::rule_defaults();
    ReachRule {
        port: raw.port.unwrap_or(default.port),
        bird: raw.bird,
        babeld: raw.babeld,
        hooks: raw.hooks.into_iter().filter_map(|raw| hook(raw, report)).collect(),
    }
}

fn hook(raw: RawHook, report: &Report<'_>) -> Option<HookRule> {
    let action = match (raw.command, raw.webhook) {
        (Some(command), None) => HookAction::Command(values(command)),
        (None, Some(url)) => HookAction::Webhook(url),
        _ => {
            report.add(raw.at, "reach.hook", Problem::HookAction);
            return None;
        }
    };
    Some(HookRule {
        action,
        interval: raw.interval.unwrap_or(defaults::HOOK_INTERVAL),
        timeout: raw.timeout.unwrap_or(defaults::HOOK_TIMEOUT),
    })
}

/// How the peers of a link are watched. `whole` says which sockets are configured.
pub(in crate::config) fn link(
    raw: RawLinkReach,
    (mode, on_exit): (Option<LinkMode>, OnExit),
    whole: &ReachRule,
    report: &Report<'_>,
) -> LinkReach {
    let default = super::link_defaults();
    if let Some(At { at, value: true }) = raw.dormant
        && mode == Some(LinkMode::Shared)
    {
        report.add(at, "interface.reach.dormant", Problem::OnlyDedicated("dormant"));
    }
    if let Some(babeld) = &raw.babeld {
        if mode == Some(LinkMode::Shared) {
            report.add(babeld.at, "interface.reach.babeld", Problem::OnlyDedicated("babeld"));
        }
        if whole.babeld.is_none() {
            report.add(babeld.at, "interface.reach.babeld", Problem::NoSocket("babeld"));
        }
    }
    LinkReach {
        probe: raw.probe.unwrap_or(default.probe),
        interval: raw.interval.unwrap_or(default.interval),
        lost: raw.lost.unwrap_or(default.lost),
        answered: raw.answered.unwrap_or(default.answered),
        hold_down: raw.hold_down.unwrap_or(default.hold_down),
        announce: raw.announce.map(|raw| AnnounceRule {
            table: raw.table.unwrap_or(defaults::ANNOUNCE.table),
            protocol: raw.protocol.unwrap_or(defaults::ANNOUNCE.protocol),
            metric: raw.metric.unwrap_or(defaults::ANNOUNCE.metric),
            metric_from_rtt: raw.metric_from_rtt.unwrap_or(defaults::ANNOUNCE.metric_from_rtt),
            hosts: raw.hosts.unwrap_or(defaults::ANNOUNCE.hosts),
        }),
        dormant: raw.dormant.is_some_and(|dormant| dormant.value),
        babeld: raw
            .babeld
            .map(|raw| BabeldRule { options: raw.options.unwrap_or_default(), rxcost: raw.rxcost }),
        on_exit,
    }
}

/// How a peer is watched; only where its link is.
pub(in crate::config) fn peer(
    raw: RawPeerReach,
    link: Option<&LinkReach>,
    whole: &ReachRule,
    report: &Report<'_>,
) -> Option<PeerReach> {
    let Some(link) = link else {
        report.add(raw.at, "interface.peer.reach", Problem::LinkNotWatched);
        return None;
    };
    if let Some(first) = raw.announce.iter().flatten().next()
        && link.announce.is_none()
    {
        report.add(first.at, "interface.peer.reach.announce", Problem::NothingAnnounced);
    }
    if let Some(first) = raw.bird.iter().flatten().next()
        && whole.bird.is_none()
    {
        report.add(first.at, "interface.peer.reach.bird", Problem::NoSocket("bird"));
    }
    Some(PeerReach {
        addresses: raw.addresses.map(values).unwrap_or_default(),
        announce: raw.announce.map(values).unwrap_or_default(),
        bird: raw.bird.map(values).unwrap_or_default(),
    })
}
