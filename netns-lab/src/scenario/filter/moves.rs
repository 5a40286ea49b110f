//! Routes that lead elsewhere than packets come from, and routes that move.
//!
//! Here live asymmetric and multi-exit flows, which a strict filter drops and a feasible one
//! passes, and moves of a prefix from peer to peer under traffic in both directions, while a third
//! peer claims that prefix all the time.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Scenario,
    support::{Fate::Dropped, Filtered, Hook, config, counted},
};
use crate::{
    lab::{Dedicated, Lab, Node, PATIENCE, Ping, Train, assert_flow, assert_no_flow, wait_for},
    scenario::support::{NET4, NET6, V4, V6},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-exits-xdp",
        "a client with two exits: feasible passes what strict drops, by XDP",
        |lab| exits(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-exits-tcx",
        "a client with two exits: feasible passes what strict drops, by tc",
        |lab| exits(lab, Hook::Tcx),
    ),
    Scenario::new(
        "filter-move-xdp",
        "a prefix moves between peers: no legitimate packet is lost, no spoofed one passes, by XDP",
        |lab| moves(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-move-tcx",
        "a prefix moves between peers: no legitimate packet is lost, no spoofed one passes, by tc",
        |lab| moves(lab, Hook::Tcx),
    ),
];

/// Hosts in [`NET4`] and [`NET6`] that are reached by the other exit.
const OTHER4: &str = "198.51.100.2";
const OTHER6: &str = "2001:db8:1::2";

/// The hub is a client with an exit by s1 for most of its flows, and one by s2 for those from its
/// address on wg2, both to the same prefix.
fn exits(lab: &mut Lab, hook: Hook) -> Result<()> {
    let net = Dedicated::new(lab, 3)?;
    net.open()?;
    let hub = net.link(2)?.inner;
    net.hub.ip_batch(&format!(
        "route add {NET4} dev wg1\n\
         route add {NET6} dev wg1\n\
         route add {NET4} dev wg2 table 100\n\
         route add {NET6} dev wg2 table 100\n\
         rule add from {} lookup 100\n",
        hub.v4()
    ))?;
    net.hub.ip(&format!("-6 rule add from {} lookup 100", hub.v6()))?;
    net.spoke(1)?.serve(&[V4.parse()?, V6.parse()?])?;
    net.spoke(2)?.serve(&[OTHER4.parse()?, OTHER6.parse()?])?;
    asymmetric_path(lab, &net)?;
    let feasible = exits_config(hook, "feasible");
    let mut net = Filtered::on(lab, net, &feasible)?;
    let first = net.net.link(1)?.inner;
    // By which of its addresses the client asks, and which exit is asked.
    let by_first: [Ping; 2] = [ping(V4, first.v4())?, ping(V6, first.v6())?];
    let by_second: [Ping; 2] = [ping(OTHER4, hub.v4())?, ping(OTHER6, hub.v6())?];

    lab.say("feasible: flows through both exits, and replies by the other exit, pass");
    for ping in &by_second {
        assert_flow(&net.net.hub, ping.clone(), &net.net.spoke(2)?.node)?;
    }
    for ping in &by_first {
        assert_flow(&net.net.hub, ping.clone(), &net.net.spoke(1)?.node)?;
    }
    let dropped = |net: &Filtered, reason| counted(&net.daemon, "wg2", Dropped(reason));
    ensure!(dropped(&net, "no-route")? == 0, "something was dropped");

    lab.say("a third peer cannot answer for it");
    let spoofed = net.stream(3, V4.parse()?, INTERVAL)?;
    spoofed.run(20)?;
    net.fence(3)?;
    ensure!(net.tap.count(spoofed.label) == 0, "s3 sent from {V4}");
    spoofed.stop()?;

    lab.say("strict: what comes back by s2 is dropped, though it is legitimate");
    net.daemon.reload(&exits_config(hook, "strict"))?;
    net.fence(1)?;
    let before = dropped(&net, "other-peer")?;
    for ping in by_first.into_iter().chain(by_second) {
        // It arrives; the answer does not.
        assert_no_flow(&net.net.hub, ping, [&net.net.hub])?;
    }
    ensure!(dropped(&net, "other-peer")? > before, "nothing was counted");
    Ok(())
}

fn exits_config(hook: Hook, mode: &str) -> String {
    let source = format!("source = \"{mode}\"");
    config(hook, "", &[&source, &source, "source = \"strict\""])
        .replace("name = \"wg2\"\n", "name = \"wg2\"\ntables = [\"main\", 100]\n")
}

fn ping(to: &str, from: impl Into<IpAddr>) -> Result<Ping> {
    Ok(Ping { from: Some(from.into()), ..Ping::from(to.parse::<IpAddr>()?) })
}

/// What s1 sends to the hub's address on wg1 takes the way through s2.
fn asymmetric_path(lab: &mut Lab, net: &Dedicated) -> Result<()> {
    let (s1, s2) = (net.spoke(1)?.node.clone(), net.spoke(2)?.node.clone());
    let link = lab.link(&s1, &s2)?;
    for (end, host) in [(&link.a, 1), (&link.b, 2)] {
        end.node.address(&end.device, &format!("fd97::{host}/64"))?;
    }
    let inner = net.link(1)?.inner;
    s1.ip_batch(&format!(
        "route add {}/32 via {}\nroute add {}/128 via fd97::2\n",
        inner.v4(),
        link.b.address,
        inner.v6()
    ))
}

/// Between two packets of a stream.
const INTERVAL: Duration = Duration::from_millis(2);
/// One way between the hub and a spoke. What a new peer sends is legal as soon as the daemon has
/// seen the kernel's new route: on a real machine well before packets can be there from the far end
/// of a real link, on an emulated one that is busy elsewhere within this time.
const DELAY: Duration = Duration::from_millis(300);
/// How often the prefixes move.
const MOVES: usize = 6;

/// A prefix of each family wanders between s1 and s2. The hub asks hosts in it, which answer from
/// there; a host in it speaks to the host behind the hub; s3 claims to be such a host.
fn moves(lab: &mut Lab, hook: Hook) -> Result<()> {
    let net = Dedicated::new(lab, 3)?;
    net.open()?;
    let to: [IpAddr; 2] = [V4.parse()?, V6.parse()?];
    for spoke in [1, 2] {
        net.spoke(spoke)?.serve(&to)?;
        net.spoke(spoke)?.link.delay(DELAY)?;
    }
    let step = |hub: &Node, device: &str| {
        hub.ip_batch(&format!(
            "route replace {NET4} dev {device}\nroute replace {NET6} dev {device}\n"
        ))
    };
    step(&net.hub, "wg1")?;
    let strict = config(hook, "", &["source = \"strict\""; 3]);
    let net = Filtered::on(lab, net, &strict)?;
    (1..=3).try_for_each(|spoke| net.fence(spoke))?;
    let spoofed: Vec<_> =
        to.iter().map(|from| net.stream(3, *from, INTERVAL)).collect::<Result<_>>()?;
    let trains: Vec<_> =
        to.iter().map(|to| Train::start(&net.net.hub, *to, INTERVAL)).collect::<Result<_>>()?;
    let (mut sent, mut labels) = (0, Vec::new());
    for round in 0..MOVES {
        let spoke = if round % 2 == 0 { 1 } else { 2 };
        let speaking: Vec<_> =
            to.iter().map(|from| net.stream(spoke, *from, INTERVAL)).collect::<Result<_>>()?;
        trains.iter().try_for_each(|train| train.run(100))?;
        // The host leaves its place, and then routing says so; never the other way round.
        for stream in speaking {
            labels.push(stream.label);
            sent += stream.stop()?;
        }
        step(&net.net.hub, if spoke == 1 { "wg2" } else { "wg1" })?;
    }
    let arrived = || labels.iter().map(|label| net.tap.count(*label)).sum::<u64>();
    let all = wait_for("all legitimate packets", Duration::from_secs(3), || Ok(arrived() == sent));
    lab.say(format_args!("{} of {sent} packets from the prefixes arrived", arrived()));
    for train in trains {
        let report = train.stop()?;
        lab.say(format_args!("train to the prefix: {report}"));
        report.assert_no_loss()?;
    }
    all?;
    for stream in spoofed {
        let label = stream.label;
        let sent = stream.stop()?;
        net.fence(3)?;
        let arrived = net.tap.count(label);
        lab.say(format_args!("{arrived} of {sent} spoofed packets arrived"));
        ensure!(arrived == 0, "{arrived} of {sent} spoofed packets arrived");
    }

    lab.say("the grace ends: the peer that had the prefix before is refused too");
    let old = if MOVES.is_multiple_of(2) { 2 } else { 1 };
    for from in to {
        let stream = net.stream(old, from, INTERVAL)?;
        let interface = format!("wg{old}");
        let before = counted(&net.daemon, &interface, Dropped("other-peer"))?;
        wait_for("the old peer to be refused", PATIENCE, || {
            Ok(counted(&net.daemon, &interface, Dropped("other-peer"))? > before)
        })?;
        let arrived = net.tap.count(stream.label);
        stream.run(20)?;
        net.fence(old)?;
        ensure!(net.tap.count(stream.label) == arrived, "it is refused, and then accepted");
        stream.stop()?;
    }
    Ok(())
}
