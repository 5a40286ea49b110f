//! Owners worked out change by change are those worked out from scratch.

use proptest::prelude::*;
use wgrouted::core::{
    event::Event,
    rule::{InterfaceRule, LinkMode},
};

use crate::{
    domain::{self, EVERYTHING, MAIN, OTHER, Op, key},
    mirror::world,
    sim::{Delays, Sim},
};

#[derive(Clone, Debug)]
enum Turn {
    World(Op),
    /// A peer comes to its device or leaves it.
    Peer(u8, bool),
    Configure(Setup),
}

/// What the operator may change.
#[derive(Clone, Debug)]
struct Setup {
    tables: usize,
    tagged: bool,
    link: LinkMode,
    second: bool,
}

impl Setup {
    fn rules(&self) -> Vec<InterfaceRule> {
        let tables: [&[u32]; 5] = [&[MAIN, OTHER], &[OTHER, MAIN], &[MAIN], &[OTHER], &[]];
        let mut first = domain::rule("wg0");
        first.tables = tables[self.tables].to_vec();
        first.link = self.link;
        if self.tagged {
            domain::tag_a_metric(&mut first);
        }
        let second = self.second.then(|| domain::rule("wg1"));
        [first].into_iter().chain(second).collect()
    }
}

fn setup(links: impl Strategy<Value = LinkMode>) -> impl Strategy<Value = Setup> {
    (0..5usize, any::<bool>(), links, any::<bool>())
        .prop_map(|(tables, tagged, link, second)| Setup { tables, tagged, link, second })
}

fn shared() -> impl Strategy<Value = LinkMode> {
    Just(LinkMode::Shared)
}

fn any_link() -> impl Strategy<Value = LinkMode> {
    prop_oneof![Just(LinkMode::Shared), Just(LinkMode::Auto), Just(LinkMode::Dedicated)]
}

fn story(links: impl Strategy<Value = LinkMode>) -> impl Strategy<Value = Vec<(Turn, u64)>> {
    let turn = prop_oneof![
        12 => domain::op(EVERYTHING).prop_map(Turn::World),
        3 => (1..=8u8, any::<bool>()).prop_map(|(peer, on)| Turn::Peer(peer, on)),
        2 => setup(links).prop_map(Turn::Configure),
    ];
    let wait = prop_oneof![2 => Just(0), 2 => 0..60u64, 1 => 0..2500u64];
    prop::collection::vec((turn, wait), 0..40)
}

fn play(sim: &mut Sim, story: &[(Turn, u64)]) {
    for (turn, wait) in story {
        match turn {
            Turn::World(op) => sim.change(|kernel| domain::apply(kernel, op)),
            Turn::Peer(peer, on) => {
                let name = if *peer <= 4 { "wg0" } else { "wg1" };
                sim.tamper(name, |device| match on {
                    true => device.add_peer(key(*peer)),
                    false => device.remove_peer(key(*peer)),
                });
            }
            Turn::Configure(setup) => sim.tell(Event::Reconfigure(setup.rules())),
        }
        sim.check_wants();
        sim.pass(*wait);
        sim.check_wants();
    }
    sim.pass(15_000);
    sim.check_wants();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(300)))]

    /// Any interleaving and stuttering of announcements, dumps, configurations and peers: after
    /// every step each prefix has one owner, the one that a fresh look at all routes gives it, and
    /// in the end the one that the oracle gives it.
    #[test]
    fn incremental_is_full(
        first in setup(shared()),
        story in story(shared()),
        delays in prop::collection::vec(0..60u16, 1..10),
        compat: bool,
        stutter: bool,
    ) {
        let mut sim = Sim::new(first.rules(), world(compat, false), Delays(delays, 0));
        sim.stutter = stutter;
        play(&mut sim, &story);
        sim.check_devices();
    }

    /// The same where a lone peer may own all.
    #[test]
    fn incremental_is_full_on_any_kind_of_link(
        first in setup(any_link()),
        story in story(any_link()),
        delays in prop::collection::vec(0..60u16, 1..10),
    ) {
        let mut sim = Sim::new(first.rules(), world(true, false), Delays(delays, 0));
        play(&mut sim, &story);
    }
}
