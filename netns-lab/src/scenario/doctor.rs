//! `wgrouted doctor` and what it finds.
//!
//! Here lives a machine that is well, and falls ill in one way after the other. Invariant: what the
//! doctor prints is done as printed, by a shell; then the illness must be gone.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    support::{flows, star},
};
use crate::lab::{Lab, Node, PATIENCE, Star, Wgrouted, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "doctor",
        "each illness is found, and gone once its remedy was typed as printed; looking changes nothing",
        doctor,
    )
    .within(240),
    Scenario::new(
        "doctor-without-privilege",
        "who is not root is told what could not be looked at, and that nothing is wrong with the rest",
        unprivileged,
    ),
];

/// What is wrong with a machine, and how it comes about.
struct Illness {
    /// The check that must find it.
    check: &'static str,
    level: &'static str,
    /// `ip` and `sysctl` lines.
    cause: &'static [&'static str],
    /// How the remedy begins.
    remedy: &'static str,
}

const ILLNESSES: &[Illness] = &[
    Illness {
        check: "rp_filter",
        level: "warning",
        cause: &["sysctl -w net.ipv4.conf.wg0.rp_filter=1"],
        remedy: "sysctl -w net.ipv4.conf.wg0.rp_filter=2",
    },
    Illness {
        check: "mtu",
        level: "warning",
        cause: &["ip link set wg0 mtu 1500"],
        remedy: "ip link set dev wg0 mtu 1440",
    },
    Illness {
        check: "mtu-ipv6",
        level: "warning",
        cause: &["ip link set wg0 mtu 1200"],
        remedy: "ip link set dev wg0 mtu 1280",
    },
    Illness {
        check: "foreign-rules",
        level: "warning",
        cause: &["ip rule add priority 20000 from 10.55.0.0/16 fwmark 0x1/0xff lookup main"],
        remedy: "ip -4 rule del priority 20000 from 10.55.0.0/16 fwmark 0x1/0xff lookup 254",
    },
    Illness {
        check: "foreign-rules",
        level: "warning",
        cause: &["ip -6 rule add priority 29999 iif lo uidrange 5-6 unreachable protocol static"],
        remedy: "ip -6 rule del priority 29999 from all iif lo uidrange 5-6 unreachable protocol 4",
    },
    Illness {
        check: "foreign-routes",
        level: "warning",
        cause: &["ip route add 10.5.0.0/16 dev wg0 table 119001 protocol static"],
        remedy: "ip -4 route flush table 119001 protocol 4",
    },
    Illness {
        check: "foreign-nexthops",
        level: "warning",
        cause: &["ip nexthop add id 1190001 dev wg0"],
        remedy: "ip nexthop del id 1190001",
    },
    Illness {
        check: "disable_ipv6",
        level: "warning",
        cause: &["sysctl -w net.ipv6.conf.wg0.disable_ipv6=1"],
        remedy: "sysctl -w net.ipv6.conf.wg0.disable_ipv6=0",
    },
];

/// The doctor's visits to a node.
struct Doctor<'a> {
    lab: &'a Lab,
    node: &'a Node,
    args: Vec<String>,
}

impl Doctor<'_> {
    /// One visit: the exit status, and what it found.
    fn look(&self) -> Result<(i32, Value)> {
        let mut args = vec!["doctor", "--json"];
        args.extend(self.args.iter().map(String::as_str));
        let output = self.lab.wgrouted_once(self.node, &args)?;
        let text = String::from_utf8(output.stdout)?;
        let report = serde_json::from_str(&text).with_context(|| {
            format!("{args:?}: {text} {}", String::from_utf8_lossy(&output.stderr))
        })?;
        Ok((output.status.code().context("an exit status")?, report))
    }

    /// What a check found that is wrong.
    fn wrong(&self, check: &str) -> Result<Vec<Value>> {
        let (status, report) = self.look()?;
        let all = report["findings"].as_array().context("no findings")?;
        let failed = all.iter().any(|finding| finding["level"] == "failure");
        ensure!(status == i32::from(failed), "exit status {status}: {report}");
        let wrong = |f: &&Value| {
            f["check"] == check && (f["level"] == "warning" || f["level"] == "failure")
        };
        Ok(all.iter().filter(wrong).cloned().collect())
    }

    /// Expects something wrong, types its remedy, and expects nothing wrong.
    fn cure(&self, check: &str, level: &str) -> Result<Vec<String>> {
        let found = self.wrong(check)?;
        let [finding] = &found[..] else {
            anyhow::bail!("{} findings of {check}: {found:?}", found.len())
        };
        ensure!(finding["level"] == level, "{check}: {finding}");
        ensure!(finding["why"].as_str().is_some_and(|why| !why.is_empty()), "no reason: {finding}");
        let remedy = finding["remedy"].as_array().with_context(|| format!("{finding}"))?;
        let mut done = Vec::new();
        for command in remedy {
            let command = command.as_str().context("a command")?;
            self.lab.say(format_args!("{check}: {command}"));
            self.node.run("sh", ["-c", command])?;
            done.push(command.to_owned());
        }
        let gone = || self.wrong(check);
        wait_until(format!("{check} to be gone"), PATIENCE, gone, Vec::is_empty)?;
        Ok(done)
    }
}

/// All that a visit may not change.
fn state(node: &Node) -> Result<String> {
    let mut all = String::new();
    for words in ["-d link", "address", "rule", "-6 rule", "route show table all", "nexthop"] {
        // How long addresses are still valid is no change.
        let text = node.ip(words)?;
        all.extend(
            text.lines().filter(|line| !line.contains("valid_lft")).map(|l| format!("{l}\n")),
        );
    }
    all += &node.run("wg", ["showconf", "wg0"])?;
    all += &node.run("sysctl", ["-a", "--pattern", "^net[.]ipv[46][.]conf"])?;
    all += &node.run("ip", ["netns", "list"])?;
    Ok(all)
}

fn doctor(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 1)?;
    let hub = star.hub.clone();
    let mut daemon = lab.wgrouted(&hub, &["wg0"])?;
    let directory = daemon.runtime_dir().display().to_string();
    let args = ["--interface", "wg0", "--runtime-dir", &directory].map(str::to_owned).to_vec();
    let doctor = Doctor { lab, node: &hub, args };

    well(&doctor, &star, &mut daemon)?;
    for illness in ILLNESSES {
        for line in illness.cause {
            hub.run("sh", ["-c", line])?;
        }
        let remedy = doctor.cure(illness.check, illness.level)?;
        ensure!(remedy[0].starts_with(illness.remedy), "{remedy:?}");
    }
    loops(&doctor, &star)?;
    port(lab, &hub)
}

/// A machine on which nothing fails, with and without a daemon.
fn well(doctor: &Doctor<'_>, star: &Star, daemon: &mut Wgrouted) -> Result<()> {
    let (lab, hub) = (doctor.lab, doctor.node);
    flows_at_last(star)?;
    let before = state(hub)?;
    let (status, report) = doctor.look()?;
    ensure!(state(hub)? == before, "looking changed something");
    ensure!(status == 0, "exit status {status}: {report}");
    let findings = report["findings"].as_array().context("no findings")?;
    for finding in findings {
        // Nobody keeps the clock of a virtual machine.
        let fine = ["ok", "info"].contains(&finding["level"].as_str().unwrap_or_default());
        ensure!(fine || finding["check"] == "clock-sync", "{finding}");
    }
    for check in ["wireguard", "single-removal", "loop", "mtu", "foreign-rules", "clock", "ports"] {
        ensure!(findings.iter().any(|f| f["check"] == check), "nothing about {check}: {report}");
    }
    let text = doctor.lab.wgrouted_once(hub, &["doctor", "--verbose", "--interface", "wg0"])?;
    let text = String::from_utf8(text.stdout)?;
    lab.say(&text);
    ensure!(text.trim_end().ends_with("0 failures, 0 not checked"), "{text}");

    daemon.start()?;
    let (status, report) = doctor.look()?;
    ensure!(status == 0, "with a daemon: {report}");
    let seen = report["findings"].as_array().context("no findings")?.iter();
    let answers = seen.clone().find(|f| f["check"] == "daemon").context("no daemon")?;
    ensure!(answers["level"] == "ok", "{answers}");
    let capability = seen.clone().find(|f| f["check"] == "cap-net-admin").context("no finding")?;
    ensure!(capability["level"] == "ok", "{capability}");

    lab.say("a doctor with another runtime directory meets somebody else's daemon");
    let elsewhere = ["--interface", "wg0", "--runtime-dir", "/nowhere"].map(str::to_owned).to_vec();
    let other = Doctor { lab, node: hub, args: elsewhere }.wrong("other-daemon")?;
    ensure!(other.len() == 1, "{other:?}");
    daemon.terminate()?;
    Ok(())
}

/// WireGuard's own packets are led into the tunnel: by a route, then by a rule.
fn loops(doctor: &Doctor<'_>, star: &Star) -> Result<()> {
    let hub = doctor.node;
    let endpoint = &star.spoke(1)?.link.b.address;
    hub.ip(&format!("route add {endpoint}/32 dev wg0"))?;
    let remedy = doctor.cure("loop", "failure")?;
    ensure!(remedy[0] == "wg set wg0 fwmark 0x7767" && remedy.len() == 3, "{remedy:?}");
    flows_at_last(star)?;
    hub.ip(&format!("route del {endpoint}/32 dev wg0"))?;

    hub.ip("route add default dev wg0 table 200")?;
    hub.ip("rule add priority 500 lookup 200")?;
    let remedy = doctor.cure("loop", "failure")?;
    ensure!(remedy == ["ip -4 rule add priority 499 fwmark 0x7767 lookup 254"], "{remedy:?}");
    flows_at_last(star)?;

    doctor.lab.say("marked packets leave, and what comes back is checked without the mark");
    let underlay = &star.spoke(1)?.link.a.device;
    hub.sysctl(&format!("ipv4/conf/{underlay}/rp_filter"), "1")?;
    hub.ip("route flush cache")?;
    let remedy = doctor.cure("rp_filter-underlay", "failure")?;
    ensure!(remedy == [format!("sysctl -w net.ipv4.conf.{underlay}.rp_filter=2")], "{remedy:?}");
    flows_at_last(star)?;
    hub.ip("rule del priority 500")?;
    hub.ip("rule del priority 499")?;
    hub.ip("route flush table 200")?;
    Ok(())
}

/// Packets pass, once WireGuard has tried again.
fn flows_at_last(star: &Star) -> Result<()> {
    wait_until("packets to pass", PATIENCE, || flows(star, "10.99.0.1", 1), |()| true)
}

/// A device's port is taken by a program, then by another device.
fn port(lab: &Lab, hub: &Node) -> Result<()> {
    let key = hub.write_file("other.key", &hub.run("wg", ["genkey"])?)?;
    let config = format!(
        "[[interface]]\nname = \"wg7\"\nlink = \"dedicated\"\nmanage = true\n\
         private_key_file = \"{}\"\nlisten_port = 51999\naddresses = [\"10.7.0.1/24\"]\n",
        key.display()
    );
    let file = hub.write_file("port.toml", &config)?;
    let args = vec!["--config".to_owned(), file.display().to_string()];
    let doctor = Doctor { lab, node: hub, args };
    ensure!(doctor.wrong("listen-port")?.is_empty(), "the port is free");
    let mut command = Command::new("socat");
    let mut thief = hub.spawn("thief", command.args(["-u", "UDP4-RECV:51999", "STDOUT"]))?;
    let taken = || doctor.wrong("listen-port");
    wait_until("the port to be taken", PATIENCE, taken, |found| !found.is_empty())?;
    let remedy = doctor.cure("listen-port", "failure")?;
    ensure!(remedy == [format!("kill {}", thief.pid())], "{remedy:?}");
    thief.wait_exit(PATIENCE)?;

    hub.ip("link add wg8 type wireguard")?;
    hub.run("wg", ["set", "wg8", "listen-port", "51999"])?;
    hub.ip("link set wg8 up")?;
    let remedy = doctor.cure("listen-port", "failure")?;
    ensure!(remedy == ["wg set wg8 listen-port 0"], "{remedy:?}");
    Ok(())
}

fn unprivileged(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 1)?;
    let program = lab.program().display().to_string();
    let words = [
        "--reuid",
        "65534",
        "--clear-groups",
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
        &program,
        "doctor",
        "--interface",
        "wg0",
    ];
    let output = star.hub.output("setpriv", words)?;
    let text = String::from_utf8(output.stdout)?;
    lab.say(&text);
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {text}{error}", output.status);
    for part in ["0 failures", "run as root", "needs CAP_NET_ADMIN"] {
        ensure!(text.contains(part), "no `{part}` in:\n{text}");
    }
    Ok(())
}
