//! What the filter tells.
//!
//! Here live `filter show`, `filter watch` and `filter test`, each held against what was sent.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    support::{
        Case,
        Fate::{Dropped, Monitored, Passes},
        Filtered, Hook, MANY, config, counted,
    },
};
use crate::{
    lab::{Lab, PATIENCE, own, packet::tcp, wait_until},
    scenario::support::V4,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-questions-xdp",
        "`filter show`, `watch` and `test` tell what was sent and what becomes of it, by XDP",
        |lab| questions(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-questions-tcx",
        "`filter show`, `watch` and `test` tell what was sent and what becomes of it, by tc",
        |lab| questions(lab, Hook::Tcx),
    ),
];

const POLICY: &str = "[[filter.policy]]\nname = \"ssh\"\ndefault = \"drop\"\nstateful = false\n\
                      rules = [\"accept udp to port 9\", \"drop tcp from 10.1.9.0/24\", \
                      \"accept tcp to port 22,80-90\"]\n";

fn questions(lab: &mut Lab, hook: Hook) -> Result<()> {
    let links = [
        "source = \"strict\"\npolicy = \"ssh\"",
        "source = \"strict\"\naction = \"monitor\"",
        "source = \"off\"",
    ];
    let net = Filtered::new(lab, &config(hook, POLICY, &links))?;
    watch(lab, &net)?;
    show(lab, &net, hook)?;
    test(lab, &net)?;
    let refused = net.daemon.refused(&["filter", "show", "--interface", "wg7"])?;
    ensure!(refused.contains("wg7") && refused.lines().count() == 1, "{refused}");
    Ok(())
}

/// Each dropped packet is told, as long as there are few.
fn watch(lab: &Lab, net: &Filtered) -> Result<()> {
    let mut command = Command::new(net.daemon.program());
    command.args(["filter", "watch", "--json", "--runtime-dir"]).arg(net.daemon.runtime_dir());
    let watching = net.net.hub.spawn("watch", &mut command)?;
    // The first sample says that it listens; until then they are sent again.
    let spoofed = || Case::new(1, own(2, true), Dropped("other-peer"));
    let rows = || -> Result<Vec<Value>> {
        let text = std::fs::read_to_string(watching.log())?;
        text.lines().map(|line| serde_json::from_str(line).context(line.to_owned())).collect()
    };
    wait_until(
        "a first sample",
        PATIENCE,
        || {
            net.judge(vec![spoofed()])?;
            rows()
        },
        |rows| !rows.is_empty(),
    )?;
    net.judge(vec![
        Case::new(1, own(1, false), Dropped("drop-default"))
            .of(|route| route.tcp(40000, 443, tcp::SYN)),
        Case::new(2, own(3, true), Monitored("other-peer")),
    ])?;
    let is_tcp = |row: &Value| {
        row["interface"] == "wg1"
            && row["src"] == own(1, false).to_string()
            && row["dst"] == "fd98::2"
            && row["protocol"] == "tcp"
            && row["src_port"] == 40000
            && row["dst_port"] == 443
            && row["reason"] == "drop-default"
            && row["monitored"] == false
    };
    let is_monitored = |row: &Value| {
        row["interface"] == "wg2"
            && row["src"] == own(3, true).to_string()
            && row["reason"] == "other-peer"
            && row["monitored"] == true
    };
    let count = |rows: &[Value], is: &dyn Fn(&Value) -> bool| {
        rows.iter().filter(|row| is(row)).count() as u64
    };
    let all =
        |rows: &Vec<Value>| count(rows, &is_tcp) == MANY && count(rows, &is_monitored) == MANY;
    let rows = wait_until("a sample of each packet", PATIENCE, rows, all)?;
    ensure!(rows.iter().all(|row| row["time"].is_string() && row["peer"].is_string()), "{rows:?}");
    lab.say(format_args!("{} samples, such as {}", rows.len(), rows[0]));
    Ok(())
}

fn show(lab: &Lab, net: &Filtered, hook: Hook) -> Result<()> {
    let answer = net.show()?;
    let links = answer["links"].as_array().context("no links")?;
    let told = links.iter().map(|link| link["interface"].as_str().unwrap_or_default());
    ensure!(told.eq(["wg1", "wg2", "wg3"]), "{answer}");
    // Where the kernel has no tcx, the hook is called by what it is.
    let is_hook = |name: &Value| match hook {
        Hook::Xdp => name == "xdp",
        Hook::Tcx => name == "tcx" || name == "clsact",
    };
    ensure!(links.iter().all(|link| is_hook(&link["hook"])), "{answer}");
    let peers = answer["peers"].as_array().context("no peers")?;
    let first = peers.iter().find(|peer| peer["interface"] == "wg1").context("wg1 has no peer")?;
    ensure!(first["source"] == "strict" && first["action"] == "enforce", "{first}");
    ensure!(first["policy"] == "ssh", "{first}");
    net.fence(1)?;
    let seen = |answer: &Value| {
        let peers = answer["peers"].as_array()?;
        peers.iter().find(|peer| peer["interface"] == "wg1")?["last_seen_ms"].as_u64()
    };
    wait_until(
        "a peer that was seen just now",
        PATIENCE,
        || net.show(),
        |answer| seen(answer).is_some_and(|age| age < 10_000),
    )?;
    let text = net.daemon.run(&["filter", "show"])?;
    lab.say(&text);
    for part in ["wg1", "wg2", "wg3", "strict", "ssh", "monitor", "other-peer"] {
        ensure!(text.contains(part), "no `{part}` in:\n{text}");
    }
    Ok(())
}

/// The library over what the daemon believes, and the loaded program over what is there, agree;
/// and packets agree with them.
fn test(lab: &Lab, net: &Filtered) -> Result<()> {
    let (own1, own2) = (own(1, true).to_string(), own(2, true).to_string());
    let (six1, six2) = (own(1, false).to_string(), own(2, false).to_string());
    let (host4, host6) = ("10.98.0.2", "fd98::2");
    let cases: [(&str, [&str; 5], &str, &str); 9] = [
        ("wg1", [&own1, host4, "tcp", "--dport", "22"], "pass", "accept-rule"),
        ("wg1", [&own1, host4, "tcp", "--dport", "91"], "drop", "drop-default"),
        ("wg1", ["10.1.9.1", host4, "tcp", "--dport", "22"], "drop", "drop-rule"),
        ("wg1", [&six1, host6, "tcp", "--dport", "85"], "pass", "accept-rule"),
        ("wg1", [&own2, host4, "tcp", "--dport", "22"], "drop", "other-peer"),
        ("wg1", [&six2, host6, "udp", "--dport", "9"], "drop", "other-peer"),
        ("wg1", [V4, host4, "udp", "--dport", "9"], "drop", "no-route"),
        ("wg2", [&own1, host4, "udp", "--dport", "9"], "monitor", "other-peer"),
        ("wg3", [V4, host4, "udp", "--dport", "9"], "pass", "source"),
    ];
    let before = counted(&net.daemon, "wg1", Dropped("no-route"))?;
    for (interface, [src, dst, proto, option, port], fate, reason) in cases {
        let peer = net.net.link(interface[2..].parse()?)?.spoke(1)?.wg.public_key().to_owned();
        let answer = net.daemon.run(&[
            "filter",
            "test",
            "--interface",
            interface,
            "--peer",
            &peer,
            "--src",
            src,
            "--dst",
            dst,
            "--proto",
            proto,
            option,
            port,
            "--json",
        ])?;
        let answer: Value = serde_json::from_str(&answer)?;
        for judge in ["library", "program"] {
            let verdict = &answer[judge];
            ensure!(verdict["fate"] == fate && verdict["reason"] == reason, "{judge}: {answer}");
        }
        let rule = &answer["program"]["rule"]["text"];
        match reason {
            "accept-rule" => ensure!(*rule == "accept tcp to port 22,80-90", "{answer}"),
            "drop-rule" => ensure!(*rule == "drop tcp from 10.1.9.0/24", "{answer}"),
            _ => ensure!(rule.is_null(), "{answer}"),
        }
    }
    let after = counted(&net.daemon, "wg1", Dropped("no-route"))?;
    ensure!(before == after, "questions are counted as packets");
    lab.say("library, program and packets agree");
    net.judge(vec![
        Case::new(1, own(1, true), Passes("accept-rule")).of(|route| route.tcp(1, 22, tcp::SYN)),
        Case::new(1, own(1, false), Passes("accept-rule")).of(|route| route.tcp(1, 85, tcp::SYN)),
        Case::new(1, own(1, true), Dropped("drop-default")).of(|route| route.tcp(1, 91, tcp::SYN)),
        Case::text(1, "10.1.9.1", Dropped("drop-rule"))?.of(|route| route.tcp(1, 22, tcp::SYN)),
        Case::text(1, V4, Dropped("no-route"))?,
        Case::text(3, V4, Passes("source"))?,
    ])
}
