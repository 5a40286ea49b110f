//! What the network tells, and when it is read again.
//!
//! Here lives the engine's side towards the kernel's routes, links and nexthop objects: what each
//! announcement changes, which silent changes it may stand for, and what a dump brings.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use smallvec::SmallVec;

use super::Engine;
use crate::core::{
    event::{InterfaceId, NetEvent, Notice, Output, Scope, SyncPart},
    interface::{Interface, Network},
    nexthops::Nexthops,
    path_table::PathId,
    prefix::{Family, Prefix},
    route::{IfIndex, Link, Nexthop, NexthopId, RouteEvent, RouteOp, TableId},
    snapshot::{Changed, Journal},
    sync::Running,
    time::Time,
};

/// The kernel announces that a link went down *before* it deletes the IPv4 routes through it
/// (`__dev_notify_flags`, net/core/dev.c: RTM_NEWLINK first, then the notifiers), so what is
/// affected is read a little later…
const SETTLE: Duration = Duration::from_millis(50);
/// …and once more, in case the kernel was slow.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);
/// How long an ambiguous notification may wait for its table to be read again.
const AMBIGUOUS: Duration = Duration::from_secs(1);
/// How long a failed dump waits to be tried again.
const SYNC_RETRY: Duration = Duration::from_secs(1);

impl Engine {
    pub(super) fn on_net(&mut self, event: NetEvent, now: Time) {
        match &event {
            NetEvent::Lost => {
                self.counters.overruns += 1;
                self.out.push(Output::Notice(Notice::Overrun));
                let at = self.restart_sync(now);
                // What was lost may have announced something that the kernel had not done yet.
                self.sync.schedule_objects(at + SETTLE_AGAIN);
                for scope in self.all_scopes() {
                    self.sync.schedule(scope, at + SETTLE_AGAIN);
                }
                return;
            }
            NetEvent::Route(route) if !self.followed.contains(&route.route.path.table) => return,
            NetEvent::Route(_) => self.counters.route_events += 1,
            _ => {}
        }
        if let Some(void) = self.sync.journal(&event, now) {
            self.rib.discard(void.snapshot);
        }
        match event {
            NetEvent::Route(route) => self.on_route(&route, now),
            NetEvent::Link(link) => self.on_link(link, now),
            NetEvent::LinkGone { index } => self.on_link_gone(index, now),
            NetEvent::AddressGone { index, family } => {
                // IPv6 announces the routes that go with an address; IPv4 does not.
                if family == Family::V4 {
                    self.reread_link(index, now);
                }
            }
            NetEvent::AddressAdded { index, family } => {
                // Addresses are also announced when their lifetime is renewed.
                if family == Family::V4 && self.has_dead_hop(index) {
                    self.reread_link(index, now);
                }
            }
            NetEvent::Nexthop(nexthop) => self.on_nexthop(nexthop, now),
            NetEvent::NexthopGone { id } => self.on_nexthop_gone(id, now),
            NetEvent::Lost => {}
        }
    }

    fn on_route(&mut self, event: &RouteEvent, now: Time) {
        let prefix = event.route.prefix;
        let mut concerned = self.concerned(&prefix);
        let outcome = self.rib.apply(event);
        // IPv4's first-of-its-key rule leaves no doubt, unless the first may have gone unnoticed.
        let certain =
            event.op == RouteOp::Replace && prefix.family() == Family::V4 && self.sync.is_idle();
        if outcome.ambiguous && !certain {
            self.doubt(prefix.family(), event.route.path.table, now);
        }
        if outcome.changed {
            concerned.extend(self.concerned(&prefix));
            concerned.sort_unstable();
            concerned.dedup();
            self.update(&concerned, prefix, now);
        }
    }

    /// What is known of a table may be wrong: it is read again soon.
    fn doubt(&mut self, family: Family, table: TableId, now: Time) {
        self.counters.ambiguous_events += 1;
        self.sync.require(Scope { family, table: Some(table), oif: None }, now + AMBIGUOUS);
    }

    fn update(&mut self, concerned: &[InterfaceId], prefix: Prefix, now: Time) {
        let net = Network { rib: &self.rib, nexthops: &self.nexthops };
        for id in concerned {
            if let Some(interface) = self.interfaces.get_mut(id) {
                interface.update(net, prefix, now);
            }
        }
        self.update_filter(concerned, prefix);
    }

    /// The interfaces that a prefix's routes lead out of.
    fn concerned(&mut self, prefix: &Prefix) -> SmallVec<[InterfaceId; 4]> {
        let mut all = SmallVec::new();
        if self.interfaces.len() == 1 {
            all.extend(self.interfaces.keys().copied());
            return all;
        }
        for id in self.rib.paths(prefix) {
            all.extend_from_slice(self.concerned_by(id));
        }
        all
    }

    fn concerned_by(&mut self, id: PathId) -> &[InterfaceId] {
        let at = id.0 as usize;
        let generation = self.rib.path_table().generation(id);
        if self.concerns.len() <= at {
            self.concerns.resize(at + 1, None);
        }
        let entry = &mut self.concerns[at];
        if entry.as_ref().is_none_or(|(known, _)| *known != generation) {
            let path = self.rib.path_table().get(id);
            let here = |interface: &Interface| interface.is_used_by(&self.nexthops, path);
            let concerned =
                self.interfaces.iter().filter(|(_, i)| here(i)).map(|(id, _)| *id).collect();
            *entry = Some((generation, concerned));
        }
        entry.as_ref().map_or(&[], |(_, concerned)| concerned)
    }

    fn on_link(&mut self, link: Link, now: Time) {
        let index = link.index;
        let (up, master) = (link.up, link.master);
        let unchanged = self.links.get(&index) == Some(&link);
        let before = self.links.insert(index, link);
        if unchanged {
            return;
        }
        if before.is_some_and(|before| before.up != up || before.master != master) {
            self.reread_link(index, now);
        }
        self.attach(now);
    }

    fn on_link_gone(&mut self, index: IfIndex, now: Time) {
        if self.links.remove(&index).is_some() {
            self.reread_link(index, now);
            self.attach(now);
        }
    }

    /// Routes through a link may have gone or come without notice: they are read again. So are the
    /// nexthop objects, which go with their link, also from their groups, without notice
    /// (`nexthop_flush_dev`, net/ipv4/nexthop.c).
    fn reread_link(&mut self, index: IfIndex, now: Time) {
        let paths = self.rib.path_table().iter().map(|(_, path)| path);
        let through = paths.filter(|path| self.nexthops.uses_link(path, index));
        let tables: BTreeSet<(TableId, bool)> =
            through.map(|path| (path.table, path.nexthop != 0)).collect();
        self.reread(index, &tables, now);
    }

    fn has_dead_hop(&self, index: IfIndex) -> bool {
        let mut hops = self.rib.path_table().iter().flat_map(|(_, path)| &path.hops);
        hops.any(|hop| hop.oif == index && hop.dead)
    }

    /// Reads tables again, all of them or, where no objects are involved, their routes through a
    /// link: soon, and once more.
    fn reread(&mut self, index: IfIndex, tables: &BTreeSet<(TableId, bool)>, now: Time) {
        for at in [now + SETTLE, now + SETTLE_AGAIN] {
            if !self.nexthops.is_empty() {
                self.sync.schedule_objects(at);
            }
            for (table, by_object) in tables {
                // A dump cannot ask for routes through a link that is gone, nor for those whose
                // object went and came back elsewhere: their whole tables are read.
                let some = !by_object && self.links.contains_key(&index);
                // A path does not know its family; an empty answer costs little.
                for family in Family::ALL {
                    let scope = Scope { family, table: Some(*table), oif: some.then_some(index) };
                    self.sync.schedule(scope, at);
                }
            }
        }
    }

    fn on_nexthop(&mut self, nexthop: Nexthop, now: Time) {
        let id = nexthop.id;
        if self.nexthops.insert(nexthop) {
            let users = self.nexthops.users(id);
            let affected = self.rib.using_nexthops(&users);
            self.claims_changed(&affected, now);
        }
    }

    fn on_nexthop_gone(&mut self, id: NexthopId, now: Time) {
        let users = self.nexthops.users(id);
        let affected = self.rib.using_nexthops(&users);
        self.nexthops.remove(id);
        self.rib.remove_nexthop(id);
        self.claims_changed(&affected, now);
    }

    /// What these prefixes' paths lead to changed, though the paths themselves did not.
    fn claims_changed(&mut self, prefixes: &[Prefix], now: Time) {
        if prefixes.is_empty() {
            return;
        }
        self.concerns.clear();
        for interface in self.interfaces.values_mut() {
            interface.forget_claims();
        }
        if let Some(filter) = &mut self.filter {
            filter.forget_meanings();
        }
        let all: Vec<InterfaceId> = self.interfaces.keys().copied().collect();
        for prefix in prefixes {
            self.update(&all, *prefix, now);
        }
    }

    // ---- reading the network ----

    fn all_scopes(&self) -> Vec<Scope> {
        let tables = self.followed.iter();
        let scopes = tables.flat_map(|table| {
            Family::ALL.map(|family| Scope { family, table: Some(*table), oif: None })
        });
        scopes.collect()
    }

    /// Returns when everything will be read.
    pub(super) fn restart_sync(&mut self, now: Time) -> Time {
        let (void, at) = self.sync.restart(self.all_scopes(), now);
        if let Some(void) = void {
            self.rib.discard(void.snapshot);
        }
        at
    }

    pub(super) fn on_sync_part(&mut self, epoch: u64, part: SyncPart) {
        let Some(running) = self.sync.running(epoch) else { return };
        if let SyncPart::Routes(routes) = &part {
            self.counters.routes_dumped += routes.len() as u64;
            for route in routes.iter().filter(|route| self.followed.contains(&route.path.table)) {
                self.rib.stage(&mut running.snapshot, route);
            }
        }
        running.take(part);
    }

    pub(super) fn on_sync_done(&mut self, epoch: u64, error: Option<String>, now: Time) {
        let Some(mut done) = self.sync.finish(epoch) else { return };
        if let Some(error) = error {
            self.sync.again(&done, now + SYNC_RETRY);
            self.rib.discard(done.snapshot);
            return self.out.push(Output::Notice(Notice::SyncFailed { error }));
        }
        let mut suspects = BTreeSet::new();
        if done.objects {
            suspects = self.replace_objects(&mut done, now);
        }
        let committed = self.rib.commit(done.snapshot, &done.scopes, Journal::new(&done.journal));
        let whole = done.scopes.iter().filter(|scope| scope.oif.is_none());
        let whole = whole.filter_map(|scope| scope.table.map(|table| (scope.family, table)));
        self.loaded.extend(whole);
        for (family, table) in committed.doubtful {
            self.doubt(family, table, now);
        }
        // When these were announced, the mirror may not have known yet what they concern.
        suspects.extend(done.journal.iter().filter_map(|event| match event {
            NetEvent::Link(link) => Some(link.index),
            NetEvent::LinkGone { index }
            | NetEvent::AddressGone { index, .. }
            | NetEvent::AddressAdded { index, .. } => Some(*index),
            _ => None,
        }));
        for index in suspects {
            let paths = self.rib.path_table().iter().map(|(_, path)| path);
            let affected =
                paths.filter(|path| path.nexthop != 0 || self.nexthops.uses_link(path, index));
            let tables = affected.map(|path| (path.table, path.nexthop != 0)).collect();
            self.reread(index, &tables, now);
        }
        self.doubt_orphans(now);
        self.routes_changed(&committed.changed, now);
        self.set_ready(now);
    }

    /// A route that names an unknown nexthop object is about to go with it, or the object is
    /// about to come. Each object is given one more look.
    fn doubt_orphans(&mut self, now: Time) {
        self.orphans.retain(|id| !self.nexthops.contains(*id));
        let named = self.rib.nexthops_in_use();
        let unknown: Vec<NexthopId> = named.filter(|id| !self.nexthops.contains(*id)).collect();
        for id in unknown {
            if self.orphans.insert(id) {
                for (family, table) in self.rib.tables_naming(id) {
                    self.doubt(family, table, now);
                }
            }
        }
    }

    fn routes_changed(&mut self, changed: &Changed, now: Time) {
        let all: Vec<InterfaceId> = self.interfaces.keys().copied().collect();
        match changed {
            // Half of the table or all of it: one sweep is cheaper.
            Changed::Some(prefixes) if prefixes.len() <= self.rib.len() / 2 => {
                for prefix in prefixes {
                    self.update(&all, *prefix, now);
                }
            }
            _ => {
                let net = Network { rib: &self.rib, nexthops: &self.nexthops };
                for interface in self.interfaces.values_mut() {
                    // The filter notices by the interfaces' revisions.
                    interface.evaluate_all(net, now);
                }
            }
        }
    }

    /// Makes links and nexthop objects equal to those that a dump brought, with what was announced
    /// since. Returns the links whose routes may have gone or come unnoticed.
    fn replace_objects(&mut self, done: &mut Running, now: Time) -> BTreeSet<IfIndex> {
        let mut links: BTreeMap<IfIndex, Link> =
            std::mem::take(&mut done.links).into_iter().map(|link| (link.index, link)).collect();
        let mut nexthops = Nexthops::default();
        for nexthop in std::mem::take(&mut done.nexthops) {
            nexthops.insert(nexthop);
        }
        for event in &done.journal {
            match event {
                NetEvent::Link(link) => {
                    links.insert(link.index, link.clone());
                }
                NetEvent::LinkGone { index } => {
                    links.remove(index);
                }
                NetEvent::Nexthop(nexthop) => {
                    nexthops.insert(nexthop.clone());
                }
                NetEvent::NexthopGone { id } => nexthops.remove(*id),
                _ => {}
            }
        }

        let mut suspects: BTreeSet<IfIndex> =
            self.links.keys().filter(|index| !links.contains_key(*index)).copied().collect();
        for index in &suspects {
            self.links.remove(index);
        }
        for (index, link) in links {
            let (up, master) = (link.up, link.master);
            let before = self.links.insert(index, link);
            let changed = |before: Link| before.up != up || before.master != master;
            // One that goes down at this moment may not have lost its routes yet.
            if before.map_or(!up, changed) {
                suspects.insert(index);
            }
        }
        self.objects_loaded = true;

        let gone: Vec<NexthopId> =
            self.nexthops.ids().filter(|id| !nexthops.contains(*id)).collect();
        for id in gone {
            self.on_nexthop_gone(id, now);
        }
        for nexthop in nexthops.iter() {
            self.on_nexthop(nexthop, now);
        }
        self.attach(now);
        suspects
    }
}
