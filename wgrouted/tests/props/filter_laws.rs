//! The filter admits what it should, whatever happened before.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use wgrouted::core::rule::{Audit, InterfaceRule};

use crate::{
    domain::EVERYTHING,
    filter_domain::{self as domain, Turn, filter_rule, interface_rule},
    filter_maps::Maps,
    filter_oracle::Oracle,
    mirror::world,
    sim::{Delays, Fault, Sim},
};

/// Once all is quiet: everybody may use what the oracle says, nobody else is known.
pub fn check_end(sim: &Sim) {
    let oracle = Oracle::new(&sim.kernel, &sim.devices, &sim.rules);
    let maps = Maps(&sim.filter.maps);
    assert_eq!(maps.all_admitted(), oracle.admitted(), "admitted: maps (left), oracle (right)");
    assert_eq!(maps.tunnels(), oracle.tunnels(), "tunnels: maps (left), oracle (right)");
    let links = sim.filter.maps.links.keys();
    let passing: BTreeMap<_, _> = links.map(|index| (*index, maps.passing(*index))).collect();
    assert_eq!(passing, oracle.passing(), "passing: maps (left), oracle (right)");
}

/// A world with these rules, in which the daemon has yet to be started.
pub fn start(rules: &[InterfaceRule], delays: Vec<u16>) -> Sim {
    let interfaces = ["wg0", "wg1"].map(interface_rule).to_vec();
    let mut sim = Sim::new(interfaces, world(true, false), Delays(delays, 0));
    sim.rules = rules.to_vec();
    sim
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        20 => domain::op(EVERYTHING).prop_map(Turn::World),
        3 => (prop_oneof![1..=5u8, Just(8)], any::<bool>()).prop_map(|(n, on)| Turn::Peer(n, on)),
        6 => domain::fault().prop_map(Turn::Fault),
        2 => any::<u8>().prop_map(Turn::Tamper),
        1 => Just(Turn::Restart),
        2 => domain::rules().prop_map(Turn::Reconfigure),
        1 => Just(Turn::Resync),
    ]
}

/// Nothing that the kernel keeps silent about, so that the daemon learns of it at once.
fn calm_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        30 => domain::nested_op().prop_map(Turn::World),
        1 => Just(Turn::Restart),
        1 => Just(Turn::Resync),
    ]
}

fn rough_turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        20 => domain::nested_op().prop_map(Turn::World),
        3 => prop_oneof![Just(Fault::Fails), (0..6usize).prop_map(Fault::HalfWay)]
            .prop_map(Turn::Fault),
        1 => Just(Turn::Restart),
        1 => domain::rules().prop_map(Turn::Reconfigure),
        1 => Just(Turn::Resync),
    ]
}

fn calm_wait() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 2 => 0..60u64, 2 => 100..500u64]
}

fn wait() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 2 => 0..60u64, 1 => 0..2500u64]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(70)))]

    /// After any story the maps admit what the oracle admits, for every address and peer.
    #[test]
    fn in_the_end_the_maps_are_right(
        rules in domain::rules(),
        story in prop::collection::vec((turn(), wait()), 0..40),
        delays in prop::collection::vec(0..60u16, 1..10),
        grace in prop_oneof![Just(0), Just(1000u64)],
        audit in domain::audit(),
    ) {
        let mut sim = start(&rules, delays);
        sim.restart();
        sim.configure_filter(Some(filter_rule(grace, audit)));
        for (turn, wait) in &story {
            domain::play(&mut sim, turn);
            sim.pass(*wait);
        }
        sim.filter.faults.clear();
        // What was refused over and over waits up to a minute, an audit half of that.
        sim.pass(130_000);
        check_end(&sim);
    }

    /// After every single change in the maps a peer may use only what was legal within the grace
    /// and the delays, and everything that was legal all that time; also across restarts.
    #[test]
    fn there_is_no_third_state(
        rules in domain::rules(),
        story in prop::collection::vec((calm_turn(), calm_wait()), 0..40),
        delays in prop::collection::vec(0..20u16, 1..10),
        grace in prop_oneof![Just(0), Just(300u64)],
    ) {
        let mut sim = start(&rules, delays.clone());
        sim.restart();
        let most = Duration::from_millis(delays.iter().copied().max().unwrap_or(0).into());
        // A repair reads table after table before it changes any, and every request takes a while.
        sim.filter.watch.begin(Duration::from_millis(40) + most * 20, sim.now);
        sim.configure_filter(Some(filter_rule(grace, Audit::Auto)));
        sim.pass(3000);
        for (turn, wait) in &story {
            domain::play(&mut sim, turn);
            sim.pass(*wait);
        }
        sim.pass(10_000);
        check_end(&sim);
    }

    /// The same where more goes wrong: peers come and go and their numbers are scarce, the operator
    /// changes everything, requests fail whole or half way.
    #[test]
    fn there_is_no_third_state_in_rough_weather(
        rules in domain::rules(),
        story in prop::collection::vec((rough_turn(), calm_wait()), 0..30),
        delays in prop::collection::vec(0..20u16, 1..10),
        grace in prop_oneof![Just(0), Just(300u64)],
        room in 9..12u32,
    ) {
        let mut sim = start(&rules, delays);
        sim.restart();
        // Devices are looked at once a second, links twice within it.
        sim.filter.watch.begin(Duration::from_millis(3000), sim.now);
        let mut rule = filter_rule(grace, Audit::Auto);
        rule.sizes.peers = room;
        sim.configure_filter(Some(rule));
        sim.pass(3000);
        for (turn, wait) in &story {
            domain::play(&mut sim, turn);
            sim.pass(*wait);
        }
        sim.filter.faults.clear();
        sim.pass(130_000);
        check_end(&sim);
    }
}
