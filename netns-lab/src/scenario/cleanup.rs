//! `wgrouted cleanup`: what was made goes, and nothing else.

use anyhow::{Result, ensure};

use super::{
    Scenario,
    support::{NET4, star},
};
use crate::lab::{Lab, Node, PATIENCE, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "cleanup",
    "what a killed daemon has left goes, what others made stays, and a running daemon is in the way",
    cleanup,
)];

/// Links and routes, the ones that nobody makes by himself left out.
fn state(node: &Node) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for words in ["-brief link", "-brief address", "rule", "route show table all", "nexthop"] {
        all.extend(node.ip(words)?.lines().map(str::to_owned));
    }
    // Of these the kernel alone decides when they come.
    all.retain(|line| !line.contains("fe80:") && !line.starts_with("multicast"));
    all.sort();
    Ok(all)
}

fn cleanup(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 1)?;
    let (hub, spoke) = (star.hub.clone(), star.spoke(1)?);
    // Somebody else's: a link, a route, and one of our protocol elsewhere.
    hub.ip("link add other type wireguard")?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1 protocol static"))?;
    hub.ip(&format!("route add 10.5.0.0/16 dev {} protocol 119", spoke.link.a.device))?;
    let before = state(&hub)?;

    let key = hub.write_file("made.key", &hub.run("wg", ["genkey"])?)?;
    let config = format!(
        "[[interface]]\nname = \"wg0\"\nlink = \"shared\"\n\
         [interface.reach]\nprobe = \"icmp\"\ninterval = \"200ms\"\nannounce = {{}}\n\
         [[interface.peer]]\nname = \"s1\"\npublic_key = \"{}\"\n\
         pinned = [\"10.99.0.1/32\"]\n\
         [[interface]]\nname = \"made\"\nlink = \"dedicated\"\nmanage = true\n\
         private_key_file = \"{}\"\nlisten_port = 51999\naddresses = [\"10.7.0.1/24\"]\n",
        spoke.wg.public_key(),
        key.display()
    );
    let mut daemon = lab.wgrouted_with(&hub, &config)?;
    daemon.start()?;
    let announced = || hub.ip("route show protocol 119 dev wg0");
    wait_until("the announced route", PATIENCE, announced, |text| text.contains("10.99.0.1"))?;

    let file = hub.write_file("cleanup.toml", &config)?.display().to_string();
    let clean = ["cleanup", "--config", &file];
    let refused = daemon.refused(&clean)?;
    ensure!(refused.contains("a daemon runs") && refused.contains("stop it first"), "{refused}");
    let elsewhere =
        lab.wgrouted_once(&hub, &[&clean[..], &["--runtime-dir", "/nowhere"]].concat())?;
    let error = String::from_utf8(elsewhere.stderr)?;
    ensure!(
        elsewhere.status.code() == Some(1)
            && error.contains("already followed by another wgrouted"),
        "its locks are in the way: {error}"
    );
    daemon.kill()?;

    let left = state(&hub)?;
    ensure!(left != before, "nothing was left");
    let plan = daemon.run(&[&clean[..], &["--dry-run"]].concat())?;
    lab.say(&plan);
    ensure!(state(&hub)? == left, "a dry run changed something");
    for part in ["wg0: remove route 10.99.0.1/32", "made: delete it"] {
        ensure!(plan.contains(part), "no `{part}` in:\n{plan}");
    }
    ensure!(daemon.run(&clean)? == plan, "done is what was said");
    let after = state(&hub)?;
    ensure!(after == before, "not as it was: {before:#?}, then {after:#?}");
    let again = daemon.run(&clean)?;
    ensure!(again == "nothing to remove\n", "{again}");
    Ok(())
}
