//! A flow that selects everything.
//!
//! Here lives what would otherwise be a loop: packets that carry the tunnels must not go by them, and
//! probes of other links must not go by the exit.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Scenario,
    client::{Client, marked, ways},
};
use crate::lab::{Lab, Shots, Volley};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-everything",
    "a flow that selects everything takes neither the tunnels' own packets nor probes",
    everything,
)];

const FLOWS: &str = r#"
[[exit]]
name = "berlin"
via = ["wg-berlin"]
when_down = "block"
source = ["10.50.0.1", "fd50::1"]

[[exit]]
name = "spare"
via = ["wg-paris"]

[[flow]]
exit = "berlin"
"#;

fn everything(lab: &mut Lab) -> Result<()> {
    let mut client = Client::new(lab, 2, FLOWS)?;
    // All links are good: handshakes pass, which the flow would block, and probes by the spare link.
    client.start()?;
    let node = client.node().clone();
    let shots: Vec<Shots> = [true, false]
        .into_iter()
        .flat_map(|v4| {
            let bound = marked(v4, 0);
            let mut unbound = bound;
            unbound.origin.from = None;
            [bound, unbound]
        })
        .collect();
    let volley = Volley::start(&node, &shots, Duration::from_millis(5))?;
    volley.wait_answers(0..shots.len(), 50)?;

    lab.say("a session that begins anew, with its exit away and back");
    client.net.exit("berlin")?.cut()?;
    client.wait_used("berlin", &[])?;
    // The device forgets its session: it must shake hands while all flows are blocked.
    node.ip("link set wg-berlin down")?;
    node.ip("link set wg-berlin up")?;
    client.net.exit("berlin")?.mend()?;
    client.wait_used("berlin", &["wg-berlin"])?;
    volley.wait_answers(0..shots.len(), 50)?;
    for (shots, flown) in shots.iter().zip(volley.stop()?) {
        let seen = ways(&client.net, flown.local, shots.to);
        let (lost, sent) = (flown.report.lost.len(), flown.report.sent);
        lab.say(format_args!("to {}: by {seen:?}, {lost} of {sent} blocked", shots.to));
        ensure!(seen == ["berlin"], "to {}: by {seen:?}", shots.to);
    }
    Ok(())
}
