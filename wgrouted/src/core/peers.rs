//! The peers of one interface and their pinned prefixes.
//!
//! Here live [`Peers`], which follows the device's peers and remembers which AllowedIPs are each
//! peer's own. Invariants: a peer's number never changes and is never given to another key; a
//! prefix is pinned to at most one peer; what is configured as pinned is never learned over.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use hashbrown::HashMap;
use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

use super::{
    filter::rule::PeerFilter,
    peer::{PeerIdx, PublicKey},
    prefix::Prefix,
    reach::rule::PeerReach,
    rule::{Match, PeerRule},
    time::Time,
};

/// Where a peer's pinned prefixes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The configuration names them.
    Configured,
    /// They were learned from the device, and still are until this time.
    Learning(Time),
    /// They were learned from the device, or remembered from an earlier run.
    Learned,
}

/// What is known of a peer.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its key.
    pub public_key: PublicKey,
    /// Its configured name, or its key.
    pub name: String,
    /// The device has it at present.
    pub present: bool,
    /// Its own tunnel addresses.
    pub pinned: BTreeSet<Prefix>,
    /// Tags of routes that belong to it.
    pub matches: Vec<Match>,
    /// How it is filtered, if not as its link says.
    pub filter: Option<PeerFilter>,
    /// How it is watched and announced.
    pub reach: Option<PeerReach>,
    origin: Origin,
}

/// Pinned prefixes that survive a restart of the daemon, by key.
pub type RememberedPins = Vec<(PublicKey, Vec<Prefix>)>;

/// What looking at the device showed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sighting {
    /// Peers that are new on the device.
    pub appeared: Vec<PeerIdx>,
    /// Peers that are no longer there.
    pub vanished: Vec<PeerIdx>,
}

/// The peers of one interface.
#[derive(Debug, Default)]
pub struct Peers {
    list: Vec<Peer>,
    by_key: HashMap<PublicKey, PeerIdx>,
    keys: Arc<Vec<PublicKey>>,
    pins: JointPrefixMap<IpNet, PeerIdx>,
}

impl Peers {
    /// Takes in the configured peers, at start and at each reload.
    pub fn configure(&mut self, rules: &[PeerRule]) {
        for peer in &mut self.list {
            if !rules.iter().any(|rule| rule.public_key == peer.public_key) {
                peer.name = peer.public_key.to_string();
                peer.matches.clear();
                peer.filter = None;
                peer.reach = None;
                if peer.origin == Origin::Configured {
                    // Its own addresses stay its own until the device shows otherwise.
                    peer.origin = Origin::Learned;
                }
            }
        }
        for rule in rules {
            let idx = self.idx_of(rule.public_key);
            let peer = &mut self.list[idx.0 as usize];
            peer.name.clone_from(&rule.name);
            peer.matches.clone_from(&rule.matches);
            peer.filter.clone_from(&rule.filter);
            peer.reach.clone_from(&rule.reach);
            match &rule.pinned {
                Some(pinned) => {
                    peer.pinned = pinned.iter().copied().collect();
                    peer.origin = Origin::Configured;
                }
                None if peer.origin == Origin::Configured => peer.origin = Origin::Learned,
                None => {}
            }
        }
        self.index_pins();
    }

    fn idx_of(&mut self, public_key: PublicKey) -> PeerIdx {
        *self.by_key.entry(public_key).or_insert_with(|| {
            let idx = PeerIdx(self.list.len() as u32);
            self.list.push(Peer {
                public_key,
                name: public_key.to_string(),
                present: false,
                pinned: BTreeSet::new(),
                matches: Vec::new(),
                filter: None,
                reach: None,
                origin: Origin::Learned,
            });
            Arc::make_mut(&mut self.keys).push(public_key);
            idx
        })
    }

    /// Compares with the peers on the device. Those that appear begin to learn their pinned
    /// prefixes, unless they are configured or remembered; those that vanish forget what they
    /// learned, so that a peer that comes back is looked at afresh.
    pub fn sight(
        &mut self,
        keys: impl IntoIterator<Item = PublicKey>,
        remembered: &RememberedPins,
        learn_until: Time,
    ) -> Sighting {
        let mut sighting = Sighting::default();
        let mut seen = BTreeSet::new();
        for key in keys {
            let idx = self.idx_of(key);
            seen.insert(idx);
            let peer = &mut self.list[idx.0 as usize];
            if peer.present {
                continue;
            }
            peer.present = true;
            sighting.appeared.push(idx);
            if peer.origin != Origin::Configured {
                match remembered.iter().find(|(other, _)| *other == key) {
                    Some((_, pins)) => {
                        peer.pinned = pins.iter().copied().collect();
                        peer.origin = Origin::Learned;
                    }
                    None => peer.origin = Origin::Learning(learn_until),
                }
            }
        }
        for idx in (0..self.list.len() as u32).map(PeerIdx) {
            let peer = &mut self.list[idx.0 as usize];
            if peer.present && !seen.contains(&idx) {
                peer.present = false;
                sighting.vanished.push(idx);
                if peer.origin != Origin::Configured {
                    peer.pinned.clear();
                }
            }
        }
        self.index_pins();
        sighting
    }

    /// Whether the AllowedIPs that a peer holds now are still taken for its own.
    pub fn is_learning(&self, idx: PeerIdx) -> bool {
        matches!(self.get(idx).origin, Origin::Learning(_))
    }

    /// Whether any peer is learning.
    pub fn any_learning(&self) -> bool {
        self.list.iter().any(|peer| peer.present && matches!(peer.origin, Origin::Learning(_)))
    }

    /// Ends the learning of peers whose time is over. To be called after a look at the device, so
    /// that the last look is taken after the time, not before. A peer that so far has neither a
    /// pinned prefix nor a tag goes on: whoever set it up is not done.
    pub fn end_learning(&mut self, now: Time) {
        for peer in &mut self.list {
            let usable = !peer.pinned.is_empty() || !peer.matches.is_empty();
            if usable && matches!(peer.origin, Origin::Learning(until) if until <= now) {
                peer.origin = Origin::Learned;
            }
        }
    }

    /// When the device must be looked at, before its next audit, for a peer that is learning.
    pub fn learning_deadline(&self, now: Time) -> Option<Time> {
        let times = self.list.iter().filter(|peer| peer.present).map(|peer| peer.origin);
        times
            .filter_map(|origin| match origin {
                Origin::Learning(until) if until > now => Some(until),
                _ => None,
            })
            .min()
    }

    /// Pins a prefix to a peer because the device held it there. Returns whether that is new.
    pub fn learn(&mut self, idx: PeerIdx, prefix: Prefix) -> bool {
        let net = IpNet::from(prefix);
        if self.pins.contains_key(&net) {
            return false;
        }
        self.list[idx.0 as usize].pinned.insert(prefix);
        self.pins.insert(net, idx);
        true
    }

    fn index_pins(&mut self) {
        self.pins = JointPrefixMap::new();
        // Configured ones win over learned ones; among equals the first peer wins.
        for configured in [true, false] {
            for (at, peer) in self.list.iter().enumerate() {
                if (peer.origin == Origin::Configured) == configured {
                    for prefix in &peer.pinned {
                        self.pins.entry(IpNet::from(*prefix)).or_insert(PeerIdx(at as u32));
                    }
                }
            }
        }
    }

    /// The peer with this number.
    pub fn get(&self, idx: PeerIdx) -> &Peer {
        &self.list[idx.0 as usize]
    }

    /// The number of the peer with this key.
    pub fn find(&self, key: &PublicKey) -> Option<PeerIdx> {
        self.by_key.get(key).copied()
    }

    /// All peers that are or were on the device or are configured.
    pub fn iter(&self) -> impl Iterator<Item = (PeerIdx, &Peer)> {
        self.list.iter().enumerate().map(|(at, peer)| (PeerIdx(at as u32), peer))
    }

    /// The key of each peer number.
    pub fn keys(&self) -> Arc<Vec<PublicKey>> {
        Arc::clone(&self.keys)
    }

    /// The only peer on the device, if there is exactly one.
    pub fn only(&self) -> Option<PeerIdx> {
        let mut present = self.iter().filter(|(_, peer)| peer.present);
        match (present.next(), present.next()) {
            (Some((idx, _)), None) => Some(idx),
            _ => None,
        }
    }

    /// The peer to whom exactly this prefix is pinned.
    pub fn pinned_at(&self, prefix: &Prefix) -> Option<PeerIdx> {
        self.pins.get(&IpNet::from(*prefix)).copied()
    }

    /// The longest pinned prefix that contains an address, and its peer.
    pub fn pinned_over(&self, addr: std::net::IpAddr) -> Option<(Prefix, PeerIdx)> {
        let (net, idx) = self.pins.get_lpm(&IpNet::from(Prefix::host(addr)))?;
        Some((Prefix::from(net), *idx))
    }

    /// Every pinned prefix with its peer.
    pub fn pins(&self) -> impl Iterator<Item = (Prefix, PeerIdx)> {
        self.pins.iter().map(|(net, idx)| (Prefix::from(net), *idx))
    }

    /// What a restarted daemon must remember: the pinned prefixes that no configuration names.
    pub fn remember(&self) -> RememberedPins {
        let learned =
            self.list.iter().filter(|peer| peer.present && peer.origin != Origin::Configured);
        learned.map(|peer| (peer.public_key, peer.pinned.iter().copied().collect())).collect()
    }

    /// Everything learned is void: the device was made anew.
    pub fn device_gone(&mut self) {
        self.sight([], &Vec::new(), Time(Duration::ZERO));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: PublicKey = PublicKey([1; 32]);
    const OTHER: PublicKey = PublicKey([2; 32]);

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    #[test]
    fn a_peer_learns_for_a_while_and_forgets_when_it_goes() {
        let mut peers = Peers::default();
        let seen = peers.sight([KEY], &vec![], at(2));
        let idx = seen.appeared[0];
        peers.end_learning(at(1));
        assert!(peers.is_learning(idx));
        assert_eq!(peers.learning_deadline(at(1)), Some(at(2)));
        peers.end_learning(at(2));
        assert!(peers.is_learning(idx), "a peer without any address is not set up yet");
        assert_eq!(peers.learning_deadline(at(2)), None);
        assert!(peers.learn(idx, prefix("10.0.0.2/32")));
        assert_eq!(peers.pinned_over("10.0.0.2".parse().unwrap()).unwrap().1, idx);
        assert_eq!(peers.remember(), [(KEY, vec![prefix("10.0.0.2/32")])]);
        assert_eq!(peers.sight([], &vec![], at(9)).vanished, [idx]);
        assert_eq!(peers.pins().count(), 0);
        assert_eq!(peers.sight([KEY], &vec![], at(9)).appeared, [idx], "the number stays");
    }

    #[test]
    fn remembered_pins_end_the_learning() {
        let mut peers = Peers::default();
        let remembered = vec![(KEY, vec![prefix("10.0.0.2/32")])];
        let seen = peers.sight([KEY, OTHER], &remembered, at(2));
        assert!(!peers.is_learning(seen.appeared[0]));
        assert!(peers.is_learning(seen.appeared[1]));
        peers.learn(seen.appeared[1], prefix("10.0.0.3/32"));
        peers.end_learning(at(2));
        assert!(!peers.is_learning(seen.appeared[1]));
    }

    #[test]
    fn configured_pins_are_never_learned_over() {
        let mut peers = Peers::default();
        peers.configure(&[PeerRule {
            name: "a".into(),
            public_key: KEY,
            pinned: Some(vec![prefix("10.0.0.1/32")]),
            matches: vec![],
            filter: None,
            reach: None,
        }]);
        let seen = peers.sight([KEY, OTHER], &vec![], at(2));
        assert!(!peers.learn(seen.appeared[1], prefix("10.0.0.1/32")));
        assert_eq!(peers.pinned_at(&prefix("10.0.0.1/32")), Some(seen.appeared[0]));
        assert_eq!(peers.remember(), [(OTHER, vec![])]);
    }
}
