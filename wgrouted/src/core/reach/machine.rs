//! Reachability of all peers: rosters, answers and the time in, probes and news out.
//!
//! Here lives [`Machine`], which gives each peer on each interface a number and a [`Liveness`], and
//! knows which of them is due next. Invariant: work is proportional to what is due; only a roster and
//! a picture cost as much as there are peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;

use super::{
    event::{ProbeId, ReachEvent, ReachOutput, ReachRequest, SubjectId, Target},
    liveness::{Due, Liveness, Watch},
    roster::{Roster, RosterPeer},
    rule::{LinkReach, ProbeKind, ReachRule},
    status::{Change, PeerStatus, Proof, Reachability, State},
};
use crate::core::{peer::PublicKey, prefix::Prefix, route::IfIndex, time::Time};

/// All nodes on a link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Peers that may be probed in a hurry at once. If more miss answers, it is not they that are lossy.
const CROWD: usize = 64;

/// Addresses of one peer that are probed.
const ADDRESSES: usize = 8;

/// An interface that is followed.
#[derive(Debug, Default)]
struct Followed {
    looked: bool,
    look: u64,
    ifindex: Option<IfIndex>,
    up: bool,
    dedicated: bool,
    rule: Option<Arc<LinkReach>>,
    members: BTreeMap<PublicKey, SubjectId>,
}

/// A peer of an interface.
#[derive(Debug)]
struct Subject {
    interface: String,
    peer: RosterPeer,
    roamed: u64,
    liveness: Liveness,
    /// Its place in the queue.
    due: Option<Time>,
}

/// The machine.
#[derive(Debug)]
pub struct Machine {
    rule: ReachRule,
    interfaces: BTreeMap<String, Followed>,
    subjects: HashMap<SubjectId, Subject>,
    queue: BTreeSet<(Time, SubjectId)>,
    next: u32,
    hurried: usize,
    answering: (Vec<IfIndex>, u16),
    /// It was told which interfaces there are.
    configured: bool,
    revision: u64,
    out: Vec<ReachOutput>,
}

impl Machine {
    /// Knows no interface yet.
    pub fn new(rule: ReachRule) -> Self {
        let answering = (Vec::new(), rule.port);
        Machine {
            rule,
            interfaces: BTreeMap::new(),
            subjects: HashMap::new(),
            queue: BTreeSet::new(),
            next: 0,
            hurried: 0,
            answering,
            configured: false,
            revision: 0,
            out: Vec::new(),
        }
    }

    /// Takes in an event.
    pub fn handle(&mut self, event: ReachEvent, now: Time) {
        match event {
            ReachEvent::Configure { rule, interfaces } => self.configure(rule, &interfaces),
            ReachEvent::Roster(roster) => self.roster(roster, now),
            ReachEvent::Answered { probe, sent, received } => {
                let due = Due { line: probe.address, sequence: probe.sequence };
                self.touch(probe.subject, now, |peer| peer.answered(due, sent, received, now));
            }
            ReachEvent::Unsent { probe, errno } => {
                let due = Due { line: probe.address, sequence: probe.sequence };
                self.touch(probe.subject, now, |peer| peer.unsent(due, errno));
            }
            ReachEvent::Packets { interface, public_key, at } => {
                if let Some(id) = self.find(&interface, &public_key) {
                    self.touch(id, now, |peer| peer.heard(at, Proof::Packets, now));
                }
            }
            ReachEvent::Babel { interface, heard, at } => {
                let dedicated = self.interfaces.get(&interface).filter(|link| link.dedicated);
                let id = dedicated.and_then(|link| link.members.values().next().copied());
                if let Some(id) = id {
                    self.touch(id, now, |peer| match heard {
                        Some(true) => peer.heard(at, Proof::Babel, now),
                        Some(false) => peer.babel_lost(at, now),
                        None => {}
                    });
                }
            }
        }
    }

    /// Takes out probes that are due, and news.
    pub fn poll(&mut self, now: Time) -> std::vec::Drain<'_, ReachOutput> {
        while let Some((due, id)) = self.queue.first().copied().filter(|(due, _)| *due <= now) {
            let may_hurry = self.hurried < CROWD;
            let mut probes = Default::default();
            self.touch(id, now, |peer| probes = peer.poll(now, now.since(due), may_hurry));
            for due in probes {
                self.probe(id, due);
            }
        }
        self.out.drain(..)
    }

    /// When [`Machine::poll`] has something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        self.queue.first().map(|(due, _)| *due)
    }

    /// Grows with each change of a state, an endpoint or a roster.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All peers at this moment.
    pub fn picture(&self, now: Time) -> Reachability {
        let mut peers = Vec::with_capacity(self.subjects.len());
        for (name, link) in &self.interfaces {
            let first = peers.len();
            let members = link.members.values().filter_map(|id| self.subjects.get(id));
            peers.extend(members.map(|subject| status(name, link, subject)));
            peers[first..].sort_by(|a: &PeerStatus, b| a.peer.cmp(&b.peer));
        }
        Reachability {
            now,
            revision: self.revision,
            complete: self.configured && self.interfaces.values().all(|link| link.looked),
            peers,
        }
    }

    // ---- configuration and rosters ----

    fn configure(&mut self, rule: ReachRule, interfaces: &[String]) {
        self.rule = rule;
        self.configured = true;
        let gone: Vec<String> =
            self.interfaces.keys().filter(|name| !interfaces.contains(name)).cloned().collect();
        for name in gone {
            if let Some(link) = self.interfaces.remove(&name) {
                link.members.into_values().for_each(|id| self.remove(id));
            }
        }
        for name in interfaces {
            self.interfaces.entry(name.clone()).or_default();
        }
        self.revision += 1;
        self.answer();
    }

    fn roster(&mut self, roster: Roster, now: Time) {
        let Roster { interface: name, ifindex, up, dedicated, looked, look, rule, peers } = roster;
        let Some(link) = self.interfaces.get_mut(&name) else { return };
        let up = up && ifindex.is_some();
        let rule = match (&link.rule, rule) {
            (Some(old), Some(new)) if **old == new => Some(Arc::clone(old)),
            (_, new) => new.map(Arc::new),
        };
        let same = (link.ifindex, link.up, link.dedicated) == (ifindex, up, dedicated)
            && link.rule == rule
            && link.looked == (link.looked || looked);
        (link.ifindex, link.up, link.dedicated, link.rule) = (ifindex, up, dedicated, rule);
        link.looked |= looked;
        let fresh = link.look != look;
        link.look = look;
        if !same {
            self.revision += 1;
            self.answer();
        }
        if looked {
            let keys: BTreeSet<PublicKey> = peers.iter().map(|peer| peer.public_key).collect();
            self.retain(&name, &keys);
            for peer in peers {
                self.sight(&name, peer, fresh, now);
            }
        } else {
            let ids: Vec<SubjectId> = self
                .interfaces
                .get(&name)
                .map_or_else(Vec::new, |link| link.members.values().copied().collect());
            for id in ids {
                self.touch(id, now, |peer| peer.link(up, now));
            }
        }
    }

    /// Removes the peers of an interface that are no longer on it.
    fn retain(&mut self, interface: &str, keys: &BTreeSet<PublicKey>) {
        let Some(link) = self.interfaces.get_mut(interface) else { return };
        let mut gone = Vec::new();
        link.members.retain(|key, id| {
            let stays = keys.contains(key);
            if !stays {
                gone.push(*id);
            }
            stays
        });
        gone.into_iter().for_each(|id| self.remove(id));
    }

    /// Takes in a peer of a roster. `fresh` says that its statistics are.
    fn sight(&mut self, interface: &str, peer: RosterPeer, fresh: bool, now: Time) {
        let Some(link) = self.interfaces.get(interface) else { return };
        let (up, addresses) = (link.up, addresses(link, &peer));
        let watch = watch(link.rule.as_deref());
        let known = link.members.get(&peer.public_key).copied();
        let id = known.unwrap_or(SubjectId(self.next));
        let phase = phase(id, watch.interval);
        let statistics = peer.statistics;
        match self.subjects.get_mut(&id) {
            Some(subject) => {
                let old = std::mem::replace(&mut subject.peer, peer);
                let peer = &subject.peer;
                if (&old.name, &old.pinned, &old.rule) != (&peer.name, &peer.pinned, &peer.rule) {
                    self.revision += 1;
                }
                if let (Some(from), Some(to)) = (old.statistics.endpoint, statistics.endpoint)
                    && from != to
                {
                    subject.roamed += 1;
                    self.revision += 1;
                    self.out.push(ReachOutput::Change(Change::Endpoint {
                        interface: interface.to_owned(),
                        peer: subject.peer.name.clone(),
                        public_key: subject.peer.public_key,
                        from,
                        to,
                    }));
                }
            }
            None => {
                self.next += 1;
                self.revision += 1;
                self.out.push(ReachOutput::Change(Change::Appeared {
                    interface: interface.to_owned(),
                    peer: peer.name.clone(),
                    public_key: peer.public_key,
                }));
                if let Some(link) = self.interfaces.get_mut(interface) {
                    link.members.insert(peer.public_key, id);
                }
                let liveness = Liveness::new(watch, &addresses, phase, now);
                let interface = interface.to_owned();
                let subject = Subject { interface, peer, roamed: 0, liveness, due: None };
                self.subjects.insert(id, subject);
            }
        }
        self.touch(id, now, |liveness| {
            liveness.probe(watch, &addresses, phase, now);
            liveness.link(up, now);
            if fresh {
                liveness.looked(statistics, now);
            }
        });
    }

    fn remove(&mut self, id: SubjectId) {
        let Some(subject) = self.subjects.remove(&id) else { return };
        if let Some(due) = subject.due {
            self.queue.remove(&(due, id));
        }
        self.hurried -= usize::from(subject.liveness.is_hurried());
        self.revision += 1;
        self.out.push(ReachOutput::Change(Change::Vanished {
            interface: subject.interface,
            peer: subject.peer.name,
            public_key: subject.peer.public_key,
        }));
    }

    // ---- one peer ----

    fn find(&self, interface: &str, public_key: &PublicKey) -> Option<SubjectId> {
        self.interfaces.get(interface)?.members.get(public_key).copied()
    }

    /// Lets something happen to a peer, tells what became of it, and queues it anew.
    fn touch(&mut self, id: SubjectId, now: Time, happens: impl FnOnce(&mut Liveness)) {
        let Some(subject) = self.subjects.get_mut(&id) else { return };
        let liveness = &mut subject.liveness;
        let (from, hurried, heard) =
            (liveness.state(), liveness.is_hurried(), liveness.last_heard());
        happens(liveness);
        let to = liveness.state();
        self.hurried = self.hurried + usize::from(liveness.is_hurried()) - usize::from(hurried);
        if from != to {
            self.revision += 1;
            self.out.push(ReachOutput::Change(Change::State {
                interface: subject.interface.clone(),
                peer: subject.peer.name.clone(),
                public_key: subject.peer.public_key,
                from,
                to,
                proof: liveness.proof(),
                rtt: liveness.probe_status().and_then(|probe| probe.rtt),
                heard: heard.max(liveness.last_heard().filter(|_| to == State::Up)),
            }));
        }
        // What is over is due at once, but not again in this very moment.
        let due = liveness.deadline().map(|due| due.max(now));
        if due != subject.due {
            if let Some(old) = subject.due {
                self.queue.remove(&(old, id));
            }
            if let Some(due) = due {
                self.queue.insert((due, id));
            }
            subject.due = due;
        }
    }

    fn probe(&mut self, id: SubjectId, due: Due) {
        let Some(subject) = self.subjects.get(&id) else { return };
        let Some(link) = self.interfaces.get(&subject.interface) else { return };
        let address = subject.liveness.addresses().nth(usize::from(due.line));
        if let (Some(address), Some(ifindex), Some(rule)) = (address, link.ifindex, &link.rule) {
            let probe = ProbeId { subject: id, address: due.line, sequence: due.sequence };
            let target = Target { ifindex, address, kind: rule.probe };
            self.out.push(ReachOutput::Request(ReachRequest::Probe { probe, target }));
        }
    }

    /// Answers echo requests on the links that are watched.
    fn answer(&mut self) {
        let watched = self.interfaces.values().filter(|link| link.rule.is_some() && link.up);
        let links: Vec<IfIndex> = watched.filter_map(|link| link.ifindex).collect();
        let wanted = (links, self.rule.port);
        if wanted != self.answering {
            self.answering.clone_from(&wanted);
            let (links, port) = wanted;
            self.out.push(ReachOutput::Request(ReachRequest::Answer { links, port }));
        }
    }
}

fn watch(rule: Option<&LinkReach>) -> Watch {
    let unwatched =
        Watch { interval: Duration::from_secs(1), lost: 3, answered: 1, hold_down: Duration::ZERO };
    rule.map_or(unwatched, |rule| Watch {
        interval: rule.interval,
        lost: rule.lost,
        answered: rule.answered,
        hold_down: rule.hold_down,
    })
}

/// What is probed: what is configured, or the first tunnel address of each family, or all nodes.
fn addresses(link: &Followed, peer: &RosterPeer) -> Vec<IpAddr> {
    if link.rule.as_ref().is_none_or(|rule| rule.probe == ProbeKind::Off) {
        return Vec::new();
    }
    if !peer.rule.addresses.is_empty() {
        return peer.rule.addresses.iter().copied().take(ADDRESSES).collect();
    }
    let hosts = || peer.pinned.iter().filter_map(Prefix::host_address);
    let hosts = || hosts().filter(|address| !address.is_multicast());
    let v4 = hosts().find(IpAddr::is_ipv4);
    let local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let v6 = hosts().find(|address| address.is_ipv6() && !local(address));
    let v6 = v6.or_else(|| hosts().find(local));
    let mut found: Vec<IpAddr> = v4.into_iter().chain(v6).collect();
    if found.is_empty() && link.dedicated {
        found.push(IpAddr::V6(ALL_NODES));
    }
    found
}

/// Spreads the first probes of many peers evenly over an interval (golden ratio).
fn phase(id: SubjectId, interval: Duration) -> Duration {
    let turn = id.0.wrapping_mul(0x9e37_79b9);
    interval.mul_f64(f64::from(turn) / f64::from(u32::MAX))
}

fn status(interface: &str, link: &Followed, subject: &Subject) -> PeerStatus {
    let Subject { peer, liveness, roamed, .. } = subject;
    let statistics = liveness.statistics();
    let (rx_rate, tx_rate) = liveness.rates();
    PeerStatus {
        interface: interface.to_owned(),
        ifindex: link.ifindex,
        dedicated: link.dedicated,
        peer: peer.name.clone(),
        public_key: peer.public_key,
        state: liveness.state(),
        proof: liveness.proof(),
        since: liveness.since(),
        heard: liveness.last_heard(),
        falls: liveness.falls(),
        probed: liveness.addresses().collect(),
        probe: liveness.probe_status(),
        endpoint: statistics.endpoint,
        roamed: *roamed,
        handshake_age: statistics.handshake_age,
        rx_bytes: statistics.rx_bytes,
        tx_bytes: statistics.tx_bytes,
        rx_rate,
        tx_rate,
        pinned: peer.pinned.clone(),
        rule: peer.rule.clone(),
        link_rule: link.rule.clone(),
    }
}
