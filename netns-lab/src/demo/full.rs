//! The demo's second half: a full table.

use std::{fmt::Write as _, net::IpAddr, thread, time::Duration};

use anyhow::{Result, ensure};
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Row,
    screen::{Screen, thousands},
    triangle::{readable, seconds},
};
use crate::{
    lab::{
        Bird, Inner, Lab, Member, Peer, Ping, Wireguard, assert_flow, differences, fib, table,
        wait_until,
    },
    scenario::bgp::{self, Triangle},
};

/// The router that announces the table, and its number among the routers.
const TRANSIT: &str = "transit";
const NUMBER: u16 = 4;
/// How long BGP, kernel and daemon together may take on an emulated processor.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// Tells the story; returns what was measured.
pub(super) fn run(lab: &mut Lab, screen: &mut Screen, triangle: &Triangle) -> Result<Vec<Row>> {
    screen.step("A full Internet table");
    let (prefixes, source) = match lab.prefixes() {
        Some(file) => (table::read(file)?, "out of the given file"),
        None => (
            table::generate(table::FULL_V4, table::FULL_V6),
            "generated, with the Internet's mix of lengths",
        ),
    };
    let v4 = prefixes.iter().filter(|prefix| matches!(prefix, IpNet::V4(_))).count();
    screen.say(format_args!(
        "A fourth router, transit, becomes one more peer of wg0 on paris and announces a full\n\
         table by BGP: {} IPv4 and {} IPv6 prefixes ({source}).",
        thousands(v4 as u64),
        thousands((prefixes.len() - v4) as u64)
    ));
    let paris = triangle.mesh.member("paris")?;
    let transit = join(lab, paris)?;
    screen.say("transit's BIRD reads the table ...");
    // What paris holds before the table comes.
    let other = paris.wg.allowed_ips()?.len();
    let _bird = Bird::start(&transit.node, &config(&transit, paris, &prefixes)?)?;
    let neighbour = format!(
        "protocol bgp {TRANSIT} from tunnel {{ neighbor {} as {}; bfd off; }}\n",
        transit.inner.v4(),
        65000 + NUMBER
    );
    let bird = &triangle.birds[0];
    bird.configure(&bgp::config(&triangle.mesh, paris, &neighbour))?;
    bird.wait_established(TRANSIT)?;

    screen.say("The session is up. BIRD on paris fills the kernel's table, wgrouted follows:");
    let began = lab.elapsed();
    let daemon = &triangle.daemons[0];
    let all = (prefixes.len() + other) as u64;
    let converged = wait_until(
        "the full table",
        PATIENCE,
        || {
            thread::sleep(LOOK);
            let status = daemon.show("status")?;
            let number = |pointer| status.pointer(pointer).and_then(Value::as_u64);
            let number = |pointer| number(pointer).unwrap_or_default();
            let routes = number("/ipv4_routes") + number("/ipv6_routes");
            let held = number("/interfaces/0/allowed_ips");
            let text = format!(
                "{:>9} routes, {:>9} AllowedIPs, {:.0} s",
                thousands(routes),
                thousands(held),
                (lab.elapsed() - began).as_secs_f32()
            );
            screen.progress(held, all, text);
            Ok((status["in_sync"] == true, held))
        },
        |(in_sync, held)| *in_sync && *held == all,
    );
    screen.progress_done();
    converged?;
    let took = lab.elapsed() - began;
    screen.good(format_args!("converged after {}", seconds(took)));
    let (routes, allowed_ips) = compare(screen, triangle, &transit)?;
    let memory = daemon.memory()?;
    packet(screen, triangle, &transit, &prefixes)?;
    let latency = one_change(lab, screen, triangle)?;
    Ok(vec![
        ("routes through wg0 in the kernel (`ip route`)", thousands(routes)),
        ("AllowedIPs of wg0 (`wg show`), the peers' own included", thousands(allowed_ips)),
        ("prefixes whose peer is not their route's", "0".to_owned()),
        ("time from the BGP session to the last AllowedIP", seconds(took)),
        (
            "memory of wgrouted",
            format!("{} MiB, {} bytes a route", memory.resident >> 20, memory.resident / routes),
        ),
        ("one more route, until packets took it", format!("{} ms", latency.as_millis())),
    ])
}

/// Makes transit and joins it to paris.
fn join(lab: &mut Lab, paris: &Member) -> Result<Member> {
    let node = lab.node(TRANSIT)?;
    let link = lab.link(&paris.node, &node)?;
    let wg = Wireguard::new(&node, "wg0")?;
    let inner = Inner { network: 0, host: NUMBER };
    inner.assign(&wg)?;
    wg.add_peers(&[Peer {
        name: paris.node.name().to_owned(),
        public_key: paris.wg.public_key().to_owned(),
        endpoint: Some(format!("{}:{}", link.a.address, paris.wg.port())),
        allowed_ips: vec!["0.0.0.0/0".parse()?, "::/0".parse()?],
    }])?;
    paris.wg.add_peers(&[Peer {
        name: TRANSIT.to_owned(),
        public_key: wg.public_key().to_owned(),
        endpoint: Some(format!("{}:{}", link.b.address, wg.port())),
        allowed_ips: inner.prefixes(),
    }])?;
    Ok(Member { node, wg, inner })
}

/// BIRD's configuration of transit. The community (RFC 1997) keeps paris from passing the table
/// on, which would only show the same thing three times.
fn config(transit: &Member, paris: &Member, prefixes: &[IpNet]) -> Result<String> {
    let (mut v4, mut v6) = (String::new(), String::new());
    for prefix in prefixes {
        let routes = if matches!(prefix, IpNet::V4(_)) { &mut v4 } else { &mut v6 };
        writeln!(routes, "route {prefix} blackhole;")?;
    }
    let (v4, v6) =
        (transit.node.write_file("v4.conf", &v4)?, transit.node.write_file("v6.conf", &v6)?);
    let inner = transit.inner;
    Ok(format!(
        "router id {id};\n\
         filter once {{ bgp_community.add((65535, 65281)); accept; }}\n\
         protocol static {{ ipv4;\ninclude \"{v4}\";\n}}\n\
         protocol static {{ ipv6;\ninclude \"{v6}\";\n}}\n\
         protocol bgp paris {{\n  \
           local {id} as {number};\n  \
           neighbor {paris} as 65001;\n  \
           connect delay time 1;\n  \
           ipv4 {{ import none; export filter once; next hop self; }};\n  \
           ipv6 {{ import none; export filter once; next hop self; next hop address {id6}; }};\n\
         }}\n",
        id = inner.v4(),
        id6 = inner.v6(),
        number = 65000 + NUMBER,
        paris = paris.inner.v4(),
        v4 = v4.display(),
        v6 = v6.display(),
    ))
}

/// Compares what `ip route` and `wg show` print on paris; returns how much that is.
fn compare(screen: &Screen, triangle: &Triangle, transit: &Member) -> Result<(u64, u64)> {
    screen.say("Now the lab compares what `ip route` and `wg show` print, prefix by prefix ...");
    let paris = triangle.mesh.member("paris")?;
    let peers = triangle.mesh.members[1..].iter().chain([transit]);
    let gateways = fib::gateways(&paris.node, "main", "wg0")?;
    let routes = gateways.len() as u64;
    let want = fib::allowed_ips(gateways, peers.map(|peer| (peer.inner, peer.node.name())))?;
    let have = paris.wg.allowed_ips()?;
    let wrong = differences(&want, &have);
    ensure!(
        wrong.is_empty(),
        "{} prefixes differ, such as {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
    screen.good(format_args!(
        "{} routes, {} AllowedIPs with those of the peers themselves: equal",
        thousands(routes),
        thousands(have.len() as u64)
    ));
    Ok((routes, have.len() as u64))
}

/// Sends packets to an address out of the table.
fn packet(
    screen: &Screen,
    triangle: &Triangle,
    transit: &Member,
    prefixes: &[IpNet],
) -> Result<()> {
    let paris = triangle.mesh.member("paris")?;
    let address = prefixes[prefixes.len() / 3].network();
    transit.node.address("lo", &IpNet::from(address).to_string())?;
    assert_flow(&paris.node, address, &transit.node)?;
    let explanation = triangle.daemons[0].run(&["explain", &address.to_string()])?;
    screen.say("Packets to an address out of the middle of the table reach transit:");
    let explanation = readable(paris, &explanation);
    screen.command("paris", &format!("wgrouted explain {address}"), &explanation);
    Ok(())
}

/// Adds one route with the full table present; returns how long its packets had to wait.
fn one_change(lab: &Lab, screen: &Screen, triangle: &Triangle) -> Result<Duration> {
    let daemon = &triangle.daemons[0];
    let (paris, rome) = (triangle.mesh.member("paris")?, triangle.mesh.member("rome")?);
    rome.node.address("lo", "203.0.113.1/32")?;
    let dumps = || daemon.counter("/counters/route_dumps");
    let before = dumps()?;
    paris.node.ip("route add 203.0.113.0/24 via 10.99.0.2")?;
    let began = lab.elapsed();
    let ping =
        Ping { from: Some("10.99.0.1".parse()?), ..Ping::from("203.0.113.1".parse::<IpAddr>()?) };
    assert_flow(&paris.node, ping, &rome.node)?;
    let latency = lab.elapsed() - began;
    ensure!(dumps()? == before, "a routing table was read for one route");
    screen.say("One more route, with the full table in place, costs what one route costs:");
    screen.command("paris", "ip route add 203.0.113.0/24 via 10.99.0.2", "");
    screen.good(format_args!(
        "packets took it after {} ms; wgrouted read no table for it",
        latency.as_millis()
    ));
    Ok(latency)
}
