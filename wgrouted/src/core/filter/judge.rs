//! The verdict on a packet, worked out by the library over the mirror of the maps.
//!
//! Here lives [`Judge`]. The mirror holds no flows and no fragments, so a packet is judged as the
//! first of its flow. Nothing here changes anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ebpf_xdp::{
    addr::{Addr, V4},
    layout::{
        self, Event, Flow, FlowKey, FragmentKey, Link, Peer, Policy, Rule, Sample, Settings, Tunnel,
    },
    tables::{Tables, Work},
    verdict::{self, Verdict},
};

use super::{
    machine::Filter,
    table::{SourceKey, TunnelKey},
};
use crate::core::prefix::Prefix;

/// The mirror as tables.
#[derive(Debug)]
pub struct Judge<'a> {
    filter: &'a Filter,
    /// The rules of all policies, one after the other.
    rules: Vec<Rule>,
    policies: Vec<(u16, Policy)>,
}

impl<'a> Judge<'a> {
    /// Sees the maps as they are believed to be.
    pub fn new(filter: &'a Filter) -> Self {
        let mut judge = Judge { filter, rules: Vec::new(), policies: Vec::new() };
        for (id, policy) in filter.policies() {
            let words = Policy {
                first: judge.rules.len() as u32,
                count: policy.rules.len() as u16,
                accept: policy.accept.into(),
                stateful: policy.stateful.into(),
            };
            judge.rules.extend_from_slice(&policy.rules);
            judge.policies.push((id, words));
        }
        judge
    }

    /// What becomes of a packet that comes in by a link.
    pub fn decide(&mut self, packet: &[u8], ifindex: u32) -> Verdict {
        verdict::decide(&packet, ifindex, self, &mut Work::default())
    }
}

impl Tables for Judge<'_> {
    const WRITE: bool = false;

    fn now(&self) -> u64 {
        0
    }

    fn settings(&self) -> Settings {
        Settings { flags: Settings::GUARD, ..Settings::default() }
    }

    fn link(&self, ifindex: u32) -> Option<Link> {
        self.filter.link_word(ifindex)
    }

    fn peer(&self, peer: u32) -> Option<Peer> {
        self.filter.peer_word(peer).map(|(word, _)| word)
    }

    fn tunnel(&self, key: &layout::TunnelKey) -> Option<Tunnel> {
        self.filter.tunnel_word(&TunnelKey::from_layout(key))
    }

    fn owner(&self, family: u8, domain: u32, addr: Addr) -> Option<u32> {
        let addr = if family == V4 {
            IpAddr::V4(Ipv4Addr::from(addr.octets4()))
        } else {
            IpAddr::V6(Ipv6Addr::from(addr.octets6()))
        };
        let keys = Prefix::containing(addr).map(|prefix| SourceKey { domain, prefix });
        keys.map(|key| self.filter.sources().installed_at(&key)).find(Option::is_some).flatten()
    }

    fn in_set(&self, set: u32, peer: u32) -> bool {
        self.filter.sets().has(set, peer)
    }

    fn policy(&self, policy: u32) -> Option<Policy> {
        let found = self.policies.iter().find(|(id, _)| u32::from(*id) == policy);
        found.map(|(_, words)| *words)
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.rules.get(index as usize)
    }

    fn flow(&mut self, _: &FlowKey) -> Option<&mut Flow> {
        None
    }

    fn put_flow(&mut self, _: &FlowKey, _: &Flow) -> bool {
        false
    }

    fn fragment(&self, _: &FragmentKey) -> Option<u64> {
        None
    }

    fn put_fragment(&mut self, _: &FragmentKey, _: u64) {}

    fn count(&mut self, _: u32, _: u32, _: u32) {}

    fn event(&mut self, _: Event) {}

    fn seen(&mut self, _: u32, _: u64) {}

    fn may_sample(&mut self, _: u32, _: u64) -> bool {
        false
    }

    fn sample(&mut self, _: &Sample) {}
}
