//! Prefixes that wait to be changed, in the safe order.
//!
//! Here lives [`Queue`]. The order is the law that keeps every intermediate state harmless: sets
//! longest prefix first, then removals shortest first. While sets run, an address's longest match
//! is either a wanted entry with nothing longer wanted (its new owner) or an old entry with
//! nothing longer old (its old owner); while removals run likewise. So no packet ever meets a
//! third owner. A removal waits out a hold, because routing daemons delete and add where they
//! mean to replace.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{Ipv4Net, Ipv6Net};

use super::{prefix::Prefix, prefix_map::PrefixMap, time::Time};

/// Prefixes by length. The length is the bucket's, so an IPv4 prefix costs four bytes.
#[derive(Debug, Default)]
struct Buckets {
    v4: BTreeMap<u8, Vec<u32>>,
    v6: BTreeMap<u8, Vec<u128>>,
    len: usize,
}

/// From which end of the lengths to take.
#[derive(Clone, Copy)]
enum End {
    Longest,
    Shortest,
}

impl Buckets {
    fn push(&mut self, prefix: Prefix) {
        self.len += 1;
        match prefix {
            Prefix::V4(net) => {
                self.v4.entry(net.prefix_len()).or_default().push(net.addr().into());
            }
            Prefix::V6(net) => {
                self.v6.entry(net.prefix_len()).or_default().push(net.addr().into());
            }
        }
    }

    /// Takes a prefix. The families do not interact, so IPv6 simply comes first.
    fn pop(&mut self, end: End) -> Option<Prefix> {
        let prefix = match pop(&mut self.v6, end) {
            Some((len, addr)) => Prefix::V6(Ipv6Net::new_assert(Ipv6Addr::from(addr), len)),
            None => {
                let (len, addr) = pop(&mut self.v4, end)?;
                Prefix::V4(Ipv4Net::new_assert(Ipv4Addr::from(addr), len))
            }
        };
        self.len -= 1;
        Some(prefix)
    }
}

/// Takes from the bucket at one end; an empty bucket is never kept.
fn pop<T>(buckets: &mut BTreeMap<u8, Vec<T>>, end: End) -> Option<(u8, T)> {
    let mut bucket = match end {
        End::Longest => buckets.last_entry()?,
        End::Shortest => buckets.first_entry()?,
    };
    let taken = (*bucket.key(), bucket.get_mut().pop()?);
    if bucket.get().is_empty() {
        bucket.remove();
    }
    Some(taken)
}

/// The prefixes of one interface that wait to be changed. It may give out a prefix whose change
/// has become void: what to do is decided when a prefix is taken out.
#[derive(Debug, Default)]
pub struct Queue {
    sets: Buckets,
    /// Removals in the order in which they fall due; void where `due` disagrees.
    held: VecDeque<(Time, Prefix)>,
    due: PrefixMap<Time>,
    unsets: Buckets,
}

impl Queue {
    /// Puts in a prefix that shall get an owner.
    pub fn push_set(&mut self, prefix: Prefix) {
        self.sets.push(prefix);
    }

    /// Puts in a prefix that shall be removed, not before `due`; one that is held already stays
    /// as it is. Calls must come with non-decreasing `due`, which a fixed hold gives.
    pub fn hold(&mut self, prefix: Prefix, due: Time) {
        if self.due.get(&prefix).is_none() {
            self.due.insert(prefix, due);
            self.held.push_back((due, prefix));
        }
    }

    /// The prefix shall stay after all.
    pub fn cancel(&mut self, prefix: &Prefix) {
        if !self.due.is_empty() {
            self.due.remove(prefix);
        }
    }

    /// The set with the longest prefix.
    pub fn pop_set(&mut self) -> Option<Prefix> {
        self.sets.pop(End::Longest)
    }

    /// The removal with the shortest prefix among those whose hold is over.
    pub fn pop_unset(&mut self, now: Time) -> Option<Prefix> {
        while let Some((due, prefix)) = self.held.pop_front_if(|(due, _)| *due <= now) {
            if self.due.get(&prefix) == Some(&due) {
                self.due.remove(&prefix);
                self.unsets.push(prefix);
            }
        }
        loop {
            let prefix = self.unsets.pop(End::Shortest)?;
            // It came back and went again since its hold was over: a new hold runs.
            if self.due.get(&prefix).is_none() {
                return Some(prefix);
            }
        }
    }

    /// Whether there is something to take out right now.
    pub fn is_ripe(&self, now: Time) -> bool {
        self.deadline().is_some_and(|due| due <= now)
    }

    /// When there is something to take out.
    pub fn deadline(&self) -> Option<Time> {
        if self.sets.len > 0 || self.unsets.len > 0 {
            return Some(Time::ZERO);
        }
        self.held.front().map(|(due, _)| *due)
    }

    /// How many prefixes wait for an owner.
    pub fn sets(&self) -> usize {
        self.sets.len
    }

    /// How many prefixes wait for their removal.
    pub fn unsets(&self) -> usize {
        self.due.len() + self.unsets.len
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Queue::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Time {
        Time(std::time::Duration::from_millis(n))
    }

    #[test]
    fn sets_come_longest_first_and_removals_shortest_first_when_due() {
        let mut queue = Queue::default();
        let prefixes = ["10.0.0.0/8", "10.0.0.0/24", "2001:db8::/32", "::/0"];
        for text in prefixes {
            queue.push_set(text.parse().unwrap());
            queue.hold(text.parse().unwrap(), ms(20));
        }
        let sets: Vec<_> = std::iter::from_fn(|| queue.pop_set()).map(|p| p.to_string()).collect();
        assert_eq!(sets, ["2001:db8::/32", "::/0", "10.0.0.0/24", "10.0.0.0/8"]);
        assert_eq!(queue.pop_unset(ms(19)), None);
        assert!(!queue.is_ripe(ms(19)) && queue.is_ripe(ms(20)));
        let unsets: Vec<_> =
            std::iter::from_fn(|| queue.pop_unset(ms(20))).map(|p| p.to_string()).collect();
        assert_eq!(unsets, ["::/0", "2001:db8::/32", "10.0.0.0/8", "10.0.0.0/24"]);
        assert_eq!((queue.sets(), queue.unsets(), queue.deadline()), (0, 0, None));
    }

    #[test]
    fn a_removal_that_was_cancelled_starts_a_new_hold() {
        let mut queue = Queue::default();
        let prefix = "10.0.0.0/8".parse().unwrap();
        queue.hold(prefix, ms(20));
        queue.cancel(&prefix);
        queue.hold(prefix, ms(35));
        assert_eq!(queue.pop_unset(ms(34)), None);
        assert_eq!(queue.pop_unset(ms(35)), Some(prefix));
        assert_eq!(queue.pop_unset(ms(99)), None);
    }
}
