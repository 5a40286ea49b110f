//! The mirror equals the kernel's tables, whatever the kernel does and keeps silent about.

use proptest::prelude::*;

use crate::{
    domain::{self, EVERYTHING, MAIN, OTHER, Op, ROUTES_ONLY, World},
    kernel::Kernel,
    sim::{Delays, Sim},
};

pub fn world(compat: bool, quiet: bool) -> Kernel {
    let mut kernel = Kernel::new();
    kernel.compat = compat;
    kernel.quiet = quiet;
    domain::begin(&mut kernel);
    kernel
}

fn story(world: World) -> impl Strategy<Value = Vec<(Op, u64)>> {
    let wait = prop_oneof![3 => Just(0), 1 => 0..100u64, 1 => 0..3000u64];
    prop::collection::vec((domain::op(world), wait), 0..40)
}

fn play(mut sim: Sim, story: &[(Op, u64)]) {
    for (op, wait) in story {
        sim.change(|kernel| domain::apply(kernel, op));
        sim.pass(*wait);
    }
    sim.pass(10_000);
    sim.check_mirror(&[MAIN, OTHER]);
    sim.check_wants();
    sim.check_devices();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(400)))]

    /// Notifications of routes alone leave no doubt: nothing is read after the start but what
    /// the engine itself finds ambiguous.
    #[test]
    fn notifications_alone_keep_the_mirror(story in story(ROUTES_ONLY)) {
        let rules = vec![domain::rule("wg0"), domain::rule("wg1")];
        let mut sim = Sim::new(rules, world(true, false), Delays::none());
        sim.pass(100);
        play(sim, &story);
    }

    /// Nexthop objects, links, addresses and VRFs take routes along without a word.
    #[test]
    fn silent_deaths_are_found(
        story in story(EVERYTHING),
        delays in prop::collection::vec(0..100u16, 1..20),
        slowness in prop_oneof![Just(0), 0..900u64],
        compat: bool,
        quiet: bool,
    ) {
        let rules = vec![domain::rule("wg0"), domain::rule("wg1")];
        let mut sim = Sim::new(rules, world(compat, quiet), Delays(delays, 0));
        sim.slowness = slowness;
        sim.pass(100);
        play(sim, &story);
    }
}
