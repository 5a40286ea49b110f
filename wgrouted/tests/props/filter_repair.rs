//! What others do to the maps is repaired, and what does not fit comes when there is room.

use std::time::Duration;

use proptest::prelude::*;
use wgrouted::core::{event::Notice, rule::Audit};

use crate::{
    filter_domain::{self as domain, Turn, filter_rule},
    filter_laws::{check_end, start},
    sim::Sim,
};

fn busy(sim: &mut Sim, story: &[(Turn, u64)]) {
    for (turn, wait) in story {
        domain::play(sim, turn);
        sim.pass(*wait);
    }
}

fn story() -> impl Strategy<Value = Vec<(Turn, u64)>> {
    prop::collection::vec((domain::nested_op().prop_map(Turn::World), 0..400u64), 5..25)
}

fn drift(sim: &Sim) -> (u64, usize) {
    let noticed = |notice: &Notice| match notice {
        Notice::FilterDrift { entries } => *entries,
        _ => 0,
    };
    let counted = sim.engine.filter().unwrap().counters().drift;
    (counted, sim.notices.iter().map(noticed).sum())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(30)))]

    /// The next audit finds every source that somebody else changed, and tells how many.
    #[test]
    fn an_audit_repairs_and_counts(
        rules in domain::rules(),
        story in story(),
        how in prop::collection::vec(any::<u8>(), 1..4),
        delays in prop::collection::vec(0..30u16, 1..5),
    ) {
        let mut sim = start(&rules, delays);
        sim.restart();
        sim.configure_filter(Some(filter_rule(300, Audit::Every(Duration::from_secs(2)))));
        sim.pass(3000);
        busy(&mut sim, &story);
        sim.pass(3000);
        check_end(&sim);
        let (before, told) = (sim.filter.maps.sources.clone(), drift(&sim));
        for how in how {
            domain::play(&mut sim, &Turn::Tamper(how));
        }
        let after = &sim.filter.maps.sources;
        let keys = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
        let changed = keys.iter().filter(|key| before.get(key) != after.get(key)).count();
        sim.pass(3500);
        check_end(&sim);
        prop_assert_eq!(drift(&sim), (told.0 + changed as u64, told.1 + changed));
    }

    /// A full map keeps what fits, is not flooded with what does not, and takes it when it can.
    #[test]
    fn what_does_not_fit_comes_when_there_is_room(
        rules in domain::rules(),
        story in story(),
        room in 0..40usize,
        delays in prop::collection::vec(0..30u16, 1..5),
    ) {
        let mut sim = start(&rules, delays);
        sim.filter.maps.room = Some(room);
        sim.restart();
        sim.configure_filter(Some(filter_rule(300, Audit::Auto)));
        sim.pass(3000);
        busy(&mut sim, &story);
        sim.pass(3000);
        let (applies, polls) = (sim.filter.applies, sim.polls);
        sim.pass(60_000);
        prop_assert!(sim.filter.applies - applies <= 20, "{}", sim.filter.applies - applies);
        prop_assert!(sim.polls - polls <= 1500, "{} polls a minute", sim.polls - polls);
        let full = sim.engine.filter().unwrap().sources().refused().0 > 0;
        let told = sim.notices.iter().any(|n| matches!(n, Notice::FilterRefused { .. }));
        prop_assert!(told || !full);
        sim.filter.maps.room = None;
        sim.pass(61_000);
        check_end(&sim);
        prop_assert_eq!(sim.engine.filter().unwrap().sources().refused().0, 0);
    }
}
