//! The ways of WireGuard's own packets.
//!
//! Here lives the search for ways that lead into the very tunnel that they carry, and the remedy: a
//! mark on the packets, and a rule that takes marked packets past whatever leads them astray.
//! Invariant: the remedy touches nothing that is there; it adds a rule before all others, and a route
//! only to a table that nobody uses.

use std::{collections::BTreeSet, net::IpAddr};

use super::{
    finding::{Area, Finding, Level, word},
    seen::{Machine, Network, Way},
};
use crate::core::{
    links::state::{Have, HaveShape},
    prefix::Family,
    route::{Hop, IfIndex, Route, RouteKind, TABLE_MAIN, TableId},
};

/// The mark that is proposed: "wg". Whoever has another keeps it.
const MARK: u32 = 0x7767;
/// The table that is proposed, of the mark's number.
const TABLE: TableId = MARK;
/// `RT_TABLE_LOCAL`, which leads nowhere but to this machine.
const TABLE_LOCAL: TableId = 255;

/// Judges the ways.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    let network = match &machine.network {
        Ok(network) => network,
        Err(because) => {
            let what = "ways of WireGuard's own packets";
            return out.push(Finding::not_checked(Area::Routing, "loop", what, because));
        }
    };
    for (device, because) in &network.unread {
        let what = format!("{device}: ways of its own packets");
        out.push(Finding::not_checked(Area::Routing, "loop", &what, because));
    }
    let devices: BTreeSet<&str> = network.ways.iter().map(|way| way.device.as_str()).collect();
    for device in devices {
        for family in Family::ALL {
            let of = |way: &&Way| way.device == device && family_of(way.endpoint.ip()) == family;
            let ways: Vec<&Way> = network.ways.iter().filter(of).collect();
            out.extend(judge(machine, network, &ways));
        }
    }
}

/// Judges a device's ways of one family, if there are any.
fn judge(machine: &Machine, network: &Network, ways: &[&Way]) -> Option<Finding> {
    let way = ways.first()?;
    let device = &way.device;
    let more =
        |count: usize| if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
    let astray = |looping: bool| -> Vec<&Way> {
        let through = |way: &&&Way| {
            let link = way.path.and_then(|(index, _)| network.link(index));
            link.is_some_and(|link| is_inside(network, link)) && leads_back(network, way) == looping
        };
        ways.iter().filter(through).copied().collect()
    };
    let (looping, nested) = (astray(true), astray(false));
    if let Some(way) = looping.first() {
        let through = link_of(network, way);
        let found = format!(
            "{device}: its own packets to {}{} are routed into the tunnel (through {through})",
            way.endpoint.ip(),
            more(looping.len())
        );
        let finding = Finding::new(Area::Routing, "loop", Level::Failure, found)
            .why("WireGuard drops packets that would go through themselves: the tunnel is dead");
        return Some(remedy(machine, network, way, finding));
    }
    if let Some(way) = nested.first() {
        let through = link_of(network, way);
        let found = format!(
            "{device}: its own packets to {}{} go through another tunnel, {through}",
            way.endpoint.ip(),
            more(nested.len())
        );
        let finding = Finding::new(Area::Routing, "nested", Level::Warning, found).why(format!(
            "{device} dies with {through}, and packets in it have less room; fine if that is meant"
        ));
        return Some(remedy(machine, network, way, finding));
    }
    let lost: Vec<_> = ways.iter().filter(|way| way.path.is_none()).collect();
    if let Some(way) = lost.first() {
        let found = format!("{device}: no route to {}{}", way.endpoint.ip(), more(lost.len()));
        return Some(
            Finding::new(Area::Routing, "unreachable", Level::Warning, found)
                .why("the peer cannot be reached where it was last, or is configured to be"),
        );
    }
    let found = format!("{device}: its own packets leave by {}", link_of(network, way));
    Some(Finding::new(Area::Routing, "loop", Level::Ok, found))
}

/// The ways whose packets go through the tunnel that they carry, or through another one.
pub fn astray(network: &Network) -> impl Iterator<Item = &Way> {
    network.ways.iter().filter(|way| {
        let link = way.path.and_then(|(index, _)| network.link(index));
        link.is_some_and(|link| is_inside(network, link))
    })
}

fn link_of<'a>(network: &'a Network, way: &Way) -> &'a str {
    let link = way.path.and_then(|(index, _)| network.link(index));
    link.map_or("a link that is gone", |link| link.name.as_str())
}

/// Whether a link is a tunnel of WireGuard's, or inside one.
fn is_inside(network: &Network, link: &Have) -> bool {
    match &link.shape {
        HaveShape::Wireguard(_) => true,
        HaveShape::Tunnel(tunnel) => {
            let over = network.named(&tunnel.over).filter(|over| over.index != link.index);
            over.is_some_and(|over| matches!(over.shape, HaveShape::Wireguard(_)))
        }
        HaveShape::Other(_) => false,
    }
}

/// Whether a way's packets come to the device again that sent them.
fn leads_back(network: &Network, way: &Way) -> bool {
    let mut seen: BTreeSet<IfIndex> = BTreeSet::new();
    let mut next: Vec<IfIndex> = way.path.iter().map(|(index, _)| *index).collect();
    while let Some(link) = next.pop() {
        let Some(link) = network.link(link).filter(|_| seen.insert(link)) else { continue };
        if link.name == way.device {
            return true;
        }
        match &link.shape {
            HaveShape::Wireguard(_) => {
                let ways = network.ways.iter().filter(|way| way.device == link.name);
                next.extend(ways.filter_map(|way| way.path).map(|(index, _)| index));
            }
            HaveShape::Tunnel(tunnel) => {
                next.extend(network.named(&tunnel.over).map(|over| over.index));
            }
            HaveShape::Other(_) => {}
        }
    }
    false
}

fn remedy(machine: &Machine, network: &Network, way: &Way, finding: Finding) -> Finding {
    let family = family_of(way.endpoint.ip());
    let ip = match family {
        Family::V4 => "ip -4",
        Family::V6 => "ip -6",
    };
    let place = place(machine, network, family);
    let (Some(detour), Some(place)) = (detour(network, way), place) else {
        return finding.advise(format!(
            "mark its packets (`wg set {} fwmark {MARK:#x}`), and route marked packets past the \
             tunnel: `{ip} rule add priority N fwmark {MARK:#x} lookup TABLE`, before the rule that \
             leads them astray, where TABLE has a route to {}",
            way.device,
            way.endpoint.ip()
        ));
    };
    let (mark, mut finding) = match way.mark {
        0 => (MARK, finding.run(format!("wg set {} fwmark {MARK:#x}", word(&way.device)))),
        mark => (mark, finding),
    };
    let table = if detour.hidden {
        let Route { prefix, .. } = detour.route;
        let to = if prefix.is_default() { "default".to_owned() } else { prefix.to_string() };
        let via = detour.hop.gateway.map(|gateway| {
            let family = if family_of(gateway) == family { "" } else { "inet6 " };
            format!("via {family}{gateway} ")
        });
        let onlink = if via.is_some() { " onlink" } else { "" };
        finding = finding.run(format!(
            "{ip} route replace {to} {}dev {} table {TABLE}{onlink}",
            via.unwrap_or_default(),
            word(&detour.link.name)
        ));
        TABLE
    } else {
        detour.route.path.table
    };
    finding.run(format!("{ip} rule add priority {place} fwmark {mark:#x} lookup {table}")).advise(
        format!(
            "to keep it, write `fwmark = {mark:#x}` where {} is configured, and the rule where \
             addresses are",
            way.device
        ),
    )
}

/// A priority before all rules but that of the local table.
fn place(machine: &Machine, network: &Network, family: Family) -> Option<u32> {
    let rules = network.rules.as_ref().ok()?;
    let others = rules.iter().filter(|rule| rule.family == family && rule.priority > 0);
    let first = others.map(|rule| rule.priority).min().unwrap_or(u32::MAX);
    let ours = *machine.wants.flows.ranges.rules.start();
    first.min(ours).checked_sub(1).filter(|place| *place > 0)
}

/// A way past the tunnels.
struct Detour<'a> {
    route: &'a Route,
    hop: Hop,
    link: &'a Have,
    /// A better route of the same table leads into a tunnel.
    hidden: bool,
}

/// The best route to an endpoint that leads into no tunnel; one of the main table first.
fn detour<'a>(network: &'a Network, way: &Way) -> Option<Detour<'a>> {
    let rank = |route: &Route| (route.prefix.prefix_len(), std::cmp::Reverse(route.path.metric));
    let covers = |route: &&Route| {
        route.prefix.contains(way.endpoint.ip())
            && route.path.table != TABLE_LOCAL
            && route.path.kind == RouteKind::Unicast
    };
    let outside = |route: &'a Route| {
        let hop = route.path.hops.iter().find(|hop| !hop.dead)?;
        let link = network.link(hop.oif).filter(|link| !is_inside(network, link))?;
        Some((route, *hop, link))
    };
    let routes = network.covering.iter().filter(covers);
    let (route, hop, link) = routes
        .filter_map(outside)
        .max_by_key(|(route, ..)| (route.path.table == TABLE_MAIN, rank(route)))?;
    let better = |other: &Route| {
        other.path.table == route.path.table
            && rank(other) >= rank(route)
            && leads_inside(network, other)
    };
    let hidden = network.covering.iter().filter(covers).any(better);
    Some(Detour { route, hop, link, hidden })
}

/// Whether a route leads into a tunnel.
fn leads_inside(network: &Network, route: &Route) -> bool {
    let links = route.path.hops.iter().filter_map(|hop| network.link(hop.oif));
    links.into_iter().any(|link| is_inside(network, link))
}

pub(super) fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        doctor::tests::{all, find, machine, way, wg},
        exits::iprule::{Action, IpRule, Selector},
        links::rule::{Tunnel, TunnelKind},
        route::{Hops, Path},
    };

    fn other(name: &str, index: IfIndex) -> Have {
        Have { shape: HaveShape::Other("veth".to_owned()), ..wg(name, index) }
    }

    fn route(prefix: &str, table: TableId, metric: u32, oif: IfIndex, via: Option<&str>) -> Route {
        let gateway = via.map(|via| via.parse().unwrap());
        let hop = Hop { oif, gateway, weight: 1, realm: 0, dead: false };
        let path = Path {
            table,
            metric,
            tos: 0,
            protocol: 3,
            kind: RouteKind::Unicast,
            source: None,
            nexthop: 0,
            hops: Hops::from_iter([hop]),
        };
        Route { prefix: prefix.parse().unwrap(), path }
    }

    fn rule(family: Family, priority: u32) -> IpRule {
        let (selector, action) = (Selector::default(), Action::table(TABLE_MAIN));
        IpRule { family, priority, selector, action, protocol: 2 }
    }

    /// `eth0` is 2, `wg0` 5 and `wg1` 6; the ways are as given.
    fn with(ways: Vec<Way>, covering: Vec<Route>) -> Machine {
        let mut machine = machine();
        let network = machine.network.as_mut().unwrap();
        let tunnel = Tunnel {
            kind: TunnelKind::Gre,
            over: "wg0".to_owned(),
            local: "10.0.0.1".parse().unwrap(),
            remote: "10.0.0.2".parse().unwrap(),
            ttl: 64,
            key: None,
        };
        let gre = Have { shape: HaveShape::Tunnel(tunnel), ..wg("gre0", 7) };
        network.links = vec![other("eth0", 2), wg("wg0", 5), wg("wg1", 6), gre];
        network.ways = ways;
        network.covering = covering;
        let priorities = [0, 32_766, 32_767];
        let rules = Family::ALL.iter().flat_map(|f| priorities.map(|priority| rule(*f, priority)));
        network.rules = Ok(rules.collect());
        machine
    }

    #[test]
    fn a_way_through_the_underlay_is_fine() {
        let machine = with(vec![way("wg0", "192.0.2.1:1", Some(2))], vec![]);
        assert_eq!(find(&machine, "loop").level, Level::Ok);
    }

    #[test]
    fn a_way_through_itself_is_a_loop_however_long() {
        for ways in [
            vec![way("wg0", "192.0.2.1:1", Some(5))],
            vec![way("wg0", "192.0.2.1:1", Some(7))],
            vec![way("wg0", "192.0.2.1:1", Some(6)), way("wg1", "192.0.2.2:1", Some(5))],
        ] {
            let finding = find(&with(ways, vec![]), "loop");
            assert_eq!(finding.level, Level::Failure);
            assert!(finding.remedy.is_empty() && finding.advice.contains("wg set wg0 fwmark"));
        }
        let nested = with(
            vec![way("wg0", "192.0.2.1:1", Some(6)), way("wg1", "192.0.2.2:1", Some(2))],
            vec![],
        );
        assert_eq!(find(&nested, "nested").level, Level::Warning);
        assert_eq!(all(&nested, "loop").len(), 1, "wg1 is fine");
    }

    #[test]
    fn a_rule_leads_marked_packets_to_a_table_that_is_right() {
        let covering = vec![
            route("0.0.0.0/0", 254, 0, 2, Some("203.0.113.1")),
            route("0.0.0.0/0", 200, 0, 5, None),
        ];
        let mut machine = with(vec![way("wg0", "192.0.2.1:1", Some(5))], covering);
        let rules = machine.network.as_mut().unwrap().rules.as_mut().unwrap();
        rules.push(rule(Family::V4, 500));
        assert_eq!(
            find(&machine, "loop").remedy,
            ["wg set wg0 fwmark 0x7767", "ip -4 rule add priority 499 fwmark 0x7767 lookup 254"]
        );
        machine.network.as_mut().unwrap().ways[0].mark = 0xca6c;
        let remedy = find(&machine, "loop").remedy;
        assert_eq!(remedy, ["ip -4 rule add priority 499 fwmark 0xca6c lookup 254"]);
    }

    #[test]
    fn a_route_that_is_hidden_in_its_table_gets_a_table_of_its_own() {
        let covering = vec![
            route("0.0.0.0/0", 254, 100, 2, Some("203.0.113.1")),
            route("0.0.0.0/1", 254, 0, 5, None),
            route("128.0.0.0/1", 254, 0, 5, None),
        ];
        let machine = with(vec![way("wg0", "192.0.2.1:1", Some(5))], covering);
        assert_eq!(
            find(&machine, "loop").remedy,
            [
                "wg set wg0 fwmark 0x7767",
                "ip -4 route replace default via 203.0.113.1 dev eth0 table 30567 onlink",
                "ip -4 rule add priority 9999 fwmark 0x7767 lookup 30567",
            ]
        );
        let covering = vec![
            route("2001:db8::/32", 254, 1024, 2, Some("fe80::1")),
            route("2001:db8::/32", 254, 10, 5, None),
        ];
        let machine = with(vec![way("wg0", "[2001:db8::1]:1", Some(5))], covering);
        let remedy = find(&machine, "loop").remedy;
        assert_eq!(
            remedy[1..],
            [
                "ip -6 route replace 2001:db8::/32 via fe80::1 dev eth0 table 30567 onlink",
                "ip -6 rule add priority 9999 fwmark 0x7767 lookup 30567",
            ]
        );
    }

    #[test]
    fn a_peer_without_a_way_is_told_once_for_all() {
        let ways = vec![way("wg0", "192.0.2.1:1", None), way("wg0", "192.0.2.2:1", None)];
        let finding = find(&with(ways, vec![]), "unreachable");
        assert_eq!(finding.found, "wg0: no route to 192.0.2.1 and 1 more");
        assert_eq!(finding.level, Level::Warning);
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let mut machine = with(vec![], vec![]);
        let network = machine.network.as_mut().unwrap();
        network.unread.push(("wg0".to_owned(), "it needs CAP_NET_ADMIN".to_owned()));
        assert_eq!(find(&machine, "loop").level, Level::NotChecked);
    }
}
