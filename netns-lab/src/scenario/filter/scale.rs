//! A full table as the list of legal sources.
//!
//! Here lives a strict filter with as many routes as the Internet has. What the kernel's maps hold
//! is read by bpf(2) and compared with `ip route` as a whole; nothing of wgrouted takes part in the
//! comparison.

use std::{
    collections::HashMap,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

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
    .within(900),
    Scenario::new(
        "filter-maps-full",
        "maps that are too small are told, and what fits stays in force",
        too_small,
    ),
];

/// Large enough for any table of today.
const ROOM: &str = "ipv4_sources = 1500000\nipv6_sources = 500000";
/// How long the kernel and the daemon together may take for any one step. On an emulated machine
/// with nothing beside it the longest one takes a fourth of that.
const LONG: Duration = Duration::from_secs(360);
/// The main table's and BIRD's numbers.
const MAIN: u32 = 254;
const BIRD: u8 = 12;
/// Links that the table is spread over.
const LINKS: usize = 3;
/// One prefix of so many comes, one moves and one goes in the churn. It has no factor in common
/// with [`LINKS`], and so each link has its share of each.
const CHURN: usize = 31;
/// One entry of so many is damaged, and no more than this.
const DAMAGE: (usize, usize) = (1000, 200);

fn full(lab: &mut Lab) -> Result<()> {
    let prefixes = match lab.prefixes() {
        None => table::generate(table::FULL_V4, table::FULL_V6),
        Some(file) => table::read(file)?,
    };
    let net = Dedicated::new(lab, 3)?;
    net.open()?;
    let text = config(Hook::Tcx, ROOM, &["source = \"strict\""; LINKS]);
    let mut net = Filtered::on(lab, net, &text)?;
    // Prefix number N belongs to link N modulo the number of links, from 1 on.
    let some = |link: usize, which: fn(usize) -> bool| {
        let mine = prefixes.iter().enumerate().skip(link - 1).step_by(LINKS);
        mine.filter(move |(at, _)| which(at % CHURN)).map(|(_, prefix)| prefix)
    };
    lab.say(format_args!("{} prefixes over {LINKS} links, most of them now", prefixes.len()));
    let began = Instant::now();
    for link in 1..=LINKS {
        write(&net, Op::Add, link, some(link, |part| part != 0))?;
    }
    settle(lab, &net, began)?;
    memory(lab, &net)?;
    let want = routed(lab, &net)?;
    let part = |number: usize| (0..prefixes.len()).filter(|at| at % CHURN == number).count();
    let routes = prefixes.len() - part(0);
    ensure!(want.len() == routes, "the kernel has {} routes, not {routes}", want.len());
    compare(lab, &net, &want)?;
    samples(&net, &prefixes[1..])?;

    lab.say(format_args!(
        "churn: {} come, {} move to the next link, {} go",
        part(0),
        part(1),
        part(2)
    ));
    let began = Instant::now();
    for link in 1..=LINKS {
        write(&net, Op::Add, link, some(link, |part| part == 0))?;
        write(&net, Op::Replace, link % LINKS + 1, some(link, |part| part == 1))?;
        write(&net, Op::Delete, link, some(link, |part| part == 2))?;
    }
    settle(lab, &net, began)?;
    let want = routed(lab, &net)?;
    let routes = prefixes.len() - part(2);
    ensure!(want.len() == routes, "the kernel has {} routes, not {routes}", want.len());
    compare(lab, &net, &want)?;

    damage(lab, &net)?;
    compare(lab, &net, &want)?;

    lab.say("SIGKILL, and a restart with a full table");
    net.daemon.kill()?;
    let began = Instant::now();
    net.daemon.spawn()?;
    settle(lab, &net, began)?;
    memory(lab, &net)?;
    compare(lab, &net, &want)?;
    net.daemon.process()?.check_alive()
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

/// Waits until the daemon says that it has read everything and that nothing is pending. That is
/// only the moment to look; what there is then, the maps say.
fn settle(lab: &Lab, net: &Filtered, began: Instant) -> Result<()> {
    let seconds = || began.elapsed().as_secs_f32();
    lab.say(format_args!("begun {:.1} s ago", seconds()));
    let mut told = lab.elapsed();
    let look = || {
        // Each look is a process, which an emulated processor feels.
        thread::sleep(Duration::from_millis(500));
        let answer = net.show()?;
        if (lab.elapsed() - told).as_secs() >= 10 {
            told = lab.elapsed();
            lab.say(format_args!("{}, {} pending", answer["state"], answer["pending"]));
        }
        // What waits to be read again is not yet pending.
        let done = answer["state"] == "in-force" && answer["pending"] == 0;
        Ok((done && net.daemon.show("status")?["in_sync"] == true, answer))
    };
    let (_, answer) = wait_until("the filter to be complete", LONG, look, |(done, _)| *done)?;
    lab.say(format_args!(
        "settled after {:.1} s, {:.1} s of processor time since the daemon's start; {}",
        seconds(),
        net.daemon.cpu_time()?.as_secs_f32(),
        answer["counters"]
    ));
    Ok(())
}

fn memory(lab: &Lab, net: &Filtered) -> Result<()> {
    let memory = net.daemon.memory()?;
    let answer = net.show()?;
    let entries = ["ipv4_sources", "ipv6_sources"].map(|key| answer[key].as_u64().unwrap_or(0));
    let maps = [Map::named(TRIES[0])?.memory()?, Map::named(TRIES[1])?.memory()?];
    lab.say(format_args!(
        "wgrouted: {} MiB resident, {} MiB at most, {} bytes an entry; \
         tries: {} entries in {} MiB, {} in {} MiB",
        memory.resident >> 20,
        memory.peak >> 20,
        memory.resident / entries.iter().sum::<u64>().max(1),
        entries[0],
        maps[0] >> 20,
        entries[1],
        maps[1] >> 20,
    ));
    Ok(())
}

/// The tries of sources, IPv4 first.
const TRIES: [&str; 2] = ["WGR_SOURCES_V4", "WGR_SOURCES_V6"];

/// Numbers by prefix: of links, or of the maps' owners.
type Numbers = HashMap<IpNet, u32>;

/// The link that `ip route` has each prefix at.
fn routed(lab: &Lab, net: &Filtered) -> Result<Numbers> {
    let began = Instant::now();
    let link = |route: &fib::Route<'_>| route.device.strip_prefix("wg")?.parse().ok();
    let routes = fib::best(&net.net.hub, "main", link)?;
    lab.say(format_args!("`ip route` read in {:.1} s", began.elapsed().as_secs_f32()));
    Ok(routes)
}

/// A number of 32 bits in a key or value.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four octets"))
}

/// Whether a key is one of the best routes' owners (kind 1, the domain's upper three bits).
fn is_route(key: &[u8]) -> bool {
    word(key, 4) >> 29 == 1
}

/// What a key of the tries stands for. It is the length beside four octets of domain, the domain,
/// the address.
fn prefix(key: &[u8]) -> Result<IpNet> {
    let address: IpAddr = match <[u8; 4]>::try_from(&key[8..]) {
        Ok(octets) => octets.into(),
        Err(_) => <[u8; 16]>::try_from(&key[8..]).context("an address")?.into(),
    };
    let length = word(key, 0).checked_sub(32).context("a domain cut short")?;
    Ok(IpNet::new(address, u8::try_from(length)?)?)
}

/// What the tries say of the best routes' owners.
fn held(room: usize) -> Result<Numbers> {
    let mut held = Numbers::with_capacity(room);
    let mut result = Ok(());
    for name in TRIES {
        Map::named(name)?.scan(|key, value| {
            if is_route(key) {
                match prefix(key) {
                    Ok(prefix) => drop(held.insert(prefix, word(value, 0))),
                    Err(error) => result = Err(error),
                }
            }
        })?;
    }
    result.map(|()| held)
}

/// What the maps hold, with owners by the links that they have; and where it differs from what
/// `ip route` had.
fn wrong(net: &Filtered, want: &Numbers) -> Result<Vec<String>> {
    let have = held(want.len())?;
    // Each link's own network tells which number its peer has.
    let mut links = HashMap::new();
    for link in 1..=u8::try_from(net.net.links.len())? {
        let own = own_net(link, true);
        let owner = have.get(&own).with_context(|| format!("{own} is in no map"))?;
        links.insert(*owner, u32::from(link));
    }
    let name = |owner: &u32| match links.get(owner) {
        Some(link) => format!("wg{link}"),
        None => format!("owner {owner:#x}"),
    };
    let right = |prefix: &IpNet| {
        let owner = have.get(prefix);
        match want.get(prefix) {
            Some(link) => owner.is_some_and(|owner| links.get(owner) == Some(link)),
            // Routes without a gateway: connected ones, and those of the lab.
            None => owner.is_none() || is_of_the_lab(*prefix),
        }
    };
    let want = want.iter().filter(|(prefix, _)| !right(prefix));
    let want = want.map(|(prefix, link)| (*prefix, format!("wg{link}"))).collect();
    let have = have.iter().filter(|(prefix, _)| !right(prefix));
    let have = have.map(|(prefix, owner)| (*prefix, name(owner))).collect();
    Ok(differences(&want, &have))
}

/// Compares what `ip route` printed with what the maps hold, which what moves or goes stays legal
/// in for its grace.
fn compare(lab: &Lab, net: &Filtered, want: &Numbers) -> Result<()> {
    let began = Instant::now();
    let wrong = || wrong(net, want);
    let what = format!("the maps to hold the {} prefixes of `ip route`", want.len());
    wait_until(what, PATIENCE, wrong, Vec::is_empty)?;
    lab.say(format_args!(
        "`ip route` and the maps agree on {} prefixes (compared for {:.1} s)",
        want.len(),
        began.elapsed().as_secs_f32()
    ));
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
            // The host's answers end there; else they come back and are counted as spoofed.
            net.net.spoke(spoke.into())?.serve(&[address])?;
            cases.push(Case::new(spoke, address, Passes("source")));
            cases.push(Case::new(spoke % 3 + 1, address, Dropped("other-peer")));
        }
    }
    net.judge(cases)
}

/// Somebody changes the maps behind the daemon's back; a comparison finds it.
fn damage(lab: &Lab, net: &Filtered) -> Result<()> {
    let map = Map::named(TRIES[0])?;
    let (mut number, mut some) = (0, Vec::new());
    map.scan(|key, value| {
        if is_route(key) {
            number += 1;
            if number % DAMAGE.0 == 0 && some.len() < DAMAGE.1 {
                some.push((key.to_vec(), value.to_vec()));
            }
        }
    })?;
    let (key, value) = some.first().context("a large map")?;
    // TEST-NET-3 (RFC 5737), which no table has.
    let mut stranger = key.clone();
    stranger[..4].copy_from_slice(&(32 + 24u32).to_ne_bytes());
    stranger[8..].copy_from_slice(&[203, 0, 113, 0]);
    // Of a trie, the longest match: what is true of a key with nothing at it, too.
    let mut before = vec![(stranger.clone(), map.get(&stranger)?)];
    before.extend(some.iter().map(|(key, value)| (key.clone(), Some(value.clone()))));
    let drift = || net.show()?["counters"]["drift"].as_u64().context("no count of drift");
    let known = drift()?;
    map.set(&stranger, value)?;
    for (number, (key, value)) in some.iter().enumerate() {
        if number % 2 == 0 {
            map.delete(key)?;
        } else {
            map.set(key, &value.iter().map(|octet| octet ^ 1).collect::<Vec<_>>())?;
        }
    }
    lab.say(format_args!("{} entries added, changed or deleted; the maps are read", before.len()));
    let began = Instant::now();
    net.daemon.run(&["resync"])?;
    wait_for("the damage to be repaired", LONG, || {
        before.iter().try_fold(true, |all, (key, value)| Ok(all && map.get(key)? == *value))
    })?;
    settle(lab, net, began)?;
    let found = drift()? - known;
    ensure!(found == before.len() as u64, "{found} drifted entries found, not {}", before.len());
    Ok(())
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
