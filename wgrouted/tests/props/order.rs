//! On the way from one set of routes to another no address ever meets a third owner.

use std::collections::BTreeMap;

use proptest::prelude::*;
use wgrouted::core::{
    peer::PublicKey,
    prefix::{Family, Prefix},
};

use crate::{
    device::{FakeDevice, longest_match},
    domain::{self, MAIN, Op, RouteSpec, To, small_address, small_prefix, small_prefixes},
    kernel::{Verb, Which},
    mirror::world,
    sim::{Delays, Sim},
};

type Routes = BTreeMap<Prefix, u8>;

fn routes() -> impl Strategy<Value = Routes> {
    prop::collection::btree_map(small_prefixes(), 1..=3u8, 0..24)
}

/// Changes the kernel's routes, all in one moment.
fn go(sim: &mut Sim, old: &Routes, new: &Routes) {
    sim.change(|kernel| {
        for prefix in old.keys().filter(|prefix| !new.contains_key(prefix)) {
            kernel.delete(&Which { prefix: *prefix, table: MAIN, metric: None, hop: None });
        }
        for (prefix, peer) in new {
            let metric = if matches!(prefix, Prefix::V4(_)) { 0 } else { 1024 };
            let to = To::Hops(vec![(0, *peer, 1)]);
            let spec = RouteSpec { prefix: *prefix, table: MAIN, metric, protocol: 12, to };
            domain::apply(kernel, &Op::Route(Verb::Replace, spec));
        }
    });
}

fn all_owners(table: &BTreeMap<Prefix, PublicKey>) -> Vec<Option<PublicKey>> {
    let addresses = Family::ALL
        .into_iter()
        .flat_map(|family| (0..32).map(move |bits| small_address(family, bits)));
    addresses.map(|addr| longest_match(table, addr)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(300)))]

    #[test]
    fn every_address_has_its_old_or_its_new_owner_after_every_change(
        old in routes(),
        new in routes(),
        delay in 0..60u16,
    ) {
        let mut sim = Sim::new(vec![domain::rule("wg0")], world(true, false), Delays::none());
        sim.pass(100);
        go(&mut sim, &Routes::new(), &old);
        sim.pass(5000);
        sim.delays = Delays(vec![delay], 0);
        sim.made.clear();
        let mut device: FakeDevice = sim.device("wg0").unwrap().clone();
        go(&mut sim, &old, &new);
        sim.pass(5000);
        sim.check_devices();

        let before = all_owners(&device.table);
        let after = all_owners(&sim.device("wg0").unwrap().table);
        let peers = sim.interface("wg0").peers();
        for (_, _, change) in &sim.made {
            let key = |idx| peers.get(idx).public_key;
            match change.new {
                Some(new) => device.set(change.prefix, key(new)),
                None => device.unset(change.prefix, key(change.old.unwrap())),
            }
            for (at, owner) in all_owners(&device.table).into_iter().enumerate() {
                prop_assert!(
                    owner == before[at] || owner == after[at],
                    "{change:?} gives address {at} to a third: {:?}",
                    sim.made
                );
            }
        }
        prop_assert_eq!(&device.table, &sim.device("wg0").unwrap().table);
    }

    /// The naive longest match agrees with the device's.
    #[test]
    fn the_oracle_finds_the_longest(routes in routes(), bits in 0..32u8) {
        for family in Family::ALL {
            let addr = small_address(family, bits);
            let table = routes.iter().map(|(p, peer)| (*p, domain::key(*peer))).collect();
            let by_length = (0..=5).rev().find_map(|len| routes.get(&small_prefix(family, bits, len)));
            prop_assert_eq!(longest_match(&table, addr), by_length.map(|peer| domain::key(*peer)));
        }
    }
}

/// More changes than one batch holds: the order goes on from batch to batch.
#[test]
fn the_order_holds_across_batches() {
    let mut rule = domain::rule("wg0");
    rule.audit = wgrouted::core::rule::Audit::Off;
    let mut sim = Sim::new(vec![rule], world(true, false), Delays(vec![29], 0));
    sim.pass(1000);
    let prefix = |n: u32, len: u8| {
        let addr = std::net::Ipv4Addr::from(0x6400_0000 + (n << 10));
        Prefix::new(addr.into(), 22 + len).unwrap()
    };
    let set = |from: u32| -> Routes {
        (from..from + 9000).map(|n| (prefix(n, (n % 11) as u8), 1 + (n % 3) as u8)).collect()
    };
    let (old, new) = (set(0), set(5000));
    go(&mut sim, &Routes::new(), &old);
    sim.pass(3000);
    sim.made.clear();
    sim.applies = 0;
    go(&mut sim, &old, &new);
    sim.pass(3000);
    assert!(sim.applies >= 3, "{} batches", sim.applies);
    let kinds: Vec<(bool, i32)> = sim
        .made
        .iter()
        .map(|(_, _, change)| {
            let len = i32::from(change.prefix.prefix_len());
            (change.new.is_none(), if change.new.is_none() { len } else { -len })
        })
        .collect();
    assert!(kinds.is_sorted(), "sets first and longest first, then removals, shortest first");
    assert_eq!(kinds.len(), 10_000);
}
