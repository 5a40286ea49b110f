//! When a hook is told of what.
//!
//! Here lives [`Pacer`], which stands between changes and one hook. It keeps, per peer, what was told
//! last and what is so now; what differs is told when the peer's interval allows, and what went back
//! meanwhile is never told. Doubt is not told either: a peer that is suspect is what it was before,
//! so that it does not delay the news that it is down. Running commands is `crate::reach`'s business. Invariants: a peer is told
//! of at most once per interval and never twice at a time, and when nothing is due any more the last
//! that was told of each peer is what is so. What waits is bounded by the number of peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::status::{Change, Proof, Reachability, State};
use crate::core::{peer::PublicKey, time::Time};

/// A peer of an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    /// The interface.
    pub interface: String,
    /// Its key.
    pub public_key: PublicKey,
}

/// What became different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The state, and possibly the endpoint.
    State,
    /// The endpoint.
    Endpoint,
    /// The peer is no longer on its device.
    Vanished,
}

/// What a hook is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Telling {
    /// Who is meant.
    pub key: PeerKey,
    /// Its name.
    pub peer: String,
    /// What became different.
    pub kind: Kind,
    /// Its state, never suspect; unknown if it vanished.
    pub state: State,
    /// The state that was told before; unknown if none was.
    pub previous: State,
    /// How the state is known.
    pub proof: Proof,
    /// Round-trip time, if it was known when the state changed.
    pub rtt: Option<Duration>,
    /// Where its packets come from, if that is known.
    pub endpoint: Option<SocketAddr>,
    /// Where they came from when it was last told of.
    pub previous_endpoint: Option<SocketAddr>,
}

/// What can be told of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    present: bool,
    state: State,
    endpoint: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
struct Entry {
    peer: String,
    told: Facts,
    latest: Facts,
    proof: Proof,
    rtt: Option<Duration>,
    /// When it may be told of.
    next: Time,
    /// It is being told of.
    busy: bool,
    /// Something was told since it appeared.
    known: bool,
}

impl Entry {
    /// A peer that has just appeared, of which the hook believes nothing.
    fn new(peer: &str) -> Self {
        let nothing = Facts { present: true, state: State::Unknown, endpoint: None };
        Entry {
            peer: peer.to_owned(),
            told: nothing,
            latest: nothing,
            proof: Proof::None,
            rtt: None,
            next: Time::ZERO,
            busy: false,
            known: false,
        }
    }

    fn news(&self) -> Option<Kind> {
        match () {
            () if !self.latest.present => self.known.then_some(Kind::Vanished),
            () if self.latest.state != self.told.state => Some(Kind::State),
            () if self.latest.endpoint.is_some_and(|now| self.told.endpoint != Some(now)) => {
                Some(Kind::Endpoint)
            }
            () => None,
        }
    }

    /// Whether it has to be looked at again: there is something to tell, or it is to be forgotten.
    fn is_pending(&self) -> bool {
        !self.busy && (self.news().is_some() || !self.latest.present)
    }

    fn observe_state(&mut self, state: State, proof: Proof, rtt: Option<Duration>) {
        let before = self.latest.state;
        let state = match (state, before) {
            // It was up in between.
            (State::Suspect, State::Down) => State::Up,
            (State::Suspect, before) => before,
            (state, _) => state,
        };
        if state != before {
            (self.proof, self.rtt) = (proof, rtt);
        }
        self.latest.state = state;
        self.latest.present = true;
    }

    fn observe_endpoint(&mut self, endpoint: Option<SocketAddr>) {
        // The first that is learned is no change.
        self.told.endpoint = self.told.endpoint.or(endpoint);
        self.latest.endpoint = endpoint.or(self.latest.endpoint);
    }
}

/// Decides when a hook is told of what.
#[derive(Clone, Debug)]
pub struct Pacer {
    interval: Duration,
    peers: BTreeMap<PeerKey, Entry>,
    /// Those that have to be looked at, by when.
    pending: BTreeSet<(Time, PeerKey)>,
}

impl Pacer {
    /// For a hook that is told of a peer at most once per `interval`, and that believes all peers to
    /// be unknown.
    pub fn new(interval: Duration) -> Self {
        Pacer { interval, peers: BTreeMap::new(), pending: BTreeSet::new() }
    }

    /// Takes in a change.
    pub fn change(&mut self, change: &Change) {
        match change {
            Change::State { interface, peer, public_key, to, proof, rtt, .. } => {
                self.update((interface, peer, *public_key), |entry| {
                    entry.observe_state(*to, *proof, *rtt);
                });
            }
            Change::Endpoint { interface, peer, public_key, from, to } => {
                self.update((interface, peer, *public_key), |entry| {
                    entry.observe_endpoint(Some(*from));
                    entry.observe_endpoint(Some(*to));
                });
            }
            Change::Appeared { interface, peer, public_key } => {
                self.update((interface, peer, *public_key), |entry| entry.latest.present = true);
            }
            Change::Vanished { interface, peer, public_key } => {
                self.update((interface, peer, *public_key), vanish);
            }
        }
    }

    /// Takes in everything, after changes may have been missed.
    pub fn picture(&mut self, picture: &Reachability) {
        let mut seen = BTreeSet::new();
        for status in &picture.peers {
            let who = (status.interface.as_str(), status.peer.as_str(), status.public_key);
            seen.insert(self.update(who, |entry| {
                let rtt = status.probe.and_then(|probe| probe.rtt);
                entry.observe_state(status.state, status.proof, rtt);
                entry.observe_endpoint(status.endpoint);
            }));
        }
        let gone = self.peers.iter().filter(|(key, _)| !seen.contains(key));
        let gone: Vec<_> = gone.map(|(key, entry)| (key.clone(), entry.peer.clone())).collect();
        for (key, peer) in gone {
            self.update((&key.interface, &peer, key.public_key), vanish);
        }
    }

    fn update(
        &mut self,
        (interface, peer, public_key): (&str, &str, PublicKey),
        change: impl FnOnce(&mut Entry),
    ) -> PeerKey {
        let key = PeerKey { interface: interface.to_owned(), public_key };
        let entry = self.peers.entry(key.clone()).or_insert_with(|| Entry::new(peer));
        if entry.peer != peer {
            peer.clone_into(&mut entry.peer);
        }
        change(entry);
        self.schedule(&key);
        key
    }

    fn schedule(&mut self, key: &PeerKey) {
        let Some(entry) = self.peers.get(key) else { return };
        let place = (entry.next, key.clone());
        if entry.is_pending() {
            self.pending.insert(place);
        } else {
            self.pending.remove(&place);
        }
    }

    /// What is to be told now, the longest due first. Whoever tells it says so with [`Self::done`].
    pub fn due(&mut self, now: Time) -> Option<Telling> {
        loop {
            if self.pending.first()?.0 > now {
                return None;
            }
            let (_, key) = self.pending.pop_first()?;
            let Some(entry) = self.peers.get_mut(&key) else { continue };
            let Some(kind) = entry.news() else {
                // It vanished, and what was to be told of that was told an interval ago.
                self.peers.remove(&key);
                continue;
            };
            let (told, latest) = (entry.told, entry.latest);
            entry.busy = true;
            entry.next = now + self.interval;
            entry.known = latest.present;
            entry.told = latest;
            return Some(Telling {
                peer: entry.peer.clone(),
                kind,
                state: latest.state,
                previous: told.state,
                proof: entry.proof,
                rtt: entry.rtt,
                endpoint: latest.endpoint,
                previous_endpoint: told.endpoint,
                key,
            });
        }
    }

    /// The telling of a peer is over, well or not.
    pub fn done(&mut self, key: &PeerKey) {
        if let Some(entry) = self.peers.get_mut(key) {
            entry.busy = false;
            self.schedule(key);
        }
    }

    /// When something may be due.
    pub fn deadline(&self) -> Option<Time> {
        self.pending.first().map(|(at, _)| *at)
    }
}

fn vanish(entry: &mut Entry) {
    entry.latest = Facts { present: false, state: State::Unknown, endpoint: None };
    (entry.proof, entry.rtt) = (Proof::None, None);
}
