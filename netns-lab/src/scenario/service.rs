//! The daemon as a service.
//!
//! Here lives what it owes to the service manager that started it: a stand-in that only listens,
//! and systemd itself with the units that are shipped.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::{
    Scenario, Skip,
    support::{Hub, NET4, NET6, V4, expect_allowed_ips, flows, is_own_machine, pinned, star},
};
use crate::lab::{
    AllowedIps, Lab, Node, Owner, PATIENCE, Star, Systemd, Train, Wgrouted, routes::Op, wait_until,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "notify",
        "readiness, signs of life and the end are told to systemd in time, with 100,000 routes",
        notify,
    )
    .within(300),
    Scenario::new(
        "systemd-units",
        "systemd runs the shipped units: ready, confined, reloaded, restarted, stopped, no loss",
        units,
    )
    .within(300),
];

/// The unit that reads a configuration.
pub(super) const UNIT: &str = "wgrouted.service";
const TEMPLATE: &str = "wgrouted@wg0.service";
const FILES: &[(&str, &[u8])] = &[
    (
        "/etc/systemd/system/wgrouted.service",
        include_bytes!("../../../wgrouted/dist/wgrouted.service"),
    ),
    (
        "/etc/systemd/system/wgrouted@.service",
        include_bytes!("../../../wgrouted/dist/wgrouted@.service"),
    ),
    ("/etc/sysusers.d/wgrouted.conf", include_bytes!("../../../wgrouted/dist/wgrouted.sysusers")),
];
/// What [`UNIT`] reads.
pub(super) const CONFIG: &str = "/etc/wgrouted/wgrouted.toml";

/// CAP_NET_ADMIN (include/uapi/linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;
/// CAP_NET_RAW, which ICMP probes need.
const NET_RAW: u64 = 1 << 13;

const READY: &str = "READY=1";
const ALIVE: &str = "WATCHDOG=1";
const STOPPING: &str = "STOPPING=1";

/// `WatchdogSec=`. systemd wants a sign of life every half of it and kills after the whole.
const INTERVAL: Duration = Duration::from_secs(6);
/// A sign of life may come this long after the other: half the interval, and some time to be
/// scheduled on a busy machine.
const SILENCE: Duration = Duration::from_millis(5200);

/// Small messages, so that the table takes a while.
fn config(tables: &str) -> String {
    format!(
        "[daemon]\naudit_interval = \"off\"\n\
         [[interface]]\nname = \"wg0\"\nmessage_size = \"1KiB\"\ntables = {tables}\n"
    )
}

fn notify(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 2)?;
    let daemon = lab.wgrouted_with(&star.hub, &config("[\"main\"]"))?.watched(INTERVAL);
    let mut hub = Hub { star, daemon };
    let prefixes: Vec<IpNet> = (0..100_000)
        .map(|i| Ok(IpNet::new(Ipv4Addr::from_bits((20 << 24) + (i << 8)).into(), 24)?))
        .collect::<Result<_>>()?;
    let owned_by = |spoke: &str| -> AllowedIps {
        prefixes.iter().map(|prefix| (*prefix, Owner::from(spoke))).collect()
    };
    let (first, second): (IpAddr, IpAddr) = ("10.99.0.1".parse()?, "10.99.0.2".parse()?);
    hub.routes(Op::Add, first, &prefixes)?;

    lab.say("the daemon finds 100,000 routes");
    let own = pinned(&hub.star);
    hub.daemon.spawn()?;
    // The device has been read, the routes are being read.
    hub.daemon.wait_log("interface adopted")?;
    // What it has said and what there is can be compared while it stands still.
    hub.daemon.process()?.pause()?;
    let (all, now) = (own.len() + prefixes.len(), hub.star.wg.allowed_ips()?.len());
    let ready = said(&hub.daemon, READY).is_some();
    lab.say(format_args!("stopped at {now} of {all} AllowedIPs, ready: {ready}"));
    ensure!(now == all || !ready, "READY=1 was said with {now} of {all} AllowedIPs");
    hub.daemon.process()?.resume()?;
    let resumed = Instant::now();
    hub.daemon.wait_ready()?;
    let count = hub.star.wg.allowed_ips()?.len();
    ensure!(count == all, "READY=1 was said with {count} of {all} AllowedIPs");
    alive(lab, &hub.daemon, "a table was taken in", resumed)?;

    lab.say("an event shortly before a sign of life is due");
    let count = || Ok(hub.daemon.told().iter().filter(|(_, line)| line == ALIVE).count());
    let before = count()?;
    let since = Instant::now();
    let another = |least: usize| {
        wait_until("a sign of life", INTERVAL * 2, count, move |count| *count >= least)
    };
    another(before + 1)?;
    // What is measured is a stretch of time, so this one is slept.
    thread::sleep(INTERVAL / 2 - Duration::from_millis(500));
    hub.daemon.show("status")?;
    another(before + 2)?;
    alive(lab, &hub.daemon, "it was asked", since)?;

    lab.say("all of them move, and the configuration is loaded again meanwhile");
    let since = Instant::now();
    hub.routes(Op::Replace, second, &prefixes)?;
    hub.daemon.reload(&config("[\"main\", 1000]"))?;
    hub.expect_table(&owned_by("s2"))?;
    alive(lab, &hub.daemon, "a table moved and the configuration was loaded", since)?;

    lab.say("the end");
    let status = hub.daemon.terminate()?;
    ensure!(status.success(), "the daemon ended with {status}");
    wait_until(
        STOPPING,
        PATIENCE,
        || Ok(said(&hub.daemon, STOPPING)),
        |at: &Option<Instant>| at.is_some(),
    )?;
    let told = hub.daemon.told();
    let states: Vec<&str> =
        told.iter().map(|(_, line)| line.as_str()).filter(|line| *line != ALIVE).collect();
    ensure!(states == [READY, STOPPING], "it told {states:?}");
    hub.expect_table(&owned_by("s2"))
}

/// When the daemon said this first.
fn said(daemon: &Wgrouted, line: &str) -> Option<Instant> {
    daemon.told().into_iter().find_map(|(at, said)| (said == line).then_some(at))
}

/// Asserts that it gave signs of life from `since` to now.
fn alive(lab: &Lab, daemon: &Wgrouted, when: &str, since: Instant) -> Result<()> {
    let now = Instant::now();
    let signs = daemon.told().into_iter().filter(|(_, line)| line == ALIVE).map(|(at, _)| at);
    let mut times: Vec<Instant> = signs.filter(|at| *at > since && *at < now).collect();
    times.extend([since, now]);
    times.sort_unstable();
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    let longest = gaps.max().context("two times have a gap")?;
    lab.say(format_args!("{} signs of life, at most {longest:.1?} apart", times.len() - 2));
    ensure!(longest <= SILENCE, "no sign of life for {longest:.1?} while {when}");
    Ok(())
}

fn units(lab: &mut Lab) -> Result<()> {
    if !is_own_machine() {
        return Err(Skip("systemd wants the machine's control groups".to_owned()).into());
    }
    let star = star(lab, 2)?;
    let program = fs::read(lab.program())?;
    let systemd = boot(&star.hub, &program, &[(CONFIG, b"[[interface]]\nname = \"wg0\"\n")])?;
    let version = systemd.run(&["systemctl", "--version"])?;
    lab.say(format_args!("{} is up", version.lines().next().unwrap_or_default()));
    let done = live_with(lab, &star, &systemd);
    if done.is_err() {
        lab.say(systemd.journal()?);
    }
    done
}

/// Boots systemd with the units that are shipped, this program, and these files.
pub(super) fn boot(node: &Node, program: &[u8], files: &[(&str, &[u8])]) -> Result<Systemd> {
    let files = [FILES, &[("/usr/bin/wgrouted", program)], files].concat();
    let systemd = Systemd::boot(node, &files)?;
    systemd.run(&["chmod", "755", "/usr/bin/wgrouted"])?;
    Ok(systemd)
}

fn live_with(lab: &Lab, star: &Star, systemd: &Systemd) -> Result<()> {
    let extra = "203.0.113.0/24";
    let main_pid = || systemd.property(UNIT, "MainPID");
    for unit in [UNIT, TEMPLATE] {
        let verify = format!("systemd-analyze verify --man=no {unit} 2>&1");
        let complaints = systemd.run(&["sh", "-c", &verify])?;
        ensure!(complaints.is_empty(), "systemd-analyze says of {unit}: {complaints}");
        // It fails above the threshold, which is ten times the level that it prints.
        let judge = ["systemd-analyze", "security", "--offline=true", "--threshold=20", unit];
        let judgement = systemd.run(&judge)?;
        lab.say(judgement.lines().rfind(|line| line.contains("exposure")).unwrap_or_default());
    }
    star.hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;

    lab.say("start, which ends when the daemon is ready");
    systemd.systemctl("start", UNIT)?;
    let owners = star.wg.allowed_ips()?;
    ensure!(owners.contains_key(&NET4.parse()?), "ready with {owners:?}");
    expect_allowed_ips(star, &[(NET4, "s1")])?;
    let first = main_pid()?;
    confined(systemd, &first, NET_ADMIN | NET_RAW)?;
    let directory = systemd.run(&["stat", "--format=%U %a", "/run/wgrouted"])?;
    ensure!(directory.trim() == "wgrouted 750", "/run/wgrouted is {directory}");
    flows(star, V4, 1)?;
    let train = Train::start(&star.hub, V4.parse::<IpAddr>()?, Duration::from_millis(1))?;

    lab.say("reload with another table");
    star.hub.ip(&format!("route add {extra} via 10.99.0.2 table 1000"))?;
    systemd.write(CONFIG, "[[interface]]\nname = \"wg0\"\ntables = [\"main\", 1000]\n")?;
    systemd.systemctl("reload", UNIT)?;
    expect_allowed_ips(star, &[(NET4, "s1"), (extra, "s2")])?;
    ensure!(main_pid()? == first, "a reload started another process");

    lab.say("SIGKILL");
    train.run(100)?;
    systemd.run(&["systemctl", "kill", "--signal=KILL", UNIT])?;
    wait_until("another process", PATIENCE, main_pid, |pid| *pid != first && pid != "0")?;
    systemd.wait_property(UNIT, "ActiveState", "active")?;
    ensure!(systemd.property(UNIT, "NRestarts")? == "1", "not one restart");
    train.run(100)?;
    // What the first one installed is not taken for the peers' own by the second.
    star.hub.ip(&format!("route del {extra} table 1000"))?;
    star.hub.ip(&format!("route add {NET6} via fd99::2"))?;
    expect_allowed_ips(star, &[(NET4, "s1"), (NET6, "s2")])?;

    lab.say("a process that hangs is killed after 30 s, without a sign of life");
    let hung = main_pid()?;
    systemd.run(&["systemctl", "kill", "--signal=STOP", UNIT])?;
    wait_until("another process", PATIENCE, main_pid, |pid| *pid != hung && pid != "0")?;
    systemd.wait_property(UNIT, "ActiveState", "active")?;
    ensure!(systemd.journal()?.contains("Watchdog timeout"), "not by the watchdog");

    lab.say("a wrong configuration: a reload goes on, a restart fails once and for all");
    let second = main_pid()?;
    systemd.write(CONFIG, "[[interface]]\nname = \"wg0\"\ncolour = \"blue\"\n")?;
    systemd.systemctl("reload", UNIT)?;
    wait_until("the complaint", PATIENCE, || systemd.journal(), |log| log.contains("colour"))?;
    ensure!(main_pid()? == second, "a wrong configuration ended the daemon");
    ensure!(systemd.systemctl("restart", UNIT).is_err(), "it runs with a wrong configuration");
    systemd.wait_property(UNIT, "ActiveState", "failed")?;
    let status = systemd.property(UNIT, "ExecMainStatus")?;
    ensure!(status == "2", "it ended with exit code {status}");
    systemd.write(CONFIG, "[[interface]]\nname = \"wg0\"\n")?;
    systemd.systemctl("start", UNIT)?;

    lab.say("stop");
    systemd.systemctl("stop", UNIT)?;
    let end = [systemd.property(UNIT, "ActiveState")?, systemd.property(UNIT, "Result")?];
    ensure!(end == ["inactive", "success"], "after the stop it is {end:?}");
    expect_allowed_ips(star, &[(NET4, "s1"), (NET6, "s2")])?;
    train.run(100)?;
    let report = train.stop()?;
    lab.say(&report);
    report.assert_no_loss()?;

    lab.say("the same interface by the template, which remembers nothing of the other");
    for spoke in &star.spokes {
        star.wg.set_allowed_ips(spoke.name(), &spoke.inner.prefixes())?;
    }
    systemd.systemctl("start", TEMPLATE)?;
    confined(systemd, &systemd.property(TEMPLATE, "MainPID")?, NET_ADMIN)?;
    star.hub.ip(&format!("route replace {NET6} via fd99::1"))?;
    expect_allowed_ips(star, &[(NET4, "s1"), (NET6, "s1")])?;
    let shown = systemd.run(&["wgrouted", "show", "routes", "--runtime-dir=/run/wgrouted/wg0"])?;
    ensure!(shown.contains(NET6), "{shown}");
    systemd.systemctl("stop", TEMPLATE)?;
    flows(star, V4, 1)
}

/// Asserts that each thread of a process has these capabilities and no others, and can get no more.
pub(super) fn confined(systemd: &Systemd, pid: &str, capabilities: u64) -> Result<()> {
    let script = format!("cat /proc/{pid}/task/*/status");
    let status = systemd.run(&["sh", "-c", &script])?;
    let fields = |name: &str| -> Vec<&str> {
        let values = status.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
        values.collect()
    };
    let mask = format!("{capabilities:016x}");
    for (name, wanted) in [
        ("CapEff", mask.as_str()),
        ("CapPrm", mask.as_str()),
        ("CapBnd", mask.as_str()),
        ("NoNewPrivs", "1"),
        // A filter of system calls.
        ("Seccomp", "2"),
    ] {
        let values = fields(name);
        let right = !values.is_empty() && values.iter().all(|value| *value == wanted);
        ensure!(right, "{name} of the threads is {values:?}, not {wanted}");
    }
    let owner = systemd.run(&["stat", "--format=%U", &format!("/proc/{pid}")])?;
    ensure!(owner.trim() == "wgrouted", "it runs as {owner}");
    Ok(())
}
