//! The state machine of the whole daemon.
//!
//! Here lives [`Engine`]: events and the time in, requests and notices out. It owns the mirror of
//! the network and one [`Interface`] per WireGuard device, and passes each change to the
//! interfaces that it concerns. Invariant: work is proportional to the change, except on the one
//! recovery path, where tables are read.

mod filtering;
mod network;
pub mod roster;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{
    event::{Event, InterfaceId, Notice, Output, Scope},
    filter::{Filter, rule::TunnelRule, table::FilterEvent},
    interface::{Interface, Network, Seen, TunnelDevice},
    nexthops::Nexthops,
    prefix::Family,
    rib::Rib,
    route::{IfIndex, Link, LinkKind, NexthopId, TABLE_MAIN, TableId},
    rule::InterfaceRule,
    sync::Sync,
    time::Time,
};

/// What happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Route notifications for followed tables.
    pub route_events: u64,
    /// Route notifications that needed their table to be read again.
    pub ambiguous_events: u64,
    /// Dumps of one table, one family, or of one link's routes in them.
    pub route_dumps: u64,
    /// Routes that those dumps brought.
    pub routes_dumped: u64,
    /// Dumps of all links and nexthop objects; one at the start, two after each loss and after
    /// each change of a link that may take routes along.
    pub object_dumps: u64,
    /// Times that notifications were lost.
    pub overruns: u64,
}

/// The state machine.
#[derive(Debug)]
pub struct Engine {
    rib: Rib,
    nexthops: Nexthops,
    links: HashMap<IfIndex, Link>,
    interfaces: BTreeMap<InterfaceId, Interface>,
    next_id: u32,
    /// Interfaces that are no longer configured, but still remove what is theirs.
    retiring: BTreeSet<InterfaceId>,
    /// Interfaces whose absence or wrong kind has been told.
    told: BTreeSet<InterfaceId>,
    followed: BTreeSet<TableId>,
    loaded: BTreeSet<(Family, TableId)>,
    /// Nexthop objects that routes name, but that are not known.
    orphans: BTreeSet<NexthopId>,
    /// Links have been read.
    objects_loaded: bool,
    sync: Sync,
    /// Which interfaces a path concerns, by path number and generation.
    concerns: Vec<Option<(u32, Concerned)>>,
    counters: Counters,
    filter: Option<Filter>,
    /// A filter that nobody is filtered by any more, but that is still there.
    retired: Option<Filter>,
    out: Vec<Output>,
}

type Concerned = SmallVec<[InterfaceId; 2]>;

impl Engine {
    /// A daemon that follows these interfaces and, after losses, reads everything at most once
    /// per `resync_interval`.
    pub fn new(rules: Vec<InterfaceRule>, resync_interval: Duration) -> Self {
        let mut engine = Engine {
            rib: Rib::default(),
            nexthops: Nexthops::default(),
            links: HashMap::new(),
            interfaces: BTreeMap::new(),
            next_id: 0,
            retiring: BTreeSet::new(),
            told: BTreeSet::new(),
            followed: BTreeSet::new(),
            loaded: BTreeSet::new(),
            orphans: BTreeSet::new(),
            objects_loaded: false,
            sync: Sync::new(resync_interval),
            concerns: Vec::new(),
            counters: Counters::default(),
            filter: None,
            retired: None,
            out: Vec::new(),
        };
        engine.reconfigure(rules, Time::ZERO);
        engine
    }

    /// The kernel's routes in the followed tables.
    pub fn rib(&self) -> &Rib {
        &self.rib
    }

    /// The kernel's nexthop objects.
    pub fn nexthops(&self) -> &Nexthops {
        &self.nexthops
    }

    /// The name of a link, if it is known.
    pub fn link_name(&self, index: IfIndex) -> Option<&str> {
        self.links.get(&index).map(|link| link.name.as_str())
    }

    /// The interfaces.
    pub fn interfaces(&self) -> impl Iterator<Item = &Interface> {
        self.interfaces.values()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The packet filter, if there is one.
    pub fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// The network as interfaces see it.
    pub fn network(&self) -> Network<'_> {
        Network { rib: &self.rib, nexthops: &self.nexthops }
    }

    /// Whether every interface that exists holds what its routes ask for.
    pub fn is_in_sync(&self) -> bool {
        self.objects_loaded
            && self.sync.is_idle()
            && self.filter.as_ref().is_none_or(Filter::is_settled)
            && self
                .interfaces
                .values()
                .all(|interface| interface.ifindex().is_none() || interface.is_in_sync())
    }

    /// Whether nothing is left to do for a shutdown.
    pub fn is_closed(&self) -> bool {
        self.interfaces.values().all(Interface::is_closed)
            && self.filter.as_ref().is_none_or(Filter::is_closed)
    }

    // ---- in ----

    /// Takes in an event.
    pub fn handle(&mut self, event: Event, now: Time) {
        match event {
            Event::Net(events) => {
                for event in events {
                    self.on_net(event, now);
                }
            }
            Event::SyncPart { epoch, part } => self.on_sync_part(epoch, part),
            Event::SyncDone { epoch, error } => self.on_sync_done(epoch, error, now),
            Event::Device { interface, token, cost, result, remembered } => {
                let net = Network { rib: &self.rib, nexthops: &self.nexthops };
                // All audits together may take their share of the time, not each of hundreds.
                let devices = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
                let cost = cost.saturating_mul(devices);
                if let Some(interface) = self.interfaces.get_mut(&interface) {
                    let seen = Seen { token, cost, result, remembered: &remembered };
                    interface.on_device(net, seen, now, &mut self.out);
                }
            }
            Event::Applied { interface, token, result } => {
                if let Some(interface) = self.interfaces.get_mut(&interface) {
                    interface.on_applied(token, result, now, &mut self.out);
                }
            }
            Event::Filter(FilterEvent::Configure(rule)) => self.configure_filter(rule, now),
            Event::Filter(event) => {
                if let Some(filter) = self.filter.as_mut().or(self.retired.as_mut()) {
                    filter.on_event(event, now, &mut self.out);
                }
            }
            Event::Reconfigure(rules) => self.reconfigure(rules, now),
            Event::Resync => {
                self.restart_sync(now);
                if let Some(filter) = &mut self.filter {
                    filter.resync(now);
                }
                for interface in self.interfaces.values_mut() {
                    interface.resync(now);
                }
            }
            Event::Shutdown => {
                for interface in self.interfaces.values_mut() {
                    interface.close(now);
                }
                if let Some(filter) = &mut self.filter {
                    filter.close();
                }
            }
        }
    }

    /// Takes out the next requests and notices.
    pub fn poll(&mut self, now: Time) -> std::vec::Drain<'_, Output> {
        if let Some(request) = self.sync.poll(now) {
            if let super::event::Request::Sync { objects, scopes, .. } = &request {
                self.counters.object_dumps += u64::from(*objects);
                self.counters.route_dumps += scopes.len() as u64;
            }
            self.out.push(Output::Request(request));
        }
        self.poll_filter(now);
        for interface in self.interfaces.values_mut() {
            interface.poll(now, &mut self.out);
        }
        let closed = |id: &InterfaceId| self.interfaces.get(id).is_none_or(Interface::is_closed);
        let gone: Vec<InterfaceId> = self.retiring.iter().copied().filter(closed).collect();
        for id in &gone {
            self.retiring.remove(id);
            self.told.remove(id);
            self.interfaces.remove(id);
        }
        if !gone.is_empty() {
            self.concerns.clear();
            // Of the tables that they alone followed nobody asks any more.
            self.follow(now);
        }
        self.out.drain(..)
    }

    /// When [`Engine::poll`] has something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        let interfaces = self.interfaces.values().filter_map(Interface::deadline);
        let filter = self.filter.iter().chain(&self.retired).filter_map(Filter::deadline);
        self.sync.deadline().into_iter().chain(interfaces).chain(filter).min()
    }

    // ---- configuration ----

    fn reconfigure(&mut self, rules: Vec<InterfaceRule>, now: Time) {
        let net = Network { rib: &self.rib, nexthops: &self.nexthops };
        let mut left: BTreeMap<String, InterfaceId> = self
            .interfaces
            .iter()
            .filter(|(id, _)| !self.retiring.contains(id))
            .map(|(id, interface)| (interface.rule().name.clone(), *id))
            .collect();
        for rule in rules {
            match left.remove(&rule.name).and_then(|id| self.interfaces.get_mut(&id)) {
                Some(interface) if *interface.rule() == rule => {}
                Some(interface) => interface.configure(net, rule, now),
                None => {
                    let id = InterfaceId(self.next_id);
                    self.next_id += 1;
                    self.interfaces.insert(id, Interface::new(id, rule));
                }
            }
        }
        for id in left.into_values() {
            if let Some(interface) = self.interfaces.get_mut(&id) {
                interface.close(now);
                self.retiring.insert(id);
            }
        }
        self.attach(now);
    }

    /// Brings interfaces, links, VRFs and followed tables together.
    fn attach(&mut self, now: Time) {
        let mut retabled = Vec::new();
        for (id, interface) in &mut self.interfaces {
            let name = interface.rule().name.clone();
            let link = self.links.values().find(|link| link.name == name);
            let table = link.and_then(|link| vrf_of(&self.links, link));
            let tunnels = interface.rule().tunnels.iter();
            let tunnels = tunnels.map(|tunnel| device(&self.links, interface.rule(), tunnel));
            let tunnels = tunnels.collect();
            interface.set_tunnels(tunnels);
            if interface.set_vrf(table) {
                retabled.push(*id);
            }
            match link {
                Some(link) if link.kind == LinkKind::Wireguard => {
                    interface.attach(link.index, now);
                    self.told.remove(id);
                }
                _ => {
                    if interface.detach() {
                        self.told.remove(id);
                    }
                    if self.objects_loaded && self.told.insert(*id) {
                        self.out.push(Output::Notice(match link {
                            Some(_) => Notice::NotWireguard { interface: name },
                            None => Notice::Waiting { interface: name },
                        }));
                    }
                }
            }
        }
        self.concerns.clear();
        self.follow(now);
        // The tables may all have been read already, for another interface.
        let net = Network { rib: &self.rib, nexthops: &self.nexthops };
        for id in retabled {
            if let Some(interface) = self.interfaces.get_mut(&id) {
                interface.evaluate_all(net, now);
            }
        }
    }

    fn follow(&mut self, now: Time) {
        let followed: BTreeSet<TableId> =
            self.interfaces.values().flat_map(Interface::followed).collect();
        if self.followed.difference(&followed).next().is_some() {
            self.rib.retain_tables(|table| followed.contains(&table));
            self.loaded.retain(|(_, table)| followed.contains(table));
            // What was announced in the meantime is not known, should they be followed again.
            self.sync.retain(|scope| scope.table.is_none_or(|table| followed.contains(&table)));
        }
        for table in followed.difference(&self.followed) {
            for family in Family::ALL {
                self.sync.schedule(Scope { family, table: Some(*table), oif: None }, now);
            }
        }
        self.followed = followed;
        self.set_ready(now);
    }

    fn set_ready(&mut self, now: Time) {
        let net = Network { rib: &self.rib, nexthops: &self.nexthops };
        for interface in self.interfaces.values_mut() {
            let loaded = |table: &TableId| {
                Family::ALL.iter().all(|family| self.loaded.contains(&(*family, *table)))
            };
            let ready = self.objects_loaded && interface.followed().all(|table| loaded(&table));
            interface.set_routes_ready(net, ready, now);
        }
    }
}

/// The table of the VRF that a link belongs to.
fn vrf_of(links: &HashMap<IfIndex, Link>, link: &Link) -> Option<TableId> {
    match links.get(&link.master?)?.kind {
        LinkKind::Vrf { table } => Some(table),
        _ => None,
    }
}

/// What a tunnel's device is.
fn device(
    links: &HashMap<IfIndex, Link>,
    over: &InterfaceRule,
    tunnel: &TunnelRule,
) -> TunnelDevice {
    let link = links.values().find(|link| link.name == tunnel.name);
    let vrf = link.and_then(|link| vrf_of(links, link));
    let configured = [&tunnel.tables, &over.tables].into_iter().find(|tables| !tables.is_empty());
    let tables = configured.cloned().unwrap_or_else(|| vec![vrf.unwrap_or(TABLE_MAIN)]);
    TunnelDevice { ifindex: link.map(|link| link.index), vrf, tables }
}
