//! The interface itself changes, and with it, often unannounced, its routes.
//!
//! Here live the ways in which the kernel drops routes without a word (facts: implicit deletes),
//! and where an interface can be: in a VRF, in another namespace, beside others.

use anyhow::Result;

use super::{
    Scenario,
    support::{Hub, NET4, NET6, V4, V6, expect_allowed_ips, flows, flows_nowhere, star},
};
use crate::lab::{Lab, Ping, Star, assert_flow, assert_no_flow};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "interface-down-up",
        "an interface goes down, which kills IPv4 routes silently, and comes up again",
        down_up,
    ),
    Scenario::new(
        "interface-recreated",
        "an interface is deleted and made again with the same peers",
        recreated,
    ),
    Scenario::new(
        "interface-appears-late",
        "an interface that is missing at the start is waited for",
        appears_late,
    ),
    Scenario::new(
        "address-removed",
        "the last IPv4 address goes, and the IPv4 routes with it, silently",
        address_removed,
    ),
    Scenario::new(
        "nexthop-deleted",
        "a deleted nexthop object takes its IPv4 routes along silently",
        nexthop_deleted,
    ),
    Scenario::new(
        "vrf",
        "an interface in a VRF follows the VRF's table, and main when it leaves",
        vrf,
    ),
    Scenario::new(
        "several-interfaces",
        "one daemon keeps two interfaces; a route that changes interface changes both",
        several_interfaces,
    ),
    Scenario::new("netns", "`--netns` follows an interface in another network namespace", netns),
];

fn down_up(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    let beside = &hub.spoke(2)?.link;
    let beside = format!("nexthop via {} dev {}", beside.b.address, beside.a.device);
    let multipath = "203.0.113.0/24";
    let routes = || {
        hub.ip_batch(&format!(
            "route replace {NET4} via 10.99.0.1\n\
             route replace {NET6} via fd99::1\n\
             route replace {multipath} nexthop via 10.99.0.2 dev wg0 {beside}\n"
        ))
    };
    routes()?;
    let all = [(NET4, "s1"), (NET6, "s1"), (multipath, "s2")];
    hub.expect(&all)?;
    hub.flows(V4, 1)?;

    for skip in ["0", "1"] {
        // With 1 the kernel drops IPv6 routes as silently as IPv4 ones.
        lab.say(format_args!("down, with skip_notify_on_dev_down={skip}"));
        hub.star.hub.sysctl("ipv6/route/skip_notify_on_dev_down", skip)?;
        hub.star.wg.down()?;
        hub.expect(&[])?;
        hub.flows_nowhere(V4)?;

        lab.say("up: only the dead leg of the multipath route revives by itself");
        hub.star.wg.up()?;
        hub.expect(&[(multipath, "s2")])?;
        hub.flows_nowhere(V4)?;
        // IPv6 addresses do not outlive an interface's fall.
        hub.ip("address replace fd99::fe/64 dev wg0 nodad")?;
        routes()?;
        hub.expect(&all)?;
        hub.flows(V4, 1)?;
        hub.flows(V6, 1)?;
    }
    Ok(())
}

fn recreated(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    let routes = format!("route add {NET4} via 10.99.0.1\nroute add {NET6} via fd99::1\n");
    hub.ip_batch(&routes)?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)?;

    lab.say("deleted");
    hub.star.wg.delete()?;
    hub.daemon.wait_state("waiting")?;
    hub.flows_nowhere(V4)?;

    lab.say("made again; now the other peer is where the routes lead");
    hub.star.wg.create()?;
    hub.star
        .wg
        .add_peers(&hub.star.spokes.iter().map(|spoke| spoke.as_peer()).collect::<Vec<_>>())?;
    hub.star.inner.assign(&hub.star.wg)?;
    hub.expect(&[])?;
    hub.ip_batch(&format!("route add {NET4} via 10.99.0.2\nroute add {NET6} via fd99::2\n"))?;
    hub.expect(&[(NET4, "s2"), (NET6, "s2")])?;
    hub.flows(V4, 2)?;
    hub.flows(V6, 2)
}

fn appears_late(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 1)?;
    star.wg.delete()?;
    let mut daemon = lab.wgrouted(&star.hub, &["wg0"])?;
    daemon.start()?;
    daemon.wait_state("waiting")?;
    daemon.wait_log("the interface does not exist; waiting for it")?;
    star.wg.create()?;
    star.wg.add_peers(&[star.spoke(1)?.as_peer()])?;
    star.inner.assign(&star.wg)?;
    star.hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    expect_allowed_ips(&star, &[(NET4, "s1")])?;
    flows(&star, V4, 1)
}

fn address_removed(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    hub.ip_batch(&format!(
        "route add {NET4} via 10.99.0.1\n\
         route add {NET6} via fd99::1\n\
         route add 203.0.113.0/24 via inet6 fe80::2 dev wg0\n"
    ))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1"), ("203.0.113.0/24", "s2")])?;
    hub.ip("address del 10.99.0.254/16 dev wg0")?;
    hub.expect(&[(NET6, "s1")])?;
    hub.flows_nowhere(V4)?;
    hub.flows(V6, 1)?;
    hub.ip("address add 10.99.0.254/16 dev wg0")?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)
}

fn nexthop_deleted(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    for compat in ["1", "0"] {
        lab.say(format_args!("nexthop_compat_mode={compat}"));
        hub.star.hub.sysctl("ipv4/nexthop_compat_mode", compat)?;
        hub.ip_batch(&format!(
            "nexthop add id 4 via 10.99.0.1 dev wg0\n\
             nexthop add id 5 via 10.99.0.2 dev wg0\n\
             nexthop add id 6 via fd99::1 dev wg0\n\
             nexthop add id 45 group 4,9/5,1\n\
             route add {NET4} nhid 4\n\
             route add {NET6} nhid 6\n\
             route add 203.0.113.0/24 nhid 45\n"
        ))?;
        hub.expect(&[(NET4, "s1"), (NET6, "s1"), ("203.0.113.0/24", "s1")])?;
        hub.flows(V4, 1)?;
        hub.ip("nexthop del id 4")?;
        hub.expect(&[(NET6, "s1"), ("203.0.113.0/24", "s2")])?;
        hub.flows_nowhere(V4)?;
        hub.ip("nexthop del id 6")?;
        hub.ip("nexthop del id 45")?;
        hub.expect(&[])?;
        hub.flows_nowhere(V6)?;
        hub.ip("nexthop del id 5")?;
    }
    Ok(())
}

fn vrf(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    let ping = |to: &str| -> Result<Ping> {
        Ok(Ping { device: Some("blue"), ..Ping::from(to.parse::<std::net::IpAddr>()?) })
    };
    // Enslaving takes an interface down and up: without this its IPv6 addresses are gone then.
    hub.star.hub.sysctl("ipv6/conf/all/keep_addr_on_down", "1")?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.expect(&[(NET4, "s1")])?;

    lab.say("wg0 enters a VRF: its routes in main vanish silently");
    hub.ip("link add blue type vrf table 1000")?;
    hub.ip("link set blue up")?;
    hub.ip("link set wg0 master blue")?;
    hub.expect(&[])?;
    hub.ip(&format!("route add {NET4} via 10.99.0.2 table 1000"))?;
    hub.ip(&format!("route add {NET6} via fd99::2 table 1000"))?;
    hub.expect(&[(NET4, "s2"), (NET6, "s2")])?;
    assert_flow(&hub.star.hub, ping(V4)?, &hub.spoke(2)?.node)?;
    assert_flow(&hub.star.hub, ping(V6)?, &hub.spoke(2)?.node)?;

    lab.say("a daemon that starts now follows the VRF's table at once");
    let Hub { star, mut daemon } = hub;
    daemon.terminate()?;
    star.hub.ip(&format!("route replace {NET4} via 10.99.0.1 table 1000"))?;
    daemon.start()?;
    expect_allowed_ips(&star, &[(NET4, "s1"), (NET6, "s2")])?;
    assert_flow(&star.hub, ping(V4)?, &star.spoke(1)?.node)?;

    lab.say("wg0 leaves the VRF");
    star.hub.ip("link set wg0 nomaster")?;
    expect_allowed_ips(&star, &[])?;
    assert_no_flow(&star.hub, ping(V4)?, star.spokes.iter().map(|spoke| &spoke.node))?;
    star.hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    expect_allowed_ips(&star, &[(NET4, "s1")])?;
    flows(&star, V4, 1)
}

fn several_interfaces(lab: &mut Lab) -> Result<()> {
    let first = star(lab, 1)?;
    let second = Star::on(lab, &first.hub, 1, 2..=3)?;
    second.serve(&[V4.parse()?, V6.parse()?])?;
    let mut daemon = lab.wgrouted(&first.hub, &["wg0", "wg1"])?;
    daemon.start()?;
    let hub = &first.hub;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.ip(&format!("route add {NET6} via fd99:1::2"))?;
    expect_allowed_ips(&first, &[(NET4, "s1")])?;
    expect_allowed_ips(&second, &[(NET6, "s2")])?;
    flows(&first, V4, 1)?;
    flows(&second, V6, 1)?;

    lab.say("both routes change interface");
    hub.ip(&format!("route replace {NET4} via 10.100.0.3"))?;
    hub.ip(&format!("route replace {NET6} via fd99::1"))?;
    expect_allowed_ips(&first, &[(NET6, "s1")])?;
    expect_allowed_ips(&second, &[(NET4, "s3")])?;
    flows(&second, V4, 2)?;
    flows(&first, V6, 1)?;

    lab.say("a better route by the other interface takes the prefix away from the first");
    hub.ip(&format!("route add {NET4} via 10.99.0.1 metric 5"))?;
    hub.ip(&format!("route del {NET4} metric 0"))?;
    expect_allowed_ips(&first, &[(NET4, "s1"), (NET6, "s1")])?;
    expect_allowed_ips(&second, &[])?;
    flows(&first, V4, 1)?;

    lab.say("one of them goes, the other works on");
    second.wg.delete()?;
    hub.ip(&format!("route replace {NET6} via fd99::1 metric 7"))?;
    expect_allowed_ips(&first, &[(NET4, "s1"), (NET6, "s1")])?;
    flows(&first, V6, 1)
}

fn netns(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 1)?;
    let office = lab.node("office")?;
    let mut daemon = lab.wgrouted(&office, &["wg0"])?.arg("--netns").arg(star.hub.name());
    daemon.start()?;
    expect_allowed_ips(&star, &[])?;
    star.hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    expect_allowed_ips(&star, &[(NET4, "s1")])?;
    flows(&star, V4, 1)?;
    star.hub.ip(&format!("route del {NET4}"))?;
    expect_allowed_ips(&star, &[])?;
    flows_nowhere(&star, V4)
}
