//! A map keyed by prefix, made for a million entries.
//!
//! Here lives [`PrefixMap`], an exact-match hash table per family. A route event names its prefix
//! exactly, so nothing on the hot path needs a trie; the rare longest-prefix question (`explain`)
//! asks once per length. Two tables instead of one keep an IPv4 entry at 8 bytes of key instead
//! of 20.

use std::hash::{Hash, Hasher};

use hashbrown::{HashMap, hash_map::Entry as HashEntry};
use ipnet::{Ipv4Net, Ipv6Net};

use super::prefix::{Family, Prefix};

/// An [`Ipv4Net`] that hashes as one word.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key4(Ipv4Net);

impl Hash for Key4 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(u64::from(u32::from(self.0.addr())) << 8 | u64::from(self.0.prefix_len()));
    }
}

/// An [`Ipv6Net`] that hashes as three words.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key6(Ipv6Net);

impl Hash for Key6 {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(u128::from(self.0.addr()));
        state.write_u8(self.0.prefix_len());
    }
}

/// Map from [`Prefix`] to `V`. Iteration order is arbitrary.
#[derive(Clone, Debug)]
pub struct PrefixMap<V> {
    v4: HashMap<Key4, V>,
    v6: HashMap<Key6, V>,
}

impl std::fmt::Debug for Key4 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::fmt::Debug for Key6 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        PrefixMap { v4: HashMap::new(), v6: HashMap::new() }
    }
}

impl<V> PrefixMap<V> {
    /// Number of entries.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Number of entries of one family.
    pub fn len_of(&self, family: Family) -> usize {
        match family {
            Family::V4 => self.v4.len(),
            Family::V6 => self.v6.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value at exactly this prefix.
    pub fn get(&self, prefix: &Prefix) -> Option<&V> {
        match prefix {
            Prefix::V4(net) => self.v4.get(&Key4(*net)),
            Prefix::V6(net) => self.v6.get(&Key6(*net)),
        }
    }

    /// The value at exactly this prefix.
    pub fn get_mut(&mut self, prefix: &Prefix) -> Option<&mut V> {
        match prefix {
            Prefix::V4(net) => self.v4.get_mut(&Key4(*net)),
            Prefix::V6(net) => self.v6.get_mut(&Key6(*net)),
        }
    }

    /// The value at this prefix, made by `default` if there is none.
    pub fn get_or_insert_with(&mut self, prefix: &Prefix, default: impl FnOnce() -> V) -> &mut V {
        match prefix {
            Prefix::V4(net) => self.v4.entry(Key4(*net)).or_insert_with(default),
            Prefix::V6(net) => self.v6.entry(Key6(*net)).or_insert_with(default),
        }
    }

    /// Sets the value at this prefix and returns the one it replaces.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        match prefix {
            Prefix::V4(net) => self.v4.insert(Key4(net), value),
            Prefix::V6(net) => self.v6.insert(Key6(net), value),
        }
    }

    /// Removes the entry at this prefix.
    pub fn remove(&mut self, prefix: &Prefix) -> Option<V> {
        match prefix {
            Prefix::V4(net) => self.v4.remove(&Key4(*net)),
            Prefix::V6(net) => self.v6.remove(&Key6(*net)),
        }
    }

    /// Lets `edit` change the value at this prefix (`None` if absent); it stays absent or is
    /// removed if the result is `None`.
    pub fn alter(&mut self, prefix: &Prefix, edit: impl FnOnce(Option<V>) -> Option<V>)
    where
        V: Copy,
    {
        macro_rules! alter {
            ($map:expr, $key:expr) => {
                match $map.entry($key) {
                    HashEntry::Occupied(mut entry) => match edit(Some(*entry.get())) {
                        Some(value) => {
                            entry.insert(value);
                        }
                        None => {
                            entry.remove();
                        }
                    },
                    HashEntry::Vacant(entry) => {
                        if let Some(value) = edit(None) {
                            entry.insert(value);
                        }
                    }
                }
            };
        }
        match prefix {
            Prefix::V4(net) => alter!(self.v4, Key4(*net)),
            Prefix::V6(net) => alter!(self.v6, Key6(*net)),
        }
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &V)> {
        let v4 = self.v4.iter().map(|(key, value)| (Prefix::V4(key.0), value));
        v4.chain(self.v6.iter().map(|(key, value)| (Prefix::V6(key.0), value)))
    }

    /// Keeps the entries that `keep` wants; it may change their values.
    pub fn retain(&mut self, mut keep: impl FnMut(Prefix, &mut V) -> bool) {
        self.v4.retain(|key, value| keep(Prefix::V4(key.0), value));
        self.v6.retain(|key, value| keep(Prefix::V6(key.0), value));
    }

    /// Bytes that the tables occupy, free slots included.
    pub fn allocated_bytes(&self) -> usize {
        self.v4.allocation_size() + self.v6.allocation_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alter_inserts_changes_and_removes() {
        let mut map = PrefixMap::default();
        let prefix: Prefix = "10.0.0.0/8".parse().unwrap();
        map.alter(&prefix, |old| old.or(Some(1)));
        assert_eq!(map.get(&prefix), Some(&1));
        map.alter(&prefix, |old| old.map(|n| n + 1));
        assert_eq!(map.get(&prefix), Some(&2));
        map.alter(&prefix, |_| None);
        assert!(map.is_empty());
    }

    #[test]
    fn an_entry_is_small() {
        assert_eq!(size_of::<(Key4, u32)>(), 12);
        assert_eq!(size_of::<(Key6, u32)>(), 24);
    }
}
