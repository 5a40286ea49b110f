//! What the laws of the filter, or reading it, once found.

use std::time::Duration;

use wgrouted::core::{
    event::Event,
    filter::{
        rule::{LinkFilter, SourceMode},
        table::FilterEvent,
    },
    prefix::Prefix,
    rule::{Audit, InterfaceRule},
};

use crate::{
    domain::{self, MAIN, Op, RouteSpec, To},
    filter_domain::{Turn, filter_rule, interface_rule, plain_filter, play},
    filter_laws::{check_end, start},
    kernel::Verb,
    sim::{Fault, Sim},
};

/// The links with these modes, if they are filtered.
fn rules(modes: [Option<SourceMode>; 2]) -> Vec<InterfaceRule> {
    let mut rules = ["wg0", "wg1"].map(interface_rule).to_vec();
    for (rule, mode) in rules.iter_mut().zip(modes) {
        let filter = |mode| LinkFilter { peers: plain_filter(mode), open: false };
        rule.filter = mode.map(filter);
    }
    rules
}

fn running(modes: [Option<SourceMode>; 2], grace: u64, peers: u32) -> Sim {
    let mut sim = start(&rules(modes), vec![1]);
    sim.restart();
    let mut rule = filter_rule(grace, Audit::Auto);
    rule.sizes.peers = peers;
    sim.configure_filter(Some(rule));
    sim.pass(3000);
    check_end(&sim);
    sim
}

/// The sum of the interfaces' revisions was the same.
#[test]
fn a_filter_that_moves_to_another_link_is_noticed() {
    let mut sim = running([Some(SourceMode::Off), None], 0, 64);
    for modes in [[None, Some(SourceMode::Off)], [Some(SourceMode::Strict), None]] {
        sim.tell(Event::Reconfigure(rules(modes)));
        sim.pass(3000);
        check_end(&sim);
    }
}

/// The link was written in one batch with its peer, which was refused.
#[test]
fn a_link_does_not_name_a_peer_that_was_refused() {
    let mut sim = start(&rules([None, Some(SourceMode::Off)]), vec![1]);
    sim.filter.faults.extend([Fault::Fine, Fault::Fine, Fault::Refuses(1)]);
    sim.restart();
    sim.configure_filter(Some(filter_rule(0, Audit::Auto)));
    sim.pass(15_000);
    check_end(&sim);
}

/// Nobody polled the filter that was to go, and its time to act had always come.
#[test]
fn a_filter_that_goes_and_comes_in_one_moment_stays() {
    let mut sim = running([None, Some(SourceMode::Strict)], 0, 64);
    let rule = sim.filter.rule.clone();
    sim.engine.handle(Event::Filter(FilterEvent::Configure(None)), sim.now);
    sim.engine.handle(Event::Filter(FilterEvent::Configure(rule)), sim.now);
    sim.pass(3000);
    check_end(&sim);
}

/// Peer 2 got the number of peer 1, for which the default route was still legal.
#[test]
fn a_number_rests_as_long_as_a_grace_names_it() {
    let mut sim = running([Some(SourceMode::Strict), Some(SourceMode::Strict)], 20_000, 6);
    let to = To::Hops(vec![(0, 1, 1)]);
    let prefix = Prefix::DEFAULT_V4;
    let spec = RouteSpec { prefix, table: MAIN, metric: 0, protocol: 12, to };
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Replace, spec)));
    for (peer, on) in [(2, false), (4, true), (1, false), (2, true)] {
        sim.pass(3000);
        play(&mut sim, &Turn::Peer(peer, on));
    }
    sim.pass(3000);
    check_end_of(&sim, 2);
}

/// The peer may use its own addresses and nothing else.
fn check_end_of(sim: &Sim, peer: u8) {
    let key = domain::key(peer);
    let admitted = crate::filter_maps::Maps(&sim.filter.maps).all_admitted();
    let mask = admitted.iter().find(|(who, _)| who.public_key == key).map(|(_, mask)| *mask);
    assert_eq!(mask, Some(crate::filter_domain::own_addresses(&key)));
}

/// Graces that begin after a restart outlast the moment in which the daemon has caught up.
#[test]
fn graces_after_a_restart_run_on() {
    let mut rules = rules([Some(SourceMode::Off); 2]);
    let mut group = plain_filter(SourceMode::Group);
    group.group = Some("a".to_owned());
    rules[0].peers[0].filter = Some(group);
    let mut sim = start(&rules, vec![1]);
    sim.restart();
    sim.filter.watch.begin(Duration::from_millis(56), sim.now);
    sim.configure_filter(Some(filter_rule(300, Audit::Auto)));
    sim.pass(3000);
    let route = |sim: &mut Sim, prefix: &str, metric, to| {
        let prefix = prefix.parse().unwrap();
        let to = To::Hops(vec![to]);
        let spec = RouteSpec { prefix, table: MAIN, metric, protocol: 12, to };
        sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Replace, spec)));
        sim.pass(0);
    };
    route(&mut sim, "0.0.0.0/0", 0, (0, 1, 1));
    play(&mut sim, &Turn::Restart);
    sim.pass(0);
    route(&mut sim, "2001:db8::/126", 1024, (0, 1, 1));
    route(&mut sim, "2001:db8::/126", 1024, (1, 5, 1));
    sim.pass(10_000);
    check_end(&sim);
}

/// A link came under the filter before anything was written.
#[test]
fn a_filter_that_comes_first_waits_for_its_links() {
    let mut sim = start(&rules([None, None]), vec![37]);
    sim.restart();
    sim.configure_filter(Some(filter_rule(0, Audit::Auto)));
    let prefix = "10.0.0.0/30".parse().unwrap();
    let to = To::Hops(vec![(0, 1, 1)]);
    let spec = RouteSpec { prefix, table: MAIN, metric: 0, protocol: 12, to };
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Add, spec)));
    sim.pass(432);
    sim.tell(Event::Reconfigure(rules([Some(SourceMode::Off); 2])));
    sim.pass(130_000);
    check_end(&sim);
}
