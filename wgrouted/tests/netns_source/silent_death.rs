//! How routes vanish, one test for each cause: what the kernel announces (often nothing), which
//! other event gives it away, and what a dump of the link then shows.

use super::*;
use support::netns::{fresh, ip, sysctl};

const NONE: [&str; 0] = [];

/// One route by a single hop and one by two links, in both families.
fn four_routes() {
    ip("route add 192.0.2.0/24 via 10.0.0.2");
    ip("route add 198.51.100.0/24 nexthop via 10.0.0.2 nexthop via 10.0.1.2");
    ip("-6 route add 2001:db8::/48 via fd00::2");
    ip("-6 route add 2001:db8:1::/48 nexthop via fd00::2 nexthop via fd01::2");
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn link_down_is_silent_in_ipv4_and_kills_hops_silently_in_both() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    four_routes();
    let mut watch = Watch::open(1 << 20);
    ip("link set v0 down");
    let news = watch.news();
    let routes: Vec<_> = news.iter().filter_map(route_news).collect();
    assert_eq!(routes, ["Delete 2001:db8::/48 via fd00::2"]);
    assert!(news.iter().any(|event| matches!(
        event, NetEvent::Link(link) if link.index == v0 && link.name == "v0" && !link.up
    )));
    let dead_v4 = "198.51.100.0/24 via 10.0.0.2 dead via 10.0.1.2";
    let dead_v6 = "2001:db8:1::/48 via fd00::2 dead via fd01::2";
    assert_eq!(dump(Family::V4, v0), [dead_v4]);
    assert_eq!(dump(Family::V6, v0), [dead_v6]);

    // Dead hops revive, vanished routes do not return, and nothing says so.
    ip("link set v0 up");
    let alive = |dead: &str| [dead.replace(" dead", "")];
    eventually("v4 revives", || dump(Family::V4, v0) == alive(dead_v4));
    eventually("v6 revives", || dump(Family::V6, v0) == alive(dead_v6));
    assert_eq!(watch.route_news(), NONE);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn link_down_can_be_made_silent_in_ipv6() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    four_routes();
    sysctl("net/ipv6/route/skip_notify_on_dev_down", "1");
    let mut watch = Watch::open(1 << 20);
    ip("link set v0 down");
    assert_eq!(watch.route_news(), NONE);
    assert_eq!(dump(Family::V6, v0), ["2001:db8:1::/48 via fd00::2 dead via fd01::2"]);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn deleting_a_link_takes_whole_multipath_routes_silently_in_ipv4() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    ip("link add w0 type veth peer name w1");
    ip("link set w0 up");
    ip("addr add 10.0.3.1/24 dev w0");
    ip("-6 addr add fd03::1/64 dev w0 nodad");
    ip("route add 192.0.2.0/24 via 10.0.3.2 dev w0 onlink");
    ip("route add 198.51.100.0/24 nexthop via 10.0.0.2 nexthop via 10.0.3.2 dev w0 onlink");
    ip("-6 route add 2001:db8:1::/48 nexthop via fd00::2 dev v0 nexthop via fd03::2 dev w0");
    let w0 = netns::index("w0");
    let mut watch = Watch::open(1 << 20);
    ip("link del w0");
    let news = watch.news();
    let routes: Vec<_> = news.iter().filter_map(route_news).collect();
    assert_eq!(routes, ["Delete 2001:db8:1::/48 via fd03::2 dead"]);
    assert!(news.contains(&NetEvent::LinkGone { index: w0 }));
    // The other hop went with it.
    assert_eq!(dump(Family::V4, v0), NONE);
    assert_eq!(dump(Family::V6, v0), ["2001:db8:1::/48 via fd00::2"]);
    assert_eq!(dump(Family::V4, w0), NONE, "an unknown link has no routes");
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn the_last_address_takes_the_links_ipv4_routes_silently() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    four_routes();
    ip("addr add 10.0.9.1/24 dev v0");
    let mut watch = Watch::open(1 << 20);
    ip("addr del 10.0.9.1/24 dev v0");
    let gone = NetEvent::AddressGone { index: v0, family: Family::V4 };
    assert!(watch.news().contains(&gone));
    assert_eq!(dump(Family::V4, v0).len(), 2, "another address is left");

    ip("addr del 10.0.0.1/24 dev v0");
    let news = watch.news();
    assert_eq!(news.iter().filter_map(route_news).collect::<Vec<_>>(), NONE);
    assert!(news.contains(&gone));
    assert_eq!(dump(Family::V4, v0), ["198.51.100.0/24 via 10.0.0.2 dead via 10.0.1.2"]);
    assert_eq!(dump(Family::V6, v0).len(), 2);

    ip("addr add 10.0.0.1/24 dev v0");
    let added = NetEvent::AddressAdded { index: v0, family: Family::V4 };
    assert!(watch.news().contains(&added), "the dead hop comes back to life as silently");
    assert_eq!(dump(Family::V4, v0), ["198.51.100.0/24 via 10.0.0.2 via 10.0.1.2"]);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn an_address_used_as_source_takes_its_routes_and_says_so() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    ip("addr add 10.0.9.1/24 dev v0");
    ip("route add 192.0.2.0/24 via 10.0.0.2 src 10.0.9.1");
    let mut watch = Watch::open(1 << 20);
    ip("addr del 10.0.9.1/24 dev v0");
    assert_eq!(watch.route_news(), ["Delete 192.0.2.0/24 via 10.0.0.2"]);
    assert_eq!(dump(Family::V4, v0), NONE);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn carrier_loss_changes_no_route() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    four_routes();
    let before = (dump(Family::V4, v0), dump(Family::V6, v0));
    let mut watch = Watch::open(1 << 20);
    ip("-6 route flush dev v1");
    ip("link set v1 down");
    // The link's change of state is announced later, by a work queue.
    let about_v0 = |event: &NetEvent| matches!(event, NetEvent::Link(l) if l.index == v0);
    let events = watch.until(about_v0);
    let of_v0 = |text: &String| text.contains("fd00::") || text.contains("10.0.0.");
    let news = watch.news();
    let routes: Vec<_> = events.iter().chain(&news).filter_map(route_news).filter(of_v0).collect();
    assert_eq!(routes, NONE);
    assert_eq!(dump(Family::V4, v0)[0], before.0[0]);
    assert_eq!(dump(Family::V6, v0)[0], before.1[0]);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn entering_a_vrf_flushes_ipv4_silently() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    if let Err(error) = netns::try_ip("link add red type vrf table 1007") {
        println!("SKIPPED: this kernel has no VRF: {error}");
        return;
    }
    four_routes();
    let red = netns::index("red");
    let mut watch = Watch::open(1 << 20);
    ip("link set v0 master red");
    let news = watch.news();
    let routes: Vec<_> = news.iter().filter_map(route_news).collect();
    assert!(!routes.iter().any(|text| text.contains("192.0.2.0/24")), "{routes:?}");
    assert!(
        news.iter().any(
            |event| matches!(event, NetEvent::Link(l) if l.index == v0 && l.master == Some(red))
        )
    );
    let left = dump(Family::V4, v0);
    assert!(!left.iter().any(|text| text.contains("192.0.2.0/24")), "{left:?}");
    let links = Dumper::open().unwrap().links().unwrap();
    let red = links.iter().find(|link| link.name == "red").unwrap();
    assert_eq!(red.kind, LinkKind::Vrf { table: 1007 });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn deleting_a_nexthop_object_takes_its_routes_silently_in_ipv4() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    ip("nexthop add id 1 via 10.0.0.2 dev v0");
    ip("nexthop add id 2 via 10.0.0.3 dev v0");
    ip("nexthop add id 3 group 2");
    ip("nexthop add id 4 via fd00::2 dev v0");
    ip("route add 192.0.2.0/24 nhid 1");
    ip("route add 198.51.100.0/24 nhid 3");
    ip("-6 route add 2001:db8::/48 nhid 4");
    let mut watch = Watch::open(1 << 20);
    ip("nexthop del id 1");
    assert_eq!(watch.news(), [NetEvent::NexthopGone { id: 1 }]);
    // The group's last member: the group goes with it.
    ip("nexthop del id 2");
    let news = watch.news();
    assert!(news.contains(&NetEvent::NexthopGone { id: 2 }), "{news:?}");
    assert!(news.contains(&NetEvent::NexthopGone { id: 3 }), "{news:?}");
    assert_eq!(news.iter().filter_map(route_news).collect::<Vec<_>>(), NONE);
    ip("nexthop del id 4");
    assert_eq!(watch.route_news(), ["Delete 2001:db8::/48 via fd00::2 nhid 4"]);
    assert_eq!(dump(Family::V4, v0), NONE);
    assert_eq!(dump(Family::V6, v0), NONE);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_member_that_leaves_a_group_changes_its_routes_silently() {
    if !fresh() {
        return;
    }
    let (v0, v1) = two_links();
    ip("nexthop add id 1 via 10.0.0.2 dev v0");
    ip("nexthop add id 2 via 10.0.1.2 dev v1");
    ip("nexthop add id 3 group 1,5/2");
    ip("route add 192.0.2.0/24 nhid 3");
    let mut watch = Watch::open(1 << 20);
    ip("nexthop del id 1");
    let left = Nexthop { id: 3, kind: NexthopKind::Group(vec![(2, 1)]) };
    let expected = [NetEvent::NexthopGone { id: 1 }, NetEvent::Nexthop(left)];
    assert_eq!(watch.news(), expected);
    assert_eq!(dump(Family::V4, v0), NONE);
    assert_eq!(dump(Family::V4, v1), ["192.0.2.0/24 via 10.0.1.2 nhid 3"]);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_link_that_goes_down_takes_its_nexthop_objects_silently() {
    if !fresh() {
        return;
    }
    let (_, v1) = two_links();
    ip("link add w0 type veth peer name w1");
    ip("link set w1 up");
    ip("link set w0 up");
    ip("addr add 10.0.3.1/24 dev w0");
    eventually("carrier", || ip("-o link show w0").contains("state UP"));
    ip("nexthop add id 1 via 10.0.3.2 dev w0");
    ip("nexthop add id 2 via 10.0.1.2 dev v1");
    ip("nexthop add id 3 group 1/2");
    ip("route add 192.0.2.0/24 nhid 1");
    ip("route add 198.51.100.0/24 nhid 3");
    let mut watch = Watch::open(1 << 20);
    ip("link set w0 down");
    let about_objects =
        |event: &&NetEvent| matches!(event, NetEvent::Nexthop(_) | NetEvent::NexthopGone { .. });
    let news = watch.news();
    assert_eq!(news.iter().filter(about_objects).count(), 0, "{news:?}");
    assert_eq!(news.iter().filter_map(route_news).collect::<Vec<_>>(), NONE);
    let left = Dumper::open().unwrap().nexthops().unwrap();
    let group = Nexthop { id: 3, kind: NexthopKind::Group(vec![(2, 1)]) };
    assert_eq!((left.len(), &left[1]), (2, &group), "gone, and out of its group");
    assert_eq!(dump(Family::V4, v1), ["198.51.100.0/24 via 10.0.1.2 nhid 3"]);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_changed_object_announces_its_route_as_replaced_wherever_it_stands() {
    if !fresh() {
        return;
    }
    let (v0, v1) = two_links();
    ip("nexthop add id 1 via 10.0.0.2 dev v0");
    ip("route add 192.0.2.0/24 via 10.0.1.2");
    ip("route append 192.0.2.0/24 nhid 1");
    let mut watch = Watch::open(1 << 20);
    ip("nexthop replace id 1 via 10.0.0.3 dev v0");
    assert_eq!(watch.route_news(), ["Replace 192.0.2.0/24 via 10.0.0.3 nhid 1"]);
    assert_eq!(dump(Family::V4, v1), ["192.0.2.0/24 via 10.0.1.2"], "the first was not replaced");
    assert_eq!(dump(Family::V4, v0), ["192.0.2.0/24 via 10.0.0.3 nhid 1"]);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn an_ipv6_route_that_is_prepended_joins_and_is_announced_first() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    ip("-6 route add 2001:db8::/48 via fd00::2 proto 12");
    let mut watch = Watch::open(1 << 20);
    ip("-6 route prepend 2001:db8::/48 via fd01::2 proto 42");
    ip("-6 route append 2001:db8::/48 dev v1");
    ip("-6 route prepend 2001:db8::/48 dev v0");
    let news = watch.route_news();
    let whole = "Add 2001:db8::/48 via fd01::2 via fd00::2";
    assert_eq!(news, [whole, "Append 2001:db8::/48 direct", "Add 2001:db8::/48 direct"]);
    let joined = "2001:db8::/48 via fd00::2 via fd01::2";
    assert_eq!(dump(Family::V6, v0), [joined, "2001:db8::/48 direct"]);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn replacing_a_nexthop_object_announces_its_routes_in_compat_mode_only() {
    if !fresh() {
        return;
    }
    let (v0, v1) = two_links();
    ip("nexthop add id 1 via 10.0.0.2 dev v0");
    ip("route add 192.0.2.0/24 nhid 1");
    let object = |oif, gateway: &str| {
        let kind = NexthopKind::Hop { oif, gateway: Some(gateway.parse().unwrap()) };
        NetEvent::Nexthop(Nexthop { id: 1, kind })
    };
    let mut watch = Watch::open(1 << 20);
    ip("nexthop replace id 1 via 10.0.0.3 dev v0");
    let news = watch.news();
    assert!(news.contains(&object(v0, "10.0.0.3")));
    let routes: Vec<_> = news.iter().filter_map(route_news).collect();
    assert_eq!(routes, ["Replace 192.0.2.0/24 via 10.0.0.3 nhid 1"]);

    sysctl("net/ipv4/nexthop_compat_mode", "0");
    ip("nexthop replace id 1 via 10.0.1.2 dev v1");
    assert_eq!(watch.news(), [object(v1, "10.0.1.2")]);
    // The message has no hops, but the kernel's filter knows them.
    assert_eq!(dump(Family::V4, v0), NONE);
    assert_eq!(dump(Family::V4, v1), ["192.0.2.0/24 nhid 1"]);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_flush_announces_each_route() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    four_routes();
    let mut watch = Watch::open(1 << 20);
    ip("route flush proto boot");
    ip("-6 route flush proto boot");
    let mut news = watch.route_news();
    news.sort();
    let expected = [
        "Delete 192.0.2.0/24 via 10.0.0.2",
        "Delete 198.51.100.0/24 via 10.0.0.2 via 10.0.1.2",
        // In IPv6 a multipath route goes hop by hop.
        "Delete 2001:db8:1::/48 via fd00::2",
        "Delete 2001:db8:1::/48 via fd01::2",
        "Delete 2001:db8::/48 via fd00::2",
    ];
    assert_eq!(news, expected);
    assert_eq!(dump(Family::V4, v0), NONE);
    assert_eq!(dump(Family::V6, v0), NONE);
}
