//! Why exits need links of their own.
//!
//! Here live the configuration that is refused, and what happens where the same is done by hand: flows
//! through peers that share a WireGuard interface.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    configs::Links,
    support::{Flow, MARK, UID, volley},
};
use crate::lab::{
    Capture, Exits, Injector, Lab, PATIENCE, Peer, Wireguard,
    packet::{Route, protocol::UDP},
    wait_for, wait_until,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-shared-refused",
    "exits on a shared interface are refused; by hand, WireGuard sends and drops as it likes",
    shared,
)];

/// Packets of each kind.
const MANY: u64 = 50;

fn shared(lab: &mut Lab) -> Result<()> {
    let net = Exits::new(lab, 4)?;
    refused(lab, &net)?;
    let _tunnels = net.tunnels()?;
    let wg = Wireguard::new(&net.client, "wg0")?;
    net.client.run("wg", ["set", "wg0", "private-key", &net.key.file])?;
    let peers: Vec<Peer> = net
        .exits
        .iter()
        .map(|exit| {
            Ok(Peer {
                name: exit.name().to_owned(),
                public_key: exit.key.public.clone(),
                endpoint: Some(exit.endpoint(0)),
                // One peer of a device can have everything, and no more than one.
                allowed_ips: match exit.number {
                    1 => vec!["0.0.0.0/0".parse()?, "::/0".parse()?],
                    number => vec![format!("fe80::{number}/128").parse()?],
                },
            })
        })
        .collect::<Result<_>>()?;
    wg.add_peers(&peers)?;
    wg.up()?;
    // A handshake with everybody, that nothing is lost for want of one.
    for exit in &net.exits {
        net.client
            .run("wg", ["set", "wg0", "peer", &exit.key.public, "persistent-keepalive", "1"])?;
    }
    wait_for("handshakes", PATIENCE, || {
        Ok(wg.statistics()?.values().all(|peer| peer.latest_handshake > 0))
    })?;

    lab.say("rules and tables by hand: WireGuard looks at the destination alone");
    by_hand(&net)?;
    let flows = Flow::all();
    for (flow, (sent, devices)) in flows.iter().zip(volley(&net, &flows, MANY)?) {
        let right = devices.get(&format!("to-{}", flow.exit)).copied().unwrap_or_default();
        let (to, by) = (flow.to, flow.by);
        lab.say(format_args!(
            "by {by} to {to}: {sent} sent, {right} by {}: {devices:?}",
            flow.exit
        ));
        let all = devices.values().sum::<u64>();
        let owner = devices.get("to-berlin").copied().unwrap_or_default();
        ensure!(all == sent && owner == all, "by {by}: {owner} of {sent} by berlin: {devices:?}");
        ensure!(
            (right > 0) == (flow.exit == "berlin"),
            "by {by}: {right} of {sent} by {}",
            flow.exit
        );
    }

    lab.say("answers that the other exits bring are dropped, all of them");
    for exit in &net.exits {
        for v4 in [true, false] {
            let dropped = unwanted(&net, exit.name(), v4)?;
            let want = if exit.number == 1 { 0 } else { MANY };
            let family = if v4 { "IPv4" } else { "IPv6" };
            lab.say(format_args!("{dropped} of {MANY} of {family} by {} dropped", exit.name()));
            ensure!(dropped == want, "{dropped} by {}, not {want}", exit.name());
        }
    }
    Ok(())
}

/// An exit may be neither a shared interface nor one of its peers, and is told what else it can be.
fn refused(lab: &Lab, net: &Exits) -> Result<()> {
    let tunnels = Links::Tunnels.client(net);
    let exits = "\n[[tunnel]]\nname = \"gre-berlin\"";
    let (shared, _) = tunnels.split_once(exits).context("the tunnels of tunnel.toml")?;
    for (via, why) in [
        ("wg0", "wg0 is a shared interface"),
        ("berlin", "berlin is a peer of the shared interface wg0"),
    ] {
        let text = format!(
            "{shared}\n[[exit]]\nname = \"berlin\"\nvia = [\"{via}\"]\n\
             [[flow]]\nmark = {MARK}\nexit = \"berlin\"\n"
        );
        let path = net.client.write_file("shared.toml", &text)?;
        let output =
            lab.wgrouted_once(&net.client, &["check", "--config", &path.display().to_string()])?;
        let said = String::from_utf8_lossy(&output.stderr);
        lab.say(said.trim_end());
        ensure!(output.status.code() == Some(2), "`via = [\"{via}\"]`: {}", output.status);
        for words in [why, "whatever the flow", "link = \"dedicated\"", "[[tunnel]] over wg0"] {
            ensure!(said.contains(words), "no `{words}` in: {said}");
        }
    }
    Ok(())
}

/// What somebody would write who knows rules and tables, but not WireGuard.
fn by_hand(net: &Exits) -> Result<()> {
    for family in ["-4", "-6"] {
        let second = if family == "-4" { "10.50.0.128/25" } else { "fd50:0:0:1::/64" };
        let selectors = [
            format!("fwmark {MARK:#x}"),
            format!("uidrange {UID}-{UID}"),
            format!("from {second}"),
            "dport 8443".to_owned(),
        ];
        for (number, (selector, exit)) in (1001..).zip(selectors.iter().zip(&net.exits)) {
            let via = if family == "-4" {
                format!("via 10.60.0.{} onlink", exit.number)
            } else {
                format!("via fe80::{}", exit.number)
            };
            let source = Exits::CLIENT[0][usize::from(family == "-6")];
            net.client.ip(&format!(
                "{family} route add default {via} dev wg0 src {source} table {number}"
            ))?;
            net.client
                .ip(&format!("{family} rule add {selector} lookup {number} priority {number}"))?;
        }
    }
    Ok(())
}

/// Sends answers of the Internet's through an exit's tunnel, and gives how many of them the client's
/// WireGuard dropped for their source (`rx_frame_errors`, drivers/net/wireguard/receive.c).
fn unwanted(net: &Exits, exit: &str, v4: bool) -> Result<u64> {
    let dropped = || -> Result<u64> {
        let shown = net.client.ip("-json -s -s link show dev wg0")?;
        let shown: Value = serde_json::from_str(&shown)?;
        let number = shown.pointer("/0/stats64/rx/frame_errors").and_then(Value::as_u64);
        number.with_context(|| format!("no frame errors in {shown}"))
    };
    let before = dropped()?;
    let received = Capture::open(&net.client)?;
    let injector = Injector::open(&net.exit(exit)?.node, "wg-client")?;
    let (from, to) = (Exits::to(v4, 0).ip(), Exits::CLIENT[0][usize::from(!v4)]);
    let answer = Route { from, to, label: 1 }.udp(8080, 40000);
    for _ in 0..MANY {
        injector.send(&answer)?;
    }
    let through = || -> Result<u64> {
        let legs = received.legs(UDP, SocketAddr::new(from, 8080), SocketAddr::new(to, 40000));
        let received = legs.iter().filter(|leg| leg.device == "wg0");
        Ok(dropped()? - before + received.map(|leg| leg.packets).sum::<u64>())
    };
    wait_until("the packets to be judged", PATIENCE, through, |through| *through == MANY)?;
    Ok(dropped()? - before)
}
