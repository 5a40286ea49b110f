//! Routes that come and go.
//!
//! Here live the scenarios on which peer a prefix belongs to: candidates that compete, prefixes
//! that contain each other, next hops of every form. What happens while owners change is
//! `moves`'s business.

use anyhow::Result;

use super::{
    Scenario,
    support::{Hub, NET4, NET6, V4, V6},
};
use crate::lab::Lab;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "static-route-follows",
        "a route via a peer's tunnel address enters its AllowedIPs, and leaves with the route",
        static_route,
    ),
    Scenario::new(
        "nested-prefixes",
        "withdrawing one of several equal, covering and covered prefixes leaves the others",
        nested,
    ),
    Scenario::new(
        "default-route",
        "a default route to one peer does not take the other peers' gateways away",
        default_route,
    ),
    Scenario::new(
        "two-metrics",
        "when the better of two routes goes, the worse takes over, unannounced by the kernel",
        two_metrics,
    ),
    Scenario::new(
        "two-protocols",
        "two daemons' routes for one prefix and metric: the kernel's first counts",
        two_protocols,
    ),
    Scenario::new(
        "multipath",
        "of several next hops the heaviest through the interface counts, other links do not",
        multipath,
    ),
    Scenario::new(
        "v4-via-v6",
        "IPv4 routes via an IPv6 link-local gateway, and gateways off the link with onlink",
        v4_via_v6,
    ),
    Scenario::new(
        "reject-routes",
        "blackhole, unreachable and prohibit routes mean that no peer gets the prefix",
        reject_routes,
    ),
];

/// A route to a peer's tunnel address, in both families.
fn static_route(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    hub.expect(&[])?;
    hub.flows_nowhere(V4)?;

    lab.say("route both prefixes to s1");
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.ip(&format!("route add {NET6} via fd99::1"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)?;
    hub.flows(V6, 1)?;

    lab.say("withdraw them");
    hub.ip(&format!("route del {NET4}"))?;
    hub.ip(&format!("route del {NET6}"))?;
    hub.expect(&[])?;
    hub.flows_nowhere(V4)?;
    hub.flows_nowhere(V6)
}

/// cunicu computed the AllowedIPs of a peer as a set of addresses and lost those that another
/// route still covered.
fn nested(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    let (wide, host) = ("198.51.0.0/16", "198.51.100.1/32");
    hub.ip_batch(&format!(
        "route add {wide} via 10.99.0.1\n\
         route add {NET4} via 10.99.0.1\n\
         route add {NET4} via 10.99.0.1 metric 20\n\
         route add {host} via 10.99.0.1\n"
    ))?;
    hub.expect(&[(wide, "s1"), (NET4, "s1"), (host, "s1")])?;

    lab.say("withdraw an equal prefix");
    hub.ip(&format!("route del {NET4} metric 20"))?;
    hub.flows(V4, 1)?;
    hub.expect(&[(wide, "s1"), (NET4, "s1"), (host, "s1")])?;

    lab.say("withdraw the covered prefix");
    hub.ip(&format!("route del {host}"))?;
    hub.expect(&[(wide, "s1"), (NET4, "s1")])?;
    hub.flows(V4, 1)?;

    lab.say("withdraw the covering prefix");
    hub.ip(&format!("route del {wide}"))?;
    hub.expect(&[(NET4, "s1")])?;
    hub.flows(V4, 1)?;
    hub.flows_nowhere("198.51.7.1")?;

    lab.say("a prefix that equals a pinned one comes and goes");
    hub.ip("route add 10.99.0.1/32 via 10.99.0.1 onlink dev wg0 metric 5")?;
    hub.ip("route add 203.0.113.0/24 via 10.99.0.2")?;
    hub.expect(&[(NET4, "s1"), ("203.0.113.0/24", "s2")])?;
    hub.ip("route del 10.99.0.1/32 via 10.99.0.1 metric 5")?;
    hub.ip("route del 203.0.113.0/24")?;
    hub.expect(&[(NET4, "s1")])?;
    hub.flows("10.99.0.1", 1)
}

/// RoutingTableToWg resolved gateways through the AllowedIPs that it had synced itself: behind a
/// default route every gateway was the same peer's.
fn default_route(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 3)?;
    hub.ip("route add default via 10.99.0.1")?;
    hub.ip("route add default via fd99::1")?;
    hub.expect(&[("0.0.0.0/0", "s1"), ("::/0", "s1")])?;
    hub.flows(V4, 1)?;
    hub.flows(V6, 1)?;

    lab.say("routes via the other peers, behind the default route");
    hub.ip(&format!("route add {NET4} via 10.99.0.2"))?;
    hub.ip(&format!("route add {NET6} via fd99::3"))?;
    hub.expect(&[("0.0.0.0/0", "s1"), ("::/0", "s1"), (NET4, "s2"), (NET6, "s3")])?;
    hub.flows(V4, 2)?;
    hub.flows(V6, 3)?;

    lab.say("a gateway that only the default route covers belongs to nobody");
    hub.ip("route add 203.0.113.0/24 via 10.99.0.77")?;
    hub.daemon.wait_listed("unresolved", "203.0.113.0/24")?;
    hub.expect(&[("0.0.0.0/0", "s1"), ("::/0", "s1"), (NET4, "s2"), (NET6, "s3")])
}

/// The kernel announces only the deletion; that the other route now counts is for the listener to
/// know.
fn two_metrics(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    hub.ip_batch(&format!(
        "route add {NET4} via 10.99.0.2 metric 200\n\
         route add {NET4} via 10.99.0.1 metric 100\n\
         route add {NET6} via fd99::2 metric 200\n\
         route add {NET6} via fd99::1 metric 100\n"
    ))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)?;
    hub.daemon.wait_listed("shadowed", NET4)?;

    lab.say("delete the better routes");
    hub.ip(&format!("route del {NET4} metric 100"))?;
    hub.ip(&format!("route del {NET6} metric 100"))?;
    hub.expect(&[(NET4, "s2"), (NET6, "s2")])?;
    hub.flows(V4, 2)?;
    hub.flows(V6, 2)?;

    lab.say("they return");
    hub.ip(&format!("route add {NET4} via 10.99.0.1 metric 100"))?;
    hub.ip(&format!("route add {NET6} via fd99::1 metric 100"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)?;
    hub.flows(V6, 1)?;

    lab.say("the worse ones go");
    hub.ip(&format!("route del {NET4} metric 200"))?;
    hub.ip(&format!("route del {NET6} metric 200"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])
}

/// In IPv4 the protocol is no part of a route's key: routes with one key form a list, and the
/// first counts (facts: `fib_table_insert`).
fn two_protocols(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 3)?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1 proto bird"))?;
    hub.ip(&format!("route append {NET4} via 10.99.0.2 proto static"))?;
    hub.expect(&[(NET4, "s1")])?;
    hub.flows(V4, 1)?;

    lab.say("a third protocol puts itself first");
    hub.ip(&format!("route prepend {NET4} via 10.99.0.3 proto babel"))?;
    hub.expect(&[(NET4, "s3")])?;
    hub.flows(V4, 3)?;

    lab.say("the first goes, then the next");
    hub.ip(&format!("route del {NET4} proto babel"))?;
    hub.expect(&[(NET4, "s1")])?;
    hub.ip(&format!("route del {NET4} proto bird"))?;
    hub.expect(&[(NET4, "s2")])?;
    hub.flows(V4, 2)?;

    lab.say("another protocol replaces it without a deletion being announced");
    hub.ip(&format!("route replace {NET4} via 10.99.0.3 proto bird"))?;
    hub.expect(&[(NET4, "s3")])?;
    hub.flows(V4, 3)?;
    hub.ip(&format!("route del {NET4}"))?;
    hub.expect(&[])?;

    lab.say("in IPv6 the metric tells protocols apart");
    hub.ip(&format!("route add {NET6} via fd99::1 proto bird metric 32"))?;
    hub.ip(&format!("route add {NET6} via fd99::2 proto babel metric 16"))?;
    hub.expect(&[(NET6, "s2")])?;
    hub.ip(&format!("route replace {NET6} via fd99::3 proto static metric 16"))?;
    hub.expect(&[(NET6, "s3")])?;
    hub.flows(V6, 3)?;
    hub.ip(&format!("route del {NET6} metric 16"))?;
    hub.expect(&[(NET6, "s1")])?;
    hub.flows(V6, 1)
}

/// A shared device has one owner per prefix, so one next hop has to be chosen.
fn multipath(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    let elsewhere = &hub.spoke(2)?.link;
    let elsewhere = format!("via {} dev {}", elsewhere.b.address, elsewhere.a.device);

    lab.say("one leg through the tunnel, one beside it");
    hub.ip(&format!("route add {NET4} nexthop via 10.99.0.1 dev wg0 nexthop {elsewhere}"))?;
    hub.expect(&[(NET4, "s1")])?;
    hub.ip(&format!("route del {NET4}"))?;
    hub.expect(&[])?;

    lab.say("two legs through the tunnel, the heavier one wins");
    hub.ip(&format!(
        "route add {NET4} nexthop via 10.99.0.1 dev wg0 weight 1 \
         nexthop via 10.99.0.2 dev wg0 weight 5"
    ))?;
    hub.ip(&format!(
        "route add {NET6} nexthop via fd99::1 dev wg0 weight 5 \
         nexthop via fd99::2 dev wg0 weight 1"
    ))?;
    hub.expect(&[(NET4, "s2"), (NET6, "s1")])?;
    // Whichever leg routing chooses, the device hands the packet to the owner.
    hub.flows(V4, 2)?;
    hub.flows(V6, 1)?;
    hub.daemon.wait_listed("shadowed", NET4)?;
    hub.daemon.wait_listed("shadowed", NET6)?;

    lab.say("the heavier leg goes; in IPv6 the deletion names that leg alone");
    hub.ip(&format!("route replace {NET4} nexthop via 10.99.0.1 dev wg0 nexthop {elsewhere}"))?;
    hub.ip(&format!("-6 route del {NET6} via fd99::1 dev wg0"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s2")])?;
    hub.flows(V6, 2)?;

    lab.say("a leg joins in IPv6");
    hub.ip(&format!("-6 route append {NET6} nexthop via fd99::1 dev wg0 weight 9"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V6, 1)?;
    hub.ip(&format!("route del {NET4}"))?;
    hub.ip(&format!("route del {NET6}"))?;
    hub.expect(&[])
}

/// `RTA_VIA`, and gateways that no connected network holds, as babeld installs them.
fn v4_via_v6(lab: &mut Lab) -> Result<()> {
    let star = super::support::star(lab, 2)?;
    // A tunnel address of s2 outside the hub's own network.
    let second: ipnet::IpNet = "192.0.2.2/32".parse()?;
    let own = star.spoke(2)?.inner.prefixes();
    star.wg.set_allowed_ips("s2", &[own, vec![second]].concat())?;
    let daemon = lab.wgrouted(&star.hub, &["wg0"])?;
    let hub = Hub { star, daemon }.started()?;
    let second = ("192.0.2.2/32", "s2");
    hub.expect(&[second])?;

    hub.ip(&format!("route add {NET4} via inet6 fe80::1 dev wg0"))?;
    hub.expect(&[second, (NET4, "s1")])?;
    hub.flows(V4, 1)?;
    hub.ip(&format!("route replace {NET4} via inet6 fe80::2 dev wg0 onlink"))?;
    hub.expect(&[second, (NET4, "s2")])?;
    hub.flows(V4, 2)?;
    hub.ip(&format!("route add {NET6} via fe80::1 dev wg0"))?;
    hub.expect(&[second, (NET4, "s2"), (NET6, "s1")])?;
    hub.flows(V6, 1)?;

    lab.say("a gateway off the link");
    hub.ip(&format!("route replace {NET4} via inet6 fe80::1 dev wg0"))?;
    hub.expect(&[second, (NET4, "s1"), (NET6, "s1")])?;
    hub.ip(&format!("route replace {NET4} via 192.0.2.2 dev wg0 onlink"))?;
    hub.expect(&[second, (NET4, "s2"), (NET6, "s1")])?;
    hub.flows(V4, 2)
}

/// Daemons install them for prefixes that shall not leak into a covering route.
fn reject_routes(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    let all = [("0.0.0.0/0", "s2"), ("::/0", "s2")];
    hub.ip("route add default via 10.99.0.2")?;
    hub.ip("route add default via fd99::2")?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1 metric 50"))?;
    hub.ip(&format!("route add {NET6} via fd99::1 metric 50"))?;
    hub.expect(&[all[0], all[1], (NET4, "s1"), (NET6, "s1")])?;
    for kind in ["blackhole", "unreachable", "prohibit"] {
        lab.say(format_args!("{kind} routes take the prefixes away"));
        hub.ip(&format!("route add {kind} {NET4} metric 10"))?;
        hub.ip(&format!("-6 route add {kind} {NET6} metric 10"))?;
        hub.expect(&all)?;
        hub.flows_nowhere(V4)?;
        hub.flows_nowhere(V6)?;
        hub.ip(&format!("route del {kind} {NET4} metric 10"))?;
        hub.ip(&format!("-6 route del {kind} {NET6} metric 10"))?;
        hub.expect(&[all[0], all[1], (NET4, "s1"), (NET6, "s1")])?;
        hub.flows(V4, 1)?;
        hub.flows(V6, 1)?;
    }
    Ok(())
}
