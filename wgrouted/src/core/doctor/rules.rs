//! Whose rules, routes and nexthop objects are where ours shall be.
//!
//! Here live the checks of our ranges, and the recognition of others by the rules that they are known
//! for. Invariant: a command never removes what is ours, and never more than was found.

use std::collections::BTreeMap;

use super::{
    finding::{Area, Finding, Level},
    seen::{Machine, Network},
};
use crate::core::{
    exits::iprule::{Action, IpRule},
    prefix::Family,
    reach::route::PROTOCOL,
};

/// Objects that are named one by one; more are counted.
const NAMED: usize = 8;

/// Judges rules, tables and nexthop objects.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    let network = match &machine.network {
        Ok(network) => network,
        Err(because) => {
            let what = "rules of others";
            return out.push(Finding::not_checked(Area::Routing, "foreign-rules", what, because));
        }
    };
    match &network.rules {
        Ok(rules) => {
            foreign_rules(machine, rules, out);
            known(rules, out);
            out.extend(vrfs(machine, rules));
        }
        Err(because) => {
            let what = "rules of others";
            out.push(Finding::not_checked(Area::Routing, "foreign-rules", what, because));
        }
    }
    foreign_routes(machine, network, out);
    nexthops(machine, network, out);
}

/// What is in our way does not matter while nothing of ours is there.
fn level(machine: &Machine) -> Level {
    if machine.wants.flows.any() { Level::Failure } else { Level::Warning }
}

const fn ip(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip -4",
        Family::V6 => "ip -6",
    }
}

fn foreign_rules(machine: &Machine, rules: &[IpRule], out: &mut Vec<Finding>) {
    let range = &machine.wants.flows.ranges.rules;
    let foreign = |rule: &&IpRule| range.contains(&rule.priority) && rule.protocol != PROTOCOL;
    let mut clean = true;
    for rule in rules.iter().filter(foreign) {
        clean = false;
        let found = format!(
            "a rule of others is among ours ({} to {}): {}",
            range.start(),
            range.end(),
            shown(rule)
        );
        let finding = Finding::new(Area::Routing, "foreign-rules", level(machine), found)
            .why("it takes packets away from flows that come after it, or is jumped over by them")
            .advise(
                "if it is needed, give it another priority, or wgrouted another range: `rules` in \
                 [flows]",
            );
        out.push(match owner(rule) {
            None => finding.run(removal(rule)),
            Some(owner) => finding.advise(format!(
                "it is {owner}'s: give wgrouted another range, `rules` in [flows]"
            )),
        });
    }
    if clean {
        let found =
            format!("no rule of others is among ours ({} to {})", range.start(), range.end());
        out.push(Finding::new(Area::Routing, "foreign-rules", Level::Ok, found));
    }
}

/// A rule as `ip rule` lists it.
fn shown(rule: &IpRule) -> String {
    format!("{}: {} {}", rule.priority, rule.selector, rule.action).trim_end().to_owned()
}

/// What removes this very rule. Of one that is not wholly known, priority and protocol are named: no
/// rule of ours has both.
fn removal(rule: &IpRule) -> String {
    let ip = ip(rule.family);
    match rule.selector.unknown.is_empty() {
        true => format!("{ip} rule del {rule}"),
        false => {
            format!("{ip} rule del priority {} protocol {}", rule.priority, rule.protocol)
        }
    }
}

/// Who makes rules like this.
fn owner(rule: &IpRule) -> Option<&'static str> {
    let (mark, mask) = rule.selector.mark.map_or((0, 0), |mark| (mark.value, mark.mask));
    let table = match rule.action {
        Action::Table { table, .. } => Some(table),
        _ => None,
    };
    // wg-quick's `add_default` (src/wg-quick/linux.bash) and NetworkManager's automatic default route
    // use one number for mark and table; the latter puts it below 32766.
    let default_route = rule.selector.inverted && mark != 0 && table == Some(mark);
    match rule.priority {
        0 => None,
        // tailscale, wgengine/router: 5210 to 5270, and marks of its own bits.
        5_210..=5_270 if mask == 0xff_0000 || table == Some(52) => Some("tailscale"),
        30_000..=31_999 if default_route => Some("NetworkManager"),
        _ if default_route => Some("wg-quick"),
        // strongSwan's `install_routes`.
        220 if table == Some(220) => Some("strongSwan"),
        _ => None,
    }
}

fn known(rules: &[IpRule], out: &mut Vec<Finding>) {
    let mut owners: BTreeMap<&str, Vec<&IpRule>> = BTreeMap::new();
    for rule in rules {
        if let Some(owner) = owner(rule) {
            owners.entry(owner).or_default().push(rule);
        }
    }
    for (owner, rules) in owners {
        let list: Vec<_> = rules.iter().map(|rule| shown(rule)).collect();
        let found = format!("rules of {owner}: {}", list.join("; "));
        let finding = Finding::new(Area::Routing, "known-rules", Level::Info, found);
        out.push(match owner {
            "wg-quick" => finding
                .why("it routes everything to one device, whatever routing daemons say")
                .advise(
                    "write `Table = off` to its configuration where wgrouted follows the device",
                ),
            _ => finding.why("they come before ours, or after, by their priorities"),
        });
    }
}

/// The rule for VRFs comes before flows, unless it is put behind them.
fn vrfs(machine: &Machine, rules: &[IpRule]) -> Option<Finding> {
    let first = *machine.wants.flows.ranges.rules.start();
    let early = |rule: &&IpRule| rule.selector.l3mdev && rule.priority < first;
    let rule = rules.iter().find(early)?;
    let found = format!("the rule for VRFs ({}) comes before flows", shown(rule));
    let level = if machine.wants.flows.vrf { Level::Warning } else { Level::Info };
    let place = machine.wants.flows.ranges.rules.end().saturating_add(1).max(32_000);
    let mut finding = Finding::new(Area::Routing, "vrf-rule", level, found)
        .why("what comes from a VRF is routed by its table alone, where that has a route")
        .advise("a VRF's table should then have no unreachable default route of its own");
    for rule in rules.iter().filter(early) {
        let (ip, priority) = (ip(rule.family), rule.priority);
        finding = finding
            .run(format!("{ip} rule add l3mdev protocol kernel priority {place}"))
            .run(format!("{ip} rule del l3mdev priority {priority}"));
    }
    Some(finding)
}

fn foreign_routes(machine: &Machine, network: &Network, out: &mut Vec<Finding>) {
    let range = &machine.wants.flows.ranges.tables;
    let routes = match &network.strays {
        Ok(routes) => routes,
        Err(because) => {
            let what = "routes of others in our tables";
            return out.push(Finding::not_checked(Area::Routing, "foreign-routes", what, because));
        }
    };
    let mut groups: BTreeMap<(u32, Family, u8), usize> = BTreeMap::new();
    for route in routes {
        let path = &route.path;
        *groups.entry((path.table, route.prefix.family(), path.protocol)).or_default() += 1;
    }
    if groups.is_empty() {
        let found =
            format!("no route of others is in our tables ({} to {})", range.start(), range.end());
        out.push(Finding::new(Area::Routing, "foreign-routes", Level::Ok, found));
    }
    for ((table, family, protocol), count) in groups {
        let found = format!(
            "{count} route{} of protocol {protocol} in table {table}, which is ours",
            if count == 1 { "" } else { "s" }
        );
        out.push(
            Finding::new(Area::Routing, "foreign-routes", level(machine), found)
                .why("flows that use the table would follow them")
                .run(format!("{} route flush table {table} protocol {protocol}", ip(family)))
                .advise(
                    "if they are needed, give wgrouted other tables (`tables` in [flows]); a table \
                     that a routing daemon fills is an exit's `table` with `feed = true`",
                ),
        );
    }
}

fn nexthops(machine: &Machine, network: &Network, out: &mut Vec<Finding>) {
    let range = &machine.wants.flows.ranges.nexthops;
    let objects = match &network.nexthops {
        Ok(objects) => objects,
        Err(because) => {
            let what = "nexthop objects of others";
            return out.push(Finding::not_checked(
                Area::Routing,
                "foreign-nexthops",
                what,
                because,
            ));
        }
    };
    let foreign: Vec<u32> = objects
        .iter()
        .filter(|(id, protocol)| range.contains(id) && *protocol != PROTOCOL)
        .map(|(id, _)| *id)
        .collect();
    if foreign.is_empty() {
        let found = format!(
            "no nexthop object of others is among ours ({} to {})",
            range.start(),
            range.end()
        );
        return out.push(Finding::new(Area::Routing, "foreign-nexthops", Level::Ok, found));
    }
    let named: Vec<_> = foreign.iter().take(NAMED).map(ToString::to_string).collect();
    let rest = if foreign.len() > NAMED { ", …" } else { "" };
    let found = format!(
        "{} nexthop object{} of others among ours: {}{rest}",
        foreign.len(),
        if foreign.len() == 1 { "" } else { "s" },
        named.join(", ")
    );
    let finding = Finding::new(Area::Routing, "foreign-nexthops", level(machine), found)
        .why("exits cannot have these numbers")
        .advise("if they are needed, give wgrouted other numbers: `nexthops` in [flows]");
    let remove = |finding: Finding, id: &u32| finding.run(format!("ip nexthop del id {id}"));
    out.push(foreign.iter().take(NAMED).fold(finding, remove));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{
        doctor::tests::{all, find, machine},
        exits::iprule::{Mark, Selector},
        route::{Hops, Path, Route, RouteKind},
    };

    fn rule(priority: u32, protocol: u8) -> IpRule {
        let (selector, action) = (Selector::default(), Action::table(254));
        IpRule { family: Family::V4, priority, selector, action, protocol }
    }

    fn with(rules: Vec<IpRule>) -> Machine {
        let mut machine = machine();
        machine.network.as_mut().unwrap().rules = Ok(rules);
        machine
    }

    #[test]
    fn rules_of_others_among_ours() {
        let fine = vec![rule(0, 2), rule(9_999, 3), rule(10_000, PROTOCOL), rule(30_000, 3)];
        assert_eq!(find(&with(fine), "foreign-rules").level, Level::Ok);
        let mut machine = with(vec![rule(10_000, PROTOCOL), rule(29_999, 3)]);
        let finding = find(&machine, "foreign-rules");
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(
            finding.remedy,
            ["ip -4 rule del priority 29999 from all lookup 254 protocol 3"]
        );
        machine.wants.flows.exits.insert("wg0".to_owned());
        assert_eq!(find(&machine, "foreign-rules").level, Level::Failure);
    }

    #[test]
    fn a_rule_that_is_not_wholly_known_is_removed_by_what_is() {
        let selector = Selector { unknown: vec![26], ..Selector::default() };
        let odd = IpRule { selector, ..rule(20_000, 4) };
        let finding = find(&with(vec![odd]), "foreign-rules");
        assert_eq!(finding.remedy, ["ip -4 rule del priority 20000 protocol 4"]);
    }

    #[test]
    fn others_are_known_by_their_rules() {
        let marked = |value, mask, inverted| Selector {
            mark: Some(Mark { value, mask }),
            inverted,
            ..Selector::default()
        };
        let quick = IpRule {
            selector: marked(51_820, u32::MAX, true),
            action: Action::table(51_820),
            ..rule(32_764, 3)
        };
        let manager = IpRule { priority: 31_222, ..quick.clone() };
        let selector = marked(0x8_0000, 0xff_0000, false);
        let tailscale = IpRule { selector, ..rule(5_210, 3) };
        for (seen, name) in
            [(quick.clone(), "wg-quick"), (manager, "NetworkManager"), (tailscale, "tailscale")]
        {
            let finding = find(&with(vec![seen]), "known-rules");
            assert_eq!(finding.level, Level::Info);
            assert!(finding.found.starts_with(&format!("rules of {name}: ")), "{}", finding.found);
        }
        assert_eq!(all(&with(vec![rule(32_766, 2), rule(100, 3)]), "known-rules"), []);
        let inside = find(&with(vec![IpRule { priority: 20_000, ..quick }]), "foreign-rules");
        assert!(inside.remedy.is_empty() && inside.advice.contains("wg-quick"), "{inside:?}");
    }

    #[test]
    fn the_rule_for_vrfs_comes_first() {
        let selector = Selector { l3mdev: true, ..Selector::default() };
        let l3mdev = IpRule { selector, action: Action::table(0), ..rule(1_000, 2) };
        let mut machine = with(vec![l3mdev.clone()]);
        assert_eq!(find(&machine, "vrf-rule").level, Level::Info);
        machine.wants.flows.vrf = true;
        let finding = find(&machine, "vrf-rule");
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.remedy[1], "ip -4 rule del l3mdev priority 1000");
        let behind = with(vec![IpRule { priority: 32_000, ..l3mdev }]);
        assert_eq!(all(&behind, "vrf-rule"), []);
    }

    #[test]
    fn routes_and_nexthop_objects_of_others() {
        let mut machine = machine();
        assert_eq!(find(&machine, "foreign-routes").level, Level::Ok);
        assert_eq!(find(&machine, "foreign-nexthops").level, Level::Ok);
        let path = Path {
            table: 119_001,
            metric: 0,
            tos: 0,
            protocol: 4,
            kind: RouteKind::Unicast,
            source: None,
            nexthop: 0,
            hops: Hops::new(),
        };
        let network = machine.network.as_mut().unwrap();
        let route = |prefix: &str| Route { prefix: prefix.parse().unwrap(), path: path.clone() };
        network.strays = Ok(vec![route("10.0.0.0/8"), route("0.0.0.0/0"), route("::/0")]);
        network.nexthops = Ok(vec![(1_190_000, 4), (1_190_001, PROTOCOL), (7, 4)]);
        let routes = all(&machine, "foreign-routes");
        assert_eq!(routes.len(), 2);
        assert_eq!(routes[0].remedy, ["ip -4 route flush table 119001 protocol 4"]);
        assert_eq!(routes[1].remedy, ["ip -6 route flush table 119001 protocol 4"]);
        let nexthops = find(&machine, "foreign-nexthops");
        assert_eq!((nexthops.level, nexthops.remedy.len()), (Level::Warning, 1));
        assert_eq!(nexthops.remedy, ["ip nexthop del id 1190000"]);
    }
}
