//! What the filter promises, packet by packet.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ebpf_xdp::flow::SECOND;
use ebpf_xdp::layout::{Event, Link, Mode, Peer, Policy, Reason, Rule, Settings, domain, slot};
use support::packets::{ACK, FIN, RST, SYN, ethernet, extension, fragment6, icmp, ip, ipv4};
use support::packets::{gre, ipv6, tcp, udp};
use support::world::{DEDICATED, MAIN, SHARED, TUNNEL, World};

fn mode(world: &mut World, mode: Mode, domain: u32) {
    world.peers.insert(1, Peer { mode: mode as u8, domain, ..Peer::default() });
}

fn from(world: &mut World, src: &str) -> Reason {
    let dst = if src.contains(':') { "2001:db8:2::5" } else { "10.2.0.5" };
    world.ingress(DEDICATED, &ip(src, dst, 17, &udp(1, 2))).reason
}

#[test]
fn strict_wants_the_best_route_through_the_peer() {
    let mut world = World::standard();
    assert_eq!(from(&mut world, "10.1.0.5"), Reason::Source);
    assert_eq!(from(&mut world, "10.1.7.9"), Reason::OtherPeer, "a more specific route elsewhere");
    assert_eq!(from(&mut world, "10.2.0.5"), Reason::Source, "one hop of a multipath route");
    assert_eq!(from(&mut world, "10.2.9.1"), Reason::NoRoute, "a reject route");
    assert_eq!(from(&mut world, "192.0.2.1"), Reason::OtherPeer);
    assert_eq!(from(&mut world, "198.51.100.1"), Reason::Source, "the default route");
    assert_eq!(from(&mut world, "2001:db8:1::5"), Reason::Source);
    assert_eq!(from(&mut world, "2001:db8:1:7::9"), Reason::NoRoute);
    assert_eq!(from(&mut world, "2001:db8:9::1"), Reason::NoRoute);
    world.sets.clear();
    assert_eq!(from(&mut world, "10.2.0.5"), Reason::OtherPeer);
}

#[test]
fn feasible_and_group_want_presence() {
    let mut world = World::standard();
    mode(&mut world, Mode::Feasible, domain::feasible(2));
    assert_eq!(from(&mut world, "10.1.7.9"), Reason::Source, "not the best route, but a route");
    assert_eq!(from(&mut world, "192.0.2.1"), Reason::NoRoute);
    mode(&mut world, Mode::Group, domain::group(9));
    assert_eq!(from(&mut world, "192.0.2.1"), Reason::Source, "legal for another member");
    assert_eq!(from(&mut world, "198.51.100.1"), Reason::NoRoute);
}

#[test]
fn loose_wants_any_route() {
    let mut world = World::standard();
    mode(&mut world, Mode::Loose, domain::routes(MAIN));
    assert_eq!(from(&mut world, "192.0.2.1"), Reason::Source, "a route elsewhere is a route");
    assert_eq!(from(&mut world, "10.2.9.1"), Reason::NoRoute, "a reject route is none");
    assert_eq!(from(&mut world, "198.51.100.1"), Reason::Source, "the default route");
    world.peers.get_mut(&1).unwrap().flags = Peer::IGNORE_DEFAULT;
    assert_eq!(from(&mut world, "198.51.100.1"), Reason::NoRoute);
}

#[test]
fn lists_have_holes_and_narrow_other_modes() {
    let mut world = World::standard();
    mode(&mut world, Mode::List, domain::list(4));
    assert_eq!(from(&mut world, "10.1.0.5"), Reason::Source);
    assert_eq!(from(&mut world, "10.2.0.5"), Reason::NotListed, "a hole");
    mode(&mut world, Mode::Strict, domain::routes(MAIN));
    world.peers.get_mut(&1).unwrap().flags = Peer::NARROW;
    assert_eq!(from(&mut world, "10.1.0.5"), Reason::NotListed);
    world.source(domain::list(1), "10.1.0.0/24", 1);
    assert_eq!(from(&mut world, "10.1.0.5"), Reason::Source);
    assert_eq!(from(&mut world, "10.1.1.5"), Reason::NotListed);
}

#[test]
fn own_addresses_pass_in_any_mode_and_martians_in_none() {
    let mut world = World::standard();
    mode(&mut world, Mode::List, domain::list(77));
    assert_eq!(from(&mut world, "10.9.0.2"), Reason::Source);
    mode(&mut world, Mode::Loose, domain::routes(MAIN));
    for src in ["127.0.0.1", "224.0.0.1", "0.0.0.1", "::1", "ff02::1", "::ffff:10.1.0.5"] {
        assert_eq!(from(&mut world, src), Reason::Martian, "{src}");
    }
    mode(&mut world, Mode::Off, 0);
    assert_eq!(from(&mut world, "127.0.0.1"), Reason::Source);
}

#[test]
fn what_routing_protocols_need_passes() {
    let mut world = World::standard();
    let mut ingress = |packet: Vec<u8>| world.ingress(DEDICATED, &packet).reason;
    assert_eq!(ingress(ip("fe80::2", "ff02::1:6", 17, &udp(6696, 6696))), Reason::Source, "Babel");
    assert_eq!(ingress(ip("fe80::2", "fe80::1", 17, &udp(49152, 3784))), Reason::Source, "BFD");
    assert_eq!(ingress(ip("fe80::2", "ff02::5", 89, b"hello")), Reason::Source, "OSPFv3");
    assert_eq!(ingress(ip("10.9.0.2", "224.0.0.5", 89, b"hello")), Reason::Source, "OSPFv2");
    assert_eq!(ingress(ip("::", "ff02::1:ff00:1", 58, &icmp(135, 0, 0, &[0; 16]))), Reason::Source);
    assert_eq!(ingress(ip("0.0.0.0", "255.255.255.255", 17, &udp(68, 67))), Reason::Source, "DHCP");
    assert_eq!(ingress(ip("0.0.0.0", "255.255.255.255", 17, &udp(1, 67))), Reason::Martian);
    assert_eq!(ingress(ip("::", "2001:db8:2::5", 58, &icmp(135, 0, 0, &[0; 16]))), Reason::Martian);
    assert_eq!(ingress(ip("fe80::2", "2001:db8:2::5", 17, &udp(1, 2))), Reason::NoRoute);
    assert_eq!(
        ingress(ip("10.66.0.1", "224.0.0.5", 89, b"hello")),
        Reason::Source,
        "by default route"
    );
}

#[test]
fn routing_protocols_live_under_a_policy_that_drops() {
    let mut world = World::standard();
    world.policies.insert(7, Policy { stateful: 1, ..Policy::default() });
    let peer = world.peers.get_mut(&1).unwrap();
    peer.policy = 7;
    let hello = ip("fe80::2", "ff02::1:6", 17, &udp(6696, 6696));
    assert_eq!(world.ingress(DEDICATED, &hello).reason, Reason::Control);
    world.peers.get_mut(&1).unwrap().flags &= !Peer::CONTROL;
    assert_eq!(world.ingress(DEDICATED, &hello).reason, Reason::Default);
}

#[test]
fn a_shared_link_finds_the_peer_by_source() {
    let mut world = World::standard();
    let verdict = world.ingress(SHARED, &ip("10.2.0.5", "10.1.0.5", 6, &tcp(1, 80, SYN)));
    assert_eq!((verdict.peer, verdict.reason, verdict.rule), (2, Reason::Accept, 1));
    let verdict = world.ingress(SHARED, &ip("198.51.100.1", "10.1.0.5", 17, &udp(1, 2)));
    assert_eq!((verdict.peer, verdict.reason), (0, Reason::UnknownPeer));
    assert!(verdict.is_drop());
    world.links.get_mut(&SHARED).unwrap().flags |= Link::MONITOR;
    assert!(!world.ingress(SHARED, &ip("198.51.100.1", "10.1.0.5", 17, &udp(1, 2))).is_drop());
}

#[test]
fn what_is_not_configured_is_refused_where_it_is_guarded() {
    let mut world = World::standard();
    let packet = ip("10.1.0.5", "10.2.0.5", 17, &udp(1, 2));
    assert_eq!(world.ingress(99, &packet).reason, Reason::Unconfigured);
    world.peers.remove(&1);
    assert_eq!(world.ingress(DEDICATED, &packet).reason, Reason::Unconfigured);
    world.settings.flags &= !Settings::GUARD;
    assert_eq!(world.ingress(99, &packet).reason, Reason::Unguarded);
    assert_eq!(world.ingress(DEDICATED, &packet).reason, Reason::Unguarded);
}

#[test]
fn monitored_peers_lose_nothing_and_are_counted_apart() {
    let mut world = World::standard();
    world.peers.get_mut(&1).unwrap().flags |= Peer::MONITOR;
    let packet = ip("10.1.7.9", "10.2.0.5", 17, &udp(1, 2));
    let verdict = world.ingress(DEDICATED, &packet);
    assert!(!verdict.is_drop() && verdict.monitored && verdict.reason == Reason::OtherPeer);
    assert_eq!(world.counters[&(1, slot(Reason::OtherPeer, true))].packets, 1);
    assert!(!world.counters.contains_key(&(1, slot(Reason::OtherPeer, false))));
    let sample = world.samples[0];
    assert_eq!((sample.monitored, sample.peer, sample.src_port, sample.dst_port), (1, 1, 1, 2));
    assert_eq!(sample.length as usize, packet.len());
    assert!(world.last_seen.contains_key(&1));
}

/// Peer 2 may open TCP 80 to 443; peer 1 nothing.
fn hub() -> World {
    let mut world = World::standard();
    world.policies.insert(7, Policy { stateful: 1, ..Policy::default() });
    world.peers.get_mut(&1).unwrap().policy = 7;
    world
}

#[test]
fn rules_decide_in_order_then_the_default() {
    let mut world = hub();
    let mut ask = |packet: Vec<u8>| {
        let verdict = world.ingress(SHARED, &packet);
        (verdict.reason, verdict.rule)
    };
    let to = |port| ip("10.2.0.5", "10.1.0.5", 6, &tcp(40000, port, SYN));
    assert_eq!(ask(to(79)), (Reason::Default, 0));
    assert_eq!(ask(to(80)), (Reason::Accept, 1));
    assert_eq!(ask(to(443)), (Reason::Accept, 1));
    assert_eq!(ask(to(444)), (Reason::Default, 0));
    assert_eq!(ask(to(8080)), (Reason::Rule, 2));
    assert_eq!(ask(ip("10.2.0.5", "10.2.0.5", 17, &udp(1, 9))), (Reason::Accept, 3));
    assert_eq!(ask(ip("10.2.0.5", "10.2.0.6", 17, &udp(1, 9))), (Reason::Default, 0));
    assert_eq!(ask(ip("10.2.0.5", "10.1.0.5", 1, &icmp(8, 0, 1, b""))), (Reason::Accept, 5));
    assert_eq!(ask(ip("10.2.0.5", "10.1.0.5", 1, &icmp(13, 0, 1, b""))), (Reason::Default, 0));
}

#[test]
fn a_rule_beyond_the_table_ends_the_search() {
    let mut world = hub();
    world.policies.insert(1, Policy { first: 5, count: 9, accept: 0, stateful: 0 });
    let packet = ip("10.2.0.5", "10.1.0.5", 6, &tcp(1, 2, SYN));
    assert_eq!(world.ingress(SHARED, &packet).reason, Reason::Default);
    world.policies.remove(&1);
    assert_eq!(world.ingress(SHARED, &packet).reason, Reason::Default, "no policy drops");
}

#[test]
fn replies_pass_without_a_rule() {
    let mut world = hub();
    let request = ip("10.2.0.5", "10.1.0.5", 6, &tcp(40000, 80, SYN));
    let reply = ip("10.1.0.5", "10.2.0.5", 6, &tcp(80, 40000, SYN | ACK));
    assert_eq!(world.ingress(DEDICATED, &reply).reason, Reason::Default, "nobody asked");
    assert_eq!(world.ingress(SHARED, &request).reason, Reason::Accept);
    assert_eq!(world.ingress(DEDICATED, &reply).reason, Reason::Flow);
    assert_eq!(world.ingress(SHARED, &request).reason, Reason::Flow);
    let other = ip("10.1.0.5", "10.2.0.5", 6, &tcp(80, 40001, SYN | ACK));
    assert_eq!(world.ingress(DEDICATED, &other).reason, Reason::Default);
    world.now += 7000 * SECOND;
    assert_eq!(world.ingress(DEDICATED, &reply).reason, Reason::Flow, "established");
    world.now += 8000 * SECOND;
    assert_eq!(world.ingress(DEDICATED, &reply).reason, Reason::Default, "expired");
    assert_eq!(world.events[Event::FlowExpired as usize], 1);
    assert_eq!(world.events[Event::FlowOpened as usize], 1);
}

#[test]
fn flows_opened_from_this_side_pass() {
    for (link, wrap) in [(DEDICATED, false), (TUNNEL, true)] {
        let mut world = hub();
        world.peers.get_mut(&11).unwrap().policy = 7;
        let request = ip("10.2.0.5", "10.1.0.5", 17, &udp(5000, 53));
        let reply = ip("10.1.0.5", "10.2.0.5", 17, &udp(53, 5000));
        let (out, back) = if wrap {
            (
                ip("10.9.0.1", "10.9.0.2", 4, &request),
                ip("10.9.0.2", "10.9.0.1", 47, &gre(0x80, &reply)),
            )
        } else {
            (request, reply)
        };
        assert_eq!(world.ingress(link, &back).reason, Reason::Default);
        world.egress(link, &out);
        assert_eq!(world.ingress(link, &back).reason, Reason::Flow);
        world.now += 170 * SECOND;
        assert_eq!(world.ingress(link, &back).reason, Reason::Flow, "answered");
        world.now += 181 * SECOND;
        assert_eq!(world.ingress(link, &back).reason, Reason::Default);
        world.egress(link, &out);
        world.now += 31 * SECOND;
        assert_eq!(world.ingress(link, &back).reason, Reason::Default, "never answered");
        world.links.get_mut(&link).unwrap().flags &= !Link::LEARN;
        world.egress(link, &out);
        assert_eq!(world.ingress(link, &back).reason, Reason::Default, "not learning");
    }
}

#[test]
fn zones_keep_flows_apart() {
    let mut world = hub();
    world.egress(DEDICATED, &ip("10.2.0.5", "10.1.0.5", 17, &udp(5000, 53)));
    world.links.get_mut(&DEDICATED).unwrap().zone += 1;
    let reply = ip("10.1.0.5", "10.2.0.5", 17, &udp(53, 5000));
    assert_eq!(world.ingress(DEDICATED, &reply).reason, Reason::Default);
}

#[test]
fn closed_connections_are_forgotten_and_reopened_by_rule_only() {
    let mut world = hub();
    let out = |flags| ip("10.2.0.5", "10.1.0.5", 6, &tcp(40000, 80, flags));
    let back = |flags| ip("10.1.0.5", "10.2.0.5", 6, &tcp(80, 40000, flags));
    world.ingress(SHARED, &out(SYN));
    world.ingress(DEDICATED, &back(SYN | ACK));
    world.ingress(SHARED, &out(FIN | ACK));
    world.now += 60 * SECOND;
    assert_eq!(world.ingress(DEDICATED, &back(ACK)).reason, Reason::Flow, "half closed");
    world.ingress(DEDICATED, &back(FIN | ACK));
    assert_eq!(world.ingress(SHARED, &out(ACK)).reason, Reason::Flow, "the last word");
    assert_eq!(world.ingress(DEDICATED, &back(SYN)).reason, Reason::Default);
    assert_eq!(world.ingress(SHARED, &out(SYN)).reason, Reason::Accept);
    world.ingress(SHARED, &out(RST));
    world.now += 11 * SECOND;
    assert_eq!(world.ingress(DEDICATED, &back(ACK)).reason, Reason::Default);
}

#[test]
fn echo_replies_pass_and_requests_need_a_rule() {
    for (src, dst, protocol, request, reply) in
        [("10.1.0.5", "10.2.0.5", 1, 8, 0), ("2001:db8:1::5", "2001:db8:2::5", 58, 128, 129)]
    {
        let mut world = hub();
        let answer = ip(src, dst, protocol, &icmp(reply, 0, 5, b""));
        assert_eq!(world.ingress(DEDICATED, &answer).reason, Reason::Default);
        world.egress(DEDICATED, &ip(dst, src, protocol, &icmp(request, 0, 5, b"")));
        assert_eq!(world.ingress(DEDICATED, &answer).reason, Reason::Flow);
        let own = ip(src, dst, protocol, &icmp(request, 0, 5, b""));
        assert_eq!(world.ingress(DEDICATED, &own).reason, Reason::Default);
        let other = ip(src, dst, protocol, &icmp(reply, 0, 6, b""));
        assert_eq!(world.ingress(DEDICATED, &other).reason, Reason::Default);
    }
}

#[test]
fn errors_about_known_flows_pass() {
    let mut world = hub();
    let sent = ip("10.2.0.5", "10.1.0.5", 17, &udp(5000, 53));
    let error = |kind, quoted: &[u8]| ip("10.1.0.1", "10.2.0.5", 1, &icmp(kind, 1, 0, quoted));
    assert_eq!(world.ingress(DEDICATED, &error(3, &sent)).reason, Reason::Default);
    world.egress(DEDICATED, &sent);
    assert_eq!(world.ingress(DEDICATED, &error(3, &sent)).reason, Reason::Related);
    assert_eq!(world.ingress(DEDICATED, &error(11, &sent[..28])).reason, Reason::Related);
    assert_eq!(world.ingress(DEDICATED, &error(5, &sent)).reason, Reason::Default, "redirect");
    assert_eq!(world.ingress(DEDICATED, &error(3, &sent[..22])).reason, Reason::Default);
    let reversed = ip("10.1.0.5", "10.2.0.5", 17, &udp(53, 5000));
    assert_eq!(world.ingress(DEDICATED, &error(3, &reversed)).reason, Reason::Default);
    let sent = ip("2001:db8:2::5", "2001:db8:1::5", 6, &tcp(5000, 443, SYN));
    world.egress(DEDICATED, &sent);
    let too_big = ip("2001:db8:1::1", "2001:db8:2::5", 58, &icmp(2, 0, 0, &sent[..48]));
    assert_eq!(world.ingress(DEDICATED, &too_big).reason, Reason::Related);
}

#[test]
fn later_fragments_follow_the_first() {
    let mut world = hub();
    let piece = |id, fragment| ipv4("10.2.0.5", "10.1.0.5", 6, id, fragment, &[], &tcp(1, 80, SYN));
    assert_eq!(world.ingress(SHARED, &piece(1, 0x2003)).reason, Reason::Fragment, "overtaken");
    assert_eq!(world.ingress(SHARED, &piece(1, 0x2000)).reason, Reason::Accept);
    assert_eq!(world.ingress(SHARED, &piece(1, 0x2003)).reason, Reason::Flow);
    assert_eq!(world.ingress(SHARED, &piece(1, 6)).reason, Reason::Flow);
    assert_eq!(world.ingress(SHARED, &piece(2, 6)).reason, Reason::Fragment);
    assert_eq!(world.ingress(SHARED, &piece(1, 1)).reason, Reason::Malformed, "TCP flags");
    world.now += 31 * SECOND;
    assert_eq!(world.ingress(SHARED, &piece(1, 6)).reason, Reason::Fragment);
    let piece = |offset, more| {
        let body = tcp(1, 80, SYN);
        ipv6("2001:db8:2::5", "2001:db8:1::5", 44, &fragment6(6, offset, more, 4, &body))
    };
    assert_eq!(world.ingress(SHARED, &piece(24, false)).reason, Reason::Fragment);
    assert_eq!(world.ingress(SHARED, &piece(0, true)).reason, Reason::Accept);
    assert_eq!(world.ingress(SHARED, &piece(24, false)).reason, Reason::Flow);
    assert_eq!(from_fragment(), Reason::Source, "without a policy sources alone count");
}

fn from_fragment() -> Reason {
    let mut world = World::standard();
    let piece = ipv4("10.1.0.5", "10.2.0.5", 17, 3, 9, &[], b"rest");
    world.ingress(DEDICATED, &piece).reason
}

#[test]
fn malformed_packets_are_dropped() {
    let mut world = World::standard();
    let good = ip("10.1.0.5", "10.2.0.5", 6, &tcp(1, 2, SYN));
    let good6 = ip("2001:db8:1::5", "2001:db8:2::5", 60, &extension(17, 2, &udp(1, 2)));
    for good in [good, good6] {
        assert_eq!(world.ingress(DEDICATED, &good).reason, Reason::Source);
        for length in 0..good.len() {
            let verdict = world.ingress(DEDICATED, &good[..length]);
            assert_eq!(verdict.reason, Reason::Malformed, "{length}");
            assert!(verdict.is_drop());
        }
    }
    let mut ask = |packet: &[u8]| world.ingress(DEDICATED, packet).reason;
    assert_eq!(ask(&[0x50; 40]), Reason::NotIp);
    let mut short = ip("10.1.0.5", "10.2.0.5", 17, &udp(1, 2));
    short[0] = 0x44;
    assert_eq!(ask(&short), Reason::Malformed, "header length");
    let many = |count| {
        let chain =
            (1..count).fold(extension(17, 1, &udp(1, 2)), |rest, _| extension(60, 1, &rest));
        ipv6("2001:db8:1::5", "2001:db8:2::5", 60, &chain)
    };
    assert_eq!(ask(&many(8)), Reason::Source);
    assert_eq!(ask(&many(9)), Reason::Malformed, "too many extension headers");
    let late = extension(0, 1, &extension(17, 1, &udp(1, 2)));
    assert_eq!(ask(&ipv6("2001:db8:1::5", "2001:db8:2::5", 60, &late)), Reason::Malformed);
    let mut routing = extension(17, 1, &udp(1, 2));
    assert_eq!(ask(&ipv6("2001:db8:1::5", "2001:db8:2::5", 43, &routing)), Reason::Source);
    routing[2] = 0;
    assert_eq!(ask(&ipv6("2001:db8:1::5", "2001:db8:2::5", 43, &routing)), Reason::Malformed);
}

#[test]
fn ethernet_headers_are_skipped() {
    let mut world = World::standard();
    world.links.get_mut(&DEDICATED).unwrap().flags |= Link::ETHERNET;
    let packet = ip("10.1.0.5", "10.2.0.5", 17, &udp(1, 2));
    assert_eq!(world.ingress(DEDICATED, &ethernet(&packet)).reason, Reason::Source);
    let mut arp = ethernet(&packet);
    arp[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(world.ingress(DEDICATED, &arp).reason, Reason::Arp);
    arp[12..14].copy_from_slice(&[0x81, 0]);
    assert_eq!(world.ingress(DEDICATED, &arp).reason, Reason::NotIp);
}

#[test]
fn coalesced_packets_beyond_the_length_field_pass() {
    let mut world = World::standard();
    let mut packet = ip("10.1.0.5", "10.2.0.5", 6, &tcp(1, 2, ACK));
    packet.resize(100_000, 0);
    packet[2..4].fill(0);
    assert_eq!(world.ingress(DEDICATED, &packet).reason, Reason::Source);
    packet.truncate(60_000);
    assert_eq!(world.ingress(DEDICATED, &packet).reason, Reason::Malformed);
}

#[test]
fn samples_stay_within_their_budget() {
    let mut world = World::standard();
    world.settings.samples_per_second = 3;
    for _ in 0..5 {
        world.ingress(DEDICATED, &ip("10.1.7.9", "10.2.0.5", 17, &udp(1, 2)));
    }
    assert_eq!(world.samples.len(), 3);
    assert_eq!(world.events[Event::SampleLimited as usize], 2);
}

#[test]
fn a_rule_of_each_kind_matches_what_it_says() {
    let headers = |packet: &[u8]| {
        let mut headers = ebpf_xdp::parse::Headers::default();
        ebpf_xdp::parse::ip(&packet, 0, ebpf_xdp::parse::Extent::Whole, &mut headers).unwrap();
        headers
    };
    let four = headers(&ip("10.1.0.5", "10.2.0.5", 17, &udp(1000, 53)));
    let six = headers(&ip("2001:db8:1::5", "2001:db8:2::5", 58, &icmp(3, 1, 0, b"")));
    assert!(Rule::ANY.matches(&four) && Rule::ANY.matches(&six));
    let rule = Rule { families: Rule::V4, ..Rule::ANY };
    assert!(rule.matches(&four) && !rule.matches(&six));
    let rule = Rule { families: Rule::V6, ..Rule::ANY };
    assert!(!rule.matches(&four) && rule.matches(&six));
    let ports = |src: (u16, u16), dst: (u16, u16)| Rule {
        src_port_min: src.0,
        src_port_max: src.1,
        dst_port_min: dst.0,
        dst_port_max: dst.1,
        ..Rule::ANY
    };
    for (src, dst, matches) in [
        ((1000, 1000), (53, 53), true),
        ((1000, 1001), (0, 53), true),
        ((0, 999), (53, 53), false),
        ((1001, 65535), (53, 53), false),
        ((0, 65535), (54, 65535), false),
        ((0, 65535), (0, 52), false),
    ] {
        assert_eq!(ports(src, dst).matches(&four), matches, "{src:?} {dst:?}");
    }
    assert!(ports((1, 1), (3, 3)).matches(&six), "code and type");
}
