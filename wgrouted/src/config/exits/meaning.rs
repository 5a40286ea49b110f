//! What the operator meant: defaults filled in, contradictions refused.

use std::net::IpAddr;

use super::{
    BACK_AFTER, NEXTHOPS, RULES, TABLES,
    raw::{RawExit, RawFlow, RawFlows},
};
use crate::{
    config::{
        document::{At, Report},
        error::Problem,
        exits::error::{ExitLink, ExitProblem},
        meaning::{Unique, values},
    },
    core::{
        exits::rule::{ExitRule, FlowRule, FlowsRule, Guard, Target, Via, WhenDown},
        links::rule::{LinkRule, ShapeRule, Tunnel, TunnelKind},
        prefix::{Family, Prefix},
        rule::{InterfaceRule, LinkMode, PeerRule},
    },
};

/// Words that stand for no exit.
const MAIN: &str = "main";
const BLOCK: &str = "block";
/// TCP, UDP, DCCP and SCTP, which have ports.
const WITH_PORTS: [u8; 4] = [6, 17, 33, 132];
/// The host itself.
const LOOPBACK: &str = "lo";
/// Protocols of tunnels.
const GRE: u8 = 47;
const IPIP: u8 = 4;

/// The exits and flows. `links` are the links that we make, tunnels included.
pub(in crate::config) fn flows(
    raw: RawFlows,
    exits: Vec<RawExit>,
    flows: Vec<RawFlow>,
    interfaces: &[InterfaceRule],
    links: &[LinkRule],
    report: &Report<'_>,
) -> FlowsRule {
    let tunnels: Vec<(&str, &Tunnel)> = links
        .iter()
        .filter_map(|link| match &link.shape {
            ShapeRule::Tunnel(tunnel) => Some((link.name.as_str(), tunnel)),
            ShapeRule::Wireguard(_) => None,
        })
        .collect();
    let ground = Ground { interfaces, tunnels, report };
    let mut names = Unique::new(report, "exit.name", "choose another name");
    let mut tables = Unique::new(report, "exit.table", "each exit needs a table of its own");
    for exit in &exits {
        if let Some(name) = &exit.name {
            names.add(name.at, name.value.clone(), format!("exit {}", name.value));
            if matches!(name.value.as_str(), MAIN | BLOCK) {
                report.add(name.at, "exit.name", ExitProblem::ExitName(name.value.clone()));
            }
        }
        if let Some(table) = exit.table {
            tables.add(table.at, table.value, format!("table {}", table.value));
        }
    }
    let exits: Vec<ExitRule> = exits.into_iter().filter_map(|raw| ground.exit(raw)).collect();
    let mut names = Unique::new(report, "flow.name", "choose another name");
    for name in flows.iter().filter_map(|flow| flow.name.as_ref()) {
        names.add(name.at, name.value.clone(), format!("flow {}", name.value));
    }
    let flows = flows.into_iter().enumerate();
    let flows: Vec<_> = flows.filter_map(|(at, raw)| flow(raw, at + 1, &exits, report)).collect();
    let range = |given: Option<At<_>>, default| given.map_or(default, |given| given.value);
    FlowsRule {
        rules: range(raw.rules, RULES),
        tables: range(raw.tables, TABLES),
        nexthops: range(raw.nexthops, NEXTHOPS),
        guards: if exits.is_empty() && flows.is_empty() { Vec::new() } else { ground.guards() },
        exits,
        flows,
    }
}

/// What exits are read against.
struct Ground<'a, 'r> {
    interfaces: &'a [InterfaceRule],
    tunnels: Vec<(&'a str, &'a Tunnel)>,
    report: &'a Report<'r>,
}

impl Ground<'_, '_> {
    /// What WireGuard and the tunnels send themselves.
    fn guards(&self) -> Vec<Guard> {
        let devices = self.interfaces.iter();
        let devices = devices.map(|interface| Guard::Device { name: interface.name.clone() });
        let tunnels = self.tunnels.iter().map(|(_, tunnel)| Guard::Tunnel {
            local: tunnel.local,
            protocol: match tunnel.kind {
                TunnelKind::Gre | TunnelKind::Ip6gre => GRE,
                TunnelKind::Ipip => IPIP,
            },
        });
        let mut guards: Vec<Guard> = devices.chain(tunnels).collect();
        guards.sort();
        guards.dedup();
        guards
    }

    /// `None` if something is missing, which was reported.
    fn exit(&self, raw: RawExit) -> Option<ExitRule> {
        let report = self.report;
        let name = raw.name?.value;
        let feed = raw.feed.is_some_and(|feed| feed.value);
        if raw.via.is_none() && !feed {
            let example = "via = [\"wg-b\"], the links that lead out, most preferred first";
            report.add(raw.at, "exit.via", Problem::Missing { example });
        }
        if let (true, None, Some(feed)) = (feed, raw.table, raw.feed) {
            report.add(feed.at, "exit.feed", ExitProblem::FeedTable);
        }
        if let Some(table) = raw.table.filter(|table| (253..=255).contains(&table.value)) {
            report.add(table.at, "exit.table", ExitProblem::ExitTable(table.value));
        }
        let given = raw.via.unwrap_or_default();
        let weights = given.iter().filter(|via| via.value.weight.is_some()).count();
        if let (true, Some(first)) = (weights > 0 && weights < given.len(), given.first()) {
            report.add(first.at, "exit.via", ExitProblem::ExitWeights);
        }
        for family in Family::ALL {
            let of = |ip: &&At<IpAddr>| ip.value.is_ipv6() == (family == Family::V6);
            if let Some(second) = raw.source.iter().filter(of).nth(1) {
                report.add(second.at, "exit.source", ExitProblem::ExitSources(family));
            }
        }
        let mut unique = Unique::new(report, "exit.via", "name each link once");
        let mut via = Vec::new();
        for At { at, value } in &given {
            if let Some(link) = self.via(*at, &value.link, value.weight.unwrap_or(1)) {
                unique.add(*at, link.link.clone(), format!("link {}", link.link));
                via.push(link);
            }
        }
        Some(ExitRule {
            name,
            via,
            weighted: weights > 0,
            when_down: raw.when_down.unwrap_or_default(),
            back_after: raw.back_after.unwrap_or(BACK_AFTER),
            table: raw.table.map(|table| table.value),
            feed,
            source: values(raw.source),
        })
    }

    /// The link that a name stands for: a link's own, or that of a peer with one link.
    fn via(&self, at: usize, name: &str, weight: u16) -> Option<Via> {
        let own = self.interfaces.iter().find(|interface| interface.name == name);
        let found = match (own, self.tunnels.iter().find(|(tunnel, _)| *tunnel == name)) {
            (Some(interface), _) => self.dedicated(interface),
            (None, Some((link, tunnel))) => self.tunnel(link, tunnel),
            (None, None) => self.of_peer(name),
        };
        match found {
            Ok(via) => Some(Via { weight, ..via }),
            Err(link) => {
                self.report.add(
                    at,
                    "exit.via",
                    ExitProblem::ExitVia { given: name.to_owned(), link },
                );
                None
            }
        }
    }

    fn dedicated(&self, interface: &InterfaceRule) -> Result<Via, ExitLink> {
        let name = interface.name.clone();
        match interface.link {
            LinkMode::Dedicated => {
                Ok(Via { link: name.clone(), interface: name, peer: None, weight: 1, ipv6: true })
            }
            LinkMode::Shared => Err(ExitLink::Shared(name)),
            LinkMode::Auto if interface.peers.len() > 1 => Err(ExitLink::Shared(name)),
            LinkMode::Auto => Err(ExitLink::Auto(name)),
        }
    }

    fn tunnel(&self, link: &str, tunnel: &Tunnel) -> Result<Via, ExitLink> {
        let over = self.interfaces.iter().find(|interface| interface.name == tunnel.over);
        let peers = over.into_iter().flat_map(|over| &over.peers);
        let length = |peer: &PeerRule| {
            let pinned = peer.pinned.iter().flatten();
            pinned.filter(|prefix| prefix.contains(tunnel.remote)).map(Prefix::prefix_len).max()
        };
        let peer = peers.filter(|peer| length(peer).is_some()).max_by_key(|peer| length(peer));
        Ok(Via {
            link: link.to_owned(),
            interface: tunnel.over.clone(),
            peer: peer.map(|peer| peer.name.clone()),
            weight: 1,
            ipv6: tunnel.kind.carries_ipv6(),
        })
    }

    fn of_peer(&self, name: &str) -> Result<Via, ExitLink> {
        let has = |interface: &&InterfaceRule| {
            interface.peers.iter().any(|p| p.name == name || p.public_key.to_string() == name)
        };
        let homes: Vec<&InterfaceRule> = self.interfaces.iter().filter(has).collect();
        let tunnels =
            self.tunnels.iter().filter_map(|(link, tunnel)| self.tunnel(link, tunnel).ok());
        let mut found: Vec<Via> = tunnels.filter(|via| via.peer.as_deref() == Some(name)).collect();
        found.extend(homes.iter().filter_map(|home| self.dedicated(home).ok()));
        match (found.len(), homes.first()) {
            (1, _) => Ok(found.remove(0)),
            (0, Some(home)) if home.link == LinkMode::Auto && home.peers.len() == 1 => {
                Err(ExitLink::Auto(home.name.clone()))
            }
            (0, Some(home)) => {
                Err(ExitLink::SharedPeer { peer: name.to_owned(), over: home.name.clone() })
            }
            (0, None) => {
                let links = self.interfaces.iter().map(|interface| interface.name.clone());
                let tunnels = self.tunnels.iter().map(|(name, _)| (*name).to_owned());
                Err(ExitLink::Unknown { known: links.chain(tunnels).collect() })
            }
            _ => Err(ExitLink::Several {
                peer: name.to_owned(),
                links: found.into_iter().map(|via| via.link).collect(),
            }),
        }
    }
}

/// `None` if something is missing or wrong, which was reported.
fn flow(raw: RawFlow, number: usize, exits: &[ExitRule], report: &Report<'_>) -> Option<FlowRule> {
    check(&raw, exits, report);
    let exit = raw.exit?;
    let target = match exit.value.as_str() {
        MAIN => Target::Main,
        BLOCK => Target::Block,
        name if exits.iter().any(|exit| exit.name == name) => Target::Exit(name.to_owned()),
        name => {
            let known = exits.iter().map(|exit| exit.name.clone());
            let known = known.chain([MAIN.to_owned(), BLOCK.to_owned()]).collect();
            let problem = ExitProblem::FlowExit { given: name.to_owned(), known };
            report.add(exit.at, "flow.exit", problem);
            return None;
        }
    };
    Some(FlowRule {
        name: raw.name.map_or_else(|| format!("flow-{number}"), |name| name.value),
        from: values(raw.from),
        to: values(raw.to),
        iif: raw.iif.map(|iif| iif.value),
        mark: raw.mark.map(|mark| mark.value),
        uid: values(raw.uid),
        tos: raw.tos.map_or(0, |tos| tos.value),
        dscp: raw.dscp.map(|dscp| dscp.value),
        protocol: raw.protocol.map_or(0, |protocol| protocol.value),
        sport: values(raw.sport),
        dport: values(raw.dport),
        vrf: raw.vrf.map(|vrf| vrf.value),
        realm: raw.realm.map(|realm| realm.value),
        target,
    })
}

/// What no packet could meet, and what the kernel cannot do.
fn check(raw: &RawFlow, exits: &[ExitRule], report: &Report<'_>) {
    let family = |list: &[At<Prefix>]| {
        let mut families = list.iter().map(|prefix| prefix.value.family());
        let first = families.next()?;
        families.all(|family| family == first).then_some(first)
    };
    if let (Some(from), Some(to)) = (family(&raw.from), family(&raw.to))
        && from != to
    {
        report.add(raw.to[0].at, "flow.to", ExitProblem::FlowFamilies);
    }
    let ports = raw.sport.first().or(raw.dport.first());
    let protocol = raw.protocol.map(|protocol| protocol.value);
    if let Some(port) = ports.filter(|_| !protocol.is_some_and(|p| WITH_PORTS.contains(&p))) {
        let key = if raw.sport.is_empty() { "flow.dport" } else { "flow.sport" };
        report.add(port.at, key, ExitProblem::FlowPorts);
    }
    if let (Some(uid), Some(iif)) = (raw.uid.first(), &raw.iif)
        && iif.value != LOOPBACK
    {
        report.add(uid.at, "flow.uid", ExitProblem::FlowUid(iif.value.clone()));
    }
    if let (Some(vrf), Some(_)) = (&raw.vrf, &raw.iif) {
        report.add(vrf.at, "flow.vrf", ExitProblem::FlowVrf);
    }
    if let (Some(tos), Some(_)) = (raw.tos, raw.dscp) {
        report.add(tos.at, "flow.tos", ExitProblem::FlowTos);
    }
    if let Some(realm) = raw.realm {
        report.add(realm.at, "flow.realm", ExitProblem::FlowRealm);
    }
    // A flow of IPv6 alone, by an exit that cannot carry it, would never leave.
    let exit = raw.exit.as_ref().and_then(|name| exits.iter().find(|e| e.name == name.value));
    if let Some(exit) = exit
        && [family(&raw.from), family(&raw.to)].contains(&Some(Family::V6))
        && !exit.feed
        && exit.when_down != WhenDown::Block
        && exit.via.iter().all(|via| !via.ipv6)
    {
        report.add(raw.at, "flow.exit", ExitProblem::FlowIpip(exit.name.clone()));
    }
}
