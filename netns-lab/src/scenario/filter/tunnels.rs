//! Tunnels inside a shared interface.
//!
//! Here lives what the filter makes of packets inside packets: WireGuard proves who sent the outer
//! one, and the inner source must be legal for that peer through its tunnel. One tunnel is the
//! daemon's own, the other somebody else's.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    support::{DIRECTORY, DISCARD, Fate, Hook, MANY, mount_bpffs, new_label, show},
};
use crate::{
    lab::{
        Host, Injector, Lab, Node, PATIENCE, Star, Tap, Train, Wgrouted, assert_flow, own, own_net,
        packet::{Route, protocol, udp},
        wait_for, wait_until,
    },
    scenario::{
        filter::support::{
            Fate::{Dropped, Passes},
            Running, repeat,
        },
        support::{NET4, NET6, V4, V6},
    },
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-tunnel-xdp",
        "inside a peer's tunnel only what is routed into it is legal, and it may move, by XDP",
        |lab| tunnels(lab, Hook::Xdp),
    )
    .within(240),
    Scenario::new(
        "filter-tunnel-tcx",
        "inside a peer's tunnel only what is routed into it is legal, and it may move, by tc",
        |lab| tunnels(lab, Hook::Tcx),
    )
    .within(240),
];

/// The ends of the tunnels, this side first: GRE in IPv4 to s1, GRE in IPv6 with a key to s2.
const ENDS: [[&str; 2]; 2] = [["10.99.0.254", "10.99.0.1"], ["fd99::fe", "fd99::2"]];
const KEY: u32 = 42;

fn config(star: &Star, hook: Hook) -> Result<String> {
    let peer = |spoke: usize| -> Result<String> {
        let key = star.spoke(spoke)?.wg.public_key();
        Ok(format!(
            "[[interface.peer]]\nname = \"s{spoke}\"\npublic_key = \"{key}\"\n\
             pinned = [\"10.99.0.{spoke}/32\", \"fd99::{spoke}/128\"]\n"
        ))
    };
    Ok(format!(
        "[filter]\nhook = \"{}\"\ndirectory = \"{DIRECTORY}\"\n\
         [[interface]]\nname = \"wg0\"\nlink = \"shared\"\n[interface.filter]\n{}{}\
         [[tunnel]]\nname = \"gre-1\"\nkind = \"gre\"\nover = \"wg0\"\npeer = \"s1\"\n\
         local = \"{}\"\naddresses = [\"10.201.0.254/24\", \"fd01:201::fe/64\"]\n\
         [tunnel.filter]\nlink_local = true\n\
         [[tunnel]]\nname = \"gre-2\"\nmanage = false\nover = \"wg0\"\npeer = \"s2\"\n\
         pinned = [\"10.202.0.0/24\"]\n",
        hook.name(),
        peer(1)?,
        peer(2)?,
        ENDS[0][0],
    ))
}

/// The far ends, and the near one that is not the daemon's.
fn build(star: &Star) -> Result<()> {
    let [one, two] = ENDS;
    let second = |local: &str, remote: &str| {
        format!(
            "link add gre-2 type ip6gre local {local} remote {remote} key {KEY}\n\
             link set gre-2 up\n"
        )
    };
    let near = "address add 10.202.0.254/24 dev gre-2\n\
                address add fd01:202::fe/64 dev gre-2 nodad\n";
    star.hub.ip_batch(&(second(two[0], two[1]) + near))?;
    let first =
        format!("link add gre-1 type gre local {} remote {}\nlink set gre-1 up\n", one[1], one[0]);
    for (number, make) in [(1_u8, first), (2, second(two[1], two[0]))] {
        let spoke = star.spoke(number.into())?;
        spoke.serve(&[own(number, true), own(number, false)])?;
        spoke.node.ip_batch(&format!(
            "{make}address add 10.20{number}.0.{number}/24 dev gre-{number}\n\
             address add fd01:20{number}::{number}/64 dev gre-{number} nodad\n\
             address add fe80::20{number}/64 dev gre-{number} nodad\n\
             route add 0.0.0.0/0 dev gre-{number}\nroute add ::/0 dev gre-{number}\n"
        ))?;
    }
    Ok(())
}

/// A hub with two tunnels and the daemon on it, and a host behind it.
struct Net {
    star: Star,
    daemon: Wgrouted,
    tap: Tap,
}

/// The inner packet of a spoke's tunnel, as its kernel would send it.
fn outer(spoke: usize, inner: &[u8]) -> Result<Vec<u8>> {
    let kind: [u8; 2] = if inner[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    let header = match spoke {
        1 => vec![0, 0, kind[0], kind[1]],
        _ => [[0x20, 0, kind[0], kind[1]], KEY.to_be_bytes()].concat(),
    };
    encapsulate(spoke, &[&header, inner].concat())
}

fn encapsulate(spoke: usize, gre: &[u8]) -> Result<Vec<u8>> {
    let [local, remote] = ENDS[spoke - 1];
    let route = Route { from: remote.parse()?, to: local.parse()?, label: 0 };
    Ok(route.packet(protocol::GRE, gre))
}

impl Net {
    fn new(lab: &mut Lab, hook: Hook) -> Result<Net> {
        mount_bpffs()?;
        let star = Star::new(lab, 2)?;
        let host = Host::behind(lab, &star.hub)?;
        build(&star)?;
        let tap = host.tap()?;
        let mut daemon = lab.wgrouted_with(&star.hub, &config(&star, hook)?)?;
        daemon.start()?;
        let net = Net { star, daemon, tap };
        let in_force = || Ok(show(&net.daemon)?["state"] == "in-force");
        wait_for("the filter to be in force", PATIENCE, in_force)?;
        for number in [1_u8, 2] {
            for v4 in [true, false] {
                let net_of = own_net(number, v4);
                net.star.hub.ip(&format!("route add {net_of} dev gre-{number}"))?;
            }
        }
        net.fence()?;
        Ok(net)
    }

    fn injector(&self, spoke: usize) -> Result<Injector> {
        Injector::open(&self.star.spoke(spoke)?.node, "wg0")
    }

    /// Waits until what both spokes send through their tunnels comes through.
    fn fence(&self) -> Result<()> {
        for spoke in [1_u8, 2] {
            let injector = self.injector(spoke.into())?;
            for v4 in [true, false] {
                let route = Host::route_from(own(spoke, v4), new_label());
                let packet = outer(spoke.into(), &route.udp(DISCARD, DISCARD))?;
                wait_for(format!("a packet of s{spoke}"), PATIENCE, || {
                    injector.send(&packet)?;
                    std::thread::sleep(Duration::from_millis(5));
                    Ok(self.tap.count(route.label) > 0)
                })?;
            }
        }
        Ok(())
    }

    /// Packets by peer, tunnel and reason.
    fn counters(&self) -> Result<BTreeMap<(String, String), u64>> {
        let answer = show(&self.daemon)?;
        let mut counters = BTreeMap::new();
        for row in answer["peers"].as_array().context("no peers")? {
            let who = match row["tunnel"].as_str() {
                Some(tunnel) => format!("{} in {tunnel}", row["peer"].as_str().unwrap_or("?")),
                None => row["peer"].as_str().unwrap_or("?").to_owned(),
            };
            for count in row["counters"].as_array().context("no counters")? {
                let reason = count["reason"].as_str().context("no reason")?.to_owned();
                let packets = count["packets"].as_u64().context("no number")?;
                *counters.entry((who.clone(), reason)).or_default() += packets;
            }
        }
        Ok(counters)
    }

    /// Sends packets into WireGuard at a spoke, and asserts what arrives and for whom it is counted;
    /// `None`: WireGuard drops it, and nothing is counted.
    fn judge(
        &self,
        spoke: usize,
        packet: &[u8],
        label: u16,
        want: Option<(&str, Fate)>,
    ) -> Result<()> {
        let before = self.counters()?;
        let injector = self.injector(spoke)?;
        for _ in 0..MANY {
            injector.send(packet)?;
        }
        self.fence()?;
        let arrived = self.tap.count(label);
        let due = if label != 0 && matches!(want, Some((_, Passes(_)))) { MANY } else { 0 };
        ensure!(arrived == due, "{arrived} arrived, not {due}: {want:?}, {packet:02x?}");
        let reason = |fate: Fate| match fate {
            Passes(reason) | Dropped(reason) | Fate::Monitored(reason) => reason.to_owned(),
        };
        let key = want.map(|(who, fate)| (who.to_owned(), reason(fate)));
        if let Some(key) = &key {
            let goal = before.get(key).copied().unwrap_or_default() + MANY;
            let count = || Ok(self.counters()?.get(key).copied().unwrap_or_default());
            wait_until(format!("{key:?}"), PATIENCE, count, |count| *count >= goal)?;
        }
        // Of drops, nobody else has one.
        let passes = |reason: &str| matches!(reason, "source" | "control" | "flow");
        for (other, count) in self.counters()? {
            let expected = before.get(&other).copied().unwrap_or_default()
                + if Some(&other) == key.as_ref() { MANY } else { 0 };
            ensure!(passes(&other.1) || count == expected, "{other:?}: {count}, not {expected}");
        }
        Ok(())
    }
}

fn tunnels(lab: &mut Lab, hook: Hook) -> Result<()> {
    let net = Net::new(lab, hook)?;
    sources(lab, &net)?;
    encapsulations(lab, &net)?;
    protocols(lab, &net)?;
    questions(lab, &net)?;
    moves(lab, &net)
}

fn sources(lab: &Lab, net: &Net) -> Result<()> {
    lab.say("each peer may use what is routed into its tunnel, and nothing else");
    let names = ["s1 in gre-1", "s2 in gre-2"];
    for spoke in [1_u8, 2] {
        let (who, number) = (names[usize::from(spoke) - 1], usize::from(spoke));
        for v4 in [true, false] {
            for (from, want) in [
                (own(spoke, v4), Passes("source")),
                (own(3 - spoke, v4), Dropped("other-peer")),
                (if v4 { "192.0.2.77" } else { "2001:db8:dead::7" }.parse()?, Dropped("no-route")),
            ] {
                let route = Host::route_from(from, new_label());
                let packet = outer(number, &route.udp(40000, DISCARD))?;
                net.judge(number, &packet, route.label, Some((who, want)))?;
            }
        }
        // Its own end is nobody's inside, but the far end of the tunnel's network is its own.
        let route = Host::route_from(format!("10.99.0.{spoke}").parse()?, new_label());
        let packet = outer(number, &route.udp(40000, DISCARD))?;
        net.judge(number, &packet, route.label, Some((who, Dropped("other-peer"))))?;
        let route = Host::route_from(format!("10.20{spoke}.0.{spoke}").parse()?, new_label());
        let packet = outer(number, &route.udp(40000, DISCARD))?;
        net.judge(number, &packet, route.label, Some((who, Passes("source"))))?;
    }
    lab.say("what is legal inside is not legal outside, and the outer source cannot be forged");
    let route = Host::route_from(own(1, true), new_label());
    net.judge(1, &route.udp(40000, DISCARD), route.label, None)?;
    let route = Host::route_from(own(2, true), new_label());
    net.judge(1, &outer(2, &route.udp(40000, DISCARD))?, route.label, None)?;
    let route = Host::route_from(own(1, true), new_label());
    net.judge(2, &outer(1, &route.udp(40000, DISCARD))?, route.label, None)?;
    // Directly a peer still has its own address.
    let route = Host::route_from("10.99.0.1".parse()?, new_label());
    let want = Some(("s1", Passes("source")));
    net.judge(1, &route.udp(40000, DISCARD), route.label, want)
}

fn encapsulations(lab: &Lab, net: &Net) -> Result<()> {
    lab.say("what cannot be looked through is dropped, and counted for why");
    let inner = Host::route_from(own(1, true), 0).udp(40000, DISCARD);
    let with = |header: &[u8]| encapsulate(1, &[header, &inner].concat());
    let inside = "s1 in gre-1";
    for (packet, who, reason) in [
        (with(&[0, 0, 0x65, 0x58])?, inside, "tunnel-payload"),
        (with(&[0, 0, 0, 0])?, inside, "tunnel-payload"),
        (with(&[0, 0, 0x86, 0xdd])?, inside, "tunnel-payload"),
        (with(&[0, 1, 8, 0])?, inside, "encapsulation"),
        (with(&[0x40, 0, 8, 0])?, inside, "encapsulation"),
        (encapsulate(1, &[0, 0])?, inside, "tunnel-truncated"),
        (encapsulate(1, &[0x80, 0, 8, 0])?, inside, "tunnel-truncated"),
        (encapsulate(1, &[&[0, 0, 8, 0], &inner[..30]].concat())?, inside, "malformed"),
        (with(&[0x20, 0, 8, 0, 0, 0, 0, 7])?, "s1", "no-tunnel"),
    ] {
        net.judge(1, &packet, 0, Some((who, Dropped(reason))))?;
    }
    lab.say("fragments: a first one shows the source, later ones are nothing without it");
    let [local, remote] = ENDS[0];
    let big = |from: IpAddr, label: u16| {
        let payload = [udp(40000, DISCARD), vec![0; 1000]].concat();
        [vec![0, 0, 8, 0], Host::route_from(from, label).packet(protocol::UDP, &payload)].concat()
    };
    let cut = 504;
    let piece = |gre: &[u8], offset: usize, label: u16| -> Result<Vec<u8>> {
        let route = Route { from: remote.parse()?, to: local.parse()?, label };
        let (from, more) = (&gre[offset..], offset == 0);
        let part = if more { &from[..cut] } else { from };
        Ok(route.fragment(protocol::GRE, offset as u16, more, part))
    };
    for (from, arrives) in [(own(1, true), true), (own(2, true), false)] {
        let label = new_label();
        let gre = big(from, label);
        let before = net.counters()?;
        let injector = net.injector(1)?;
        for round in 0..MANY {
            let id = 1000 + round as u16 + if arrives { 0 } else { 100 };
            injector.send(&piece(&gre, 0, id)?)?;
            injector.send(&piece(&gre, cut, id)?)?;
        }
        net.fence()?;
        let due = if arrives { MANY } else { 0 };
        if arrives {
            net.tap.wait(label, due)?;
        }
        ensure!(net.tap.count(label) == due, "fragments of {from}: {}", net.tap.count(label));
        for (reason, at_least) in
            [("tunnel-fragment", MANY), ("other-peer", if arrives { 0 } else { MANY })]
        {
            let key = (inside.to_owned(), reason.to_owned());
            let before = before.get(&key).copied().unwrap_or_default();
            let count = net.counters()?.get(&key).copied().unwrap_or_default();
            ensure!(count == before + at_least, "{reason}: {count}, {before} before");
        }
    }
    let short = big(own(1, true), 0);
    let route = Route { from: remote.parse()?, to: local.parse()?, label: 2000 };
    let packet = route.fragment(protocol::GRE, 0, true, &short[..16]);
    net.judge(1, &packet, 0, Some((inside, Dropped("tunnel-truncated"))))
}

fn protocols(lab: &Lab, net: &Net) -> Result<()> {
    lab.say("routing protocols pass: Babel and OSPFv3 by link-local sources, OSPFv2 by its own");
    for (spoke, who) in [(1, "s1 in gre-1"), (2, "s2 in gre-2")] {
        let local: IpAddr = format!("fe80::20{spoke}").parse()?;
        let four: IpAddr = format!("10.20{spoke}.0.{spoke}").parse()?;
        let to = |from: IpAddr, to: &str| -> Result<Route> {
            Ok(Route { from, to: to.parse()?, label: 0 })
        };
        for packet in [
            to(local, "ff02::1:6")?.udp(6696, 6696),
            to(local, "ff02::5")?.packet(protocol::OSPF, &[0; 8]),
            to(four, "224.0.0.5")?.packet(protocol::OSPF, &[0; 8]),
        ] {
            net.judge(spoke, &outer(spoke, &packet)?, 0, Some((who, Passes("source"))))?;
        }
        let (hub, name) = (&net.star.hub, format!("fe80::20{spoke}%gre-{spoke}"));
        hub.run("ping", ["-6", "-c", "1", "-W", "5", &name])?;
    }
    Ok(())
}

/// What `filter test` says of a packet out of a tunnel; the library and the program agree.
fn ask(net: &Net, tunnel: &str, src: IpAddr) -> Result<(Value, Value)> {
    let dst = Host::address(src.is_ipv4());
    let (src, dst) = (src.to_string(), dst.to_string());
    let words = ["filter", "test", "--tunnel", tunnel, "--src", &src, "--dst", &dst, "--json"];
    let answer: Value = serde_json::from_str(&net.daemon.run(&words)?)?;
    ensure!(answer["library"] == answer["program"], "{answer}");
    Ok((answer["library"]["reason"].clone(), answer["sender"].clone()))
}

fn questions(lab: &Lab, net: &Net) -> Result<()> {
    lab.say("`filter test` asks through tunnels, `filter check` and `show` name them");
    for v4 in [true, false] {
        for (tunnel, src, reason) in [
            ("gre-1", own(1, v4), "source"),
            ("gre-1", own(2, v4), "other-peer"),
            ("gre-2", own(2, v4), "source"),
            ("gre-2", own(1, v4), "other-peer"),
        ] {
            let (said, sender) = ask(net, tunnel, src)?;
            let name = format!("s{0} in gre-{0}", &tunnel[4..]);
            ensure!(said == reason && sender == name, "{tunnel}, {src}: {said} of {sender}");
        }
    }
    let refused = net.daemon.refused(&[
        "filter",
        "test",
        "--tunnel",
        "gre-9",
        "--src",
        "10.1.0.1",
        "--dst",
        "10.98.0.2",
    ])?;
    ensure!(refused.contains("gre-1, gre-2"), "{refused}");
    let text = net.daemon.run(&["filter", "show"])?;
    lab.say(&text);
    ensure!(text.contains("s1 in gre-1") && text.contains("s2 in gre-2"), "{text}");
    Ok(())
}

/// Between two packets of a stream.
const INTERVAL: Duration = Duration::from_millis(2);
/// One way between the hub and a spoke, as in the scenario of moves between dedicated links.
const DELAY: Duration = Duration::from_millis(300);
/// How often the prefixes move.
const MOVES: usize = 4;

/// A prefix of each family moves from tunnel to tunnel under traffic.
fn moves(lab: &Lab, net: &Net) -> Result<()> {
    let to: [IpAddr; 2] = [V4.parse()?, V6.parse()?];
    for spoke in [1, 2] {
        net.star.spoke(spoke)?.serve(&to)?;
        net.star.spoke(spoke)?.link.delay(DELAY)?;
    }
    let step = |hub: &Node, spoke: usize| {
        hub.ip_batch(&format!(
            "route replace {NET4} dev gre-{spoke}\nroute replace {NET6} dev gre-{spoke}\n"
        ))
    };
    step(&net.star.hub, 1)?;
    for to in to {
        assert_flow(&net.star.hub, to, &net.star.spoke(1)?.node)?;
    }
    // As if it were a host of the prefix, through the spoke's own tunnel.
    let speaks = |spoke: usize, from: IpAddr| -> Result<Running> {
        let route = Host::route_from(from, new_label());
        let packet = outer(spoke, &route.udp(40000, DISCARD))?;
        Ok(repeat(net.injector(spoke)?, route.label, packet, INTERVAL))
    };
    let trains: Vec<_> =
        to.iter().map(|to| Train::start(&net.star.hub, *to, INTERVAL)).collect::<Result<_>>()?;
    let (mut sent, mut labels) = (0, Vec::new());
    for round in 0..MOVES {
        let spoke = 1 + round % 2;
        let speaking: Vec<_> = to.iter().map(|from| speaks(spoke, *from)).collect::<Result<_>>()?;
        trains.iter().try_for_each(|train| train.run(100))?;
        for stream in speaking {
            labels.push(stream.label);
            sent += stream.stop()?;
        }
        step(&net.star.hub, 3 - spoke)?;
    }
    let arrived = || labels.iter().map(|label| net.tap.count(*label)).sum::<u64>();
    let all = wait_for("all legitimate packets", Duration::from_secs(3), || Ok(arrived() == sent));
    lab.say(format_args!("{} of {sent} packets from the prefixes arrived", arrived()));
    for train in trains {
        let report = train.stop()?;
        lab.say(format_args!("train to the prefix: {report}"));
        report.assert_no_loss()?;
    }
    all?;
    lab.say("the grace ends: the peer that had the prefix before is refused too");
    let key = ("s2 in gre-2".to_owned(), "other-peer".to_owned());
    for from in to {
        let stream = speaks(2, from)?;
        let count = || Ok(net.counters()?.get(&key).copied().unwrap_or_default());
        let before = count()?;
        wait_until("the old peer to be refused", PATIENCE, count, |count| *count > before)?;
        let arrived = net.tap.count(stream.label);
        stream.run(20)?;
        ensure!(net.tap.count(stream.label) == arrived, "it is refused, and then accepted");
        stream.stop()?;
    }
    Ok(())
}
