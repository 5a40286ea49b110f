//! Whatever goes wrong with a device, once it stops the device is as it should be.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use wgrouted::core::{
    event::{Event, Notice},
    prefix::Prefix,
    rule::{Audit, InterfaceRule, OnExit},
};

use crate::{
    domain::{self, EVERYTHING, Op, few_prefixes, key},
    mirror::world,
    sim::{Delays, Fault, Sim},
};

#[derive(Clone, Debug)]
enum Turn {
    World(Op),
    Fault(Fault),
    /// Somebody gives a prefix to a peer, or takes it away.
    Edit(Prefix, Option<u8>),
    Peer(u8, bool),
    /// The device is made anew.
    Recreate,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        2 => Just(Fault::Fine),
        2 => Just(Fault::Fails),
        2 => (0..4usize).prop_map(Fault::HalfWay),
        2 => (1..3usize).prop_map(Fault::Refuses),
        1 => (1..3000u16).prop_map(Fault::Late),
    ]
}

/// A prefix of a route, a pinned one, or one outside the managed ranges.
fn any_prefix() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        4 => few_prefixes(),
        1 => (1..=3u8, 0..2usize).prop_map(|(peer, family)| domain::pins(peer)[family]),
        1 => Just("203.0.113.0/24".parse().unwrap()),
    ]
}

fn story() -> impl Strategy<Value = Vec<(Turn, u64)>> {
    let turn = prop_oneof![
        8 => domain::op(EVERYTHING).prop_map(Turn::World),
        4 => fault().prop_map(Turn::Fault),
        4 => (any_prefix(), prop::option::of(1..=4u8)).prop_map(|(p, peer)| Turn::Edit(p, peer)),
        2 => (1..=4u8, any::<bool>()).prop_map(|(peer, on)| Turn::Peer(peer, on)),
        1 => Just(Turn::Recreate),
    ];
    let wait = prop_oneof![2 => Just(0), 2 => 0..60u64, 1 => 0..2500u64];
    prop::collection::vec((turn, wait), 0..40)
}

/// Only what the routes of the domain use is managed.
fn rule() -> InterfaceRule {
    let managed = ["10.0.0.0/8", "2001:db8::/32"].map(|text| text.parse().unwrap());
    InterfaceRule { managed: managed.to_vec(), ..domain::rule("wg0") }
}

fn turn(sim: &mut Sim, turn: &Turn) {
    match turn {
        Turn::World(op) => sim.change(|kernel| domain::apply(kernel, op)),
        Turn::Fault(fault) => sim.faults.push_back(*fault),
        Turn::Edit(prefix, Some(peer)) => sim.tamper("wg0", |d| d.set(*prefix, key(*peer))),
        Turn::Edit(prefix, None) => {
            sim.tamper("wg0", |device| {
                device.table.remove(prefix);
            });
        }
        Turn::Peer(peer, true) => sim.tamper("wg0", |device| device.add_peer(key(*peer))),
        Turn::Peer(peer, false) => sim.tamper("wg0", |device| device.remove_peer(key(*peer))),
        Turn::Recreate => {
            sim.change(|kernel| domain::apply(kernel, &Op::Recreate(0)));
            sim.change(|kernel| domain::apply(kernel, &Op::Recreate(0)));
        }
    }
}

/// What is on the device and not ours.
fn foreign(sim: &Sim, rule: &InterfaceRule) -> BTreeMap<Prefix, wgrouted::core::peer::PublicKey> {
    let mut table = sim.device(&rule.name).map(|device| device.table.clone()).unwrap_or_default();
    let pinned = |p: &Prefix| {
        rule.peers.iter().flat_map(|peer| peer.pinned.iter().flatten()).any(|q| q == p)
    };
    table.retain(|p, _| !pinned(p) && !rule.managed.iter().any(|range| range.covers(p)));
    table
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(400)))]

    /// Requests fail whole, half or in part, answers come late, devices and peers come and go,
    /// others edit what is ours and what is not. The simulated world checks after every step that
    /// `have` is true and that nothing foreign is touched; in the end the device is right, and
    /// getting there took no more than the audits and a few requests.
    #[test]
    fn once_faults_stop_it_converges(
        story in story(),
        delays in prop::collection::vec(0..60u16, 1..10),
        audit in prop_oneof![Just(Audit::Auto), Just(Audit::Every(Duration::from_secs(2)))],
    ) {
        let rule = InterfaceRule { audit, ..rule() };
        let mut sim = Sim::new(vec![rule.clone()], world(true, false), Delays(delays, 0));
        for (next, wait) in &story {
            turn(&mut sim, next);
            sim.pass(*wait);
        }
        sim.faults.clear();
        let others = foreign(&sim, &rule);
        // A change that was refused over and over waits up to a minute for its next try.
        sim.pass(70_000);
        sim.check_mirror(&[domain::MAIN, domain::OTHER]);
        sim.check_wants();
        sim.check_devices();
        prop_assert_eq!(foreign(&sim, &rule), others);

        // It stays so, and does nothing but look.
        let (applies, syncs, dumps, polls) = (sim.applies, sim.syncs, sim.dumps, sim.polls);
        sim.pass(10_000);
        prop_assert_eq!((sim.applies, sim.syncs), (applies, syncs));
        prop_assert!(sim.dumps - dumps <= 10, "{} audits", sim.dumps - dumps);
        prop_assert!(sim.polls - polls <= 60, "{} polls", sim.polls - polls);
    }

    /// A device that refuses everything for good is not flooded.
    #[test]
    fn failure_for_good_costs_little(
        story in prop::collection::vec(domain::op(EVERYTHING), 1..30),
        fault in prop_oneof![
            Just(Fault::Fails), Just(Fault::HalfWay(1)), Just(Fault::Refuses(1)), Just(Fault::Refuses(2)),
        ],
        dumps_fail: bool,
    ) {
        let mut sim = Sim::new(vec![rule()], world(true, false), Delays::none());
        sim.stubborn = Some((fault, dumps_fail));
        for op in &story {
            sim.change(|kernel| domain::apply(kernel, op));
        }
        sim.pass(10_000);
        let (applies, dumps, polls) = (sim.applies, sim.dumps, sim.polls);
        sim.pass(60_000);
        prop_assert!(sim.applies - applies <= 130, "{} requests a minute", sim.applies - applies);
        prop_assert!(sim.dumps - dumps <= 130, "{} dumps a minute", sim.dumps - dumps);
        prop_assert!(sim.polls - polls <= 1500, "{} polls a minute", sim.polls - polls);
        sim.stubborn = None;
        sim.pass(70_000);
        sim.check_devices();
    }

    /// `on_exit = remove` takes away what is ours, and nothing else; `keep` takes nothing.
    #[test]
    fn the_exit_removes_what_is_ours(
        story in story(),
        delays in prop::collection::vec(0..60u16, 1..10),
        keep: bool,
    ) {
        let on_exit = if keep { OnExit::Keep } else { OnExit::Remove };
        let rule = InterfaceRule { on_exit, ..rule() };
        let mut sim = Sim::new(vec![rule.clone()], world(true, false), Delays(delays, 0));
        for (next, wait) in &story {
            turn(&mut sim, next);
            sim.pass(*wait);
        }
        sim.faults.clear();
        sim.pass(70_000);
        let others = foreign(&sim, &rule);
        let before = sim.device("wg0").map(|device| device.table.clone());
        sim.tell(Event::Shutdown);
        let closed = |sim: &mut Sim| {
            sim.pass(1);
            sim.engine.is_closed()
        };
        prop_assert!((0..2000).any(|_| closed(&mut sim)));
        if keep {
            prop_assert_eq!(sim.device("wg0").map(|device| device.table.clone()), before);
        } else {
            let left = sim.device("wg0").map(|device| device.table.clone()).unwrap_or_default();
            let pins = domain::rule("wg0").peers.into_iter().flat_map(|peer| peer.pinned.unwrap());
            let pins: Vec<Prefix> = pins.collect();
            prop_assert!(left.keys().all(|p| pins.contains(p) || others.contains_key(p)));
            prop_assert_eq!(foreign(&sim, &rule), others);
            let pinned = |t: &BTreeMap<Prefix, _>| t.keys().filter(|p| pins.contains(p)).count();
            prop_assert_eq!(pinned(&left), before.map_or(0, |table| pinned(&table)));
        }
    }

    /// Zero configuration: what the device held when it was adopted is the peers' own, outlives
    /// everything, and is remembered across restarts, so that synced prefixes are not mistaken.
    #[test]
    fn learned_pins_outlive_a_restart(
        story in prop::collection::vec((domain::op(EVERYTHING), 0..500u64), 0..25),
        again in prop::collection::vec((domain::op(EVERYTHING), 0..500u64), 0..25),
        delays in prop::collection::vec(0..60u16, 1..10),
    ) {
        let mut rule = domain::rule("wg0");
        rule.peers.clear();
        let mut sim = Sim::new(vec![rule], world(true, false), Delays(delays, 0));
        // The link itself is left alone here: a new device starts anew.
        let keeps = |op: &Op| !matches!(op, Op::Recreate(0));
        sim.tamper("wg0", |device| {
            for peer in 1..=3 {
                device.add_peer(key(peer));
                domain::pins(peer).into_iter().for_each(|prefix| device.set(prefix, key(peer)));
            }
        });
        sim.pass(3000);
        for (op, wait) in story.iter().filter(|(op, _)| keeps(op)) {
            sim.change(|kernel| domain::apply(kernel, op));
            sim.pass(*wait);
        }
        sim.restart();
        for (op, wait) in again.iter().filter(|(op, _)| keeps(op)) {
            sim.change(|kernel| domain::apply(kernel, op));
            sim.pass(*wait);
        }
        sim.pass(15_000);
        // The oracle is told the pins; the engine had to find them out.
        sim.rules = vec![domain::rule("wg0")];
        sim.check_devices();
        let drift = |notice: &Notice| matches!(notice, Notice::Drift { .. });
        prop_assert!(!sim.notices.iter().any(drift), "{:?}", sim.notices);
    }
}

/// Audits of all devices together take a hundredth of the time, however many there are.
#[test]
fn many_devices_are_audited_as_seldom_as_it_takes() {
    for names in [&["wg0"][..], &["wg0", "wg1"]] {
        let rules = names.iter().map(|name| domain::rule(name)).collect();
        let mut sim = Sim::new(rules, world(true, false), Delays::none());
        sim.cost = 100;
        sim.pass(60_000);
        let before = sim.dumps;
        sim.pass(200_000);
        let busy = (sim.dumps - before) * sim.cost;
        assert!((1_500..=2_000).contains(&busy), "{names:?}: {busy} ms of 200 s");
    }
}
