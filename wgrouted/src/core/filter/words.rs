//! Small tables of the filter: what each row shall say and what it says.
//!
//! Here lives [`Words`], the reconciler of every table but the tries of sources, which are large
//! and ordered. Invariant: what a row says changes only when the target acknowledged it or was
//! read.

use std::collections::{BTreeMap, BTreeSet};

/// What a row says.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Have<W> {
    Absent,
    /// It is there; what it says is not known.
    Unknown,
    Known(W),
}

#[derive(Clone, Debug)]
struct Row<W> {
    want: Option<W>,
    have: Have<W>,
}

impl<W: PartialEq> Row<W> {
    fn differs(&self) -> bool {
        match (&self.want, &self.have) {
            (None, Have::Absent) => false,
            (Some(want), Have::Known(have)) => want != have,
            _ => true,
        }
    }
}

/// A table.
#[derive(Clone, Debug)]
pub struct Words<K, W> {
    rows: BTreeMap<K, Row<W>>,
    dirty: BTreeSet<K>,
}

impl<K, W> Default for Words<K, W> {
    fn default() -> Self {
        Words { rows: BTreeMap::new(), dirty: BTreeSet::new() }
    }
}

impl<K: Ord + Copy, W: Clone + PartialEq> Words<K, W> {
    /// The table shall hold these rows and no others.
    pub fn want_all(&mut self, mut rows: BTreeMap<K, W>) {
        for (key, row) in &mut self.rows {
            row.want = rows.remove(key);
        }
        let fresh = |want| Row { want: Some(want), have: Have::Absent };
        self.rows.extend(rows.into_iter().map(|(key, want)| (key, fresh(want))));
        self.compare();
    }

    /// The table was read and has these rows.
    pub fn found(&mut self, keys: impl IntoIterator<Item = K>) {
        for row in self.rows.values_mut() {
            row.have = Have::Absent;
        }
        for key in keys {
            self.rows.entry(key).or_insert(Row { want: None, have: Have::Absent }).have =
                Have::Unknown;
        }
        self.compare();
    }

    fn compare(&mut self) {
        self.rows.retain(|_, row| row.want.is_some() || row.have != Have::Absent);
        let differ = self.rows.iter().filter(|(_, row)| row.differs());
        self.dirty = differ.map(|(key, _)| *key).collect();
    }

    /// Rows to be written.
    pub fn sets(&self) -> impl Iterator<Item = (K, &W)> {
        let rows = self.dirty.iter().filter_map(|key| Some((*key, self.rows.get(key)?)));
        rows.filter_map(|(key, row)| Some((key, row.want.as_ref()?)))
    }

    /// Rows to be removed.
    pub fn removals(&self) -> impl Iterator<Item = K> {
        self.dirty
            .iter()
            .copied()
            .filter(|key| self.rows.get(key).is_some_and(|row| row.want.is_none()))
    }

    /// The row is about to be changed.
    pub fn send(&mut self, key: &K) {
        if let Some(row) = self.rows.get_mut(key) {
            row.have = Have::Unknown;
        }
    }

    /// The target took it.
    pub fn acknowledge(&mut self, key: K, word: Option<W>) {
        // It may have changed its mind while the change was under way, even to the contrary.
        let row = self.rows.entry(key).or_insert(Row { want: None, have: Have::Absent });
        row.have = word.map_or(Have::Absent, Have::Known);
        if row.differs() {
            self.dirty.insert(key);
            return;
        }
        self.dirty.remove(&key);
        if row.want.is_none() {
            self.rows.remove(&key);
        }
    }

    /// Whether the row is in force as it shall be.
    pub fn is_settled(&self, key: &K) -> bool {
        self.rows.get(key).is_some_and(|row| row.want.is_some() && !row.differs())
    }

    /// What the row shall say.
    pub fn wanted(&self, key: &K) -> Option<&W> {
        self.rows.get(key).and_then(|row| row.want.as_ref())
    }

    /// All rows that shall be there.
    pub fn iter(&self) -> impl Iterator<Item = (K, &W)> {
        self.rows.iter().filter_map(|(key, row)| Some((*key, row.want.as_ref()?)))
    }

    /// How many rows differ from what they shall be.
    pub fn pending(&self) -> usize {
        self.dirty.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_once_and_removed_once() {
        let mut words = Words::default();
        words.want_all(BTreeMap::from([(1, 'a'), (2, 'b')]));
        assert_eq!(words.sets().collect::<Vec<_>>(), [(1, &'a'), (2, &'b')]);
        words.acknowledge(1, Some('a'));
        assert!(words.is_settled(&1) && !words.is_settled(&2));
        words.acknowledge(2, Some('b'));
        words.want_all(BTreeMap::from([(2, 'c')]));
        assert_eq!(words.sets().collect::<Vec<_>>(), [(2, &'c')]);
        assert_eq!(words.removals().collect::<Vec<_>>(), [1]);
        words.acknowledge(1, None);
        words.acknowledge(2, Some('c'));
        assert_eq!((words.pending(), words.iter().count()), (0, 1));
    }

    #[test]
    fn what_is_no_longer_wanted_when_it_was_written_is_undone() {
        let mut words = Words::default();
        words.want_all(BTreeMap::from([(1, 'a'), (2, 'b')]));
        words.acknowledge(2, Some('b'));
        words.want_all(BTreeMap::from([(1, 'a'), (2, 'c')]));
        words.want_all(BTreeMap::from([(2, 'b')]));
        assert_eq!(words.pending(), 0);
        words.acknowledge(1, Some('a'));
        words.acknowledge(2, Some('c'));
        assert_eq!(words.removals().collect::<Vec<_>>(), [1]);
        assert_eq!(words.sets().collect::<Vec<_>>(), [(2, &'b')]);
    }

    #[test]
    fn what_was_found_is_written_anew_or_removed() {
        let mut words = Words::default();
        words.found([1, 9]);
        words.want_all(BTreeMap::from([(1, 'a')]));
        assert_eq!(words.sets().collect::<Vec<_>>(), [(1, &'a')]);
        assert_eq!(words.removals().collect::<Vec<_>>(), [9]);
    }
}
