//! What a walk says, case by case. That the kernel says the same is `tests/explain`'s business.

use std::{collections::BTreeMap, convert::Infallible};

use super::{
    packet::Packet,
    picture::{Kernel, Picture},
    select::Mismatch,
    table::Found,
    walk::{Decision, Outcome, Suppressed, Walk, walk},
};
use crate::core::{
    exits::iprule::{Action, IpRule, Mark, Selector, Span},
    nexthops::Nexthops,
    prefix::{Family, Prefix},
    route::{Hop, Hops, Link, LinkKind, Nexthop, NexthopKind, Path, Route, RouteKind, TableId},
};

const ETH0: u32 = 2;
const ETH1: u32 = 3;
const RED: u32 = 4;

fn rule(priority: u32, selector: Selector, action: Action) -> IpRule {
    IpRule { family: Family::V4, priority, selector, action, protocol: 0 }
}

fn all(priority: u32, action: Action) -> IpRule {
    rule(priority, Selector::default(), action)
}

fn route(prefix: &str, table: TableId, kind: RouteKind, oif: u32) -> Route {
    let hop = Hop { oif, gateway: None, weight: 1, realm: 0, dead: false };
    let hops = if kind == RouteKind::Unicast { Hops::from_iter([hop]) } else { Hops::new() };
    let path = Path { table, metric: 0, tos: 0, protocol: 4, kind, source: None, nexthop: 0, hops };
    Route { prefix: prefix.parse().unwrap(), path }
}

fn links() -> Vec<Link> {
    let link = |index, name: &str, master, kind| Link {
        index,
        name: name.to_owned(),
        up: true,
        master,
        kind,
    };
    vec![
        link(1, "lo", None, LinkKind::Other),
        link(ETH0, "eth0", None, LinkKind::Other),
        link(ETH1, "eth1", Some(RED), LinkKind::Other),
        link(RED, "red", None, LinkKind::Vrf { table: 10 }),
    ]
}

fn follow_on(kernel: Kernel, rules: &[IpRule], routes: &[Route], packet: Packet) -> Walk {
    let (links, groups) = (links(), BTreeMap::from([(ETH1, 7)]));
    let mut nexthops = Nexthops::default();
    nexthops.insert(Nexthop { id: 5, kind: NexthopKind::Group(Vec::new()) });
    let picture = Picture { rules, links: &links, groups: &groups, nexthops: &nexthops, kernel };
    let table = |table| {
        let holds = |route: &&Route| route.path.table == table && route.prefix.contains(packet.dst);
        Ok::<_, Infallible>(routes.iter().filter(holds).cloned().collect())
    };
    match walk(&picture, packet, table) {
        Ok(walk) => walk,
        Err(never) => match never {},
    }
}

fn follow(rules: &[IpRule], routes: &[Route], packet: Packet) -> Walk {
    follow_on(Kernel { rules_know_vrfs: true }, rules, routes, packet)
}

fn to(address: &str) -> Packet {
    Packet::to(address.parse().unwrap())
}

fn taken(walk: &Walk) -> Option<(u32, Prefix)> {
    match &walk.decision {
        Decision::Route { rule, best } => Some((rule.priority, best.route.prefix)),
        _ => None,
    }
}

#[test]
fn rules_are_tried_in_order_and_say_why_not() {
    let mark = Some(Mark { value: 0x10, mask: u32::MAX });
    let uid = Some(Span { first: 1000, last: 1999 });
    let rules = [
        rule(9, Selector { mark, ..Selector::default() }, Action::Blackhole),
        rule(10, Selector { uid, ..Selector::default() }, Action::table(100)),
        all(20, Action::table(254)),
    ];
    let routes = [
        route("0.0.0.0/0", 100, RouteKind::Unicast, ETH0),
        route("0.0.0.0/0", 254, RouteKind::Unicast, ETH1),
    ];
    let walk = follow(&rules, &routes, Packet { uid: 1000, ..to("192.0.2.1") });
    assert_eq!(taken(&walk), Some((10, Prefix::DEFAULT_V4)));
    let Outcome::Skipped(why) = &walk.steps[0].outcome else { panic!("{walk:?}") };
    assert_eq!(why.to_string(), "mark 0x10: the packet has none");
    let walk = follow(&rules, &routes, to("192.0.2.1"));
    assert_eq!(taken(&walk).map(|(priority, _)| priority), Some(20));
    let walk = follow(&rules, &routes, Packet { mark: 0x10, ..to("192.0.2.1") });
    assert!(matches!(walk.decision, Decision::Rejected { route: None, .. }), "{walk:?}");
}

#[test]
fn goto_goes_forward_or_nowhere() {
    let rules = [
        all(1, Action::Goto(30)),
        all(2, Action::Goto(99)),
        all(20, Action::Prohibit),
        all(30, Action::Nop),
        all(40, Action::Goto(99)),
        all(50, Action::table(254)),
    ];
    let routes = [route("0.0.0.0/0", 254, RouteKind::Unicast, ETH0)];
    let walk = follow(&rules, &routes, to("192.0.2.1"));
    assert_eq!(taken(&walk).map(|(priority, _)| priority), Some(50));
    let seen: Vec<_> = walk.steps.iter().map(|step| step.rule.priority).collect();
    assert_eq!(seen, [1, 30, 40, 50]);
    assert_eq!(walk.steps[2].outcome, Outcome::NoTarget);
}

#[test]
fn suppressed_and_thrown_lookups_go_on() {
    let suppress = |suppress_prefixlength, suppress_group| Action::Table {
        table: 254,
        suppress_prefixlength,
        suppress_group,
    };
    let rules = [
        all(1, Action::table(100)),
        all(2, suppress(Some(0), None)),
        all(3, suppress(None, Some(7))),
        all(4, Action::table(101)),
    ];
    let routes = [
        route("192.0.2.0/24", 100, RouteKind::Throw, 0),
        route("0.0.0.0/0", 100, RouteKind::Unicast, ETH0),
        route("0.0.0.0/0", 254, RouteKind::Unicast, ETH1),
        route("192.0.2.0/24", 101, RouteKind::Unreachable, 0),
    ];
    let walk = follow(&rules, &routes, to("192.0.2.1"));
    let suppressed: Vec<_> = walk
        .steps
        .iter()
        .map(|step| match &step.outcome {
            Outcome::Looked { suppressed, .. } => *suppressed,
            other => panic!("{other:?}"),
        })
        .collect();
    let (length, group) = (Suppressed::Prefixlength(0), Suppressed::Group(7));
    assert_eq!(suppressed, [None, Some(length), Some(group), None]);
    assert!(matches!(&walk.steps[0].outcome, Outcome::Looked { found: Found::Throw(_), .. }));
    let unreachable = RouteKind::Unreachable;
    assert!(matches!(&walk.decision, Decision::Rejected { kind, .. } if *kind == unreachable));
}

#[test]
fn a_vrf_has_its_own_table_and_new_kernels_know_it_in_rules() {
    let of_vrf = Selector { l3mdev: true, ..Selector::default() };
    let oif = Selector { oif: Some("red".to_owned()), ..Selector::default() };
    let rules = [rule(1, oif, Action::Prohibit), rule(2, of_vrf, Action::table(0))];
    let routes = [route("0.0.0.0/0", 10, RouteKind::Unicast, ETH1)];
    let bound = Packet { oif: Some(RED), ..to("192.0.2.1") };
    let new = follow(&rules, &routes, bound);
    assert!(matches!(new.decision, Decision::Rejected { .. }), "{new:?}");
    let old = follow_on(Kernel { rules_know_vrfs: false }, &rules, &routes, bound);
    assert_eq!(taken(&old).map(|(priority, _)| priority), Some(2));
    let outside = follow(&rules, &routes, to("192.0.2.1"));
    assert_eq!(outside.decision, Decision::NoRoute);
    assert_eq!(outside.steps[1].outcome, Outcome::Skipped(Mismatch::L3mdev));
}

#[test]
fn an_object_without_hops_ends_the_search_in_its_leaf_only() {
    let rules = [all(1, Action::table(254))];
    let mut empty = route("192.0.2.0/24", 254, RouteKind::Unicast, ETH0);
    empty.path.nexthop = 5;
    let mut worse = route("192.0.2.0/24", 254, RouteKind::Unicast, ETH0);
    worse.path.metric = 9;
    let routes = [empty, worse, route("192.0.0.0/16", 254, RouteKind::Unicast, ETH0)];
    let walk = follow(&rules, &routes, to("192.0.2.1"));
    assert_eq!(taken(&walk), Some((1, "192.0.0.0/16".parse().unwrap())));
}

#[test]
fn routes_for_any_source_are_passed_over_where_others_count() {
    let mut rules = [all(1, Action::table(254))];
    rules[0].family = Family::V6;
    let mut of_source = route("2001:db8::/32", 254, RouteKind::Unicast, ETH0);
    of_source.path.source = Some("fd00::/64".parse().unwrap());
    let any_source = route("2001:db8::/32", 254, RouteKind::Unicast, ETH0);
    let routes = [of_source, any_source, route("::/0", 254, RouteKind::Unicast, ETH0)];
    let from = |source: &str| Packet { src: Some(source.parse().unwrap()), ..to("2001:db8::1") };
    let prefix = |packet| taken(&follow(&rules, &routes, packet)).map(|(_, prefix)| prefix);
    assert_eq!(prefix(from("fd00::1")), Some("2001:db8::/32".parse().unwrap()));
    assert_eq!(prefix(from("fd01::1")), Some(Prefix::DEFAULT_V6));
    assert_eq!(
        taken(&follow(&rules, &routes[1..], from("fd01::1"))).map(|(_, p)| p.prefix_len()),
        Some(32)
    );
}

#[test]
fn a_bound_socket_needs_no_route_in_ipv4() {
    let bound = Packet { oif: Some(ETH0), ..to("192.0.2.1") };
    assert_eq!(follow(&[], &[], bound).decision, Decision::OnLink { oif: ETH0 });
    assert_eq!(follow(&[], &[], to("192.0.2.1")).decision, Decision::NoRoute);
}
