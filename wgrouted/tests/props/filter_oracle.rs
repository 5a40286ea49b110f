//! Which sources the filter should admit, worked out the slow and obvious way.
//!
//! Here lives [`admitted`]: a second reading of the modes, from the kernel model's own tables and
//! the rules, for each address by itself. No trie, no set, no number, no event.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use wgrouted::core::{
    filter::{
        rule::{PeerFilter, SourceMode},
        table::Identity,
    },
    peer::PublicKey,
    prefix::Prefix,
    route::{IfIndex, LinkKind, NexthopKind, Path, TABLE_MAIN, TableId},
    rule::{InterfaceRule, LinkMode},
};

use crate::{
    device::{FakeDevice, longest_match},
    domain,
    filter_maps::{Mask, addresses},
    kernel::Kernel,
    oracle::{self, Peer},
};

/// A filtered link.
struct Link<'a> {
    index: IfIndex,
    rule: &'a InterfaceRule,
    device: &'a FakeDevice,
    tables: Vec<TableId>,
    peers: Vec<Peer>,
}

impl Link<'_> {
    fn only(&self) -> Option<PublicKey> {
        match self.device.peers.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    fn filter(&self, key: PublicKey) -> &PeerFilter {
        let own = self.rule.peers.iter().find(|peer| peer.public_key == key);
        let link = self.rule.filter.as_ref().expect("filtered");
        own.and_then(|peer| peer.filter.as_ref()).unwrap_or(&link.peers)
    }

    fn pins(&self, key: PublicKey, addr: IpAddr) -> bool {
        let own = self.peers.iter().filter(|peer| peer.key == key);
        own.flat_map(|peer| &peer.pinned).any(|pin| pin.contains(addr))
    }
}

/// What a route says of the sources that it leads to.
enum Says {
    Nobody,
    /// Any of these; none: it leads elsewhere.
    Leads(BTreeSet<Identity>),
}

/// A route, and the position among those of its prefix and table that the kernel gives it.
struct Route {
    prefix: Prefix,
    table: TableId,
    metric: u32,
    at: usize,
    /// `None`: the kernel does not use it.
    says: Option<Says>,
}

pub struct Oracle<'a> {
    links: Vec<Link<'a>>,
    routes: Vec<Route>,
}

impl<'a> Oracle<'a> {
    pub fn new(
        kernel: &'a Kernel,
        devices: &'a BTreeMap<IfIndex, FakeDevice>,
        rules: &'a [InterfaceRule],
    ) -> Oracle<'a> {
        let links: Vec<Link<'_>> =
            rules.iter().filter_map(|rule| link(kernel, devices, rule)).collect();
        let mut routes = Vec::new();
        for table in [domain::MAIN, domain::OTHER] {
            for (prefix, paths) in kernel.table(table) {
                for (at, path) in paths.iter().enumerate() {
                    let says = says(kernel, &links, path);
                    routes.push(Route { prefix, table, metric: path.metric, at, says });
                }
            }
        }
        Oracle { links, routes }
    }

    /// The sources that every peer may use.
    pub fn admitted(&self) -> BTreeMap<Identity, Mask> {
        let mut all = BTreeMap::new();
        for link in &self.links {
            for key in &link.device.peers {
                let bits = addresses().filter(|(_, addr)| self.admits(link, *key, *addr));
                let mask = bits.map(|(bit, _)| 1 << bit).sum();
                all.insert(Identity { ifindex: link.index, public_key: *key }, mask);
            }
        }
        all
    }

    /// The sources of all packets that should pass from a link, by the peer that they count for.
    pub fn passing(&self) -> BTreeMap<IfIndex, BTreeMap<Identity, Mask>> {
        let mut passing: BTreeMap<IfIndex, BTreeMap<Identity, Mask>> = BTreeMap::new();
        for link in &self.links {
            let here = passing.entry(link.index).or_default();
            for (bit, addr) in addresses() {
                let sender = match link.rule.link {
                    LinkMode::Dedicated => link.only(),
                    _ => longest_match(&link.device.table, addr),
                };
                if let Some(key) = sender.filter(|key| self.admits(link, *key, addr)) {
                    let who = Identity { ifindex: link.index, public_key: key };
                    *here.entry(who).or_default() |= 1 << bit;
                }
            }
        }
        passing
    }

    fn admits(&self, link: &Link<'_>, key: PublicKey, addr: IpAddr) -> bool {
        let filter = link.filter(key);
        let who = Identity { ifindex: link.index, public_key: key };
        let listed = filter.list.iter().any(|prefix| prefix.contains(addr));
        if filter.source == SourceMode::Off || link.pins(key, addr) {
            return true;
        }
        if filter.source != SourceMode::List && !filter.list.is_empty() && !listed {
            return false;
        }
        match filter.source {
            SourceMode::Off => true,
            SourceMode::List => listed,
            SourceMode::Strict => {
                let best = self.best(&link.tables, addr);
                best.is_some_and(|(_, says)| matches!(says, Says::Leads(to) if to.contains(&who)))
            }
            SourceMode::Loose => {
                let best = self.best(&link.tables, addr);
                let counts = |prefix: Prefix| !(filter.ignore_default && prefix.is_default());
                best.is_some_and(|(prefix, says)| matches!(says, Says::Leads(_)) && counts(prefix))
            }
            SourceMode::Feasible => self.is_feasible(link, key, addr),
            SourceMode::Group => self.links.iter().any(|other| {
                other.device.peers.iter().any(|member| {
                    let theirs = other.filter(*member);
                    theirs.group == filter.group && self.lends(other, *member, addr)
                })
            }),
        }
    }

    /// What is legal for a member is legal for its group.
    fn lends(&self, link: &Link<'_>, key: PublicKey, addr: IpAddr) -> bool {
        let filter = link.filter(key);
        let listed = filter.list.iter().any(|prefix| prefix.contains(addr));
        link.pins(key, addr) || listed || self.is_feasible(link, key, addr)
    }

    fn is_feasible(&self, link: &Link<'_>, key: PublicKey, addr: IpAddr) -> bool {
        let who = Identity { ifindex: link.index, public_key: key };
        self.routes.iter().any(|route| {
            link.tables.contains(&route.table)
                && route.prefix.contains(addr)
                && matches!(&route.says, Some(Says::Leads(to)) if to.contains(&who))
        })
    }

    /// The best route to an address: the longest prefix that has a usable one, and of its routes
    /// the first of the first table by metric.
    fn best(&self, tables: &[TableId], addr: IpAddr) -> Option<(Prefix, &Says)> {
        let usable = self.routes.iter().filter(|route| route.prefix.contains(addr));
        let ranked = usable.filter_map(|route| {
            let rank = tables.iter().position(|table| *table == route.table)?;
            let longest = Reverse(route.prefix.prefix_len());
            Some(((longest, rank, route.metric, route.at), route.prefix, route.says.as_ref()?))
        });
        ranked.min_by_key(|(order, ..)| *order).map(|(_, prefix, says)| (prefix, says))
    }
}

fn link<'a>(
    kernel: &Kernel,
    devices: &'a BTreeMap<IfIndex, FakeDevice>,
    rule: &'a InterfaceRule,
) -> Option<Link<'a>> {
    rule.filter.as_ref()?;
    let link = kernel.link(&rule.name)?;
    let device = devices.get(&link.index)?;
    let vrf = kernel.dump_links().into_iter().find(|other| Some(other.index) == link.master);
    let mut tables = rule.tables.clone();
    if tables.is_empty() {
        tables.push(match vrf.map(|vrf| vrf.kind) {
            Some(LinkKind::Vrf { table }) => table,
            _ => TABLE_MAIN,
        });
    }
    let peers = oracle::peers(&rule.peers, &device.peers);
    Some(Link { index: link.index, rule, device, tables, peers })
}

fn says(kernel: &Kernel, links: &[Link<'_>], path: &Path) -> Option<Says> {
    let drops = kernel.nexthops().get(&path.nexthop) == Some(&NexthopKind::Blackhole);
    if path.kind.is_reject() || drops {
        return Some(Says::Nobody);
    }
    let mut hops = kernel.hops(path);
    hops.retain(|(_, hop)| !hop.dead);
    if hops.is_empty() {
        return None;
    }
    let mut to = BTreeSet::new();
    for (_, hop) in hops {
        let Some(link) = links.iter().find(|link| link.index == hop.oif) else { continue };
        let key = match link.rule.link {
            LinkMode::Dedicated => link.only(),
            _ => oracle::peer_of(&link.peers, path, &hop),
        };
        to.extend(key.map(|public_key| Identity { ifindex: link.index, public_key }));
    }
    Some(Says::Leads(to))
}
