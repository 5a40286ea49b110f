//! Real routing daemons.
//!
//! Here live BIRD, babeld and FRR as they come from Debian, each in the role in which it changes
//! routes in its own way.

use std::time::Duration;

use anyhow::{Result, ensure};
use ipnet::IpNet;

use super::{
    Scenario,
    bgp::{self, Triangle},
    support::{Hub, NET4, NET6, Trains, V4, V6, expect_allowed_ips, flows, star},
};
use crate::lab::{
    Babeld, Bird, Frr, Lab, Mesh, PATIENCE, Ping, Spoke, Star, Train, assert_flow, wait_for,
    wait_until,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "bird-triangle",
        "BGP over tunnels: a link fails, BIRD reroutes, AllowedIPs follow, packets flow",
        bird_triangle,
    )
    .within(240),
    Scenario::new(
        "bird-static",
        "BIRD changes static routes in its ways, without losing a packet",
        bird_static,
    ),
    Scenario::new(
        "babeld-metric",
        "babeld deletes and adds a route to change its metric: AllowedIPs do not blink",
        babeld_metric,
    )
    .within(240),
    Scenario::new(
        "frr-bgp",
        "FRR's BGP routes use nexthop objects; they move from peer to peer",
        frr_bgp,
    )
    .within(240),
];

/// Three routers, each with one interface that the two others share.
fn bird_triangle(lab: &mut Lab) -> Result<()> {
    let mut triangle = Triangle::new(Mesh::new(lab, &["r1", "r2", "r3"])?)?;
    triangle.start_daemons(lab)?;
    triangle.start_birds()?;
    let mesh = &triangle.mesh;
    let (r1, r2) = (mesh.member("r1")?, mesh.member("r2")?);
    let all_direct = || mesh.members.iter().try_for_each(|member| triangle.expect_direct(member));
    let all_flow = || {
        bgp::pairs(r1, r2).into_iter().try_for_each(|(from, to)| {
            assert_flow(&r1.node, Ping { from: Some(from), ..Ping::from(to) }, &r2.node)
        })
    };
    all_direct()?;
    all_flow()?;
    let [(from, to), _] = bgp::pairs(r1, r2);
    let ping = Ping { from: Some(from), ..Ping::from(to) };
    let train = Train::start(&r1.node, ping, Duration::from_millis(5))?;
    train.run(50)?;

    lab.say("cut the link between r1 and r2");
    let cut = lab.elapsed();
    mesh.link("r1", "r2")?.cut()?;
    triangle.expect_owner(r1, r2, "r3")?;
    triangle.expect_owner(r2, r1, "r3")?;
    train.run(50)?;
    lab.say(format_args!("rerouted by r3 after {:.1} s", (lab.elapsed() - cut).as_secs_f32()));
    all_flow()?;

    lab.say("mend it");
    mesh.link("r1", "r2")?.mend()?;
    all_direct()?;
    train.run(50)?;
    all_flow()?;
    lab.say(train.stop()?);
    Ok(())
}

/// IPv4 by replacement; IPv6 and changed metrics by deletion and addition (facts: C2).
fn bird_static(lab: &mut Lab) -> Result<()> {
    let config = |spoke: usize, metric: u32| {
        format!(
            "router id 10.99.0.254;\n\
             protocol kernel {{ ipv4 {{ export all; import none; }}; metric {metric}; }}\n\
             protocol kernel {{ ipv6 {{ export all; import none; }}; metric {metric}; }}\n\
             protocol static {{ ipv4; route {NET4} via 10.99.0.{spoke}; \
             route 0.0.0.0/0 via 10.99.0.3; }}\n\
             protocol static {{ ipv6; route {NET6} via fd99::{spoke}; \
             route ::/0 via fd99::3; }}\n"
        )
    };
    let hub = Hub::new(lab, 3)?;
    // Another default route, out of BIRD's hands, keeps routing itself from having a gap.
    hub.ip("route add default via 10.99.0.3 metric 900")?;
    hub.ip("route add default via fd99::3 metric 2900")?;
    let bird = Bird::start(&hub.star.hub, &config(1, 32))?;
    let expect = |owner: &str| {
        hub.expect(&[(NET4, owner), (NET6, owner), ("0.0.0.0/0", "s3"), ("::/0", "s3")])
    };
    expect("s1")?;
    let trains = Trains::start(&hub, &[V4, V6])?;
    for (spoke, metric) in [(2, 32), (1, 32), (1, 64), (2, 32)] {
        lab.say(format_args!("routes via s{spoke} with metric {metric}"));
        trains.run()?;
        bird.configure(&config(spoke, metric))?;
        let route = format!("route show {NET4} proto bird metric {metric} via 10.99.0.{spoke}");
        wait_for("BIRD's route", PATIENCE, || Ok(!hub.star.hub.ip(&route)?.is_empty()))?;
        expect(hub.spoke(spoke)?.name())?;
        hub.flows(V4, spoke)?;
        hub.flows(V6, spoke)?;
    }
    trains.assert_no_loss(lab)?;

    lab.say("BIRD ends and takes its routes away");
    let mut bird = bird;
    bird.process().signal(libc::SIGTERM)?;
    bird.process().wait_exit(PATIENCE)?;
    hub.expect(&[("0.0.0.0/0", "s3"), ("::/0", "s3")])?;
    hub.flows(V4, 3)
}

/// Babel needs multicast, hence a device of its own for each peer, and AllowedIPs that let
/// babeld's packets through. babeld changes a metric by FLUSH and ADD, on purpose, as a comment
/// in its source says.
fn babeld_metric(lab: &mut Lab) -> Result<()> {
    let first = star(lab, 1)?;
    let second = Star::on(lab, &first.hub, 1, 2..=2)?;
    second.serve(&[V4.parse()?, V6.parse()?])?;
    // Babel's group (RFC 8966, section 4).
    let group: IpNet = "ff02::1:6/128".parse()?;
    for star in [&first, &second] {
        let spoke = star.spoke(1)?;
        let own = spoke.inner.prefixes();
        star.wg.set_allowed_ips(spoke.name(), &[own, vec![group]].concat())?;
    }
    let expect = |star: &Star, owned: &[(&str, &str)]| {
        let group = ("ff02::1:6/128", star.spokes[0].name());
        expect_allowed_ips(star, &[owned, &[group]].concat())
    };
    let hub = &first.hub;
    let mut daemon = lab.wgrouted(hub, &["wg0", "wg1"])?;
    daemon.start()?;
    // BIRD speaks Babel on the spokes, for it can change a cost without a restart.
    let config = |spoke: &Spoke, cost: u32| {
        format!(
            "router id {};\n\
             protocol static {{ ipv4; route {V4}/32 blackhole; }}\n\
             protocol static {{ ipv6; route {V6}/128 blackhole; }}\n\
             protocol babel {{\n  \
               ipv4 {{ import none; export where source = RTS_STATIC; }};\n  \
               ipv6 {{ import none; export where source = RTS_STATIC; }};\n  \
               interface \"wg0\" {{\n    \
                 type wired; rxcost {cost}; hello interval 1 s; update interval 2 s;\n  \
               }};\n\
             }}\n",
            spoke.inner.v4()
        )
    };
    let (near, far) = (first.spoke(1)?, second.spoke(1)?);
    let near_bird = Bird::start(&near.node, &config(near, 200))?;
    let _far_bird = Bird::start(&far.node, &config(far, 5000))?;
    let wired = "type wired hello-interval 1";
    let options = format!(
        "reflect-kernel-metric true\ninterface wg0 {wired}\ninterface wg1 {wired}\n\
         redistribute local deny\n"
    );
    let _babeld = Babeld::start(hub, &[], &options)?;
    let host4 = format!("{V4}/32");
    let host6 = format!("{V6}/128");
    expect(&first, &[(&host4, "s1"), (&host6, "s1")])?;
    flows(&first, V4, 1)?;
    flows(&first, V6, 1)?;

    let metric = || -> Result<String> {
        let route = hub.ip(&format!("route show {V4} proto babel"))?;
        Ok(route.split_once("metric ").map(|(_, metric)| metric.trim().to_owned()).unwrap_or(route))
    };
    let before = metric()?;
    lab.say(format_args!("metric {before}; make the link dearer, but not dear enough"));
    let train = Train::start(hub, V4.parse::<std::net::IpAddr>()?, Duration::from_millis(1))?;
    train.run(50)?;
    for cost in [300, 700, 300] {
        let before = metric()?;
        near_bird.configure(&config(near, cost))?;
        let changed = |now: &String| *now != before;
        let now = wait_until("another metric", PATIENCE, metric, changed)?;
        lab.say(format_args!("metric {now}"));
        train.run(50)?;
    }
    let report = train.stop()?;
    lab.say(&report);
    ensure!(report.without_peer() == 0, "AllowedIPs had a gap: {report}");

    lab.say("make it dearer than the other link: the prefixes change device");
    near_bird.configure(&config(near, 20_000))?;
    expect(&second, &[(&host4, "s2"), (&host6, "s2")])?;
    expect(&first, &[])?;
    flows(&second, V4, 1)?;
    flows(&second, V6, 1)
}

/// FRR's zebra installs each route with the number of a nexthop object.
fn frr_bgp(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 2)?;
    let mut daemon = lab.wgrouted(&star.hub, &["wg0"])?;
    daemon.start()?;
    let mut speakers = Vec::new();
    for (number, spoke) in (1..).zip(&star.spokes) {
        let config = format!(
            "router id {address};\n\
             protocol static {{ ipv4; route {NET4} blackhole; }}\n\
             protocol static {{ ipv6; route {NET6} blackhole; }}\n\
             protocol bgp hub {{\n  \
               local {address} as 6500{number};\n  \
               neighbor 10.99.0.254 as 65100;\n  \
               ipv4 {{ import none; export all; next hop self; }};\n  \
               ipv6 {{ import none; export all; next hop self; next hop address {v6}; }};\n\
             }}\n",
            address = spoke.inner.v4(),
            v6 = spoke.inner.v6(),
        );
        speakers.push(Bird::start(&spoke.node, &config)?);
    }
    let frr = Frr::start(
        &star.hub,
        "router bgp 65100\n \
           bgp router-id 10.99.0.254\n \
           no bgp ebgp-requires-policy\n \
           bgp bestpath compare-routerid\n \
           neighbor 10.99.0.1 remote-as 65001\n \
           neighbor 10.99.0.1 timers connect 1\n \
           neighbor 10.99.0.2 remote-as 65002\n \
           neighbor 10.99.0.2 timers connect 1\n \
           address-family ipv6 unicast\n  \
             neighbor 10.99.0.1 activate\n  \
             neighbor 10.99.0.2 activate\n \
           exit-address-family\n",
    )?;
    for speaker in &speakers {
        speaker.wait_established("hub")?;
    }
    expect_allowed_ips(&star, &[(NET4, "s1"), (NET6, "s1")])?;
    let route = star.hub.ip(&format!("route show {NET4}"))?;
    lab.say(format_args!("zebra installed: {}", route.trim()));
    ensure!(route.contains("nhid"), "zebra did not use a nexthop object: {route}");
    flows(&star, V4, 1)?;
    flows(&star, V6, 1)?;

    lab.say("s1 withdraws");
    speakers[0].ask("disable hub")?;
    expect_allowed_ips(&star, &[(NET4, "s2"), (NET6, "s2")])?;
    flows(&star, V4, 2)?;
    flows(&star, V6, 2)?;

    lab.say("s1 is back, then s2 withdraws");
    speakers[0].ask("enable hub")?;
    speakers[0].wait_established("hub")?;
    speakers[1].ask("disable hub")?;
    expect_allowed_ips(&star, &[(NET4, "s1"), (NET6, "s1")])?;
    flows(&star, V4, 1)?;
    flows(&star, V6, 1)?;

    lab.say("both withdraw");
    speakers[0].ask("disable hub")?;
    expect_allowed_ips(&star, &[])?;
    drop(frr);
    Ok(())
}
