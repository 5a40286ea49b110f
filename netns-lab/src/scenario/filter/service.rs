//! The filter under systemd.
//!
//! Here lives the daemon as the shipped unit and its drop-in start it: as a user of its own, with
//! the capabilities and folders that they give it and nothing else.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    support::{DISCARD, Fate::Dropped, MANY, both, counted_in, new_label},
};
use crate::{
    lab::{Dedicated, Host, Injector, Lab, PATIENCE, Systemd, Tap, wait_for, wait_until},
    scenario::{
        Skip,
        service::{CONFIG, UNIT, boot, confined},
        support::is_own_machine,
    },
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "filter-systemd",
    "systemd runs the daemon with the shipped drop-in: it filters, killed and stopped too",
    filtered_by_a_unit,
)
.within(300)];

const DROP_IN: (&str, &[u8]) = (
    "/etc/systemd/system/wgrouted.service.d/filter.conf",
    include_bytes!("../../../../wgrouted/dist/wgrouted.service.d/filter.conf"),
);
/// CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON and CAP_BPF (include/uapi/linux/capability.h).
const CAPABILITIES: u64 = 1 << 12 | 1 << 13 | 1 << 38 | 1 << 39;
/// As systemd mounts it (its `mount_table`), though not in a container, which this one is.
const BPFFS: [&str; 6] = ["-t", "bpf", "-o", "nosuid,nodev,noexec,mode=0700", "bpf", "/sys/fs/bpf"];

fn filtered_by_a_unit(lab: &mut Lab) -> Result<()> {
    if !is_own_machine() {
        return Err(Skip("systemd wants the machine's control groups".to_owned()).into());
    }
    let net = Dedicated::new(lab, 3)?;
    net.open()?;
    let config: String = (1..=net.links.len())
        .map(|number| {
            format!(
                "[[interface]]\nname = \"wg{number}\"\nlink = \"dedicated\"\n\
                 filter = {{ source = \"strict\" }}\n"
            )
        })
        .collect();
    let program = std::fs::read(lab.program())?;
    let systemd = boot(&net.hub, &program, &[DROP_IN, (CONFIG, config.as_bytes())])?;
    // The machine's own, which would lie beneath.
    systemd.run(&["umount", "/sys/fs/bpf"])?;
    systemd.run(&[&["mount"][..], &BPFFS].concat())?;
    let done = live_with(lab, &net, &systemd);
    if done.is_err() {
        lab.say(systemd.journal()?);
    }
    done
}

fn live_with(lab: &Lab, net: &Dedicated, systemd: &Systemd) -> Result<()> {
    let verify = format!("systemd-analyze verify --man=no {UNIT} 2>&1");
    let complaints = systemd.run(&["sh", "-c", &verify])?;
    ensure!(complaints.is_empty(), "systemd-analyze says: {complaints}");
    let tap = net.host.tap()?;
    let main_pid = || systemd.property(UNIT, "MainPID");

    lab.say("start");
    systemd.systemctl("start", UNIT)?;
    wait_in_force(systemd)?;
    let first = main_pid()?;
    confined(systemd, &first, CAPABILITIES)?;
    lab.say(systemd.run(&["wgrouted", "filter", "show"])?);
    only_own_sources(net, &tap)?;
    let dropped = || counted_in(&show(systemd)?, "wg3", Dropped("other-peer"));
    let both_families = 2 * MANY;
    wait_until("the drops to be counted", PATIENCE, dropped, |count| *count == both_families)?;

    lab.say("SIGKILL");
    systemd.run(&["systemctl", "kill", "--signal=KILL", UNIT])?;
    only_own_sources(net, &tap)?;
    wait_until("another process", PATIENCE, main_pid, |pid| *pid != first && pid != "0")?;
    systemd.wait_property(UNIT, "ActiveState", "active")?;
    wait_in_force(systemd)?;
    only_own_sources(net, &tap)?;
    wait_until("the counters to go on", PATIENCE, dropped, |count| *count == 3 * both_families)?;

    lab.say("stop, which leaves the filter in force");
    systemd.systemctl("stop", UNIT)?;
    let end = [systemd.property(UNIT, "ActiveState")?, systemd.property(UNIT, "Result")?];
    ensure!(end == ["inactive", "success"], "after the stop it is {end:?}");
    only_own_sources(net, &tap)?;

    lab.say("start again, which finds what it left");
    systemd.systemctl("start", UNIT)?;
    wait_in_force(systemd)?;
    only_own_sources(net, &tap)?;
    wait_until("the counters to go on", PATIENCE, dropped, |count| *count == 5 * both_families)?;
    systemd.systemctl("stop", UNIT)
}

fn show(systemd: &Systemd) -> Result<Value> {
    let text = systemd.run(&["wgrouted", "filter", "show", "--json"])?;
    serde_json::from_str(&text).context("wgrouted filter show")
}

fn wait_in_force(systemd: &Systemd) -> Result<()> {
    wait_for("the filter to be in force", PATIENCE, || Ok(show(systemd)?["state"] == "in-force"))
}

/// Asserts that of s3's packets those with its own sources arrive, and none with those of s1.
fn only_own_sources(net: &Dedicated, tap: &Tap) -> Result<()> {
    let injector = Injector::open(&net.spoke(3)?.node, "wg0")?;
    let send = |spoke: u8| -> Result<Vec<u16>> {
        let sources = both(spoke).into_iter();
        let sent = sources.map(|from| {
            let route = Host::route_from(from, new_label());
            let packet = route.udp(40000, DISCARD);
            (0..MANY).try_for_each(|_| injector.send(&packet))?;
            Ok(route.label)
        });
        sent.collect()
    };
    let (spoofed, own) = (send(1)?, send(3)?);
    // Packets of a peer stay in order: when the last ones arrive, the others are through.
    for label in own {
        tap.wait(label, MANY)?;
    }
    let arrived: u64 = spoofed.iter().map(|label| tap.count(*label)).sum();
    ensure!(arrived == 0, "{arrived} spoofed packets arrived");
    Ok(())
}
