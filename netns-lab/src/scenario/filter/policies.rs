//! What a peer may say.
//!
//! Here live policies: rules and their order, ports, fragments and extension headers, replies that
//! pass because somebody asked, and packets that are no packets.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Scenario,
    support::{
        Case, DISCARD,
        Fate::{Dropped, Passes},
        Filtered, Hook, both, config, counted, new_label,
    },
};
use crate::lab::{
    Host, Injector, Lab, Ping, Tap, Train, assert_no_flow, own,
    packet::{Route, extension, protocol, tcp, udp},
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "filter-rules-xdp",
        "rules: order, protocols, port ranges, ICMP types, fragments, extension headers, by XDP",
        |lab| rules(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-rules-tcx",
        "rules: order, protocols, port ranges, ICMP types, fragments, extension headers, by tc",
        |lab| rules(lab, Hook::Tcx),
    ),
    Scenario::new(
        "filter-malformed-xdp",
        "truncated and contradictory packets are dropped and counted, by XDP",
        |lab| malformed(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-malformed-tcx",
        "truncated and contradictory packets are dropped and counted, by tc",
        |lab| malformed(lab, Hook::Tcx),
    ),
    Scenario::new(
        "filter-stateful-xdp",
        "a peer that may say nothing answers those who ask, and cannot ask itself, by XDP",
        |lab| stateful(lab, Hook::Xdp),
    ),
    Scenario::new(
        "filter-stateful-tcx",
        "a peer that may say nothing answers those who ask, and cannot ask itself, by tc",
        |lab| stateful(lab, Hook::Tcx),
    ),
];

/// Rules in the order in which they are written, and the most specific first. Without state each
/// packet meets its rule.
const RULES: &str = r#"
[[filter.policy]]
name = "listed"
default = "drop"
stateful = false
rules = [
    "accept udp to port 9",
    "drop tcp to 0.0.0.0/0 port 85",
    "accept tcp to port 22,80-90",
    "accept icmp type echo-request",
    "accept icmpv6 type echo-request",
    "accept udp to port 5000",
]
[[filter.policy]]
name = "specific"
default = "accept"
stateful = false
order = "most-specific"
rules = [
    "drop udp to 10.0.0.0/8 port 7000-7999",
    "accept udp to 10.98.0.2 port 7000-7999",
]
"#;

fn rules(lab: &mut Lab, hook: Hook) -> Result<()> {
    let links = [
        "source = \"strict\"\npolicy = \"listed\"",
        "source = \"strict\"\npolicy = \"specific\"",
        "source = \"strict\"",
    ];
    let net = Filtered::new(lab, &config(hook, RULES, &links))?;
    let (accepted, ruled_out, closed) =
        (Passes("accept-rule"), Dropped("drop-rule"), Dropped("drop-default"));
    for [from, _] in [both(1), swap(both(1))] {
        lab.say(format_args!("from {from}: ports and protocols"));
        let v4 = from.is_ipv4();
        let tcp_to = |port: u16, want| {
            Case::new(1, from, want).of(move |route| route.tcp(40000, port, tcp::SYN))
        };
        let mut cases: Vec<Case> = [22, 80, 84, 86, 90].map(|port| tcp_to(port, accepted)).into();
        cases.extend([21, 23, 79, 91, 443].map(|port| tcp_to(port, closed)));
        // A rule with an IPv4 prefix says nothing about IPv6.
        cases.push(tcp_to(85, if v4 { ruled_out } else { accepted }));
        let udp_to =
            |port: u16, want| Case::new(1, from, want).of(move |route| route.udp(40000, port));
        cases.extend([udp_to(22, closed), udp_to(5000, accepted), udp_to(5001, closed)]);
        cases.push(Case::new(1, from, accepted).of(|route| route.echo()));
        let reply = if v4 { 0 } else { 129 };
        cases.push(Case::new(1, from, closed).of(move |route| route.icmp(reply, 0, &[0; 4])));
        cases.push(Case::new(1, from, closed).of(|route| route.packet(protocol::OSPF, &[0; 8])));
        net.judge(cases)?;

        lab.say("fragments follow their first one");
        let first = |port: u16| {
            move |route: Route| route.fragment(protocol::UDP, 0, true, &udp(40000, port))
        };
        net.judge(vec![
            Case::new(1, from, accepted).of(first(5000)),
            Case::new(1, from, closed).of(first(5001)),
            Case::new(1, from, Dropped("fragment"))
                .of(|route| route.fragment(protocol::UDP, 16, false, &[0; 8])),
        ])?;
        fragments(&net, from)?;
    }

    lab.say("extension headers do not hide a port");
    let from = own(1, false);
    for (kind, chain) in [
        ("hop-by-hop", vec![protocol::HOP_BY_HOP]),
        ("destination", vec![protocol::DESTINATION]),
        ("all", vec![protocol::HOP_BY_HOP, protocol::DESTINATION, protocol::DESTINATION]),
    ] {
        lab.say(kind);
        let through = move |port: u16| {
            let chain = chain.clone();
            move |route: Route| with_chain(route, &chain, protocol::UDP, &udp(40000, port))
        };
        net.judge(vec![
            Case::new(1, from, accepted).of(through(5000)),
            Case::new(1, from, closed).of(through(5001)),
        ])?;
    }

    lab.say("the most specific rule first");
    let udp_to = |port: u16, want| {
        Case::new(2, own(2, true), want).of(move |route: Route| route.udp(40000, port))
    };
    net.judge(vec![
        udp_to(7500, accepted),
        udp_to(8000, Passes("accept-default")),
        udp_to(7500, ruled_out).to("10.98.0.3")?,
    ])?;
    lab.say("a policy does not excuse a spoofed source");
    net.judge(vec![
        Case::new(1, own(2, true), Dropped("other-peer")).of(|route| route.tcp(1, 22, tcp::SYN)),
        Case::new(2, own(1, true), Dropped("other-peer")),
    ])
}

fn swap([first, second]: [IpAddr; 2]) -> [IpAddr; 2] {
    [second, first]
}

/// A later fragment passes if its first one has passed, and only then.
fn fragments(net: &Filtered, from: IpAddr) -> Result<()> {
    let injector = net.injector(1)?;
    for (port, arrives) in [(5000, 2), (5001, 0)] {
        let route = Host::route_from(from, new_label());
        injector.send(&route.fragment(protocol::UDP, 0, true, &udp(40000, port)))?;
        injector.send(&route.fragment(protocol::UDP, 16, false, &[0; 8]))?;
        net.fence(1)?;
        let arrived = net.tap.count(route.label);
        ensure!(arrived == arrives, "{arrived} fragments of {from} to port {port} arrived");
    }
    Ok(())
}

/// An IPv6 packet with extension headers of these kinds before its payload.
fn with_chain(route: Route, chain: &[u8], last: u8, payload: &[u8]) -> Vec<u8> {
    let (mut next, mut payload) = (last, payload.to_vec());
    for kind in chain.iter().rev() {
        payload = extension(next, &payload);
        next = *kind;
    }
    route.packet(next, &payload)
}

/// WireGuard itself refuses packets shorter than their IP header says; what is wrong behind it, it
/// lets through.
fn malformed(lab: &mut Lab, hook: Hook) -> Result<()> {
    let net = Filtered::new(lab, &config(hook, "", &["source = \"strict\""; 3]))?;
    let bad = Dropped("malformed");
    for from in both(1) {
        let of = |make: fn(Route) -> Vec<u8>| Case::new(1, from, bad).of(make);
        net.judge(vec![
            of(|route| route.packet(protocol::UDP, &[0; 4])),
            of(|route| route.packet(protocol::TCP, &[0; 19])),
            // A TCP header that ends before it begins.
            of(|route| route.packet(protocol::TCP, &[0; 20])),
            of(|route| route.icmp(if route.is_v4() { 8 } else { 128 }, 0, &[])),
            // A fragment that overlaps TCP's flags, and one that ends beyond 65,535 octets.
            of(|route| route.fragment(protocol::TCP, 8, false, &[0; 16])),
            of(|route| route.fragment(protocol::UDP, 65_528, false, &[0; 16])),
        ])?;
    }
    lab.say("IPv4 header lengths");
    let of = |make: fn(Route) -> Vec<u8>| Case::new(1, own(1, true), bad).of(make);
    net.judge(vec![of(|route| header_length(route, 4)), of(|route| header_length(route, 15))])?;
    lab.say("IPv6 extension headers");
    let of = |make: fn(Route) -> Vec<u8>| Case::new(1, own(1, false), bad).of(make);
    net.judge(vec![
        // Hop-by-hop options behind another header, type 0 routing, a chain without end, one that
        // is cut off.
        of(|route| {
            let chain = [protocol::DESTINATION, protocol::HOP_BY_HOP];
            with_chain(route, &chain, protocol::UDP, &udp(1, 2))
        }),
        of(|route| {
            let mut header = extension(protocol::UDP, &udp(1, 2));
            header[2] = 0;
            route.packet(protocol::ROUTING, &header)
        }),
        of(|route| with_chain(route, &[protocol::DESTINATION; 12], protocol::UDP, &udp(1, 2))),
        of(|route| route.packet(protocol::DESTINATION, &[protocol::UDP, 3, 0, 0, 0, 0, 0, 0])),
    ])
}

/// An IPv4 packet that claims a header of so many words.
fn header_length(route: Route, words: u8) -> Vec<u8> {
    let mut packet = route.udp(1, 2);
    packet[0] = 0x40 | words;
    packet
}

const INTERVAL: Duration = Duration::from_millis(2);

/// s1 may say everything, s2 nothing but answers. Both policies are stateful.
fn stateful(lab: &mut Lab, hook: Hook) -> Result<()> {
    let policies = "[[filter.policy]]\nname = \"open\"\ndefault = \"accept\"\nstateful = true\n\
                    [[filter.policy]]\nname = \"closed\"\ndefault = \"drop\"\nstateful = true\n\
                    rules = [\"accept udp to 0.0.0.0/0 port 9\"]\n";
    let links = [
        "source = \"strict\"\npolicy = \"open\"",
        "source = \"strict\"\npolicy = \"closed\"",
        "source = \"strict\"",
    ];
    let net = Filtered::new(lab, &config(hook, policies, &links))?;
    (1..=3).try_for_each(|spoke| net.fence(spoke))?;
    let (a, b) = (net.net.spoke(1)?, net.net.spoke(2)?);

    for v4 in [true, false] {
        lab.say(format_args!("s1 asks s2, {}", if v4 { "IPv4" } else { "IPv6" }));
        let ping = |from: u8, to: u8| Ping { from: Some(own(from, v4)), ..Ping::from(own(to, v4)) };
        let train = Train::start(&a.node, ping(1, 2), INTERVAL)?;
        train.run(50)?;
        assert_no_flow(&b.node, ping(2, 1), [&a.node])?;
        let report = train.stop()?;
        lab.say(&report);
        report.assert_no_loss()?;
        exchange(&net, v4)?;
    }
    ensure!(counted(&net.daemon, "wg2", Passes("flow"))? > 100, "replies are counted");
    ensure!(counted(&net.daemon, "wg2", Passes("related"))? >= 2, "errors are counted");
    ensure!(counted(&net.daemon, "wg2", Dropped("drop-default"))? > 0, "nothing was refused");

    lab.say("the hub asks s2");
    let train = Train::start(&net.net.hub, own(2, true), INTERVAL)?;
    train.run(20)?;
    train.stop()?.assert_no_loss()
}

/// TCP and UDP by hand, each packet looked at where it comes out.
fn exchange(net: &Filtered, v4: bool) -> Result<()> {
    let tap = |spoke: usize| Tap::open(&net.net.spoke(spoke)?.node, "wg0");
    let (at_a, at_b) = (tap(1)?, tap(2)?);
    let send = |spoke: u8, make: &dyn Fn(Route) -> Vec<u8>| -> Result<(Vec<u8>, bool)> {
        let other = 3 - spoke;
        let route = Route { from: own(spoke, v4), to: own(other, v4), label: new_label() };
        let packet = make(route);
        let injector: Injector = net.injector(spoke)?;
        injector.send(&packet)?;
        net.fence(spoke)?;
        // It has passed the hub; to the other spoke it has one more link to go.
        let behind = Route { label: new_label(), ..route };
        let tap = if other == 1 { &at_a } else { &at_b };
        let hub = Injector::open(&net.net.hub, &format!("wg{other}"))?;
        hub.send(&behind.udp(DISCARD, DISCARD))?;
        tap.wait(behind.label, 1)?;
        Ok((packet, tap.count(route.label) == 1))
    };
    let (_, asks) = send(2, &|route| route.udp(53, 41000))?;
    ensure!(!asks, "s2 may not begin");
    let (_, passes) = send(1, &|route| route.udp(41000, 53))?;
    ensure!(passes, "s1 may begin");
    let (_, passes) = send(2, &|route| route.udp(53, 41000))?;
    ensure!(passes, "s2 may answer");
    let (_, passes) = send(2, &|route| route.udp(54, 41000))?;
    ensure!(!passes, "s2 may not answer from another port");
    let (_, passes) = send(2, &|route| route.tcp(53, 41000, tcp::ACK))?;
    ensure!(!passes, "s2 may not answer by another protocol");

    let (_, passes) = send(2, &|route| route.tcp(80, 42000, tcp::SYN | tcp::ACK))?;
    ensure!(!passes, "s2 may not answer what nobody asked");
    let (_, passes) = send(1, &|route| route.tcp(42000, 80, tcp::SYN))?;
    ensure!(passes, "s1 may connect");
    let (_, passes) = send(2, &|route| route.tcp(80, 42000, tcp::SYN | tcp::ACK))?;
    ensure!(passes, "s2 may accept");

    let (asked, passes) = send(1, &|route| route.udp(43000, 33434))?;
    ensure!(passes, "s1 may ask");
    let (_, passes) = send(2, &|route| route.unreachable(&asked))?;
    ensure!(passes, "an error about a known flow passes");
    let unasked = Route { from: own(1, v4), to: own(2, v4), label: 0 }.udp(44000, 33434);
    let (_, passes) = send(2, &|route| route.unreachable(&unasked))?;
    ensure!(!passes, "an error about nothing does not pass");
    Ok(())
}
