//! Whether peers are told alive from dead: in time, by what, and never wrongly.

use std::{net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};

use super::support::{Watched, config, peer, wait_state};
use crate::{
    lab::{Lab, PATIENCE, Ping, Star, Train, wait_for, wait_until},
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("reach-icmp", "ICMP probes: a cable is cut and mended, both families", icmp),
    Scenario::new(
        "reach-udp",
        "UDP probes, answered by the other daemon; it dies and returns",
        udp,
    ),
    Scenario::new(
        "reach-passive",
        "without probes: silence is no death, unanswered data is, keepalives tell",
        passive,
    )
    .within(240),
    Scenario::new("reach-one-way", "one direction is lost, then the other", one_way),
    Scenario::new("reach-roams", "a peer's endpoint moves: told, and never down", roams),
    Scenario::new(
        "reach-lossy",
        "20 % loss each way and a saturated link: nobody is taken for dead",
        lossy,
    )
    .on_newest()
    .within(240),
    Scenario::new("reach-flaps", "a peer that flaps is held down", flaps).on_newest(),
];

/// Probes as fast as they go.
const FAST: &str = "interval = \"100ms\"\nhold_down = \"0ms\"";
/// Three intervals, and what an emulated machine takes to do and to tell it.
const IN_TIME: Duration = Duration::from_millis(300 + 700);

fn icmp(lab: &mut Lab) -> Result<()> {
    let watched = Watched::new(lab, 2, FAST)?;
    watched.wait("s1", "up")?;
    watched.wait("s2", "up")?;
    let s1 = peer(&watched.daemon, "s1")?;
    ensure!(s1["proof"] == "probe", "{s1}");
    let probed = s1["probed"].as_array().map_or(0, Vec::len);
    ensure!(probed == 2, "an address of each family is probed: {s1}");
    let link = &watched.star.spoke(1)?.link;
    for _ in 0..3 {
        link.cut()?;
        let took = watched.wait("s1", "down")?;
        lab.say(format!("down {} ms after the cut", took.as_millis()));
        ensure!(took < IN_TIME, "three probe intervals are 300 ms, but it took {took:?}");
        ensure!(peer(&watched.daemon, "s2")?["state"] == "up", "s2 is alive");
        link.mend()?;
        let took = watched.wait("s1", "up")?;
        lab.say(format!("up {} ms after the repair", took.as_millis()));
    }
    // The interface goes down under the daemon: everybody behind it is gone at once.
    watched.star.wg.down()?;
    watched.wait("s2", "down")?;
    ensure!(peer(&watched.daemon, "s2")?["proof"] == "link", "the link is down");
    watched.star.wg.up()?;
    watched.wait("s2", "up").map(drop)
}

fn udp(lab: &mut Lab) -> Result<()> {
    let watched = Watched::new(lab, 2, &format!("probe = \"udp\"\n{FAST}"))?;
    // Nobody answers at s2, which is therefore not alive as far as probes tell.
    let other = "[[interface]]\nname = \"wg0\"\n[interface.reach]\nprobe = \"off\"\n";
    let mut answering = lab.wgrouted_with(&watched.star.spoke(1)?.node, other)?;
    answering.start()?;
    watched.wait("s1", "up")?;
    answering.kill()?;
    let took = watched.wait("s1", "down")?;
    ensure!(took < IN_TIME, "three probe intervals are 300 ms, but it took {took:?}");
    answering.start()?;
    watched.wait("s1", "up").map(drop)
}

fn passive(lab: &mut Lab) -> Result<()> {
    let watched = Watched::new(lab, 2, "probe = \"off\"")?;
    let ask = |name: &str| peer(&watched.daemon, name);
    // Nothing was ever heard of them, and nothing had to be.
    ensure!(ask("s1")?["state"] == "unknown" && ask("s2")?["state"] == "unknown");
    let s1 = watched.star.spoke(1)?;
    let ping = Ping::from(IpAddr::from(s1.inner.v4()));
    let train = Train::start(&watched.star.hub, ping, Duration::from_millis(200))?;
    watched.wait("s1", "up")?;
    ensure!(ask("s1")?["proof"] == "counters", "{}", ask("s1")?);
    // What we send is no longer answered.
    mute(&s1.node, &s1.link.b.device, true)?;
    watched.wait("s1", "suspect")?;
    watched.wait("s1", "down")?;
    ensure!(ask("s1")?["proof"] == "counters", "{}", ask("s1")?);
    mute(&s1.node, &s1.link.b.device, false)?;
    watched.wait("s1", "up")?;
    train.stop()?;
    // It falls silent, and owes no word.
    ensure!(ask("s2")?["state"] == "unknown", "{}", ask("s2")?);
    ensure!(ask("s1")?["state"] == "up", "{}", ask("s1")?);
    Ok(())
}

/// Lets nothing of WireGuard's out of a node's device, or everything.
fn mute(node: &crate::lab::Node, device: &str, mute: bool) -> Result<()> {
    let words = match mute {
        true => format!("qdisc add dev {device} root netem loss 100%"),
        false => format!("qdisc del dev {device} root"),
    };
    node.run("tc", words.split_whitespace()).map(drop)
}

fn one_way(lab: &mut Lab) -> Result<()> {
    let watched = Watched::new(lab, 1, FAST)?;
    watched.wait("s1", "up")?;
    let s1 = watched.star.spoke(1)?;
    let hub = Ping::from(IpAddr::from(watched.star.inner.v4()));
    for end in [&s1.link.a, &s1.link.b] {
        // The peer keeps talking: what arrives does not show that ours does.
        let talk = Train::start(&s1.node, hub.clone(), Duration::from_millis(50))?;
        mute(&end.node, &end.device, true)?;
        let took = watched.wait("s1", "down")?;
        lab.say(format!("{} mute: down after {} ms", end.node.name(), took.as_millis()));
        ensure!(took < IN_TIME, "three probe intervals are 300 ms, but it took {took:?}");
        mute(&end.node, &end.device, false)?;
        watched.wait("s1", "up")?;
        talk.stop()?;
    }
    Ok(())
}

fn roams(lab: &mut Lab) -> Result<()> {
    let watched = Watched::new(lab, 1, FAST)?;
    watched.wait("s1", "up")?;
    let s1 = watched.star.spoke(1)?;
    // Only what the peer sends shows where it is now.
    let hub = Ping::from(IpAddr::from(watched.star.inner.v4()));
    let talk = Train::start(&s1.node, hub, Duration::from_millis(20))?;
    let before = peer(&watched.daemon, "s1")?["endpoint"].clone();
    // As behind a NAT that forgot its mapping: the same peer from another port.
    s1.node.run("wg", ["set", "wg0", "listen-port", "40000"])?;
    wait_until(
        "another endpoint",
        PATIENCE,
        || Ok(peer(&watched.daemon, "s1")?["endpoint"].clone()),
        |endpoint| *endpoint != before,
    )?;
    let row = peer(&watched.daemon, "s1")?;
    ensure!(row["roamed"] == 1 && row["falls"] == 0 && row["state"] == "up", "{row}");
    talk.stop()?;
    watched.daemon.wait_log("endpoint moved")
}

fn lossy(lab: &mut Lab) -> Result<()> {
    let star = Star::new(lab, 1)?;
    let s1 = star.spoke(1)?;
    for end in [&s1.link.a, &s1.link.b] {
        // A slow line with a queue of its own, so that the load below fills it.
        let words =
            format!("qdisc add dev {} root netem loss 20% rate 600kbit limit 30", end.device);
        end.node.run("tc", words.split_whitespace())?;
    }
    let mut daemon = lab.wgrouted_with(&star.hub, &config(&star, FAST)?)?;
    daemon.start()?;
    wait_state(&daemon, "s1", "up")?;
    let to = IpAddr::from(s1.inner.v4());
    let flood = Train::start(&star.hub, Ping::from(to), Duration::from_millis(1))?;
    // A thousand packets a second are sent into a line for six hundred.
    wait_for("a saturated link", PATIENCE, || {
        let (sent, answered) = flood.so_far();
        Ok(sent > 5_000 && answered < sent * 3 / 4)
    })?;
    let report = flood.stop()?;
    let row = peer(&daemon, "s1")?;
    lab.say(format!(
        "{} probes, loss {}; load: {report}",
        row["probe"]["sent"], row["probe"]["loss"]
    ));
    ensure!(row["falls"] == 0 && row["state"] != "down", "{row}");
    let loss = row["probe"]["loss"].as_f64().context("a loss")?;
    ensure!(loss > 0.1, "the line loses, so probes are lost: {row}");
    Ok(())
}

fn flaps(lab: &mut Lab) -> Result<()> {
    let watched = Watched::new(lab, 1, "interval = \"100ms\"\nhold_down = \"3s\"")?;
    watched.wait("s1", "up")?;
    let link = &watched.star.spoke(1)?.link;
    link.cut()?;
    watched.wait("s1", "down")?;
    link.mend()?;
    wait_for("it to be held down", PATIENCE, || {
        Ok(peer(&watched.daemon, "s1")?["proof"] == "held-down")
    })?;
    let took = watched.wait("s1", "up")?;
    lab.say(format!("held down for {} ms more", took.as_millis()));
    ensure!(peer(&watched.daemon, "s1")?["falls"] == 1);
    Ok(())
}
