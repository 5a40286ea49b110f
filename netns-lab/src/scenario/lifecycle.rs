//! The daemon's own life.
//!
//! Here live crashes, restarts, ends and reloads under traffic.

use std::{net::Ipv4Addr, thread, time::Duration};

use anyhow::{Result, ensure};
use ipnet::IpNet;

use super::{
    Scenario,
    support::{Hub, NET4, NET6, V4, V6},
};
use crate::lab::{AllowedIps, Lab, Owner, routes::Op};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "killed-and-restarted",
        "SIGKILL under traffic loses no packet; a restart catches up with what happened meanwhile",
        killed,
    ),
    Scenario::new(
        "terminated",
        "SIGTERM leaves traffic flowing and AllowedIPs as they are",
        terminated,
    ),
    Scenario::new(
        "reload",
        "SIGHUP changes what the new configuration changes, and nothing else",
        reload,
    ),
    Scenario::new(
        "overrun",
        "200,000 routes outrun a small receive buffer; the end is exact all the same",
        overrun,
    )
    .within(300),
    Scenario::new(
        "idle-after-burst",
        "after a burst of 10,000 routes the daemon takes no more processor time",
        idle,
    ),
];

const INTERVAL: Duration = Duration::from_millis(1);

fn killed(lab: &mut Lab) -> Result<()> {
    let mut hub = Hub::new(lab, 3)?;
    let (gone, new) = ("192.0.2.0/24", "203.0.113.0/24");
    hub.ip_batch(&format!(
        "route add {NET4} via 10.99.0.1\n\
         route add {NET6} via fd99::1\n\
         route add {gone} via 10.99.0.2\n"
    ))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1"), (gone, "s2")])?;
    let train = hub.train(V4, INTERVAL)?;
    for round in 0..3 {
        train.run(100)?;
        hub.daemon.kill()?;
        lab.say(format_args!("killed; round {round}: one route goes, one comes, one moves"));
        let spoke = if round % 2 == 0 { 2 } else { 1 };
        hub.ip_batch(&format!(
            "route {} {gone} via 10.99.0.2\n\
             route {} {new} via 10.99.0.3\n\
             route replace {NET6} via fd99::{spoke}\n",
            if round % 2 == 0 { "del" } else { "add" },
            if round % 2 == 0 { "add" } else { "del" },
        ))?;
        train.run(100)?;
        hub.expect_moved(&[(NET4, "s1")])?;
        hub.daemon.start()?;
        let other = if round % 2 == 0 { (new, "s3") } else { (gone, "s2") };
        let owner = hub.spoke(spoke)?.name().to_owned();
        hub.expect(&[(NET4, "s1"), (NET6, &owner), other])?;
        hub.flows(V6, spoke)?;
    }
    train.run(100)?;
    let report = train.stop()?;
    lab.say(&report);
    report.assert_no_loss()
}

fn terminated(lab: &mut Lab) -> Result<()> {
    let mut hub = Hub::new(lab, 1)?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.ip(&format!("route add {NET6} via fd99::1"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    let train = hub.train(V4, INTERVAL)?;
    train.run(100)?;
    let status = hub.daemon.terminate()?;
    ensure!(status.success(), "the daemon ended with {status}");
    train.run(200)?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V6, 1)?;
    hub.daemon.start()?;
    train.run(100)?;
    let report = train.stop()?;
    lab.say(&report);
    report.assert_no_loss()
}

fn reload(lab: &mut Lab) -> Result<()> {
    let config = |tables: &str| format!("[[interface]]\nname = \"wg0\"\ntables = {tables}\n");
    let mut hub = Hub::with_config(lab, 2, |_| Ok(config("[\"main\"]")))?;
    let extra = "203.0.113.0/24";
    hub.ip_batch(&format!(
        "route add {NET4} via 10.99.0.1\n\
         route add {NET6} via fd99::1\n\
         route add {extra} via 10.99.0.2 table 1000\n"
    ))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    let train = hub.train(V4, INTERVAL)?;
    let changes = |hub: &Hub| -> Result<u64> {
        hub.daemon.wait_in_sync()?;
        ["adds", "moves", "removes"]
            .iter()
            .map(|name| hub.daemon.counter(&format!("/interfaces/0/counters/{name}")))
            .sum()
    };
    let before = changes(&hub)?;

    lab.say("follow another table too");
    hub.daemon.reload(&config("[\"main\", 1000]"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1"), (extra, "s2")])?;
    ensure!(changes(&hub)? == before + 1, "{} changes for one prefix", changes(&hub)? - before);

    lab.say("the same configuration again changes nothing");
    hub.daemon.reload(&config("[\"main\", 1000]"))?;
    hub.ip(&format!("route replace {NET6} via fd99::2"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s2"), (extra, "s2")])?;
    ensure!(changes(&hub)? == before + 2, "{} changes for two prefixes", changes(&hub)? - before);

    lab.say("a broken configuration changes nothing either");
    hub.daemon.reload("[[interface]]\nname = \"wg0\"\ncolour = \"blue\"\n")?;
    ensure!(hub.daemon.log()?.contains("colour"), "the log does not name the unknown key");
    hub.ip(&format!("route replace {NET6} via fd99::1"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1"), (extra, "s2")])?;

    lab.say("back to one table");
    hub.daemon.reload(&config("[\"main\"]"))?;
    hub.expect(&[(NET4, "s1"), (NET6, "s1")])?;
    hub.flows(V6, 1)?;
    let report = train.stop()?;
    lab.say(&report);
    report.assert_no_loss()
}

/// The smallest buffer that the configuration allows holds 78 notifications (facts: B5). A fast
/// machine keeps up even with that, so the daemon sleeps through the first routes.
fn overrun(lab: &mut Lab) -> Result<()> {
    let config = "[daemon]\nreceive_buffer = \"64KiB\"\n[[interface]]\nname = \"wg0\"\n";
    let mut hub = Hub::with_config(lab, 2, |_| Ok(config.to_owned()))?;
    let prefixes = prefixes(200_000)?;
    let (first, second) = ("10.99.0.1".parse()?, "10.99.0.2".parse()?);
    let train = {
        hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
        hub.expect(&[(NET4, "s1")])?;
        hub.train(V4, Duration::from_millis(5))?
    };
    hub.daemon.wait_in_sync()?;
    let dumps = |hub: &Hub| hub.daemon.counter("/counters/route_dumps");
    let before = dumps(&hub)?;

    lab.say("add 200,000 routes, half of them while the daemon stands still");
    let (missed, seen) = prefixes.split_at(prefixes.len() / 2);
    hub.daemon.process()?.pause()?;
    hub.routes(Op::Add, first, missed)?;
    hub.daemon.process()?.resume()?;
    let resumed = lab.elapsed();
    hub.routes(Op::Add, first, seen)?;

    lab.say("move a third, delete a third");
    let (moved, rest) = prefixes.split_at(66_666);
    let (deleted, kept) = rest.split_at(66_666);
    hub.routes(Op::Replace, second, moved)?;
    hub.routes(Op::Delete, first, deleted)?;
    lab.say("routes written");
    let mut wanted: AllowedIps = moved.iter().map(|prefix| (*prefix, Owner::from("s2"))).collect();
    wanted.extend(kept.iter().map(|prefix| (*prefix, Owner::from("s1"))));
    wanted.insert(NET4.parse()?, Owner::from("s1"));
    hub.expect_table(&wanted)?;
    let overruns = hub.daemon.counter("/counters/overruns")?;
    let (dumps, seconds) = (dumps(&hub)? - before, (lab.elapsed() - resumed).as_secs());
    lab.say(format_args!("equal after {overruns} overruns and {dumps} dumps of a table"));
    ensure!(overruns > 0, "nothing overran, so nothing was shown");
    // At most once a second everything is read, and once more a moment later; a dump a family.
    let bound = 4 * (seconds + 2);
    ensure!(dumps <= bound, "{dumps} dumps in {seconds} s");

    lab.say("delete all at once");
    hub.routes(Op::Delete, second, moved)?;
    hub.routes(Op::Delete, first, kept)?;
    hub.expect(&[(NET4, "s1")])?;
    let report = train.stop()?;
    lab.say(&report);
    report.assert_no_loss()
}

/// nebula's tunnels ate a processor when OSPF had some ten thousand routes.
fn idle(lab: &mut Lab) -> Result<()> {
    // A single audit of a slow machine might take more than a short time allows.
    let config = "[daemon]\naudit_interval = \"off\"\n[[interface]]\nname = \"wg0\"\n";
    let hub = Hub::with_config(lab, 1, |_| Ok(config.to_owned()))?;
    hub.daemon.wait_learned()?;
    let prefixes = prefixes(10_000)?;
    hub.routes(Op::Add, "10.99.0.1".parse()?, &prefixes)?;
    hub.expect_table(&prefixes.iter().map(|prefix| (*prefix, Owner::from("s1"))).collect())?;
    hub.daemon.wait_in_sync()?;
    let before = hub.daemon.cpu_time()?;
    // What is measured is a stretch of time, so this one is slept.
    thread::sleep(WINDOW);
    let taken = hub.daemon.cpu_time()? - before;
    lab.say(format_args!("{} ms of processor time in {WINDOW:?}", taken.as_millis()));
    ensure!(taken < WINDOW / 100, "it is not idle: {taken:?} in {WINDOW:?}");
    Ok(())
}

/// How long the daemon's processor time is watched.
const WINDOW: Duration = Duration::from_secs(5);

/// This many neighbouring /24 networks.
fn prefixes(count: u32) -> Result<Vec<IpNet>> {
    let network = |i: u32| Ok(IpNet::new(Ipv4Addr::from_bits((20 << 24) + (i << 8)).into(), 24)?);
    (0..count).map(network).collect()
}
