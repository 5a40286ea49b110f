//! A thousand flows over fifty exits.
//!
//! Here live how long they take to be in force, what the kernel holds for them, and what changes where
//! one flow changes: that one's rules, by what the kernel announces.

use std::{fmt::Write as _, process::Command, time::Instant};

use anyhow::{Context, Result, ensure};

use super::{Scenario, client::status};
use crate::lab::{Lab, Node, PATIENCE, Process, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-thousand",
    "1,000 flows over 50 exits: how long, how many objects; a changed flow changes its rules alone",
    thousand,
)
.within(240)];

const FLOWS: u32 = 1000;
const EXITS: u32 = 50;

fn thousand(lab: &mut Lab) -> Result<()> {
    let node = lab.node("client")?;
    links(&node)?;
    lab.say(format_args!("{EXITS} links are there"));
    let mut daemon = lab.wgrouted_with(&node, &config(|flow| flow)?)?;
    let began = Instant::now();
    daemon.start()?;
    let ready = began.elapsed();
    let log = daemon.log()?;
    let line = log.lines().find(|line| line.contains("flows are in force")).unwrap_or_default();
    lab.say(format_args!("ready after {} ms: {line}", ready.as_millis()));
    let said = status(&daemon)?;
    lab.say(format_args!("objects: {}", said["objects"]));
    ensure!(said["in_force"] == true, "{}", said["faults"]);
    let count = |object: &str| said["objects"][object].as_u64().context("a number of objects");
    for family in ["-4", "-6"] {
        let rules = rules(&node, family)?;
        // Flows, a guard for each device, and the anchor.
        let want = (FLOWS + EXITS + 1) as usize;
        ensure!(rules == want, "{rules} rules instead of {want} ({family})");
    }
    ensure!(count("rules")? == u64::from(2 * (FLOWS + EXITS + 1)), "{}", said["objects"]);
    ensure!(count("routes")? == u64::from(2 * EXITS), "{}", said["objects"]);
    ensure!(count("groups")? == u64::from(2 * EXITS), "{}", said["objects"]);

    let monitor = Monitor::start(&node)?;
    lab.say("one flow has another exit");
    let other = config(|flow| if flow == 500 { 501 } else { flow })?;
    let began = Instant::now();
    daemon.reload(&other)?;
    let changes = monitor.wait(4)?;
    lab.say(format_args!("after {} ms:\n  {}", began.elapsed().as_millis(), changes.join("\n  ")));
    let of =
        |mark: u32| changes.iter().filter(|l| l.contains(&format!("fwmark {mark:#x} "))).count();
    ensure!(of(500) == 4, "other rules changed too: {changes:?}");
    let gone = changes.iter().filter(|line| line.starts_with("Deleted")).count();
    ensure!(gone == 2, "{gone} rules went: {changes:?}");

    lab.say("one flow more, in front of all");
    let first = "[[flow]]\nname = \"first\"\nmark = 5000\nexit = \"exit-1\"\n";
    let more = other.replacen("[[flow]]\n", &format!("{first}[[flow]]\n"), 1);
    daemon.reload(&more)?;
    let changes = monitor.wait(6)?.split_off(4);
    lab.say(format_args!("\n  {}", changes.join("\n  ")));
    let added = |line: &String| !line.starts_with("Deleted") && line.contains("fwmark 0x1388 ");
    ensure!(changes.iter().all(added), "{changes:?}");

    lab.say("and gone again; a reload that changes nothing changes nothing");
    daemon.reload(&other)?;
    let changes = monitor.wait(8)?.split_off(6);
    ensure!(changes.iter().all(|line| line.starts_with("Deleted")), "{changes:?}");
    daemon.reload(&other)?;
    // What comes after it is the next thing that comes at all.
    node.ip("rule add priority 40000 fwmark 0x9999 lookup main")?;
    let changes = monitor.wait(9)?.split_off(8);
    ensure!(changes.len() == 1 && changes[0].contains("0x9999"), "{changes:?}");
    drop(daemon);
    Ok(())
}

/// Devices as cheap as WireGuard's can be: each with one peer, which nobody is.
fn links(node: &Node) -> Result<()> {
    let mut script = "key=$(wg genkey | wg pubkey)\n".to_owned();
    for number in 1..=EXITS {
        writeln!(
            script,
            "ip link add wg{number} type wireguard\n\
             wg set wg{number} listen-port {} peer $key allowed-ips 0.0.0.0/0,::/0\n\
             ip link set wg{number} up",
            51820 + number
        )?;
    }
    node.run("sh", ["-e", "-c", &script]).map(drop)
}

/// A flow for each mark, with the exit that `exit` gives it.
fn config(exit: impl Fn(u32) -> u32) -> Result<String> {
    let mut text = String::new();
    for number in 1..=EXITS {
        writeln!(text, "[[interface]]\nname = \"wg{number}\"\nlink = \"dedicated\"")?;
        writeln!(text, "[[exit]]\nname = \"exit-{number}\"\nvia = [\"wg{number}\"]")?;
    }
    for flow in 1..=FLOWS {
        let exit = exit(flow) % EXITS + 1;
        writeln!(text, "[[flow]]\nname = \"flow-{flow}\"\nmark = {flow}\nexit = \"exit-{exit}\"")?;
    }
    Ok(text)
}

/// How many rules of ours `ip rule` shows.
fn rules(node: &Node, family: &str) -> Result<usize> {
    let text = node.run_long("ip", [family, "-N", "rule", "show"])?;
    let ours = |line: &&str| {
        let priority = line.split(':').next().and_then(|number| number.parse::<u32>().ok());
        priority.is_some_and(|priority| (10_000..30_000).contains(&priority))
    };
    Ok(text.lines().filter(ours).count())
}

/// What the kernel announces of rules.
struct Monitor(Process);

impl Monitor {
    fn start(node: &Node) -> Result<Monitor> {
        let mut command = Command::new("ip");
        command.args(["-o", "monitor", "rule"]);
        let monitor = Monitor(node.spawn("monitor", &mut command)?);
        // It says nothing when it begins to listen: a rule that it tells of shows that it does.
        wait_until(
            "the monitor to listen",
            PATIENCE,
            || {
                node.ip("rule add priority 40001 fwmark 0x9998 lookup main")?;
                node.ip("rule del priority 40001")?;
                monitor.lines()
            },
            |lines| lines.iter().any(|line| line.contains("0x9998")),
        )?;
        Ok(monitor)
    }

    /// All but the rule that was for the start.
    fn changes(&self) -> Result<Vec<String>> {
        Ok(self.lines()?.into_iter().filter(|line| !line.contains("0x9998")).collect())
    }

    fn lines(&self) -> Result<Vec<String>> {
        let text = std::fs::read_to_string(self.0.log())?;
        // A line that is not ended yet is none.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(str::trim).map(str::to_owned).collect())
    }

    /// Waits until so many changes were announced, and a moment longer for one that should not be.
    fn wait(&self, count: usize) -> Result<Vec<String>> {
        let what = format!("{count} changes of rules");
        wait_until(what, PATIENCE, || self.changes(), |changes| changes.len() >= count)?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        let changes = self.changes()?;
        ensure!(
            changes.len() == count,
            "{} changes instead of {count}: {changes:?}",
            changes.len()
        );
        Ok(changes)
    }
}
