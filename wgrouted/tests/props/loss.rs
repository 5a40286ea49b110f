//! Whatever is lost, reading everything again finds it.

use proptest::prelude::*;

use crate::{
    domain::{self, EVERYTHING, MAIN, OTHER, Op},
    mirror::world,
    sim::{Delays, Sim},
};

#[derive(Clone, Debug)]
enum Turn {
    World(Op),
    /// Announcements are dropped where the mask has a bit…
    Lose(u64),
    /// …until the socket has been drained.
    Lost,
    /// A dump of the network fails.
    Fail,
    Resync,
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        12 => domain::op(EVERYTHING).prop_map(Turn::World),
        2 => any::<u64>().prop_map(Turn::Lose),
        1 => Just(Turn::Lose(u64::MAX)),
        2 => Just(Turn::Lost),
        1 => Just(Turn::Fail),
        1 => Just(Turn::Resync),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(400)))]

    /// Drop any subset of the announcements, also while dumps are under way and answered piece by
    /// piece: after the loss is noticed, the end is the same, deletions included.
    #[test]
    fn any_loss_is_made_good(
        story in prop::collection::vec(
            (turn(), prop_oneof![2 => Just(0), 2 => 0..60u64, 1 => 0..2500u64]),
            0..40,
        ),
        delays in prop::collection::vec(0..120u16, 1..20),
        slowness in prop_oneof![Just(0), 0..900u64],
        compat: bool,
        quiet: bool,
    ) {
        let rules = vec![domain::rule("wg0"), domain::rule("wg1")];
        let mut sim = Sim::new(rules, world(compat, quiet), Delays(delays, 0));
        sim.slowness = slowness;
        for (turn, wait) in &story {
            match turn {
                Turn::World(op) => sim.change(|kernel| domain::apply(kernel, op)),
                Turn::Lose(mask) => sim.lose(*mask),
                Turn::Lost => sim.lost(),
                Turn::Fail => sim.sync_failures += 1,
                Turn::Resync => sim.tell(wgrouted::core::event::Event::Resync),
            }
            sim.pass(*wait);
        }
        sim.lost();
        sim.pass(15_000);
        sim.check_mirror(&[MAIN, OTHER]);
        sim.check_wants();
        sim.check_devices();
    }
}
