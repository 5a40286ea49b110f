//! Policies: what is compiled decides as what was written, and what is printed is read again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebpf_xdp::{
    addr::{Addr, V4, V6},
    layout::Rule,
    parse::Headers,
};
use proptest::{prelude::*, sample::select};
use wgrouted::{
    config::filter::{Canonical, has_ports, is_icmp, parse},
    core::{
        filter::policy::{PolicyRule, RuleSpec, compile},
        prefix::Prefix,
    },
};

use crate::cases;

/// Addresses close enough to each other for prefixes to hold several of them.
fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![v4(), v6()]
}

fn v4() -> impl Strategy<Value = IpAddr> {
    (0..32_u32).prop_map(|low| Ipv4Addr::from(0x0a00_0000 | low).into())
}

fn v6() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0..32_u128).prop_map(|low| Ipv6Addr::from((0xfd00 << 112) | low).into()),
        // The same bits in the other family.
        (0..32_u128).prop_map(|low| Ipv6Addr::from(0x0a00_0000 | low).into()),
        (0..32_u128).prop_map(|high| Ipv6Addr::from((0xfd00 << 112) | high << 64).into()),
    ]
}

fn prefix() -> impl Strategy<Value = Prefix> {
    (address(), 0..=8_u8, any::<bool>()).prop_map(|(addr, short, low)| {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        Prefix::new(addr, if low { bits - short } else { bits / 8 * short }).unwrap()
    })
}

/// Small numbers, so that ranges meet and touch, and both ends.
fn number(most: u16) -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0..16_u16, 1 => Just(most), 1 => Just(most - 1)]
}

fn ranges(most: u16) -> impl Strategy<Value = Vec<(u16, u16)>> {
    let range = (number(most), number(most)).prop_map(|(a, b)| (a.min(b), a.max(b)));
    prop::collection::vec(range, 0..4)
}

/// TCP, ICMP of both families, an extension header, one without name or ports.
const PROTOCOLS: [u8; 5] = [6, 1, 58, 51, 200];

fn spec() -> impl Strategy<Value = RuleSpec> {
    let place = || prop::collection::vec(prefix(), 0..4);
    let protocol = prop::option::of(select(&PROTOCOLS[..]));
    (any::<bool>(), place(), place(), protocol).prop_flat_map(|(accept, from, to, protocol)| {
        let most = match protocol {
            Some(number) if is_icmp(number) => u8::MAX.into(),
            _ => u16::MAX,
        };
        (ranges(most), ranges(most)).prop_map(move |(src, dst)| {
            let kept = |keep: bool, ranges: Vec<_>| if keep { ranges } else { Vec::new() };
            let icmp = protocol.is_some_and(is_icmp);
            let ports = icmp || protocol.is_some_and(has_ports);
            RuleSpec {
                text: String::new(),
                line: 1,
                accept,
                from: from.clone(),
                to: to.clone(),
                protocol,
                // Codes stand beside types.
                src_ports: kept(ports && !(icmp && dst.is_empty()), src),
                dst_ports: kept(ports, dst),
            }
        })
    })
}

fn policy() -> impl Strategy<Value = PolicyRule> {
    let rules = prop::collection::vec(spec(), 0..6);
    (any::<bool>(), any::<bool>(), rules).prop_map(|(accept, stateful, rules)| PolicyRule {
        name: "p".to_owned(),
        accept,
        stateful,
        rules,
    })
}

/// A packet's addresses, protocol and ports.
type Packet = (IpAddr, IpAddr, u8, u16, u16);

fn packet() -> impl Strategy<Value = Packet> {
    let pair = prop_oneof![(v4(), v4()), (v6(), v6())];
    (pair, select(&PROTOCOLS[..]), number(u16::MAX), number(u16::MAX)).prop_map(
        |((src, dst), protocol, src_port, dst_port)| {
            // An extension header is never the protocol of an IPv6 packet.
            let protocol = if src.is_ipv6() && protocol == 51 { 200 } else { protocol };
            let numbers = match (protocol, src.is_ipv4()) {
                (6, _) => (src_port, dst_port),
                (1, true) | (58, false) => (src_port & 255, dst_port & 255),
                _ => (0, 0),
            };
            (src, dst, protocol, numbers.0, numbers.1)
        },
    )
}

fn headers(&(src, dst, protocol, src_port, dst_port): &Packet) -> Headers {
    let addr = |addr| match addr {
        IpAddr::V4(addr) => Addr::v4(Ipv4Addr::octets(&addr)),
        IpAddr::V6(addr) => Addr::v6(Ipv6Addr::octets(&addr)),
    };
    Headers {
        src: addr(src),
        dst: addr(dst),
        protocol,
        src_port,
        dst_port,
        family: if src.is_ipv4() { V4 } else { V6 },
        ..Headers::default()
    }
}

/// The oracle: what the words say.
fn says(spec: &RuleSpec, &(src, dst, protocol, src_port, dst_port): &Packet) -> bool {
    let lies_in = |prefixes: &[Prefix], addr| {
        prefixes.is_empty() || prefixes.iter().any(|prefix| prefix.contains(addr))
    };
    let is_one_of = |ranges: &[(u16, u16)], number| {
        ranges.is_empty() || ranges.iter().any(|&(min, max)| (min..=max).contains(&number))
    };
    let family = match spec.protocol {
        Some(1 | 51) => src.is_ipv4(),
        Some(58) => src.is_ipv6(),
        _ => true,
    };
    family
        && spec.protocol.is_none_or(|wanted| wanted == protocol)
        && lies_in(&spec.from, src)
        && lies_in(&spec.to, dst)
        && is_one_of(&spec.src_ports, src_port)
        && is_one_of(&spec.dst_ports, dst_port)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(500)))]

    #[test]
    fn compiled_rules_decide_as_the_written_ones(
        policy in policy(),
        packets in prop::collection::vec(packet(), 1..40),
    ) {
        let compiled = compile(&policy);
        prop_assert_eq!((compiled.accept, compiled.stateful), (policy.accept, policy.stateful));
        prop_assert_eq!(compiled.rules.len(), policy.size());
        for packet in &packets {
            let wanted = policy.rules.iter().position(|spec| says(spec, packet));
            let headers = headers(packet);
            let found = compiled.rules.iter().find(|rule| rule.matches(&headers));
            prop_assert_eq!(found.map(|rule| rule.tag as usize), wanted, "{:?}", packet);
            let accept = wanted.map(|index| policy.rules[index].accept);
            prop_assert_eq!(found.map(|rule| rule.accept == 1), accept);
        }
    }

    /// Every small port, because a wrong one is seldom drawn.
    #[test]
    fn ranges_are_merged_and_nothing_more(src in ranges(20), dst in ranges(20)) {
        let tcp = parse("accept tcp from 10.0.0.0/8", 1, |_| panic!("no peer is named")).unwrap();
        let spec = RuleSpec { src_ports: src, dst_ports: dst, ..tcp[0].clone() };
        let rules = vec![spec.clone()];
        let policy = PolicyRule { name: "p".into(), accept: false, stateful: true, rules };
        let compiled = compile(&policy).rules;
        for (src_port, dst_port) in (0..=21).flat_map(|src| (0..=21).map(move |dst| (src, dst))) {
            let addr = Ipv4Addr::new(10, 0, 0, 1).into();
            let packet = (addr, addr, 6, src_port, dst_port);
            let headers = headers(&packet);
            let found = compiled.iter().any(|rule| rule.matches(&headers));
            prop_assert_eq!(found, says(&spec, &packet), "{:?}", packet);
        }
    }

    /// No rule is there that another one of the same origin makes superfluous.
    #[test]
    fn nothing_is_compiled_twice(spec in spec()) {
        let rules = vec![spec];
        let policy = PolicyRule { name: "p".into(), accept: true, stateful: true, rules };
        let compiled = compile(&policy).rules;
        for (index, rule) in compiled.iter().enumerate() {
            let covers = |other: &Rule| {
                let holds = |a: Addr, mask: Addr, b: Addr, inner: Addr| {
                    mask.hi & inner.hi == mask.hi
                        && mask.lo & inner.lo == mask.lo
                        && (a.hi ^ b.hi) & mask.hi == 0
                        && (a.lo ^ b.lo) & mask.lo == 0
                };
                other.families & rule.families == rule.families
                    && holds(other.src, other.src_mask, rule.src, rule.src_mask)
                    && holds(other.dst, other.dst_mask, rule.dst, rule.dst_mask)
                    && other.src_port_min <= rule.src_port_min
                    && other.src_port_max >= rule.src_port_max
                    && other.dst_port_min <= rule.dst_port_min
                    && other.dst_port_max >= rule.dst_port_max
            };
            let others = compiled.iter().enumerate().filter(|(other, _)| *other != index);
            prop_assert!(others.clone().all(|(_, other)| !covers(other)));
        }
    }

    #[test]
    fn what_is_printed_is_read_again(spec in spec()) {
        let text = Canonical(&spec).to_string();
        let read = parse(&text, 1, |_| panic!("no peer is printed"));
        if spec.size() == 0 {
            prop_assert!(read.is_err(), "{text}");
        } else {
            prop_assert_eq!(read.unwrap(), vec![RuleSpec { text, ..spec }]);
        }
    }

    #[test]
    fn no_rule_panics(words in prop::collection::vec(select(&WORDS[..]), 0..12)) {
        let text = words.join(" ");
        if let Ok(specs) = parse(&text, 1, |_| Ok(vec![Prefix::DEFAULT_V4])) {
            prop_assert!(specs.iter().all(|spec| spec.size() > 0), "{text}");
        }
    }
}

#[rustfmt::skip]
const WORDS: [&str; 26] = [
    "accept", "drop", "any", "tcp", "icmp,icmpv6", "proto", "type", "code", "from", "to", "peer",
    "port", ",", "a,b", "0", "80-90", "9-1", "65536", "-", "1-", "10.0.0.0/8", "::/0", "é",
    "echo-request", "10.0.0.0/8,", "\u{0}",
];
