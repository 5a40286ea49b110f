//! What is asked of the target next.
//!
//! Here lives the order of requests and of the changes in them. Invariant: nothing names what is not
//! complete, and what nothing names any more goes last.

use std::{sync::Arc, time::Duration};

use ebpf_xdp::layout;

use super::{Busy, Filter, State, plan};
use crate::core::{
    event::{Output, Request},
    filter::table::{CompiledPolicy, FilterChange, FilterRequest, Identity},
    time::Time,
};

/// Changes that one request may carry.
const BATCH: usize = 4096;
/// So many sets that nobody holds may pile up before they are looked for.
const SPARE_SETS: usize = 256;

impl Filter {
    /// Emits the next request, if it is time for one. `shut`: no link's AllowedIPs are open any more
    /// that the filter had opened.
    pub fn poll(&mut self, shut: bool, now: Time, out: &mut Vec<Output>) {
        if self.busy.is_some() || self.state == State::Removed {
            return;
        }
        self.token += 1;
        let token = self.token;
        let (busy, request) = if self.closing {
            if !shut {
                return;
            }
            (Busy::Remove, FilterRequest::Remove { token })
        } else if let State::Closed(at, _) = self.state {
            if at > now {
                return;
            }
            (Busy::Open, FilterRequest::Open { token, plan: plan(&self.rule) })
        } else if self.next_dump.is_some_and(|at| at <= now) {
            self.next_dump = None;
            (Busy::Dump, FilterRequest::Dump { token })
        } else if self.seen.is_none() || self.in_doubt {
            return;
        } else if self.filled && self.next_attach.is_some_and(|at| at <= now) && self.links_ready()
        {
            self.next_attach = None;
            (Busy::Attach, FilterRequest::Attach { token, links: self.planned.clone() })
        } else {
            let changes = self.next_batch(now);
            if changes.is_empty() {
                return self.after_work(now);
            }
            self.send(&changes);
            let changes = Arc::new(changes);
            (Busy::Apply(Arc::clone(&changes)), FilterRequest::Apply { token, changes })
        };
        self.busy = Some(busy);
        out.push(Output::Request(Request::Filter(request)));
    }

    /// What is on its way is not known until it is acknowledged.
    fn send(&mut self, changes: &[FilterChange]) {
        for change in changes {
            match change {
                FilterChange::Source { .. } => {}
                FilterChange::Member { set, peer, .. } => self.members.send(&(*set, *peer)),
                FilterChange::Peer { id, .. } => self.peers.send(id),
                FilterChange::Link { ifindex, .. } => self.links.send(ifindex),
                FilterChange::Tunnel { key, .. } => self.tunnels.send(key),
                FilterChange::Policy { id, .. } => self.policies.send(id),
            }
        }
    }

    /// A link is attached once the maps know it: packets of a link that they do not know are dropped.
    fn links_ready(&self) -> bool {
        self.planned.iter().all(|link| self.links.is_settled(&link.ifindex))
    }

    /// All is written.
    fn after_work(&mut self, now: Time) {
        if !self.filled {
            self.filled = true;
            self.next_attach = Some(now);
            self.next_dump = self.next_dump.or(self.next_audit(Duration::ZERO, now));
        }
    }

    /// What comes first: members of sets, sources, policies, peers, tunnels, links; then, the other way
    /// round, what shall go. Nothing names what is not complete, so each kind has a batch of its
    /// own: what is refused is known before anything that would name it is written.
    fn next_batch(&mut self, now: Time) -> Vec<FilterChange> {
        self.sources.end_graces(&mut self.sets, now);
        self.sources.retry(now);
        self.collect_sets();
        let members = self.sets.members().map(|member| (member, ())).collect();
        self.members.want_all(members);
        let stages = [
            Self::joins,
            Self::new_sources,
            Self::new_policies,
            Self::new_peers,
            Self::new_tunnels,
            Self::new_links,
            Self::old_links,
            Self::old_tunnels,
            Self::old_peers,
            Self::old_policies,
            Self::old_sources,
            Self::leaves,
        ];
        let mut batches = stages.into_iter().map(|stage| stage(self, now));
        batches.find(|batch| !batch.is_empty()).unwrap_or_default()
    }

    fn joins(&mut self, _: Time) -> Vec<FilterChange> {
        let joins = self.members.sets().take(BATCH);
        joins.map(|((set, peer), ())| FilterChange::Member { set, peer, present: true }).collect()
    }

    fn new_sources(&mut self, _: Time) -> Vec<FilterChange> {
        let mut changes = Vec::new();
        self.sources.take_sets(BATCH, &mut changes);
        changes
    }

    fn new_policies(&mut self, _: Time) -> Vec<FilterChange> {
        let sets = self.policies.sets();
        let change = |(id, policy): (u16, &Arc<CompiledPolicy>)| FilterChange::Policy {
            id,
            policy: Some(Arc::clone(policy)),
        };
        sets.map(change).collect()
    }

    fn new_peers(&mut self, _: Time) -> Vec<FilterChange> {
        let change = |(id, (identity, word)): (u32, &(Identity, layout::Peer))| {
            FilterChange::Peer { id, identity: Some(*identity), word: *word }
        };
        self.peers.sets().map(change).collect()
    }

    fn new_tunnels(&mut self, _: Time) -> Vec<FilterChange> {
        let sets = self.tunnels.sets();
        sets.map(|(key, word)| FilterChange::Tunnel { key, word: Some(*word) }).collect()
    }

    fn new_links(&mut self, _: Time) -> Vec<FilterChange> {
        let sets = self.links.sets();
        sets.map(|(ifindex, word)| FilterChange::Link { ifindex, word: Some(*word) }).collect()
    }

    fn old_links(&mut self, _: Time) -> Vec<FilterChange> {
        let removals = self.links.removals();
        removals.map(|ifindex| FilterChange::Link { ifindex, word: None }).collect()
    }

    fn old_tunnels(&mut self, _: Time) -> Vec<FilterChange> {
        let removals = self.tunnels.removals();
        removals.map(|key| FilterChange::Tunnel { key, word: None }).collect()
    }

    fn old_peers(&mut self, _: Time) -> Vec<FilterChange> {
        let word = layout::Peer::default();
        let removals = self.peers.removals();
        removals.map(|id| FilterChange::Peer { id, identity: None, word }).collect()
    }

    fn old_policies(&mut self, _: Time) -> Vec<FilterChange> {
        self.policies.removals().map(|id| FilterChange::Policy { id, policy: None }).collect()
    }

    fn old_sources(&mut self, now: Time) -> Vec<FilterChange> {
        let mut changes = Vec::new();
        self.sources.take_removals(BATCH, now, &mut changes);
        changes
    }

    fn leaves(&mut self, _: Time) -> Vec<FilterChange> {
        let leaves = self.members.removals().take(BATCH);
        leaves.map(|(set, peer)| FilterChange::Member { set, peer, present: false }).collect()
    }

    /// Forgets sets that no entry holds, once there may be many.
    fn collect_sets(&mut self) {
        if self.sets.len() > 2 * self.sets_held + SPARE_SETS {
            let held: std::collections::BTreeSet<u32> = self
                .sources
                .values()
                .filter(|value| value & layout::owner::SET != 0)
                .map(|value| value & layout::owner::NUMBER)
                .collect();
            self.sets.retain(|number| held.contains(&number));
            self.sets_held = self.sets.len();
        }
    }

    /// When [`Filter::poll`] has something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        if self.busy.is_some() {
            return None;
        }
        match self.state {
            // What it waits for is that doors are shut, which others do.
            State::Removed => None,
            _ if self.closing => None,
            State::Closed(at, _) => Some(at),
            State::Open if self.seen.is_none() || self.in_doubt => self.next_dump,
            State::Open => {
                let words = self.members.pending()
                    + self.policies.pending()
                    + self.peers.pending()
                    + self.links.pending()
                    + self.tunnels.pending();
                let waits = !self.filled || words > 0 || !self.changed.is_empty();
                let now = waits.then_some(Time::ZERO);
                let attach = self.next_attach.filter(|_| self.filled && self.links_ready());
                let work = now.into_iter().chain(self.sources.deadline());
                work.chain(attach).chain(self.next_dump).min()
            }
        }
    }
}
