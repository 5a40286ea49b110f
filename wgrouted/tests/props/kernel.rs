//! A model of the kernel's routing tables, and of what the kernel tells about them.
//!
//! Here lives [`Kernel`]: ordered route lists, IPv6 multipath sets, nexthop objects, links and
//! addresses, changed by what `ip` can do. It announces what a real kernel announces and keeps
//! silent where a real one does. The rules were read in net/ipv4/fib_trie.c (`fib_table_insert`),
//! net/ipv4/fib_semantics.c (`fib_sync_down_dev`), net/ipv6/ip6_fib.c (`fib6_add_rt2node`),
//! net/ipv6/route.c (`fib6_ifdown`) and net/ipv4/nexthop.c (`nexthop_flush_dev`), and watched with
//! `ip monitor` on Linux 6.18. It shares no code with the core beyond the data types.

#[path = "kernel_links.rs"]
mod links;

use std::collections::BTreeMap;

use wgrouted::core::{
    event::{NetEvent, Scope},
    prefix::{Family, Prefix},
    route::{
        Hop, IfIndex, Link, LinkKind, Nexthop, NexthopId, NexthopKind, Path, Route, RouteEvent,
        RouteOp, TableId,
    },
};

/// What `ip route` is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Add,
    Append,
    Prepend,
    Replace,
}

/// Which route `ip route del` shall delete.
#[derive(Clone, Debug)]
pub struct Which {
    pub prefix: Prefix,
    pub table: TableId,
    pub metric: Option<u32>,
    /// The link and the gateway.
    pub hop: Option<(IfIndex, Option<std::net::IpAddr>)>,
}

/// A route, and in IPv6 the protocol of each of its siblings.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    path: Path,
    protocols: Vec<u8>,
}

/// What the kernel still has to do after it announced something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Let go of a link that went down, and delete it if asked to.
    Down(IfIndex, bool),
    /// Use the hops through a link again, of both families or one.
    Up(IfIndex, Option<Family>),
    /// Delete the IPv4 routes of a link without addresses.
    NoAddress(IfIndex),
    /// Delete the routes that name an object, and take it out of its groups.
    NoNexthop(NexthopId),
}

#[derive(Clone, Debug)]
pub struct Kernel {
    links: BTreeMap<IfIndex, Link>,
    addressed: BTreeMap<IfIndex, bool>,
    nexthops: BTreeMap<NexthopId, NexthopKind>,
    /// By metric, and within a metric in the kernel's own order.
    routes: BTreeMap<(Prefix, TableId), Vec<Entry>>,
    next_index: IfIndex,
    rest: Option<Rest>,
    said: Vec<NetEvent>,
    /// `net.ipv4.nexthop_compat_mode`.
    pub compat: bool,
    /// `net.ipv6.route.skip_notify_on_dev_down`.
    pub quiet: bool,
}

impl Kernel {
    pub fn new() -> Kernel {
        Kernel {
            links: BTreeMap::new(),
            addressed: BTreeMap::new(),
            nexthops: BTreeMap::new(),
            routes: BTreeMap::new(),
            next_index: 10,
            rest: None,
            said: Vec::new(),
            compat: true,
            quiet: false,
        }
    }

    // ---- what a listener hears and a dump shows ----

    /// What was announced since the last call.
    pub fn announcements(&mut self) -> Vec<NetEvent> {
        std::mem::take(&mut self.said)
    }

    /// Whether the kernel has announced something that it has not finished.
    pub fn is_busy(&self) -> bool {
        self.rest.is_some()
    }

    pub fn dump_links(&self) -> Vec<Link> {
        self.links.values().cloned().collect()
    }

    pub fn dump_nexthops(&self) -> Vec<Nexthop> {
        self.nexthops.iter().map(|(id, kind)| Nexthop { id: *id, kind: kind.clone() }).collect()
    }

    pub fn dump_routes(&self, scope: &Scope) -> Vec<Route> {
        let mut routes = Vec::new();
        for ((prefix, table), list) in &self.routes {
            if prefix.family() != scope.family || scope.table.is_some_and(|t| t != *table) {
                continue;
            }
            for entry in list {
                if scope.oif.is_none_or(|link| self.leaves_by(&entry.path, link)) {
                    routes.push(Route { prefix: *prefix, path: self.shown(entry) });
                }
            }
        }
        routes
    }

    /// Every prefix's routes in a table, in the kernel's order.
    pub fn table(&self, table: TableId) -> BTreeMap<Prefix, Vec<Path>> {
        let lists = self.routes.iter().filter(|((_, t), _)| *t == table);
        lists.map(|((p, _), list)| (*p, list.iter().map(|e| self.shown(e)).collect())).collect()
    }

    pub fn nexthops(&self) -> &BTreeMap<NexthopId, NexthopKind> {
        &self.nexthops
    }

    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    pub fn index(&self, name: &str) -> Option<IfIndex> {
        self.link(name).map(|link| link.index)
    }

    /// The hops that the kernel itself uses for a path.
    pub fn hops(&self, path: &Path) -> Vec<(NexthopId, Hop)> {
        let single = |id: NexthopId, weight: u32| match self.nexthops.get(&id) {
            Some(NexthopKind::Hop { oif, gateway }) => {
                Some((id, Hop { oif: *oif, gateway: *gateway, weight, realm: 0, dead: false }))
            }
            _ => None,
        };
        match self.nexthops.get(&path.nexthop) {
            Some(NexthopKind::Group(members)) => {
                members.iter().filter_map(|(id, weight)| single(*id, *weight)).collect()
            }
            Some(_) => single(path.nexthop, 1).into_iter().collect(),
            None => path.hops.iter().map(|hop| (0, *hop)).collect(),
        }
    }

    fn leaves_by(&self, path: &Path, link: IfIndex) -> bool {
        self.hops(path).iter().any(|(_, hop)| hop.oif == link)
    }

    fn shown(&self, entry: &Entry) -> Path {
        let mut path = entry.path.clone();
        if path.nexthop != 0 && self.compat {
            path.hops = self.hops(&path).into_iter().map(|(_, hop)| hop).collect();
        }
        path
    }

    fn say(&mut self, op: RouteOp, prefix: Prefix, path: Path) {
        self.said.push(NetEvent::Route(RouteEvent { op, route: Route { prefix, path } }));
    }

    fn say_link(&mut self, index: IfIndex) {
        self.said.extend(self.links.get(&index).cloned().map(NetEvent::Link));
    }

    // ---- routes ----

    /// `ip route add|append|prepend|replace`. Returns whether the kernel agreed.
    pub fn route(&mut self, verb: Verb, prefix: Prefix, path: &Path) -> bool {
        self.finish();
        let up = |hop: &Hop| self.links.get(&hop.oif).is_some_and(|link| link.up);
        if path.nexthop != 0 && !self.fits(path.nexthop, prefix.family()) {
            return false;
        }
        if !path.hops.iter().all(up) {
            return false;
        }
        match prefix.family() {
            Family::V4 => self.insert4(verb, prefix, path),
            Family::V6 => self.insert6(verb, prefix, path),
        }
    }

    /// IPv6 routes use IPv6 objects only.
    fn fits(&self, id: NexthopId, family: Family) -> bool {
        let is_v4 = |id: &NexthopId| match self.nexthops.get(id) {
            Some(NexthopKind::Hop { gateway, .. }) => gateway.is_some_and(|addr| addr.is_ipv4()),
            _ => false,
        };
        match self.nexthops.get(&id) {
            None => false,
            Some(NexthopKind::Group(members)) => {
                family == Family::V4 || members.iter().all(|(id, _)| !is_v4(id))
            }
            Some(_) => family == Family::V4 || !is_v4(&id),
        }
    }

    /// `fib_table_insert`: replacing replaces the first route of the key; two routes of one key
    /// are never equal.
    fn insert4(&mut self, verb: Verb, prefix: Prefix, path: &Path) -> bool {
        let list = self.routes.entry((prefix, path.table)).or_default();
        let first = list.iter().position(|entry| entry.path.metric == path.metric);
        let after = list.iter().position(|entry| entry.path.metric > path.metric);
        let after = after.unwrap_or(list.len());
        let entry = Entry { path: path.clone(), protocols: vec![path.protocol] };
        let known = list.iter().any(|entry| alive(&entry.path) == *path);
        let op = match (verb, first) {
            (Verb::Add, Some(_)) => return false,
            (_, Some(_)) if known => return false,
            (Verb::Replace, Some(at)) => {
                list[at] = entry.clone();
                RouteOp::Replace
            }
            (Verb::Append, Some(_)) => {
                list.insert(after, entry.clone());
                RouteOp::Append
            }
            (Verb::Prepend, Some(at)) => {
                list.insert(at, entry.clone());
                RouteOp::Add
            }
            (_, None) => {
                list.insert(after, entry.clone());
                RouteOp::Add
            }
        };
        let shown = self.shown(&entry);
        self.say(op, prefix, shown);
        true
    }

    /// `fib6_add_rt2node`: gateway routes of one key join; everything else stands in a row behind
    /// its key, wherever it was asked to stand.
    fn insert6(&mut self, verb: Verb, prefix: Prefix, path: &Path) -> bool {
        let list = self.routes.entry((prefix, path.table)).or_default();
        let same = |entry: &Entry| entry.path.metric == path.metric;
        let after = list.iter().position(|entry| entry.path.metric > path.metric);
        let after = after.unwrap_or(list.len());
        let protocols = vec![path.protocol; path.hops.len().max(1)];
        let fresh = Entry { path: path.clone(), protocols };
        let alike = |entry: &Entry| same(entry) && joins(&entry.path) == joins(path);
        let (op, entry) = match verb {
            Verb::Add if list.iter().any(same) => return false,
            Verb::Replace => {
                match list.iter().position(alike).or_else(|| list.iter().position(same)) {
                    Some(at) => {
                        list[at] = fresh.clone();
                        (RouteOp::Replace, fresh)
                    }
                    None => {
                        list.insert(after, fresh.clone());
                        // `ip6_route_multipath_add` repeats the flag it was given.
                        let several = path.hops.len() > 1;
                        (if several { RouteOp::Replace } else { RouteOp::Add }, fresh)
                    }
                }
            }
            Verb::Add | Verb::Append | Verb::Prepend => {
                let op = if verb == Verb::Append { RouteOp::Append } else { RouteOp::Add };
                let twin = |entry: &Entry| match (entry.path.nexthop, path.nexthop) {
                    (0, 0) => {
                        let hop = |hop: &Hop| path.hops.iter().any(|new| same_hop(new, hop));
                        entry.path.hops.iter().any(hop)
                            || (entry.path.hops.is_empty() && path.hops.is_empty())
                    }
                    (a, b) => a == b,
                };
                if list.iter().any(|entry| same(entry) && twin(entry)) {
                    return false;
                }
                match list.iter_mut().find(|entry| joins(path) && alike(entry)) {
                    Some(entry) => {
                        entry.path.hops.extend(path.hops.iter().copied());
                        entry.protocols.extend(fresh.protocols);
                        // Of one new hop it tells first; of several, an append tells from the
                        // start of the ring and a prepend from the first new one.
                        let told = match (path.hops.len(), op) {
                            (2.., RouteOp::Append) => 0,
                            (new, _) => entry.path.hops.len() - new,
                        };
                        let mut turned = entry.clone();
                        turned.path.hops.rotate_left(told);
                        turned.path.protocol = entry.protocols[told];
                        (op, turned)
                    }
                    None => {
                        list.insert(after, fresh.clone());
                        (op, fresh)
                    }
                }
            }
        };
        let shown = self.shown(&entry);
        self.say(op, prefix, shown);
        true
    }

    /// `ip route del`. Returns whether there was such a route.
    pub fn delete(&mut self, which: &Which) -> bool {
        self.finish();
        let at = (which.prefix, which.table);
        let Some(list) = self.routes.get_mut(&at) else { return false };
        let is_v6 = which.prefix.family() == Family::V6;
        let fits = |entry: &Entry| {
            which.metric.is_none_or(|metric| metric == entry.path.metric)
                && which.hop.is_none_or(|(oif, gateway)| {
                    let hop =
                        |hop: &Hop| hop.oif == oif && (gateway.is_none() || gateway == hop.gateway);
                    let several = entry.path.hops.len() > 1;
                    (is_v6 || !several) && entry.path.hops.iter().any(hop)
                })
        };
        let Some(found) = list.iter().position(fits) else { return false };
        match which.hop {
            Some((oif, Some(gateway))) if is_v6 && list[found].path.hops.len() > 1 => {
                let entry = &mut list[found];
                let hop = |hop: &Hop| hop.oif == oif && hop.gateway == Some(gateway);
                let hop = entry.path.hops.iter().position(hop).expect("it fits");
                let gone = without_hop(entry, hop);
                self.say(RouteOp::Delete, which.prefix, gone);
            }
            _ => {
                let entry = list.remove(found);
                let shown = self.shown(&entry);
                self.say(RouteOp::Delete, which.prefix, shown);
            }
        }
        self.routes.retain(|_, list| !list.is_empty());
        true
    }

    // ---- nexthop objects ----

    /// `ip nexthop replace`. Returns whether the kernel agreed.
    pub fn nexthop(&mut self, id: NexthopId, kind: NexthopKind) -> bool {
        self.finish();
        let is_group = |kind: &NexthopKind| matches!(kind, NexthopKind::Group(_));
        if self.nexthops.get(&id).is_some_and(|old| is_group(old) != is_group(&kind)) {
            return false;
        }
        let family = |kind: &NexthopKind| match kind {
            NexthopKind::Hop { gateway: Some(addr), .. } => Some(addr.is_ipv4()),
            _ => None,
        };
        match &kind {
            NexthopKind::Blackhole => {}
            NexthopKind::Hop { oif, .. } => {
                let up = self.links.get(oif).is_some_and(|link| link.up);
                let old = self.nexthops.get(&id);
                if !up || old.is_some_and(|old| family(old) != family(&kind)) {
                    return false;
                }
            }
            NexthopKind::Group(members) => {
                let hop = |id| matches!(self.nexthops.get(id), Some(NexthopKind::Hop { .. }));
                if members.is_empty() || !members.iter().all(|(id, _)| hop(id)) {
                    return false;
                }
            }
        }
        let known = self.nexthops.insert(id, kind.clone());
        self.said.push(NetEvent::Nexthop(Nexthop { id, kind }));
        if known.is_some() && self.compat {
            for user in self.groups_of(id).into_iter().chain([id]) {
                self.retell(user);
            }
        }
        true
    }

    /// `ip nexthop del`.
    pub fn delete_nexthop(&mut self, id: NexthopId) -> bool {
        self.finish();
        if self.nexthops.remove(&id).is_none() {
            return false;
        }
        self.said.push(NetEvent::NexthopGone { id });
        self.rest = Some(Rest::NoNexthop(id));
        true
    }

    fn groups_of(&self, id: NexthopId) -> Vec<NexthopId> {
        let holds = |kind: &NexthopKind| match kind {
            NexthopKind::Group(members) => members.iter().any(|(member, _)| *member == id),
            _ => false,
        };
        self.nexthops.iter().filter(|(_, kind)| holds(kind)).map(|(id, _)| *id).collect()
    }

    /// `fib_info_notify_update`, `fib6_rt_update`: a replacement, wherever in its list it stands.
    fn retell(&mut self, id: NexthopId) {
        let mut news = Vec::new();
        for ((prefix, _), list) in &self.routes {
            let users = list.iter().filter(|entry| entry.path.nexthop == id);
            news.extend(users.map(|entry| (*prefix, self.shown(entry))));
        }
        for (prefix, path) in news {
            self.say(RouteOp::Replace, prefix, path);
        }
    }

    /// `__remove_nexthop`: the routes go, IPv4's silently; then the groups shrink.
    fn let_go_of_nexthop(&mut self, id: NexthopId, silent: bool) {
        let mut news = Vec::new();
        let compat = self.compat;
        for ((prefix, _), list) in &mut self.routes {
            list.retain(|entry| {
                let goes = entry.path.nexthop == id;
                if goes && prefix.family() == Family::V6 && compat {
                    news.push((*prefix, entry.path.clone()));
                }
                !goes
            });
        }
        self.routes.retain(|_, list| !list.is_empty());
        for (prefix, path) in news {
            self.say(RouteOp::Delete, prefix, path);
        }
        for group in self.groups_of(id) {
            let Some(NexthopKind::Group(members)) = self.nexthops.get_mut(&group) else { continue };
            members.retain(|(member, _)| *member != id);
            let kind = NexthopKind::Group(members.clone());
            if members.is_empty() {
                self.nexthops.remove(&group);
                if !silent {
                    self.said.push(NetEvent::NexthopGone { id: group });
                }
                self.let_go_of_nexthop(group, silent);
            } else if !silent {
                self.said.push(NetEvent::Nexthop(Nexthop { id: group, kind }));
            }
        }
    }
}

/// Takes one hop out of a route and returns it as a route of its own, as the kernel tells of it.
fn without_hop(entry: &mut Entry, at: usize) -> Path {
    let hop = entry.path.hops.remove(at);
    let protocol = entry.protocols.remove(at);
    entry.path.protocol = entry.protocols.first().copied().unwrap_or(protocol);
    Path { protocol, hops: [hop].into_iter().collect(), ..entry.path.clone() }
}

fn same_hop(a: &Hop, b: &Hop) -> bool {
    a.oif == b.oif && a.gateway == b.gateway
}

/// `rt6_qualify_for_ecmp`.
fn joins(path: &Path) -> bool {
    path.nexthop == 0 && path.hops.first().is_some_and(|hop| hop.gateway.is_some())
}

/// A path as it was asked for.
fn alive(path: &Path) -> Path {
    let mut path = path.clone();
    path.hops.iter_mut().for_each(|hop| hop.dead = false);
    path
}
