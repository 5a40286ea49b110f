//! Which sources are legal for whom.
//!
//! Here lives [`Legal`], the one definition of what the tries of sources shall hold: a pure
//! function of routes, nexthop objects, peers and rules. What paths lead to is remembered per path,
//! because a million prefixes share a handful of them.

use std::collections::BTreeMap;

use ebpf_xdp::layout::domain;
use hashbrown::HashSet;

use super::{
    owners::{Owners, PeerIds},
    roster::{Member, Roster, is_own_address, stable_number},
    rule::SourceMode,
    table::SourceKey,
};
use crate::core::{
    election,
    event::InterfaceId,
    interface::{Interface, Network},
    nexthops::ResolvedHops,
    path_table::PathId,
    prefix::Prefix,
    route::{Path, RouteKind, TableId},
};

/// The world that the filter is seen against.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Routes and nexthop objects.
    pub net: Network<'a>,
    /// The interfaces.
    pub interfaces: &'a BTreeMap<InterfaceId, Interface>,
}

/// What a path says about a source.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Meaning {
    /// The kernel does not use it, or not for this.
    Nothing,
    /// Nobody.
    Reject,
    /// These, or elsewhere.
    Leads(Owners),
}

/// What is legal.
#[derive(Debug, Default)]
pub struct Legal {
    roster: Roster,
    /// Tables of each routing instance that somebody asks, most preferred first.
    instances: BTreeMap<u32, Vec<TableId>>,
    /// Members of each group.
    groups: BTreeMap<u32, Vec<u32>>,
    /// What paths mean, by number and generation.
    meanings: Vec<Option<(u32, Meaning)>>,
}

impl Legal {
    /// Who is filtered.
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The numbers of peers that the maps know.
    pub fn adopt(&mut self, peers: &[(u32, super::table::Identity)]) {
        self.roster.adopt(peers);
    }

    /// Looks at the interfaces anew. `held`: numbers of peers that the maps still name.
    pub fn renew(&mut self, view: View<'_>, room: u32, held: &dyn Fn() -> HashSet<u32>) {
        self.roster.renew(view.interfaces.values(), room, held);
        self.forget_meanings();
        self.instances.clear();
        self.groups.clear();
        for (id, member) in self.roster.members() {
            match member.filter.source {
                SourceMode::Strict | SourceMode::Loose => {
                    let number = instance(&self.instances, &member.tables);
                    self.instances.entry(number).or_insert_with(|| member.tables.clone());
                }
                _ => {}
            }
            // Whoever is in a group lends it what is legal for it.
            if let Some(group) = &member.filter.group {
                self.groups.entry(group_number(group)).or_default().push(id);
            }
        }
    }

    /// Nexthop objects changed.
    pub fn forget_meanings(&mut self) {
        self.meanings.clear();
    }

    /// The domain that a peer's mode asks.
    pub fn domain_of(&self, id: u32) -> u32 {
        let Some(member) = self.roster.member(id) else { return 0 };
        match member.filter.source {
            SourceMode::Off => 0,
            SourceMode::Strict | SourceMode::Loose => {
                domain::routes(instance(&self.instances, &member.tables))
            }
            SourceMode::Feasible => domain::feasible(id),
            SourceMode::List => domain::list(id),
            SourceMode::Group => {
                domain::group(member.filter.group.as_deref().map_or(0, group_number))
            }
        }
    }

    /// The entries that routes of a prefix may have, if they lead out of these interfaces now or did
    /// until now.
    pub fn keys_of_routes(&self, prefix: Prefix, concerned: &[InterfaceId]) -> Vec<SourceKey> {
        let mut domains: Vec<u32> = self.instances.keys().map(|i| domain::routes(*i)).collect();
        for id in self.roster.of_interfaces(concerned) {
            let Some(member) = self.roster.member(id) else { continue };
            if member.filter.source == SourceMode::Feasible {
                domains.push(domain::feasible(id));
            }
            if let Some(group) = &member.filter.group {
                domains.push(domain::group(group_number(group)));
            }
        }
        domains.sort_unstable();
        domains.dedup();
        domains.into_iter().map(|domain| SourceKey { domain, prefix }).collect()
    }

    /// The entries that do not come from routes: lists, own addresses, what WireGuard checks.
    pub fn keys_without_routes(&self, view: View<'_>) -> Vec<SourceKey> {
        let mut keys = Vec::new();
        for (id, member) in self.roster.members() {
            let mut put = |domain, prefix| keys.push(SourceKey { domain, prefix });
            for prefix in &member.filter.list {
                put(domain::list(id), *prefix);
            }
            let group = member.filter.group.as_deref().map(group_number);
            for prefix in own(view, member) {
                put(domain::own(id), prefix);
                if let Some(group) = group {
                    put(domain::group(group), prefix);
                }
            }
            if let Some(group) = group {
                for prefix in &member.filter.list {
                    put(domain::group(group), *prefix);
                }
            }
        }
        for (ifindex, link) in self.roster.links().filter(|(_, link)| !link.dedicated) {
            let Some(interface) = view.interfaces.get(&link.interface) else { continue };
            let domain = domain::proven(ifindex);
            keys.extend(interface.slots().iter().map(|(prefix, _)| SourceKey { domain, prefix }));
        }
        keys
    }

    /// What an entry shall say: the definition.
    pub fn owners(&mut self, view: View<'_>, key: SourceKey) -> Option<Owners> {
        let SourceKey { domain: number, prefix } = key;
        let (kind, id) = (number >> domain::BITS, number & ((1 << domain::BITS) - 1));
        // The kinds are told apart as `domain` numbers them.
        if kind == domain::routes(0) >> domain::BITS {
            let tables = self.instances.get(&id)?.clone();
            return self.best(view, &tables, &prefix);
        }
        if kind == domain::group(0) >> domain::BITS {
            let members = self.groups.get(&id)?.clone();
            let legal = members.iter().any(|member| self.lends(view, *member, &prefix));
            // Who of them it is does not matter.
            return legal.then(|| Owners::peer(members[0]));
        }
        if kind == domain::proven(0) >> domain::BITS {
            let link = self.roster.link(id).filter(|link| !link.dedicated)?;
            let slot = view.interfaces.get(&link.interface)?.slots().get(&prefix)?;
            // One that is about to be installed too: until it is, WireGuard drops what it stands for.
            let owner = slot.have().or(slot.want())?;
            let peer = link.ids.get(owner.0 as usize)?;
            return (*peer != 0).then(|| Owners::peer(*peer));
        }
        let member = self.roster.member(id)?;
        let legal = if kind == domain::feasible(0) >> domain::BITS {
            member.filter.source == SourceMode::Feasible && self.leads(view, id, &prefix)
        } else if kind == domain::list(0) >> domain::BITS {
            member.filter.list.contains(&prefix)
        } else if kind == domain::own(0) >> domain::BITS {
            own(view, member).any(|pin| pin == prefix)
        } else {
            false
        };
        legal.then(|| Owners::peer(id))
    }

    fn lends(&mut self, view: View<'_>, id: u32, prefix: &Prefix) -> bool {
        let Some(member) = self.roster.member(id) else { return false };
        member.filter.list.contains(prefix)
            || own(view, member).any(|pin| pin == *prefix)
            || self.leads(view, id, prefix)
    }

    /// Whether some followed route leads to the peer.
    fn leads(&mut self, view: View<'_>, id: u32, prefix: &Prefix) -> bool {
        let paths = view.net.rib.paths(prefix);
        paths.iter().any(|path| {
            let table = view.net.rib.path_table().get(*path).table;
            let counts = |member: &Member| member.tables.contains(&table);
            self.roster.member(id).is_some_and(counts)
                && matches!(
                    self.meaning(view, *path),
                    Meaning::Leads(Owners::Peers(peers)) if peers.contains(&id)
                )
        })
    }

    /// What the best route says.
    fn best(&mut self, view: View<'_>, tables: &[TableId], prefix: &Prefix) -> Option<Owners> {
        let mut best = None;
        for (position, id) in view.net.rib.paths(prefix).iter().enumerate() {
            let path = view.net.rib.path_table().get(*id);
            if !tables.contains(&path.table) {
                continue;
            }
            let owners = match self.meaning(view, *id) {
                Meaning::Nothing => continue,
                Meaning::Reject => Owners::Nobody,
                Meaning::Leads(owners) => owners.clone(),
            };
            let preference = election::preference(tables, path, position);
            if best.as_ref().is_none_or(|(first, _)| preference < *first) {
                best = Some((preference, owners));
            }
        }
        best.map(|(_, owners)| owners)
    }

    fn meaning(&mut self, view: View<'_>, id: PathId) -> &Meaning {
        let (at, table) = (id.number(), view.net.rib.path_table());
        let generation = table.generation(id);
        if self.meanings.len() <= at {
            self.meanings.resize(at + 1, None);
        }
        if self.meanings[at].as_ref().is_none_or(|(known, _)| *known != generation) {
            self.meanings[at] = Some((generation, meaning(&self.roster, view, table.get(id))));
        }
        self.meanings[at].as_ref().map_or(&Meaning::Nothing, |(_, meaning)| meaning)
    }
}

fn meaning(roster: &Roster, view: View<'_>, path: &Path) -> Meaning {
    match path.kind {
        kind if kind.is_reject() => return Meaning::Reject,
        RouteKind::Unicast => {}
        _ => return Meaning::Nothing,
    }
    // It holds for packets to one source only, so it says nothing about all that come from there.
    if path.source.is_some_and(|source| !source.is_default()) {
        return Meaning::Nothing;
    }
    let hops = match view.net.nexthops.resolve(path) {
        ResolvedHops::Blackhole => return Meaning::Reject,
        ResolvedHops::Hops(hops) => hops,
    };
    let mut peers = PeerIds::new();
    let mut usable = false;
    for hop in hops.iter().filter(|hop| !hop.hop.dead) {
        usable = true;
        if let Some(tunnel) = roster.inside(hop.hop.oif) {
            peers.push(tunnel);
            continue;
        }
        let Some(link) = roster.link(hop.hop.oif) else { continue };
        if link.dedicated {
            peers.extend(link.only);
        } else if let Some(interface) = view.interfaces.get(&link.interface)
            && let Ok((idx, _)) = interface.assigner(view.net.nexthops).assign(path, hop)
        {
            peers.extend(link.ids.get(idx.0 as usize).copied().filter(|id| *id != 0));
        }
    }
    peers.sort_unstable();
    peers.dedup();
    match (usable, peers.is_empty()) {
        (false, _) => Meaning::Nothing,
        (true, true) => Meaning::Leads(Owners::Elsewhere),
        (true, false) => Meaning::Leads(Owners::Peers(peers)),
    }
}

/// The peer's own addresses: on the link its tunnel addresses, inside a tunnel those that the
/// operator gives. Its end of the tunnel is none of the latter: nobody routes it there.
fn own<'v>(view: View<'v>, member: &Member) -> impl Iterator<Item = Prefix> + use<'v> {
    let (idx, place) = (member.idx, member.tunnel);
    let interface = view.interfaces.get(&member.interface);
    let direct = interface.filter(|_| place.is_none());
    let direct = direct.into_iter().flat_map(move |one| &one.peers().get(idx).pinned);
    let rules = interface.into_iter().flat_map(|one| &one.rule().tunnels);
    let inside = rules.enumerate().filter(move |(at, _)| place.is_some_and(|p| p.at == *at));
    let inside = inside.flat_map(|(_, tunnel)| &tunnel.pinned);
    direct.chain(inside).copied().filter(is_own_address)
}

fn instance(known: &BTreeMap<u32, Vec<TableId>>, tables: &[TableId]) -> u32 {
    let bytes = tables.iter().flat_map(|table| table.to_be_bytes());
    stable_number(bytes, domain::BITS, |number| {
        known.get(&number).is_some_and(|others| others != tables)
    })
}

fn group_number(name: &str) -> u32 {
    stable_number(name.bytes(), domain::BITS, |_| false)
}
