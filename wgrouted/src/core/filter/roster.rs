//! Who is filtered: the links, their peers and the peers' numbers in the maps.
//!
//! Here lives [`Roster`], made anew from the interfaces whenever they change. Invariant: a peer keeps
//! its number as long as it stays, also over a restart of the daemon, because the maps tell who has
//! which number.

use std::collections::BTreeMap;

use ebpf_xdp::layout;
use hashbrown::{HashMap, HashSet};

use super::{
    rule::{Ends, PeerFilter, SourceMode},
    table::{Identity, TunnelName},
};
use crate::core::{
    event::InterfaceId,
    interface::Interface,
    peer::PeerIdx,
    prefix::{Family, Prefix},
    route::{IfIndex, TableId},
    rule::LinkMode,
};

/// A filtered peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who it is.
    pub identity: Identity,
    /// Its interface.
    pub interface: InterfaceId,
    /// Its number there.
    pub idx: PeerIdx,
    /// How it is filtered.
    pub filter: PeerFilter,
    /// The tables that count for it, most preferred first.
    pub tables: Vec<TableId>,
    /// The tunnel through which it speaks; `None`: directly.
    pub tunnel: Option<Place>,
}

/// A tunnel's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its position among the tunnels of its interface.
    pub at: usize,
    /// Number of the peer that sends its packets.
    pub outer: u32,
    /// Its device, while it exists.
    pub ifindex: Option<IfIndex>,
    /// Which packets are its.
    pub ends: Option<Ends>,
    /// As a link's.
    pub zone: u16,
}

/// A filtered link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkRow {
    /// Its interface.
    pub interface: InterfaceId,
    /// Its name.
    pub name: String,
    /// Every packet is its only peer's; none if packets tell their peer.
    pub only: Option<u32>,
    /// Whether it is meant to have one peer.
    pub dedicated: bool,
    /// Number of each of its peers in the maps, 0 if it has none.
    pub ids: Vec<u32>,
    /// Flows are known within a zone: links in different VRFs have different ones.
    pub zone: u16,
    /// Numbers of the tunnels inside it.
    pub tunnels: Vec<u32>,
}

/// Everybody who is filtered.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    members: BTreeMap<u32, Member>,
    links: BTreeMap<IfIndex, LinkRow>,
    /// The members whose tunnels' devices these are.
    inside: BTreeMap<IfIndex, u32>,
    ids: HashMap<Identity, u32>,
    /// The number given out last. The next one is sought behind it: what the maps hold of a peer
    /// that went is gone before its number comes again.
    last: u32,
    /// Peers for which there was no number.
    left_out: usize,
}

impl Roster {
    /// The numbers that the maps know. Links and peers are not known by that.
    pub fn adopt(&mut self, peers: &[(u32, Identity)]) {
        self.ids = peers.iter().map(|(id, identity)| (*identity, *id)).collect();
        self.last = peers.iter().map(|(id, _)| *id).max().unwrap_or(0);
    }

    /// Looks at the interfaces. Those that are not ready are left as they were. Numbers are below
    /// `room`.
    /// `held`: numbers that the maps still name, and may go on naming for a grace.
    pub fn renew<'a>(
        &mut self,
        interfaces: impl Iterator<Item = &'a Interface>,
        room: u32,
        held: &dyn Fn() -> HashSet<u32>,
    ) {
        let old = std::mem::take(self);
        (self.ids, self.last) = (old.ids, old.last);
        for interface in interfaces {
            let (Some(rule), Some(ifindex)) = (&interface.rule().filter, interface.ifindex())
            else {
                continue;
            };
            if !interface.is_ready() {
                self.keep(ifindex, &old.links, &old.members);
                continue;
            }
            let dedicated = Family::ALL.into_iter().any(|family| interface.is_dedicated(family));
            let peers = interface.peers();
            let mut row = LinkRow {
                interface: interface.id(),
                name: interface.rule().name.clone(),
                only: None,
                dedicated: dedicated || interface.rule().link == LinkMode::Dedicated,
                ids: Vec::new(),
                zone: interface.vrf().map_or(0, zone),
                tunnels: Vec::new(),
            };
            for (idx, peer) in peers.iter() {
                if !peer.present {
                    row.ids.push(0);
                    continue;
                }
                let identity = Identity { ifindex, public_key: peer.public_key, tunnel: None };
                let Some(id) = self.number(identity, room, held) else {
                    self.left_out += 1;
                    row.ids.push(0);
                    continue;
                };
                let filter = peer.filter.as_ref().unwrap_or(&rule.peers).clone();
                let tables = interface.tables().to_vec();
                let interface = interface.id();
                let member = Member { identity, interface, idx, filter, tables, tunnel: None };
                self.members.insert(id, member);
                row.ids.push(id);
            }
            if row.dedicated {
                row.only = peers.only().map(|idx| row.ids[idx.0 as usize]);
            }
            self.enter(interface, ifindex, &mut row, room, held);
            self.links.insert(ifindex, row);
        }
        let members = &self.members;
        self.ids.retain(|_, id| members.contains_key(id));
        self.inside = members
            .iter()
            .filter_map(|(id, member)| Some((member.tunnel?.ifindex?, *id)))
            .collect();
    }

    /// Takes in the tunnels inside a link. One whose peer is not there has no packets.
    fn enter(
        &mut self,
        interface: &Interface,
        ifindex: IfIndex,
        row: &mut LinkRow,
        room: u32,
        held: &dyn Fn() -> HashSet<u32>,
    ) {
        let peers = interface.peers();
        for (at, (rule, device)) in interface.tunnels().enumerate() {
            // Who owns the other end sends what comes from there, whatever it is called.
            let pinned = rule.remote.and_then(|remote| peers.pinned_over(remote));
            let named = || rule.peer.as_ref().and_then(|key| peers.find(key));
            let Some(idx) = pinned.map(|(_, idx)| idx).or_else(named) else { continue };
            let outer = row.ids[idx.0 as usize];
            if outer == 0 {
                continue;
            }
            let public_key = peers.get(idx).public_key;
            let tunnel = Some(TunnelName::from(rule.name.as_str()));
            let identity = Identity { ifindex, public_key, tunnel };
            let Some(id) = self.number(identity, room, held) else {
                self.left_out += 1;
                continue;
            };
            let zone = device.vrf.map_or(0, zone);
            let place = Place { at, outer, ifindex: device.ifindex, ends: rule.ends, zone };
            let member = Member {
                identity,
                interface: interface.id(),
                idx,
                filter: rule.filter.clone(),
                tables: device.tables.clone(),
                tunnel: Some(place),
            };
            self.members.insert(id, member);
            row.tunnels.push(id);
        }
    }

    fn keep(
        &mut self,
        ifindex: IfIndex,
        links: &BTreeMap<IfIndex, LinkRow>,
        members: &BTreeMap<u32, Member>,
    ) {
        let Some(link) = links.get(&ifindex) else { return };
        let ids = link.ids.iter().chain(&link.tunnels);
        let ids = ids.filter_map(|id| members.get_key_value(id));
        self.members.extend(ids.map(|(id, member)| (*id, member.clone())));
        self.links.insert(ifindex, link.clone());
    }

    /// The identity's number: its own, or the next that is free; when all have been used once, one
    /// that nobody is remembered by, if there is one.
    fn number(
        &mut self,
        identity: Identity,
        room: u32,
        held: &dyn Fn() -> HashSet<u32>,
    ) -> Option<u32> {
        if let Some(id) = self.ids.get(&identity) {
            return Some(*id);
        }
        let taken: HashSet<u32> = self.ids.values().copied().collect();
        let is_free = |id: &u32| !taken.contains(id);
        let id = (self.last + 1..room).find(is_free).or_else(|| {
            let held = held();
            (1..=self.last.min(room - 1)).filter(is_free).min_by_key(|id| held.contains(id))
        })?;
        self.ids.insert(identity, id);
        self.last = id;
        Some(id)
    }

    /// Peers for which the maps have no room: everything that they send is dropped.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// The filtered peers.
    pub fn members(&self) -> impl Iterator<Item = (u32, &Member)> {
        self.members.iter().map(|(id, member)| (*id, member))
    }

    /// The peer with this number.
    pub fn member(&self, id: u32) -> Option<&Member> {
        self.members.get(&id)
    }

    /// The filtered links.
    pub fn links(&self) -> impl Iterator<Item = (IfIndex, &LinkRow)> {
        self.links.iter().map(|(ifindex, link)| (*ifindex, link))
    }

    /// The filtered link with this number.
    pub fn link(&self, ifindex: IfIndex) -> Option<&LinkRow> {
        self.links.get(&ifindex)
    }

    /// The member whose tunnel's device this is.
    pub fn inside(&self, ifindex: IfIndex) -> Option<u32> {
        self.inside.get(&ifindex).copied()
    }

    /// The numbers of the peers of some interfaces, and of the tunnels inside them.
    pub fn of_interfaces(&self, interfaces: &[InterfaceId]) -> impl Iterator<Item = u32> {
        let links = self.links.values().filter(|link| interfaces.contains(&link.interface));
        links.flat_map(|link| link.ids.iter().chain(&link.tunnels).copied()).filter(|id| *id != 0)
    }
}

/// Links in different VRFs have different zones.
fn zone(vrf: TableId) -> u16 {
    (vrf ^ (vrf >> 16)) as u16
}

/// The number of a routing instance, a group and the like: the same in every run, so that a daemon
/// that adopts maps finds its own. `taken` tells of numbers that others have.
pub fn stable_number(
    name: impl Iterator<Item = u8>,
    bits: u32,
    taken: impl Fn(u32) -> bool,
) -> u32 {
    // FNV-1a (draft-eastlake-fnv).
    let hash =
        name.fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mask = (1 << bits) - 1;
    let mut number = (hash ^ (hash >> bits)) & mask;
    while number == 0 || taken(number) {
        number = (number + 1) & mask;
    }
    number
}

/// The mode as the maps have it.
pub fn mode(source: SourceMode) -> layout::Mode {
    match source {
        SourceMode::Off => layout::Mode::Off,
        SourceMode::Strict => layout::Mode::Strict,
        SourceMode::Feasible => layout::Mode::Feasible,
        SourceMode::Loose => layout::Mode::Loose,
        SourceMode::List => layout::Mode::List,
        SourceMode::Group => layout::Mode::Group,
    }
}

/// A prefix of a peer that is its own address, and not a door to everything.
pub fn is_own_address(prefix: &Prefix) -> bool {
    !prefix.is_default()
}
