//! The tries of sources: what they shall hold and what they hold.
//!
//! Here lives [`Sources`], the reconciler of tables with a million rows. Changes come out in the
//! safe order ([`crate::core::queue`]): while they are made, each address has its old owners or its
//! new ones. What stops being legal may stay legal for a grace, for packets that are under way: then
//! the entry holds the old and the new owners together. Invariants: `have` changes only when the target
//! acknowledged it or was read; a grace never makes legal what was not legal just before.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use hashbrown::HashMap;

use super::{
    domain::{ABSENT, Domain, Entry},
    owners::{Owners, Sets},
    table::{FilterChange, SourceKey},
};
use crate::core::{
    prefix::{Family, Prefix},
    time::Time,
};

/// Bounds of how long refused entries wait to be tried again; doubled each time.
const REFUSED_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The entries that the target refused.
#[derive(Debug)]
struct Refused {
    keys: HashMap<SourceKey, i32>,
    at: Time,
    wait: Duration,
}

/// The tries.
#[derive(Debug)]
pub struct Sources {
    domains: BTreeMap<u32, Domain>,
    /// When graces end, in order.
    ending: VecDeque<(Time, SourceKey)>,
    refused: Refused,
    installed: [usize; 2],
}

impl Default for Sources {
    fn default() -> Self {
        let refused = Refused { keys: HashMap::new(), at: Time::ZERO, wait: REFUSED_RETRY.0 };
        Sources { domains: BTreeMap::new(), ending: VecDeque::new(), refused, installed: [0; 2] }
    }
}

impl Sources {
    /// The entry shall say this; `None`: it shall not be there. With `grace`, whoever was legal
    /// until now stays so for that long.
    pub fn want(
        &mut self,
        key: SourceKey,
        owners: Option<&Owners>,
        grace: Option<Duration>,
        sets: &mut Sets,
        now: Time,
    ) {
        let SourceKey { domain: number, prefix } = key;
        let value = owners.map_or(ABSENT, |owners| sets.value(owners, prefix.is_default()));
        if value == ABSENT && !self.domains.contains_key(&number) {
            return;
        }
        let domain = self.domains.entry(number).or_default();
        let graced = domain.want(prefix, value, grace, sets, now);
        if let Some(grace) = grace {
            let key = |prefix| SourceKey { domain: number, prefix };
            self.ending.extend(graced.into_iter().map(|prefix| (now + grace, key(prefix))));
        }
    }

    /// Ends the graces that are over.
    pub fn end_graces(&mut self, sets: &mut Sets, now: Time) {
        while let Some((_, key)) = self.ending.pop_front_if(|(until, _)| *until <= now) {
            if let Some(domain) = self.domains.get_mut(&key.domain) {
                domain.end_grace(key.prefix, sets, now);
            }
        }
    }

    /// The maps were read. Returns how many entries were not what they were believed to be.
    pub fn found(&mut self, contents: &[(SourceKey, u32)], now: Time) -> usize {
        let mut believed: HashMap<SourceKey, u32> = HashMap::new();
        for (number, domain) in &mut self.domains {
            for (prefix, entry) in domain.entries.iter() {
                if entry.have != ABSENT {
                    believed.insert(SourceKey { domain: *number, prefix }, entry.have);
                }
            }
            domain.entries.retain(|_, entry| {
                entry.have = ABSENT;
                true
            });
            domain.queue.clear();
        }
        self.installed = [0; 2];
        let mut drift = 0;
        for (key, value) in contents {
            let domain = self.domains.entry(key.domain).or_default();
            domain.entries.get_or_insert_with(&key.prefix, Entry::default).have = *value;
            self.installed[key.prefix.family() as usize] += 1;
            drift += usize::from(believed.remove(key) != Some(*value));
        }
        drift += believed.len();
        for domain in self.domains.values_mut() {
            let prefixes: Vec<Prefix> = domain.entries.iter().map(|(prefix, _)| prefix).collect();
            for prefix in prefixes {
                domain.enqueue(prefix, now);
                domain.tidy(&prefix);
            }
        }
        drift
    }

    /// Takes out entries to be written, longest prefixes first, at most `room`.
    pub fn take_sets(&mut self, room: usize, changes: &mut Vec<FilterChange>) {
        let end = changes.len() + room;
        for (number, domain) in &mut self.domains {
            while changes.len() < end {
                let Some(prefix) = domain.queue.pop_set() else { break };
                let target = domain.target(&prefix);
                let have = domain.entries.get(&prefix).map_or(ABSENT, |entry| entry.have);
                if target != ABSENT && target != have {
                    let key = SourceKey { domain: *number, prefix };
                    changes.push(FilterChange::Source { key, value: Some(target) });
                }
            }
        }
    }

    /// Takes out entries to be removed, shortest prefixes first, at most `room`. Only once nothing
    /// is to be written any more.
    pub fn take_removals(&mut self, room: usize, now: Time, changes: &mut Vec<FilterChange>) {
        let end = changes.len() + room;
        for (number, domain) in &mut self.domains {
            while changes.len() < end {
                let Some(prefix) = domain.queue.pop_unset(now) else { break };
                let have = domain.entries.get(&prefix).map_or(ABSENT, |entry| entry.have);
                if domain.target(&prefix) == ABSENT && have != ABSENT {
                    let key = SourceKey { domain: *number, prefix };
                    changes.push(FilterChange::Source { key, value: None });
                }
            }
        }
        self.domains.retain(|_, domain| {
            !domain.entries.is_empty() || domain.queue.sets() > 0 || domain.queue.unsets() > 0
        });
    }

    /// The target took the change, or refused it.
    pub fn acknowledge(
        &mut self,
        key: SourceKey,
        value: Option<u32>,
        error: Option<i32>,
        now: Time,
    ) {
        if let Some(errno) = error {
            if self.refused.keys.is_empty() {
                // Not one that was just tried again: all has fitted meanwhile.
                if now > self.refused.at {
                    self.refused.wait = REFUSED_RETRY.0;
                }
                self.refused.at = now + self.refused.wait;
            }
            self.refused.keys.insert(key, errno);
            return;
        }
        if !self.refused.keys.is_empty() {
            self.refused.keys.remove(&key);
        }
        let domain = self.domains.entry(key.domain).or_default();
        let entry = domain.entries.get_or_insert_with(&key.prefix, Entry::default);
        let (before, after) = (entry.have, value.unwrap_or(ABSENT));
        entry.have = after;
        let installed = &mut self.installed[key.prefix.family() as usize];
        *installed += usize::from(after != ABSENT);
        *installed -= usize::from(before != ABSENT);
        // It may have changed its mind while the change was under way.
        domain.enqueue(key.prefix, now);
        domain.tidy(&key.prefix);
    }

    /// Tries refused entries again, if it is time.
    pub fn retry(&mut self, now: Time) {
        if self.refused.keys.is_empty() || self.refused.at > now {
            return;
        }
        self.refused.wait = (self.refused.wait * 2).min(REFUSED_RETRY.1);
        self.refused.at = now + self.refused.wait;
        for key in self.refused.keys.drain().map(|(key, _)| key) {
            if let Some(domain) = self.domains.get_mut(&key.domain) {
                domain.enqueue(key.prefix, now);
            }
        }
    }

    /// Entries that the target refused, and an example with its error number.
    pub fn refused(&self) -> (usize, Option<(SourceKey, i32)>) {
        let example = self.refused.keys.iter().next().map(|(key, errno)| (*key, *errno));
        (self.refused.keys.len(), example)
    }

    /// When something is to be done, if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let work = self.domains.values().filter_map(|domain| domain.queue.deadline()).min();
        let ending = self.ending.front().map(|(until, _)| *until);
        let retry = (!self.refused.keys.is_empty()).then_some(self.refused.at);
        work.into_iter().chain(ending).chain(retry).min()
    }

    /// How many entries wait to be written or removed.
    pub fn pending(&self) -> usize {
        self.domains.values().map(|domain| domain.queue.sets() + domain.queue.unsets()).sum()
    }

    /// Entries in the maps.
    pub fn installed(&self, family: Family) -> usize {
        self.installed[family as usize]
    }

    /// The value that the maps hold at exactly this key.
    pub fn installed_at(&self, key: &SourceKey) -> Option<u32> {
        let entry = self.domains.get(&key.domain)?.entries.get(&key.prefix)?;
        (entry.have != ABSENT).then_some(entry.have)
    }

    /// The keys of all entries that shall be there or are.
    pub fn keys(&self) -> Vec<SourceKey> {
        let keys = |(number, domain): (&u32, &Domain)| {
            let number = *number;
            let keys =
                domain.entries.iter().map(move |(prefix, _)| SourceKey { domain: number, prefix });
            keys.collect::<Vec<_>>()
        };
        self.domains.iter().flat_map(keys).collect()
    }

    /// Every value that an entry holds or shall hold.
    pub fn values(&self) -> impl Iterator<Item = u32> {
        self.domains.values().flat_map(Domain::values)
    }

    /// Bytes that the tables occupy.
    pub fn allocated_bytes(&self) -> usize {
        self.domains.values().map(Domain::allocated_bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use ebpf_xdp::layout::{domain, owner};

    use super::*;

    const GRACE: Option<Duration> = Some(Duration::from_secs(1));

    fn ms(n: u64) -> Time {
        Time(Duration::from_millis(n))
    }

    fn key(prefix: &str) -> SourceKey {
        SourceKey { domain: domain::routes(1), prefix: prefix.parse().unwrap() }
    }

    /// Takes everything that is to be done and acknowledges it.
    fn settle(sources: &mut Sources, sets: &mut Sets, now: Time) -> Vec<(String, Option<u32>)> {
        let mut changes = Vec::new();
        sources.end_graces(sets, now);
        sources.take_sets(99, &mut changes);
        sources.take_removals(99, now, &mut changes);
        let mut done = Vec::new();
        for change in changes {
            let FilterChange::Source { key, value } = change else { panic!("{change:?}") };
            sources.acknowledge(key, value, None, now);
            done.push((key.prefix.to_string(), value));
        }
        done
    }

    #[test]
    fn a_move_is_legal_for_both_for_a_while() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(1)), GRACE, &mut sets, ms(0));
        assert_eq!(settle(&mut sources, &mut sets, ms(0)), [("10.0.0.0/8".into(), Some(1))]);
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(2)), GRACE, &mut sets, ms(10));
        let both = sets.value(&Owners::peer(1).or(&Owners::peer(2)), false);
        assert_eq!(settle(&mut sources, &mut sets, ms(10)), [("10.0.0.0/8".into(), Some(both))]);
        assert_eq!(sources.deadline(), Some(ms(1010)));
        assert_eq!(settle(&mut sources, &mut sets, ms(1009)), []);
        assert_eq!(settle(&mut sources, &mut sets, ms(1010)), [("10.0.0.0/8".into(), Some(2))]);
    }

    #[test]
    fn a_withdrawn_prefix_is_legal_for_its_peer_and_for_the_covers() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(1)), GRACE, &mut sets, ms(0));
        sources.want(key("10.1.0.0/16"), Some(&Owners::peer(2)), GRACE, &mut sets, ms(0));
        let both = sets.value(&Owners::peer(1).or(&Owners::peer(2)), false);
        // The covering peer was legal there until now.
        assert_eq!(
            settle(&mut sources, &mut sets, ms(0)),
            [("10.1.0.0/16".into(), Some(both)), ("10.0.0.0/8".into(), Some(1))]
        );
        assert_eq!(settle(&mut sources, &mut sets, ms(1000)), [("10.1.0.0/16".into(), Some(2))]);
        sources.want(key("10.1.0.0/16"), None, GRACE, &mut sets, ms(2000));
        assert_eq!(settle(&mut sources, &mut sets, ms(2000)), [("10.1.0.0/16".into(), Some(both))]);
        assert_eq!(settle(&mut sources, &mut sets, ms(3000)), [("10.1.0.0/16".into(), None)]);
        assert_eq!(sources.installed(Family::V4), 1);
    }

    #[test]
    fn what_is_refused_after_a_long_peace_is_tried_again_soon() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        let mut refuse = |at| {
            sources.want(key("10.0.0.0/8"), Some(&Owners::peer(1)), None, &mut sets, ms(at));
            sources.retry(ms(at));
            sources.take_sets(9, &mut Vec::new());
            sources.acknowledge(key("10.0.0.0/8"), Some(1), Some(28), ms(at));
            sources.deadline()
        };
        assert_eq!(refuse(0), Some(ms(1000)));
        assert_eq!(refuse(1000), Some(ms(3000)));
        assert_eq!(refuse(3000), Some(ms(7000)));
        sources.retry(ms(7000));
        settle(&mut sources, &mut sets, ms(7000));
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(2)), None, &mut sets, ms(90_000));
        sources.take_sets(9, &mut Vec::new());
        sources.acknowledge(key("10.0.0.0/8"), Some(2), Some(28), ms(90_000));
        assert_eq!(sources.deadline(), Some(ms(91_000)));
    }

    #[test]
    fn a_prefix_that_moves_on_and_on_is_not_legal_for_all_that_it_met() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        for (peer, at) in [(1, 0), (2, 10), (3, 600)] {
            sources.want(key("10.0.0.0/8"), Some(&Owners::peer(peer)), GRACE, &mut sets, ms(at));
            settle(&mut sources, &mut sets, ms(at));
        }
        let both = sets.value(&Owners::peer(2).or(&Owners::peer(3)), false);
        let changes = settle(&mut sources, &mut sets, ms(1010));
        assert_eq!(changes, [("10.0.0.0/8".into(), Some(both))]);
        let changes = settle(&mut sources, &mut sets, ms(1600));
        assert_eq!(changes, [("10.0.0.0/8".into(), Some(3))]);
    }

    #[test]
    fn what_goes_does_not_hear_what_its_cover_was_before() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(1)), None, &mut sets, ms(0));
        sources.want(key("10.1.0.0/16"), Some(&Owners::peer(2)), None, &mut sets, ms(0));
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(2)), GRACE, &mut sets, ms(10));
        settle(&mut sources, &mut sets, ms(10));
        // Peer 1 was never legal inside, so the entry stays until nobody says so.
        sources.want(key("10.1.0.0/16"), None, GRACE, &mut sets, ms(20));
        assert_eq!(settle(&mut sources, &mut sets, ms(20)), []);
        let changes = settle(&mut sources, &mut sets, ms(1010));
        assert_eq!(changes, [("10.0.0.0/8".into(), Some(2))]);
        let changes = settle(&mut sources, &mut sets, ms(1020));
        assert_eq!(changes, [("10.1.0.0/16".into(), None)]);
    }

    #[test]
    fn what_goes_does_not_hear_another_that_goes() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        for (prefix, peer) in [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.1.0/24", 1)] {
            sources.want(key(prefix), Some(&Owners::peer(peer)), None, &mut sets, ms(0));
        }
        settle(&mut sources, &mut sets, ms(0));
        sources.want(key("10.1.0.0/16"), None, GRACE, &mut sets, ms(10));
        sources.want(key("10.1.1.0/24"), None, GRACE, &mut sets, ms(20));
        // Peer 2 was legal around it, never there.
        let both = sets.value(&Owners::peer(1).or(&Owners::peer(2)), false);
        let changes = settle(&mut sources, &mut sets, ms(20));
        assert_eq!(changes, [("10.1.0.0/16".into(), Some(both))]);
        let changes = settle(&mut sources, &mut sets, ms(1010));
        assert_eq!(changes, [("10.1.0.0/16".into(), None)]);
        let changes = settle(&mut sources, &mut sets, ms(1020));
        assert_eq!(changes, [("10.1.1.0/24".into(), None)]);
    }

    #[test]
    fn what_goes_follows_its_cover() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        let value = |peers: &[u32], sets: &mut Sets| {
            sets.value(&Owners::Peers(peers.iter().copied().collect()), false)
        };
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(1)), None, &mut sets, ms(0));
        sources.want(key("10.1.0.0/16"), Some(&Owners::peer(2)), None, &mut sets, ms(0));
        sources.want(key("10.1.0.0/16"), None, GRACE, &mut sets, ms(0));
        settle(&mut sources, &mut sets, ms(0));
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(3)), GRACE, &mut sets, ms(500));
        let inside = value(&[1, 2, 3], &mut sets);
        let around = value(&[1, 3], &mut sets);
        assert_eq!(
            settle(&mut sources, &mut sets, ms(500)),
            [("10.1.0.0/16".into(), Some(inside)), ("10.0.0.0/8".into(), Some(around))]
        );
        let changes = settle(&mut sources, &mut sets, ms(1000));
        assert_eq!(changes, [("10.1.0.0/16".into(), Some(around))]);
        let changes = settle(&mut sources, &mut sets, ms(1500));
        assert_eq!(changes, [("10.0.0.0/8".into(), Some(3)), ("10.1.0.0/16".into(), None)]);
    }

    #[test]
    fn what_a_default_route_says_inside_is_said_by_default() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        sources.want(key("0.0.0.0/0"), Some(&Owners::peer(1)), None, &mut sets, ms(0));
        sources.want(key("10.0.0.0/8"), Some(&Owners::Nobody), None, &mut sets, ms(0));
        settle(&mut sources, &mut sets, ms(0));
        sources.want(key("0.0.0.0/0"), Some(&Owners::peer(2)), GRACE, &mut sets, ms(1));
        sources.want(key("10.0.0.0/8"), None, GRACE, &mut sets, ms(1));
        let changes = settle(&mut sources, &mut sets, ms(1));
        assert_eq!(changes[0], ("10.0.0.0/8".into(), Some(2 | owner::DEFAULT)));
    }

    #[test]
    fn a_route_that_leads_elsewhere_has_its_grace_too() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        sources.want(key("10.0.0.0/8"), Some(&Owners::Elsewhere), GRACE, &mut sets, ms(0));
        settle(&mut sources, &mut sets, ms(0));
        sources.want(key("10.0.0.0/8"), None, GRACE, &mut sets, ms(1));
        assert_eq!(settle(&mut sources, &mut sets, ms(1000)), []);
        assert_eq!(settle(&mut sources, &mut sets, ms(1001)), [("10.0.0.0/8".into(), None)]);
    }

    #[test]
    fn a_reject_route_and_no_grace_make_an_end_at_once() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(1)), GRACE, &mut sets, ms(0));
        settle(&mut sources, &mut sets, ms(0));
        sources.want(key("10.0.0.0/8"), Some(&Owners::Nobody), GRACE, &mut sets, ms(1));
        assert_eq!(settle(&mut sources, &mut sets, ms(1)), [("10.0.0.0/8".into(), Some(0))]);
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(1)), None, &mut sets, ms(2));
        settle(&mut sources, &mut sets, ms(2));
        sources.want(key("10.0.0.0/8"), None, None, &mut sets, ms(3));
        assert_eq!(settle(&mut sources, &mut sets, ms(3)), [("10.0.0.0/8".into(), None)]);
        assert_eq!(sources.keys(), []);
    }

    #[test]
    fn what_was_refused_is_tried_again_and_what_was_found_is_repaired() {
        let (mut sources, mut sets) = (Sources::default(), Sets::default());
        sources.want(key("10.0.0.0/8"), Some(&Owners::peer(1)), None, &mut sets, ms(0));
        let mut changes = Vec::new();
        sources.take_sets(9, &mut changes);
        sources.acknowledge(key("10.0.0.0/8"), Some(1), Some(28), ms(0));
        assert_eq!(sources.refused().0, 1);
        assert_eq!(sources.deadline(), Some(ms(1000)));
        sources.retry(ms(1000));
        assert_eq!(settle(&mut sources, &mut sets, ms(1000)), [("10.0.0.0/8".into(), Some(1))]);
        assert_eq!(sources.refused().0, 0);

        let foreign = key("192.0.2.0/24");
        assert_eq!(sources.found(&[(foreign, 7)], ms(2000)), 2);
        assert_eq!(
            settle(&mut sources, &mut sets, ms(2000)),
            [("10.0.0.0/8".into(), Some(1)), ("192.0.2.0/24".into(), None)]
        );
        assert_eq!(sources.found(&[(key("10.0.0.0/8"), 1)], ms(3000)), 0);
        assert_eq!(sources.pending(), 0);
    }
}
