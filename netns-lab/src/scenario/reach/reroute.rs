//! How long routing daemons take to reroute, with wgrouted and without.
//!
//! Here live the faults, the measurement and the table. All faults run in one network, each at a
//! spoke of its own, and what the daemons' default timers take is waited for once.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::rivals::{BACKUP, LOST, Rivals, Spoke, served};
use crate::{
    lab::{Lab, Ping, Report, Train, wait_until},
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "reach-reroute",
    "four faults under BIRD, babeld and FRR: how long until traffic flows, a table",
    reroute,
)
.on_newest()
.within(600)];

/// Between two packets of the traffic that measures: also what is added to an outage at most.
const INTERVAL: Duration = Duration::from_millis(100);
/// As many answers can not have been on their way when the fault came.
const RECOVERED: u64 = 10;
/// With probes every 100 ms; the aim is half of it, on a machine that is not emulated.
const HELPED: Duration = Duration::from_secs(2);
/// More than the longest default timer, BIRD's hold time of 240 s.
const DEFAULTS: Duration = Duration::from_secs(300);

/// What goes wrong at a spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Killed,
    Cut,
    OneWay,
    Rebinding,
}

impl Fault {
    const ALL: [Fault; 4] = [Fault::Killed, Fault::Cut, Fault::OneWay, Fault::Rebinding];

    /// The spoke that it strikes.
    fn spoke(self) -> u8 {
        self as u8 + 1
    }

    fn strike(self, spoke: &mut Spoke) -> Result<()> {
        let node = spoke.node.clone();
        let each = |line: &dyn Fn(&str, &str) -> String| -> String {
            spoke.ties.iter().map(|(link, wg)| line(&link.b.device, wg.name())).collect()
        };
        match self {
            Fault::Killed => {
                let delete = each(&|_, wg| format!("link del {wg}\n"));
                let bird = spoke.bird.as_mut().context("no BIRD")?.process();
                let babeld = spoke.babeld.as_mut().context("no babeld")?.process();
                // Nobody may say farewell.
                bird.pause()?;
                babeld.pause()?;
                node.ip_batch(&delete)?;
                bird.kill()?;
                babeld.kill()
            }
            Fault::Cut => node.ip_batch(&each(&|device, _| format!("link set {device} down\n"))),
            Fault::OneWay => {
                let lines =
                    each(&|device, _| format!("qdisc add dev {device} root netem loss 100%\n"));
                node.run_input("tc", ["-batch", "-"], lines.as_bytes()).map(drop)
            }
            Fault::Rebinding => {
                // What is on its way must not show the new port: nothing leaves meanwhile.
                let lines = each(&|device, wg| {
                    format!(
                        "tc qdisc add dev {device} root netem loss 100%\n\
                         wg set {wg} listen-port $(($(wg show {wg} listen-port) + 1000))\n\
                         tc qdisc del dev {device} root\n"
                    )
                });
                node.run("sh", ["-e", "-c", &lines]).map(drop)
            }
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Killed => "peer killed",
            Fault::Cut => "cable cut",
            Fault::OneWay => "one-way loss",
            Fault::Rebinding => "NAT rebinding",
        })
    }
}

/// The traffic of one hub to what one fault strikes.
struct Outage {
    fault: Fault,
    hub: usize,
    helped: bool,
    /// It is over when so many packets were answered.
    goal: u64,
    /// Runs until then.
    train: Option<Train>,
    /// Made elsewhere, for a train waits for its last answers.
    report: Option<JoinHandle<Result<Report>>>,
}

impl Outage {
    /// Whether it is over. Its train ends with it: what happens later is another matter.
    fn is_over(&mut self) -> bool {
        let goal = self.goal;
        if let Some(train) = self.train.take_if(|train| train.so_far().1 >= goal) {
            self.report = Some(thread::spawn(move || train.stop()));
        }
        self.train.is_none()
    }

    /// How long nothing was answered.
    fn length(self) -> Result<Duration> {
        let report = self.report.context("it is not over")?;
        Ok(report.join().expect("a train does not panic")?.longest_gap)
    }
}

fn reroute(lab: &mut Lab) -> Result<()> {
    let mut rivals = Rivals::new(lab)?;
    lab.say("all hubs know two ways to everything");
    let mut outages = Vec::new();
    // One after the other, so that the machine is busy with one at a time.
    for fault in Fault::ALL {
        let to = IpAddr::from(served(fault.spoke()));
        let mut struck = Vec::new();
        for (hub, rival) in rivals.hubs.iter().enumerate() {
            let train = Train::start(&rival.node, Ping::from(to), INTERVAL)?;
            struck.push((hub, rival.helped, train));
        }
        struck.iter().try_for_each(|(_, _, train)| train.run(3))?;
        // Or there would be nothing to notice.
        rivals.hubs.iter().try_for_each(|hub| hub.wait_way(fault.spoke(), fault.spoke()))?;
        lab.say(format_args!("{fault}: s{}", fault.spoke()));
        fault.strike(rivals.spoke(fault.spoke())?)?;
        let outage = |(hub, helped, train): (usize, bool, Train)| Outage {
            fault,
            hub,
            helped,
            goal: train.so_far().1 + RECOVERED,
            train: Some(train),
            report: None,
        };
        let mut struck: Vec<_> = struck.into_iter().map(outage).collect();
        wait(&rivals, &mut struck, Duration::from_secs(30), |outage| outage.helped)?;
        if fault != Fault::Rebinding {
            let mut helped = rivals.hubs.iter().filter(|hub| hub.helped);
            helped.try_for_each(|hub| hub.wait_way(fault.spoke(), BACKUP))?;
        }
        outages.append(&mut struck);
    }
    lab.say("those with wgrouted have rerouted");
    wait(&rivals, &mut outages, DEFAULTS, |_| true)?;
    for fault in [Fault::Killed, Fault::Cut, Fault::OneWay] {
        rivals.hubs.iter().try_for_each(|hub| hub.wait_way(fault.spoke(), BACKUP))?;
    }
    let mut cells = Vec::new();
    for outage in outages {
        let (fault, hub) = (outage.fault, outage.hub);
        cells.push((fault, hub, outage.length()?));
    }
    lab.say(table(&rivals, &cells)?);
    check(&rivals, &cells)
}

/// Waits until those that are meant are over.
fn wait(
    rivals: &Rivals,
    outages: &mut [Outage],
    patience: Duration,
    meant: fn(&Outage) -> bool,
) -> Result<()> {
    let mut open = || {
        let mut open = Vec::new();
        for outage in outages.iter_mut().filter(|outage| meant(outage)) {
            if !outage.is_over() {
                open.push((outage.fault, rivals.hubs[outage.hub].node.name()));
            }
        }
        open
    };
    wait_until("traffic to flow again", patience, || Ok(open()), Vec::is_empty).map(drop)
}

/// How long each hub had no answer.
type Cells = [(Fault, usize, Duration)];

fn table(rivals: &Rivals, cells: &Cells) -> Result<String> {
    let mut text = format!(
        "Seconds without an answer, until s{BACKUP} answers in the place of the peer or the peer \
         itself again. Daemons at their default timers, iBGP for BIRD and FRR; probes every \
         100 ms, and a peer is dead after {LOST}.\n\
         Killed: its tunnels are gone and nobody says farewell. Cut: at the far end. One-way: what \
         the peer sends is lost. Rebinding: its port changes, and it has nothing to say.\n\n| fault |"
    );
    for hub in &rivals.hubs {
        let with = if hub.helped { "with wgrouted" } else { "alone" };
        write!(text, " {} {with} |", hub.daemon)?;
    }
    text += "\n|---|";
    text += &"---|".repeat(rivals.hubs.len());
    for fault in Fault::ALL {
        write!(text, "\n| {fault} |")?;
        for hub in 0..rivals.hubs.len() {
            write!(text, " {:.1} |", length(cells, fault, hub)?.as_secs_f32())?;
        }
    }
    Ok(text + "\n")
}

fn length(cells: &Cells, fault: Fault, hub: usize) -> Result<Duration> {
    let mut found = cells.iter().filter(|cell| (cell.0, cell.1) == (fault, hub));
    found.next().map(|cell| cell.2).with_context(|| format!("{fault} was not measured"))
}

fn check(rivals: &Rivals, cells: &Cells) -> Result<()> {
    // Each hub with wgrouted stands before the same without.
    for helped in (0..rivals.hubs.len()).step_by(2) {
        let daemon = rivals.hubs[helped].daemon;
        for fault in Fault::ALL {
            let (with, without) =
                (length(cells, fault, helped)?, length(cells, fault, helped + 1)?);
            ensure!(with < HELPED, "{fault}: {daemon} with wgrouted took {with:?}");
            // What decides is no timer of the daemon's: whatever the peer says next shows where it
            // is now, be it by chance a moment later.
            let by_chance = fault == Fault::Rebinding;
            ensure!(
                by_chance || without >= with * 3,
                "{fault}: {daemon} took {with:?} with wgrouted and {without:?} alone"
            );
        }
    }
    Ok(())
}
