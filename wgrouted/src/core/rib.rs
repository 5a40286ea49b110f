//! The mirror of the kernel's routes.
//!
//! Here live [`Rib`] and the rules by which notifications change it. What a route means for a peer
//! is `resolve`'s business. Invariants: a prefix is present exactly if it has a path; paths with
//! the same key (table, metric, TOS, source prefix) stand in the kernel's order, the first one
//! being the one it uses.
//!
//! Routes through foreign links are kept too: `NLM_F_REPLACE` replaces the *first* route with the
//! same key, whoever installed it and wherever it leads, so a mirror that skips foreign routes
//! mistakes which route a replacement replaced.

use std::collections::BTreeSet;

use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;

use super::{
    path_table::{PathId, PathTable},
    prefix::{Family, Prefix},
    prefix_map::PrefixMap,
    route::{Hop, NexthopId, Path, RouteEvent, RouteOp, TableId},
};

/// The paths of one prefix.
pub type PathList = SmallVec<[PathId; 4]>;

/// One word for the paths of a prefix: a lone path's number, or, with the top bit set, the number
/// of a list. Nearly every prefix of a real table has a lone path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(u32);

const LIST_BIT: u32 = 1 << 31;

impl Entry {
    /// The path, if it is a lone one.
    pub(super) fn lone(self) -> Option<PathId> {
        (self.0 & LIST_BIT == 0).then_some(PathId(self.0))
    }
}

/// Lists of two and more paths.
#[derive(Debug, Default)]
pub(super) struct Lists {
    slab: Vec<PathList>,
    free: Vec<u32>,
}

impl Lists {
    pub(super) fn load(&self, entry: Entry) -> PathList {
        if entry.0 & LIST_BIT == 0 {
            SmallVec::from_slice(&[PathId(entry.0)])
        } else {
            self.slab[(entry.0 & !LIST_BIT) as usize].clone()
        }
    }

    pub(super) fn store(&mut self, old: Option<Entry>, list: &[PathId]) -> Option<Entry> {
        let slot = old.and_then(|entry| (entry.0 & LIST_BIT != 0).then_some(entry.0 & !LIST_BIT));
        if let [] | [_] = list {
            if let Some(slot) = slot {
                self.slab[slot as usize] = PathList::new();
                self.free.push(slot);
            }
            return list.first().map(|id| Entry(id.0));
        }
        let slot = slot.or_else(|| self.free.pop()).unwrap_or_else(|| {
            self.slab.push(PathList::new());
            self.slab.len() as u32 - 1
        });
        self.slab[slot as usize] = SmallVec::from_slice(list);
        Some(Entry(slot | LIST_BIT))
    }
}

/// What a notification did to the mirror.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The prefix's paths are not what they were.
    pub changed: bool,
    /// The notification did not fit the mirror or had more than one reading: the table should be
    /// read again.
    pub ambiguous: bool,
}

/// The kernel's routes in the tables that are followed.
#[derive(Debug, Default)]
pub struct Rib {
    pub(super) paths: PathTable,
    pub(super) lists: Lists,
    pub(super) entries: PrefixMap<Entry>,
    /// Prefixes whose routes name a nexthop object: a change of the object concerns just these.
    pub(super) by_nexthop: HashMap<NexthopId, HashSet<Prefix>>,
}

impl Rib {
    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Number of prefixes of a family.
    pub fn len_of(&self, family: Family) -> usize {
        self.entries.len_of(family)
    }

    /// Whether there is no route.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The distinct paths.
    pub fn path_table(&self) -> &PathTable {
        &self.paths
    }

    /// The paths of exactly this prefix, those with the same key in the kernel's order.
    pub fn paths(&self, prefix: &Prefix) -> PathList {
        self.entries.get(prefix).map(|entry| self.lists.load(*entry)).unwrap_or_default()
    }

    /// Every prefix with its paths.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, PathList)> {
        self.entries.iter().map(|(prefix, entry)| (prefix, self.lists.load(*entry)))
    }

    /// The prefixes whose routes name one of these nexthop objects.
    pub fn using_nexthops(&self, ids: &[NexthopId]) -> Vec<Prefix> {
        ids.iter().filter_map(|id| self.by_nexthop.get(id)).flatten().copied().collect()
    }

    /// The nexthop objects that routes name.
    pub fn nexthops_in_use(&self) -> impl Iterator<Item = NexthopId> {
        self.by_nexthop.keys().copied()
    }

    /// The tables with routes that name a nexthop object.
    pub fn tables_naming(&self, id: NexthopId) -> BTreeSet<(Family, TableId)> {
        let mut tables = BTreeSet::new();
        for prefix in self.using_nexthops(&[id]) {
            let paths = self.paths(&prefix).into_iter().map(|path| self.paths.get(path));
            let naming = paths.filter(|path| path.nexthop == id);
            tables.extend(naming.map(|path| (prefix.family(), path.table)));
        }
        tables
    }

    /// Bytes that the tables occupy.
    pub fn allocated_bytes(&self) -> usize {
        self.entries.allocated_bytes() + self.lists.slab.capacity() * size_of::<PathList>()
    }

    /// Takes in a notification.
    pub fn apply(&mut self, event: &RouteEvent) -> Outcome {
        let prefix = event.route.prefix;
        let before = self.paths(&prefix);
        let mut after = before.clone();
        let ambiguous =
            edit(&mut self.paths, &mut after, event.op, prefix.family(), &event.route.path);
        let changed = before != after;
        if changed {
            self.put(prefix, &before, &after);
        }
        Outcome { changed, ambiguous }
    }

    /// A nexthop object was deleted: the kernel deletes the routes that name it, the IPv4 ones
    /// without a notification. Returns the prefixes that lost a route.
    pub fn remove_nexthop(&mut self, id: NexthopId) -> Vec<Prefix> {
        let prefixes: Vec<Prefix> = self.by_nexthop.remove(&id).into_iter().flatten().collect();
        for prefix in &prefixes {
            self.retain(prefix, |path| path.nexthop != id);
        }
        prefixes
    }

    /// Forgets the routes in tables that are no longer followed.
    pub fn retain_tables(&mut self, followed: impl Fn(u32) -> bool) {
        let prefixes: Vec<Prefix> = self
            .iter()
            .filter(|(_, list)| list.iter().any(|id| !followed(self.paths.get(*id).table)))
            .map(|(prefix, _)| prefix)
            .collect();
        for prefix in &prefixes {
            self.retain(prefix, |path| followed(path.table));
        }
    }

    fn retain(&mut self, prefix: &Prefix, keep: impl Fn(&Path) -> bool) {
        let before = self.paths(prefix);
        let mut after = before.clone();
        after.retain(|id| keep(self.paths.get(*id)));
        let gone: PathList = before.iter().filter(|id| !after.contains(id)).copied().collect();
        self.put(*prefix, &before, &after);
        for id in gone {
            self.paths.release(id);
        }
    }

    /// Writes back the paths of a prefix and keeps the nexthop index in step. References are the
    /// caller's business.
    fn put(&mut self, prefix: Prefix, before: &[PathId], after: &[PathId]) {
        let lists = &mut self.lists;
        self.entries.alter(&prefix, |entry| lists.store(entry, after));
        // `before` may hold numbers whose last reference is gone; their slots still hold the path.
        reindex(&mut self.by_nexthop, &self.paths, prefix, before, after);
    }
}

/// Whether two lists hold the same routes in the same order within each key. The order between
/// different keys is the mirror's own and means nothing.
pub(super) fn same_routes(paths: &PathTable, a: &[PathId], b: &[PathId]) -> bool {
    if a == b {
        return true;
    }
    a.len() == b.len()
        && a.iter().all(|id| b.contains(id))
        && a.iter().all(|id| {
            let key = paths.get(*id);
            let group = |list: &[PathId]| -> PathList {
                list.iter().filter(|other| same_key(paths.get(**other), key)).copied().collect()
            };
            group(a) == group(b)
        })
}

pub(super) fn reindex(
    by_nexthop: &mut HashMap<NexthopId, HashSet<Prefix>>,
    paths: &PathTable,
    prefix: Prefix,
    before: &[PathId],
    after: &[PathId],
) {
    let nexthop = |id: &PathId| paths.get(*id).nexthop;
    for id in before.iter().map(nexthop).filter(|id| *id != 0) {
        if !after.iter().any(|other| nexthop(other) == id)
            && let Some(prefixes) = by_nexthop.get_mut(&id)
        {
            prefixes.remove(&prefix);
            if prefixes.is_empty() {
                by_nexthop.remove(&id);
            }
        }
    }
    for id in after.iter().map(nexthop).filter(|id| *id != 0) {
        by_nexthop.entry(id).or_default().insert(prefix);
    }
}

/// The kernel's key of a route besides its prefix.
fn same_key(a: &Path, b: &Path) -> bool {
    a.table == b.table && a.metric == b.metric && a.tos == b.tos && a.source == b.source
}

/// Equality but for what changes without a notification: flags of hops, and the hops that a
/// nexthop object stands for.
pub(super) fn same_route(a: &Path, b: &Path) -> bool {
    fn alive(hop: &Hop) -> Hop {
        Hop { dead: false, ..*hop }
    }
    same_key(a, b)
        && a.protocol == b.protocol
        && a.kind == b.kind
        && a.nexthop == b.nexthop
        && (a.nexthop != 0 || a.hops.iter().map(alive).eq(b.hops.iter().map(alive)))
}

/// Whether `part` names only hops of `whole` (`fib6_nh` siblings).
fn is_part(part: &Path, whole: &Path) -> bool {
    part.kind == whole.kind
        && part.nexthop == whole.nexthop
        && part.hops.is_empty() == whole.hops.is_empty()
        && part.hops.iter().all(|hop| whole.hops.iter().any(|other| same_hop(hop, other)))
}

fn same_hop(a: &Hop, b: &Hop) -> bool {
    a.oif == b.oif && a.gateway == b.gateway
}

/// Whether IPv6 would join the route with others into one multipath route
/// (`rt6_qualify_for_ecmp`, net/ipv6/ip6_fib.c).
fn joins_ecmp(path: &Path) -> bool {
    path.nexthop == 0 && path.hops.iter().any(|hop| hop.gateway.is_some())
}

/// Changes the list of a prefix as the kernel changed its own. Returns whether the notification
/// was ambiguous.
pub(super) fn edit(
    paths: &mut PathTable,
    list: &mut PathList,
    op: RouteOp,
    family: Family,
    path: &Path,
) -> bool {
    let group: SmallVec<[usize; 4]> =
        (0..list.len()).filter(|at| same_key(paths.get(list[*at]), path)).collect();
    let twin = group.iter().copied().find(|at| same_route(paths.get(list[*at]), path));
    match op {
        RouteOp::Add if family == Family::V4 => match twin {
            Some(at) => exchange(paths, list, at, path),
            None => {
                let at = group.first().copied().unwrap_or(list.len());
                list.insert(at, paths.acquire(path));
            }
        },
        // IPv6 knows no front (`fib6_add_rt2node`): a gateway joins those that are there, and the
        // notification names them all; anything else goes to the end.
        RouteOp::Add | RouteOp::Append => {
            let grown = || group.iter().copied().find(|at| is_part(paths.get(list[*at]), path));
            match (twin, if family == Family::V6 { grown() } else { None }) {
                (Some(at), _) => exchange(paths, list, at, path),
                (None, Some(at)) => add_hops(paths, list, at, path),
                (None, None) => {
                    let at = group.last().map_or(list.len(), |last| last + 1);
                    list.insert(at, paths.acquire(path));
                }
            }
        }
        RouteOp::Replace => {
            let joins = |at: &usize| joins_ecmp(paths.get(list[*at])) == joins_ecmp(path);
            let alike = group.iter().copied().find(joins).filter(|_| family == Family::V6);
            // `ip nexthop replace` announces the routes that name the object as replaced, each in
            // its own place (`fib_info_notify_update`, net/ipv4/fib_trie.c).
            let retold = twin.filter(|_| path.nexthop != 0);
            match retold.or(alike).or(group.first().copied()) {
                Some(at) => {
                    exchange(paths, list, at, path);
                    if let Some(other) = twin.filter(|other| *other != at) {
                        paths.release(list.remove(other));
                    }
                }
                None => list.push(paths.acquire(path)),
            }
            return group.len() > 1;
        }
        RouteOp::Delete => {
            let part = || group.iter().copied().find(|at| is_part(path, paths.get(list[*at])));
            match twin.or_else(|| if family == Family::V6 { part() } else { None }) {
                Some(at) if twin.is_none() => return remove_hops(paths, list, at, path),
                Some(at) => paths.release(list.remove(at)),
                // The routes of a nexthop object went with the object.
                None => return !group.is_empty() && path.nexthop == 0,
            }
        }
    }
    false
}

fn exchange(paths: &mut PathTable, list: &mut PathList, at: usize, path: &Path) {
    let old = std::mem::replace(&mut list[at], paths.acquire(path));
    paths.release(old);
}

/// Adds the hops that are new in `whole`. The notification begins with the new ones and tells
/// their protocol; a dump begins with the old ones and tells theirs.
fn add_hops(paths: &mut PathTable, list: &mut PathList, at: usize, whole: &Path) {
    let mut path = paths.get(list[at]).clone();
    let known = path.hops.len();
    for hop in &whole.hops {
        match path.hops[..known].iter_mut().find(|old| same_hop(old, hop)) {
            Some(old) => *old = *hop,
            None => path.hops.push(*hop),
        }
    }
    exchange(paths, list, at, &path);
}

/// Takes the hops that `gone` names from a multipath route; the last ones take the route along.
/// Returns whether the protocol is in doubt: each hop has its own, and only the first one's shows.
fn remove_hops(paths: &mut PathTable, list: &mut PathList, at: usize, gone: &Path) -> bool {
    let mut rest = paths.get(list[at]).clone();
    let first = rest.hops.first().copied();
    rest.hops.retain(|hop| !gone.hops.iter().any(|gone| same_hop(gone, hop)));
    if rest.hops.is_empty() {
        paths.release(list.remove(at));
        return false;
    }
    exchange(paths, list, at, &rest);
    rest.hops.first().copied() != first
}

#[cfg(test)]
#[path = "rib_tests.rs"]
mod tests;
