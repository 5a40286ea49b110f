//! Full tables.
//!
//! Here live the scenarios with as many prefixes as the Internet has. What WireGuard holds is
//! compared with `ip route` as a whole; nothing of wgrouted takes part in the comparison.

use std::{fmt::Write as _, net::IpAddr, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Scenario,
    support::{NET4, V4, flows, pinned, star},
};
use crate::lab::{
    AllowedIps, Bird, Inner, Lab, Owner, Peer, Star, Train, Wgrouted, assert_flow, differences,
    fib, table, wait_for, wait_until,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "table-one-peer",
        "100,000 prefixes by BIRD, all to one peer, and all withdrawn",
        |lab| run(lab, Size::Part, 1),
    )
    .within(400),
    Scenario::new(
        "table-hundred-peers",
        "100,000 prefixes by BIRD, spread over a hundred peers, and all withdrawn",
        |lab| run(lab, Size::Part, 100),
    )
    .within(400),
    Scenario::new(
        "full-table-one-peer",
        "a full Internet table by BIRD to one peer; then one route changes, and nothing is dumped",
        |lab| run(lab, Size::Full, 1),
    )
    .on_newest()
    .within(1500),
    Scenario::new(
        "full-table-hundred-peers",
        "a full Internet table by BIRD, spread over a hundred peers",
        |lab| run(lab, Size::Full, 100),
    )
    .on_newest()
    .within(1500),
];

/// How much of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// 100,000 generated prefixes.
    Part,
    /// The user's file, or as many generated prefixes as the Internet has.
    Full,
}

/// Spokes that exist; further peers have a key and addresses, but nobody behind them.
const REAL: u16 = 3;
/// How long BIRD, the kernel and the daemon together may take.
const PATIENCE: Duration = Duration::from_secs(900);
/// Addresses to which packets are sent, of each family.
const SAMPLES: usize = 3;
/// Audits would dump the device by themselves, and so hide whether anything else does.
const CONFIG: &str = "[daemon]\naudit_interval = \"off\"\n[[interface]]\nname = \"wg0\"\n";

fn run(lab: &mut Lab, size: Size, peers: u16) -> Result<()> {
    let prefixes = match (size, lab.prefixes()) {
        (Size::Part, _) => table::generate(85_000, 15_000),
        (Size::Full, None) => table::generate(table::FULL_V4, table::FULL_V6),
        (Size::Full, Some(file)) => table::read(file)?,
    };
    let star = star(lab, REAL)?;
    star.wg.add_peers(&(REAL + 1..=peers).map(absent_peer).collect::<Vec<_>>())?;
    let owners: Vec<Inner> = (1..=peers).map(|host| Inner { network: 0, host }).collect();
    let mut daemon = lab.wgrouted_with(&star.hub, CONFIG)?;
    daemon.start()?;
    // The end of the learning is a look at the device, too.
    daemon.wait_learned()?;
    star.hub.ip(&format!("route add {NET4} via 10.99.0.1"))?;
    flows(&star, V4, 1)?;
    let train = Train::start(&star.hub, V4.parse::<IpAddr>()?, Duration::from_millis(10))?;

    lab.say(format_args!("BIRD installs {} routes via {peers} peers", prefixes.len()));
    let own = own_prefixes(&star, peers);
    let began = lab.elapsed();
    let mut bird = Bird::start(&star.hub, &config(&star, &prefixes, &owners)?)?;
    settle(lab, &daemon, own.len() + prefixes.len() + 1)?;
    let seconds = (lab.elapsed() - began).as_secs_f32();
    lab.say(format_args!("settled after {seconds:.1} s, BIRD's start included"));
    compare(lab, &star, &owners, &own, prefixes.len() + 1)?;
    let memory = daemon.memory()?;
    lab.say(format_args!(
        "wgrouted: {} MiB resident, {} MiB at most: {} bytes a route",
        memory.resident >> 20,
        memory.peak >> 20,
        memory.resident / prefixes.len() as u64
    ));
    packets(&star, &prefixes, &owners)?;
    one_change(lab, &star, &daemon)?;
    if size == Size::Part {
        lab.say("BIRD withdraws everything");
        bird.process().signal(libc::SIGTERM)?;
        bird.process().wait_exit(PATIENCE)?;
        settle(lab, &daemon, own.len() + 1)?;
        let mut left = own;
        left.insert(NET4.parse()?, Owner::from("s2"));
        let have = star.wg.allowed_ips()?;
        ensure!(left == have, "stale AllowedIPs: {:?}", differences(&left, &have));
    }
    lab.say(format_args!("train beside it: {}", train.stop()?));
    Ok(())
}

/// A peer with nobody behind it. Any 32 bytes are a public key to WireGuard.
fn absent_peer(host: u16) -> Peer {
    let mut key = [0x5a; 32];
    key[..2].copy_from_slice(&host.to_be_bytes());
    Peer {
        name: format!("s{host}"),
        public_key: STANDARD.encode(key),
        endpoint: None,
        allowed_ips: Inner { network: 0, host }.prefixes(),
    }
}

/// The tunnel addresses of all peers.
fn own_prefixes(star: &Star, peers: u16) -> AllowedIps {
    let mut own = pinned(star);
    for peer in (REAL + 1..=peers).map(absent_peer) {
        let name = Owner::from(peer.name.as_str());
        own.extend(peer.allowed_ips.into_iter().map(|prefix| (prefix, name.clone())));
    }
    own
}

/// BIRD's configuration: prefix number N goes to peer number N modulo the number of peers.
fn config(star: &Star, prefixes: &[IpNet], owners: &[Inner]) -> Result<String> {
    let (mut v4, mut v6) = (String::new(), String::new());
    for (prefix, owner) in prefixes.iter().zip(owners.iter().cycle()) {
        match prefix {
            IpNet::V4(_) => writeln!(v4, "route {prefix} via {};", owner.v4())?,
            IpNet::V6(_) => writeln!(v6, "route {prefix} via {};", owner.v6())?,
        }
    }
    let (v4, v6) = (star.hub.write_file("v4.conf", &v4)?, star.hub.write_file("v6.conf", &v6)?);
    // BIRD's own scan of a full table every minute takes an emulated machine longer than that.
    Ok(format!(
        "router id 10.99.0.254;\n\
         protocol kernel {{ scan time 900; ipv4 {{ import none; export all; }}; }}\n\
         protocol kernel {{ scan time 900; ipv6 {{ import none; export all; }}; }}\n\
         protocol static {{ ipv4;\ninclude \"{}\";\n}}\n\
         protocol static {{ ipv6;\ninclude \"{}\";\n}}\n",
        v4.display(),
        v6.display()
    ))
}

/// Waits until the daemon says that this many AllowedIPs are installed and nothing is pending.
/// That is only the moment to look; what there is then, others say.
fn settle(lab: &Lab, daemon: &Wgrouted, allowed_ips: usize) -> Result<()> {
    let mut told = lab.elapsed();
    let look = || {
        // Each look is a process, which an emulated processor feels.
        thread::sleep(Duration::from_millis(500));
        let status = daemon.show("status")?;
        let interface = status.pointer("/interfaces/0").context("no interface in the status")?;
        let number = |key: &str| interface.get(key).and_then(Value::as_u64).unwrap_or_default();
        let in_sync = status.get("in_sync") == Some(&Value::Bool(true));
        if (lab.elapsed() - told).as_secs() >= 5 {
            told = lab.elapsed();
            lab.say(format_args!("{} AllowedIPs", number("allowed_ips")));
        }
        Ok((in_sync, number("allowed_ips"), number("pending")))
    };
    let done = |seen: &(bool, u64, u64)| *seen == (true, allowed_ips as u64, 0);
    wait_until(format!("{allowed_ips} AllowedIPs"), PATIENCE, look, done).map(drop)
}

/// Compares what `ip route` and `wg show` print.
fn compare(
    lab: &Lab,
    star: &Star,
    owners: &[Inner],
    own: &AllowedIps,
    routes: usize,
) -> Result<()> {
    let gateways = fib::gateways(&star.hub, "main", "wg0")?;
    ensure!(gateways.len() == routes, "the kernel has {} routes, not {routes}", gateways.len());
    let names: Vec<String> = owners.iter().map(|owner| format!("s{}", owner.host)).collect();
    let peers = owners.iter().copied().zip(names.iter().map(String::as_str));
    let mut want = fib::allowed_ips(gateways, peers)?;
    want.extend(own.iter().map(|(prefix, owner)| (*prefix, owner.clone())));
    let have = star.wg.allowed_ips()?;
    let wrong = differences(&want, &have);
    ensure!(
        wrong.is_empty(),
        "{} prefixes differ between `ip route` and `wg show`, such as {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
    lab.say(format_args!(
        "`ip route` has {routes} routes through wg0, `wg show` has {} AllowedIPs: equal",
        have.len()
    ));
    Ok(())
}

/// Sends packets to addresses out of the table, which their owners then answer for.
fn packets(star: &Star, prefixes: &[IpNet], owners: &[Inner]) -> Result<()> {
    for v4 in [true, false] {
        let family = prefixes.iter().filter(|prefix| matches!(prefix, IpNet::V4(_)) == v4);
        let stride = family.clone().count() / SAMPLES;
        for sample in family.step_by(stride.max(1)).take(SAMPLES) {
            let address = sample.network();
            // A more specific prefix may lie at the same address.
            let longest = prefixes
                .iter()
                .enumerate()
                .filter(|(_, prefix)| prefix.contains(&address))
                .max_by_key(|(_, prefix)| prefix.prefix_len());
            let (number, _) = longest.context("a prefix contains itself")?;
            let owner = owners[number % owners.len()];
            if let Some(spoke) = star.spokes.iter().find(|spoke| spoke.inner == owner) {
                spoke.serve(&[address])?;
                assert_flow(&star.hub, address, &spoke.node)?;
            }
        }
    }
    Ok(())
}

/// Changes one route with the full table present.
fn one_change(lab: &Lab, star: &Star, daemon: &Wgrouted) -> Result<()> {
    const DUMPS: [&str; 3] =
        ["/counters/route_dumps", "/counters/object_dumps", "/interfaces/0/counters/device_dumps"];
    let dumps = || DUMPS.iter().map(|name| daemon.counter(name)).collect::<Result<Vec<_>>>();
    // So that no handshake is in the way.
    flows(star, "10.99.0.2", 2)?;
    let target = &star.spoke(2)?.node;
    let (before, moves) = (dumps()?, daemon.counter("/interfaces/0/counters/moves")?);
    let arrived = target.echo_requests()?;
    star.hub.ip(&format!("route replace {NET4} via 10.99.0.2"))?;
    let began = lab.elapsed();
    wait_for("the train to reach s2", PATIENCE, || Ok(target.echo_requests()? > arrived))?;
    let latency = lab.elapsed() - began;
    flows(star, V4, 2)?;
    daemon.wait_in_sync()?;
    let (after, moved) = (dumps()?, daemon.counter("/interfaces/0/counters/moves")? - moves);
    let net4: IpNet = NET4.parse()?;
    let owner = star.wg.allowed_ips()?.get(&net4).cloned();
    ensure!(owner.as_deref() == Some("s2"), "{NET4} belongs to {owner:?}");
    lab.say(format_args!(
        "one route changed: packets arrive there {} ms later; dumps of routes, links, device: \
         {before:?} before, {after:?} after",
        latency.as_millis()
    ));
    ensure!(before == after, "something was dumped: {before:?}, then {after:?}");
    ensure!(moved == 1, "{moved} moves for one route");
    Ok(())
}
