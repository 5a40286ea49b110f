//! What the operator meant: defaults filled in, contradictions refused.
//!
//! Here lives every check that needs more than one value. Only values that could be read take
//! part, so one mistake is not reported as several.

use std::{collections::HashMap, hash::Hash};

use super::{
    Config, Daemon, api, defaults,
    document::{At, Report},
    error::Problem,
    exits,
    filter::{self, meaning::Policies},
    links,
    raw::{RawConfig, RawDaemon, RawInterface, RawMatch, RawPeer},
    reach,
};
use crate::core::{
    filter::rule::LinkFilter,
    prefix::{Family, Prefix},
    reach::rule::{LinkReach, ReachRule},
    route::TableId,
    rule::{Audit, InterfaceRule, LinkMode, Match, PeerRule},
};

/// Things that must differ, and where the first of each stands.
pub(super) struct Unique<'r, 't, T> {
    report: &'r Report<'t>,
    key: &'r str,
    remedy: &'static str,
    seen: HashMap<T, usize>,
}

impl<'r, 't, T: Eq + Hash> Unique<'r, 't, T> {
    pub(super) fn new(report: &'r Report<'t>, key: &'r str, remedy: &'static str) -> Self {
        Unique { report, key, remedy, seen: HashMap::new() }
    }

    /// Reports the thing, which people call `what`, if it was there before.
    pub(super) fn add(&mut self, at: usize, thing: T, what: impl Into<String>) {
        let first = *self.seen.entry(thing).or_insert(at);
        if first != at {
            let (what, first, remedy) = (what.into(), self.report.line(first), self.remedy);
            self.report.add(at, self.key, Problem::Duplicate { what, first, remedy });
        }
    }
}

pub(super) fn config(raw: RawConfig, report: &Report<'_>) -> Config {
    if raw.interfaces.as_ref().is_some_and(Vec::is_empty) {
        report.add(0, "interface", Problem::NoInterface);
    }
    let policies = Policies::of(&raw.filter);
    let filter =
        filter::meaning::filter(raw.filter, raw.interfaces.as_deref(), &raw.tunnels, report);
    let reach = reach::meaning::rule(raw.reach, report);
    let raws = raw.interfaces.unwrap_or_default();
    let mut names = Unique::new(report, "interface.name", "merge the two or correct one name");
    for name in raws.iter().filter_map(|interface| interface.name.as_ref()) {
        names.add(name.at, &name.value, format!("interface {}", name.value));
    }
    let audit = raw.daemon.audit_interval.unwrap_or(defaults::AUDIT_INTERVAL);
    let mut links: Vec<_> =
        raws.iter().filter_map(|raw| links::meaning::device(raw, report)).collect();
    let interfaces = raws.into_iter();
    let whole = Whole { audit, policies: &policies, reach: &reach, report };
    let mut interfaces: Vec<_> = interfaces.map(|raw| interface(raw, &whole)).collect();
    let api = api::meaning(raw.api, report);
    let tunnels = links::tunnel::tunnels(raw.tunnels, &interfaces, &links, &policies, report);
    // Flows may take links that somebody else makes.
    let mut known = links.clone();
    for tunnel in tunnels {
        known.extend(tunnel.link.clone());
        links.extend(tunnel.link.filter(|_| tunnel.ours));
        let over = interfaces.iter_mut().find(|interface| interface.name == tunnel.over);
        if let Some(over) = over {
            over.tunnels.extend(tunnel.filter);
        }
    }
    let flows = exits::meaning::flows(raw.flows, raw.exits, raw.flow, &interfaces, &known, report);
    Config { daemon: daemon(raw.daemon), filter, reach, api, interfaces, links, flows }
}

fn daemon(raw: RawDaemon) -> Daemon {
    let default = Daemon::default();
    Daemon {
        runtime_dir: raw.runtime_dir.unwrap_or(default.runtime_dir),
        receive_buffer: raw.receive_buffer.unwrap_or(default.receive_buffer),
        resync_interval: raw.resync_interval.unwrap_or(default.resync_interval),
        log: raw.log.unwrap_or(default.log),
    }
}

/// What an interface's keys are read against.
struct Whole<'a, 'r> {
    audit: Audit,
    policies: &'a Policies,
    reach: &'a ReachRule,
    report: &'a Report<'r>,
}

fn interface(raw: RawInterface, whole: &Whole<'_, '_>) -> InterfaceRule {
    let Whole { audit, policies, report, .. } = *whole;
    check_interface(&raw, report);
    check_peers(&raw, report);
    let name = raw.name.map(|name| name.value).unwrap_or_default();
    let default = super::interface_defaults(name);
    let link = raw.link.map(|link| link.value);
    let filter = raw.filter.map(|raw| filter::meaning::link(raw, link, policies, report));
    let on_exit = raw.on_exit.unwrap_or(default.on_exit);
    let reach =
        raw.reach.map(|raw| reach::meaning::link(raw, (link, on_exit), whole.reach, report));
    let peers = raw.peers.into_iter();
    let peers = peers.filter_map(|raw| peer(raw, filter.as_ref(), reach.as_ref(), whole)).collect();
    InterfaceRule {
        link: link.unwrap_or(default.link),
        tables: raw.tables.map_or(default.tables, values),
        managed: raw.managed.map_or(default.managed, values),
        delete_hold: raw.delete_hold.unwrap_or(default.delete_hold),
        coalesce: raw.coalesce.unwrap_or(default.coalesce),
        message_size: raw.message_size.unwrap_or(default.message_size),
        adopt: raw.adopt.unwrap_or(default.adopt),
        on_exit,
        audit,
        peers,
        filter,
        tunnels: Vec::new(),
        reach,
        name: default.name,
    }
}

pub(super) fn values<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|element| element.value).collect()
}

/// `None` if there is no key, which was reported.
fn peer(
    raw: RawPeer,
    filter: Option<&LinkFilter>,
    reach: Option<&LinkReach>,
    whole: &Whole<'_, '_>,
) -> Option<PeerRule> {
    let Whole { policies, report, .. } = *whole;
    let filter = raw.filter.and_then(|raw| filter::meaning::peer(raw, filter, policies, report));
    let reach = raw.reach.and_then(|raw| reach::meaning::peer(raw, reach, whole.reach, report));
    let public_key = raw.public_key?.value;
    Some(PeerRule {
        name: raw.name.map_or_else(|| public_key.to_string(), |name| name.value),
        public_key,
        pinned: raw.pinned.map(values),
        matches: raw.matches.iter().map(entry).collect(),
        filter,
        reach,
    })
}

fn entry(raw: &RawMatch) -> Match {
    Match {
        protocol: raw.protocol.map(|protocol| protocol.value),
        realm: raw.realm.map(|realm| realm.value),
        table: raw.table.map(|table| table.value),
        metric: raw.metric.map(|metric| metric.value),
        nexthop: raw.nexthop.map(|nexthop| nexthop.value),
        gateway: raw.gateway.map(|gateway| gateway.value),
    }
}

fn check_interface(raw: &RawInterface, report: &Report<'_>) {
    let remedy = "the order is a preference, so list it once";
    let mut tables = Unique::new(report, "interface.tables", remedy);
    for table in raw.tables.iter().flatten() {
        tables.add(table.at, table.value, format!("table {}", table.value));
    }
    let mut managed = Unique::new(report, "interface.managed", "list it once");
    for range in raw.managed.iter().flatten() {
        managed.add(range.at, range.value, format!("range {}", range.value));
    }
    if let Some(At { at, value: LinkMode::Dedicated }) = raw.link
        && raw.peers.len() > 1
    {
        report.add(at, "interface.link", Problem::DedicatedPeers(raw.peers.len()));
    }
}

fn check_peers(raw: &RawInterface, report: &Report<'_>) {
    let mut names = Unique::new(
        report,
        "interface.peer.name",
        "names tell the peers of an interface apart, so choose another",
    );
    let mut keys = Unique::new(
        report,
        "interface.peer.public_key",
        "a key names one peer of an interface, so merge the two or correct one",
    );
    let mut pinned = Unique::new(
        report,
        "interface.peer.pinned",
        "WireGuard gives a prefix to one peer, so pin it once (a more specific one inside it may \
         be another peer's)",
    );
    for peer in &raw.peers {
        if let Some(name) = &peer.name {
            names.add(name.at, &name.value, format!("peer {}", name.value));
        }
        if let Some(key) = peer.public_key {
            keys.add(key.at, key.value, format!("public key {}", key.value));
        }
        for prefix in peer.pinned.iter().flatten() {
            pinned.add(prefix.at, prefix.value, format!("pinned prefix {}", prefix.value));
        }
        let dedicated = raw.link.is_some_and(|link| link.value == LinkMode::Dedicated);
        let pins_nothing = peer.pinned.as_ref().is_some_and(Vec::is_empty);
        if peer.sound && !dedicated && pins_nothing && peer.matches.is_empty() {
            report.add(peer.at, "interface.peer", Problem::Unreachable);
        }
    }
    check_matches(raw, report);
}

fn check_matches(raw: &RawInterface, report: &Report<'_>) {
    const KEY: &str = "interface.peer.match";
    let is_v6 = |range: &At<Prefix>| range.value.family() == Family::V6;
    let only_v6 =
        raw.managed.as_ref().is_some_and(|list| !list.is_empty() && list.iter().all(is_v6));
    let not_followed = |table: TableId| {
        let tables = raw.tables.as_ref().filter(|tables| !tables.is_empty());
        tables.is_some_and(|tables| tables.iter().all(|followed| followed.value != table))
    };
    let remedy = "a route belongs to one peer, so tell the two apart by another condition";
    let mut entries = Unique::new(report, KEY, remedy);
    for raw in raw.peers.iter().flat_map(|peer| &peer.matches) {
        let entry = entry(raw);
        if entry == Match::default() {
            report.add(raw.at, KEY, Problem::EmptyMatch);
        } else {
            entries.add(raw.at, entry, "this entry");
        }
        if let Some(realm) = raw.realm.filter(|_| only_v6) {
            report.add(realm.at, format!("{KEY}.realm"), Problem::RealmIpv6);
        }
        if let Some(table) = raw.table.filter(|table| not_followed(table.value)) {
            let problem = Problem::TableNotFollowed(table.value);
            report.add(table.at, format!("{KEY}.table"), problem);
        }
    }
}
