//! What the small tables shall say.
//!
//! Here live the words of peers, links and tunnels, made of the roster and the rules. How they get into
//! the maps is not known here.

use std::{collections::BTreeMap, sync::Arc};

use ebpf_xdp::layout::{self, Finder};

use super::{Filter, POLICIES_BITS};
use crate::core::{
    filter::{
        policy::compile,
        roster::{Member, mode, stable_number},
        rule::{Ends, SourceMode},
        table::{CompiledPolicy, LinkPlan, TunnelKey},
    },
    time::Time,
};

impl Filter {
    /// Has the small tables say what the roster is now.
    pub(super) fn write_words(&mut self) {
        let numbers = self.policy_numbers();
        let policies = self.rule.policies.iter();
        let policies = policies.map(|policy| (numbers[&policy.name], Arc::new(compile(policy))));
        let policies: BTreeMap<u16, Arc<CompiledPolicy>> = policies.collect();
        let mut peers = BTreeMap::new();
        let mut learning = Vec::new();
        let tunnels = self.tunnel_words();
        let outer: Vec<u32> = tunnels.keys().map(|key| key.peer).collect();
        for (id, member) in self.legal.roster().members() {
            let filter = &member.filter;
            let policy = filter.policy.as_ref().and_then(|name| numbers.get(name)).copied();
            let narrow = !filter.list.is_empty() && filter.source != SourceMode::List;
            let word = layout::Peer {
                mode: mode(filter.source) as u8,
                flags: flag(filter.monitor, layout::Peer::MONITOR)
                    | flag(filter.link_local, layout::Peer::LINK_LOCAL)
                    | flag(filter.unspecified, layout::Peer::UNSPECIFIED)
                    | flag(filter.control, layout::Peer::CONTROL)
                    | flag(narrow, layout::Peer::NARROW)
                    | flag(filter.ignore_default, layout::Peer::IGNORE_DEFAULT)
                    | flag(outer.binary_search(&id).is_ok(), layout::Peer::TUNNELS),
                policy: policy.unwrap_or(0),
                domain: self.legal.domain_of(id),
            };
            if policy.and_then(|number| policies.get(&number)).is_some_and(|p| p.stateful) {
                learning.push(member.identity.ifindex);
            }
            peers.insert(id, (member.identity, word));
        }
        let mut links = BTreeMap::new();
        self.planned.clear();
        for (ifindex, row) in self.legal.roster().links() {
            let egress = learning.contains(&ifindex);
            let monitor = row
                .ids
                .iter()
                .filter_map(|id| self.legal.roster().member(*id))
                .all(|member| member.filter.monitor);
            let finder = if row.dedicated { Finder::Dedicated } else { Finder::Shared };
            let word = layout::Link {
                finder: finder as u8,
                flags: flag(egress, layout::Link::LEARN)
                    | flag(monitor, layout::Link::MONITOR)
                    | flag(!row.tunnels.is_empty(), layout::Link::TUNNELS),
                zone: row.zone,
                peer: row.only.unwrap_or(0),
            };
            links.insert(ifindex, word);
            self.planned.push(LinkPlan { ifindex, egress });
        }
        self.attached.retain(|ifindex, _| links.contains_key(ifindex));
        self.policies.want_all(policies);
        self.peers.want_all(peers);
        self.links.want_all(links);
        self.tunnels.want_all(tunnels);
        self.next_attach = Some(Time::ZERO);
    }

    /// What is inside packets between two ends. In order of the peers that send them.
    fn tunnel_words(&self) -> BTreeMap<TunnelKey, layout::Tunnel> {
        let mut words = BTreeMap::new();
        for (id, member) in self.legal.roster().members() {
            let (Some(key), Some(place)) = (key_of(member), member.tunnel) else { continue };
            words.insert(key, layout::Tunnel { peer: id, zone: place.zone, reserved: 0 });
        }
        // Between the ends of tunnels with keys there are tunnels.
        let keyed = words.keys().filter_map(|key| key.ends.map(|ends| (key.peer, ends)));
        let keyed = keyed.filter(|(_, ends)| ends.key.is_some());
        let between = keyed.map(|(peer, ends)| {
            let ends = Some(Ends { key: None, ..ends });
            TunnelKey { peer, ends }
        });
        for key in between.collect::<Vec<_>>() {
            words.entry(key).or_default();
        }
        words
    }

    /// Each policy's number: the same in every run, because an adopted peer's word names it.
    fn policy_numbers(&self) -> BTreeMap<String, u16> {
        let mut numbers = BTreeMap::new();
        let mut taken: Vec<u32> = Vec::new();
        for policy in &self.rule.policies {
            let number =
                stable_number(policy.name.bytes(), POLICIES_BITS, |number| taken.contains(&number));
            taken.push(number);
            numbers.insert(policy.name.clone(), number as u16);
        }
        numbers
    }
}

fn flag(on: bool, bit: u8) -> u8 {
    if on { bit } else { 0 }
}

/// Which packets are a tunnel's.
pub(super) fn key_of(member: &Member) -> Option<TunnelKey> {
    member.tunnel.map(|place| TunnelKey { peer: place.outer, ends: place.ends })
}
