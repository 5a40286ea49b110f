//! The lab itself, without a daemon: does the kernel under test do WireGuard at all?

use anyhow::Result;

use super::{
    Scenario,
    support::{NET4, V4, flows, flows_nowhere, star},
};
use crate::lab::Lab;

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "tunnel",
    "a packet crosses a WireGuard tunnel inside AllowedIPs, and none outside",
    run,
)];

/// AllowedIPs decide what passes a tunnel.
fn run(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 1)?;
    flows(&star, "10.99.0.1", 1)?;
    flows(&star, "fd99::1", 1)?;
    lab.say("crossed the tunnel");

    star.hub.ip(&format!("route add {NET4} dev wg0"))?;
    flows_nowhere(&star, V4)?;
    lab.say("nothing passed outside AllowedIPs");

    let own = star.spoke(1)?.inner.prefixes();
    star.wg.set_allowed_ips("s1", &[own, vec![NET4.parse()?]].concat())?;
    flows(&star, V4, 1)
}
