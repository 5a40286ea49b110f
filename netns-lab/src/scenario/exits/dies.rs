//! An exit dies, and comes back.
//!
//! Here lives what becomes of flows then: those of others do not notice, its own do what is configured
//! within the time that probes take, and what has found another place stays there.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    Scenario,
    client::{Client, PROBES, marked, used, ways},
};
use crate::lab::{Exits, Flown, Lab, PATIENCE, Shots, Transfer, Volley};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-dies",
    "an exit dies under traffic: others notice nothing, its flows move or block, survivors stay",
    dies,
)
.within(240)];

/// What the flows of the exit that dies do, by mark.
const FLOWS: &str = r#"
[[exit]]
name = "ordered"
via = ["wg-berlin", "wg-paris"]
back_after = "3s"

[[exit]]
name = "blocked"
via = ["wg-berlin"]
when_down = "block"

[[exit]]
name = "next"
via = ["wg-berlin"]

[[exit]]
name = "ordinary"
via = ["wg-berlin"]
when_down = "main"

[[exit]]
name = "weighted"
via = [
  { link = "wg-berlin", weight = 2 },
  { link = "wg-oslo", weight = 1 },
  { link = "wg-rome", weight = 1 },
]
back_after = "1s"

[[exit]]
name = "other"
via = ["wg-oslo"]

[[flow]]
mark = 1
exit = "ordered"

[[flow]]
mark = 2
exit = "blocked"

[[flow]]
mark = 3
exit = "next"

[[flow]]
mark = 4
exit = "ordinary"

[[flow]]
mark = 5
exit = "weighted"

[[flow]]
mark = "0x2/0x6"             # 3 among others: what its first rule leaves
exit = "other"

[[flow]]
mark = 6
exit = "other"
"#;

/// The way of each mark while the exit is alive and while it is dead.
const WAYS: [(u32, &str, Option<&str>); 5] = [
    (1, "berlin", Some("paris")),
    (2, "berlin", None),
    (3, "berlin", Some("oslo")),
    (4, "berlin", Some("isp")),
    (6, "oslo", Some("oslo")),
];
/// Flows of each family through the weighted exit.
const CROWD: usize = 32;
/// What finding out may take beyond three probes, on a machine that is emulated and busy.
const SLACK: Duration = Duration::from_millis(2500);
/// As FLOWS says.
const BACK_AFTER: Duration = Duration::from_secs(3);

fn dies(lab: &mut Lab) -> Result<()> {
    let mut client = Client::new(lab, 4, FLOWS)?;
    // By ports too, or all flows between two addresses are one.
    for family in ["ipv4", "ipv6"] {
        client.node().sysctl(&format!("{family}/fib_multipath_hash_policy"), "1")?;
    }
    client.start()?;
    // At first whatever works is used, then what is better.
    client.wait_used("ordered", &["wg-berlin"])?;
    client.wait_used("weighted", &["wg-berlin", "wg-oslo", "wg-rome"])?;
    let node = client.node().clone();
    let single: Vec<Shots> =
        WAYS.iter().flat_map(|way| [true, false].map(|v4| marked(v4, way.0))).collect();
    let crowd: Vec<Shots> = [true, false].iter().flat_map(|v4| [marked(*v4, 5); CROWD]).collect();
    let singles = Volley::start(&node, &single, Duration::from_millis(4))?;
    let crowds = Volley::start(&node, &crowd, Duration::from_millis(2))?;
    let transfers = transfers(&client)?;
    singles.wait_answers(0..single.len(), 10)?;
    crowds.wait_answers(0..crowd.len(), 10)?;
    for (mark, transfer) in &transfers {
        lab.say(format_args!("transfer with mark {mark}: {} blocks", transfer.blocks()));
        transfer.run(10)?;
    }
    let place = |volley: &Volley, flows: &[Shots]| -> Vec<Vec<String>> {
        let each = volley.locals().iter().zip(flows);
        each.map(|(local, shots)| ways(&client.net, *local, shots.to)).collect()
    };
    let before = place(&crowds, &crowd);
    let count = |place: &[Vec<String>], exit: &str| {
        place.iter().filter(|ways| ways.last().is_some_and(|way| way == exit)).count()
    };
    let spread = ["berlin", "oslo", "rome"].map(|exit| count(&before, exit));
    lab.say(format_args!("{} flows by berlin, oslo, rome: {spread:?}", crowd.len()));
    ensure!(spread.iter().all(|flows| *flows > 0), "weighted flows by {spread:?}");

    lab.say("berlin dies");
    let berlin = client.net.exit("berlin")?;
    let died = Instant::now();
    berlin.cut()?;
    client.wait_used("ordered", &["wg-paris"])?;
    client.wait_used("weighted", &["wg-oslo", "wg-rome"])?;
    client.wait_used("blocked", &[])?;
    lab.say(format_args!("all is moved {} ms later", died.elapsed().as_millis()));
    let alive = (0..single.len()).filter(|flow| WAYS[flow / 2].2.is_some());
    singles.wait_answers(alive, 20)?;
    crowds.wait_answers(0..crowd.len(), 10)?;
    for (_, transfer) in &transfers {
        transfer.run(10)?;
    }
    let during = place(&crowds, &crowd);
    let spread = ["berlin", "oslo", "rome"].map(|exit| count(&during, exit));
    lab.say(format_args!("{} flows by berlin, oslo, rome: {spread:?}", crowd.len()));

    lab.say("berlin comes back");
    let back = Instant::now();
    client.net.exit("berlin")?.mend()?;
    client.wait_used("weighted", &["wg-berlin", "wg-oslo", "wg-rome"])?;
    lab.say(format_args!("the weighted exit uses it after {} ms", back.elapsed().as_millis()));
    let early = used(&client.daemon, "ordered")?;
    let late = back.elapsed();
    ensure!(late > BACK_AFTER || early == ["wg-paris"], "ordered: {early:?} after {late:?}");
    client.wait_used("ordered", &["wg-berlin"])?;
    let returned = back.elapsed();
    lab.say(format_args!("the ordered one after {} ms", returned.as_millis()));
    ensure!(returned >= BACK_AFTER, "it went back after {returned:?}");
    singles.wait_answers(0..single.len(), 20)?;
    crowds.wait_answers(0..crowd.len(), 10)?;
    for (mark, transfer) in transfers {
        transfer.run(10)?;
        let done = transfer.stop()?;
        let (octets, longest) = (done.octets, done.longest.as_millis());
        lab.say(format_args!(
            "transfer with mark {mark}: {octets} octets, longest block {longest} ms"
        ));
    }
    let after = place(&crowds, &crowd);
    let moved = during.iter().zip(&after).filter(|(during, after)| during != after).count();
    lab.say(format_args!("{moved} of {} weighted flows moved when berlin came back", crowd.len()));
    ensure!(moved == 0, "{moved} flows moved when berlin came back");

    crowd_reports(lab, &before, &after, &crowds.stop()?)?;
    single_reports(lab, &client.net, &single, &singles.stop()?)
}

/// Transfers that shall survive: of the flows that move, and of those that have nothing to do with it.
fn transfers(client: &Client) -> Result<Vec<(u32, Transfer)>> {
    let start = |(mark, v4): (u32, bool)| {
        let Shots { origin, to } = marked(v4, mark);
        Ok((mark, Transfer::start(client.node(), &origin, to, PATIENCE)?))
    };
    [(1, true), (1, false), (6, true), (6, false)].into_iter().map(start).collect()
}

/// Of the weighted exit: who was not by berlin lost nothing and stayed.
fn crowd_reports(
    lab: &Lab,
    before: &[Vec<String>],
    after: &[Vec<String>],
    flown: &[Flown],
) -> Result<()> {
    let (mut untouched, mut gaps) = (0, Vec::new());
    for ((before, after), flown) in before.iter().zip(after).zip(flown) {
        if before == &["berlin"] {
            ensure!(after.len() == 2, "a flow of berlin's went by {after:?}");
            gaps.push(flown.report.longest_gap);
        } else {
            ensure!(before == after, "a flow by {before:?} went by {after:?}");
            flown.report.assert_no_loss()?;
            untouched += 1;
        }
    }
    let (least, most) = (gaps.iter().min(), gaps.iter().max());
    lab.say(format_args!(
        "{untouched} flows by others: none lost, none moved; {} of berlin's were away for {least:?} to \
         {most:?}",
        gaps.len()
    ));
    Ok(())
}

/// Of the single exits: each way in its order, and how long a change took.
fn single_reports(lab: &Lab, net: &Exits, single: &[Shots], flown: &[Flown]) -> Result<()> {
    for (flow, (shots, flown)) in single.iter().zip(flown).enumerate() {
        let (mark, alive, dead) = WAYS[flow / 2];
        let seen = ways(net, flown.local, shots.to);
        let report = &flown.report;
        lab.say(format_args!(
            "mark {mark} to {}: by {seen:?}, {} of {} lost, longest gap {} ms",
            shots.to,
            report.lost.len(),
            report.sent,
            report.longest_gap.as_millis()
        ));
        match dead {
            Some(dead) if dead == alive => {
                ensure!(seen == [alive], "mark {mark} by {seen:?}");
                report.assert_no_loss()?;
            }
            Some(dead) => {
                ensure!(seen == [alive, dead, alive], "mark {mark} by {seen:?}");
                let limit = PROBES * 3 + SLACK;
                ensure!(report.longest_gap < limit, "mark {mark}: {:?}", report.longest_gap);
            }
            None => {
                ensure!(seen == [alive], "mark {mark} by {seen:?}");
                let refused =
                    |errno: i32| report.lost.iter().filter(|l| l.error == Some(errno)).count();
                let refused = refused(libc::ENETUNREACH) + refused(libc::EHOSTUNREACH);
                ensure!(refused > 0, "mark {mark}: nobody was told");
            }
        }
    }
    Ok(())
}
