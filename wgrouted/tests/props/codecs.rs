//! What is written can be read back: text forms, and events as they are recorded.

use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;
use wgrouted::core::{
    device::{Device, DeviceError, DevicePeer, Report},
    event::{Event, InterfaceId, NetEvent, Scope, SyncPart},
    peer::{PeerIdx, PublicKey},
    prefix::{Family, Prefix},
    route::{
        Hop, Link, LinkKind, Nexthop, NexthopKind, Path, Route, RouteEvent, RouteKind, RouteOp,
    },
    rule::{Audit, InterfaceRule, LinkMode, Match, OnExit, PeerRule},
};

use crate::filter_codecs;

fn addr() -> impl Strategy<Value = IpAddr> {
    prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
}

pub fn prefix() -> impl Strategy<Value = Prefix> {
    (addr(), 0..=128u8).prop_map(|(addr, len)| {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        Prefix::new(addr, len.min(bits)).expect("short enough")
    })
}

pub fn key() -> impl Strategy<Value = PublicKey> {
    any::<[u8; 32]>().prop_map(PublicKey)
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn duration() -> impl Strategy<Value = Duration> {
    (any::<u32>(), 0..1_000_000_000u32).prop_map(|(s, ns)| Duration::new(s.into(), ns))
}

fn route() -> impl Strategy<Value = Route> {
    let hop = (any::<u32>(), prop::option::of(addr()), 1..=65536u32, any::<u32>(), any::<bool>());
    let hop = hop.prop_map(|(oif, gateway, weight, realm, dead)| Hop {
        oif,
        gateway,
        weight,
        realm,
        dead,
    });
    let kind = prop_oneof![
        Just(RouteKind::Unicast),
        Just(RouteKind::Blackhole),
        Just(RouteKind::Unreachable),
        Just(RouteKind::Prohibit),
        Just(RouteKind::Throw),
        Just(RouteKind::Other),
    ];
    let numbers = (any::<u32>(), any::<u32>(), any::<u8>(), any::<u8>(), 0..3u32);
    let hops = prop::collection::vec(hop, 0..3);
    (prefix(), numbers, kind, prop::option::of(prefix()), hops).prop_map(
        |(prefix, (table, metric, tos, protocol, nexthop), kind, source, hops)| Route {
            prefix,
            path: Path {
                table,
                metric,
                tos,
                protocol,
                kind,
                source,
                nexthop,
                hops: hops.into_iter().collect(),
            },
        },
    )
}

fn link() -> impl Strategy<Value = Link> {
    let kind = prop_oneof![
        Just(LinkKind::Wireguard),
        any::<u32>().prop_map(|table| LinkKind::Vrf { table }),
        Just(LinkKind::Other),
    ];
    (any::<u32>(), ".{0,15}", any::<bool>(), prop::option::of(any::<u32>()), kind)
        .prop_map(|(index, name, up, master, kind)| Link { index, name, up, master, kind })
}

fn nexthop() -> impl Strategy<Value = Nexthop> {
    let hop = (any::<u32>(), prop::option::of(addr()));
    let kind = prop_oneof![
        Just(NexthopKind::Blackhole),
        hop.prop_map(|(oif, gateway)| NexthopKind::Hop { oif, gateway }),
        prop::collection::vec((any::<u32>(), 1..=65536u32), 0..3).prop_map(NexthopKind::Group),
    ];
    (any::<u32>(), kind).prop_map(|(id, kind)| Nexthop { id, kind })
}

fn news() -> impl Strategy<Value = NetEvent> {
    let op = prop_oneof![
        Just(RouteOp::Add),
        Just(RouteOp::Append),
        Just(RouteOp::Replace),
        Just(RouteOp::Delete),
    ];
    prop_oneof![
        (op, route()).prop_map(|(op, route)| NetEvent::Route(RouteEvent { op, route })),
        link().prop_map(NetEvent::Link),
        any::<u32>().prop_map(|index| NetEvent::LinkGone { index }),
        (any::<u32>(), family())
            .prop_map(|(index, family)| NetEvent::AddressGone { index, family }),
        (any::<u32>(), family())
            .prop_map(|(index, family)| NetEvent::AddressAdded { index, family }),
        nexthop().prop_map(NetEvent::Nexthop),
        any::<u32>().prop_map(|id| NetEvent::NexthopGone { id }),
        Just(NetEvent::Lost),
    ]
}

fn device() -> impl Strategy<Value = Device> {
    let endpoint = prop::option::of((addr(), any::<u16>()).prop_map(std::net::SocketAddr::from));
    let peer = (key(), endpoint, any::<u16>(), prop::option::of(duration()), any::<(u64, u64)>());
    let peer =
        peer.prop_map(|(public_key, endpoint, keepalive, last_handshake, (rx, tx))| DevicePeer {
            public_key,
            endpoint,
            persistent_keepalive: keepalive,
            last_handshake,
            rx_bytes: rx,
            tx_bytes: tx,
        });
    let owned = (prefix(), 0..3u32).prop_map(|(prefix, owner)| (prefix, PeerIdx(owner)));
    (
        (any::<u32>(), ".{0,15}", prop::option::of(key()), any::<u16>()),
        prop::collection::vec(peer, 0..3),
        prop::collection::vec(owned, 0..5),
        prop::collection::vec(prefix(), 0..2),
    )
        .prop_map(
            |((ifindex, name, public_key, listen_port), peers, allowed_ips, graveyard)| Device {
                ifindex,
                name,
                public_key,
                listen_port,
                peers,
                allowed_ips,
                graveyard,
            },
        )
}

fn failure() -> impl Strategy<Value = DeviceError> {
    (".{0,40}", any::<bool>()).prop_map(|(message, gone)| DeviceError { message, gone })
}

fn rule() -> impl Strategy<Value = InterfaceRule> {
    let number = || prop::option::of(any::<u32>());
    let entry = (prop::option::of(any::<u8>()), number(), number(), number(), number());
    let entry = (entry, prop::option::of(prefix())).prop_map(
        |((protocol, realm, table, metric, nexthop), gateway)| Match {
            protocol,
            realm,
            table,
            metric,
            nexthop,
            gateway,
        },
    );
    let pinned = prop::option::of(prop::collection::vec(prefix(), 0..3));
    let matches = prop::collection::vec(entry, 0..2);
    let filter = prop::option::of(filter_codecs::peer_filter());
    let peer = (".{0,15}", key(), pinned, matches, filter).prop_map(
        |(name, public_key, pinned, matches, filter)| PeerRule {
            name,
            public_key,
            pinned,
            matches,
            filter,
            reach: None,
        },
    );
    let link = prop_oneof![Just(LinkMode::Auto), Just(LinkMode::Shared), Just(LinkMode::Dedicated)];
    let audit = prop_oneof![Just(Audit::Auto), duration().prop_map(Audit::Every), Just(Audit::Off)];
    let on_exit = prop_oneof![Just(OnExit::Keep), Just(OnExit::Remove)];
    (
        (".{0,15}", link, audit, on_exit),
        prop::collection::vec(any::<u32>(), 0..3),
        prop::collection::vec(prefix(), 0..3),
        (duration(), duration(), any::<usize>(), duration()),
        prop::collection::vec(peer, 0..3),
        (prop::option::of(filter_codecs::link_filter()), filter_codecs::tunnel_rules()),
    )
        .prop_map(|((name, link, audit, on_exit), tables, managed, numbers, peers, filter)| {
            let (filter, tunnels) = filter;
            let (delete_hold, coalesce, message_size, adopt) = numbers;
            InterfaceRule {
                name,
                link,
                tables,
                managed,
                delete_hold,
                coalesce,
                message_size,
                adopt,
                on_exit,
                audit,
                peers,
                filter,
                tunnels,
                reach: None,
            }
        })
}

fn event() -> impl Strategy<Value = Event> {
    let part = prop_oneof![
        prop::collection::vec(link(), 0..3).prop_map(SyncPart::Links),
        prop::collection::vec(nexthop(), 0..3).prop_map(SyncPart::Nexthops),
        prop::collection::vec(route(), 0..3).prop_map(SyncPart::Routes),
    ];
    let pins = prop::collection::vec((key(), prop::collection::vec(prefix(), 0..3)), 0..3);
    let report =
        (prop::collection::vec((any::<usize>(), any::<i32>()), 0..3), any::<u32>(), duration());
    let report = report.prop_map(|(failed, messages, longest_message)| Report {
        failed,
        messages,
        longest_message,
    });
    let answer = || (any::<u32>().prop_map(InterfaceId), any::<u64>());
    prop_oneof![
        4 => prop::collection::vec(news(), 0..4).prop_map(Event::Net),
        1 => (any::<u64>(), part).prop_map(|(epoch, part)| Event::SyncPart { epoch, part }),
        1 => (any::<u64>(), prop::option::of(".{0,40}"))
            .prop_map(|(epoch, error)| Event::SyncDone { epoch, error }),
        1 => (answer(), duration(), prop::result::maybe_ok(device(), failure()), pins).prop_map(
            |((interface, token), cost, result, remembered)| Event::Device {
                interface,
                token,
                cost,
                result,
                remembered,
            },
        ),
        1 => (answer(), prop::result::maybe_ok(report, failure()))
            .prop_map(|((interface, token), result)| Event::Applied { interface, token, result }),
        2 => filter_codecs::event().prop_map(Event::Filter),
        1 => prop::collection::vec(rule(), 0..2).prop_map(Event::Reconfigure),
        1 => Just(Event::Resync),
        1 => Just(Event::Shutdown),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(300)))]

    #[test]
    fn prefixes_survive_printing_and_parsing(prefix in prefix()) {
        prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
    }

    /// The oracle counts bits by hand.
    #[test]
    fn containment_is_about_the_first_bits(prefix in prefix(), addr in addr()) {
        let bits = |addr: IpAddr| match addr {
            IpAddr::V4(addr) => addr.octets().to_vec(),
            IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
        let (net, host) = (bits(prefix.addr()), bits(addr));
        let inside = net.len() == host.len()
            && (0..usize::from(prefix.prefix_len())).all(|at| bit(&net, at) == bit(&host, at));
        prop_assert_eq!(prefix.contains(addr), inside);
        let masked = (usize::from(prefix.prefix_len())..net.len() * 8).all(|at| bit(&net, at) == 0);
        prop_assert!(masked, "host bits are zero");
        let own = Prefix::containing(addr).find(|p| p.prefix_len() == prefix.prefix_len());
        prop_assert_eq!(own == Some(prefix), inside);
    }

    #[test]
    fn keys_survive_printing_and_parsing(key in key()) {
        prop_assert_eq!(key.to_string().parse::<PublicKey>(), Ok(key));
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in ".{0,60}") {
        if let Ok(prefix) = text.parse::<Prefix>() {
            prop_assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }
        if let Ok(key) = text.parse::<PublicKey>() {
            prop_assert_eq!(key.to_string(), text);
        }
    }

    /// A recording holds one event a line.
    #[test]
    fn events_survive_a_recording(event in event()) {
        let line = serde_json::to_string(&event).unwrap();
        prop_assert!(!line.contains('\n'));
        prop_assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }

    #[test]
    fn scopes_survive_a_recording(
        family in family(),
        table in prop::option::of(any::<u32>()),
        oif in prop::option::of(any::<u32>()),
    ) {
        let scope = Scope { family, table, oif };
        let line = serde_json::to_string(&scope).unwrap();
        prop_assert_eq!(serde_json::from_str::<Scope>(&line).unwrap(), scope);
    }
}
