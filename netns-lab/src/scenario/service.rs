//! The daemon as a service.
//!
//! Here lives what it owes to the service manager that started it: a stand-in that only listens,
//! and systemd itself with the units that are shipped.

use std::{
    net::{IpAddr, Ipv4Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::{
    Scenario,
    support::{Hub, pinned, star},
};
use crate::lab::{AllowedIps, Lab, Owner, PATIENCE, Wgrouted, routes::Op, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "notify",
    "readiness, signs of life and the end are told to systemd in time, with 100,000 routes",
    notify,
)
.within(300)];

const READY: &str = "READY=1";
const ALIVE: &str = "WATCHDOG=1";
const STOPPING: &str = "STOPPING=1";

/// `WatchdogSec=`. systemd wants a sign of life every half of it and kills after the whole.
const INTERVAL: Duration = Duration::from_secs(6);
/// A sign of life may come this long after the other: half the interval, and some time to be
/// scheduled on a busy machine.
const SILENCE: Duration = Duration::from_millis(4500);

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
