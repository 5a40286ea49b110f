//! The filter's state machine.
//!
//! Here lives [`Filter`]: routes and answers of the target in, requests and notices out. It works
//! like an interface's reconciler, with the same recovery path: read the maps, compare. Invariants:
//! one request is with the target at a time; nothing is changed before all routes have been read,
//! so that maps which an earlier daemon left stay in force as they are; a peer's word names a domain
//! or a policy only once that is complete, and what it no longer names is removed after it changed.
//!
//! What shall be is worked out here and in `want`, what the target answers is taken in in `answer`, and
//! what it is asked comes from `next`.

mod answer;
mod next;
mod want;

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use ebpf_xdp::layout;

use super::{
    legal::{Legal, View},
    owners::{Owners, Sets},
    policy::PolicyRule,
    rule::FilterRule,
    sources::Sources,
    table::{
        CompiledPolicy, FilterChange, FilterError, FilterPlan, Identity, LinkPlan, LinkState,
        SourceKey, TunnelKey,
    },
    words::Words,
};
use crate::core::{
    event::{InterfaceId, Notice, Output},
    interface::Gate,
    prefix::Prefix,
    route::IfIndex,
    rule::OnExit,
    time::Time,
};

/// Policies that the maps have room for; numbers are below it.
pub const POLICIES_BITS: u32 = 12;
/// What the target is busy with.
#[derive(Debug)]
enum Busy {
    Open,
    Apply(Arc<Vec<FilterChange>>),
    Attach,
    Dump,
    Remove,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// The maps are not open; they are tried to be opened at this time.
    Closed(Time, Option<FilterError>),
    /// The maps are open.
    Open,
    /// Everything was removed.
    Removed,
}

/// What was done so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Counters {
    /// Changes that the target took.
    pub changes: u64,
    /// Changes that it refused.
    pub refused: u64,
    /// Full reads of the maps.
    pub dumps: u64,
    /// Entries that somebody else had changed.
    pub drift: u64,
    /// Programs that somebody else had detached.
    pub reattached: u64,
}

/// The filter.
#[derive(Debug)]
pub struct Filter {
    rule: FilterRule,
    state: State,
    busy: Option<Busy>,
    /// Number of the latest request.
    token: u64,
    legal: Legal,
    sets: Sets,
    sources: Sources,
    members: Words<(u32, u32), ()>,
    peers: Words<u32, (Identity, layout::Peer)>,
    links: Words<IfIndex, layout::Link>,
    tunnels: Words<TunnelKey, layout::Tunnel>,
    policies: Words<u16, Arc<CompiledPolicy>>,
    /// The filtered interfaces and their revisions that were looked at.
    seen: Option<Vec<(InterfaceId, u64)>>,
    /// Entries whose routes changed and were not looked at yet.
    changed: Vec<SourceKey>,
    /// All has been worked out and written once: the programs may be attached.
    filled: bool,
    attached: BTreeMap<IfIndex, LinkState>,
    planned: Vec<LinkPlan>,
    next_attach: Option<Time>,
    next_dump: Option<Time>,
    /// A request failed half way.
    in_doubt: bool,
    closing: bool,
    sets_held: usize,
    counters: Counters,
    told_refused: bool,
}

impl Filter {
    /// A filter that nothing is known of yet.
    pub fn new(rule: FilterRule) -> Self {
        Filter {
            rule,
            state: State::Closed(Time::ZERO, None),
            busy: None,
            token: 0,
            legal: Legal::default(),
            sets: Sets::default(),
            sources: Sources::default(),
            members: Words::default(),
            peers: Words::default(),
            links: Words::default(),
            tunnels: Words::default(),
            policies: Words::default(),
            seen: None,
            changed: Vec::new(),
            filled: false,
            attached: BTreeMap::new(),
            planned: Vec::new(),
            next_attach: None,
            next_dump: None,
            in_doubt: false,
            closing: false,
            sets_held: 0,
            counters: Counters::default(),
            told_refused: false,
        }
    }

    /// The rules.
    pub fn rule(&self) -> &FilterRule {
        &self.rule
    }

    /// Who is filtered and what is legal.
    pub fn legal(&self) -> &Legal {
        &self.legal
    }

    /// The tries of sources.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// The sets of owners.
    pub fn sets(&self) -> &Sets {
        &self.sets
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What became of each link.
    pub fn attached(&self) -> impl Iterator<Item = &LinkState> {
        self.attached.values()
    }

    /// How a peer is treated, and whether the maps say so.
    pub fn peer_word(&self, id: u32) -> Option<(layout::Peer, bool)> {
        self.peers.wanted(&id).map(|(_, word)| (*word, self.peers.is_settled(&id)))
    }

    /// How a link's packets find their peer.
    pub fn link_word(&self, ifindex: IfIndex) -> Option<layout::Link> {
        self.links.wanted(&ifindex).copied()
    }

    /// What is inside packets between two ends.
    pub fn tunnel_word(&self, key: &TunnelKey) -> Option<layout::Tunnel> {
        self.tunnels.wanted(key).copied()
    }

    /// The policies by number.
    pub fn policies(&self) -> impl Iterator<Item = (u16, &Arc<CompiledPolicy>)> {
        self.policies.iter()
    }

    /// A peer's policy, as configured and as compiled.
    pub fn policy_of(&self, id: u32) -> Option<(&PolicyRule, &CompiledPolicy)> {
        let (word, _) = self.peer_word(id)?;
        let compiled = self.policies.wanted(&word.policy)?;
        let name = self.legal.roster().member(id)?.filter.policy.as_ref()?;
        let rule = self.rule.policies.iter().find(|policy| policy.name == *name)?;
        Some((rule, compiled))
    }

    /// Why the maps are not open, if they could not be opened.
    pub fn error(&self) -> Option<&FilterError> {
        match &self.state {
            State::Closed(_, error) => error.as_ref(),
            _ => None,
        }
    }

    /// Changes that wait or are on their way. Graces that run are not among them.
    pub fn pending(&self) -> usize {
        let sources = match &self.busy {
            // The other tables count what is on its way themselves.
            Some(Busy::Apply(changes)) => changes
                .iter()
                .filter(|change| matches!(change, FilterChange::Source { .. }))
                .count(),
            _ => 0,
        };
        sources
            + self.sources.pending()
            + self.members.pending()
            + self.peers.pending()
            + self.links.pending()
            + self.tunnels.pending()
            + self.policies.pending()
    }

    /// Everything is as it shall be, or will not be for a reason that was told.
    pub fn is_settled(&self) -> bool {
        match &self.state {
            State::Closed(_, error) => error.is_some(),
            State::Open => {
                self.filled
                    && self.planned.iter().all(|link| self.attached.contains_key(&link.ifindex))
            }
            State::Removed => true,
        }
    }

    /// Whether nothing is left to do for a shutdown.
    pub fn is_closed(&self) -> bool {
        !self.closing || self.state == State::Removed
    }

    /// Whether the AllowedIPs of a link may be open.
    pub fn gate(&self, ifindex: IfIndex) -> Gate {
        if self.closing || matches!(self.state, State::Closed(_, Some(_)) | State::Removed) {
            return Gate::Closed;
        }
        match self.attached.get(&ifindex).map(|state| &state.hook) {
            Some(Err(_)) => Gate::Closed,
            Some(Ok(_)) if self.filled && self.seen.is_some() && self.is_whole(ifindex) => {
                Gate::Open
            }
            _ => Gate::Undecided,
        }
    }

    /// Whether the maps say of a link and its peers what they shall.
    fn is_whole(&self, ifindex: IfIndex) -> bool {
        let Some(link) = self.legal.roster().link(ifindex) else { return false };
        self.links.is_settled(&ifindex)
            && link
                .ids
                .iter()
                .chain(&link.tunnels)
                .filter(|id| **id != 0)
                .all(|id| self.peers.is_settled(id))
            && link.tunnels.iter().all(|id| {
                let key = self.legal.roster().member(*id).and_then(want::key_of);
                key.is_some_and(|key| self.tunnels.is_settled(&key))
            })
    }

    // ---- what happens ----

    /// The rules changed.
    pub fn configure(&mut self, rule: FilterRule, now: Time) {
        let (old, new) = (plan(&self.rule), plan(&rule));
        if self.rule.audit != rule.audit {
            self.next_dump = Some(now);
        }
        self.rule = rule;
        self.seen = None;
        if old != new || matches!(self.state, State::Closed(..)) {
            self.state = State::Closed(now, None);
        }
    }

    /// Looks whether the interfaces are what they were. `ready`: the links are known.
    pub fn follow(&mut self, view: View<'_>, ready: bool, now: Time, out: &mut Vec<Output>) {
        if !ready || self.state != State::Open {
            return;
        }
        let filtered = || view.interfaces.values().filter(|i| i.rule().filter.is_some());
        let revisions = || filtered().map(|interface| (interface.id(), interface.revision()));
        if self.seen.as_ref().is_some_and(|seen| seen.iter().copied().eq(revisions())) {
            return;
        }
        // The first time that somebody is filtered everything must be there; later those that are not
        // are left as they are.
        let missing = filtered().any(|i| i.ifindex().is_some() && !i.is_ready());
        if self.seen.as_ref().is_none_or(Vec::is_empty) && missing {
            return;
        }
        self.seen = Some(revisions().collect());
        self.changed.clear();
        self.evaluate_all(view, now);
        let left_out = self.legal.roster().left_out();
        if left_out > 0 {
            out.push(Output::Notice(Notice::FilterRoom { peers: left_out }));
        }
    }

    /// Everything that is legal may have changed.
    fn evaluate_all(&mut self, view: View<'_>, now: Time) {
        let held = || {
            let owners = self.sources.values().map(|value| self.sets.owners(value));
            let peers = owners.filter_map(|owners| match owners {
                Owners::Peers(peers) => Some(peers),
                _ => None,
            });
            peers.flatten().collect()
        };
        self.legal.renew(view, self.rule.sizes.peers, &held);
        let all: Vec<InterfaceId> = view.interfaces.keys().copied().collect();
        let prefixes = view.net.rib.iter().map(|(prefix, _)| prefix);
        let mut keys: Vec<SourceKey> =
            prefixes.flat_map(|prefix| self.legal.keys_of_routes(prefix, &all)).collect();
        keys.extend(self.legal.keys_without_routes(view));
        // What has an entry, but should have none, is among these too.
        keys.extend(self.sources.keys());
        self.look_at(view, keys, now);
        self.write_words();
    }

    /// The routes of a prefix changed, which lead or led out of these interfaces.
    pub fn update(&mut self, prefix: Prefix, concerned: &[InterfaceId]) {
        if self.seen.is_some() {
            self.changed.extend(self.legal.keys_of_routes(prefix, concerned));
        }
    }

    /// Looks at what the routes that changed in one moment mean.
    pub fn catch_up(&mut self, view: View<'_>, now: Time) {
        let keys = std::mem::take(&mut self.changed);
        if self.seen.is_some() && !keys.is_empty() {
            self.look_at(view, keys, now);
        }
    }

    /// What the WireGuard device holds for a prefix changed.
    pub fn proven(&mut self, view: View<'_>, ifindex: IfIndex, prefix: Prefix, now: Time) {
        if self.seen.is_some() {
            let domain = layout::domain::proven(ifindex);
            self.look_at(view, vec![SourceKey { domain, prefix }], now);
        }
    }

    /// Works out what these entries shall say. They changed in one moment: the longest that are to
    /// be there come first, then those that shall go, the shortest first, so that none takes for its
    /// past what another just became.
    fn look_at(&mut self, view: View<'_>, mut keys: Vec<SourceKey>, now: Time) {
        keys.sort_by_key(|key| Reverse(key.prefix.prefix_len()));
        keys.retain(|key| {
            let owners = self.legal.owners(view, *key);
            let grace = self.grace_of(key.domain);
            if owners.is_some() {
                self.sources.want(*key, owners.as_ref(), grace, &mut self.sets, now);
            }
            owners.is_none()
        });
        for key in keys.into_iter().rev() {
            let grace = self.grace_of(key.domain);
            self.sources.want(key, None, grace, &mut self.sets, now);
        }
    }

    /// Before anything was in force there is nothing to be kind to. What WireGuard has proven is
    /// proven anew for each packet, and what the operator takes from a list shall go.
    fn grace_of(&self, domain: u32) -> Option<Duration> {
        let is = |other: u32| domain >> layout::domain::BITS == other >> layout::domain::BITS;
        let follows_routes = is(layout::domain::routes(0))
            || is(layout::domain::feasible(0))
            || is(layout::domain::group(0));
        let grace = self.rule.grace;
        (self.filled && follows_routes && grace > Duration::ZERO).then_some(grace)
    }

    /// Nexthop objects changed.
    pub fn forget_meanings(&mut self) {
        self.legal.forget_meanings();
    }

    /// The operator wants the maps read again.
    pub fn resync(&mut self, now: Time) {
        self.next_dump = Some(now);
    }

    /// The daemon stops.
    pub fn close(&mut self) {
        self.closing = self.rule.on_exit == OnExit::Remove;
    }

    /// Nobody is filtered any more, or the daemon stops: all goes.
    pub fn retire(&mut self) {
        self.closing = true;
    }
}

/// What the target shall be.
fn plan(rule: &FilterRule) -> FilterPlan {
    FilterPlan { sizes: rule.sizes, hook: rule.hook, samples_per_second: rule.samples_per_second }
}
