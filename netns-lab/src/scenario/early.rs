//! Flows in force before the network is up.
//!
//! Here lives the shipped unit for early boot, run by systemd itself.

use std::fs;

use anyhow::{Result, ensure};

use super::{
    Scenario, Skip,
    service::{CONFIG, UNIT, boot},
    support::{is_own_machine, star},
};
use crate::lab::{Lab, Star, Systemd};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-early",
    "systemd runs the shipped unit for early boot: blocked before there is a link, taken over later",
    early,
)
.within(120)];

/// The unit for early boot.
const EARLY: &str = "wgrouted-early.service";
const FILE: (&str, &[u8]) = (
    "/etc/systemd/system/wgrouted-early.service",
    include_bytes!("../../../wgrouted/dist/wgrouted-early.service"),
);

/// A flow for an exit whose link does not exist.
const FLOWS: &str = r#"
[[interface]]
name = "wg0"
[[interface]]
name = "wg-exit"
link = "dedicated"
[[exit]]
name = "private"
via = ["wg-exit"]
when_down = "block"
[[flow]]
mark = 16
exit = "private"
"#;

fn early(lab: &mut Lab) -> Result<()> {
    if !is_own_machine() {
        return Err(Skip("systemd wants the machine's control groups".to_owned()).into());
    }
    let star = star(lab, 1)?;
    let program = fs::read(lab.program())?;
    let systemd = boot(&star.hub, &program, &[FILE, (CONFIG, FLOWS.as_bytes())])?;
    let done = live_with(lab, &star, &systemd);
    if done.is_err() {
        lab.say(systemd.journal()?);
    }
    done
}

fn live_with(lab: &Lab, star: &Star, systemd: &Systemd) -> Result<()> {
    let hub = &star.hub;
    let verify = format!("systemd-analyze verify --man=no {EARLY} 2>&1");
    let complaints = systemd.run(&["sh", "-c", &verify])?;
    ensure!(complaints.is_empty(), "systemd-analyze says of {EARLY}: {complaints}");
    hub.ip("route add default via 10.99.0.1")?;
    hub.ip("-6 route add default via fd99::1")?;
    let packets = ["-4 route get 192.0.2.1 mark 16", "-6 route get 2001:db8::1 mark 16"];
    for packet in packets {
        ensure!(hub.ip(packet).is_ok(), "{packet}: blocked by nobody");
    }
    systemd.systemctl("start", EARLY)?;
    for packet in packets {
        let got = hub.ip(packet);
        ensure!(got.is_err(), "{packet}: {got:?} after {EARLY}");
    }
    let (rules, nexthops) = (hub.ip("rule")?, hub.ip("nexthop")?);
    lab.say(rules.lines().find(|line| line.contains("fwmark")).unwrap_or_default());
    ensure!(nexthops.is_empty(), "{nexthops}");

    lab.say("the daemon takes over, and stops");
    systemd.systemctl("start", UNIT)?;
    ensure!(hub.ip("rule")?.lines().filter(|line| line.contains("fwmark")).count() == 1);
    // One rule more, for WireGuard's own packets: its device exists.
    systemd.systemctl("stop", UNIT)?;
    for packet in packets {
        ensure!(hub.ip(packet).is_err(), "{packet} leaks after the stop");
    }
    Ok(())
}
