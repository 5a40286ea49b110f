//! A world small enough that everything collides.
//!
//! Here live the peers, the prefixes, the configuration and the operations that the laws draw
//! from: two tables, two metrics and two protocols, two WireGuard links and a foreign one, six
//! prefixes for the laws about routes and a 5-bit address space for those about owners.

use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;
use wgrouted::core::{
    peer::PublicKey,
    prefix::{Family, Prefix},
    route::{Hop, Hops, NexthopId, NexthopKind, Path, RouteKind, TableId},
    rule::{Audit, InterfaceRule, LinkMode, Match, OnExit, PeerRule},
};

use crate::kernel::{Kernel, Verb, Which};

pub const MAIN: TableId = 254;
pub const OTHER: TableId = 100;
/// `vrf0`'s table is [`OTHER`].
pub const LINKS: [&str; 3] = ["wg0", "wg1", "eth0"];

/// Peers 1 to 4 live on `wg0`, 5 to 8 on `wg1`; the last of each is not always there.
pub fn key(number: u8) -> PublicKey {
    PublicKey([number; 32])
}

/// The tunnel address of a peer. Number 9 is nobody's.
pub fn gateway(family: Family, number: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([192, 168, 0, number]),
        Family::V6 => IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(number)]),
    }
}

/// A prefix in `10.0.0.0/27` or in `2001:db8::/123`: 5 bits of addresses.
pub fn small_prefix(family: Family, bits: u8, len: u8) -> Prefix {
    let len = family.bits() - 5 + len.min(5);
    Prefix::new(small_address(family, bits), len).expect("short enough")
}

pub fn small_address(family: Family, bits: u8) -> IpAddr {
    match family {
        Family::V4 => IpAddr::from([10, 0, 0, bits & 31]),
        Family::V6 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(bits & 31)]),
    }
}

pub fn rule(name: &str) -> InterfaceRule {
    let numbers = if name == "wg0" { 1..=4 } else { 5..=8 };
    let peer = |number: u8| PeerRule {
        name: format!("peer{number}"),
        public_key: key(number),
        pinned: Some(pins(number)),
        matches: Vec::new(),
        filter: None,
        reach: None,
    };
    InterfaceRule {
        name: name.to_owned(),
        link: LinkMode::Shared,
        tables: vec![MAIN, OTHER],
        managed: vec![Prefix::DEFAULT_V4, Prefix::DEFAULT_V6],
        delete_hold: Duration::from_millis(20),
        coalesce: Duration::from_millis(5),
        message_size: 16384,
        adopt: Duration::from_millis(100),
        on_exit: OnExit::Keep,
        audit: Audit::Auto,
        peers: numbers.map(peer).collect(),
        filter: None,
        tunnels: Vec::new(),
        reach: None,
    }
}

/// Metric 10 in IPv4, and 1025 in IPv6, belongs to peer 3 whatever the gateway.
pub fn tag_a_metric(rule: &mut InterfaceRule) {
    let entry = |metric| Match { metric: Some(metric), ..Match::default() };
    let third = rule.peers.iter_mut().find(|peer| peer.public_key == key(3));
    third.expect("wg0 has it").matches = vec![entry(10), entry(1025)];
}

pub fn pins(number: u8) -> Vec<Prefix> {
    Family::ALL.map(|family| Prefix::host(gateway(family, number))).to_vec()
}

/// What may happen to the network.
#[derive(Clone, Debug)]
pub enum Op {
    Route(Verb, RouteSpec),
    Delete(RouteSpec, Narrow),
    Nexthop(NexthopId, u8, u8),
    NexthopGone(NexthopId),
    Up(usize),
    Down(usize),
    /// Delete the link, or make it anew.
    Recreate(usize),
    Address(usize, bool),
    Enslave(bool),
}

/// How much of a route `ip route del` is told.
#[derive(Clone, Copy, Debug)]
pub enum Narrow {
    Prefix,
    Metric,
    Hop,
}

#[derive(Clone, Debug)]
pub struct RouteSpec {
    pub prefix: Prefix,
    pub table: TableId,
    pub metric: u32,
    pub protocol: u8,
    pub to: To,
}

#[derive(Clone, Debug)]
pub enum To {
    /// Link, peer number as gateway (0: none), weight.
    Hops(Vec<(usize, u8, u32)>),
    Object(NexthopId),
    Reject,
}

/// Which parts of the world take part.
#[derive(Clone, Copy, Debug)]
pub struct World {
    pub objects: bool,
    pub links: bool,
}

pub const ROUTES_ONLY: World = World { objects: false, links: false };
pub const EVERYTHING: World = World { objects: true, links: true };

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

/// Three prefixes a family.
pub fn few_prefixes() -> impl Strategy<Value = Prefix> {
    let nets = prop_oneof![3 => Just((0, 3)), 1 => Just((0, 4)), 1 => Just((8, 2))];
    (family(), nets).prop_map(|(family, (bits, len))| small_prefix(family, bits, len))
}

pub fn small_prefixes() -> impl Strategy<Value = Prefix> {
    (family(), 0..32u8, 0..=5u8).prop_map(|(family, bits, len)| small_prefix(family, bits, len))
}

/// A link, and a gateway that fits it most of the time.
fn hop() -> impl Strategy<Value = (usize, u8, u32)> {
    prop_oneof![
        6 => (Just(0), 1..=4u8, 1..=2u32),
        2 => (Just(1), 5..=7u8, 1..=2u32),
        2 => (Just(2), 1..=2u8, 1..=2u32),
        1 => (Just(0), Just(9), Just(1)),
    ]
}

fn to(objects: bool) -> impl Strategy<Value = To> {
    let several = prop::collection::btree_map((0..3usize, 1..=4u8), 1..=2u32, 2..=3)
        .prop_map(|map| To::Hops(map.into_iter().map(|((l, g), w)| (l, g, w)).collect()));
    prop_oneof![
        8 => hop().prop_map(|hop| To::Hops(vec![hop])),
        1 => (0..3usize).prop_map(|link| To::Hops(vec![(link, 0, 1)])),
        3 => several,
        1 => Just(To::Reject),
        if objects { 4 } else { 0 } => (1..=7u32).prop_map(To::Object),
    ]
}

pub fn route_spec(
    prefixes: impl Strategy<Value = Prefix>,
    objects: bool,
) -> impl Strategy<Value = RouteSpec> {
    let table = prop_oneof![3 => Just(MAIN), 1 => Just(OTHER)];
    let protocol = prop_oneof![Just(12), Just(42)];
    (prefixes, table, prop::bool::weighted(0.3), protocol, to(objects)).prop_map(
        |(prefix, table, high, protocol, to)| {
            let metric = match prefix.family() {
                Family::V4 => [0, 10][usize::from(high)],
                Family::V6 => [1024, 1025][usize::from(high)],
            };
            RouteSpec { prefix, table, metric, protocol, to }
        },
    )
}

pub fn op(world: World) -> impl Strategy<Value = Op> {
    let verb = prop_oneof![
        1 => Just(Verb::Add),
        1 => Just(Verb::Append),
        1 => Just(Verb::Prepend),
        2 => Just(Verb::Replace),
    ];
    let narrow = prop_oneof![Just(Narrow::Prefix), Just(Narrow::Metric), Just(Narrow::Hop)];
    let spec = || route_spec(few_prefixes(), world.objects);
    let (objects, links) = (u32::from(world.objects), u32::from(world.links));
    prop_oneof![
        10 => (verb, spec()).prop_map(|(verb, spec)| Op::Route(verb, spec)),
        6 => (spec(), narrow).prop_map(|(spec, narrow)| Op::Delete(spec, narrow)),
        3 * objects => (1..=7u32, 0..4u8, 0..4u8).prop_map(|(id, a, b)| Op::Nexthop(id, a, b)),
        objects => (1..=7u32).prop_map(Op::NexthopGone),
        2 * links => (0..3usize).prop_map(Op::Up),
        links => (0..3usize).prop_map(Op::Down),
        links => (0..3usize).prop_map(Op::Recreate),
        links => (0..3usize, any::<bool>()).prop_map(|(link, on)| Op::Address(link, on)),
        links => any::<bool>().prop_map(Op::Enslave),
    ]
}

/// The links and nexthop objects that every story begins with.
pub fn begin(kernel: &mut Kernel) {
    use wgrouted::core::route::LinkKind;
    for name in LINKS {
        let kind = if name.starts_with("wg") { LinkKind::Wireguard } else { LinkKind::Other };
        let index = kernel.add_link(name, kind);
        kernel.up(index);
        kernel.add_address(index);
    }
    kernel.add_link("vrf0", LinkKind::Vrf { table: OTHER });
    for id in 1..=7 {
        apply(kernel, &Op::Nexthop(id, id as u8, 0));
    }
}

pub fn path(kernel: &Kernel, spec: &RouteSpec) -> Option<Path> {
    let family = spec.prefix.family();
    let (kind, nexthop, hops) = match &spec.to {
        To::Reject => (RouteKind::Unreachable, 0, Hops::new()),
        To::Object(id) => (RouteKind::Unicast, *id, Hops::new()),
        To::Hops(hops) => {
            let hops = hops.iter().map(|(link, number, weight)| {
                let oif = kernel.index(LINKS[*link])?;
                let gateway = (*number != 0).then(|| gateway(family, *number));
                Some(Hop { oif, gateway, weight: *weight, realm: 0, dead: false })
            });
            (RouteKind::Unicast, 0, hops.collect::<Option<Hops>>()?)
        }
    };
    Some(Path {
        table: spec.table,
        metric: spec.metric,
        tos: 0,
        protocol: spec.protocol,
        kind,
        source: None,
        nexthop,
        hops,
    })
}

/// Does it; what the kernel would refuse does nothing.
pub fn apply(kernel: &mut Kernel, op: &Op) {
    let index = |kernel: &Kernel, link: usize| kernel.index(LINKS[link]);
    match op {
        Op::Route(verb, spec) => {
            if let Some(path) = path(kernel, spec) {
                kernel.route(*verb, spec.prefix, &path);
            }
        }
        Op::Delete(spec, narrow) => {
            let path = path(kernel, spec);
            let hop = path.and_then(|path| path.hops.first().map(|hop| (hop.oif, hop.gateway)));
            kernel.delete(&Which {
                prefix: spec.prefix,
                table: spec.table,
                metric: (!matches!(narrow, Narrow::Prefix)).then_some(spec.metric),
                hop: hop.filter(|_| matches!(narrow, Narrow::Hop)),
            });
        }
        // 1 and 2 are IPv4 hops, 3 and 4 IPv6 ones, 5 and 6 groups of these, 7 drops.
        Op::Nexthop(id @ 1..=4, link, number) => {
            let family = if *id < 3 { Family::V4 } else { Family::V6 };
            let number = 1 + number + if link % 3 == 1 { 4 } else { 0 };
            if let Some(oif) = index(kernel, usize::from(*link) % 3) {
                let gateway = Some(gateway(family, number));
                kernel.nexthop(*id, NexthopKind::Hop { oif, gateway });
            }
        }
        Op::Nexthop(id @ 5..=6, which, weight) => {
            let first = if *id == 5 { 1 } else { 3 };
            let members = match which % 4 {
                0 => vec![(first, 1)],
                1 => vec![(first, 1), (first + 1, 1)],
                2 => vec![(first, 1), (first + 1, 1 + u32::from(*weight))],
                _ => vec![(first + 1, 1)],
            };
            kernel.nexthop(*id, NexthopKind::Group(members));
        }
        Op::Nexthop(id, ..) => {
            kernel.nexthop(*id, NexthopKind::Blackhole);
        }
        Op::NexthopGone(id) => {
            kernel.delete_nexthop(*id);
        }
        Op::Up(link) => index(kernel, *link).into_iter().for_each(|index| kernel.up(index)),
        Op::Down(link) => index(kernel, *link).into_iter().for_each(|index| kernel.down(index)),
        Op::Recreate(link) => match kernel.link(LINKS[*link]) {
            Some(link) => {
                let index = link.index;
                kernel.delete_link(index);
            }
            None => {
                use wgrouted::core::route::LinkKind;
                let kind = if *link < 2 { LinkKind::Wireguard } else { LinkKind::Other };
                let index = kernel.add_link(LINKS[*link], kind);
                kernel.up(index);
                kernel.add_address(index);
            }
        },
        Op::Address(link, on) => {
            if let Some(index) = index(kernel, *link) {
                if *on { kernel.add_address(index) } else { kernel.delete_address(index) }
            }
        }
        Op::Enslave(on) => {
            let master = kernel.index("vrf0").filter(|_| *on);
            index(kernel, 0).into_iter().for_each(|index| kernel.enslave(index, master));
        }
    }
}
