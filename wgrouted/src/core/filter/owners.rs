//! Who may use a source, and how the maps say it.
//!
//! Here live [`Owners`] and the [`Sets`] of several peers, which the maps know by number.
//! Invariant: a set's number stands for the same peers as long as any table holds it.

use std::collections::BTreeMap;

use ebpf_xdp::layout::owner;
use hashbrown::HashMap;
use smallvec::SmallVec;

/// Numbers of peers, ascending, each once.
pub type PeerIds = SmallVec<[u32; 2]>;

/// Who may use a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owners {
    /// Nobody: a route says so.
    Nobody,
    /// None of our peers, but a route leads there.
    Elsewhere,
    /// These; at least one.
    Peers(PeerIds),
}

impl Owners {
    /// One peer.
    pub fn peer(id: u32) -> Owners {
        Owners::Peers(PeerIds::from_iter([id]))
    }

    /// Whether everybody who may use the source here may use it there too.
    pub fn within(&self, other: &Owners) -> bool {
        match (self, other) {
            (Owners::Peers(here), Owners::Peers(there)) => here.iter().all(|id| there.contains(id)),
            (Owners::Peers(_), _) => false,
            _ => true,
        }
    }

    /// Both.
    pub fn or(&self, other: &Owners) -> Owners {
        match (self, other) {
            (Owners::Peers(one), Owners::Peers(other)) => {
                let mut all: PeerIds = one.iter().chain(other).copied().collect();
                all.sort_unstable();
                all.dedup();
                Owners::Peers(all)
            }
            (Owners::Peers(_), _) | (Owners::Elsewhere, Owners::Nobody) => self.clone(),
            _ => other.clone(),
        }
    }
}

/// The sets of several peers.
#[derive(Debug, Default)]
pub struct Sets {
    by_peers: HashMap<PeerIds, u32>,
    by_number: BTreeMap<u32, PeerIds>,
    /// The highest number ever given out. None is used twice: the maps may still hold a forgotten
    /// set's members when its number would come again.
    last: u32,
}

impl Sets {
    /// The value that says it; `default`: the entry is a default route.
    pub fn value(&mut self, owners: &Owners, default: bool) -> u32 {
        let mark = if default { owner::DEFAULT } else { 0 };
        match owners {
            Owners::Nobody => owner::NOBODY,
            Owners::Elsewhere => owner::ELSEWHERE | mark,
            Owners::Peers(peers) => match peers.as_slice() {
                [peer] => peer | mark,
                _ => self.number(peers) | owner::SET | mark,
            },
        }
    }

    /// What a value says. A set that is not known is nobody's.
    pub fn owners(&self, value: u32) -> Owners {
        match value & owner::NUMBER {
            owner::NOBODY => Owners::Nobody,
            number if value & owner::SET != 0 => {
                self.by_number.get(&number).cloned().map_or(Owners::Nobody, Owners::Peers)
            }
            owner::ELSEWHERE => Owners::Elsewhere,
            peer => Owners::peer(peer),
        }
    }

    fn number(&mut self, peers: &PeerIds) -> u32 {
        if let Some(number) = self.by_peers.get(peers) {
            return *number;
        }
        self.last += 1;
        let number = self.last;
        self.by_peers.insert(peers.clone(), number);
        self.by_number.insert(number, peers.clone());
        number
    }

    /// Takes over the sets that the maps hold.
    pub fn adopt(&mut self, members: &[(u32, u32)]) {
        *self = Sets::default();
        for (set, peer) in members {
            self.by_number.entry(*set).or_default().push(*peer);
            self.last = self.last.max(*set);
        }
        for (set, peers) in &mut self.by_number {
            peers.sort_unstable();
            self.by_peers.insert(peers.clone(), *set);
        }
    }

    /// Forgets the sets that no table holds.
    pub fn retain(&mut self, mut is_held: impl FnMut(u32) -> bool) {
        self.by_number.retain(|number, _| is_held(*number));
        self.by_peers.retain(|_, number| self.by_number.contains_key(number));
    }

    /// Every set and each of its peers.
    pub fn members(&self) -> impl Iterator<Item = (u32, u32)> {
        self.by_number.iter().flat_map(|(set, peers)| peers.iter().map(|peer| (*set, *peer)))
    }

    /// Whether a peer belongs to a set.
    pub fn has(&self, set: u32, peer: u32) -> bool {
        self.by_number.get(&set).is_some_and(|peers| peers.contains(&peer))
    }

    /// How many sets there are.
    pub fn len(&self) -> usize {
        self.by_number.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_number.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(ids: &[u32]) -> Owners {
        Owners::Peers(ids.iter().copied().collect())
    }

    #[test]
    fn values_say_what_they_were_made_of() {
        let mut sets = Sets::default();
        for owners in [Owners::Nobody, Owners::Elsewhere, peers(&[7]), peers(&[3, 9])] {
            for default in [false, true] {
                let value = sets.value(&owners, default);
                assert_eq!(sets.owners(value), owners);
                let marked = value & owner::DEFAULT != 0 && owners != Owners::Elsewhere;
                assert_eq!(marked, default && matches!(owners, Owners::Peers(_)));
            }
        }
        assert_eq!(sets.value(&peers(&[3, 9]), false), sets.value(&peers(&[3, 9]), false));
        assert_eq!(sets.members().collect::<Vec<_>>(), [(1, 3), (1, 9)]);
    }

    #[test]
    fn numbers_survive_an_adoption_and_are_not_used_again() {
        let mut sets = Sets::default();
        let first = sets.value(&peers(&[1, 2]), false);
        let second = sets.value(&peers(&[1, 3]), false);
        let mut other = Sets::default();
        other.adopt(&sets.members().collect::<Vec<_>>());
        assert_eq!(other.owners(second), peers(&[1, 3]));
        other.retain(|number| number | owner::SET == second);
        assert_eq!(other.owners(first), Owners::Nobody);
        assert_ne!(other.value(&peers(&[4, 5]), false), first);
        assert_eq!(other.value(&peers(&[1, 3]), false), second);
    }

    #[test]
    fn what_is_legal_for_both_is_legal_for_each() {
        let all = [Owners::Nobody, Owners::Elsewhere, peers(&[1]), peers(&[1, 2]), peers(&[2])];
        for one in &all {
            for other in &all {
                let both = one.or(other);
                assert!(one.within(&both) && other.within(&both), "{one:?} {other:?}");
                assert_eq!(both, other.or(one));
            }
        }
    }
}
