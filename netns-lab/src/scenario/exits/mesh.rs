//! The case that the mailing list asked for: each node of a mesh is an exit, and flows choose.
//!
//! Here live four exits that are joined each to each, and a client that is joined to all of them. The
//! client is a fifth node, so that all four ways lead through tunnels.

use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::{
    Scenario,
    configs::Links,
    support::{DIRECTORY, Flow, mount_bpffs, transfer, wait_way},
};
use crate::lab::{
    Capture, Exits, Injector, Lab, PATIENCE, Wgrouted,
    packet::{Route, protocol::UDP},
    wait_for,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "exits-mesh-dedicated",
        "flows of a client by mark, user, source and port leave by four exits with a link each",
        |lab| mesh(lab, Links::Dedicated),
    )
    .within(180),
    Scenario::new(
        "exits-mesh-tunnel",
        "the same by tunnels inside one WireGuard interface and port",
        |lab| mesh(lab, Links::Tunnels),
    )
    .within(180),
];

/// How much each flow carries: 4 KiB a block, in each direction.
const BLOCKS: u64 = 50;

fn mesh(lab: &mut Lab, links: Links) -> Result<()> {
    let net = Exits::new(lab, 4)?;
    mount_bpffs()?;
    let mut daemons: Vec<Wgrouted> = Vec::new();
    for exit in &net.exits {
        let text = format!(
            "[filter]\ndirectory = \"{DIRECTORY}-{}\"\n{}",
            exit.name(),
            links.exit(&net, exit)?
        );
        daemons.push(lab.wgrouted_with(&exit.node, &text)?);
    }
    let text = format!("[filter]\ndirectory = \"{DIRECTORY}\"\n{}", links.client(&net));
    daemons.push(lab.wgrouted_with(&net.client, &text)?);
    // All at once: they wait for each other's answers anyway.
    daemons.iter_mut().try_for_each(Wgrouted::spawn)?;
    daemons.iter_mut().try_for_each(Wgrouted::wait_ready)?;
    let back = links.name("client");
    for exit in &net.exits {
        for network in Exits::NETS {
            exit.node.ip(&format!("route add {network} dev {back}"))?;
        }
    }
    lab.say("five nodes, each joined to each");

    let flows = Flow::all();
    for flow in &flows {
        wait_way(&net, flow, &links.name(flow.exit))?;
    }
    transfer(lab, &net, &flows, BLOCKS)?;

    lab.say("what no flow selects leaves by the provider");
    transfer(lab, &net, &[Flow::unmatched(true), Flow::unmatched(false)], BLOCKS)?;

    lab.say("the exits' filters pass the client's sources and no others");
    for exit in &net.exits {
        spoofed(&net, exit.name(), &links.name(exit.name()))?;
    }
    Ok(())
}

/// Packets with a source of the client's and with a foreign one, through a link: the first arrive, the
/// second do not.
fn spoofed(net: &Exits, exit: &str, link: &str) -> Result<()> {
    let seen = Capture::open(&net.internet)?;
    let injector = Injector::open(&net.client, link)?;
    for v4 in [true, false] {
        let to = Exits::to(v4, 9);
        let foreign = if v4 { "203.0.113.7" } else { "2001:db8:bad::7" }.parse()?;
        let own = Exits::CLIENT[0][usize::from(!v4)];
        let arrived = |from| {
            let legs = seen.legs(UDP, SocketAddr::new(from, 40000), to);
            legs.iter().filter(|leg| !leg.outgoing).map(|leg| leg.packets).sum::<u64>()
        };
        for _ in 0..10 {
            for from in [foreign, own] {
                injector.send(&Route { from, to: to.ip(), label: 1 }.udp(40000, 9))?;
            }
        }
        // They stay in order: the last to be sent is one that passes.
        wait_for(format!("packets of {own} by {exit}"), PATIENCE, || Ok(arrived(own) == 10))?;
        ensure!(arrived(foreign) == 0, "packets of {foreign} passed {exit}");
    }
    Ok(())
}
