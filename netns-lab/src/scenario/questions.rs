//! What the daemon and its commands tell.
//!
//! Here live `plan`, `explain` and the lists, each with and without a running daemon, recordings,
//! and what the daemon's process may do.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    support::{Hub, NET4, NET6, V4, star},
};
use crate::lab::{AllowedIps, Lab, differences};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "plan",
        "`wgrouted plan` names every change, makes none, and needs no daemon",
        plan,
    ),
    Scenario::new(
        "show-routes",
        "`wgrouted show routes` is what `wg show` says, before and after `wgrouted resync`",
        show_routes,
    ),
    Scenario::new(
        "explain",
        "`wgrouted explain` names peer, route and rule, and why the others lost, in both ways",
        explain,
    ),
    Scenario::new(
        "recording",
        "what a recorded run decided is decided again by `wgrouted replay`",
        recording,
    ),
    Scenario::new(
        "privileges",
        "the daemon needs CAP_NET_ADMIN, keeps it and CAP_NET_RAW only, and shows no secret",
        privileges,
    ),
];

fn plan(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 2)?;
    let mut daemon = lab.wgrouted(&star.hub, &["wg0"])?;
    star.hub.ip_batch(&format!(
        "route add {NET4} via 10.99.0.1\n\
         route add {NET6} via fd99::2\n"
    ))?;
    let before = star.wg.allowed_ips()?;
    let text = daemon.run(&["plan", "--interface", "wg0"])?;
    for (prefix, spoke) in [(NET4, 1), (NET6, 2)] {
        let key = star.spoke(spoke)?.wg.public_key().to_owned();
        let line = format!("wg0: add {prefix} to {key}");
        ensure!(text.lines().any(|seen| seen == line), "no `{line}` in:\n{text}");
    }
    ensure!(text.ends_with("2 changes\n"), "{text}");
    ensure!(star.wg.allowed_ips()? == before, "`plan` changed something");

    daemon.start()?;
    let hub = Hub { star, daemon };
    hub.expect(&[(NET4, "s1"), (NET6, "s2")])?;
    hub.daemon.wait_in_sync()?;
    let text = hub.daemon.run(&["plan"])?;
    ensure!(text == "nothing to change\n", "{text}");
    let other = hub.daemon.run(&["plan", "--interface", "wg0"])?;
    ensure!(other == "nothing to change\n", "with the daemon's pinned prefixes: {other}");

    lab.say("after the daemon's end: a route moved, one went, a prefix came by hand");
    let Hub { star, mut daemon } = hub;
    daemon.terminate()?;
    let foreign = "203.0.113.0/24";
    star.hub.ip(&format!("route replace {NET4} via 10.99.0.2"))?;
    star.hub.ip(&format!("route del {NET6}"))?;
    let own = star.spoke(1)?.inner.prefixes();
    star.wg.set_allowed_ips("s1", &[own, vec![NET4.parse()?, foreign.parse()?]].concat())?;
    let before = star.wg.allowed_ips()?;
    let text = daemon.run(&["plan", "--interface", "wg0"])?;
    let (first, second) = (star.spoke(1)?.wg.public_key(), star.spoke(2)?.wg.public_key());
    let wanted = [
        format!("wg0: move {NET4} from {first} to {second}"),
        format!("wg0: remove {foreign} from {first}"),
        format!("wg0: remove {NET6} from {second}"),
        "3 changes".to_owned(),
    ];
    ensure!(text.lines().eq(wanted.iter().map(String::as_str)), "{text}");
    ensure!(star.wg.allowed_ips()? == before, "`plan` changed something");
    Ok(())
}

/// What the daemon says that WireGuard holds, held against `wg show`.
fn show_routes(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 2)?;
    hub.ip_batch(&format!(
        "route add default via 10.99.0.2\n\
         route add {NET4} via 10.99.0.1\n\
         route add {NET6} via fd99::2\n"
    ))?;
    let wanted = [("0.0.0.0/0", "s2"), (NET4, "s1"), (NET6, "s2")];
    hub.expect(&wanted)?;
    let equal = || -> Result<()> {
        hub.daemon.wait_in_sync()?;
        let rows = hub.daemon.show("routes")?;
        let rows = rows.as_array().context("`show routes --json` is no list")?;
        let shown: AllowedIps = rows
            .iter()
            .map(|row| {
                let text = |key: &str| row[key].as_str().with_context(|| format!("{key}: {row}"));
                Ok((text("prefix")?.parse()?, hub.star.wg.name_of(text("installed")?)))
            })
            .collect::<Result<_>>()?;
        let wrong = differences(&hub.star.wg.allowed_ips()?, &shown);
        ensure!(wrong.is_empty(), "`show routes` and `wg show` differ: {wrong:?}");
        Ok(())
    };
    equal()?;

    lab.say("`resync` reads everything again and changes nothing");
    let counter = |name: &str| hub.daemon.counter(&format!("/interfaces/0/counters/{name}"));
    let (dumps, adds) = (counter("device_dumps")?, counter("adds")?);
    hub.daemon.run(&["resync"])?;
    hub.daemon.wait_counter("/interfaces/0/counters/device_dumps", dumps + 1)?;
    hub.expect(&wanted)?;
    ensure!(counter("adds")? == adds, "something was added");
    equal()
}

fn explain(lab: &mut Lab) -> Result<()> {
    let mut hub = Hub::new(lab, 3)?;
    hub.ip_batch(&format!(
        "route add {NET4} via 10.99.0.1 metric 10 proto bird\n\
         route add {NET4} via 10.99.0.2 metric 20 proto static\n\
         route add default via 10.99.0.3\n\
         route add 203.0.113.0/24 via 10.99.0.77\n"
    ))?;
    hub.expect(&[(NET4, "s1"), ("0.0.0.0/0", "s3")])?;
    hub.daemon.wait_in_sync()?;
    let key =
        |spoke: usize| -> Result<String> { Ok(hub.star.spoke(spoke)?.wg.public_key().to_owned()) };
    let (best, other) = (key(1)?, key(2)?);
    let check = |explanation: &Value| -> Result<()> {
        let here = explanation.pointer("/interfaces/0").context("no interface explained")?;
        ensure!(here["wanted"]["public_key"] == best.as_str(), "{here}");
        ensure!(here["installed"]["prefix"] == NET4, "{here}");
        let candidates = here["candidates"].as_array().context("no candidates")?;
        let verdicts: Vec<String> = candidates
            .iter()
            .map(|c| format!("{} {} {}", c["prefix"], c["metric"], c["verdict"]))
            .collect();
        let wanted = [
            format!("\"{NET4}\" 10 \"wins\""),
            format!("\"{NET4}\" 20 {{\"shadowed\":\"metric\"}}"),
            "\"0.0.0.0/0\" 0 \"less-specific\"".to_owned(),
        ];
        ensure!(verdicts == wanted, "{verdicts:#?}");
        Ok(())
    };
    check(&hub.daemon.explain(V4)?)?;
    let text = hub.daemon.run(&["explain", V4])?;
    for part in [
        &format!("all packets: table main: {NET4} metric 10 via 10.99.0.1 dev wg0"),
        "the kernel agrees: via 10.99.0.1 dev wg0",
        &format!("{V4} belongs to peer"),
        &best,
        "proto bird metric 10",
        "wins: the gateway lies in",
        &format!("-> {other}: lost: a route with a lower metric wins"),
        "lost: a more specific prefix wins",
    ] {
        ensure!(text.contains(part), "no `{part}` in:\n{text}");
    }
    let shadowed = hub.daemon.run(&["show", "shadowed"])?;
    ensure!(shadowed.contains("a route with a lower metric wins"), "{shadowed}");
    let unresolved = hub.daemon.run(&["show", "unresolved"])?;
    ensure!(unresolved.contains("gateway 10.99.0.77 lies in no peer's pinned"), "{unresolved}");
    let unknown = hub.daemon.refused(&["show", "routes", "--interface", "wg7"])?;
    ensure!(unknown == "wgrouted: this daemon does not follow interface wg7\n", "{unknown}");

    lab.say("the same without a daemon");
    hub.daemon.terminate()?;
    let alone = hub.daemon.run(&["explain", V4, "--interface", "wg0", "--json"])?;
    check(&serde_json::from_str(&alone)?)?;
    let refusal = hub.daemon.refused(&["show", "routes"])?;
    ensure!(refusal.contains("no wgrouted listens on"), "{refusal}");
    Ok(())
}

fn recording(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 2)?;
    let file = star.hub.dir().join("recording.jsonl");
    let file = file.to_str().context("a path of plain text")?;
    let daemon = lab.wgrouted(&star.hub, &["wg0"])?.arg("--record").arg(file);
    let mut hub = Hub { star, daemon }.started()?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.expect(&[(NET4, "s1")])?;
    hub.ip(&format!("route replace {NET4} via 10.99.0.2"))?;
    hub.expect(&[(NET4, "s2")])?;
    hub.daemon.terminate()?;
    let replayed = hub.daemon.run(&["replay", file])?;
    let changes: Vec<&str> =
        replayed.lines().filter(|line| line.contains("Change { prefix:")).collect();
    ensure!(changes.len() == 2, "{replayed}");
    ensure!(changes[0].contains("old: None"), "the first is no addition: {}", changes[0]);
    ensure!(changes[1].contains("old: Some"), "the second is no move: {}", changes[1]);
    let bytes = std::fs::read(file)?;
    let private = hub.star.hub.run("wg", ["show", "wg0", "private-key"])?;
    let text = String::from_utf8_lossy(&bytes);
    ensure!(!text.contains(private.trim()), "the recording holds the private key");
    Ok(())
}

fn privileges(lab: &mut Lab) -> Result<()> {
    let mut hub = Hub::new(lab, 1)?;
    hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    hub.expect(&[(NET4, "s1")])?;
    let pid = hub.daemon.process()?.pid();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(entry?.path().join("status"))?;
        for set in ["CapEff", "CapPrm"] {
            let value = status.lines().find_map(|line| line.strip_prefix(set)).context(set)?;
            let bits = u64::from_str_radix(value.trim_start_matches(':').trim(), 16)?;
            // CAP_NET_ADMIN is number 12, CAP_NET_RAW 13 (include/uapi/linux/capability.h).
            ensure!(bits == 1 << 12 | 1 << 13, "{set} of a thread is {bits:#x}");
        }
    }
    let private = hub.star.hub.run("wg", ["show", "wg0", "private-key"])?;
    let memory = hub.daemon.run(&["show", "peers", "--json"])? + &hub.daemon.log()?;
    ensure!(!memory.contains(private.trim()), "the private key is shown");

    let program = hub.daemon.program().to_str().context("a path of plain text")?.to_owned();
    let output = hub.star.hub.output(
        "setpriv",
        [
            "--bounding-set",
            "-net_admin",
            &program,
            "run",
            "--interface",
            "wg9",
            "--runtime-dir",
            "/run/x",
        ],
    )?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{:?}: {error}", output.status);
    ensure!(
        error.starts_with("wgrouted: CAP_NET_ADMIN is missing: ") && error.lines().count() == 1,
        "{error}"
    );
    Ok(())
}
