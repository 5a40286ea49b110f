//! What the laws have caught, told as the shortest story.

use std::time::Duration;

use wgrouted::core::{event::Event, resolve::Unresolved, rule::OnExit};

use crate::{
    domain::{self, MAIN, OTHER, Op, RouteSpec, To, key},
    kernel::Verb,
    mirror::world,
    sim::{Delays, Fault, Sim},
};

/// A world in which everything happens at once and has been read.
fn settled(names: &[&str]) -> Sim {
    let rules = names.iter().map(|name| domain::rule(name)).collect();
    let mut sim = Sim::new(rules, world(true, false), Delays::none());
    sim.pass(500);
    sim
}

/// A route in a table to a peer on `wg0`.
fn route(prefix: &str, table: u32, peer: u8) -> Op {
    let to = To::Hops(vec![(0, peer, 1)]);
    let prefix = prefix.parse().unwrap();
    Op::Route(Verb::Add, RouteSpec { prefix, table, metric: 0, protocol: 12, to })
}

fn replace(prefix: &str, peer: u8) -> Op {
    let Op::Route(_, spec) = route(prefix, MAIN, peer) else { unreachable!() };
    Op::Route(Verb::Replace, spec)
}

#[test]
fn an_audit_right_after_a_sweep_sees_what_is_missing() {
    let mut sim = settled(&["wg0"]);
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    // The reload sweeps over all prefixes.
    sim.tamper("wg0", |device| device.unset("10.0.0.0/27".parse().unwrap(), key(1)));
    let mut rules = sim.rules.clone();
    domain::tag_a_metric(&mut rules[0]);
    sim.tell(Event::Reconfigure(rules));
    sim.pass(100);
    sim.check_devices();
}

#[test]
fn tables_that_were_read_before_count_at_once() {
    let mut sim = settled(&["wg0"]);
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", OTHER, 2)));
    let mut rules = sim.rules.clone();
    rules[0].tables = vec![OTHER, MAIN];
    sim.tell(Event::Reconfigure(rules));
    sim.check_wants();
    sim.pass(100);
    sim.check_devices();
}

#[test]
fn what_is_not_ours_any_more_stays_as_it_has_become() {
    let mut sim = settled(&["wg0"]);
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    sim.pass(100);
    sim.delays = Delays(vec![50], 0);
    sim.change(|kernel| domain::apply(kernel, &replace("10.0.0.0/27", 2)));
    sim.pass(60);
    let mut rules = sim.rules.clone();
    rules[0].managed = vec!["2001:db8::/32".parse().unwrap()];
    // The look at the device that a reload asks for would set it right, but it fails.
    sim.faults.push_back(Fault::Fails);
    sim.tell(Event::Reconfigure(rules));
    sim.pass(500);
    let prefix = "10.0.0.0/27".parse().unwrap();
    assert_eq!(sim.device("wg0").unwrap().table.get(&prefix), Some(&key(2)));
    sim.check_wants();
}

#[test]
fn a_request_that_failed_is_not_repeated_before_a_look() {
    let mut sim = settled(&["wg0"]);
    sim.stubborn = Some((Fault::Fails, false));
    sim.applies = 0;
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    sim.pass(10_000);
    assert!(sim.applies <= 11, "{} requests in ten seconds", sim.applies);
}

#[test]
fn a_refused_change_waits_longer_and_longer() {
    let mut sim = settled(&["wg0"]);
    sim.stubborn = Some((Fault::Refuses(1), false));
    sim.applies = 0;
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    sim.pass(60_000);
    assert_eq!(sim.applies, 6, "at 0, 1, 3, 7, 15 and 31 seconds, whatever the audits see");
}

#[test]
fn a_refused_change_does_not_spin_while_a_table_is_read() {
    let mut sim = settled(&["wg0"]);
    sim.faults.push_back(Fault::Refuses(1));
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    sim.delays = Delays(vec![2000], 0);
    let mut rules = sim.rules.clone();
    rules[0].tables = vec![MAIN, OTHER, 7];
    sim.tell(Event::Reconfigure(rules));
    sim.pass(30_000);
    sim.check_devices();
}

#[test]
fn a_failure_does_not_swallow_the_next_try_of_a_refused_change() {
    let mut sim = settled(&["wg0"]);
    sim.faults.push_back(Fault::Refuses(1));
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    // An audit comes first, then the try after one second.
    sim.pass(800);
    sim.faults.push_back(Fault::Fails);
    sim.pass(4000);
    sim.check_devices();
}

#[test]
fn a_look_that_is_asked_for_during_another_is_not_forgotten() {
    let mut sim = settled(&["wg0"]);
    sim.delays = Delays(vec![10], 0);
    sim.tell(Event::Resync);
    sim.pass(15);
    // The device has been read, the answer is on its way.
    sim.tamper("wg0", |device| device.remove_peer(key(1)));
    sim.tell(Event::Resync);
    sim.pass(100);
    let peers = sim.interface("wg0").peers();
    assert!(!peers.get(peers.find(&key(1)).unwrap()).present);
}

#[test]
fn a_replacement_after_a_silent_death_is_looked_at_again() {
    let mut sim = settled(&["wg0", "wg1"]);
    let spec = |to| RouteSpec {
        prefix: "10.0.0.0/27".parse().unwrap(),
        table: MAIN,
        metric: 0,
        protocol: 12,
        to,
    };
    let first = spec(To::Hops(vec![(1, 5, 1)]));
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Add, first)));
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Append, spec(To::Reject))));
    sim.change(|kernel| domain::apply(kernel, &Op::Down(1)));
    // The mirror still holds the first route: which one was replaced?
    sim.change(|kernel| domain::apply(kernel, &replace("10.0.0.0/27", 2)));
    sim.pass(5000);
    sim.check_mirror(&[MAIN, OTHER]);
}

#[test]
fn a_dump_between_the_end_of_an_object_and_that_of_its_routes_is_doubted() {
    let mut sim = settled(&["wg0"]);
    let prefix = "10.0.0.0/27".parse().unwrap();
    let spec = RouteSpec { prefix, table: MAIN, metric: 0, protocol: 12, to: To::Object(1) };
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Add, spec)));
    // Full dumps keep their distance; the next one is due at once.
    sim.pass(2000);
    sim.slowness = 500;
    sim.change(|kernel| domain::apply(kernel, &Op::NexthopGone(1)));
    sim.tell(Event::Resync);
    sim.pass(5000);
    sim.check_mirror(&[MAIN, OTHER]);
}

#[test]
fn what_was_announced_and_lost_may_not_have_been_done_yet() {
    let mut sim = settled(&["wg0"]);
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    // Full dumps keep their distance; the next one is due at once.
    sim.pass(2000);
    sim.slowness = 500;
    sim.lose(u64::MAX);
    sim.change(|kernel| domain::apply(kernel, &Op::Address(0, false)));
    sim.lost();
    sim.pass(5000);
    sim.check_mirror(&[MAIN, OTHER]);
}

#[test]
fn a_link_that_goes_down_slowly_is_looked_at_twice() {
    let mut sim = settled(&["wg0"]);
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    sim.slowness = 500;
    sim.change(|kernel| domain::apply(kernel, &Op::Down(0)));
    sim.pass(5000);
    sim.check_mirror(&[MAIN, OTHER]);
}

#[test]
fn a_last_address_that_comes_back_revives_hops() {
    let mut sim = settled(&["wg0"]);
    let prefix = "10.0.0.0/27".parse().unwrap();
    let to = To::Hops(vec![(0, 1, 1), (2, 1, 1)]);
    let spec = RouteSpec { prefix, table: MAIN, metric: 0, protocol: 12, to };
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Add, spec)));
    sim.change(|kernel| domain::apply(kernel, &Op::Address(0, false)));
    sim.pass(3000);
    assert_eq!(sim.device("wg0").unwrap().table.get(&prefix), None);
    sim.change(|kernel| domain::apply(kernel, &Op::Address(0, true)));
    sim.pass(3000);
    assert_eq!(sim.device("wg0").unwrap().table.get(&prefix), Some(&key(1)));
}

/// Such are the routes that reachability announces: they would fill `show unresolved`.
#[test]
fn a_route_without_gateway_to_a_peer_s_own_address_is_resolved() {
    let mut sim = settled(&["wg0"]);
    let pinned = domain::rule("wg0").peers[0].pinned.clone().unwrap()[0];
    let other = "10.0.0.0/27".parse().unwrap();
    for prefix in [pinned, other] {
        let to = To::Hops(vec![(0, 0, 1)]);
        let spec = RouteSpec { prefix, table: MAIN, metric: 1024, protocol: 119, to };
        sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Add, spec)));
    }
    sim.pass(100);
    let interface = sim.interface("wg0");
    assert_eq!(interface.unresolved().get(&pinned), None);
    assert_eq!(interface.unresolved().get(&other), Some(&Unresolved::NoGateway));
    sim.check_wants();
}

#[test]
fn a_link_takes_its_nexthop_objects_out_of_their_groups() {
    let mut sim = settled(&["wg0", "wg1"]);
    let prefix = "10.0.0.0/27".parse().unwrap();
    // Object 1 leaves by wg1, object 2 by wg0, 5 is the group of both.
    for (id, link) in [(1, 1), (2, 0), (5, 1)] {
        sim.change(|kernel| domain::apply(kernel, &Op::Nexthop(id, link, 0)));
    }
    let spec = RouteSpec { prefix, table: MAIN, metric: 0, protocol: 12, to: To::Object(5) };
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Add, spec)));
    sim.pass(100);
    assert_eq!(sim.device("wg1").unwrap().table.get(&prefix), Some(&key(5)));
    sim.change(|kernel| domain::apply(kernel, &Op::Down(1)));
    sim.pass(3000);
    assert_eq!(sim.device("wg0").unwrap().table.get(&prefix), Some(&key(1)), "it lives on here");
    assert_eq!(sim.device("wg1").unwrap().table.get(&prefix), None);
}

#[test]
fn a_link_that_is_going_down_while_the_daemon_starts_is_looked_at_again() {
    let mut sim = settled(&["wg0"]);
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    sim.slowness = 500;
    sim.change(|kernel| domain::apply(kernel, &Op::Down(0)));
    // What was announced before the daemon listened tells it nothing.
    sim.restart();
    sim.pass(5000);
    sim.check_mirror(&[MAIN, OTHER]);
}

#[test]
fn a_table_is_forgotten_with_the_last_interface_that_followed_it() {
    let mut rules = vec![domain::rule("wg0"), domain::rule("wg1")];
    rules[0].tables = vec![MAIN];
    rules[1].tables = vec![OTHER];
    rules[1].on_exit = OnExit::Remove;
    let mut sim = Sim::new(rules, world(true, false), Delays::none());
    sim.pass(500);
    let to = To::Hops(vec![(1, 5, 1)]);
    let prefix = "10.0.0.0/27".parse().unwrap();
    let spec = RouteSpec { prefix, table: OTHER, metric: 0, protocol: 12, to };
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Add, spec)));
    sim.pass(100);
    assert_eq!(sim.device("wg1").unwrap().table.get(&prefix), Some(&key(5)));
    // It goes only when it has removed what is its own.
    sim.delays = Delays(vec![50], 0);
    let rules = vec![sim.rules[0].clone()];
    sim.tell(Event::Reconfigure(rules));
    sim.check_mirror(&[MAIN, OTHER]);
    sim.pass(500);
    assert_eq!(sim.device("wg1").unwrap().table.get(&prefix), None);
    assert_eq!(sim.engine.interfaces().count(), 1);
    sim.check_mirror(&[MAIN]);
}

#[test]
fn what_a_failed_request_left_behind_is_not_learned() {
    let mut rule = domain::rule("wg0");
    rule.adopt = Duration::from_secs(10);
    rule.peers.iter_mut().for_each(|peer| peer.pinned = None);
    let mut sim = Sim::new(vec![rule], world(true, false), Delays::none());
    let own = domain::pins(1);
    sim.tamper("wg0", |device| own.iter().for_each(|pin| device.set(*pin, key(1))));
    sim.pass(500);
    sim.faults.push_back(Fault::HalfWay(1));
    sim.change(|kernel| domain::apply(kernel, &route("10.0.0.0/27", MAIN, 1)));
    sim.pass(20_000);
    let prefix = "10.0.0.0/27".parse().unwrap();
    assert_eq!(sim.device("wg0").unwrap().table.get(&prefix), Some(&key(1)));
    let peers = sim.interface("wg0").peers();
    let pinned = &peers.get(peers.find(&key(1)).unwrap()).pinned;
    assert_eq!(pinned.iter().copied().collect::<Vec<_>>(), own);
}
