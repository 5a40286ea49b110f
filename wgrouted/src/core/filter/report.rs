//! What the filter tells people.
//!
//! Here live the answers to questions about it, as plain data with names in place of numbers. What
//! the programs counted is not known here: it is in the maps.

use ebpf_xdp::parse::protocol;
use serde::{Deserialize, Serialize};

use super::{
    machine::Counters,
    rule::{Ends, SourceMode},
    table::HookKind,
};
use crate::core::{
    engine::Engine,
    peer::PublicKey,
    prefix::{Family, Prefix},
    route::IfIndex,
};

/// State and counters of the filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterStatus {
    /// How far it is.
    pub state: FilterState,
    /// Why the maps could not be opened.
    pub error: Option<String>,
    /// The filtered links.
    pub links: Vec<LinkRow>,
    /// Peers for which the maps have no room.
    pub left_out: usize,
    /// Entries in the trie of IPv4 sources.
    pub ipv4_sources: usize,
    /// Likewise of IPv6.
    pub ipv6_sources: usize,
    /// Room in the tries.
    pub ipv4_room: u32,
    /// Likewise of IPv6.
    pub ipv6_room: u32,
    /// Sets of several peers that share sources.
    pub sets: usize,
    /// Changes that wait.
    pub pending: usize,
    /// Entries that the maps refused and that are tried again.
    pub refused: usize,
    /// Bytes that the mirror of the maps occupies.
    pub table_bytes: usize,
    /// What was done so far.
    pub counters: Counters,
}

/// How far the filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterState {
    /// No link is filtered.
    Off,
    /// The maps could not be opened.
    Failed,
    /// The maps are being filled.
    Filling,
    /// It is in force on some links, but not on all.
    Partly,
    /// It is in force on every link that exists.
    InForce,
}

/// A filtered link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// The interface.
    pub interface: String,
    /// Its number.
    pub ifindex: IfIndex,
    /// How packets are looked at, if they are.
    pub hook: Option<HookKind>,
    /// Why they are not.
    pub error: Option<String>,
    /// The filter opens and closes the peer's AllowedIPs.
    pub opens: bool,
}

/// A filtered peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilteredPeer {
    /// Its number in the maps.
    pub id: u32,
    /// The interface.
    pub interface: String,
    /// Its name.
    pub peer: String,
    /// Its key.
    pub public_key: PublicKey,
    /// The tunnel through which it speaks; none: directly.
    pub tunnel: Option<String>,
    /// Which sources it may use.
    pub source: SourceMode,
    /// What becomes of what is not legal.
    pub action: Action,
    /// Its group.
    pub group: Option<String>,
    /// Its policy.
    pub policy: Option<String>,
    /// The maps say so.
    pub in_force: bool,
}

impl FilteredPeer {
    /// Who it is, in one word or three: `b`, or `b in gre-b`.
    pub fn who(&self) -> String {
        match &self.tunnel {
            Some(tunnel) => format!("{} in {tunnel}", self.peer),
            None => self.peer.clone(),
        }
    }
}

/// What becomes of packets that are not legal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// They are dropped.
    Enforce,
    /// They are counted and sampled, and pass.
    Monitor,
}

impl Engine {
    /// The filter's state and counters.
    pub fn filter_status(&self) -> FilterStatus {
        let Some(filter) = self.filter() else { return FilterStatus::off() };
        let attached = |ifindex| filter.attached().find(|state| state.ifindex == ifindex);
        let roster = filter.legal().roster();
        let links: Vec<LinkRow> = roster
            .links()
            .map(|(ifindex, link)| {
                let hook = attached(ifindex).map(|state| &state.hook);
                LinkRow {
                    interface: link.name.clone(),
                    ifindex,
                    hook: hook.and_then(|hook| hook.as_ref().ok()).copied(),
                    error: hook.and_then(|hook| hook.as_ref().err()).map(ToString::to_string),
                    opens: self
                        .interfaces()
                        .any(|interface| interface.id() == link.interface && interface.has_doors()),
                }
            })
            .collect();
        let in_force = links.iter().filter(|link| link.hook.is_some()).count();
        let sizes = filter.rule().sizes;
        FilterStatus {
            state: match filter.error() {
                Some(_) => FilterState::Failed,
                None if !filter.is_settled() => FilterState::Filling,
                None if in_force == links.len() => FilterState::InForce,
                None => FilterState::Partly,
            },
            error: filter.error().map(ToString::to_string),
            links,
            left_out: roster.left_out(),
            ipv4_sources: filter.sources().installed(Family::V4),
            ipv6_sources: filter.sources().installed(Family::V6),
            ipv4_room: sizes.sources_v4,
            ipv6_room: sizes.sources_v6,
            sets: filter.sets().len(),
            pending: filter.pending(),
            refused: filter.sources().refused().0,
            table_bytes: filter.sources().allocated_bytes(),
            counters: filter.counters().clone(),
        }
    }

    /// Ends between which a tunnel's packets may be, by the tunnel's number among the filtered peers.
    pub fn tunnel_ends(&self, id: u32) -> Option<Ends> {
        let member = self.filter()?.legal().roster().member(id)?;
        let place = member.tunnel?;
        let interface = self.interfaces().find(|i| i.id() == member.interface)?;
        place.ends.or_else(|| {
            // All that the peer encapsulates: from its address, to wherever.
            let pinned = interface.peers().get(member.idx).pinned.iter().map(Prefix::addr);
            let remote = interface.rule().tunnels[place.at].remote.or_else(|| pinned.max())?;
            Some(Ends { local: remote, remote, protocol: protocol::GRE, key: None })
        })
    }

    /// The filtered peers.
    pub fn filtered_peers(&self) -> Vec<FilteredPeer> {
        let Some(filter) = self.filter() else { return Vec::new() };
        let roster = filter.legal().roster();
        let in_force =
            |ifindex| filter.attached().any(|state| state.ifindex == ifindex && state.hook.is_ok());
        let rows = roster.members().filter_map(|(id, member)| {
            let interface = self.interfaces().find(|i| i.id() == member.interface)?;
            let peer = interface.peers().get(member.idx);
            Some(FilteredPeer {
                id,
                interface: interface.rule().name.clone(),
                peer: peer.name.clone(),
                public_key: peer.public_key,
                tunnel: member.tunnel.map(|place| interface.rule().tunnels[place.at].name.clone()),
                source: member.filter.source,
                action: if member.filter.monitor { Action::Monitor } else { Action::Enforce },
                group: member.filter.group.clone(),
                policy: member.filter.policy.clone(),
                in_force: in_force(member.identity.ifindex)
                    && filter.peer_word(id).is_some_and(|(_, settled)| settled),
            })
        });
        rows.collect()
    }
}

impl FilterStatus {
    fn off() -> FilterStatus {
        FilterStatus {
            state: FilterState::Off,
            error: None,
            links: Vec::new(),
            left_out: 0,
            ipv4_sources: 0,
            ipv6_sources: 0,
            ipv4_room: 0,
            ipv6_room: 0,
            sets: 0,
            pending: 0,
            refused: 0,
            table_bytes: 0,
            counters: Counters::default(),
        }
    }
}
