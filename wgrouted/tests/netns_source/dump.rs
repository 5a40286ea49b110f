//! Questions: dumps, their filters, their ends, and lookups.

use std::net::IpAddr;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use support::{
    netns::{fresh, ip, sysctl},
    routes::RouteWriter,
};
use wgrouted::core::lookup::{kernel::Lookup, packet::Packet};

use super::*;

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn links_and_nexthops_are_listed() {
    if !fresh() {
        return;
    }
    let (v0, v1) = two_links();
    ip("link add br0 type bridge");
    ip("link set v1 master br0");
    ip("nexthop add id 1 via 10.0.0.2 dev v0");
    ip("nexthop add id 2 blackhole");
    ip("nexthop add id 3 via 10.0.0.3 dev v0");
    ip("nexthop add id 7 group 1,5/3");
    ip("nexthop add id 9 via fd00::9 fdb");
    let mut dumper = Dumper::open().unwrap();
    let links = dumper.links().unwrap();
    let find = |name: &str| links.iter().find(|link| link.name == name).unwrap();
    assert_eq!(find("v0").index, v0);
    assert_eq!(find("v1").index, v1);
    assert_eq!(find("v1").master, Some(find("br0").index));
    assert!(find("v0").up && !find("br0").up);
    let hop = |gateway: &str| NexthopKind::Hop { oif: v0, gateway: Some(gateway.parse().unwrap()) };
    let expected = [
        Nexthop { id: 1, kind: hop("10.0.0.2") },
        Nexthop { id: 2, kind: NexthopKind::Blackhole },
        Nexthop { id: 3, kind: hop("10.0.0.3") },
        Nexthop { id: 7, kind: NexthopKind::Group(vec![(1, 5), (3, 1)]) },
    ];
    assert_eq!(dumper.nexthops().unwrap(), expected);
    assert_eq!(dumper.decode_errors(), 0);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_scope_is_honoured() {
    if !fresh() {
        return;
    }
    let (v0, v1) = two_links();
    ip("route add 192.0.2.0/24 via 10.0.0.2 table 1000");
    ip("route add 198.51.100.0/24 table 1000 nexthop via 10.0.0.2 nexthop via 10.0.1.2");
    ip("route add 203.0.113.0/24 via 10.0.1.2 table 1000");
    ip("route add blackhole 10.9.0.0/16 table 1000");
    ip("route add 192.0.2.0/24 via 10.0.0.2");
    ip("nexthop add id 1 via 10.0.0.2 dev v0");
    sysctl("net/ipv4/nexthop_compat_mode", "0");
    ip("route add 10.23.0.0/16 nhid 1 table 1000");
    let scope = |table, oif| {
        let routes = all_routes(Scope { family: Family::V4, table, oif });
        let mut shown: Vec<_> = routes.iter().filter(|r| r.path.protocol != 2).map(show).collect();
        shown.sort();
        shown
    };
    let both = "198.51.100.0/24 via 10.0.0.2 via 10.0.1.2";
    let (by_v0, by_v1) = ("192.0.2.0/24 via 10.0.0.2", "203.0.113.0/24 via 10.0.1.2");
    let by_object = "10.23.0.0/16 nhid 1";
    assert_eq!(scope(Some(1000), None), [by_object, "10.9.0.0/16", by_v0, both, by_v1]);
    assert_eq!(scope(Some(1000), Some(v0)), [by_object, by_v0, both]);
    assert_eq!(scope(Some(1000), Some(v1)), [both, by_v1]);
    assert_eq!(scope(None, Some(v0)), [by_object, by_v0, by_v0, both]);
    assert_eq!(scope(Some(1001), None), [""; 0], "a table that does not exist");
    assert_eq!(scope(Some(1000), Some(999)), [""; 0], "a link that does not exist");
    let v6 = all_routes(Scope { family: Family::V6, table: Some(1000), oif: None });
    assert_eq!(v6, []);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_dump_can_be_cancelled_and_the_next_one_is_complete() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    let mut writer = RouteWriter::open();
    for i in 0..5000u32 {
        let prefix = format!("{}/32", std::net::Ipv4Addr::from(0x2000_0000 | i));
        writer.write(RouteOp::Add, &route(&prefix, v0, "10.0.0.2"));
    }
    writer.flush();
    let scope = Scope { family: Family::V4, table: Some(TABLE_MAIN), oif: Some(v0) };
    let mut dumper = Dumper::open().unwrap();
    let mut chunks = 0;
    let flow = dumper.routes(scope, &mut |_| {
        chunks += 1;
        ControlFlow::Break(())
    });
    assert_eq!((flow.unwrap(), chunks), (ControlFlow::Break(()), 1));
    let mut count = 0;
    let flow = dumper.routes(scope, &mut |chunk| {
        assert!(chunk.len() <= 2000, "chunks are bounded: {}", chunk.len());
        count += chunk.iter().filter(|route| is_ours(route)).count();
        ControlFlow::Continue(())
    });
    assert_eq!((flow.unwrap(), count), (ControlFlow::Continue(()), 5000));
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_lookup_answers_as_the_kernel_would_route() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    ip("route add 192.0.2.0/24 via 10.0.0.2 metric 7 table 100");
    ip("rule add to 192.0.2.0/24 lookup 100");
    ip("route add 198.51.100.0/24 nexthop via 10.0.0.2 nexthop via 10.0.1.2");
    ip("route add blackhole 10.9.0.0/16");
    ip("route add unreachable 10.10.0.0/16");
    ip("route add prohibit 10.11.0.0/16");
    ip("route add throw 10.12.0.0/16");
    ip("-6 route add 2001:db8::/48 via fd00::2");
    ip("-6 route add blackhole 2001:db8:9::/48");
    ip("-6 route add unreachable 2001:db8:a::/48");
    ip("-6 route add prohibit 2001:db8:b::/48");
    let mut dumper = Dumper::open().unwrap();
    let mut ask = |addr: &str| dumper.route_get(&Packet::to(addr.parse().unwrap())).unwrap();
    let Lookup::Route { route, hop, .. } = ask("192.0.2.77") else { panic!("no route") };
    assert_eq!((show(&route).as_str(), route.path.table), ("192.0.2.0/24 via 10.0.0.2", 100));
    assert_eq!(route.path.metric, 7);
    let hop = hop.unwrap();
    assert_eq!((hop.oif, hop.gateway), (v0, Some("10.0.0.2".parse().unwrap())));

    let Lookup::Route { route, hop, .. } = ask("198.51.100.9") else { panic!("no route") };
    let hop = hop.unwrap();
    assert_eq!(route.path.hops.len(), 2);
    assert!(route.path.hops.iter().any(|h| (h.oif, h.gateway) == (hop.oif, hop.gateway)));

    assert_eq!(ask("10.9.0.1"), Lookup::Rejected(RouteKind::Blackhole));
    assert_eq!(ask("10.10.0.1"), Lookup::Rejected(RouteKind::Unreachable));
    assert_eq!(ask("10.11.0.1"), Lookup::Rejected(RouteKind::Prohibit));
    assert_eq!(ask("10.12.0.1"), Lookup::NoRoute);
    assert_eq!(ask("203.0.113.1"), Lookup::NoRoute);

    let Lookup::Route { route, hop, .. } = ask("2001:db8::1") else { panic!("no route") };
    assert_eq!(show(&route), "2001:db8::/48 via fd00::2");
    assert_eq!(hop.unwrap().gateway, Some("fd00::2".parse::<IpAddr>().unwrap()));
    assert_eq!(ask("2001:db8:9::1"), Lookup::Rejected(RouteKind::Blackhole));
    assert_eq!(ask("2001:db8:a::1"), Lookup::Rejected(RouteKind::Unreachable));
    assert_eq!(ask("2001:db8:b::1"), Lookup::Rejected(RouteKind::Prohibit));
    assert_eq!(ask("2001:db9::1"), Lookup::NoRoute);
}

/// Root may send to the multicast groups; only the kernel is believed.
#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn forged_notifications_are_ignored() {
    if !fresh() {
        return;
    }
    let mut watch = Watch::open(1 << 20);
    let captured = include_str!("../../src/source/rtnetlink/decode/captured.txt");
    let line = captured.lines().find_map(|line| line.strip_prefix("< ")).unwrap();
    let digits = |i| u8::from_str_radix(&line[i..i + 2], 16).unwrap();
    let bytes: Vec<u8> = (0..line.len()).step_by(2).map(digits).collect();
    let mut socket = Socket::new(NETLINK_ROUTE).unwrap();
    socket.bind_auto().unwrap();
    let group = 1 << (libc::RTNLGRP_IPV4_ROUTE - 1);
    socket.send_to(&bytes, &SocketAddr::new(0, group), 0).unwrap();
    let before = watch.monitor.counters().messages;
    assert_eq!(watch.news(), []);
    let marker = watch.monitor.counters().messages - before;
    assert_eq!(marker, 2, "the marker's two messages and no other");
}
