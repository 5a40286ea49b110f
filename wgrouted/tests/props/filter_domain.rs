//! Filters for the small world.
//!
//! Here live the rules and the turns that the laws of the filter draw: a shared link, a dedicated
//! one, and what may happen to them, to the maps and to the daemon.

use std::time::Duration;

use proptest::prelude::*;
use wgrouted::core::{
    event::Event,
    filter::rule::{Ends, FilterRule, Hook, LinkFilter, PeerFilter, Sizes, SourceMode, TunnelRule},
    peer::PublicKey,
    prefix::{Family, Prefix},
    rule::{Audit, InterfaceRule, LinkMode, OnExit},
};

use crate::{
    domain::{self, Narrow, Op, RouteSpec, To, World, key, small_prefix, small_prefixes},
    filter_maps::{Mask, addresses},
    kernel::Verb,
    sim::{Fault, Sim},
};

pub const SIZES: Sizes =
    Sizes { sources_v4: 4096, sources_v6: 4096, peers: 64, rules: 64, flows: 64 };

pub fn filter_rule(grace: u64, audit: Audit) -> FilterRule {
    FilterRule {
        hook: Hook::Auto,
        sizes: SIZES,
        samples_per_second: 0,
        grace: Duration::from_millis(grace),
        audit,
        on_exit: OnExit::Keep,
        policies: Vec::new(),
    }
}

pub fn audit() -> impl Strategy<Value = Audit> {
    prop_oneof![Just(Audit::Auto), Just(Audit::Every(Duration::from_secs(2)))]
}

/// Prefixes of the small world, and now and then a default route.
pub fn prefixes() -> impl Strategy<Value = Prefix> {
    prop_oneof![
        8 => domain::few_prefixes(),
        4 => small_prefixes(),
        1 => prop_oneof![Just(Prefix::DEFAULT_V4), Just(Prefix::DEFAULT_V6)],
    ]
}

fn peer_filter() -> impl Strategy<Value = PeerFilter> {
    let mode = prop_oneof![
        1 => Just(SourceMode::Off),
        4 => Just(SourceMode::Strict),
        3 => Just(SourceMode::Feasible),
        3 => Just(SourceMode::Loose),
        2 => Just(SourceMode::List),
        2 => Just(SourceMode::Group),
    ];
    let list = prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(prefixes(), 1..4)];
    let group = prop::option::weighted(0.3, prop_oneof![Just("a"), Just("b")]);
    (mode, list, group, any::<bool>()).prop_map(|(source, list, group, ignore_default)| {
        let needed = (source == SourceMode::Group).then_some("a");
        let group = group.or(needed).map(str::to_owned);
        PeerFilter { list, group, ignore_default, ..plain_filter(source) }
    })
}

/// A filter without extras.
pub fn plain_filter(source: SourceMode) -> PeerFilter {
    PeerFilter {
        source,
        monitor: false,
        list: Vec::new(),
        group: None,
        policy: None,
        link_local: true,
        unspecified: true,
        control: true,
        ignore_default: false,
    }
}

/// `wg0` is shared by peers 1 to 4, `wg1` is peer 5's, with peer 8 waiting.
pub fn interface_rule(name: &str) -> InterfaceRule {
    let mut rule = domain::rule(name);
    if name == "wg1" {
        rule.link = LinkMode::Dedicated;
        rule.peers.retain(|peer| [key(5), key(8)].contains(&peer.public_key));
    }
    for peer in &mut rule.peers {
        // An own address amid the others.
        let own = Family::ALL.map(|family| own_address(family, &peer.public_key));
        peer.pinned.iter_mut().for_each(|pinned| pinned.extend(own));
    }
    rule
}

fn own_address(family: Family, key: &PublicKey) -> Prefix {
    small_prefix(family, 16 + key.0[0], 5)
}

/// A peer's own addresses amid the others.
pub fn own_addresses(key: &PublicKey) -> Mask {
    let own = Family::ALL.map(|family| own_address(family, key));
    let bits = addresses().filter(|(_, addr)| own.iter().any(|prefix| prefix.contains(*addr)));
    bits.map(|(bit, _)| 1 << bit).sum()
}

/// Both links, with filters or without.
pub fn rules() -> impl Strategy<Value = Vec<InterfaceRule>> {
    let link = || prop::option::weighted(0.9, (peer_filter(), any::<bool>()));
    let own = prop::collection::vec(prop::option::weighted(0.7, peer_filter()), 6);
    let tunnels = prop_oneof![
        2 => Just(Vec::new()),
        4 => tunnel("eth0").prop_map(|tunnel| vec![tunnel]),
        // One whose device is never there has packets nevertheless.
        1 => (tunnel("eth0"), tunnel("gone")).prop_map(|(one, other)| vec![one, other]),
    ];
    let tunnels = tunnels.boxed();
    let tables = prop_oneof![
        3 => Just(vec![domain::MAIN, domain::OTHER]),
        1 => Just(vec![domain::OTHER, domain::MAIN]),
        1 => Just(vec![domain::MAIN]),
    ];
    let tables = prop::collection::vec(tables, 2);
    (link(), link(), own, tables, tunnels).prop_map(|(wg0, wg1, own, tables, tunnels)| {
        let mut rules: Vec<InterfaceRule> = ["wg0", "wg1"].map(interface_rule).to_vec();
        let mut own = own.into_iter();
        for ((rule, filter), tables) in rules.iter_mut().zip([wg0, wg1]).zip(tables) {
            rule.tables = tables;
            rule.filter = filter.map(|(peers, open)| LinkFilter {
                peers,
                open: open && rule.link == LinkMode::Dedicated,
            });
            for peer in &mut rule.peers {
                peer.filter = own.next().flatten().filter(|_| rule.filter.is_some());
            }
        }
        rules[0].tunnels = tunnels;
        rules
    })
}

/// A tunnel inside `wg0`, through the link that is foreign otherwise.
fn tunnel(name: &'static str) -> BoxedStrategy<TunnelRule> {
    let tables = prop_oneof![
        2 => Just(Vec::new()),
        1 => Just(vec![domain::OTHER]),
        1 => Just(vec![domain::OTHER, domain::MAIN]),
    ];
    let pinned = prop::collection::vec(small_prefixes(), 0..2);
    let key = prop::option::of(0..2u32);
    (1..=4u8, 0..3u8, key, tables, pinned, peer_filter())
        .prop_map(move |(peer, how, key, tables, pinned, filter)| {
            let remote = domain::gateway(Family::V4, peer);
            let local = domain::gateway(Family::V4, 100 + u8::from(name == "gone"));
            TunnelRule {
                name: name.to_owned(),
                // Who has pinned the other end is the peer, whoever is named.
                peer: (how > 0).then(|| domain::key(if how == 1 { peer } else { 1 + peer % 4 })),
                remote: (how != 1).then_some(remote),
                ends: (how != 1 || name == "gone").then_some(Ends {
                    local,
                    remote,
                    protocol: 47,
                    key,
                }),
                tables,
                pinned,
                filter,
            }
        })
        .boxed()
}

/// What may happen.
#[derive(Clone, Debug)]
pub enum Turn {
    World(Op),
    /// A device gets a peer or loses one.
    Peer(u8, bool),
    Fault(Fault),
    /// Somebody changes the maps; the number says how.
    Tamper(u8),
    Restart,
    Reconfigure(Vec<InterfaceRule>),
    Resync,
}

pub fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        2 => Just(Fault::Fine),
        2 => Just(Fault::Fails),
        2 => (0..6usize).prop_map(Fault::HalfWay),
        2 => (1..4usize).prop_map(Fault::Refuses),
        1 => (1..3000u16).prop_map(Fault::Late),
    ]
}

/// An operation on the routes with every prefix of the small world.
pub fn op(world: World) -> impl Strategy<Value = Op> {
    (domain::op(world), prop::option::weighted(0.5, prefixes())).prop_map(|(mut op, other)| {
        if let (Op::Route(_, spec) | Op::Delete(spec, _), Some(other)) = (&mut op, other)
            && other.family() == spec.prefix.family()
        {
            spec.prefix = other;
        }
        op
    })
}

/// A route of one of a few prefixes inside each other is replaced or goes: nothing that a daemon
/// would have to ask the kernel about.
pub fn nested_op() -> impl Strategy<Value = Op> {
    let family = prop_oneof![4 => Just(Family::V4), 1 => Just(Family::V6)];
    let prefix = (family, prop_oneof![Just(0), Just(2), Just(3), Just(5)]);
    let prefix = prefix.prop_map(|(family, len)| match len {
        0 => Prefix::default_of(family),
        len => small_prefix(family, 0, len),
    });
    let hop = prop_oneof![
        (Just(0), 1..=3u8, Just(1)),
        (Just(1), Just(5), Just(1)),
        (Just(2), Just(1), Just(1)),
    ];
    let to = prop_oneof![
        8 => hop.prop_map(|hop| To::Hops(vec![hop])),
        2 => Just(To::Hops(vec![(0, 1, 1), (0, 2, 1)])),
        2 => Just(To::Hops(vec![(0, 2, 1), (1, 5, 1)])),
        1 => Just(To::Reject),
    ];
    (prefix, to, prop::bool::weighted(0.3)).prop_map(|(prefix, to, goes)| {
        let metric = if prefix.family() == Family::V4 { 0 } else { 1024 };
        let spec = RouteSpec { prefix, table: domain::MAIN, metric, protocol: 12, to };
        match goes {
            true => Op::Delete(spec, Narrow::Prefix),
            false => Op::Route(Verb::Replace, spec),
        }
    })
}

pub fn play(sim: &mut Sim, turn: &Turn) {
    match turn {
        Turn::World(op) => sim.change(|kernel| domain::apply(kernel, op)),
        Turn::Peer(number, on) => {
            let name = if *number < 5 { "wg0" } else { "wg1" };
            sim.tamper(name, |device| match on {
                true => device.add_peer(key(*number)),
                false => device.remove_peer(key(*number)),
            });
        }
        Turn::Fault(fault) => sim.filter.faults.push_back(*fault),
        Turn::Tamper(how) => sim.tamper_with_filter(|maps| tamper(maps, *how)),
        Turn::Restart => sim.restart(),
        Turn::Reconfigure(rules) => sim.tell(Event::Reconfigure(rules.clone())),
        Turn::Resync => sim.tell(Event::Resync),
    }
}

fn tamper(maps: &mut wgrouted::target::filter::fake::FakeFilter, how: u8) {
    let at = usize::from(how) / 8;
    let nth = maps.sources.keys().nth(at % maps.sources.len().max(1)).copied();
    match (how % 8, nth) {
        (0..=2, Some(key)) => drop(maps.sources.remove(&key)),
        (3, Some(key)) => drop(maps.sources.insert(key, 1 + u32::from(how / 64))),
        (4, _) => drop(maps.members.pop_first()),
        (5, _) => drop(maps.peers.pop_last()),
        (6, _) if how < 128 => drop(maps.tunnels.pop_first()),
        (6, _) => drop(maps.links.pop_last()),
        _ => maps.attached.clear(),
    }
}
