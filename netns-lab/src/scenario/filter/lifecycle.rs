//! The filter outlives the daemon, and its enemies.
//!
//! Here live start, crash, end and removal of the filter under spoofed and legitimate traffic.

use std::{net::IpAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    support::{
        Case, DIRECTORY,
        Fate::{Dropped, Passes},
        Filtered, Hook, both, config, counted, mount_bpffs, show, stream,
    },
};
use crate::lab::{
    Dedicated, Injector, Lab, Node, PATIENCE, Ping, Train, Wgrouted, bpf, own, wait_for, wait_until,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-killed-xdp",
        "SIGKILL and restart under traffic: nothing spoofed passes, nothing else is lost, by XDP",
        |lab| killed(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-killed-tcx",
        "SIGKILL and restart under traffic: nothing spoofed passes, nothing else is lost, by tc",
        |lab| killed(lab, Hook::Tcx),
    ),
    Scenario::new(
        "filter-open-xdp",
        "AllowedIPs open only once the filter is in force, and close when it goes, by XDP",
        |lab| open(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-open-tcx",
        "AllowedIPs open only once the filter is in force, and close when it goes, by tc",
        |lab| open(lab, Hook::Tcx),
    ),
    Scenario::new(
        "filter-detached-xdp",
        "what somebody else detaches is attached again, counted and told, by XDP",
        |lab| detached(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-detached-tcx",
        "what somebody else detaches is attached again, counted and told, by tc",
        |lab| detached(lab, Hook::Tcx),
    ),
    Scenario::new(
        "filter-not-loadable",
        "a filter that cannot be loaded is told in a line, and its links stay closed",
        not_loadable,
    ),
];

const INTERVAL: Duration = Duration::from_millis(2);
/// The same on all links.
const STRICT: &str = "source = \"strict\"";

fn killed(lab: &mut Lab, hook: Hook) -> Result<()> {
    let mut net = Filtered::new(lab, &config(hook, "", &[STRICT; 3]))?;
    let trains = trains(&net.net)?;
    let spoofed: Vec<_> =
        both(1).into_iter().map(|from| net.stream(3, from, INTERVAL)).collect::<Result<_>>()?;
    let nothing = |net: &Filtered, when: &str| -> Result<()> {
        let arrived: u64 = spoofed.iter().map(|stream| net.tap.count(stream.label)).sum();
        ensure!(arrived == 0, "{arrived} spoofed packets arrived {when}");
        Ok(())
    };
    for round in 0..3 {
        trains.iter().try_for_each(|train| train.run(100))?;
        nothing(&net, "while it ran")?;
        net.daemon.kill()?;
        lab.say(format_args!("killed; round {round}"));
        spoofed.iter().try_for_each(|stream| stream.run(100))?;
        nothing(&net, "after SIGKILL")?;
        net.daemon.start()?;
        net.wait_in_force()?;
        nothing(&net, "while it started again")?;
    }
    trains.iter().try_for_each(|train| train.run(100))?;
    let before = counted(&net.daemon, "wg3", Dropped("other-peer"))?;
    wait_until(
        "the counters to go on",
        PATIENCE,
        || counted(&net.daemon, "wg3", Dropped("other-peer")),
        |count| *count > before,
    )?;

    lab.say("stopped, it stays in force: on_exit = \"keep\"");
    ensure!(net.daemon.terminate()?.success(), "the daemon did not end well");
    spoofed.iter().try_for_each(|stream| stream.run(100))?;
    nothing(&net, "after SIGTERM")?;
    lab.say("a route that moved meanwhile is caught up with");
    net.ip(&format!("route replace {} dev wg3", crate::lab::own_net(2, true)))?;
    net.daemon.start()?;
    net.wait_in_force()?;
    for train in trains {
        let report = train.stop()?;
        lab.say(&report);
        report.assert_no_loss()?;
    }
    for stream in spoofed {
        let label = stream.label;
        let sent = stream.stop()?;
        net.fence(3)?;
        let arrived = net.tap.count(label);
        lab.say(format_args!("{arrived} of {sent} spoofed packets arrived"));
        ensure!(arrived == 0, "{arrived} of {sent} spoofed packets arrived");
    }
    net.judge(vec![Case::new(3, own(2, false), Dropped("other-peer"))])?;
    net.judge(vec![Case::new(3, own(2, true), Passes("source"))])
}

/// Echo requests of s1, from its own addresses, to the host.
fn trains(net: &Dedicated) -> Result<Vec<Train>> {
    let node = &net.spoke(1)?.node;
    let ping = |from: IpAddr| {
        let to = crate::lab::Host::address(from.is_ipv4());
        Ping { from: Some(from), ..Ping::from(to) }
    };
    both(1).into_iter().map(|from| Train::start(node, ping(from), INTERVAL)).collect()
}

/// Peers have their tunnel addresses only; everything else is the daemon's to open.
fn open(lab: &mut Lab, hook: Hook) -> Result<()> {
    mount_bpffs()?;
    let net = Dedicated::new(lab, 3)?;
    let tap = net.host.tap()?;
    let closed = net.links.iter().map(|link| link.wg.allowed_ips()).collect::<Result<Vec<_>>>()?;
    let link = "source = \"strict\"\nopen = true";
    let config = config(hook, "on_exit = \"remove\"", &[link; 3]);
    let mut daemon = lab.wgrouted_with(&net.hub, &config)?;

    lab.say("s3 spoofs from before the start to after the end");
    let spoofed: Vec<_> = both(1)
        .into_iter()
        .map(|from| stream(Injector::open(&net.spoke(3)?.node, "wg0")?, from, INTERVAL))
        .collect::<Result<_>>()?;
    spoofed.iter().try_for_each(|stream| stream.run(50))?;
    let objects = (bpf::programs()?.len(), bpf::maps()?.len());
    for round in 0..2 {
        daemon.start()?;
        wait_open(&net, true)?;
        // Now the filter alone stands between s3 and the host.
        let trains = trains(&net)?;
        trains.iter().try_for_each(|train| train.run(100))?;
        if round == 1 {
            lab.say("killed and started again, with the links open");
            daemon.kill()?;
            spoofed.iter().try_for_each(|stream| stream.run(50))?;
            daemon.start()?;
            wait_open(&net, true)?;
            trains.iter().try_for_each(|train| train.run(100))?;
        }
        let shown = show(&daemon)?;
        ensure!(shown["state"] == "in-force", "open and not in force: {shown}");
        ensure!(counted(&daemon, "wg3", Dropped("other-peer"))? > 0, "nothing was dropped");
        for train in trains {
            let report = train.stop()?;
            lab.say(&report);
            report.assert_no_loss()?;
        }
        lab.say("SIGTERM: links close, then the filter goes");
        ensure!(daemon.terminate()?.success(), "the daemon did not end well");
        for (link, closed) in net.links.iter().zip(&closed) {
            let left = link.wg.allowed_ips()?;
            ensure!(left == *closed, "AllowedIPs of {:?} after the end: {left:?}", link.wg);
        }
        assert_clean(&net.hub, &net, objects)?;
        spoofed.iter().try_for_each(|stream| stream.run(50))?;
    }
    for stream in spoofed {
        let label = stream.label;
        let sent = stream.stop()?;
        let arrived = tap.count(label);
        lab.say(format_args!("{arrived} of {sent} spoofed packets arrived"));
        ensure!(arrived == 0, "{arrived} of {sent} spoofed packets arrived");
    }
    Ok(())
}

/// Waits until `wg show` tells that all links are open, or closed.
fn wait_open(net: &Dedicated, open: bool) -> Result<()> {
    let everything = ["0.0.0.0/0".parse()?, "::/0".parse()?];
    net.links.iter().try_for_each(|link| {
        wait_for(
            format!("{:?} to be {}", link.wg, if open { "open" } else { "closed" }),
            PATIENCE,
            || {
                let has = link.wg.allowed_ips()?;
                Ok(everything.iter().all(|prefix| has.contains_key(prefix) == open))
            },
        )
    })
}

/// Nothing of the filter is left: no pin, no program or map more than before, no qdisc, no XDP.
fn assert_clean(hub: &Node, net: &Dedicated, (programs, maps): (usize, usize)) -> Result<()> {
    // The kernel frees objects a moment after their last user.
    wait_until(
        "programs and maps to be freed",
        PATIENCE,
        || Ok((bpf::programs()?, bpf::maps()?)),
        |left| (left.0.len(), left.1.len()) == (programs, maps),
    )?;
    ensure!(bpf::Attachment::all()?.is_empty(), "links are left");
    let pins = pins(Path::new(DIRECTORY))?;
    ensure!(pins.is_empty(), "pins are left: {pins:?}");
    for link in &net.links {
        let device = link.wg.name();
        let qdiscs = hub.run("tc", ["qdisc", "show", "dev", device])?;
        ensure!(!qdiscs.contains("clsact"), "a qdisc is left: {qdiscs}");
        let shown = hub.ip(&format!("-d link show dev {device}"))?;
        ensure!(!shown.contains("xdp") && !shown.contains("prog/"), "a program is left: {shown}");
    }
    Ok(())
}

fn pins(directory: &Path) -> Result<Vec<String>> {
    match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path().display().to_string())).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| directory.display().to_string()),
    }
}

fn detached(lab: &mut Lab, hook: Hook) -> Result<()> {
    let net = Filtered::new(lab, &config(hook, "", &[STRICT; 3]))?;
    net.judge(both(1).map(|from| Case::new(3, from, Dropped("other-peer"))).into())?;
    let trains = trains(&net.net)?;
    for round in 1..=2 {
        lab.say(format_args!("detach from wg3, round {round}"));
        detach(&net.net.hub, "wg3", hook)?;
        wait_until(
            "the program to be attached again",
            Duration::from_secs(15),
            || reattached(&net.daemon),
            |count| *count == round,
        )?;
        net.wait_in_force()?;
        net.judge(both(1).map(|from| Case::new(3, from, Dropped("other-peer"))).into())?;
    }
    let log = net.daemon.log()?;
    let warned = log.lines().any(|line| line.contains("WARN") && line.contains("wg3"));
    ensure!(warned, "no warning names wg3:\n{log}");
    for train in trains {
        let report = train.stop()?;
        lab.say(&report);
        report.assert_no_loss()?;
    }
    Ok(())
}

/// How often the daemon had to attach to a device again.
fn reattached(daemon: &Wgrouted) -> Result<u64> {
    let answer = show(daemon)?;
    let number = answer.pointer("/counters/reattached").and_then(Value::as_u64);
    number.with_context(|| format!("no number of repairs in {answer}"))
}

/// Detaches the program from a device, as a third party may: a link by bpf(2), a classifier by
/// `tc`.
fn detach(node: &Node, device: &str, hook: Hook) -> Result<()> {
    // `7: wg3: <…>`
    let shown = node.ip(&format!("-o link show dev {device}"))?;
    let index: u32 = shown.split(':').next().unwrap_or_default().parse()?;
    let links = bpf::Attachment::all()?;
    let here: Vec<_> = links
        .iter()
        .filter(|link| link.ifindex == index && link.is_xdp == (hook == Hook::Xdp))
        .collect();
    if here.is_empty() {
        ensure!(hook == Hook::Tcx, "no link to {device} (index {index}) among {links:?}");
        node.run("tc", ["qdisc", "del", "dev", device, "clsact"])?;
    }
    here.iter().try_for_each(|link| link.detach())
}

/// `[filter]` in a folder that is no bpffs, and without the capability: the daemon says so, and
/// what it should open stays closed.
fn not_loadable(lab: &mut Lab) -> Result<()> {
    let net = Dedicated::new(lab, 3)?;
    let link = "source = \"strict\"\nopen = true";
    let text = config(Hook::Tcx, "", &[link; 3]);
    lab.say("the directory is on no bpffs");
    let mut daemon = lab.wgrouted_with(&net.hub, &text)?;
    daemon.spawn()?;
    daemon.wait_log("/run/bpf")?;
    let log = daemon.log()?;
    let line = log.lines().find(|line| line.contains("/run/bpf")).unwrap_or_default().to_owned();
    lab.say(&line);
    ensure!(line.contains("bpf"), "{log}");
    assert_closed(&net)?;
    drop(daemon);

    lab.say("CAP_BPF is missing");
    mount_bpffs()?;
    let mut daemon = lab.wgrouted_with(&net.hub, &text)?.without("bpf").without("sys_admin");
    daemon.spawn()?;
    daemon.wait_log("CAP_BPF")?;
    let log = daemon.log()?;
    let line = log.lines().find(|line| line.contains("CAP_BPF")).unwrap_or_default().to_owned();
    lab.say(&line);
    assert_closed(&net)
}

fn assert_closed(net: &Dedicated) -> Result<()> {
    // Long enough for a daemon that opens first and thinks later.
    std::thread::sleep(Duration::from_secs(1));
    wait_open(net, false)
}
