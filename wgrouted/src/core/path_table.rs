//! Distinct paths, each stored once.
//!
//! Here live [`PathTable`] and [`PathId`]. Invariant: a path is in the table exactly as long as
//! its reference count is positive, and two equal paths have the same number.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::route::Path;

/// A path's number in its [`PathTable`].
///
/// The top bit is never set: the RIB uses it to tell a lone path from a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathId(pub(super) u32);

impl PathId {
    /// As an index.
    pub(super) fn number(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Slot {
    path: Path,
    references: u32,
    /// Counts the paths that have lived in this slot, so that what others remember about a
    /// number can be told from what they remember about its predecessor.
    generation: u32,
}

/// An interner with reference counts.
#[derive(Debug, Default)]
pub struct PathTable {
    slots: Vec<Slot>,
    free: Vec<PathId>,
    index: HashTable<PathId>,
    hasher: DefaultHashBuilder,
}

impl PathTable {
    /// The number of this path, with one more reference.
    pub fn acquire(&mut self, path: &Path) -> PathId {
        let hash = self.hasher.hash_one(path);
        let slots = &self.slots;
        if let Some(&id) = self.index.find(hash, |id| slots[id.0 as usize].path == *path) {
            self.slots[id.0 as usize].references += 1;
            return id;
        }
        let id = match self.free.pop() {
            Some(id) => {
                let slot = &mut self.slots[id.0 as usize];
                slot.path = path.clone();
                slot.references = 1;
                slot.generation = slot.generation.wrapping_add(1);
                id
            }
            None => {
                let id = PathId(self.slots.len() as u32);
                assert!(id.0 < 1 << 31, "fewer than two billion distinct paths");
                self.slots.push(Slot { path: path.clone(), references: 1, generation: 0 });
                id
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hash, id, |id| hasher.hash_one(&slots[id.0 as usize].path));
        id
    }

    /// One more reference to a path that is in the table.
    pub fn retain(&mut self, id: PathId) {
        self.slots[id.0 as usize].references += 1;
    }

    /// One reference less; the last one frees the number.
    pub fn release(&mut self, id: PathId) {
        let slot = &mut self.slots[id.0 as usize];
        slot.references -= 1;
        if slot.references == 0 {
            let hash = self.hasher.hash_one(&slot.path);
            if let Ok(entry) = self.index.find_entry(hash, |other| *other == id) {
                entry.remove();
            }
            self.free.push(id);
        }
    }

    /// The path with this number.
    pub fn get(&self, id: PathId) -> &Path {
        &self.slots[id.0 as usize].path
    }

    /// Which path of those that have had this number it is.
    pub fn generation(&self, id: PathId) -> u32 {
        self.slots[id.0 as usize].generation
    }

    /// The paths in use.
    pub fn iter(&self) -> impl Iterator<Item = (PathId, &Path)> {
        let used = self.slots.iter().enumerate().filter(|(_, slot)| slot.references > 0);
        used.map(|(number, slot)| (PathId(number as u32), &slot.path))
    }

    /// Number of paths in use.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether no path is in use.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::route::{RouteKind, TABLE_MAIN};

    fn path(metric: u32) -> Path {
        Path {
            table: TABLE_MAIN,
            metric,
            tos: 0,
            protocol: 12,
            kind: RouteKind::Unicast,
            source: None,
            nexthop: 0,
            hops: Default::default(),
        }
    }

    #[test]
    fn equal_paths_share_a_number_until_the_last_reference() {
        let mut table = PathTable::default();
        let a = table.acquire(&path(1));
        assert_eq!(table.acquire(&path(1)), a);
        let b = table.acquire(&path(2));
        assert_ne!(a, b);
        table.release(a);
        assert_eq!(table.get(a), &path(1));
        table.release(a);
        assert_eq!(table.len(), 1);
        let reused = table.acquire(&path(3));
        assert_eq!(reused, a);
        assert_eq!((table.generation(reused), table.generation(b)), (1, 0));
    }
}
