//! Policies: what a peer may say.
//!
//! Here live the rules as the operator wrote them, as plain data, and what they become in the maps
//! ([`compile`]). How their text is read is the configuration's business.

use std::net::IpAddr;

use ebpf_xdp::{
    addr::{Addr, V4, V6},
    layout::Rule,
    parse::{self, protocol},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::table::CompiledPolicy;
use crate::core::prefix::{Family, Prefix};

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRule {
    /// Its name.
    pub name: String,
    /// What no rule matches passes.
    pub accept: bool,
    /// Replies to flows that were opened from this side, or by an allowed peer towards another,
    /// pass without a rule.
    pub stateful: bool,
    /// In the order in which they are asked.
    pub rules: Vec<RuleSpec>,
}

impl PolicyRule {
    /// How many rules of the maps it takes.
    pub fn size(&self) -> usize {
        self.rules.iter().map(RuleSpec::size).fold(0, usize::saturating_add)
    }
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleSpec {
    /// As the operator wrote it.
    pub text: String,
    /// Its line in the file, from 1.
    pub line: u32,
    /// What matches passes; else it is dropped.
    pub accept: bool,
    /// Sources; empty: any.
    pub from: Vec<Prefix>,
    /// Destinations; empty: any.
    pub to: Vec<Prefix>,
    /// The protocol's number; `None`: any.
    pub protocol: Option<u8>,
    /// Source ports, both ends included, or ICMP codes; empty: any.
    pub src_ports: Vec<(u16, u16)>,
    /// Destination ports, both ends included, or ICMP types; empty: any.
    pub dst_ports: Vec<(u16, u16)>,
}
impl RuleSpec {
    /// How many rules of the maps it takes; 0: no packet can match.
    pub fn size(&self) -> usize {
        let Parts { addresses, src_ports, dst_ports } = self.parts();
        let pairs: usize = addresses
            .iter()
            .map(|pairs| pairs.from.len().saturating_mul(pairs.to.len()))
            .fold(0, usize::saturating_add);
        pairs.saturating_mul(src_ports.len()).saturating_mul(dst_ports.len())
    }

    fn parts(&self) -> Parts {
        let families = families(self.protocol);
        let (from, to) = (aggregated(&self.from), aggregated(&self.to));
        let addresses = if from.is_empty() && to.is_empty() {
            vec![Pairs { families, from: vec![ANYWHERE], to: vec![ANYWHERE] }]
        } else {
            [(Family::V4, Rule::V4), (Family::V6, Rule::V6)]
                .into_iter()
                .filter(|(_, bit)| families & bit != 0)
                .map(|(family, families)| Pairs {
                    families,
                    from: within(&from, family),
                    to: within(&to, family),
                })
                .collect()
        };
        Parts { addresses, src_ports: merged(&self.src_ports), dst_ports: merged(&self.dst_ports) }
    }
}

/// The families that carry a protocol, as bits of [`Rule::families`]. ICMP is IPv4's, ICMPv6
/// IPv6's, and what is an extension header of IPv6 is looked through there.
pub const fn families(protocol: Option<u8>) -> u8 {
    match protocol {
        Some(protocol::ICMPV6) => Rule::V6,
        Some(protocol::ICMP) => Rule::V4,
        Some(number) if parse::is_extension(number) => Rule::V4,
        _ => Rule::V4 | Rule::V6,
    }
}

/// What a [`RuleSpec`] is the product of.
struct Parts {
    addresses: Vec<Pairs>,
    src_ports: Vec<(u16, u16)>,
    dst_ports: Vec<(u16, u16)>,
}

/// Sources and destinations of the same families.
struct Pairs {
    families: u8,
    from: Vec<Block>,
    to: Vec<Block>,
}

/// A block of addresses: an address and a mask.
type Block = (Addr, Addr);

const ANYWHERE: Block = (Addr::UNSPECIFIED, Addr::UNSPECIFIED);

/// The same addresses in the fewest prefixes.
fn aggregated(prefixes: &[Prefix]) -> Vec<Prefix> {
    let nets: Vec<IpNet> = prefixes.iter().map(|&prefix| prefix.into()).collect();
    IpNet::aggregate(&nets).into_iter().map(Prefix::from).collect()
}

/// The blocks of a family; without any prefix, all of its addresses.
fn within(prefixes: &[Prefix], family: Family) -> Vec<Block> {
    if prefixes.is_empty() {
        return vec![ANYWHERE];
    }
    prefixes.iter().filter(|prefix| prefix.family() == family).map(block).collect()
}

fn block(prefix: &Prefix) -> Block {
    match prefix.addr() {
        IpAddr::V4(addr) => (Addr::v4(addr.octets()), Addr::mask(V4, prefix.prefix_len())),
        IpAddr::V6(addr) => (Addr::v6(addr.octets()), Addr::mask(V6, prefix.prefix_len())),
    }
}

/// The same numbers in the fewest ranges; without any range, all numbers.
fn merged(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (min, max) in sorted {
        match merged.last_mut() {
            Some(last) if min <= last.1.saturating_add(1) => last.1 = last.1.max(max),
            _ => merged.push((min, max)),
        }
    }
    if merged.is_empty() { vec![(0, u16::MAX)] } else { merged }
}

/// The policy as the maps hold it. The tag of a rule is the index of the [`RuleSpec`] that it comes
/// from.
pub fn compile(policy: &PolicyRule) -> CompiledPolicy {
    let mut rules = Vec::new();
    for (tag, spec) in (0..).zip(&policy.rules) {
        let Parts { addresses, src_ports, dst_ports } = spec.parts();
        for Pairs { families, from, to } in addresses {
            for ((src, src_mask), (dst, dst_mask)) in product(&from, &to) {
                for ((src_min, src_max), (dst_min, dst_max)) in product(&src_ports, &dst_ports) {
                    rules.push(Rule {
                        src,
                        src_mask,
                        dst,
                        dst_mask,
                        protocol: spec.protocol.unwrap_or_default(),
                        protocol_mask: if spec.protocol.is_some() { u8::MAX } else { 0 },
                        families,
                        accept: spec.accept.into(),
                        src_port_min: src_min,
                        src_port_max: src_max,
                        dst_port_min: dst_min,
                        dst_port_max: dst_max,
                        tag,
                    });
                }
            }
        }
    }
    CompiledPolicy { accept: policy.accept, stateful: policy.stateful, rules }
}

/// Every pair, the second changing faster.
fn product<A: Copy, B: Copy>(a: &[A], b: &[B]) -> impl Iterator<Item = (A, B)> {
    a.iter().flat_map(move |&a| b.iter().map(move |&b| (a, b)))
}
