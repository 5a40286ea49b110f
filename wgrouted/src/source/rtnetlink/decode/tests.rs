//! The decoder against real bytes, against an independent encoder, and against nonsense.

use netlink_packet_core::Emitable;
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
        RouteRealm, RouteType, RouteVia,
    },
};
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::core::{
    prefix::Prefix,
    route::{Hop, NexthopKind, Path, Route, RouteKind},
};

const CAPTURED: &str = include_str!("captured.txt");

fn unhex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Captured messages.
fn captured() -> Vec<Vec<u8>> {
    CAPTURED.lines().filter_map(|line| line.strip_prefix("< ")).map(unhex).collect()
}

/// `wgrouted/src/source/rtnetlink/decode/captured.txt` says what is expected.
#[test]
#[cfg(target_endian = "little")]
fn real_messages_mean_what_caused_them() {
    let (mut command, mut bytes, mut checked) = ("", Vec::new(), 0);
    for line in CAPTURED.lines() {
        match line.split_at_checked(2) {
            Some(("# ", text)) => command = text,
            Some(("< ", text)) => {
                assert!(bytes.is_empty(), "{command}: a message without its meaning");
                bytes = unhex(text);
            }
            Some(("> ", text)) => {
                let expected: Vec<NetEvent> = match text {
                    "-" => vec![],
                    json => vec![serde_json::from_str(json).unwrap()],
                };
                let mut found = Vec::new();
                let tally = events(&bytes, &mut found);
                assert_eq!(tally, Tally { messages: 1, errors: 0, last_error: None }, "{command}");
                assert_eq!(found, expected, "{command}");
                bytes.clear();
                checked += 1;
            }
            _ => {}
        }
    }
    assert_eq!(checked, captured().len());
    assert!(checked > 50);
}

/// What the kernel would send for a route, written by netlink-packet-route.
fn encode(event: &RouteEvent) -> Vec<u8> {
    let (op, path) = (event.op, &event.route.path);
    let family = match event.route.prefix.family() {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    };
    let mut header = RouteHeader {
        address_family: family,
        destination_prefix_length: event.route.prefix.prefix_len(),
        source_prefix_length: path.source.map_or(0, |source| source.prefix_len()),
        tos: path.tos,
        table: u8::try_from(path.table).unwrap_or(libc::RT_TABLE_COMPAT),
        protocol: RouteProtocol::from(path.protocol),
        kind: match path.kind {
            RouteKind::Unicast => RouteType::Unicast,
            RouteKind::Blackhole => RouteType::BlackHole,
            RouteKind::Unreachable => RouteType::Unreachable,
            RouteKind::Prohibit => RouteType::Prohibit,
            RouteKind::Throw => RouteType::Throw,
            RouteKind::Other => RouteType::Local,
        },
        ..RouteHeader::default()
    };
    let mut attributes = vec![RouteAttribute::Table(path.table)];
    if event.route.prefix.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(event.route.prefix.addr().into()));
    }
    attributes.extend(path.source.map(|source| RouteAttribute::Source(source.addr().into())));
    attributes.push(RouteAttribute::Priority(path.metric));
    attributes.push(RouteAttribute::Uid(7));
    if path.nexthop != 0 {
        attributes.push(RouteAttribute::NhId(path.nexthop));
    }
    let gateway_and_realm = |hop: &Hop| {
        let gateway = hop.gateway.map(|gateway| match (family, gateway) {
            (AddressFamily::Inet, IpAddr::V6(addr)) => RouteAttribute::Via(RouteVia::Inet6(addr)),
            _ => RouteAttribute::Gateway(gateway.into()),
        });
        let realm = (hop.realm != 0).then(|| {
            let (source, destination) = ((hop.realm >> 16) as u16, hop.realm as u16);
            RouteAttribute::Realm(RouteRealm { source, destination })
        });
        gateway.into_iter().chain(realm)
    };
    match path.hops.as_slice() {
        [] => {}
        [hop] if hop.weight == 1 => {
            let dead = netlink_packet_route::route::RouteFlags::from_bits_retain(1);
            header.flags = if hop.dead { dead } else { header.flags };
            attributes.extend(gateway_and_realm(hop));
            attributes.push(RouteAttribute::Oif(hop.oif));
        }
        hops => {
            let hop = |hop: &Hop| {
                let mut encoded = RouteNextHop::default();
                encoded.interface_index = hop.oif;
                encoded.hops = (hop.weight - 1) as u8;
                encoded.attributes = gateway_and_realm(hop).collect();
                if hop.dead {
                    encoded.flags = RouteNextHopFlags::Dead;
                }
                encoded
            };
            attributes.push(RouteAttribute::MultiPath(hops.iter().map(hop).collect()));
        }
    }
    let mut message = RouteMessage::default();
    (message.header, message.attributes) = (header, attributes);
    let mut payload = vec![0; message.buffer_len()];
    message.emit(&mut payload);
    let (kind, flags) = match op {
        RouteOp::Add => (wire::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_EXCL),
        RouteOp::Append => (wire::RTM_NEWROUTE, libc::NLM_F_CREATE | libc::NLM_F_APPEND),
        RouteOp::Replace => (wire::RTM_NEWROUTE, libc::NLM_F_REPLACE),
        RouteOp::Delete => (wire::RTM_DELROUTE, 0),
    };
    frame(kind, flags as u16, &payload)
}

/// A message with a correct header.
fn frame(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::from((16 + payload.len() as u32).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(payload);
    bytes
}

fn any_address(family: Family) -> BoxedStrategy<IpAddr> {
    match family {
        Family::V4 => any::<[u8; 4]>().prop_map(IpAddr::from).boxed(),
        Family::V6 => any::<[u8; 16]>().prop_map(IpAddr::from).boxed(),
    }
}

fn any_prefix(family: Family) -> impl Strategy<Value = Prefix> {
    (any_address(family), 0..=family.bits())
        .prop_map(|(address, len)| Prefix::new(address, len).unwrap())
}

fn any_hop(family: Family) -> impl Strategy<Value = Hop> {
    let gateway = match family {
        Family::V4 => prop_oneof![any_address(Family::V4), any_address(Family::V6)].boxed(),
        Family::V6 => any_address(Family::V6),
    };
    (1..=u32::MAX, proptest::option::of(gateway), 1..=256u32, any::<u32>(), any::<bool>())
        .prop_map(|(oif, gateway, weight, realm, dead)| Hop { oif, gateway, weight, realm, dead })
}

fn any_event() -> impl Strategy<Value = RouteEvent> {
    let kind = prop_oneof![
        4 => Just(RouteKind::Unicast),
        1 => Just(RouteKind::Blackhole),
        1 => Just(RouteKind::Unreachable),
        1 => Just(RouteKind::Prohibit),
        1 => Just(RouteKind::Throw),
        1 => Just(RouteKind::Other),
    ];
    let op = prop_oneof![
        Just(RouteOp::Add),
        Just(RouteOp::Append),
        Just(RouteOp::Replace),
        Just(RouteOp::Delete)
    ];
    prop_oneof![Just(Family::V4), Just(Family::V6)].prop_flat_map(move |family| {
        let source = match family {
            Family::V4 => Just(None).boxed(),
            Family::V6 => proptest::option::of(
                any_prefix(family).prop_filter("none", |source| source.prefix_len() > 0),
            )
            .boxed(),
        };
        let numbers = (any::<u32>(), any::<u32>(), any::<u8>(), any::<u8>(), any::<u32>());
        let hops = vec(any_hop(family), 0..4);
        (op.clone(), any_prefix(family), kind.clone(), source, numbers, hops).prop_map(
            |(op, prefix, kind, source, (table, metric, tos, protocol, nexthop), hops)| {
                let reject = kind.is_reject() || kind == RouteKind::Throw;
                let hops = if reject { Vec::new() } else { hops }.into();
                let path = Path { table, metric, tos, protocol, kind, source, nexthop, hops };
                RouteEvent { op, route: Route { prefix, path } }
            },
        )
    })
}

/// Counting ends: no more messages than headers fit.
fn decode_anything(bytes: &[u8]) -> Result<(), TestCaseError> {
    let mut out = Vec::new();
    let tally = events(bytes, &mut out);
    prop_assert!(tally.messages <= bytes.len() as u64 / 16 + 1);
    prop_assert!(tally.errors + out.len() as u64 <= tally.messages);
    prop_assert_eq!(tally.errors > 0, tally.last_error.is_some());
    for message in Messages::new(bytes).flatten() {
        let _ = route_or_clone(&message);
    }
    Ok(())
}

proptest! {
    #[test]
    fn what_another_encoder_writes_is_read_back(events in vec(any_event(), 1..4)) {
        let datagram: Vec<u8> = events.iter().flat_map(encode).collect();
        let mut found = Vec::new();
        let tally = super::events(&datagram, &mut found);
        prop_assert_eq!(tally.errors, 0, "{:?}", tally);
        let expected: Vec<_> = events.into_iter().map(NetEvent::Route).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..600)) {
        decode_anything(&bytes)?;
    }

    #[test]
    fn arbitrary_payloads_do_no_harm(
        kind in prop_oneof![16..18u16, 20..22u16, 24..26u16, 104..106u16],
        family in prop_oneof![Just(0u8), Just(2u8), Just(10u8), any::<u8>()],
        mut payload in vec(prop_oneof![0..20u8, any::<u8>()], 0..300),
    ) {
        if let Some(first) = payload.first_mut() {
            *first = family;
        }
        decode_anything(&frame(kind, 0, &payload))?;
    }

    #[test]
    fn damaged_messages_do_no_harm(
        pick in any::<proptest::sample::Index>(),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
        keep_length in any::<bool>(),
    ) {
        let mut bytes = pick.get(&captured()).clone();
        for (position, value) in damage {
            *position.get_mut(&mut bytes) = value;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if !keep_length && bytes.len() >= 16 {
            let length = bytes.len() as u32;
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
        }
        decode_anything(&bytes)?;
    }
}

/// A clone is a cached answer to a lookup, not an entry of a table.
#[test]
fn clones_are_left_out() {
    let mut bytes = captured().swap_remove(0);
    bytes[24..28].copy_from_slice(&wire::RTM_F_CLONED.to_ne_bytes());
    let message = Messages::new(&bytes).next().unwrap().unwrap();
    assert_eq!(route(&message), Ok(None));
    assert!(route_or_clone(&message).unwrap().is_some());
}

/// The reserved bytes of group entries held garbage before kernels said that they do not.
#[test]
fn the_high_byte_of_a_weight_counts_only_when_announced() {
    let group = |op_flags: u32| {
        let mut payload = vec![0; 8];
        payload.extend([8, 0, 1, 0, 20, 0, 0, 0]);
        payload.extend([12, 0, 2, 0, 1, 0, 0, 0, 0xe7, 3, 0, 0]);
        payload.extend([8, 0, 14, 0]);
        payload.extend(op_flags.to_ne_bytes());
        let message =
            Message { kind: wire::RTM_NEWNEXTHOP, flags: 0, sequence: 0, payload: &payload };
        nexthop(&message).unwrap().unwrap().kind
    };
    assert_eq!(group(1 << 31), NexthopKind::Group(vec![(1, 1000)]));
    assert_eq!(group(0), NexthopKind::Group(vec![(1, 232)]));
}

#[test]
fn a_malformed_message_costs_only_itself() {
    let good = captured().swap_remove(0);
    let bad = frame(wire::RTM_NEWROUTE, 0, &[2, 24, 0, 0, 254, 12, 0, 1, 0, 0, 0, 0]);
    let mut out = Vec::new();
    let tally = events(&[bad, good].concat(), &mut out);
    let missing = DecodeError::Missing { kind: wire::RTM_NEWROUTE, attribute: wire::RTA_DST };
    assert_eq!(tally, Tally { messages: 2, errors: 1, last_error: Some(missing) });
    assert_eq!(out.len(), 1);
}

/// The figures that justify a decoder of our own.
#[test]
#[ignore = "measures: cargo test --release -p wgrouted --lib decode_speed -- --ignored --nocapture"]
fn decode_speed() {
    use netlink_packet_core::NetlinkMessage;
    use netlink_packet_route::RouteNetlinkMessage;
    use std::{hint::black_box, time::Instant};

    const COUNT: u32 = 100_000;
    let hop =
        |gateway: IpAddr| Hop { oif: 3, gateway: Some(gateway), weight: 1, realm: 0, dead: false };
    let event = |i: u32| {
        let (address, len, gateway) = match i % 5 {
            0 => (
                IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(i) << 64).to_be_bytes()),
                64,
                "fd00::2",
            ),
            _ => (IpAddr::from((i << 8).to_be_bytes()), 24, "10.0.0.2"),
        };
        let path = Path {
            table: 254,
            metric: 32,
            tos: 0,
            protocol: 12,
            kind: RouteKind::Unicast,
            source: None,
            nexthop: 0,
            hops: [hop(gateway.parse().unwrap())].into(),
        };
        RouteEvent {
            op: RouteOp::Add,
            route: Route { prefix: Prefix::new(address, len).unwrap(), path },
        }
    };
    let messages: Vec<_> = (0..COUNT).map(|i| encode(&event(i))).collect();
    let buffer = messages.concat();
    let measure = |name: &str, mut run: Box<dyn FnMut() + '_>| {
        let best = (0..7)
            .map(|_| {
                let start = Instant::now();
                run();
                start.elapsed()
            })
            .min()
            .unwrap();
        println!("{name}: {:.0} ns a route", best.as_nanos() as f64 / f64::from(COUNT));
    };
    let mut out = Vec::with_capacity(COUNT as usize);
    measure(
        "this decoder, to events",
        Box::new(|| {
            out.clear();
            assert_eq!(events(black_box(&buffer), &mut out).errors, 0);
        }),
    );
    measure(
        "netlink-packet-route, to its own messages",
        Box::new(|| {
            for message in &messages {
                black_box(
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(black_box(message)).unwrap(),
                );
            }
        }),
    );
}
