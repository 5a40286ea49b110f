//! A dump of routes on its way into the mirror.
//!
//! Here live [`Snapshot`], [`Journal`] and how the two become part of a [`Rib`]. Each piece of a
//! dump was read at a moment of its own, somewhere between the announcements that arrived while
//! it ran, and nothing says where. So the announcements are applied again on top, from every
//! place at which the piece may have been read. Invariant: where these readings do not agree, the
//! table is named as doubtful and is to be read again; otherwise the result is the kernel's list.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use smallvec::SmallVec;

use super::{
    event::{NetEvent, Scope},
    path_table::{PathId, PathTable},
    prefix::{Family, Prefix},
    prefix_map::PrefixMap,
    rib::{Entry, PathList, Rib, edit, reindex, same_route, same_routes},
    route::{NexthopId, Path, Route, RouteEvent, TableId},
};

/// More announcements than this about one prefix during one dump, and the table is read again:
/// comparing all readings takes the square of it.
const READINGS: usize = 32;

/// A dump on its way into the mirror.
#[derive(Debug, Default)]
pub struct Snapshot {
    entries: PrefixMap<Entry>,
}

/// What was announced about routes while a dump ran.
#[derive(Debug, Default)]
pub struct Journal<'a> {
    routes: HashMap<Prefix, Vec<(usize, Step<'a>)>>,
    /// Nexthop objects that were deleted, and with them the routes that name them.
    gone: Vec<(usize, Step<'a>)>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Route(&'a RouteEvent),
    NexthopGone(NexthopId),
}

type Steps<'a> = SmallVec<[Step<'a>; 2]>;

impl<'a> Journal<'a> {
    /// Sorts out what concerns routes.
    pub fn new(events: &'a [NetEvent]) -> Self {
        let mut journal = Journal::default();
        for (at, event) in events.iter().enumerate() {
            match event {
                NetEvent::Route(route) => {
                    let steps = journal.routes.entry(route.route.prefix).or_default();
                    steps.push((at, Step::Route(route)));
                }
                NetEvent::NexthopGone { id } => journal.gone.push((at, Step::NexthopGone(*id))),
                _ => {}
            }
        }
        journal
    }

    fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.gone.is_empty()
    }

    /// The prefixes that have not been asked for.
    fn prefixes(&self) -> Vec<Prefix> {
        self.routes.keys().copied().collect()
    }

    /// What was announced about a prefix, in order; each prefix can be asked for once.
    fn take(&mut self, prefix: &Prefix) -> Steps<'a> {
        if self.is_empty() {
            return Steps::new();
        }
        let mut steps = self.routes.remove(prefix).unwrap_or_default();
        if !self.gone.is_empty() {
            steps.extend_from_slice(&self.gone);
            steps.sort_by_key(|(at, _)| *at);
        }
        steps.into_iter().map(|(_, step)| step).collect()
    }
}

/// Which prefixes a dump changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// The mirror was empty: all of them.
    All,
    /// These.
    Some(Vec<Prefix>),
}

/// What a dump did to the mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// What changed.
    pub changed: Changed,
    /// Tables that must be read again.
    pub doubtful: BTreeSet<(Family, TableId)>,
}

/// What a dump covers.
#[derive(Clone, Copy)]
struct Cover<'a>(&'a [Scope]);

impl Cover<'_> {
    /// All routes of the table.
    fn whole(self, family: Family, table: TableId) -> bool {
        let fits = |scope: &Scope| {
            scope.family == family && scope.table.is_none_or(|t| t == table) && scope.oif.is_none()
        };
        self.0.iter().any(fits)
    }

    /// This route, because of one of its hops. Routes that name a nexthop object do not count:
    /// they live and die with the object, whose hops may have changed since.
    fn part(self, family: Family, path: &Path) -> bool {
        let fits = |scope: &Scope| {
            scope.family == family
                && scope.table.is_none_or(|table| table == path.table)
                && path.hops.iter().any(|hop| scope.oif == Some(hop.oif))
        };
        path.nexthop == 0 && self.0.iter().any(fits)
    }
}

impl Rib {
    /// Adds a dumped route to a snapshot. Routes with the same key must come in the kernel's
    /// order, as they do in a dump.
    pub fn stage(&mut self, snapshot: &mut Snapshot, route: &Route) {
        let id = self.paths.acquire(&route.path);
        let lists = &mut self.lists;
        snapshot.entries.alter(&route.prefix, |entry| {
            let mut list = entry.map(|entry| lists.load(entry)).unwrap_or_default();
            list.push(id);
            lists.store(entry, &list)
        });
    }

    /// Throws a snapshot away.
    pub fn discard(&mut self, mut snapshot: Snapshot) {
        let (lists, paths) = (&mut self.lists, &mut self.paths);
        snapshot.entries.retain(|_, entry| {
            release(paths, &lists.load(*entry));
            lists.store(Some(*entry), &[]);
            false
        });
    }

    /// Makes the mirror equal to a snapshot that is complete within its scopes, as far as the
    /// journal lets it, and leaves routes outside the scopes alone.
    pub fn commit(
        &mut self,
        mut snapshot: Snapshot,
        scopes: &[Scope],
        journal: Journal<'_>,
    ) -> Committed {
        let mut entries = std::mem::take(&mut self.entries);
        if entries.is_empty() && journal.is_empty() {
            for (prefix, entry) in snapshot.entries.iter() {
                let list = self.lists.load(*entry);
                reindex(&mut self.by_nexthop, &self.paths, prefix, &[], &list);
            }
            self.entries = snapshot.entries;
            return Committed { changed: Changed::All, doubtful: BTreeSet::new() };
        }
        let cover = Cover(scopes);
        let mut merge = Merge { cover, journal, changed: Vec::new(), doubtful: BTreeSet::new() };
        entries.retain(|prefix, entry| {
            let staged = snapshot.entries.remove(&prefix);
            let new = merge.prefix(self, prefix, Some(*entry), staged);
            *entry = new.unwrap_or(*entry);
            new.is_some()
        });
        for (prefix, staged) in snapshot.entries.iter() {
            entries.alter(&prefix, |_| merge.prefix(self, prefix, None, Some(*staged)));
        }
        for prefix in merge.journal.prefixes() {
            entries.alter(&prefix, |entry| merge.prefix(self, prefix, entry, None));
        }
        self.entries = entries;
        Committed { changed: Changed::Some(merge.changed), doubtful: merge.doubtful }
    }
}

/// A commit on its way through the prefixes. Lists own one reference to each of their paths.
struct Merge<'a> {
    cover: Cover<'a>,
    journal: Journal<'a>,
    changed: Vec<Prefix>,
    doubtful: BTreeSet<(Family, TableId)>,
}

impl Merge<'_> {
    /// Works out the paths of a prefix from those in the mirror and those in the snapshot.
    fn prefix(
        &mut self,
        rib: &mut Rib,
        prefix: Prefix,
        entry: Option<Entry>,
        staged: Option<Entry>,
    ) -> Option<Entry> {
        let steps = self.journal.take(&prefix);
        // Nearly every prefix has one path, and it is the same as before.
        if let Some(id) = entry.and_then(Entry::lone)
            && entry == staged
            && steps.is_empty()
            && self.cover.whole(prefix.family(), rib.paths.get(id).table)
        {
            rib.paths.release(id);
            return entry;
        }
        let before = entry.map(|entry| rib.lists.load(entry)).unwrap_or_default();
        let dumped = staged.map(|staged| rib.lists.load(staged)).unwrap_or_default();
        if staged.is_some() {
            rib.lists.store(staged, &[]);
        }
        let after = self.list(&mut rib.paths, prefix.family(), &before, &dumped, &steps);
        if same_routes(&rib.paths, &before, &after) {
            release(&mut rib.paths, &after);
            return entry;
        }
        self.changed.push(prefix);
        reindex(&mut rib.by_nexthop, &rib.paths, prefix, &before, &after);
        release(&mut rib.paths, &before);
        rib.lists.store(entry, &after)
    }

    /// The same, on bare lists. Takes over `dumped`, but not `before`.
    fn list(
        &mut self,
        paths: &mut PathTable,
        family: Family,
        before: &[PathId],
        dumped: &[PathId],
        steps: &[Step<'_>],
    ) -> PathList {
        let cover = self.cover;
        let (mut after, mut parts) = (PathList::new(), PathList::new());
        for id in before.iter().filter(|id| !cover.whole(family, paths.get(**id).table)) {
            after.push(*id);
        }
        after.iter().for_each(|id| paths.retain(*id));
        for id in dumped {
            let path = paths.get(*id);
            if cover.whole(family, path.table) {
                after.push(*id);
            } else if cover.part(family, path) {
                parts.push(*id);
            } else {
                paths.release(*id);
            }
        }
        self.parts(paths, family, &mut after, &parts, steps);
        if steps.is_empty() {
            return after;
        }
        let covered = |step: &Step<'_>| match step {
            Step::Route(event) => cover.whole(family, event.route.path.table),
            Step::NexthopGone(_) => true,
        };
        let steps: Steps<'_> = steps.iter().filter(|step| covered(step)).copied().collect();
        let last = replay(paths, family, cover, &after, &steps);
        if !agree(paths, family, cover, &after, &last, &steps) {
            let tables = steps.iter().filter_map(|step| match step {
                Step::Route(event) => Some((family, event.route.path.table)),
                Step::NexthopGone(_) => None,
            });
            self.doubtful.extend(tables);
        }
        release(paths, &after);
        last
    }

    /// Brings the routes through certain links up to date. Those that are gone are taken out, so
    /// that the others keep their places.
    fn parts(
        &mut self,
        paths: &mut PathTable,
        family: Family,
        list: &mut PathList,
        parts: &[PathId],
        steps: &[Step<'_>],
    ) {
        let cover = self.cover;
        let is_part = |paths: &PathTable, id: &PathId| {
            let path = paths.get(*id);
            !cover.whole(family, path.table) && cover.part(family, path)
        };
        let old: PathList = list.iter().filter(|id| is_part(paths, id)).copied().collect();
        if same_routes(paths, &old, parts) {
            return release(paths, parts);
        }
        let touched: BTreeSet<TableId> =
            old.iter().chain(parts).map(|id| paths.get(*id).table).collect();
        for table in touched {
            let of_table = |paths: &PathTable, id: &PathId| paths.get(*id).table == table;
            let fresh: PathList = parts.iter().filter(|id| of_table(paths, id)).copied().collect();
            let announced = steps
                .iter()
                .any(|step| matches!(step, Step::Route(event) if event.route.path.table == table));
            if announced {
                // What was announced has been taken in as it came. Is the rest still true?
                let known: PathList =
                    old.iter().filter(|id| of_table(paths, id)).copied().collect();
                if !same_routes(paths, &known, &fresh) {
                    self.doubtful.insert((family, table));
                }
                release(paths, &fresh);
                continue;
            }
            let mut fresh = fresh.into_iter().peekable();
            list.retain(|id| {
                if !is_part(paths, id) || !of_table(paths, id) {
                    return true;
                }
                let found = fresh.next_if(|new| same_route(paths.get(*new), paths.get(*id)));
                paths.release(std::mem::replace(id, found.unwrap_or(*id)));
                found.is_some()
            });
            for id in fresh {
                // It came without an announcement: who knows where in the row it stands.
                self.doubtful.insert((family, table));
                list.push(id);
            }
        }
    }
}

/// Applies announcements to a copy of a list.
fn replay(
    paths: &mut PathTable,
    family: Family,
    cover: Cover<'_>,
    list: &[PathId],
    steps: &[Step<'_>],
) -> PathList {
    let mut list = PathList::from_slice(list);
    list.iter().for_each(|id| paths.retain(*id));
    for step in steps {
        match step {
            Step::Route(event) => {
                edit(paths, &mut list, event.op, family, &event.route.path);
            }
            Step::NexthopGone(gone) => list.retain(|id| {
                let path = paths.get(*id);
                let goes = path.nexthop == *gone && cover.whole(family, path.table);
                if goes {
                    paths.release(*id);
                }
                !goes
            }),
        }
    }
    list
}

/// Whether it makes no difference after which of the announcements the list was read. It cannot
/// have been read right after one that would still change it.
fn agree(
    paths: &mut PathTable,
    family: Family,
    cover: Cover<'_>,
    list: &[PathId],
    last: &[PathId],
    steps: &[Step<'_>],
) -> bool {
    if steps.len() > READINGS {
        return false;
    }
    // A single one either has been taken in, and does nothing, or has not.
    (1..steps.len().max(1)).chain((steps.len() > 1).then_some(steps.len())).all(|at| {
        let again = replay(paths, family, cover, list, &steps[at - 1..at]);
        let possible = alike(paths, &again, list);
        release(paths, &again);
        if !possible {
            return true;
        }
        let other = replay(paths, family, cover, list, &steps[at..]);
        let same = alike(paths, &other, last);
        release(paths, &other);
        same
    })
}

/// Equality but for what changes without an announcement.
fn alike(paths: &PathTable, a: &[PathId], b: &[PathId]) -> bool {
    let same = |(a, b): (&PathId, &PathId)| same_route(paths.get(*a), paths.get(*b));
    a.len() == b.len() && a.iter().zip(b).all(same)
}

fn release(paths: &mut PathTable, list: &[PathId]) {
    for id in list {
        paths.release(*id);
    }
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
mod tests;
