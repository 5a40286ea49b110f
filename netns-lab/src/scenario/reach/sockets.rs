//! BIRD and babeld, told over their control sockets.
//!
//! Here live a hub with dedicated links and one of the daemons on it. Whether a peer can be reached is
//! found out by probes; what the daemons make of it they say themselves.

use std::{fmt::Write as _, fs, time::Instant};

use anyhow::{Context, Result, ensure};

use super::Scenario;
use crate::lab::{Babeld, Bird, Dedicated, Lab, PATIENCE, Wgrouted, wait_for, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new("reach-bird", "BIRD's protocols follow their peers, whatever restarts", bird)
        .on_newest(),
    Scenario::new(
        "reach-babeld",
        "babeld's interfaces follow their peers, whatever restarts",
        babeld,
    )
    .on_newest()
    .within(300),
];

const BIRD: &str = "router id 10.100.0.254;\n\
                    protocol static s1_v4 { ipv4; route 203.0.113.0/24 via \"wg1\"; }\n\
                    protocol static s1_v6 { ipv6; route 2001:db8:1::/48 via \"wg1\"; }\n\
                    protocol static s2_v4 { ipv4; route 203.0.113.0/24 via \"wg2\" { preference = 90; }; }\n\
                    protocol kernel { ipv4 { export all; }; }\n\
                    protocol kernel { ipv6 { export all; }; }\n";

/// Dedicated links, watched closely. `link` and `peer` add to what is configured of each.
pub(super) fn config(
    net: &Dedicated,
    reach: &str,
    link: &str,
    peer: impl Fn(&str) -> String,
) -> Result<String> {
    let mut text = format!("[reach]\n{reach}\n");
    for star in &net.links {
        let spoke = star.spoke(1)?;
        let (name, key) = (spoke.name(), spoke.wg.public_key());
        let pinned: Vec<_> =
            spoke.inner.prefixes().iter().map(|prefix| format!("\"{prefix}\"")).collect();
        writeln!(
            text,
            "[[interface]]\nname = \"{}\"\nlink = \"dedicated\"\n[interface.reach]\n\
             interval = \"100ms\"\nhold_down = \"0ms\"\n{link}\n[[interface.peer]]\n\
             name = \"{name}\"\npublic_key = \"{key}\"\npinned = [{}]\n{}",
            star.wg.name(),
            pinned.join(", "),
            peer(name)
        )?;
    }
    Ok(text)
}

/// Whether BIRD reports these protocols as up.
fn are_up(bird: &Bird, protocols: &[&str]) -> Result<Vec<bool>> {
    let text = bird.ask("show protocols")?;
    let state = |name: &&str| {
        let row = text.lines().find(|line| line.split_whitespace().next() == Some(*name));
        let state = row.and_then(|row| row.split_whitespace().nth(3));
        Ok(state.with_context(|| format!("no protocol {name} in {text}"))? == "up")
    };
    protocols.iter().map(state).collect()
}

fn bird(lab: &mut Lab) -> Result<()> {
    const ALL: [&str; 3] = ["s1_v4", "s1_v6", "s2_v4"];
    let net = Dedicated::new(lab, 2)?;
    let hub = net.hub.clone();
    let mut bird = Bird::start(&hub, BIRD)?;
    let reach = format!("bird = \"{}\"", hub.dir().join("bird.ctl").display());
    let peer = |name: &str| {
        let of = ALL.iter().filter(|protocol| protocol.starts_with(name));
        let of: Vec<_> = of.map(|protocol| format!("\"{protocol}\"")).collect();
        format!("[interface.peer.reach]\nbird = [{}]", of.join(", "))
    };
    let mut daemon = lab.wgrouted_with(&hub, &config(&net, &reach, "", peer)?)?;
    daemon.start()?;
    daemon.wait_log("connected to BIRD 2.")?;
    let wait = |bird: &Bird, want: [bool; 3]| {
        let begun = Instant::now();
        let what = format!("{ALL:?} to be up: {want:?}");
        wait_until(what, PATIENCE, || are_up(bird, &ALL), |up| *up == want)?;
        Ok::<_, anyhow::Error>(begun.elapsed())
    };
    wait(&bird, [true; 3])?;

    let first = net.spoke(1)?;
    first.link.cut()?;
    let took = wait(&bird, [false, false, true])?;
    lab.say(format!("cut: disabled after {took:?}"));
    ensure!(took.as_secs() < 2, "{took:?}");
    wait_for("the way by wg2", PATIENCE, || {
        Ok(hub.ip("route show 203.0.113.0/24")?.contains("dev wg2"))
    })?;

    lab.say("BIRD is restarted, and somebody enables everything");
    bird.process().kill()?;
    daemon.wait_log("BIRD's control socket")?;
    bird = Bird::start(&hub, BIRD)?;
    wait(&bird, [false, false, true])?;
    bird.ask("enable all")?;
    wait(&bird, [false, false, true])?;
    bird.configure(&BIRD.replace("203.0.113.0/24", "203.0.113.0/25"))?;
    wait(&bird, [false, false, true])?;

    lab.say("wgrouted is killed while the peer is away, and the peer is back before it");
    daemon.kill()?;
    first.link.mend()?;
    ensure!(are_up(&bird, &ALL)? == [false, false, true], "nobody enables them");
    daemon.start()?;
    wait(&bird, [true; 3])?;

    lab.say("what is disabled at the end is left to BIRD");
    first.link.cut()?;
    wait(&bird, [false, false, true])?;
    daemon.terminate()?;
    ensure!(are_up(&bird, &ALL)? == [true; 3], "left disabled");
    ensure!(daemon.log()?.contains("s1_v4 of BIRD disabled"), "not told");
    Ok(())
}

/// babeld insists on an interface of its own.
pub(super) const OWN: &str = "skip-kernel-setup true\ninterface nobody\nredistribute local deny";

/// What babeld says of a link.
fn has(babeld: &Babeld, what: &[&str]) -> Result<bool> {
    let text = babeld.ask("dump")?;
    Ok(text.lines().any(|line| what.iter().all(|word| line.contains(word))))
}

fn babeld(lab: &mut Lab) -> Result<()> {
    const OPTIONS: &str = "type wired hello-interval 1 update-interval 4";
    let net = Dedicated::new(lab, 1)?;
    net.open()?;
    let (hub, spoke) = (net.hub.clone(), net.spoke(1)?);
    let mut babeld = Babeld::start(&hub, &[], OWN)?;
    let theirs = format!("skip-kernel-setup true\ninterface wg0 {OPTIONS}\n");
    let _theirs = Babeld::start(&spoke.node, &[], &theirs)?;
    let reach = format!("babeld = \"{}\"", hub.dir().join("babeld.ctl").display());
    let link = format!("[interface.reach.babeld]\noptions = \"{OPTIONS}\"\nrxcost = 100");
    let mut daemon = lab.wgrouted_with(&hub, &config(&net, &reach, &link, |_| String::new())?)?;
    daemon.start()?;
    let neighbour = |babeld: &Babeld, words: &[&str]| {
        let begun = Instant::now();
        let words = [&["add neighbour", "if wg1 "], words].concat();
        wait_for(format!("{words:?}"), PATIENCE, || has(babeld, &words))?;
        Ok::<_, anyhow::Error>(begun.elapsed())
    };
    let used = |babeld: &Babeld, want: bool| {
        let begun = Instant::now();
        let what = format!("wg1 to be in use: {want}");
        wait_for(what, PATIENCE, || Ok(has(babeld, &["add interface wg1 "])? == want))?;
        Ok::<_, anyhow::Error>(begun.elapsed())
    };
    used(&babeld, true)?;
    neighbour(&babeld, &["rxcost 10"])?;

    lab.say("the cable is cut");
    spoke.link.cut()?;
    let took = used(&babeld, false)?;
    lab.say(format!("flushed after {took:?}"));
    ensure!(took.as_secs() < 2, "{took:?}");
    spoke.link.mend()?;
    used(&babeld, true)?;
    neighbour(&babeld, &["rxcost 10"])?;

    lab.say("200 ms are added");
    spoke.link.delay(std::time::Duration::from_millis(200))?;
    let slow = |line: &str| {
        line.split(' ')
            .skip_while(|word| *word != "rxcost")
            .nth(1)
            .is_some_and(|cost| cost.parse().is_ok_and(|cost: u32| (250..1000).contains(&cost)))
    };
    let begun = Instant::now();
    wait_for("rxcost to follow", PATIENCE * 4, || {
        let text = babeld.ask("dump")?;
        Ok(text.lines().any(|line| line.starts_with("add neighbour") && slow(line)))
    })?;
    lab.say(format!("rxcost followed after {:?}", begun.elapsed()));

    lab.say("babeld is restarted, with a socket that is read-only, then with the right one");
    babeld.process().kill()?;
    for file in ["babeld.ctl", "babeld.pid"] {
        let _ = fs::remove_file(hub.dir().join(file));
    }
    babeld = Babeld::start(
        &hub,
        &[],
        &format!("local-path {}\n{OWN}", hub.dir().join("babeld.ctl").display()),
    )?;
    daemon.wait_log("it is read-only")?;
    ensure!(!has(&babeld, &["add interface wg1 "])?, "babeld obeyed");
    babeld.process().kill()?;
    for file in ["babeld.ctl", "babeld.pid"] {
        let _ = fs::remove_file(hub.dir().join(file));
    }
    babeld = Babeld::start(&hub, &[], OWN)?;
    used(&babeld, true)?;
    finish(&mut daemon)?;
    ensure!(has(&babeld, &["add interface wg1 "])?, "on_exit is keep");
    Ok(())
}

fn finish(daemon: &mut Wgrouted) -> Result<()> {
    let status = daemon.terminate()?;
    ensure!(status.success(), "{status}");
    Ok(())
}
