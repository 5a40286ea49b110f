//! Maps in memory: the filter's target for tests of the core.
//!
//! Here lives [`FakeFilter`], which keeps what it is given and refuses what it is told to refuse. It
//! judges nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ebpf_xdp::layout;

use super::FilterTarget;
use crate::core::{
    filter::table::{
        CompiledPolicy, Contents, FilterChange, FilterError, FilterPlan, FilterReport, HookKind,
        Identity, LinkPlan, LinkState, SourceKey, TunnelKey,
    },
    route::IfIndex,
};

/// The error number of a full map.
const ENOSPC: i32 = 28;

/// Maps and attachments in memory.
#[derive(Clone, Debug, Default)]
pub struct FakeFilter {
    /// The tries of sources.
    pub sources: BTreeMap<SourceKey, u32>,
    /// Sets of owners.
    pub members: BTreeSet<(u32, u32)>,
    /// Peers.
    pub peers: BTreeMap<u32, (Identity, layout::Peer)>,
    /// Links.
    pub links: BTreeMap<IfIndex, layout::Link>,
    /// Tunnels.
    pub tunnels: BTreeMap<TunnelKey, layout::Tunnel>,
    /// Policies.
    pub policies: BTreeMap<u16, Arc<CompiledPolicy>>,
    /// Links to which the programs are attached.
    pub attached: BTreeSet<IfIndex>,
    /// Entries that fit into the tries; more are refused.
    pub room: Option<usize>,
}

impl FilterTarget for FakeFilter {
    fn open(&mut self, _: &FilterPlan) -> Result<Contents, FilterError> {
        self.dump()
    }

    fn apply(&mut self, changes: &[FilterChange]) -> Result<FilterReport, FilterError> {
        let mut report = FilterReport::default();
        for (at, change) in changes.iter().enumerate() {
            if !self.take(change) {
                report.failed.push((at, ENOSPC));
            }
        }
        Ok(report)
    }

    fn attach(&mut self, links: &[LinkPlan]) -> Vec<LinkState> {
        let before = std::mem::take(&mut self.attached);
        self.attached = links.iter().map(|link| link.ifindex).collect();
        let state = |link: &LinkPlan| LinkState {
            ifindex: link.ifindex,
            hook: Ok(HookKind::Tcx),
            reattached: !before.is_empty() && !before.contains(&link.ifindex),
        };
        links.iter().map(state).collect()
    }

    fn dump(&mut self) -> Result<Contents, FilterError> {
        Ok(Contents {
            sources: self.sources.iter().map(|(key, value)| (*key, *value)).collect(),
            members: self.members.iter().copied().collect(),
            peers: self.peers.iter().map(|(id, (identity, _))| (*id, *identity)).collect(),
            links: self.links.keys().copied().collect(),
            tunnels: self.tunnels.keys().copied().collect(),
        })
    }

    fn remove(&mut self) -> Result<(), FilterError> {
        *self = FakeFilter { room: self.room, ..FakeFilter::default() };
        Ok(())
    }
}

impl FakeFilter {
    /// Takes one change; `false`: there is no room.
    pub fn take(&mut self, change: &FilterChange) -> bool {
        match change {
            FilterChange::Source { key, value: Some(value) } => {
                let full = self.room.is_some_and(|room| self.sources.len() >= room);
                if full && !self.sources.contains_key(key) {
                    return false;
                }
                self.sources.insert(*key, *value);
            }
            FilterChange::Source { key, value: None } => {
                self.sources.remove(key);
            }
            FilterChange::Member { set, peer, present: true } => {
                self.members.insert((*set, *peer));
            }
            FilterChange::Member { set, peer, present: false } => {
                self.members.remove(&(*set, *peer));
            }
            FilterChange::Peer { id, identity: Some(identity), word } => {
                self.peers.insert(*id, (*identity, *word));
            }
            FilterChange::Peer { id, identity: None, .. } => {
                self.peers.remove(id);
            }
            FilterChange::Link { ifindex, word: Some(word) } => {
                self.links.insert(*ifindex, *word);
            }
            FilterChange::Link { ifindex, word: None } => {
                self.links.remove(ifindex);
            }
            FilterChange::Tunnel { key, word: Some(word) } => {
                self.tunnels.insert(*key, *word);
            }
            FilterChange::Tunnel { key, word: None } => {
                self.tunnels.remove(key);
            }
            FilterChange::Policy { id, policy: Some(policy) } => {
                self.policies.insert(*id, Arc::clone(policy));
            }
            FilterChange::Policy { id, policy: None } => {
                self.policies.remove(id);
            }
        }
        true
    }
}
