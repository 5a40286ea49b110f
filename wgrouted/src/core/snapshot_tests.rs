//! How a dump and what was announced while it ran become one.

use super::*;
use crate::core::route::{Hop, RouteKind, RouteOp, TABLE_MAIN};

const P: &str = "10.0.0.0/24";
const MAIN: Scope = Scope { family: Family::V4, table: Some(TABLE_MAIN), oif: None };

/// A route through a link.
fn via(oif: u32) -> Path {
    let gateway = Some(std::net::IpAddr::from([10, 0, 0, oif as u8]));
    Path {
        table: TABLE_MAIN,
        metric: 1,
        tos: 0,
        protocol: 12,
        kind: RouteKind::Unicast,
        source: None,
        nexthop: 0,
        hops: [Hop { oif, gateway, weight: 1, realm: 0, dead: false }].into_iter().collect(),
    }
}

fn news(op: RouteOp, path: &Path) -> NetEvent {
    let route = Route { prefix: P.parse().unwrap(), path: path.clone() };
    NetEvent::Route(RouteEvent { op, route })
}

fn rib(paths: &[Path]) -> Rib {
    let mut rib = Rib::default();
    for path in paths {
        let NetEvent::Route(event) = news(RouteOp::Append, path) else { unreachable!() };
        rib.apply(&event);
    }
    rib
}

fn read(rib: &mut Rib, dump: &[Path], scope: Scope, journal: &[NetEvent]) -> Committed {
    let mut snapshot = Snapshot::default();
    for path in dump {
        rib.stage(&mut snapshot, &Route { prefix: P.parse().unwrap(), path: path.clone() });
    }
    rib.commit(snapshot, &[scope], Journal::new(journal))
}

fn routes(rib: &Rib) -> Vec<Path> {
    let list = rib.paths(&P.parse().unwrap());
    list.iter().map(|id| rib.path_table().get(*id).clone()).collect()
}

#[test]
fn it_replaces_what_is_in_its_scope_only() {
    let mut rib = rib(&[via(1), Path { table: 100, ..via(2) }]);
    let done = read(&mut rib, &[via(3)], MAIN, &[]);
    assert_eq!(done.changed, Changed::Some(vec![P.parse().unwrap()]));
    assert_eq!(routes(&rib), [Path { table: 100, ..via(2) }, via(3)]);
    assert_eq!((rib.len(), rib.path_table().len()), (1, 2));
}

#[test]
fn an_equal_one_changes_nothing_and_leaks_nothing() {
    let paths = [via(1), Path { metric: 2, ..via(2) }];
    let mut rib = rib(&paths);
    let done = read(&mut rib, &paths, MAIN, &[]);
    assert_eq!(done, Committed { changed: Changed::Some(vec![]), doubtful: BTreeSet::new() });
    let mut snapshot = Snapshot::default();
    rib.stage(&mut snapshot, &Route { prefix: P.parse().unwrap(), path: via(7) });
    rib.discard(snapshot);
    read(&mut rib, &[], MAIN, &[news(RouteOp::Delete, &via(1))]);
    assert!(rib.is_empty() && rib.path_table().is_empty(), "a reference was leaked");
}

#[test]
fn a_dump_of_one_link_keeps_the_order_of_the_others() {
    let link = |oif| Scope { oif: Some(oif), ..MAIN };
    let mut rib = rib(&[via(1), via(2), via(3)]);
    assert_eq!(read(&mut rib, &[via(1)], link(1), &[]).changed, Changed::Some(vec![]));
    read(&mut rib, &[], link(2), &[]);
    assert_eq!(routes(&rib), [via(1), via(3)]);
    let mut dead = via(1);
    dead.hops[0].dead = true;
    let done = read(&mut rib, std::slice::from_ref(&dead), link(1), &[]);
    assert_eq!(routes(&rib), [dead, via(3)]);
    assert!(done.doubtful.is_empty());
    let done = read(&mut rib, &[via(1), Path { protocol: 4, ..via(1) }], link(1), &[]);
    assert_eq!(done.doubtful, BTreeSet::from([(Family::V4, TABLE_MAIN)]));
}

#[test]
fn a_dump_of_one_link_does_not_speak_for_nexthop_objects() {
    // The object is a group: it lost its member on link 1, and lives on through link 2.
    let object = Path { nexthop: 9, ..via(1) };
    let mut rib = rib(std::slice::from_ref(&object));
    read(&mut rib, &[], Scope { oif: Some(1), ..MAIN }, &[]);
    assert_eq!(routes(&rib), [object]);
}

#[test]
fn what_is_announced_during_a_dump_may_be_in_it_or_not() {
    for dump in [vec![], vec![via(1)], vec![via(2)]] {
        let mut rib = Rib::default();
        let journal = [news(RouteOp::Delete, &via(1)), news(RouteOp::Add, &via(2))];
        let done = read(&mut rib, &dump, MAIN, &journal);
        assert_eq!((routes(&rib), done.doubtful.len()), (vec![via(2)], 0), "read as {dump:?}");
    }
}

#[test]
fn readings_that_disagree_are_doubtful() {
    // [1, 2] became [3, 2] and then [2], which is what was read; or [2] was read before, and is
    // gone by now.
    let mut rib = rib(&[via(1), via(2)]);
    let journal = [news(RouteOp::Replace, &via(3)), news(RouteOp::Delete, &via(3))];
    let done = read(&mut rib, &[via(2)], MAIN, &journal);
    assert_eq!(done.doubtful, BTreeSet::from([(Family::V4, TABLE_MAIN)]));
}

#[test]
fn a_table_that_was_not_dumped_is_not_played_again() {
    let mut rib = rib(&[via(2)]);
    let journal = [news(RouteOp::Replace, &via(3)), news(RouteOp::Delete, &via(3))];
    let other = Scope { table: Some(100), ..MAIN };
    assert_eq!(read(&mut rib, &[], other, &journal).changed, Changed::Some(vec![]));
    assert_eq!(routes(&rib), [via(2)]);
}

#[test]
fn an_object_that_went_during_the_dump_takes_its_routes_along() {
    let mut rib = Rib::default();
    let object = Path { nexthop: 9, ..via(1) };
    read(&mut rib, &[object], MAIN, &[NetEvent::NexthopGone { id: 9 }]);
    assert!(rib.is_empty() && rib.path_table().is_empty());
}
