//! What is to be blocked never leaves by another way.
//!
//! Here lives a stream of packets that goes on while the daemon, the exit and the link come and go, and
//! a capture of all devices of the sender. Packets before the first start are outside of what anybody
//! can promise; they show that the capture works.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{
    Scenario,
    client::{Client, marked, wait_link},
};
use crate::lab::{Capture, Flown, Lab, Leg, Shots, Volley, packet::protocol::UDP};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-kill-switch",
    "10,000 packets while the daemon, the exit and the link come and go: not one by another way",
    kill_switch,
)
.within(240)];

/// What is sent in all, at least, of flows that may not leave by another way.
const PACKETS: u64 = 10_000;
const INTERVAL: Duration = Duration::from_millis(1);
/// The mark of the flows that are blocked, and that of others.
const MARKS: (u32, u32) = (0x10, 0x20);

/// The flow, between others.
fn flows(before: &str, after: &str) -> String {
    format!(
        "[[exit]]\n\
         name = \"only\"\n\
         via = [\"wg-berlin\"]\n\
         when_down = \"block\"\n\
         source = [\"10.50.0.1\", \"fd50::1\"]\n\
         [[exit]]\n\
         name = \"spare\"\n\
         via = [\"wg-paris\"]\n\
         {before}\
         [[flow]]\n\
         name = \"secret\"\n\
         mark = {}\n\
         exit = \"only\"\n\
         {after}",
        MARKS.0
    )
}

/// Another flow, which is always selected after or instead of the secret one.
const OTHER: &str = "[[flow]]\nname = \"other\"\nmark = 0x77\nexit = \"spare\"\n";
/// One that would take everything.
const REST: &str = "[[flow]]\nname = \"rest\"\nmark = \"0x10/0x10\"\nexit = \"spare\"\n";

fn kill_switch(lab: &mut Lab) -> Result<()> {
    let mut client = Client::new(lab, 2, &flows("", ""))?;
    let node = client.node().clone();
    let seen = Capture::open(&node)?;
    // With a source of its own, and with the kernel's choice; the last two are not selected.
    let shots: Vec<Shots> = [true, false]
        .into_iter()
        .flat_map(|v4| {
            let bound = marked(v4, MARKS.0);
            let mut unbound = bound;
            unbound.origin.from = None;
            [bound, unbound]
        })
        .chain([true, false].map(|v4| marked(v4, MARKS.1)))
        .collect();
    let volley = Volley::start(&node, &shots, INTERVAL)?;
    volley.run(300)?;
    let legs = |flow: usize| seen.legs(UDP, volley.locals()[flow], shots[flow].to);
    for flow in 0..shots.len() {
        let leaked = elsewhere(&legs(flow), "to-isp");
        ensure!(leaked.0 > 0, "the capture saw nothing of flow {flow} before the first start");
    }

    lab.say("the first start");
    client.daemon.start()?;
    let told = client.daemon.told();
    let ready = told.iter().find(|(_, line)| line == "READY=1").context("not ready")?.0;
    let by_berlin = |when: &str, client: &Client| -> Result<()> {
        client.wait_used("only", &["wg-berlin"])?;
        volley.wait_answers(0..4, 20)?;
        lab.say(format_args!("{when}: it leaves by berlin; {} sent so far", volley.sent()));
        Ok(())
    };
    let at_first = volley.sent();
    by_berlin("started", &client)?;

    lab.say("SIGTERM, start, SIGKILL, start");
    ensure!(client.daemon.terminate()?.success(), "the daemon did not end well");
    volley.run(300)?;
    client.daemon.start()?;
    volley.run(300)?;
    client.daemon.kill()?;
    volley.run(300)?;
    client.daemon.start()?;
    by_berlin("started again", &client)?;

    lab.say("the exit fails");
    client.net.exit("berlin")?.cut()?;
    client.wait_used("only", &[])?;
    volley.run(300)?;
    lab.say("killed and started while it is away");
    client.daemon.kill()?;
    volley.run(300)?;
    client.daemon.start()?;
    volley.run(300)?;
    client.net.exit("berlin")?.mend()?;
    by_berlin("it returned", &client)?;

    lab.say("the link is deleted");
    node.ip("link del wg-berlin")?;
    volley.run(100)?;
    wait_link(&node, "wg-berlin", true)?;
    by_berlin("made again", &client)?;
    lab.say("the link is deleted while no daemon runs");
    client.daemon.kill()?;
    node.ip("link del wg-berlin")?;
    volley.run(300)?;
    client.daemon.start()?;
    by_berlin("started again", &client)?;

    lab.say("reloads: flows come before and after it, and go");
    for (before, after) in [(OTHER, ""), (OTHER, REST), ("", REST), ("", "")] {
        client.reload(&flows(before, after))?;
        volley.run(150)?;
    }
    client.net.exit("berlin")?.cut()?;
    client.wait_used("only", &[])?;
    for (before, after) in [("", REST), (OTHER, REST), ("", "")] {
        client.reload(&flows(before, after))?;
        volley.run(150)?;
    }
    let wider = format!("[flows]\nrules = \"9000-9999\"\n{}", flows(OTHER, REST));
    lab.say("and into another range of priorities");
    client.reload(&wider)?;
    volley.run(300)?;
    client.net.exit("berlin")?.mend()?;
    by_berlin("it returned", &client)?;
    // Four of the flows are secret.
    let enough = at_first + (PACKETS + 4) * shots.len() as u64 / 4;
    volley.run(enough.saturating_sub(volley.sent()))?;
    let locals = volley.locals().to_vec();
    report(lab, &seen, &shots, &locals, &volley.stop()?, ready)
}

/// Packets of a flow by a device, and the number of the last of them.
fn elsewhere(legs: &[Leg], device: &str) -> (u64, Option<u64>) {
    let those = legs.iter().filter(|leg| leg.outgoing && leg.device == device);
    (those.clone().map(|leg| leg.packets).sum(), those.filter_map(|leg| leg.last).max())
}

fn report(
    lab: &Lab,
    seen: &Capture,
    shots: &[Shots],
    locals: &[std::net::SocketAddr],
    flown: &[Flown],
    ready: Instant,
) -> Result<()> {
    let mut sent = [0; 2];
    for (flow, (shots, flown)) in shots.iter().zip(flown).enumerate() {
        let legs = seen.legs(UDP, locals[flow], shots.to);
        let before = flown.sent_before(ready);
        let by = |device: &str| elsewhere(&legs, device);
        let all = flown.sent.len() as u64;
        if flow >= 4 {
            let (packets, _) = by("to-isp");
            lab.say(format_args!("not selected, to {}: {all} sent, {packets} by to-isp", shots.to));
            // The first IPv6 packets may wait for a neighbour in vain.
            ensure!(packets + 10 >= all, "only {packets} of {all} were seen by to-isp");
            continue;
        }
        let mut others: Vec<&str> =
            legs.iter().filter(|leg| leg.outgoing).map(|l| &*l.device).collect();
        others.sort_unstable();
        others.dedup();
        others.retain(|device| *device != "wg-berlin");
        let answered = all - flown.report.lost.len() as u64;
        lab.say(format_args!(
            "secret, to {}: {before} before the first READY, {} after it; {answered} answered by \
             berlin; seen elsewhere: {:?}",
            shots.to,
            all - before,
            others.iter().map(|device| (device, by(device))).collect::<Vec<_>>()
        ));
        for device in others {
            let last = by(device).1.with_context(|| format!("no number by {device}"))?;
            ensure!(last < before, "no. {last} left by {device} after READY (no. {before})");
        }
        sent[usize::from(shots.to.is_ipv6())] += all - before;
    }
    let [v4, v6] = sent;
    ensure!(v4 + v6 >= PACKETS, "only {} were sent", v4 + v6);
    lab.say(format_args!("{v4} of IPv4 and {v6} of IPv6 after READY: none by another way"));
    Ok(())
}
