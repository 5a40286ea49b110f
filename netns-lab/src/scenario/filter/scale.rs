//! A full table as the list of legal sources.
//!
//! Here lives a strict filter with as many routes as the Internet has. What the kernel's maps hold
//! is read by bpf(2) and compared with `ip route` as a whole; nothing of wgrouted takes part in the
//! comparison.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Scenario,
    support::{
        Case,
        Fate::{Dropped, Passes},
        Filtered, Hook, config, show,
    },
};
use crate::lab::{
    Dedicated, Lab, PATIENCE,
    bpf::Map,
    differences, fib, own_net,
    routes::{self, Op, Via},
    table, wait_for, wait_until,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-full-table",
        "a full Internet table in strict mode: maps equal routes, through churn and damage",
        full,
    )
    .on_newest()
    .within(1500),
    Scenario::new(
        "filter-maps-full",
        "maps that are too small are told, and what fits stays in force",
        too_small,
    ),
];

/// Large enough for any table of today.
const ROOM: &str = "ipv4_sources = 1500000\nipv6_sources = 500000";
/// How long the kernel and the daemon together may take.
const LONG: Duration = Duration::from_secs(900);
/// The main table's and BIRD's numbers.
const MAIN: u32 = 254;
const BIRD: u8 = 12;
/// Links that the table is spread over.
const LINKS: usize = 3;

fn full(lab: &mut Lab) -> Result<()> {
    let prefixes = match lab.prefixes() {
        None => table::generate(table::FULL_V4, table::FULL_V6),
        Some(file) => table::read(file)?,
    };
    let net = Dedicated::new(lab, 3)?;
    net.open()?;
    let text = config(Hook::Tcx, ROOM, &["source = \"strict\""; LINKS]);
    let mut net = Filtered::on(lab, net, &text)?;
    lab.say(format_args!("{} routes over {LINKS} links", prefixes.len()));
    let began = Instant::now();
    for number in 0..LINKS {
        let mine = prefixes.iter().skip(number).step_by(LINKS);
        write(&net, Op::Add, number + 1, mine)?;
    }
    lab.say(format_args!("routes written after {:.1} s", began.elapsed().as_secs_f32()));
    settle(lab, &net)?;
    lab.say(format_args!("settled after {:.1} s", began.elapsed().as_secs_f32()));
    memory(lab, &net, prefixes.len())?;
    compare(lab, &net)?;
    samples(&net, &prefixes)?;

    lab.say("churn: a tenth moves to the next link, a tenth goes");
    let tenth = prefixes.len() / 10;
    let began = Instant::now();
    let of =
        |range: std::ops::Range<usize>, link: usize| range.filter(move |at| at % LINKS == link - 1);
    for link in 1..=LINKS {
        let moved: Vec<IpNet> = of(0..tenth, link).map(|at| prefixes[at]).collect();
        write(&net, Op::Replace, link % LINKS + 1, &moved)?;
        let gone: Vec<IpNet> = of(tenth..2 * tenth, link).map(|at| prefixes[at]).collect();
        write(&net, Op::Delete, link, &gone)?;
    }
    lab.say(format_args!("routes written after {:.1} s", began.elapsed().as_secs_f32()));
    // What moved or went stays legal for its grace.
    thread::sleep(Duration::from_secs(2));
    settle(lab, &net)?;
    lab.say(format_args!("settled after {:.1} s", began.elapsed().as_secs_f32()));
    compare(lab, &net)?;

    damage(lab, &net)?;
    lab.say("SIGKILL and restart with a full table");
    net.daemon.kill()?;
    let began = Instant::now();
    net.daemon.start()?;
    settle(lab, &net)?;
    lab.say(format_args!("settled after {:.1} s", began.elapsed().as_secs_f32()));
    memory(lab, &net, prefixes.len())?;
    compare(lab, &net)
}

/// Writes routes out of a link.
fn write<'a>(
    net: &Filtered,
    op: Op,
    link: usize,
    prefixes: impl IntoIterator<Item = &'a IpNet>,
) -> Result<()> {
    let device = format!("wg{link}");
    let spoke = net.net.spoke(link)?.inner;
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for prefix in prefixes {
        if prefix.addr().is_ipv4() { v4.push(prefix) } else { v6.push(prefix) }
    }
    for (gateway, family) in [(IpAddr::from(spoke.v4()), v4), (spoke.v6().into(), v6)] {
        let via = Via { gateway, device: &device, table: MAIN, protocol: BIRD };
        routes::write(&net.net.hub, op, via, family)?;
    }
    Ok(())
}

/// Waits until the daemon says that nothing is pending.
fn settle(lab: &Lab, net: &Filtered) -> Result<()> {
    let mut told = lab.elapsed();
    let look = || {
        // Each look is a process, which an emulated processor feels.
        thread::sleep(Duration::from_millis(500));
        let answer = net.show()?;
        if (lab.elapsed() - told).as_secs() >= 5 {
            told = lab.elapsed();
            lab.say(format_args!("{}, {} pending", answer["state"], answer["pending"]));
        }
        Ok(answer)
    };
    let done = |answer: &Value| answer["state"] == "in-force" && answer["pending"] == 0;
    wait_until("the filter to be complete", LONG, look, done).map(drop)
}

fn memory(lab: &Lab, net: &Filtered, routes: usize) -> Result<()> {
    let memory = net.daemon.memory()?;
    lab.say(format_args!(
        "wgrouted: {} MiB resident, {} MiB at most: {} bytes a route",
        memory.resident >> 20,
        memory.peak >> 20,
        memory.resident / routes as u64
    ));
    Ok(())
}

/// A prefix as the tries of sources have it: its length beside four octets of domain, the domain,
/// the address.
type Sources = BTreeMap<IpNet, String>;

/// What the tries say of the best routes' owners. A number stands for a peer, which is called by
/// the link that it owns.
fn held(net: &Filtered) -> Result<Sources> {
    let mut held = Sources::new();
    for name in ["WGR_SOURCES_V4", "WGR_SOURCES_V6"] {
        for (key, value) in Map::named(name)?.dump()? {
            let word = |at: usize| u32::from_ne_bytes(key[at..at + 4].try_into().expect("four"));
            let (bits, domain) = (word(0), word(4));
            // Kind 1: routes (the upper three bits).
            if domain >> 29 != 1 {
                continue;
            }
            let address: IpAddr = match <[u8; 4]>::try_from(&key[8..]) {
                Ok(octets) => octets.into(),
                Err(_) => <[u8; 16]>::try_from(&key[8..]).context("an address")?.into(),
            };
            let prefix = IpNet::new(address, u8::try_from(bits - 32)?)?;
            let owner = u32::from_ne_bytes(value[..4].try_into().context("an owner")?);
            held.insert(prefix, owner.to_string());
        }
    }
    // Names for numbers: each link's own network tells which number its peer has.
    let mut names = BTreeMap::new();
    for number in 1..=net.net.links.len() {
        let own = own_net(u8::try_from(number)?, true);
        let owner = held.get(&own).with_context(|| format!("{own} is in no map"))?;
        names.insert(owner.clone(), format!("wg{number}"));
    }
    for owner in held.values_mut() {
        if let Some(name) = names.get(owner) {
            owner.clone_from(name);
        }
    }
    Ok(held)
}

/// Compares what `ip route` prints with what the maps hold.
fn compare(lab: &Lab, net: &Filtered) -> Result<()> {
    let mut want = Sources::new();
    for link in &net.net.links {
        let device = link.wg.name();
        let routes = fib::gateways(&net.net.hub, "main", device)?;
        want.extend(routes.into_keys().map(|prefix| (prefix, device.to_owned())));
    }
    let mut have = held(net)?;
    // Routes without a gateway (connected ones, and those of the lab) are not in `want`.
    have.retain(|prefix, _| want.contains_key(prefix) || !is_of_the_lab(*prefix));
    let wrong = differences(&want, &have);
    ensure!(
        wrong.is_empty(),
        "{} prefixes differ between `ip route` and the maps, such as {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(10)]
    );
    lab.say(format_args!("`ip route` and the maps agree on {} prefixes", want.len()));
    Ok(())
}

/// The lab's own networks, which no generated table has.
fn is_of_the_lab(prefix: IpNet) -> bool {
    match prefix.addr() {
        IpAddr::V4(address) => address.is_private(),
        IpAddr::V6(address) => address.is_unique_local() || address.is_unicast_link_local(),
    }
}

/// Packets from addresses out of the table: from where they are routed, and from elsewhere.
fn samples(net: &Filtered, prefixes: &[IpNet]) -> Result<()> {
    let mut cases = Vec::new();
    for v4 in [true, false] {
        let family: Vec<&IpNet> =
            prefixes.iter().filter(|prefix| prefix.addr().is_ipv4() == v4).collect();
        for prefix in family.iter().step_by((family.len() / 4).max(1)).take(4) {
            let address = prefix.addr();
            let route = net.net.hub.ip(&format!("route get {address}"))?;
            let device = route.split_once("dev wg").context(route.clone())?.1;
            let spoke: u8 = device[..1].parse()?;
            cases.push(Case::new(spoke, address, Passes("source")));
            cases.push(Case::new(spoke % 3 + 1, address, Dropped("other-peer")));
        }
    }
    net.judge(cases)
}

/// Somebody changes the maps behind the daemon's back; a comparison finds it.
fn damage(lab: &Lab, net: &Filtered) -> Result<()> {
    let map = Map::named("WGR_SOURCES_V4")?;
    let entries = map.dump()?;
    let routes = |key: &[u8]| u32::from_ne_bytes(key[4..8].try_into().expect("four")) >> 29 == 1;
    let mut some = entries.iter().filter(|(key, _)| routes(key)).skip(1000).step_by(1000);
    let (deleted, _) = some.next().context("a large map")?;
    let (changed, value) = some.next().context("a large map")?;
    map.delete(deleted)?;
    map.set(changed, &value.iter().map(|octet| octet ^ 1).collect::<Vec<_>>())?;
    lab.say("one entry deleted, one changed; everything is read again");
    net.daemon.run(&["resync"])?;
    wait_for("the damage to be repaired", LONG, || {
        Ok(map.get(deleted)?.as_ref() == entries.get(deleted)
            && map.get(changed)?.as_ref() == Some(value))
    })?;
    settle(lab, net)
}

/// Two thousand routes for a trie of half as many.
fn too_small(lab: &mut Lab) -> Result<()> {
    let link = ["source = \"strict\""; 3];
    let small = "ipv4_sources = 1000\nipv6_sources = 1000";
    let mut net = Filtered::new(lab, &config(Hook::Tcx, small, &link))?;
    let prefixes: Vec<IpNet> = (0..2000)
        .map(|i: u32| IpNet::new(std::net::Ipv4Addr::from_bits((20 << 24) + (i << 8)).into(), 24))
        .collect::<Result<_, _>>()?;
    write(&net, Op::Add, 1, &prefixes)?;
    wait_until(
        "refused entries to be shown",
        PATIENCE,
        || show(&net.daemon),
        |answer| answer["refused"].as_u64().is_some_and(|refused| refused > 0),
    )?;
    lab.say(net.show()?["refused"].clone());
    let capacity = Map::named("WGR_SOURCES_V4")?.capacity();
    lab.say(format_args!("the map has room for {capacity}"));
    lab.say("what was there before stays in force");
    net.judge(vec![
        Case::new(1, crate::lab::own(1, true), Passes("source")),
        Case::new(1, crate::lab::own(2, true), Dropped("other-peer")),
    ])?;
    let log = net.daemon.log()?;
    let told = log.lines().filter(|line| line.contains("WARN")).count();
    ensure!(told > 0 && told < 20, "{told} warnings for a full map:\n{log}");

    lab.say("room again: what was refused is there a moment later");
    write(&net, Op::Delete, 1, &prefixes[100..])?;
    wait_until(
        "no refused entries",
        PATIENCE,
        || show(&net.daemon),
        |answer| answer["refused"] == 0 && answer["pending"] == 0,
    )?;
    let last = prefixes[99].addr();
    net.judge(vec![Case::new(1, last, Passes("source"))])?;
    net.daemon.process()?.check_alive()
}
