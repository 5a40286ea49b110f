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
        rule::{Ends, PeerFilter, SourceMode, TunnelRule},
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

    fn pinned(&self, key: PublicKey) -> Vec<Prefix> {
        let own = self.peers.iter().filter(|peer| peer.key == key);
        own.flat_map(|peer| &peer.pinned).copied().collect()
    }

    /// Who has the other end of a tunnel.
    fn far_end(&self, rule: &TunnelRule) -> Option<PublicKey> {
        let pins = |peer: &&Peer| {
            let pinned = peer.pinned.iter();
            let pinned = pinned.filter(|pin| rule.remote.is_some_and(|end| pin.contains(end)));
            pinned.map(Prefix::prefix_len).max()
        };
        let owner = self.peers.iter().filter(|peer| pins(peer).is_some()).max_by_key(pins);
        let key = owner.map(|peer| peer.key).or(rule.peer)?;
        self.device.peers.contains(&key).then_some(key)
    }
}

/// Somebody who sends: a peer directly, or through a tunnel.
struct Speaker<'a> {
    who: Identity,
    filter: &'a PeerFilter,
    pinned: Vec<Prefix>,
    tables: Vec<TableId>,
    /// The tunnel's rule, and its device.
    tunnel: Option<(&'a TunnelRule, Option<IfIndex>)>,
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
    tunnels: Vec<(IfIndex, Identity)>,
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
        let mut tunnels = Vec::new();
        for link in &links {
            for rule in &link.rule.tunnels {
                let device = kernel.index(&rule.name);
                tunnels.extend(device.zip(speaks(link, rule)));
            }
        }
        let mut routes = Vec::new();
        for table in [domain::MAIN, domain::OTHER] {
            for (prefix, paths) in kernel.table(table) {
                for (at, path) in paths.iter().enumerate() {
                    let says = says(kernel, &links, &tunnels, path);
                    routes.push(Route { prefix, table, metric: path.metric, at, says });
                }
            }
        }
        Oracle { links, tunnels, routes }
    }

    fn speakers(&self) -> Vec<Speaker<'_>> {
        let mut all = Vec::new();
        for link in &self.links {
            all.extend(link.device.peers.iter().map(|key| Speaker {
                who: Identity { ifindex: link.index, public_key: *key, tunnel: None },
                filter: link.filter(*key),
                pinned: link.pinned(*key),
                tables: link.tables.clone(),
                tunnel: None,
            }));
            for rule in &link.rule.tunnels {
                let Some(who) = speaks(link, rule) else { continue };
                let device = self.tunnels.iter().find(|(_, other)| *other == who);
                let own = if rule.tables.is_empty() { &link.rule.tables } else { &rule.tables };
                all.push(Speaker {
                    who,
                    filter: &rule.filter,
                    pinned: rule.pinned.iter().filter(|pin| !pin.is_default()).copied().collect(),
                    tables: own.clone(),
                    tunnel: Some((rule, device.map(|(index, _)| *index))),
                });
            }
        }
        all
    }

    /// The sources that everybody may use.
    pub fn admitted(&self) -> BTreeMap<Identity, Mask> {
        let speakers = self.speakers();
        let masks = speakers.iter().map(|speaker| {
            let bits = addresses().filter(|(_, addr)| self.admits(&speakers, speaker, *addr));
            (speaker.who, bits.map(|(bit, _)| 1 << bit).sum())
        });
        masks.collect()
    }

    /// Through which tunnels each peer speaks, and as whom what comes out of them is judged.
    pub fn tunnels(&self) -> BTreeMap<(Identity, Option<Ends>), Identity> {
        let speakers = self.speakers();
        let tunnels = speakers.iter().filter_map(|speaker| Some((speaker.who, speaker.tunnel?.0)));
        tunnels.map(|(who, rule)| ((Identity { tunnel: None, ..who }, rule.ends), who)).collect()
    }

    /// The sources of all packets that should pass from a link, by the peer that they count for.
    pub fn passing(&self) -> BTreeMap<IfIndex, BTreeMap<Identity, Mask>> {
        let mut passing: BTreeMap<IfIndex, BTreeMap<Identity, Mask>> = BTreeMap::new();
        let speakers = self.speakers();
        for link in &self.links {
            let here = passing.entry(link.index).or_default();
            for (bit, addr) in addresses() {
                let sender = match link.rule.link {
                    LinkMode::Dedicated => link.only(),
                    _ => longest_match(&link.device.table, addr),
                };
                let who = sender.map(|public_key| Identity {
                    ifindex: link.index,
                    public_key,
                    tunnel: None,
                });
                let sender = speakers.iter().find(|speaker| Some(speaker.who) == who);
                if let Some(sender) = sender.filter(|one| self.admits(&speakers, one, addr)) {
                    let who = sender.who;
                    *here.entry(who).or_default() |= 1 << bit;
                }
            }
        }
        passing
    }

    fn admits(&self, all: &[Speaker<'_>], speaker: &Speaker<'_>, addr: IpAddr) -> bool {
        let Speaker { who, filter, tables, .. } = speaker;
        let listed = filter.list.iter().any(|prefix| prefix.contains(addr));
        if filter.source == SourceMode::Off || speaker.pins(addr) {
            return true;
        }
        if filter.source != SourceMode::List && !filter.list.is_empty() && !listed {
            return false;
        }
        match filter.source {
            SourceMode::Off => true,
            SourceMode::List => listed,
            SourceMode::Strict => {
                let best = self.best(tables, addr);
                best.is_some_and(|(_, says)| matches!(says, Says::Leads(to) if to.contains(who)))
            }
            SourceMode::Loose => {
                let best = self.best(tables, addr);
                let counts = |prefix: Prefix| !(filter.ignore_default && prefix.is_default());
                best.is_some_and(|(prefix, says)| matches!(says, Says::Leads(_)) && counts(prefix))
            }
            SourceMode::Feasible => self.is_feasible(speaker, addr),
            SourceMode::Group => all
                .iter()
                .any(|member| member.filter.group == filter.group && self.lends(member, addr)),
        }
    }

    /// What is legal for a member is legal for its group.
    fn lends(&self, member: &Speaker<'_>, addr: IpAddr) -> bool {
        let listed = member.filter.list.iter().any(|prefix| prefix.contains(addr));
        member.pins(addr) || listed || self.is_feasible(member, addr)
    }

    fn is_feasible(&self, speaker: &Speaker<'_>, addr: IpAddr) -> bool {
        self.routes.iter().any(|route| {
            speaker.tables.contains(&route.table)
                && route.prefix.contains(addr)
                && matches!(&route.says, Some(Says::Leads(to)) if to.contains(&speaker.who))
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

impl Speaker<'_> {
    fn pins(&self, addr: IpAddr) -> bool {
        self.pinned.iter().any(|pin| pin.contains(addr))
    }
}

/// Who speaks through a tunnel.
fn speaks(link: &Link<'_>, rule: &TunnelRule) -> Option<Identity> {
    let public_key = link.far_end(rule)?;
    let tunnel = Some(rule.name.as_str().into());
    Some(Identity { ifindex: link.index, public_key, tunnel })
}

fn says(
    kernel: &Kernel,
    links: &[Link<'_>],
    tunnels: &[(IfIndex, Identity)],
    path: &Path,
) -> Option<Says> {
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
        to.extend(tunnels.iter().filter(|(index, _)| *index == hop.oif).map(|(_, who)| *who));
        let Some(link) = links.iter().find(|link| link.index == hop.oif) else { continue };
        let key = match link.rule.link {
            LinkMode::Dedicated => link.only(),
            _ => oracle::peer_of(&link.peers, path, &hop),
        };
        to.extend(key.map(|public_key| Identity { ifindex: link.index, public_key, tunnel: None }));
    }
    Some(Says::Leads(to))
}
