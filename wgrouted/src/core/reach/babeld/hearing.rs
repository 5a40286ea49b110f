//! What babeld hears.
//!
//! Here lives [`Hearing`], which turns lines about neighbours into evidence. Invariant: it speaks only
//! of interfaces that are followed, and says "not heard" only of a neighbour that was heard before.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    grammar::{Kind, Neighbour},
    machine::Notice,
};

/// Neighbours that are kept in mind: more than babeld serves well.
const MOST: usize = 4096;
/// babeld's infinity.
const INFINITY: u32 = 65_535;

#[derive(Clone, Debug)]
struct Known {
    interface: String,
    reach: (u16, u16),
    rxcost: u32,
    /// `None` until it was heard.
    heard: Option<bool>,
}

/// The neighbours.
#[derive(Clone, Debug, Default)]
pub(super) struct Hearing {
    neighbours: BTreeMap<String, Known>,
    followed: BTreeSet<String>,
    /// What was said last.
    said: BTreeMap<String, bool>,
}

impl Hearing {
    /// From now on it speaks of these interfaces.
    pub(super) fn follow(&mut self, interfaces: BTreeSet<String>) -> Vec<Notice> {
        if self.followed == interfaces {
            return Vec::new();
        }
        self.said.retain(|name, _| interfaces.contains(name));
        self.followed = interfaces;
        let followed: Vec<String> = self.followed.iter().cloned().collect();
        followed.iter().filter_map(|name| self.speak(name, false)).collect()
    }

    /// Takes a line in. Lines about neighbours that were never added are about what is left of a
    /// flushed interface: until 2025 babeld kept its neighbours (its pull request 124).
    pub(super) fn take(&mut self, kind: Kind, new: Neighbour) -> Option<Notice> {
        let Neighbour { id, interface, .. } = &new;
        let old = self.neighbours.get(id).filter(|old| old.interface == *interface).cloned();
        match kind {
            Kind::Flush => {
                old.as_ref()?;
                self.neighbours.remove(id);
                return self.speak(&new.interface, false);
            }
            Kind::Change if old.is_none() => return None,
            Kind::Add if old.is_none() && self.neighbours.len() >= MOST => return None,
            Kind::Change | Kind::Add => {}
        }
        let reach = (new.reach, new.ureach);
        let heard = if new.is_heard() {
            Some(true)
        } else {
            let before = old.as_ref().is_some_and(|old| old.heard.is_some());
            (before || reach != (0, 0)).then_some(false)
        };
        // The history of a neighbour that is always heard looks the same each time.
        let hello = (new.reach | new.ureach) & 0x8000 != 0;
        let fresh = hello && old.is_none_or(|old| old.reach != reach);
        let Neighbour { id, interface, rxcost, .. } = new;
        self.neighbours.insert(id, Known { interface: interface.clone(), reach, rxcost, heard });
        self.speak(&interface, fresh)
    }

    /// The interface is gone, and its neighbours with it.
    pub(super) fn interface_gone(&mut self, name: &str) -> Option<Notice> {
        self.neighbours.retain(|_, known| known.interface != name);
        self.speak(name, false)
    }

    /// babeld is gone.
    pub(super) fn clear(&mut self) -> Vec<Notice> {
        self.neighbours.clear();
        let said: Vec<String> = self.said.keys().cloned().collect();
        said.iter().filter_map(|name| self.speak(name, false)).collect()
    }

    /// How many neighbours are heard.
    pub(super) fn heard(&self) -> usize {
        self.neighbours.values().filter(|known| known.heard == Some(true)).count()
    }

    /// What receiving on an interface costs, as babeld says.
    pub(super) fn rxcost(&self, name: &str) -> Option<u32> {
        let mut known = self.neighbours.values().filter(|known| known.interface == name);
        known.find_map(|known| (!matches!(known.rxcost, 0 | INFINITY)).then_some(known.rxcost))
    }

    /// Says what is new of an interface, or, after a Hello, that it is still so.
    fn speak(&mut self, name: &str, fresh: bool) -> Option<Notice> {
        if !self.followed.contains(name) {
            return None;
        }
        let known = self.neighbours.values().filter(|known| known.interface == name);
        let heard = known.filter_map(|known| known.heard).max();
        let before = match heard {
            Some(heard) => self.said.insert(name.to_owned(), heard),
            None => self.said.remove(name),
        };
        let tell = before != heard || (fresh && heard == Some(true));
        tell.then(|| Notice::Heard { interface: name.to_owned(), heard })
    }
}
