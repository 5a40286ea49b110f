//! Prefixes that move from one peer to another under traffic.
//!
//! Here live the ways in which routing daemons change a route, each under a train of packets of
//! which none may be lost. All spokes answer for the destination, each from its own tunnel address,
//! so an answer never depends on the moment of the move: only a packet without owner is lost.

use anyhow::Result;

use super::{
    Scenario,
    support::{Hub, NET4, NET6, Trains, V4, V6},
};
use crate::lab::Lab;

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "move-by-replace",
        "a replaced route moves its prefix to another peer without losing a packet",
        by_replace,
    ),
    Scenario::new(
        "move-by-delete-and-add",
        "a route that is deleted and added moves its prefix without losing a packet",
        by_delete_and_add,
    ),
    Scenario::new(
        "move-by-better-metric",
        "a better route comes and goes without losing a packet",
        by_metric,
    ),
    Scenario::new(
        "move-by-nexthop",
        "a replaced nexthop object moves its routes without losing a packet",
        |lab| by_nexthop(lab, "1"),
    ),
    Scenario::new(
        "move-by-nexthop-no-compat",
        "the same with nexthop_compat_mode=0, where routes name no gateway",
        |lab| by_nexthop(lab, "0"),
    ),
    Scenario::new(
        "move-thousand",
        "a thousand prefixes, nested in each other, move at once without losing a packet",
        thousand,
    ),
];

/// How many moves each scenario makes.
const MOVES: usize = 6;

/// Moves both prefixes back and forth; `step` brings them to spoke 1 or 2.
fn back_and_forth(lab: &Lab, hub: &Hub, step: impl Fn(usize) -> Result<()>) -> Result<()> {
    hub.expect_moved(&[(NET4, "s1"), (NET6, "s1")])?;
    let trains = Trains::start(hub, &[V4, V6])?;
    for round in 0..MOVES {
        trains.run()?;
        let spoke = if round % 2 == 0 { 2 } else { 1 };
        step(spoke)?;
        let owner = hub.spoke(spoke)?.name();
        hub.expect_moved(&[(NET4, owner), (NET6, owner)])?;
        hub.flows(V4, spoke)?;
        hub.flows(V6, spoke)?;
    }
    trains.run()?;
    trains.assert_no_loss(lab)
}

/// NLM_F_REPLACE: BIRD and FRR.
fn by_replace(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    let step = |spoke: usize| {
        hub.ip_batch(&format!(
            "route replace {NET4} via 10.99.0.{spoke}\nroute replace {NET6} via fd99::{spoke}\n"
        ))
    };
    step(1)?;
    back_and_forth(lab, &hub, step)
}

/// babeld's way, and BIRD's when the metric changes. A default route through the same device
/// keeps routing itself from having a gap: what is lost then, AllowedIPs have lost.
fn by_delete_and_add(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 3)?;
    hub.ip_batch(&format!(
        "route add default via 10.99.0.3\n\
         route add default via fd99::3\n\
         route add {NET4} via 10.99.0.1\n\
         route add {NET6} via fd99::1\n"
    ))?;
    back_and_forth(lab, &hub, |spoke| {
        hub.ip_batch(&format!(
            "route del {NET4}\n\
             route add {NET4} via 10.99.0.{spoke}\n\
             route del {NET6}\n\
             route add {NET6} via fd99::{spoke}\n"
        ))
    })?;
    let owners = [("0.0.0.0/0", "s3"), ("::/0", "s3"), (NET4, "s1"), (NET6, "s1")];
    hub.expect(&owners)
}

/// A second route beside the first.
fn by_metric(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    hub.ip_batch(&format!(
        "route add {NET4} via 10.99.0.1 metric 100\nroute add {NET6} via fd99::1 metric 100\n"
    ))?;
    back_and_forth(lab, &hub, |spoke| {
        let verb = if spoke == 2 { "add" } else { "del" };
        hub.ip_batch(&format!(
            "route {verb} {NET4} via 10.99.0.2 metric 50\n\
             route {verb} {NET6} via fd99::2 metric 50\n"
        ))
    })
}

/// FRR's way. With the compatibility mode the kernel announces each route of the object anew,
/// without it only the object.
fn by_nexthop(lab: &mut Lab, compat: &str) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    hub.star.hub.sysctl("ipv4/nexthop_compat_mode", compat)?;
    hub.ip_batch(&format!(
        "nexthop add id 4 via 10.99.0.1 dev wg0\n\
         nexthop add id 6 via fd99::1 dev wg0\n\
         route add {NET4} nhid 4\n\
         route add {NET6} nhid 6\n"
    ))?;
    back_and_forth(lab, &hub, |spoke| {
        hub.ip_batch(&format!(
            "nexthop replace id 4 via 10.99.0.{spoke} dev wg0\n\
             nexthop replace id 6 via fd99::{spoke} dev wg0\n"
        ))
    })?;

    lab.say("a group of objects");
    hub.ip_batch(&format!(
        "nexthop add id 5 via 10.99.0.2 dev wg0\n\
         nexthop add id 45 group 4,1/5,7\n\
         route replace {NET4} nhid 45\n"
    ))?;
    hub.expect(&[(NET4, "s2"), (NET6, "s1")])?;
    hub.flows(V4, 2)?;
    hub.ip("nexthop replace id 45 group 4,7/5,1")?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V4, 1)
}

/// The order inside a batch: a covering prefix that moved before the covered one would carry
/// packets to a third peer.
fn thousand(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    let mut prefixes: Vec<String> =
        (8..=32).map(|length| format!("198.51.100.1/{length}")).collect();
    prefixes.extend((0..1000).map(|i| format!("20.{}.{}.0/24", i / 250, i % 250)));
    let lines = |spoke: usize| -> Result<String> {
        let line = |prefix: &String| -> Result<String> {
            let prefix = prefix.parse::<ipnet::IpNet>()?.trunc();
            Ok(format!("route replace {prefix} via 10.99.0.{spoke}\n"))
        };
        prefixes.iter().map(line).collect()
    };
    hub.ip_batch(&lines(1)?)?;
    let wanted = |owner: &str| {
        let prefixes = prefixes.iter().map(|p| p.parse::<ipnet::IpNet>().map(|p| p.trunc()));
        prefixes.map(|p| Ok((p?, owner.into()))).collect::<Result<_>>()
    };
    hub.expect_table(&wanted("s1")?)?;
    let trains = Trains::start(&hub, &[V4])?;
    for round in 0..MOVES {
        trains.run()?;
        let spoke = if round % 2 == 0 { 2 } else { 1 };
        hub.ip_batch(&lines(spoke)?)?;
        hub.expect_table(&wanted(hub.spoke(spoke)?.name())?)?;
        hub.flows(V4, spoke)?;
    }
    trains.assert_no_loss(lab)
}
