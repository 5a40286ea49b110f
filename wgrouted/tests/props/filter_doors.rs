//! The AllowedIPs of a dedicated link are open only while the filter is in force.

use proptest::prelude::*;
use wgrouted::core::{
    change::Change,
    filter::rule::{LinkFilter, SourceMode},
    peer::PublicKey,
    prefix::{Family, Prefix},
    route::IfIndex,
    rule::{Audit, LinkMode},
};

use crate::{
    domain::key,
    filter_domain::{self as domain, Turn, filter_rule, interface_rule, plain_filter},
    filter_laws::{check_end, start},
    filter_maps::Maps,
    sim::{Fault, Sim},
};

#[derive(Clone, Debug)]
enum Step {
    Turn(Turn),
    /// The program can be attached to `wg1`, or not.
    Able(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => domain::nested_op().prop_map(|op| Step::Turn(Turn::World(op))),
        3 => prop_oneof![Just(Fault::Fails), (0..6usize).prop_map(Fault::HalfWay), Just(Fault::Late(900))]
            .prop_map(|fault| Step::Turn(Turn::Fault(fault))),
        2 => Just(Step::Turn(Turn::Restart)),
        2 => (prop_oneof![Just(5), Just(8)], any::<bool>())
            .prop_map(|(peer, on)| Step::Turn(Turn::Peer(peer, on))),
        2 => any::<bool>().prop_map(Step::Able),
    ]
}

impl Sim {
    /// What the engine asks a dedicated link's device for, seen with what the engine was told.
    pub(crate) fn check_doors(&self, ifindex: IfIndex, peers: &[PublicKey], changes: &[Change]) {
        let Some(device) = self.devices.get(&ifindex) else { return };
        // One that is about to be left alone may still remove what is its own.
        let rule = self.rules.iter().find(|rule| rule.name == device.name);
        let Some(rule) = rule else { return };
        let Some(filter) = rule.filter.as_ref().filter(|_| rule.link == LinkMode::Dedicated) else {
            return;
        };
        for change in changes.iter().filter(|change| change.prefix.is_default()) {
            assert!(filter.open, "{change:?} touches a link without doors");
            let world = &self.filter;
            let Some(owner) = change.new else {
                let one = device.peers.len() == 1;
                assert!(
                    world.may_close || !one,
                    "{change:?} closes a door before anything is decided"
                );
                continue;
            };
            assert!(world.in_force.contains(&ifindex), "{change:?} opens an unfiltered link");
            if world.watch.spoiled {
                continue;
            }
            let link = world.maps.links.get(&ifindex).expect("the maps know the link");
            let (who, word) = world.maps.peers.get(&link.peer).expect("the maps know its peer");
            assert_eq!(who.public_key, peers[owner.0 as usize], "a door for somebody else");
            let own = rule.peers.iter().find(|peer| peer.public_key == who.public_key);
            let own = own.and_then(|peer| peer.filter.as_ref()).unwrap_or(&filter.peers);
            // A reload that is taken back may meet the word of the one before on its way.
            let mode = own.source as u8 + 1;
            assert!(word.mode == mode || world.watch.is_mixed(), "another mode");
            let own = domain::own_addresses(&who.public_key);
            let all = Maps(&world.maps).admitted(link.peer);
            // What the maps refused is dropped, door or not.
            let refused = self.engine.filter().is_some_and(|f| f.sources().refused().0 > 0);
            assert!(refused || all & own == own, "sources are missing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(30)))]

    /// Every request is looked at by [`Sim::check_doors`].
    #[test]
    fn doors_are_open_while_the_filter_is_in_force(
        open: bool,
        source in prop_oneof![Just(SourceMode::Strict), Just(SourceMode::Feasible)],
        story in prop::collection::vec((step(), prop_oneof![0..60u64, 200..2500u64]), 0..30),
        delays in prop::collection::vec(0..60u16, 1..10),
    ) {
        let mut rules = ["wg0", "wg1"].map(interface_rule);
        rules[1].filter = Some(LinkFilter { peers: plain_filter(source), open });
        let mut sim = start(&rules, delays);
        sim.restart();
        sim.configure_filter(Some(filter_rule(300, Audit::Auto)));
        if !open {
            // The operator's own.
            sim.tamper("wg1", |device| device.set(Prefix::DEFAULT_V4, key(5)));
        }
        sim.filter.may_close = false;
        let mut able = true;
        for (step, wait) in &story {
            match step {
                Step::Turn(turn) => domain::play(&mut sim, turn),
                Step::Able(on) => {
                    able = *on;
                    let index = sim.kernel.index("wg1").unwrap();
                    sim.filter.unattachable = if able { [].into() } else { [index].into() };
                }
            }
            sim.pass(*wait);
        }
        sim.filter.faults.clear();
        sim.pass(30_000);
        check_end(&sim);
        let device = sim.device("wg1").unwrap();
        let doors = Family::ALL.map(|f| device.table.get(&Prefix::default_of(f)).copied());
        match device.peers.as_slice() {
            [only] if open && able => prop_assert_eq!(doors, [Some(*only); 2]),
            _ if open => prop_assert_eq!(doors, [None; 2]),
            peers => prop_assert!(doors[0].is_none_or(|owner| peers.contains(&owner))),
        }
    }
}
