//! What the filter promises about packets inside tunnels.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ebpf_xdp::layout::{Link, Peer, Policy, Reason, Tunnel, TunnelKey, slot};
use ebpf_xdp::parse::{self, Encapsulated, Extent, Headers};
use support::packets::{
    Random, SYN, corpus, extension, fragment6, gre, gre_keyed, icmp, ip, ipv4, ipv6, spoil, tcp,
    udp,
};
use support::world::{APART, DEDICATED, SHARED, TUNNEL, World};

const PEER4: (&str, &str) = ("10.9.0.2", "10.9.0.1");
const PEER6: (&str, &str) = ("fd09::2", "fd09::1");

fn inner(src: &str) -> Vec<u8> {
    let dst = if src.contains(':') { "2001:db8:2::5" } else { "10.2.0.5" };
    ip(src, dst, 17, &udp(1, 2))
}

/// Replies pass, and nothing else.
fn silence(world: &mut World, peer: u32) {
    world.policies.insert(7, Policy { stateful: 1, ..Policy::default() });
    world.peers.get_mut(&peer).unwrap().policy = 7;
}

fn reason(world: &mut World, packet: &[u8]) -> Reason {
    world.ingress(TUNNEL, packet).reason
}

#[test]
fn the_inner_source_is_checked_in_every_encapsulation() {
    let mut world = World::standard();
    for (src, reason) in [
        ("10.1.0.5", Reason::Source),
        ("10.1.7.9", Reason::OtherPeer),
        ("10.2.9.1", Reason::NoRoute),
        ("10.9.0.2", Reason::OtherPeer),
        ("2001:db8:1::5", Reason::Source),
        ("2001:db8:7::5", Reason::NoRoute),
        ("127.0.0.1", Reason::Martian),
    ] {
        let inner = inner(src);
        let mut outers = Vec::new();
        for flags in [0, 0x80, 0x10, 0x90] {
            outers.push(ip(PEER4.0, PEER4.1, 47, &gre(flags, &inner)));
            outers.push(ip(PEER6.0, PEER6.1, 47, &gre(flags, &inner)));
            let limit = extension(47, 1, &gre(flags, &inner));
            outers.push(ip(PEER6.0, PEER6.1, 60, &limit));
        }
        if src.contains('.') {
            outers.push(ip(PEER4.0, PEER4.1, 4, &inner));
        }
        for outer in outers {
            let verdict = world.ingress(TUNNEL, &outer);
            assert_eq!((verdict.peer, verdict.reason), (11, reason), "{src}: {outer:02x?}");
        }
    }
    let counted = world.counters[&(11, slot(Reason::OtherPeer, false))].packets;
    assert_eq!(counted, 2 * 13, "of the tunnel's peer");
    assert!(!world.counters.keys().any(|(peer, _)| *peer == 1));
    assert!(world.samples.iter().all(|sample| sample.dst != address(PEER4.1)));
}

fn address(text: &str) -> ebpf_xdp::addr::Addr {
    ebpf_xdp::addr::Addr::v4(support::packets::v4(text))
}

#[test]
fn the_outer_source_is_checked_first() {
    let mut world = World::standard();
    let inside = gre(0, &inner("10.1.0.5"));
    let verdict = world.ingress(TUNNEL, &ip("10.77.0.2", PEER4.1, 47, &inside));
    assert_eq!((verdict.peer, verdict.reason), (0, Reason::UnknownPeer));
    // On a dedicated link WireGuard proves nothing: the mode of the peer does.
    let verdict = world.ingress(DEDICATED, &ip("10.1.7.9", PEER4.1, 47, &inside));
    assert_eq!((verdict.peer, verdict.reason), (1, Reason::OtherPeer));
    let verdict = world.ingress(DEDICATED, &ip(PEER4.0, PEER4.1, 47, &inside));
    assert_eq!((verdict.peer, verdict.reason), (11, Reason::Source));
    // Peer 2 between the ends of peer 1's tunnel: not on a device where WireGuard looks.
    let verdict = world.ingress(TUNNEL, &ip("10.9.0.3", PEER4.1, 47, &inside));
    assert_eq!((verdict.peer, verdict.reason), (2, Reason::NoTunnel));
}

#[test]
fn only_what_is_between_the_ends_is_looked_through() {
    let mut world = World::standard();
    let spoofed = inner("192.0.2.1");
    let mut judge = |src, dst, protocol, payload: &[u8]| {
        let verdict = world.ingress(TUNNEL, &ip(src, dst, protocol, payload));
        (verdict.peer, verdict.reason)
    };
    let ordinary = (1, Reason::Source);
    assert_eq!(judge(PEER4.0, "10.2.0.5", 47, &gre(0, &spoofed)), ordinary, "another host's");
    assert_eq!(judge(PEER6.0, PEER6.1, 4, &spoofed), ordinary, "no IPIP in IPv6 is configured");
    assert_eq!(judge(PEER4.0, PEER4.1, 41, &inner("2001:db8:7::1")), ordinary, "nor IPv6 in IPv4");
    assert_eq!(judge(PEER4.0, PEER4.1, 1, &icmp(8, 0, 1, b"")), ordinary);
    assert_eq!(judge("10.9.0.7", PEER4.1, 47, &gre(0, &spoofed)), (6, Reason::Source), "no tunnel");
    assert_eq!(judge("10.9.0.7", PEER4.1, 47, &[1, 1]), (6, Reason::Source));
    assert_eq!(judge(PEER4.0, PEER4.1, 47, &gre(0, &spoofed)), (11, Reason::OtherPeer));
}

#[test]
fn keys_tell_tunnels_between_the_same_ends_apart() {
    let judge = |flags, key| {
        let packet = ip("10.9.0.3", "10.9.0.1", 47, &gre_keyed(flags, key, &inner("10.1.7.9")));
        let verdict = World::standard().ingress(TUNNEL, &packet);
        (verdict.peer, verdict.reason)
    };
    for flags in [0x20, 0xa0, 0x30, 0xb0] {
        assert_eq!(judge(flags, 0), (12, Reason::Accept));
        assert_eq!(judge(flags, 0x2a), (22, Reason::OtherPeer));
        assert_eq!(judge(flags, 0x2b), (2, Reason::NoTunnel));
    }
    assert_eq!(judge(0, 0), (2, Reason::NoTunnel), "the kernel has no tunnel without a key here");
    assert_eq!(judge(0x90, 0), (2, Reason::NoTunnel));
    let keyed = ip(PEER4.0, PEER4.1, 47, &gre(0x20, &inner("10.1.0.5")));
    let verdict = World::standard().ingress(TUNNEL, &keyed);
    assert_eq!((verdict.peer, verdict.reason), (1, Reason::NoTunnel), "nor with a key there");
}

#[test]
fn a_tunnel_of_which_nothing_is_known_takes_all() {
    let mut world = World::standard();
    let mut judge = |protocol, payload: &[u8]| {
        let verdict = world.ingress(TUNNEL, &ip("10.9.0.4", "10.2.0.5", protocol, payload));
        (verdict.peer, verdict.reason)
    };
    let (four, six) = (inner("10.1.0.5"), inner("2001:db8:1::5"));
    for flags in [0, 0x20, 0xb0] {
        assert_eq!(judge(47, &gre_keyed(flags, 99, &four)), (13, Reason::Source));
        assert_eq!(judge(47, &gre_keyed(flags, 99, &inner("198.51.100.1"))), (13, Reason::NoRoute));
    }
    assert_eq!(judge(4, &four), (13, Reason::Source));
    assert_eq!(judge(41, &six), (13, Reason::Source));
    assert_eq!(judge(47, &[0, 0, 0x65, 0x58]), (13, Reason::TunnelPayload));
}

#[test]
fn what_cannot_be_looked_through_has_a_reason_of_its_own() {
    let mut world = World::standard();
    let four = inner("10.1.0.5");
    let mut with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut inside = gre(0, &four);
        change(&mut inside);
        reason(&mut world, &ip(PEER4.0, PEER4.1, 47, &inside))
    };
    assert_eq!(with(&|_| {}), Reason::Source);
    assert_eq!(with(&|gre| gre[1] = 1), Reason::Encapsulation, "PPTP");
    assert_eq!(with(&|gre| gre[0] = 0x40), Reason::Encapsulation, "source routing");
    assert_eq!(with(&|gre| gre[0] = 1), Reason::Encapsulation, "recursion control");
    for (kind, what) in [
        (0_u16, "a keepalive"),
        (0x6558, "Ethernet"),
        (0x88be, "ERSPAN"),
        (0x22eb, "ERSPAN, version 2"),
        (0x8847, "MPLS"),
        (0x883e, "WCCP"),
        (0x00fe, "IS-IS"),
        (0x86dd, "IPv6 is announced, IPv4 comes"),
    ] {
        let kind = kind.to_be_bytes();
        assert_eq!(with(&|gre| gre[2..4].copy_from_slice(&kind)), Reason::TunnelPayload, "{what}");
    }
    assert_eq!(with(&|gre| gre[4] = 0x50), Reason::NotIp);
    let v6 = ip(PEER4.0, PEER4.1, 4, &inner("2001:db8:1::5"));
    assert_eq!(reason(&mut world, &v6), Reason::TunnelPayload, "IPIP carries IPv4");
    // All of that is the tunnel's, and passes where it is monitored.
    world.peers.get_mut(&11).unwrap().flags |= Peer::MONITOR;
    let verdict = world.ingress(TUNNEL, &v6);
    assert!(verdict.monitored && !verdict.is_drop() && verdict.peer == 11);
    world.peers.remove(&11);
    assert_eq!(reason(&mut world, &v6), Reason::TunnelPayload);
    let fine = ip(PEER4.0, PEER4.1, 4, &four);
    assert_eq!(reason(&mut world, &fine), Reason::Unconfigured);
}

#[test]
fn truncation_is_noticed_at_every_octet() {
    let mut world = World::standard();
    let bodies = [inner("10.1.0.5"), inner("2001:db8:1::5"), {
        let rest = extension(6, 1, &tcp(1, 80, SYN));
        ipv6("2001:db8:1::5", "2001:db8:2::5", 60, &rest)
    }];
    for body in bodies {
        for (peer, here) in [PEER4, PEER6] {
            for flags in [0, 0x80, 0x10, 0x90] {
                let inside = gre(flags, &body);
                let header = inside.len() - body.len();
                for length in 0..=inside.len() {
                    let expected = match length {
                        _ if length < 4 => Reason::TunnelTruncated,
                        _ if length < header => Reason::TunnelTruncated,
                        _ if length < inside.len() => Reason::Malformed,
                        _ => Reason::Source,
                    };
                    let cut = ip(peer, here, 47, &inside[..length]);
                    assert_eq!(reason(&mut world, &cut), expected, "{flags:x} {length}");
                    // What lies behind the end of the outer packet is not the inner one's.
                    let padded = [cut, inside[length..].to_vec()].concat();
                    assert_eq!(reason(&mut world, &padded), expected, "{flags:x} {length} padded");
                }
                let whole = ip(peer, here, 47, &inside);
                for length in 0..whole.len() {
                    let got = reason(&mut world, &whole[..length]);
                    assert_eq!(got, Reason::Malformed, "the outer packet announces more");
                }
            }
        }
    }
}

#[test]
fn a_first_fragment_is_judged_where_it_shows_enough() {
    let mut world = World::standard();
    let spoofed = inner("10.1.7.9");
    let good = ip("10.1.0.5", "10.2.0.5", 6, &[tcp(1, 80, SYN), vec![0; 64]].concat());
    for (peer, here) in [PEER4, PEER6] {
        let piece = |inside: &[u8], length: usize, offset: u16, more: bool| {
            let body = &inside[usize::from(offset)..][..length];
            if peer.contains(':') {
                ipv6(peer, here, 44, &fragment6(47, offset, more, 5, body))
            } else {
                let field = (offset / 8) | if more { 0x2000 } else { 0 };
                ipv4(peer, here, 47, 5, field, &[], body)
            }
        };
        let inside = gre(0x90, &good);
        // 12 octets of GRE, 20 of IPv4, 20 of TCP.
        for length in (8..inside.len()).step_by(8) {
            let expected = if length < 52 { Reason::TunnelTruncated } else { Reason::Source };
            let first = piece(&inside, length, 0, true);
            assert_eq!(reason(&mut world, &first), expected, "{length}");
            // Nor is what lies behind the outer packet's end taken for its own.
            let padded = [first, inside[length..].to_vec()].concat();
            assert_eq!(reason(&mut world, &padded), expected, "{length} padded");
            let verdict =
                world.ingress(TUNNEL, &piece(&inside, 8, length as u16 / 8 * 8 - 8, true));
            let late = if length == 8 { Reason::TunnelTruncated } else { Reason::TunnelFragment };
            assert_eq!((verdict.peer, verdict.reason), (11, late), "{length}");
        }
        let first = piece(&gre(0, &spoofed), 32, 0, true);
        assert_eq!(reason(&mut world, &first), Reason::OtherPeer, "as if it were whole");
    }
    // Of two tunnels with keys a later fragment does not say which.
    let late = ipv4("10.9.0.3", "10.9.0.1", 47, 5, 9, &[], &[0; 16]);
    let verdict = world.ingress(TUNNEL, &late);
    assert_eq!((verdict.peer, verdict.reason), (2, Reason::TunnelFragment));
}

#[test]
fn routing_protocols_speak_inside_tunnels() {
    let mut world = World::standard();
    silence(&mut world, 11);
    for (packet, expected) in [
        (ip("fe80::2", "ff02::1:6", 17, &udp(6696, 6696)), Reason::Control),
        (ip("fe80::2", "ff02::5", 89, b"hello"), Reason::Control),
        (ip("fe80::2", "fe80::1", 17, &udp(49152, 3784)), Reason::Control),
        (ip("10.1.0.9", "224.0.0.5", 89, b"hello"), Reason::Control),
        (ip("169.254.0.2", "224.0.0.5", 89, b"hello"), Reason::Control),
        (ip("::", "ff02::1:ff00:1", 58, &icmp(135, 0, 0, &[0; 16])), Reason::Control),
        (ip("fe80::2", "2001:db8:2::5", 17, &udp(1, 2)), Reason::NoRoute),
        (ip("::", "2001:db8:2::5", 58, &icmp(135, 0, 0, &[0; 16])), Reason::Martian),
        (ip("224.0.0.5", "224.0.0.5", 89, b"hello"), Reason::Martian),
    ] {
        assert_eq!(reason(&mut world, &ip(PEER4.0, PEER4.1, 47, &gre(0, &packet))), expected);
        assert_eq!(reason(&mut world, &ip(PEER6.0, PEER6.1, 47, &gre(0, &packet))), expected);
    }
}

#[test]
fn the_outer_packet_needs_no_rule() {
    let mut world = World::standard();
    silence(&mut world, 1);
    let inside = gre(0, &inner("10.1.0.5"));
    assert_eq!(reason(&mut world, &ip(PEER4.0, PEER4.1, 47, &inside)), Reason::Source);
    let direct = ip(PEER4.0, PEER4.1, 17, &udp(1, 2));
    assert_eq!(reason(&mut world, &direct), Reason::Default);
    let foreign = ip(PEER4.0, "10.9.0.77", 47, &inside);
    assert_eq!(reason(&mut world, &foreign), Reason::Default, "an ordinary packet");
}

#[test]
fn tunnels_inside_tunnels_are_ordinary_packets() {
    let mut world = World::standard();
    let nested = ip("10.1.0.5", "10.9.0.1", 47, &gre(0, &inner("192.0.2.1")));
    let verdict = world.ingress(TUNNEL, &ip(PEER4.0, PEER4.1, 47, &gre(0, &nested)));
    assert_eq!((verdict.peer, verdict.reason), (11, Reason::Source));
}

#[test]
fn zones_are_those_of_the_tunnels() {
    let mut world = World::standard();
    silence(&mut world, 11);
    let request = ip("10.2.0.5", "10.1.0.5", 17, &udp(5000, 53));
    let reply = ip("10.1.0.5", "10.2.0.5", 17, &udp(53, 5000));
    let (out, back) = (
        ip("10.9.0.1", "10.9.0.2", 47, &gre(0, &request)),
        ip("10.9.0.2", "10.9.0.1", 47, &gre(0, &reply)),
    );
    world.egress(SHARED, &out);
    assert_eq!(world.ingress(TUNNEL, &back).reason, Reason::Flow);
    for tunnel in world.tunnels.values_mut() {
        *tunnel = Tunnel { zone: 4, ..*tunnel };
    }
    assert_eq!(world.ingress(TUNNEL, &back).reason, Reason::Default);
    world.egress(SHARED, &out);
    assert_eq!(world.ingress(TUNNEL, &back).reason, Reason::Flow);
    // Without the link's flag nobody looks what is sent through tunnels.
    world.flows.clear();
    world.links.get_mut(&SHARED).unwrap().flags &= !Link::TUNNELS;
    world.egress(SHARED, &out);
    assert_eq!(world.ingress(TUNNEL, &back).reason, Reason::Default);
}

/// The law: what a tunnel carries is judged as if it came by a link of its own.
#[test]
fn a_tunnel_is_judged_like_a_dedicated_link() {
    let corpus = corpus();
    let mut random = Random(0x6a09_e667_f3bc_c908);
    let mut compared = 0;
    for round in 0..30_000 {
        let mut packet = corpus[random.below(corpus.len())].clone();
        if round % 2 == 1 {
            spoil(&mut packet, &mut random);
        }
        let Some(version) = packet.first().map(|first| first >> 4) else { continue };
        // What says that it is neither cannot be announced.
        if version != 4 && version != 6 {
            continue;
        }
        let flags = [0, 0x80, 0x10, 0x90][random.below(4)];
        let keyed = |key| gre_keyed(flags | 0x20, key, &packet);
        let plain = if version == 4 { 4 } else { 41 };
        let (outer, peer) = match random.below(7) {
            0 => (ip(PEER4.0, PEER4.1, 47, &gre(flags, &packet)), 11),
            1 => (ip(PEER6.0, PEER6.1, 47, &gre(flags, &packet)), 11),
            2 => (ip("10.9.0.3", "10.9.0.1", 47, &keyed(0)), 12),
            3 => (ip("10.9.0.3", "10.9.0.1", 47, &keyed(0x2a)), 22),
            4 => (ip("10.9.0.4", "10.77.0.1", plain, &packet), 13),
            5 => (ip("10.9.0.5", "10.9.0.1", 47, &gre(flags, &packet)), 14),
            _ => (ip("fd09::6", "fd09::1", 47, &gre(flags, &packet)), 15),
        };
        let (mut through, mut apart) = (World::standard(), World::standard());
        let one = through.ingress(TUNNEL, &outer);
        let other = apart.ingress(APART + peer, &packet);
        assert_eq!(one, other, "{packet:02x?}");
        assert_eq!((through.flows, through.fragments), (apart.flows, apart.fragments));
        compared += 1;
    }
    assert!(compared > 24_000);
}

#[test]
fn gre_headers_are_read_as_they_are_written() {
    for flags in [0, 0x80, 0x20, 0x10, 0xa0, 0x90, 0x30, 0xb0] {
        for (peer, here) in [PEER4, PEER6] {
            for (src, family) in [("10.1.0.5", 4), ("2001:db8:1::5", 6)] {
                let inner = inner(src);
                let outer = ip(peer, here, 47, &gre_keyed(flags, 0x0102_0304, &inner));
                let mut headers = Headers::default();
                parse::ip(&&outer[..], 0, Extent::Whole, &mut headers).unwrap();
                let keyed = flags & 0x20 != 0;
                let expected = Encapsulated {
                    at: (outer.len() - inner.len()) as u32,
                    family,
                    keyed,
                    key: if keyed { 0x0102_0304 } else { 0 },
                };
                assert_eq!(parse::encapsulated(&&outer[..], &headers), Ok(expected));
            }
        }
    }
}

#[test]
fn a_row_names_its_own_peer_only() {
    let mut world = World::standard();
    let stolen = TunnelKey { peer: 6, ..TunnelKey::default() };
    world.tunnels.insert(stolen, Tunnel { peer: 15, ..Tunnel::default() });
    let packet = ip("10.9.0.7", "10.9.0.1", 47, &gre(0, &inner("192.0.2.1")));
    let verdict = world.ingress(TUNNEL, &packet);
    assert_eq!((verdict.peer, verdict.reason), (6, Reason::Source), "without the peer's flag");
}
