//! Which peer a route belongs to.
//!
//! Here live the rules of assignment: pure functions of a path, the peers and the nexthop
//! objects. Nothing here depends on the prefix, so a path's claim is worked out once for all the
//! prefixes that share it. Invariant: a gateway resolves only through pinned prefixes, never
//! through synced ones, so no route can make itself resolvable.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::{
    nexthops::{Nexthops, ResolvedHop, ResolvedHops},
    peer::PeerIdx,
    peers::{Peer, Peers},
    prefix::Prefix,
    route::{IfIndex, PROTOCOL_KERNEL, Path, RouteKind},
    rule::Match,
};

/// By which rule a hop belongs to its peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The peer's configured `match` entry with this position.
    Match(usize),
    /// The link has no other peer.
    OnlyPeer,
    /// The gateway lies in this pinned prefix of the peer.
    Gateway(Prefix),
}

/// Why a route has no peer although it leaves by the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Unresolved {
    /// No gateway and no tag: nothing names a peer.
    #[error("the route has no gateway and matches no peer's tags")]
    NoGateway,
    /// The gateway is nobody's tunnel address.
    #[error("gateway {0} lies in no peer's pinned prefixes")]
    UnknownGateway(IpAddr),
    /// A configured peer claims it, but the device does not have the peer.
    #[error("it belongs to a configured peer that is not on the device")]
    PeerAbsent(PeerIdx),
    /// The prefix is outside the managed ranges.
    #[error("the prefix lies outside the managed ranges")]
    NotManaged,
    /// WireGuard knows no source-specific routes.
    #[error("the route holds for one source prefix only, which AllowedIPs cannot express")]
    SourceSpecific,
}

/// What one hop of a path means on an interface.
pub type HopClaim = Result<(PeerIdx, Rule), Unresolved>;

/// What a path means on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nothing: it leaves elsewhere, or nowhere.
    Elsewhere,
    /// The kernel's own route for an address of the interface: no business of ours.
    Own,
    /// Packets end here: no peer, on purpose.
    Reject,
    /// It belongs to this peer.
    Peer {
        /// The peer.
        peer: PeerIdx,
        /// How many other hops of the path lead to other peers, and lose.
        rivals: u32,
    },
    /// It leaves by the interface, but to whom is not known.
    Unresolved(Unresolved),
}

/// One leg of a path on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The hop.
    pub hop: ResolvedHop,
    /// Whose it is.
    pub claim: HopClaim,
}

/// What it takes to assign routes on one interface.
#[derive(Clone, Copy, Debug)]
pub struct Assigner<'a> {
    /// The interface.
    pub ifindex: IfIndex,
    /// Its peers.
    pub peers: &'a Peers,
    /// The peer that owns whatever leaves by the link, if the link has no other.
    pub only: Option<PeerIdx>,
    /// The kernel's nexthop objects.
    pub nexthops: &'a Nexthops,
}

impl Assigner<'_> {
    /// What a path means.
    pub fn claim(&self, path: &Path) -> Claim {
        match path.kind {
            kind if kind.is_reject() => return Claim::Reject,
            RouteKind::Unicast => {}
            _ => return Claim::Elsewhere,
        }
        if self.nexthops.resolve(path) == ResolvedHops::Blackhole {
            return Claim::Reject;
        }
        let legs = self.legs(path);
        let Some(first) = legs.first() else { return Claim::Elsewhere };
        if path.source.is_some_and(|source| !source.is_default()) {
            return Claim::Unresolved(Unresolved::SourceSpecific);
        }
        match best(self.peers, &legs) {
            Some((peer, _)) => {
                let rival = |leg: &&Leg| leg.claim.is_ok_and(|(other, _)| other != peer);
                Claim::Peer { peer, rivals: legs.iter().filter(rival).count() as u32 }
            }
            None if is_own(path) => Claim::Own,
            None => match first.claim {
                Err(reason) => Claim::Unresolved(reason),
                Ok((peer, _)) => Claim::Peer { peer, rivals: 0 },
            },
        }
    }

    /// The legs of a path that leave by the interface, with the peer of each.
    pub fn legs(&self, path: &Path) -> SmallVec<[Leg; 2]> {
        let ResolvedHops::Hops(hops) = self.nexthops.resolve(path) else { return SmallVec::new() };
        let here = hops.into_iter().filter(|hop| hop.hop.oif == self.ifindex && !hop.hop.dead);
        here.map(|hop| Leg { hop, claim: self.assign(path, &hop) }).collect()
    }

    /// The peer of one hop that leaves by the interface.
    pub fn assign(&self, path: &Path, hop: &ResolvedHop) -> HopClaim {
        if let Some((peer, entry)) = self.tagged(path, hop) {
            return self.present(peer, Rule::Match(entry));
        }
        if is_own(path) {
            return Err(Unresolved::NoGateway);
        }
        if let Some(peer) = self.only {
            return self.present(peer, Rule::OnlyPeer);
        }
        let gateway = hop.hop.gateway.ok_or(Unresolved::NoGateway)?;
        let (pinned, peer) =
            self.peers.pinned_over(gateway).ok_or(Unresolved::UnknownGateway(gateway))?;
        self.present(peer, Rule::Gateway(pinned))
    }

    fn present(&self, peer: PeerIdx, rule: Rule) -> HopClaim {
        if self.peers.get(peer).present {
            Ok((peer, rule))
        } else {
            Err(Unresolved::PeerAbsent(peer))
        }
    }

    /// The peer whose `match` entry fits, and the entry's position. Of several, the one with the
    /// strongest condition wins, then the one with more conditions, then the first.
    fn tagged(&self, path: &Path, hop: &ResolvedHop) -> Option<(PeerIdx, usize)> {
        let entries = self.peers.iter().flat_map(|(idx, peer): (_, &Peer)| {
            peer.matches.iter().enumerate().map(move |(at, entry)| (idx, at, entry))
        });
        let fitting = entries.filter(|(_, _, entry)| fits(entry, path, hop));
        fitting.min_by_key(|(_, _, entry)| rank(entry)).map(|(idx, at, _)| (idx, at))
    }
}

/// The kernel's own route for an interface address (`RTPROT_KERNEL` without a gateway).
fn is_own(path: &Path) -> bool {
    path.protocol == PROTOCOL_KERNEL && path.hops.iter().all(|hop| hop.gateway.is_none())
}

/// The best of the legs that have a peer: highest weight, then lowest key.
pub fn best(peers: &Peers, legs: &[Leg]) -> Option<(PeerIdx, usize)> {
    let owned = legs
        .iter()
        .enumerate()
        .filter_map(|(at, leg)| leg.claim.ok().map(|(peer, _)| (at, leg.hop.hop.weight, peer)));
    let better = |(at, weight, peer): &(usize, u32, PeerIdx)| {
        (std::cmp::Reverse(*weight), peers.get(*peer).public_key, *at)
    };
    owned.min_by_key(better).map(|(at, _, peer)| (peer, at))
}

fn fits(entry: &Match, path: &Path, hop: &ResolvedHop) -> bool {
    // "To" realm: the low half (`rtnl_flow`, iproute2 rt_realms).
    let realm = hop.hop.realm & 0xffff;
    entry.protocol.is_none_or(|protocol| protocol == path.protocol)
        && entry.realm.is_none_or(|wanted| wanted == realm)
        && entry.table.is_none_or(|table| table == path.table)
        && entry.metric.is_none_or(|metric| metric == path.metric)
        && entry.nexthop.is_none_or(|id| id == path.nexthop || id == hop.nexthop)
        && entry.gateway.is_none_or(|net| hop.hop.gateway.is_some_and(|addr| net.contains(addr)))
}

/// Order of preference between entries that fit: the kind of the strongest condition in the order
/// protocol, realm, table, metric, nexthop, gateway; then the number of conditions.
fn rank(entry: &Match) -> (usize, std::cmp::Reverse<usize>) {
    let given = [
        entry.protocol.is_some(),
        entry.realm.is_some(),
        entry.table.is_some(),
        entry.metric.is_some(),
        entry.nexthop.is_some(),
        entry.gateway.is_some(),
    ];
    let strongest = given.iter().position(|given| *given).unwrap_or(given.len());
    (strongest, std::cmp::Reverse(given.iter().filter(|given| **given).count()))
}
