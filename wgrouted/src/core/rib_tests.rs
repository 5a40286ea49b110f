//! What the kernel's notifications do to the mirror: one test per rule of its route lists.

use super::*;
use crate::core::route::{Route, RouteKind, TABLE_MAIN};

fn hop(oif: u32, gateway: &str) -> Hop {
    Hop { oif, gateway: Some(gateway.parse().unwrap()), weight: 1, realm: 0, dead: false }
}

fn path(metric: u32, hops: &[Hop]) -> Path {
    Path {
        table: TABLE_MAIN,
        metric,
        tos: 0,
        protocol: 12,
        kind: RouteKind::Unicast,
        source: None,
        nexthop: 0,
        hops: hops.iter().copied().collect(),
    }
}

fn apply(rib: &mut Rib, op: RouteOp, prefix: &str, path: &Path) -> Outcome {
    let route = Route { prefix: prefix.parse().unwrap(), path: path.clone() };
    rib.apply(&RouteEvent { op, route })
}

fn routes(rib: &Rib, prefix: &str) -> Vec<Path> {
    let list = rib.paths(&prefix.parse().unwrap());
    list.iter().map(|id| rib.path_table().get(*id).clone()).collect()
}

const P4: &str = "10.0.0.0/24";
const P6: &str = "2001:db8::/32";

#[test]
fn replace_takes_the_place_of_the_first_route_whoever_owns_it() {
    let mut rib = Rib::default();
    let (a, b, c) = (
        path(1, &[hop(1, "1.1.1.1")]),
        path(1, &[hop(2, "2.2.2.2")]),
        path(1, &[hop(3, "3.3.3.3")]),
    );
    apply(&mut rib, RouteOp::Add, P4, &a);
    apply(&mut rib, RouteOp::Append, P4, &b);
    let outcome = apply(&mut rib, RouteOp::Replace, P4, &c);
    assert_eq!(routes(&rib, P4), [c, b]);
    assert_eq!(outcome, Outcome { changed: true, ambiguous: true });
}

#[test]
fn add_goes_to_the_front_and_append_to_the_end_of_its_metric() {
    let mut rib = Rib::default();
    let (a, b, c) = (path(1, &[hop(1, "1.1.1.1")]), path(1, &[hop(2, "2.2.2.2")]), path(9, &[]));
    apply(&mut rib, RouteOp::Add, P4, &c);
    apply(&mut rib, RouteOp::Add, P4, &a);
    apply(&mut rib, RouteOp::Add, P4, &b);
    assert_eq!(routes(&rib, P4), [c, b, a]);
}

#[test]
fn repeated_events_change_nothing() {
    let mut rib = Rib::default();
    let a = path(1, &[hop(1, "1.1.1.1")]);
    for op in [RouteOp::Add, RouteOp::Append, RouteOp::Replace] {
        apply(&mut rib, op, P4, &a);
        assert!(!apply(&mut rib, op, P4, &a).changed);
    }
    assert_eq!(routes(&rib, P4), std::slice::from_ref(&a));
    assert!(apply(&mut rib, RouteOp::Delete, P4, &a).changed);
    assert_eq!(apply(&mut rib, RouteOp::Delete, P4, &a), Outcome::default());
    assert!(rib.is_empty() && rib.path_table().is_empty());
}

#[test]
fn deleting_the_better_metric_uncovers_the_worse() {
    let mut rib = Rib::default();
    let (a, b) = (path(1, &[hop(1, "1.1.1.1")]), path(2, &[hop(2, "2.2.2.2")]));
    apply(&mut rib, RouteOp::Add, P4, &a);
    apply(&mut rib, RouteOp::Add, P4, &b);
    apply(&mut rib, RouteOp::Delete, P4, &a);
    assert_eq!(routes(&rib, P4), [b]);
}

#[test]
fn an_ipv6_delete_may_name_one_hop_only() {
    let mut rib = Rib::default();
    let both = path(1024, &[hop(1, "fe80::1"), hop(2, "fe80::2")]);
    apply(&mut rib, RouteOp::Add, P6, &both);
    apply(&mut rib, RouteOp::Delete, P6, &path(1024, &[hop(1, "fe80::1")]));
    assert_eq!(routes(&rib, P6), [path(1024, &[hop(2, "fe80::2")])]);
    apply(&mut rib, RouteOp::Delete, P6, &path(1024, &[hop(2, "fe80::2")]));
    assert!(rib.is_empty());
}

#[test]
fn an_ipv6_append_carries_the_whole_new_set() {
    let mut rib = Rib::default();
    let one = path(1024, &[hop(1, "fe80::1")]);
    let both = path(1024, &[hop(1, "fe80::1"), hop(2, "fe80::2")]);
    apply(&mut rib, RouteOp::Add, P6, &one);
    apply(&mut rib, RouteOp::Append, P6, &both);
    assert_eq!(routes(&rib, P6), [both]);
}

#[test]
fn a_delete_matches_although_the_kernel_flags_the_hop_dead() {
    let mut rib = Rib::default();
    let a = path(1024, &[hop(1, "fe80::1")]);
    let mut dead = a.clone();
    dead.hops[0].dead = true;
    apply(&mut rib, RouteOp::Add, P6, &a);
    apply(&mut rib, RouteOp::Delete, P6, &dead);
    assert!(rib.is_empty());
}

#[test]
fn a_delete_that_matches_nothing_of_its_key_is_ambiguous() {
    let mut rib = Rib::default();
    apply(&mut rib, RouteOp::Add, P4, &path(1, &[hop(1, "1.1.1.1")]));
    let outcome = apply(&mut rib, RouteOp::Delete, P4, &path(1, &[hop(2, "2.2.2.2")]));
    assert_eq!(outcome, Outcome { changed: false, ambiguous: true });
}

#[test]
fn a_nexthop_object_takes_its_routes_along() {
    let mut rib = Rib::default();
    let with = |id| Path { nexthop: id, ..path(20, &[]) };
    apply(&mut rib, RouteOp::Add, P4, &with(7));
    apply(&mut rib, RouteOp::Add, "10.1.0.0/24", &with(8));
    assert_eq!(rib.using_nexthops(&[7, 8]).len(), 2);
    assert_eq!(rib.remove_nexthop(7), [P4.parse().unwrap()]);
    assert_eq!((rib.len(), rib.using_nexthops(&[7]).len()), (1, 0));
    apply(&mut rib, RouteOp::Replace, "10.1.0.0/24", &path(20, &[hop(1, "1.1.1.1")]));
    assert_eq!(rib.using_nexthops(&[8]), []);
}

#[test]
fn an_ipv6_route_joins_the_gateways_of_its_key_wherever_it_was_put() {
    let mut rib = Rib::default();
    let one = path(1024, &[hop(1, "fe80::1")]);
    // `ip -6 route prepend`: NLM_F_CREATE alone, and the newcomer is named first.
    let both = path(1024, &[hop(2, "fe80::2"), hop(1, "fe80::1")]);
    let device = path(1024, &[Hop { gateway: None, ..hop(3, "fe80::3") }]);
    apply(&mut rib, RouteOp::Add, P6, &one);
    apply(&mut rib, RouteOp::Add, P6, &both);
    let joined = path(1024, &[hop(1, "fe80::1"), hop(2, "fe80::2")]);
    assert_eq!(routes(&rib, P6), std::slice::from_ref(&joined), "in a dump's order");
    apply(&mut rib, RouteOp::Add, P6, &device);
    assert_eq!(routes(&rib, P6), [joined, device]);
}

#[test]
fn an_ipv6_route_shows_the_protocol_of_its_first_hop() {
    let mut rib = Rib::default();
    let one = path(1024, &[hop(1, "fe80::1")]);
    let two = Path { protocol: 42, ..path(1024, &[hop(2, "fe80::2")]) };
    let both = Path { protocol: 42, ..path(1024, &[hop(2, "fe80::2"), hop(1, "fe80::1")]) };
    apply(&mut rib, RouteOp::Add, P6, &one);
    apply(&mut rib, RouteOp::Append, P6, &both);
    assert!(!apply(&mut rib, RouteOp::Delete, P6, &two).ambiguous);
    assert_eq!(routes(&rib, P6), std::slice::from_ref(&one));
    apply(&mut rib, RouteOp::Append, P6, &both);
    assert!(apply(&mut rib, RouteOp::Delete, P6, &one).ambiguous, "whose protocol is left?");
}

#[test]
fn an_ipv6_object_route_replaces_a_route_that_does_not_join_others() {
    let mut rib = Rib::default();
    let (gateway, object) = (path(9, &[hop(1, "fe80::1")]), Path { nexthop: 7, ..path(9, &[]) });
    let device = path(9, &[Hop { gateway: None, ..hop(3, "fe80::3") }]);
    apply(&mut rib, RouteOp::Add, P6, &gateway);
    apply(&mut rib, RouteOp::Append, P6, &device);
    apply(&mut rib, RouteOp::Replace, P6, &object);
    assert_eq!(routes(&rib, P6), [gateway, object]);
}

#[test]
fn a_changed_nexthop_object_replaces_its_route_in_its_place() {
    let mut rib = Rib::default();
    let first = path(1, &[hop(1, "1.1.1.1")]);
    let object = |gateway| Path { nexthop: 7, ..path(1, &[hop(2, gateway)]) };
    apply(&mut rib, RouteOp::Add, P4, &first);
    apply(&mut rib, RouteOp::Append, P4, &object("2.2.2.2"));
    apply(&mut rib, RouteOp::Replace, P4, &object("3.3.3.3"));
    assert_eq!(routes(&rib, P4), [first, object("3.3.3.3")]);
}

#[test]
fn an_object_that_went_first_leaves_no_doubt_about_its_routes() {
    let mut rib = Rib::default();
    let object = Path { nexthop: 7, ..path(9, &[]) };
    apply(&mut rib, RouteOp::Add, P6, &path(9, &[hop(1, "fe80::1")]));
    apply(&mut rib, RouteOp::Append, P6, &object);
    rib.remove_nexthop(7);
    assert_eq!(apply(&mut rib, RouteOp::Delete, P6, &object), Outcome::default());
}
