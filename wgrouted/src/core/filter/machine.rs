//! The filter's state machine.
//!
//! Here lives [`Filter`]: routes and answers of the target in, requests and notices out. It works
//! like an interface's reconciler, with the same recovery path: read the maps, compare. Invariants:
//! one request is with the target at a time; nothing is changed before all routes have been read,
//! so that maps which an earlier daemon left stay in force as they are; a peer's word names a domain
//! or a policy only once that is complete, and what it no longer names is removed after it changed.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use ebpf_xdp::layout::{self, Finder};

use super::{
    legal::{Legal, View},
    owners::{Owners, Sets},
    policy::{PolicyRule, compile},
    roster::{mode, stable_number},
    rule::FilterRule,
    sources::Sources,
    table::{
        CompiledPolicy, Contents, FilterChange, FilterError, FilterEvent, FilterPlan, FilterReport,
        FilterRequest, Identity, LinkPlan, LinkState, SourceKey,
    },
    words::Words,
};
use crate::core::{
    event::{InterfaceId, Notice, Output, Request},
    interface::Gate,
    prefix::Prefix,
    route::IfIndex,
    rule::{Audit, OnExit},
    time::Time,
};

/// Changes that one request may carry.
const BATCH: usize = 4096;
/// How often it is checked that the programs are still attached.
const CHECK: Duration = Duration::from_secs(1);
/// How long a failed request waits to be tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Audits take at most one part in this many of the time (`Audit::Auto`).
const AUDIT_SHARE: u32 = 100;
/// Bounds of the automatic audit interval.
const AUDIT_INTERVAL: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(1800));
/// Policies that the maps have room for; numbers are below it.
pub const POLICIES_BITS: u32 = 12;
/// So many sets that nobody holds may pile up before they are looked for.
const SPARE_SETS: usize = 256;

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

    /// Changes that wait.
    pub fn pending(&self) -> usize {
        self.sources.pending()
            + self.members.pending()
            + self.peers.pending()
            + self.links.pending()
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
            && link.ids.iter().filter(|id| **id != 0).all(|id| self.peers.is_settled(id))
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
        // The first time everything must be there; later those that are not are left as they are.
        let missing = filtered().any(|i| i.ifindex().is_some() && !i.is_ready());
        if self.seen.is_none() && missing {
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

    fn write_words(&mut self) {
        let numbers = self.policy_numbers();
        let policies = self.rule.policies.iter();
        let policies = policies.map(|policy| (numbers[&policy.name], Arc::new(compile(policy))));
        let policies: BTreeMap<u16, Arc<CompiledPolicy>> = policies.collect();
        let mut peers = BTreeMap::new();
        let mut learning = Vec::new();
        for (id, member) in self.legal.roster().members() {
            let filter = &member.filter;
            let policy = filter.policy.as_ref().and_then(|name| numbers.get(name)).copied();
            let flag = |on: bool, bit: u8| if on { bit } else { 0 };
            let narrow = !filter.list.is_empty() && filter.source != super::rule::SourceMode::List;
            let word = layout::Peer {
                mode: mode(filter.source) as u8,
                flags: flag(filter.monitor, layout::Peer::MONITOR)
                    | flag(filter.link_local, layout::Peer::LINK_LOCAL)
                    | flag(filter.unspecified, layout::Peer::UNSPECIFIED)
                    | flag(filter.control, layout::Peer::CONTROL)
                    | flag(narrow, layout::Peer::NARROW)
                    | flag(filter.ignore_default, layout::Peer::IGNORE_DEFAULT),
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
                flags: if egress { layout::Link::LEARN } else { 0 }
                    | if monitor { layout::Link::MONITOR } else { 0 },
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
        self.next_attach = Some(Time::ZERO);
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

    // ---- answers of the target ----

    /// The target answered.
    pub fn on_event(&mut self, event: FilterEvent, now: Time, out: &mut Vec<Output>) {
        match event {
            FilterEvent::Opened { token, result } => {
                if self.answers(token, |busy| matches!(busy, Busy::Open)).is_some() {
                    self.on_opened(result, now, out);
                }
            }
            FilterEvent::Applied { token, result } => {
                let is_apply = |busy: &Busy| matches!(busy, Busy::Apply(_));
                if let Some(Busy::Apply(changes)) = self.answers(token, is_apply) {
                    self.on_applied(&changes, result, now, out);
                }
            }
            FilterEvent::Attached { token, links } => {
                if self.answers(token, |busy| matches!(busy, Busy::Attach)).is_some() {
                    self.on_attached(links, now, out);
                }
            }
            FilterEvent::Dumped { token, cost, result } => {
                if self.answers(token, |busy| matches!(busy, Busy::Dump)).is_some() {
                    self.on_dumped(cost, result, now, out);
                }
            }
            FilterEvent::Removed { token, result } => {
                if self.answers(token, |busy| matches!(busy, Busy::Remove)).is_some() {
                    self.state = State::Removed;
                    self.attached.clear();
                    if let Err(error) = result {
                        out.push(Output::Notice(Notice::FilterFailed { error }));
                    }
                }
            }
            // Those are the engine's.
            FilterEvent::Configure(_) => {}
        }
    }

    fn answers(&mut self, token: u64, is_kind: impl Fn(&Busy) -> bool) -> Option<Busy> {
        self.busy.take_if(|busy| token == self.token && is_kind(busy))
    }

    fn on_opened(
        &mut self,
        result: Result<Contents, FilterError>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        match result {
            Ok(contents) => {
                let adopted = contents.sources.len();
                self.state = State::Open;
                self.in_doubt = false;
                self.filled = false;
                self.seen = None;
                self.legal.adopt(&contents.peers);
                self.sets.adopt(&contents.members);
                self.sources = Sources::default();
                self.take_in(&contents, now);
                self.next_dump = None;
                if !contents.links.is_empty() {
                    out.push(Output::Notice(Notice::FilterAdopted {
                        links: contents.links.len(),
                        sources: adopted,
                    }));
                }
            }
            Err(error) => {
                let known = self.error() == Some(&error);
                if !known {
                    out.push(Output::Notice(Notice::FilterFailed { error: error.clone() }));
                }
                self.state = State::Closed(now + RETRY, Some(error));
            }
        }
    }

    fn take_in(&mut self, contents: &Contents, now: Time) -> usize {
        self.members.found(contents.members.iter().copied());
        self.peers.found(contents.peers.iter().map(|(id, _)| *id));
        self.links.found(contents.links.iter().copied());
        self.policies.found([]);
        self.sources.found(&contents.sources, now)
    }

    fn on_applied(
        &mut self,
        changes: &[FilterChange],
        result: Result<FilterReport, FilterError>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        let report = match result {
            Ok(report) => report,
            Err(error) => {
                self.in_doubt = true;
                self.next_dump = Some(now + RETRY);
                return out.push(Output::Notice(Notice::FilterFailed { error }));
            }
        };
        let mut failed = report.failed.iter().peekable();
        for (at, change) in changes.iter().enumerate() {
            let error = failed.next_if(|(position, _)| *position == at).map(|(_, errno)| *errno);
            match error {
                None => self.counters.changes += 1,
                Some(_) => self.counters.refused += 1,
            }
            match change {
                FilterChange::Source { key, value } => {
                    self.sources.acknowledge(*key, *value, error, now);
                    continue;
                }
                _ if error.is_some() => {
                    // There are few of those; the maps are read and all is compared.
                    self.in_doubt = true;
                    self.next_dump = Some(now + RETRY);
                }
                FilterChange::Member { set, peer, present } => {
                    self.members.acknowledge((*set, *peer), present.then_some(()));
                }
                FilterChange::Peer { id, identity, word } => {
                    self.peers.acknowledge(*id, identity.map(|identity| (identity, *word)));
                }
                FilterChange::Link { ifindex, word } => self.links.acknowledge(*ifindex, *word),
                FilterChange::Policy { id, policy } => {
                    self.policies.acknowledge(*id, policy.clone());
                }
            }
        }
        let (refused, example) = self.sources.refused();
        if let Some((key, errno)) = example.filter(|_| !self.told_refused) {
            self.told_refused = true;
            out.push(Output::Notice(Notice::FilterRefused {
                entries: refused,
                example: key.prefix,
                errno,
            }));
        }
        self.told_refused &= refused > 0;
    }

    fn on_attached(&mut self, links: Vec<LinkState>, now: Time, out: &mut Vec<Output>) {
        self.next_attach = self.next_attach.or(Some(now + CHECK));
        for state in links {
            let before = self.attached.insert(state.ifindex, state.clone());
            let Some(link) = self.legal.roster().link(state.ifindex) else { continue };
            let interface = link.name.clone();
            if state.reattached {
                self.counters.reattached += 1;
                let interface = interface.clone();
                out.push(Output::Notice(Notice::FilterReattached { interface }));
            }
            if before.is_none_or(|before| before.hook != state.hook) {
                out.push(Output::Notice(match state.hook {
                    Ok(hook) => Notice::FilterInForce { interface, hook },
                    Err(error) => Notice::FilterNotInForce { interface, error },
                }));
            }
        }
    }

    fn on_dumped(
        &mut self,
        cost: Duration,
        result: Result<Contents, FilterError>,
        now: Time,
        out: &mut Vec<Output>,
    ) {
        match result {
            Ok(contents) => {
                self.counters.dumps += 1;
                let in_doubt = std::mem::take(&mut self.in_doubt);
                let sources = self.take_in(&contents, now);
                if sources > 0 && !in_doubt {
                    self.counters.drift += sources as u64;
                    out.push(Output::Notice(Notice::FilterDrift { entries: sources }));
                }
                // A look that was asked for while this one was under way is still to come.
                let next = self.next_audit(cost, now);
                self.next_dump = self.next_dump.into_iter().chain(next).min();
            }
            Err(error) => {
                self.next_dump = Some(now + RETRY);
                out.push(Output::Notice(Notice::FilterFailed { error }));
            }
        }
    }

    fn next_audit(&self, cost: Duration, now: Time) -> Option<Time> {
        match self.rule.audit {
            Audit::Auto => {
                Some(now + (cost * AUDIT_SHARE).clamp(AUDIT_INTERVAL.0, AUDIT_INTERVAL.1))
            }
            Audit::Every(interval) => Some(now + interval),
            Audit::Off => None,
        }
    }

    // ---- what comes next ----

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
            let changes = Arc::new(changes);
            (Busy::Apply(Arc::clone(&changes)), FilterRequest::Apply { token, changes })
        };
        self.busy = Some(busy);
        out.push(Output::Request(Request::Filter(request)));
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

    /// What comes first: members of sets, sources, policies, peers, links; then, the other way
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
            Self::new_links,
            Self::old_links,
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

    fn new_links(&mut self, _: Time) -> Vec<FilterChange> {
        let sets = self.links.sets();
        sets.map(|(ifindex, word)| FilterChange::Link { ifindex, word: Some(*word) }).collect()
    }

    fn old_links(&mut self, _: Time) -> Vec<FilterChange> {
        let removals = self.links.removals();
        removals.map(|ifindex| FilterChange::Link { ifindex, word: None }).collect()
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
                    + self.links.pending();
                let waits = !self.filled || words > 0 || !self.changed.is_empty();
                let now = waits.then_some(Time::ZERO);
                let attach = self.next_attach.filter(|_| self.filled && self.links_ready());
                let work = now.into_iter().chain(self.sources.deadline());
                work.chain(attach).chain(self.next_dump).min()
            }
        }
    }
}

/// What the target shall be.
fn plan(rule: &FilterRule) -> FilterPlan {
    FilterPlan { sizes: rule.sizes, hook: rule.hook, samples_per_second: rule.samples_per_second }
}
