//! One domain of the tries of sources.
//!
//! Here lives [`Domain`]: what each entry shall hold, what it holds, and what stays legal for a while
//! after it stopped being so. Invariant: while an address is within a grace, its longest match says
//! what was legal for this very address at some moment of the grace, and nothing that was legal for
//! its neighbours only. So an entry that goes stays until its cover says no more than it should, and
//! follows its cover meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};

use ebpf_xdp::layout::owner;
use smallvec::SmallVec;

use super::owners::{Owners, Sets};
use crate::core::{prefix::Prefix, prefix_map::PrefixMap, queue::Queue, time::Time};

/// No entry. No value looks like this: it would be a set with the number of "elsewhere".
pub(super) const ABSENT: u32 = u32::MAX;

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) want: u32,
    pub(super) have: u32,
}

impl Default for Entry {
    fn default() -> Self {
        Entry { want: ABSENT, have: ABSENT }
    }
}

/// What an entry holds while it says more than it shall.
#[derive(Clone, Debug)]
struct Grace {
    /// What held for its addresses, and until when that stays legal.
    past: SmallVec<[(u32, Time); 1]>,
    value: u32,
}

/// How many prefixes of each family and length there are.
#[derive(Debug, Default)]
struct Lengths([BTreeMap<u8, usize>; 2]);

impl Lengths {
    /// The prefixes around this one that there may be, longest first.
    fn covers(&self, prefix: &Prefix) -> impl Iterator<Item = Prefix> {
        let shorter = self.0[prefix.family() as usize].range(..prefix.prefix_len()).rev();
        shorter.filter_map(|(len, _)| Prefix::new(prefix.addr(), *len))
    }

    /// A prefix came or went.
    fn count(&mut self, prefix: &Prefix, before: bool, after: bool) {
        let lengths = &mut self.0[prefix.family() as usize];
        let len = prefix.prefix_len();
        match (before, after) {
            (false, true) => *lengths.entry(len).or_default() += 1,
            (true, false) => {
                if let Some(count) = lengths.get_mut(&len) {
                    *count -= 1;
                    if *count == 0 {
                        lengths.remove(&len);
                    }
                }
            }
            _ => {}
        }
    }
}

/// A domain.
#[derive(Debug, Default)]
pub(super) struct Domain {
    pub(super) entries: PrefixMap<Entry>,
    graces: PrefixMap<Grace>,
    /// Number of graces, by family and length.
    grace_lengths: Lengths,
    /// Entries that are there for their grace alone. Those inside a prefix stand in a row.
    fading: BTreeSet<Prefix>,
    pub(super) queue: Queue,
    /// Number of entries that shall be there, by family and length: which covering prefixes are
    /// worth looking for.
    lengths: Lengths,
}

impl Domain {
    fn wanted(&self, prefix: &Prefix) -> u32 {
        self.entries.get(prefix).map_or(ABSENT, |entry| entry.want)
    }

    /// What the entry shall hold at this moment.
    pub(super) fn target(&self, prefix: &Prefix) -> u32 {
        if self.graces.is_empty() {
            return self.wanted(prefix);
        }
        self.graces.get(prefix).map_or_else(|| self.wanted(prefix), |grace| grace.value)
    }

    /// The longest entry around the prefix that shall be there, and what it says.
    fn cover(&self, prefix: &Prefix) -> Option<(Prefix, u32)> {
        let covers = self.lengths.covers(prefix);
        covers.map(|cover| (cover, self.wanted(&cover))).find(|(_, value)| *value != ABSENT)
    }

    /// What shall hold for the prefix's addresses, if the entry says this.
    fn effective(&self, prefix: &Prefix, value: u32) -> u32 {
        match value {
            ABSENT => self.cover(prefix).map_or(ABSENT, |(_, value)| value),
            _ => value,
        }
    }

    /// The entry shall say this. With `grace`, whoever was legal until now stays so for that long.
    /// Gives what has to be looked at when the grace is over.
    pub(super) fn want(
        &mut self,
        prefix: Prefix,
        value: u32,
        grace: Option<Duration>,
        sets: &mut Sets,
        now: Time,
    ) -> SmallVec<[Prefix; 1]> {
        let mut graced = SmallVec::new();
        let wanted = self.wanted(&prefix);
        if wanted == value {
            return graced;
        }
        // Without graces nobody asks what was before.
        let kind = grace.is_some() || !self.graces.is_empty();
        let before = if kind { self.effective(&prefix, wanted) } else { ABSENT };
        self.entries.get_or_insert_with(&prefix, Entry::default).want = value;
        self.lengths.count(&prefix, wanted != ABSENT, value != ABSENT);
        if kind {
            self.make_fading(prefix, value == ABSENT);
            let after = self.effective(&prefix, value);
            let until = grace.map(|grace| now + grace);
            for prefix in self.followers(&prefix, value != ABSENT) {
                if self.remember(prefix, before, after, until, sets) {
                    graced.push(prefix);
                }
                self.enqueue(prefix, now);
                self.tidy(&prefix);
            }
        } else {
            self.enqueue(prefix, now);
            self.tidy(&prefix);
        }
        graced
    }

    /// The entry, and those that go and say what it says meanwhile.
    fn followers(&self, prefix: &Prefix, is_cover: bool) -> Vec<Prefix> {
        let behind = (Bound::Excluded(*prefix), Bound::Unbounded);
        let inside = self.fading.range(behind).take_while(|inner| prefix.covers(inner));
        let follows = |inner: &&Prefix| match self.cover(inner) {
            Some((cover, _)) if is_cover => cover == *prefix,
            Some((cover, _)) => cover.covers(prefix),
            None => true,
        };
        std::iter::once(*prefix).chain(inside.filter(follows).copied()).collect()
    }

    /// What holds for the entry's addresses changed. Returns whether a new grace runs.
    fn remember(
        &mut self,
        prefix: Prefix,
        before: u32,
        after: u32,
        until: Option<Time>,
        sets: &mut Sets,
    ) -> bool {
        let fades = self.fading.contains(&prefix);
        let mut past = self.graces.get(&prefix).map(|grace| grace.past.clone()).unwrap_or_default();
        let says = |value| (value != ABSENT).then(|| sets.owners(value));
        let runs = match (until, says(before), says(after)) {
            // A reject route is there to make an end, and without a grace all ends at once.
            (None, ..) | (_, _, Some(Owners::Nobody)) => {
                past.clear();
                false
            }
            (_, None, _) => false,
            (Some(until), Some(old), new) => {
                // Where a cover says more than it shall, it must not be heard.
                let shield = || fades && self.is_covered_by_grace(&prefix);
                let runs = new.is_none_or(|new| !old.within(&new)) || shield();
                if runs {
                    past.retain(|(value, _)| *value != before);
                    past.push((before, until));
                }
                runs
            }
        };
        self.set_grace(prefix, past, after, sets);
        runs
    }

    fn is_covered_by_grace(&self, prefix: &Prefix) -> bool {
        self.grace_lengths.covers(prefix).any(|cover| self.graces.get(&cover).is_some())
    }

    fn set_grace(
        &mut self,
        prefix: Prefix,
        past: SmallVec<[(u32, Time); 1]>,
        after: u32,
        sets: &mut Sets,
    ) {
        if past.is_empty() {
            self.fading.remove(&prefix);
            if !self.graces.is_empty() && self.graces.remove(&prefix).is_some() {
                self.grace_lengths.count(&prefix, true, false);
            }
            return;
        }
        let values = || past.iter().map(|(value, _)| *value).chain([after]);
        let owners = values().filter(|value| *value != ABSENT).map(|value| sets.owners(value));
        let all = owners.reduce(|all, owners| all.or(&owners)).unwrap_or(Owners::Nobody);
        // What only default routes say is said by default, wherever it is written.
        let leads = |value: &u32| *value != ABSENT && value & owner::NUMBER != owner::NOBODY;
        let default = values().filter(leads).all(|value| value & owner::DEFAULT != 0);
        let value = sets.value(&all, default);
        let before = self.graces.insert(prefix, Grace { past, value });
        self.grace_lengths.count(&prefix, before.is_some(), true);
    }

    fn make_fading(&mut self, prefix: Prefix, fades: bool) {
        if fades {
            self.fading.insert(prefix);
        } else if !self.fading.is_empty() {
            self.fading.remove(&prefix);
        }
    }

    /// Ends what is over of the entry's grace.
    pub(super) fn end_grace(&mut self, prefix: Prefix, sets: &mut Sets, now: Time) {
        let Some(grace) = self.graces.get_mut(&prefix) else { return };
        let mut past = std::mem::take(&mut grace.past);
        past.retain(|(_, until)| *until > now);
        let after = self.effective(&prefix, self.wanted(&prefix));
        self.set_grace(prefix, past, after, sets);
        self.enqueue(prefix, now);
        self.tidy(&prefix);
    }

    /// Queues the entry if it does not hold what it shall.
    pub(super) fn enqueue(&mut self, prefix: Prefix, now: Time) {
        let target = self.target(&prefix);
        let have = self.entries.get(&prefix).map_or(ABSENT, |entry| entry.have);
        if target == have {
            self.queue.cancel(&prefix);
        } else if target == ABSENT {
            self.queue.hold(prefix, now);
        } else {
            self.queue.cancel(&prefix);
            self.queue.push_set(prefix);
        }
    }

    /// Forgets an entry that neither is there nor shall be.
    pub(super) fn tidy(&mut self, prefix: &Prefix) {
        if self.target(prefix) == ABSENT {
            self.entries.alter(prefix, |entry| entry.filter(|entry| *entry != Entry::default()));
        }
    }

    /// Every value that an entry holds or shall hold.
    pub(super) fn values(&self) -> impl Iterator<Item = u32> {
        let entries = self.entries.iter().flat_map(|(_, entry)| [entry.want, entry.have]);
        let graces = self
            .graces
            .iter()
            .flat_map(|(_, grace)| grace.past.iter().map(|(value, _)| *value).chain([grace.value]));
        entries.chain(graces)
    }

    /// Bytes that the tables occupy.
    pub(super) fn allocated_bytes(&self) -> usize {
        self.entries.allocated_bytes() + self.graces.allocated_bytes()
    }
}
