//! One WireGuard interface: what its AllowedIPs shall be, what they are, and how to get there.
//!
//! Here lives [`Interface`], the reconciler. It has one recovery path: forget what the device is
//! believed to hold, dump it, compare. Invariants: `have` never claims what the device did not
//! acknowledge or show; a prefix that is pinned or outside the managed ranges is never removed;
//! at most one request is with the device at a time; nothing is changed before the routes of all
//! followed tables have been read once.
//!
//! What shall be is worked out here, what is is found out in `look`, how to
//! get there is in `act`.

mod act;
mod door;
mod look;
mod tunnel;

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::{
    change::Change,
    election::{Outcome, elect},
    event::InterfaceId,
    nexthops::Nexthops,
    path_table::PathId,
    peer::PeerIdx,
    peers::Peers,
    prefix::{Family, Prefix},
    prefix_map::PrefixMap,
    queue::Queue,
    resolve::{Assigner, Claim, Unresolved},
    rib::Rib,
    route::{IfIndex, TABLE_MAIN, TableId},
    rule::{InterfaceRule, LinkMode, OnExit},
    slot::Slot,
    time::Time,
};

pub use door::Gate;
pub use look::Seen;
pub use tunnel::TunnelDevice;

/// The network that an interface is seen against.
#[derive(Clone, Copy, Debug)]
pub struct Network<'a> {
    /// The kernel's routes.
    pub rib: &'a Rib,
    /// The kernel's nexthop objects.
    pub nexthops: &'a Nexthops,
}

/// What was done to a device so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Full reads of the device, audits included.
    pub device_dumps: u64,
    /// Prefixes that somebody else changed and an audit repaired.
    pub drift: u64,
    /// Requests for changes.
    pub batches: u64,
    /// Netlink messages that they took.
    pub messages: u64,
    /// Prefixes that got their first owner.
    pub adds: u64,
    /// Prefixes that changed owners.
    pub moves: u64,
    /// Prefixes that were removed.
    pub removes: u64,
    /// Changes that the device refused.
    pub refused: u64,
    /// Longest time from sending a message to its acknowledgement.
    pub longest_message: Duration,
}

/// What the device is busy with.
#[derive(Debug)]
enum Busy {
    Dump,
    Apply(Arc<Vec<Change>>),
}

/// The prefixes that are ours to add and remove.
struct Managed<'a> {
    ranges: &'a [Prefix],
    dedicated: [bool; 2],
    doors: bool,
}

impl Managed<'_> {
    fn contains(&self, prefix: &Prefix) -> bool {
        self.doors && prefix.is_default()
            || !self.dedicated[prefix.family() as usize]
                && self.ranges.iter().any(|range| range.covers(prefix))
    }
}

#[derive(Clone, Copy, Debug)]
struct Retry {
    at: Time,
    wait: Duration,
}

/// One WireGuard interface.
#[derive(Debug)]
pub struct Interface {
    id: InterfaceId,
    rule: InterfaceRule,
    ifindex: Option<IfIndex>,
    tables: Vec<TableId>,
    peers: Peers,
    slots: PrefixMap<Slot>,
    queue: Queue,
    claims: Vec<Option<(u32, Claim)>>,
    unresolved: PrefixMap<Unresolved>,
    shadowed: PrefixMap<()>,
    installed: usize,
    /// The device has been read since it appeared.
    known: bool,
    /// All followed tables have been read.
    routes_ready: bool,
    /// `on_exit = remove` is being carried out.
    closing: bool,
    announced: bool,
    busy: Option<Busy>,
    /// Number of the latest request; answers to older ones are void.
    token: u64,
    /// A request failed half way: which of these changes the device made is not known.
    in_doubt: Option<Arc<Vec<Change>>>,
    next_dump: Option<Time>,
    next_round: Time,
    retries: HashMap<Prefix, Retry>,
    counters: Counters,
    vrf: Option<TableId>,
    tunnels: Vec<TunnelDevice>,
    gate: Gate,
    /// What it was when it was decided last.
    decided: Gate,
    /// Counts what everything that rests on this interface must be worked out anew for.
    revision: u64,
    /// Prefixes whose wanted or installed owner changed, for the packet filter.
    moved: Vec<Prefix>,
}

impl Interface {
    /// An interface that is not attached to a link yet.
    pub fn new(id: InterfaceId, rule: InterfaceRule) -> Self {
        let mut peers = Peers::default();
        peers.configure(&rule.peers);
        Interface {
            id,
            tables: follow(&rule, None),
            rule,
            ifindex: None,
            peers,
            slots: PrefixMap::default(),
            queue: Queue::default(),
            claims: Vec::new(),
            unresolved: PrefixMap::default(),
            shadowed: PrefixMap::default(),
            installed: 0,
            known: false,
            routes_ready: false,
            closing: false,
            announced: false,
            busy: None,
            token: 0,
            in_doubt: None,
            next_dump: None,
            next_round: Time::ZERO,
            retries: HashMap::new(),
            counters: Counters::default(),
            vrf: None,
            tunnels: Vec::new(),
            gate: Gate::Undecided,
            decided: Gate::Undecided,
            revision: 0,
            moved: Vec::new(),
        }
    }

    /// Its number in the engine.
    pub fn id(&self) -> InterfaceId {
        self.id
    }

    /// Grows whenever peers, pins, tables, rules or the link change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The VRF that the link belongs to.
    pub fn vrf(&self) -> Option<TableId> {
        self.vrf
    }

    /// The configuration.
    pub fn rule(&self) -> &InterfaceRule {
        &self.rule
    }

    /// The link, while there is one.
    pub fn ifindex(&self) -> Option<IfIndex> {
        self.ifindex
    }

    /// The followed tables, most preferred first.
    pub fn tables(&self) -> &[TableId] {
        &self.tables
    }

    /// The peers.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// What was done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Number of AllowedIPs on the device.
    pub fn installed(&self) -> usize {
        self.installed
    }

    /// Prefixes with a route that has no peer, and why.
    pub fn unresolved(&self) -> &PrefixMap<Unresolved> {
        &self.unresolved
    }

    /// Prefixes with routes that lost the election.
    pub fn shadowed(&self) -> &PrefixMap<()> {
        &self.shadowed
    }

    /// What is wanted and installed.
    pub fn slots(&self) -> &PrefixMap<Slot> {
        &self.slots
    }

    /// How many changes wait.
    pub fn pending(&self) -> usize {
        self.queue.sets() + self.queue.unsets()
    }

    /// Bytes that the tables of this interface occupy.
    pub fn allocated_bytes(&self) -> usize {
        self.slots.allocated_bytes() + self.unresolved.allocated_bytes()
    }

    /// Whether the device and the routes of all followed tables have been read.
    pub fn is_ready(&self) -> bool {
        self.known && self.routes_ready
    }

    /// Whether the device has been read and holds all that is wanted.
    pub fn is_in_sync(&self) -> bool {
        self.is_ready() && self.busy.is_none() && self.queue.sets() == 0
    }

    /// Whether nothing is left to do for a shutdown.
    pub fn is_closed(&self) -> bool {
        !self.closing || self.ifindex.is_none() || (self.busy.is_none() && self.pending() == 0)
    }

    /// Whether the AllowedIPs of a family are left alone because the only peer owns everything.
    pub fn is_dedicated(&self, family: Family) -> bool {
        match self.rule.link {
            LinkMode::Dedicated => true,
            LinkMode::Shared => false,
            LinkMode::Auto => {
                let only = self.peers.only();
                only.is_some() && self.peers.pinned_at(&Prefix::default_of(family)) == only
            }
        }
    }

    /// Whether the prefix is ours to add and remove.
    pub fn is_managed(&self, prefix: &Prefix) -> bool {
        self.managed().contains(prefix)
    }

    fn managed(&self) -> Managed<'_> {
        Managed {
            ranges: &self.rule.managed,
            dedicated: Family::ALL.map(|f| self.is_dedicated(f)),
            doors: self.has_doors(),
        }
    }

    /// The rules of assignment as they stand.
    pub fn assigner<'a>(&'a self, nexthops: &'a Nexthops) -> Assigner<'a> {
        let only = match self.rule.link {
            LinkMode::Shared => None,
            LinkMode::Auto | LinkMode::Dedicated => self.peers.only(),
        };
        Assigner { ifindex: self.ifindex.unwrap_or(0), peers: &self.peers, only, nexthops }
    }

    /// The owner that the rules give a prefix, and how the election went.
    pub fn judge(&self, net: Network<'_>, prefix: &Prefix) -> (Option<PeerIdx>, Outcome) {
        let assigner = self.assigner(net.nexthops);
        let outcome = self.elect(net, prefix, |_, path| assigner.claim(path));
        (self.owner(prefix, &outcome), outcome)
    }

    fn elect(
        &self,
        net: Network<'_>,
        prefix: &Prefix,
        mut claim: impl FnMut(PathId, &crate::core::route::Path) -> Claim,
    ) -> Outcome {
        let list = net.rib.paths(prefix);
        let paths = list.iter().map(|id| {
            let path = net.rib.path_table().get(*id);
            (*id, path, claim(*id, path))
        });
        elect(&self.tables, paths)
    }

    /// The wanted owner: the pin's, else the election's if the prefix is ours, else whatever is
    /// installed.
    fn owner(&self, prefix: &Prefix, outcome: &Outcome) -> Option<PeerIdx> {
        if prefix.is_default() && self.has_doors() {
            return self.door(prefix);
        }
        if let Some(idx) = self.peers.pinned_at(prefix) {
            return self.peers.get(idx).present.then_some(idx);
        }
        if self.is_managed(prefix) {
            return outcome.owner;
        }
        self.slots.get(prefix).and_then(|slot| slot.have())
    }

    // ---- what happens to the interface ----

    /// The configuration changed. Keeps everything that it does not concern.
    pub fn configure(&mut self, net: Network<'_>, rule: InterfaceRule, now: Time) {
        self.peers.configure(&rule.peers);
        self.rule = rule;
        self.evaluate_all(net, now);
        if self.known {
            self.next_dump = Some(now);
        }
    }

    /// The link is there. Returns whether it was not, or was another one.
    pub fn attach(&mut self, ifindex: IfIndex, now: Time) -> bool {
        if self.ifindex == Some(ifindex) {
            return false;
        }
        self.detach();
        self.ifindex = Some(ifindex);
        self.next_dump = Some(now);
        self.revision += 1;
        true
    }

    /// The link is gone, and with it all that was learned from it. Returns whether it was there.
    pub fn detach(&mut self) -> bool {
        self.slots = PrefixMap::default();
        self.queue.clear();
        self.claims.clear();
        self.unresolved = PrefixMap::default();
        self.shadowed = PrefixMap::default();
        self.retries.clear();
        self.installed = 0;
        self.known = false;
        self.announced = false;
        self.busy = None;
        self.in_doubt = None;
        self.next_dump = None;
        self.gate = Gate::Undecided;
        self.moved.clear();
        self.revision += u64::from(self.ifindex.is_some());
        self.peers.device_gone();
        self.ifindex.take().is_some()
    }

    /// The VRF that the link belongs to, or none. Returns whether the followed tables changed.
    pub fn set_vrf(&mut self, vrf: Option<TableId>) -> bool {
        let tables = follow(&self.rule, vrf);
        let changed = tables != self.tables || vrf != self.vrf;
        self.vrf = vrf;
        self.tables = tables;
        changed
    }

    /// All followed tables have been read, or one has yet to be.
    pub fn set_routes_ready(&mut self, net: Network<'_>, ready: bool, now: Time) {
        if ready && !self.routes_ready {
            self.routes_ready = true;
            self.evaluate_all(net, now);
        }
        self.routes_ready = ready;
    }

    /// The routes of a prefix changed.
    pub fn update(&mut self, net: Network<'_>, prefix: Prefix, now: Time) {
        if !self.known || !self.routes_ready || self.closing {
            return;
        }
        let mut claims = std::mem::take(&mut self.claims);
        let assigner = self.assigner(net.nexthops);
        let outcome = self.elect(net, &prefix, |id, path| {
            let generation = net.rib.path_table().generation(id);
            let at = id.0 as usize;
            if claims.len() <= at {
                claims.resize(at + 1, None);
            }
            match claims[at] {
                Some((known, claim)) if known == generation => claim,
                _ => {
                    let claim = assigner.claim(path);
                    claims[at] = Some((generation, claim));
                    claim
                }
            }
        });
        self.claims = claims;
        let owner = self.owner(&prefix, &outcome);
        self.take_note(prefix, owner, &outcome);
        self.want(prefix, owner, now);
    }

    /// What paths mean must be worked out anew, because nexthop objects changed.
    pub fn forget_claims(&mut self) {
        self.claims.clear();
    }

    /// Everything that claims rest on may have changed: peers, pins, nexthop objects, rules.
    pub fn evaluate_all(&mut self, net: Network<'_>, now: Time) {
        self.revision += 1;
        self.claims.clear();
        self.unresolved = PrefixMap::default();
        self.shadowed = PrefixMap::default();
        if !self.known || !self.routes_ready || self.closing {
            return;
        }
        let pins: Vec<Prefix> = self.peers.pins().map(|(prefix, _)| prefix).collect();
        let doors = self.has_doors().then(|| Family::ALL.map(Prefix::default_of));
        let doors = doors.into_iter().flatten();
        for prefix in net.rib.iter().map(|(prefix, _)| prefix).chain(pins).chain(doors) {
            self.update(net, prefix, now);
            if let Some(slot) = self.slots.get_mut(&prefix) {
                slot.set_seen(true);
            }
        }
        // Every sweep leaves the marks as it found them: unset.
        let mut stale = Vec::new();
        self.slots.retain(|prefix, slot| {
            if !slot.is_seen() {
                stale.push(prefix);
            }
            slot.set_seen(false);
            true
        });
        for prefix in stale {
            let owner = self.owner(&prefix, &Outcome::default());
            self.want(prefix, owner, now);
        }
    }

    /// Keeps the lists of unresolved and shadowed prefixes.
    fn take_note(&mut self, prefix: Prefix, owner: Option<PeerIdx>, outcome: &Outcome) {
        let foreign = outcome.owner.is_some() && outcome.owner != owner;
        let pinned = self.peers.pinned_at(&prefix).is_some();
        let unmanaged = foreign && !pinned && !self.is_dedicated(prefix.family());
        // A route to a peer's own address needs no gateway to say whose it is.
        let named = |reason: &Unresolved| pinned && *reason == Unresolved::NoGateway;
        let unresolved = outcome.unresolved.filter(|reason| !named(reason));
        match unresolved.or(unmanaged.then_some(Unresolved::NotManaged)) {
            Some(reason) => {
                self.unresolved.insert(prefix, reason);
            }
            None if self.unresolved.is_empty() => {}
            None => {
                self.unresolved.remove(&prefix);
            }
        }
        if outcome.shadowed > 0 || (foreign && pinned) {
            self.shadowed.insert(prefix, ());
        } else if !self.shadowed.is_empty() {
            self.shadowed.remove(&prefix);
        }
    }

    fn want(&mut self, prefix: Prefix, owner: Option<PeerIdx>, now: Time) {
        self.note_moved(prefix);
        let due = now + self.rule.delete_hold;
        let queue = &mut self.queue;
        self.slots.alter(&prefix, |slot| {
            let mut slot = slot.unwrap_or_default();
            slot.set_want(owner);
            enqueue(queue, &mut slot, prefix, due);
            (!slot.is_void()).then_some(slot)
        });
    }

    /// The operator wants the device read again.
    pub fn resync(&mut self, now: Time) {
        if self.ifindex.is_some() {
            self.next_dump = Some(now);
        }
    }

    /// The daemon stops: with `on_exit = remove`, what is ours shall go.
    pub fn close(&mut self, now: Time) {
        if self.rule.on_exit != OnExit::Remove || !self.known {
            return;
        }
        self.closing = true;
        let ours: Vec<Prefix> = self
            .slots
            .iter()
            .map(|(prefix, _)| prefix)
            .filter(|prefix| self.is_managed(prefix) && self.peers.pinned_at(prefix).is_none())
            .collect();
        for prefix in ours {
            self.want(prefix, None, now);
        }
    }
}

/// The tables to follow: those configured, else the VRF's, else main; then those that tags name.
fn follow(rule: &InterfaceRule, vrf: Option<TableId>) -> Vec<TableId> {
    let mut tables = rule.tables.clone();
    if tables.is_empty() {
        tables.push(vrf.unwrap_or(TABLE_MAIN));
    }
    let tagged = rule.peers.iter().flat_map(|peer| &peer.matches).filter_map(|entry| entry.table);
    for table in tagged {
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    tables
}

/// Queues a prefix whose installed owner is not the wanted one.
fn enqueue(queue: &mut Queue, slot: &mut Slot, prefix: Prefix, due: Time) {
    match (slot.want(), slot.have()) {
        (want, have) if want == have => queue.cancel(&prefix),
        (Some(_), _) => {
            queue.cancel(&prefix);
            if !slot.is_queued() {
                slot.set_queued(true);
                queue.push_set(prefix);
            }
        }
        (None, _) => queue.hold(prefix, due),
    }
}
