//! What an interface and the packet filter have to do with each other.
//!
//! Here live the doors, 0.0.0.0/0 and ::/0 of a dedicated link, which are open only while the filter
//! is in force, and the news of prefixes that change owners. What is legal is the filter's business.

use super::{Interface, Outcome};
use crate::core::{
    peer::PeerIdx,
    prefix::{Family, Prefix},
    rule::LinkMode,
    time::Time,
};

/// Whether the AllowedIPs of a link may be open to everything: the packet filter says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// It is not known yet: they stay as they are.
    #[default]
    Undecided,
    /// The filter is in force.
    Open,
    /// The filter is not in force and will not be soon.
    Closed,
}

impl Interface {
    /// Whether 0.0.0.0/0 and ::/0 are ours to add once the filter is in force.
    pub fn has_doors(&self) -> bool {
        self.rule.filter.as_ref().is_some_and(|filter| filter.open)
    }

    /// The filter says whether the AllowedIPs may be open. Returns whether that is news; that an
    /// audit leaves it undecided for a moment is none.
    pub fn set_gate(&mut self, gate: Gate, now: Time) -> bool {
        let changed = self.gate != gate && self.has_doors();
        self.gate = gate;
        if changed && self.is_ready() && !self.closing {
            for prefix in Family::ALL.map(Prefix::default_of) {
                self.want(prefix, self.owner(&prefix, &Outcome::default()), now);
            }
        }
        let news = changed && gate != Gate::Undecided && gate != self.decided;
        if news {
            self.decided = gate;
        }
        news
    }

    /// Whether no door is open, nor about to be opened.
    pub fn is_shut(&self) -> bool {
        let open = |prefix| self.slots.get(&prefix).is_some_and(|slot| !slot.is_void());
        !self.has_doors() || !Family::ALL.map(Prefix::default_of).into_iter().any(open)
    }

    /// The prefixes whose wanted or installed owner changed since this was asked last, if the link
    /// is filtered.
    pub fn take_moved(&mut self) -> Vec<Prefix> {
        std::mem::take(&mut self.moved)
    }

    /// The wanted or installed owner of a prefix changed.
    pub(super) fn note_moved(&mut self, prefix: Prefix) {
        // On a dedicated link no packet is told by its source.
        if self.rule.filter.is_some() && self.rule.link != LinkMode::Dedicated {
            self.moved.push(prefix);
        }
    }

    /// Who owns a door.
    pub(super) fn door(&self, prefix: &Prefix) -> Option<PeerIdx> {
        match self.gate {
            Gate::Open => self.peers.only(),
            Gate::Closed => None,
            // What is on its way is as good as done: taken back, it would be made twice.
            Gate::Undecided => self
                .slots
                .get(prefix)
                .and_then(|slot| if slot.is_in_flight() { slot.want() } else { slot.have() }),
        }
    }
}
