//! Numbers that somebody else has, and somebody who removes what is ours.
//!
//! Here live the collisions: what stands among our priorities, tables and nexthop objects without being
//! ours is told and left alone; what is ours and goes comes back.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    client::{Client, objects, status},
};
use crate::lab::{Lab, Node, PATIENCE, differences, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-tables-taken",
    "others' rules, routes and nexthops among ours are told and kept; what is ours comes back",
    taken,
)
.within(180)];

/// What may pass until what went is there again.
const SECONDS: Duration = Duration::from_secs(5);

fn flows(more: &str) -> String {
    format!(
        "[[exit]]\nname = \"berlin\"\nvia = [\"wg-berlin\"]\nwhen_down = \"block\"\n{more}\
         [[flow]]\nname = \"secret\"\nmark = 1\nexit = \"berlin\"\n"
    )
}

fn taken(lab: &mut Lab) -> Result<()> {
    let mut client = Client::new(lab, 1, &flows(""))?;
    let node = client.node().clone();

    lab.say("somebody's rule among ours: refused, and left alone");
    for family in ["-4", "-6"] {
        let rule = "rule add priority 15000 from all fwmark 0x7 lookup main";
        node.ip(&format!("{family} {rule}"))?;
        let before = objects(&node)?;
        let line = refused(&mut client)?;
        lab.say(&line);
        ensure!(line.contains("15000") && line.contains("`rules` in [flows]"), "{line}");
        same(&before, &objects(&node)?)?;
        node.ip(&format!("{family} rule del priority 15000"))?;
    }

    lab.say("somebody's routes in a table that an exit names: likewise");
    node.ip("route add 198.51.100.0/24 dev to-isp table 5001 proto static")?;
    client.daemon.configure(&super::client::config(&client.net, &flows("table = 5001\n"))?)?;
    let before = objects(&node)?;
    let line = refused(&mut client)?;
    lab.say(&line);
    ensure!(line.contains("table 5001") && line.contains("feed = true"), "{line}");
    same(&before, &objects(&node)?)?;

    lab.say("in the table that the exit's name gives: another is taken; and nexthop objects");
    client.daemon.configure(&super::client::config(&client.net, &flows(""))?)?;
    client.start()?;
    let table = table(&client)?;
    ensure!(client.daemon.terminate()?.success(), "the daemon did not end well");
    // With them go the routes that lead to them.
    node.ip("nexthop flush proto 119")?;
    for family in ["-4", "-6"] {
        node.ip(&format!("{family} route flush table {table}"))?;
    }
    node.ip(&format!("route add 198.51.100.0/24 dev to-isp table {table} proto static"))?;
    node.ip("nexthop add id 1190000 dev to-isp proto static")?;
    node.ip("nexthop add id 1190002 blackhole proto static")?;
    client.start()?;
    let other = self::table(&client)?;
    lab.say(format_args!("table {table} is somebody's, so it is {other}"));
    ensure!(other != table, "table {table} is somebody else's");
    let nexthops = node.ip("-N nexthop show")?;
    lab.say(&nexthops);
    for theirs in ["id 1190000 dev to-isp", "id 1190002 blackhole"] {
        ensure!(nexthops.contains(theirs), "{theirs} is gone: {nexthops}");
    }

    lab.say("what is ours and goes comes back");
    let whole = unnumbered(objects(&node)?);
    for damage in [
        "-4 rule del fwmark 0x1".to_owned(),
        "-6 rule del fwmark 0x1".to_owned(),
        format!("-4 route del unreachable default table {other}"),
        format!("-6 route del unreachable default table {other} metric 4278198272"),
        format!("-4 route del default table {other} metric 1024"),
        "nexthop del id GROUP".to_owned(),
        "nexthop flush proto 119".to_owned(),
    ] {
        let log = client.daemon.log()?.len();
        let began = Instant::now();
        node.ip(&damage.replace("GROUP", &group(&node)?.to_string()))?;
        let missing = || Ok(differences(&whole, &unnumbered(objects(&node)?)));
        let repaired = |missing: &Vec<String>| missing.is_empty();
        wait_until(format!("`ip {damage}` to be undone"), PATIENCE, missing, repaired)?;
        let took = began.elapsed();
        lab.say(format_args!("`ip {damage}`: undone after {} ms", took.as_millis()));
        ensure!(took < SECONDS, "`ip {damage}`: undone after {took:?}");
        let told = || Ok(client.daemon.log()?.split_off(log));
        let is = |log: &String| log.contains("they are there again");
        wait_until(format!("a word about `ip {damage}`"), SECONDS, told, is)?;
    }
    let repaired = status(&client.daemon)?["repaired"].as_u64().unwrap_or_default();
    ensure!(repaired >= 7, "{repaired} repairs are counted");

    lab.say("a reload into a taken range is refused, and all goes on");
    node.ip("rule add priority 9500 from all fwmark 0x7 lookup main")?;
    let whole = objects(&node)?;
    client.reload(&format!("[flows]\nrules = \"9000-9999\"\n{}", flows("")))?;
    let log = client.daemon.log()?;
    ensure!(log.contains("9500"), "{log}");
    same(&whole, &objects(&node)?)
}

/// Starts the daemon, which must end with an error, and gives what it said.
fn refused(client: &mut Client) -> Result<String> {
    client.daemon.spawn()?;
    let (status, log) = client.daemon.wait_exit()?;
    ensure!(!status.success(), "it ended well: {log}");
    let line = log.lines().rev().find(|line| line.starts_with("wgrouted: "));
    line.map(str::to_owned).with_context(|| format!("no error in {log}"))
}

/// Without the numbers of nexthop objects of ours: what comes back may have another.
fn unnumbered(objects: BTreeMap<String, String>) -> BTreeMap<String, String> {
    let line = |line: String| {
        let ours = line.contains("proto 119") || line.contains("protocol 119");
        let mut words: Vec<&str> = line.split_whitespace().collect();
        for at in 1..words.len() {
            if ours && matches!(words[at - 1], "id" | "nhid" | "group") {
                words[at] = "N";
            }
        }
        words.join(" ")
    };
    objects.into_iter().map(|(key, value)| (line(key), value)).collect()
}

/// Nothing changed, but for what comes with the link itself.
fn same(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<()> {
    let mut differences = differences(before, after);
    differences.retain(|line| !line.contains("dev wg-berlin"));
    ensure!(differences.is_empty(), "changed: {differences:?}");
    Ok(())
}

/// The number of a group of ours.
fn group(node: &Node) -> Result<u64> {
    let nexthops: Vec<Value> = serde_json::from_str(&node.ip("-j -N nexthop show")?)?;
    let ours = |nexthop: &&Value| nexthop["protocol"] == "119" && nexthop["group"].is_array();
    let group = nexthops.iter().find(ours).context("no group of ours")?;
    group["id"].as_u64().context("a group without number")
}

/// The table of the exit.
fn table(client: &Client) -> Result<u64> {
    let status = status(&client.daemon)?;
    status.pointer("/exits/0/table").and_then(|t| t.as_u64()).context("no table")
}
