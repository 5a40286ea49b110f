//! A removal waits for its hold, exactly; what comes back in time was never gone.

use std::time::Duration;

use proptest::prelude::*;
use wgrouted::core::{prefix::Prefix, rule::Audit};

use crate::{
    domain::{self, MAIN, Op, RouteSpec, To},
    kernel::{Verb, Which},
    mirror::world,
    sim::{Delays, Sim},
};

const HOLD: u64 = 20;

fn prefixes() -> Vec<Prefix> {
    ["10.0.0.0/28", "10.0.0.0/30", "2001:db8::/124"].map(|text| text.parse().unwrap()).to_vec()
}

fn set(sim: &mut Sim, prefix: Prefix, peer: u8) {
    let metric = if matches!(prefix, Prefix::V4(_)) { 0 } else { 1024 };
    let to = To::Hops(vec![(0, peer, 1)]);
    let spec = RouteSpec { prefix, table: MAIN, metric, protocol: 12, to };
    sim.change(|kernel| domain::apply(kernel, &Op::Route(Verb::Add, spec)));
}

fn unset(sim: &mut Sim, prefix: Prefix) {
    let which = Which { prefix, table: MAIN, metric: None, hop: None };
    sim.change(|kernel| kernel.delete(&which));
}

/// A world without delays and audits: every moment is the engine's own choice.
fn quick() -> Sim {
    let mut rule = domain::rule("wg0");
    rule.delete_hold = Duration::from_millis(HOLD);
    rule.coalesce = Duration::ZERO;
    rule.audit = Audit::Off;
    let mut sim = Sim::new(vec![rule], world(true, false), Delays::none());
    sim.pass(1000);
    sim.made.clear();
    sim
}

/// When each prefix should change hands: sets at once, removals after the hold, both only if
/// they still make a difference.
fn expected(story: &[(usize, Option<u8>, u64)], start: u64) -> Vec<(u64, usize, Option<u8>)> {
    let mut made = Vec::new();
    for which in 0..prefixes().len() {
        let (mut now, mut route, mut held) = (start, None, None);
        let mut leaves = None;
        let mut moments: Vec<(u64, Option<u8>)> = Vec::new();
        for (prefix, peer, wait) in story {
            if *prefix == which && (route.is_none() || peer.is_none()) && route != *peer {
                moments.push((now, *peer));
                route = *peer;
            }
            now += wait;
        }
        moments.push((now + 10 * HOLD, route));
        for (at, peer) in moments {
            if let Some(due) = leaves.filter(|due| *due <= at) {
                made.push((due, which, None));
                (held, leaves) = (None, None);
            }
            match peer {
                None if held.is_some() => leaves = leaves.or(Some(at + HOLD)),
                None => {}
                Some(peer) => {
                    leaves = None;
                    if held != Some(peer) {
                        made.push((at, which, Some(peer)));
                        held = Some(peer);
                    }
                }
            }
        }
    }
    made.sort();
    made
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(400)))]

    /// The exact moments of all changes.
    #[test]
    fn removals_wait_for_the_hold_and_sets_do_not(
        story in prop::collection::vec(
            (0..3usize, prop::option::weighted(0.6, 1..=3u8), 1..40u64),
            0..30,
        ),
    ) {
        let mut sim = quick();
        let start = 1000;
        for (which, peer, wait) in &story {
            let prefix = prefixes()[*which];
            match peer {
                Some(peer) => set(&mut sim, prefix, *peer),
                None => unset(&mut sim, prefix),
            }
            sim.pass(*wait);
        }
        sim.pass(20 * HOLD);
        let interface = sim.interface("wg0");
        let mut made: Vec<(u64, usize, Option<u8>)> = sim
            .made
            .iter()
            .map(|(at, _, change)| {
                let which = prefixes().iter().position(|prefix| *prefix == change.prefix).unwrap();
                let peer = change.new.map(|idx| interface.peers().get(idx).public_key.0[0]);
                (at.0.as_millis() as u64, which, peer)
            })
            .collect();
        made.sort();
        prop_assert_eq!(made, expected(&story, start));
    }

    /// Delete and add, as babeld and BIRD do it, with any delays of the device: never a removal,
    /// always the last owner.
    #[test]
    fn delete_then_add_is_a_move(
        peers in prop::collection::vec(1..=3u8, 1..12),
        gaps in prop::collection::vec((0..HOLD, 0..200u64), 12),
        delays in prop::collection::vec(0..80u16, 1..8),
    ) {
        let mut sim = quick();
        let prefix = prefixes()[0];
        set(&mut sim, prefix, 1);
        sim.pass(500);
        sim.made.clear();
        // What the engine hears is not delayed here: the hold is about the gap that it hears.
        sim.delays = Delays(delays.into_iter().map(|delay| delay / 30 * 30).collect(), 0);
        for (peer, (gap, wait)) in peers.iter().zip(&gaps) {
            unset(&mut sim, prefix);
            sim.pass(*gap);
            set(&mut sim, prefix, *peer);
            sim.pass(*wait);
        }
        sim.pass(2000);
        prop_assert!(sim.made.iter().all(|(_, _, change)| change.new.is_some()), "{:?}", sim.made);
        let last = domain::key(*peers.last().unwrap());
        prop_assert_eq!(sim.device("wg0").unwrap().table.get(&prefix), Some(&last));
    }
}
