//! Which parts of the array of rules are taken.
//!
//! Here lives bookkeeping alone. Invariant: regions that were given out and not given back do not
//! overlap.

use std::collections::BTreeMap;

/// A run of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// The free runs: first and count, no two of which touch.
#[derive(Debug)]
pub(super) struct Regions {
    size: u32,
    free: BTreeMap<u32, u32>,
}

impl Regions {
    /// All of them free.
    pub(super) fn new(size: u32) -> Regions {
        let mut free = BTreeMap::new();
        if size > 0 {
            free.insert(0, size);
        }
        Regions { size, free }
    }

    /// The smallest free run that is large enough; of these the first. `None`: there is none.
    pub(super) fn take(&mut self, count: u32) -> Option<Region> {
        if count == 0 {
            return Some(Region { first: 0, count: 0 });
        }
        let (first, room) = self
            .free
            .iter()
            .map(|(first, room)| (*first, *room))
            .filter(|(_, room)| *room >= count)
            .min_by_key(|(first, room)| (*room, *first))?;
        self.free.remove(&first);
        if room > count {
            self.free.insert(first + count, room - count);
        }
        Some(Region { first, count })
    }

    /// Takes just this run. `false`, and nothing is taken, unless all of it was free.
    pub(super) fn reserve(&mut self, region: Region) -> bool {
        let Region { first, count } = region;
        let Some(end) = first.checked_add(count) else { return false };
        if count == 0 {
            return end <= self.size;
        }
        let Some((start, room)) = self.free.range(..=first).next_back().map(|(a, b)| (*a, *b))
        else {
            return false;
        };
        if end > start + room {
            return false;
        }
        self.free.remove(&start);
        if start < first {
            self.free.insert(start, first - start);
        }
        if end < start + room {
            self.free.insert(end, start + room - end);
        }
        true
    }

    /// Gives a run back that was taken or reserved.
    pub(super) fn give(&mut self, region: Region) {
        let Region { mut first, mut count } = region;
        if count == 0 {
            return;
        }
        if let Some((start, room)) = self.free.range(..first).next_back().map(|(a, b)| (*a, *b)) {
            debug_assert!(start + room <= first, "given back twice");
            if start + room == first {
                self.free.remove(&start);
                (first, count) = (start, room + count);
            }
        }
        if let Some(room) = self.free.remove(&(first + count)) {
            count += room;
        }
        self.free.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn free_of(regions: &Regions) -> u32 {
        regions.free.values().sum()
    }

    #[test]
    fn the_tightest_run_is_taken() {
        let mut regions = Regions::new(100);
        assert!(regions.reserve(Region { first: 30, count: 10 }));
        assert!(regions.reserve(Region { first: 45, count: 55 }));
        // Free: 0..30 and 40..45.
        assert_eq!(regions.take(5), Some(Region { first: 40, count: 5 }));
        assert_eq!(regions.take(31), None);
        assert_eq!(regions.take(30), Some(Region { first: 0, count: 30 }));
        assert_eq!(regions.take(1), None);
        assert_eq!(regions.take(0), Some(Region { first: 0, count: 0 }));
    }

    #[test]
    fn what_is_taken_or_outside_is_not_reserved() {
        let mut regions = Regions::new(10);
        assert!(regions.reserve(Region { first: 2, count: 3 }));
        for (first, count) in [(2, 3), (0, 3), (4, 1), (4, 2), (8, 3), (10, 1), (u32::MAX, 2)] {
            assert!(!regions.reserve(Region { first, count }), "{first} {count}");
        }
        assert_eq!(free_of(&regions), 7);
    }

    proptest! {
        /// The same as a list of marks, one a rule.
        #[test]
        fn nothing_is_given_twice(steps in prop::collection::vec((0..3_u8, 0..24_u32, 0..12_u32), 1..200)) {
            let mut regions = Regions::new(24);
            let mut marks = [false; 24];
            let mut taken: Vec<Region> = Vec::new();
            for (kind, first, count) in steps {
                let got = match kind {
                    0 => {
                        let got = regions.take(count);
                        let longest = marks.split(|mark| *mark).map(<[bool]>::len).max();
                        prop_assert_eq!(got.is_some(), longest.unwrap_or(0) >= count as usize);
                        got
                    }
                    1 => {
                        let range = first as usize..(first + count) as usize;
                        let open = marks.get(range).is_some_and(|marks| !marks.contains(&true));
                        let region = Region { first, count };
                        prop_assert_eq!(regions.reserve(region), open);
                        open.then_some(region)
                    }
                    _ => {
                        if !taken.is_empty() {
                            let region = taken.swap_remove(first as usize % taken.len());
                            regions.give(region);
                            marks[region.first as usize..][..region.count as usize].fill(false);
                        }
                        None
                    }
                };
                if let Some(region) = got {
                    for mark in &mut marks[region.first as usize..][..region.count as usize] {
                        prop_assert!(!*mark);
                        *mark = true;
                    }
                    taken.push(region);
                }
                let free = marks.iter().filter(|mark| !**mark).count();
                prop_assert_eq!(free_of(&regions) as usize, free);
            }
        }
    }
}
