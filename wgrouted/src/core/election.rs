//! Which of a prefix's routes decides its owner.
//!
//! Here lives the election among the routes of one prefix on one interface. WireGuard can give a
//! prefix to one peer only, so there is exactly one winner or none; the losers stay visible.

use serde::{Deserialize, Serialize};

use super::{
    path_table::PathId,
    peer::PeerIdx,
    resolve::{Claim, Unresolved},
    route::{Path, TableId},
};

/// What an election came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The owner. `None` if no route claims the prefix for a peer, or if the best route rejects.
    pub owner: Option<PeerIdx>,
    /// The path that decided.
    pub winner: Option<PathId>,
    /// Routes, and hops of routes, that claim the prefix for a peer and lost.
    pub shadowed: u32,
    /// Why a route of this prefix has no peer, if one has none.
    pub unresolved: Option<Unresolved>,
}

/// Why a candidate lost against the winner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Lost {
    /// The prefix is pinned to a peer.
    #[error("the prefix is pinned to a peer")]
    Pinned,
    /// The winner's table is preferred.
    #[error("a route in a preferred table wins")]
    Table,
    /// The winner holds for any type of service.
    #[error("it holds for one type of service only")]
    Tos,
    /// The winner's metric is lower.
    #[error("a route with a lower metric wins")]
    Metric,
    /// The kernel uses the other route of the same metric.
    #[error("the kernel prefers another route of the same metric")]
    Position,
    /// Another hop of the same route has more weight.
    #[error("another hop of the route has more weight")]
    Weight,
    /// Another hop of the same weight leads to a peer with a lower key.
    #[error("another hop of equal weight leads to the peer with the lower key")]
    Key,
}

/// Order of preference: table, any type of service, metric, the kernel's order. Lower wins.
pub(super) fn preference(
    tables: &[TableId],
    path: &Path,
    position: usize,
) -> (usize, bool, u32, usize) {
    let table = tables.iter().position(|table| *table == path.table).unwrap_or(usize::MAX);
    (table, path.tos != 0, path.metric, position)
}

/// Holds the election. `tables` are the followed tables, most preferred first; paths in other
/// tables do not stand.
pub fn elect<'a>(
    tables: &[TableId],
    candidates: impl Iterator<Item = (PathId, &'a Path, Claim)>,
) -> Outcome {
    let mut outcome = Outcome::default();
    let mut best = None;
    for (position, (id, path, claim)) in candidates.enumerate() {
        if !tables.contains(&path.table) {
            continue;
        }
        let owner = match claim {
            Claim::Peer { peer, rivals } => {
                outcome.shadowed += 1 + rivals;
                Some(peer)
            }
            Claim::Reject => None,
            Claim::Unresolved(reason) => {
                outcome.unresolved = outcome.unresolved.or(Some(reason));
                continue;
            }
            Claim::Elsewhere | Claim::Own => continue,
        };
        let preference = preference(tables, path, position);
        if best.is_none_or(|best| preference < best) {
            best = Some(preference);
            outcome.owner = owner;
            outcome.winner = Some(id);
        }
    }
    outcome.shadowed -= u32::from(outcome.owner.is_some());
    outcome
}

/// Why `loser` lost against `winner`.
pub fn why_lost(tables: &[TableId], winner: &Path, loser: &Path) -> Lost {
    let (won, lost) = (preference(tables, winner, 0), preference(tables, loser, 0));
    if won.0 != lost.0 {
        Lost::Table
    } else if won.1 != lost.1 {
        Lost::Tos
    } else if won.2 != lost.2 {
        Lost::Metric
    } else {
        Lost::Position
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::route::RouteKind;

    const A: Claim = Claim::Peer { peer: PeerIdx(0), rivals: 0 };
    const B: Claim = Claim::Peer { peer: PeerIdx(1), rivals: 0 };

    fn path(table: TableId, metric: u32, tos: u8) -> Path {
        Path {
            table,
            metric,
            tos,
            protocol: 12,
            kind: RouteKind::Unicast,
            source: None,
            nexthop: 0,
            hops: Default::default(),
        }
    }

    fn run(candidates: &[(Path, Claim)]) -> Outcome {
        let numbered = candidates.iter().enumerate();
        elect(&[100, 254], numbered.map(|(at, (path, claim))| (PathId(at as u32), path, *claim)))
    }

    #[test]
    fn the_preferred_table_beats_the_lower_metric() {
        let outcome = run(&[(path(254, 0, 0), A), (path(100, 9, 0), B)]);
        assert_eq!((outcome.owner, outcome.shadowed), (Some(PeerIdx(1)), 1));
        assert_eq!(why_lost(&[100, 254], &path(100, 9, 0), &path(254, 0, 0)), Lost::Table);
    }

    #[test]
    fn the_first_of_equals_wins_and_a_special_tos_loses() {
        let outcome = run(&[(path(254, 5, 8), B), (path(254, 5, 0), A), (path(254, 5, 0), B)]);
        assert_eq!((outcome.owner, outcome.shadowed), (Some(PeerIdx(0)), 2));
    }

    #[test]
    fn a_better_reject_route_means_no_peer_and_a_worse_one_nothing() {
        let outcome = run(&[(path(254, 1, 0), Claim::Reject), (path(254, 5, 0), A)]);
        assert_eq!((outcome.owner, outcome.shadowed), (None, 1));
        let outcome = run(&[(path(254, 9, 0), Claim::Reject), (path(254, 5, 0), A)]);
        assert_eq!((outcome.owner, outcome.shadowed), (Some(PeerIdx(0)), 0));
    }

    #[test]
    fn hops_that_lose_within_the_winning_route_are_shadowed_too() {
        let claim = Claim::Peer { peer: PeerIdx(0), rivals: 2 };
        let outcome = run(&[(path(254, 5, 0), claim)]);
        assert_eq!((outcome.owner, outcome.shadowed), (Some(PeerIdx(0)), 2));
    }

    #[test]
    fn unresolved_and_unfollowed_routes_do_not_stand() {
        let reason = Unresolved::NoGateway;
        let outcome = run(&[
            (path(254, 0, 0), Claim::Unresolved(reason)),
            (path(7, 0, 0), B),
            (path(254, 5, 0), A),
        ]);
        assert_eq!(outcome.owner, Some(PeerIdx(0)));
        assert_eq!((outcome.unresolved, outcome.shadowed), (Some(reason), 0));
    }
}
