//! What the kernel itself says about a packet, and whether a walk came to the same.

use std::net::IpAddr;

use serde::Serialize;

use super::walk::{Decision, Walk};
use crate::core::{
    prefix::Family,
    route::{Hop, Path, Route, RouteKind},
};

/// What the kernel does with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lookup {
    /// A route matches.
    Route {
        /// The table's entry, with the table it was found in.
        route: Route,
        /// The hop chosen for this packet.
        hop: Option<Hop>,
        /// The source that a packet without one gets.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<IpAddr>,
    },
    /// Nothing matches, but the packet's socket is bound to a link, and its destination is taken for
    /// a neighbour there.
    OnLink {
        /// The link.
        hop: Hop,
        /// The source that a packet without one gets.
        #[serde(skip_serializing_if = "Option::is_none")]
        source: Option<IpAddr>,
    },
    /// A reject route or rule matches: the kernel tells its kind only.
    Rejected(RouteKind),
    /// Nothing matches.
    NoRoute,
}

impl Lookup {
    /// Whether the packet goes somewhere.
    pub const fn is_way(&self) -> bool {
        matches!(self, Lookup::Route { .. } | Lookup::OnLink { .. })
    }

    /// Where the packet leaves, if it does.
    pub const fn hop(&self) -> Option<Hop> {
        match self {
            Lookup::Route { hop, .. } => *hop,
            Lookup::OnLink { hop, .. } => Some(*hop),
            Lookup::Rejected(_) | Lookup::NoRoute => None,
        }
    }

    /// The source that a packet without one gets.
    pub const fn source(&self) -> Option<IpAddr> {
        match self {
            Lookup::Route { source, .. } | Lookup::OnLink { source, .. } => *source,
            Lookup::Rejected(_) | Lookup::NoRoute => None,
        }
    }

    /// Whether a walk came to the same. Of several hops the kernel takes one; what was looked up
    /// for this host itself it shows as leaving by `lo`.
    pub fn agrees(&self, walk: &Walk) -> bool {
        match (self, &walk.decision) {
            (Lookup::Route { route, hop, .. }, Decision::Route { best, .. }) => {
                let (said, walked) = (&route.path, &best.route.path);
                let one_of_them = |hop: &Hop| {
                    let key = |hop: &Hop| (hop.oif, hop.gateway);
                    best.hops.iter().any(|one| key(&one.hop) == key(hop))
                };
                // IPv6 routes of one nexthop object, or of its groups, share a cache, out of which
                // the kernel names any of them (`rt6_get_pcpu_route`, net/ipv6/route.c).
                let shared =
                    route.prefix.family() == Family::V6 && said.nexthop != 0 && walked.nexthop != 0;
                let key = |path: &Path| (path.table, path.metric, path.tos, path.source);
                said.kind == walked.kind
                    && (shared || route.prefix == best.route.prefix && key(said) == key(walked))
                    && (said.kind == RouteKind::Other || hop.as_ref().is_some_and(one_of_them))
            }
            (Lookup::OnLink { hop, .. }, Decision::OnLink { oif }) => hop.oif == *oif,
            (Lookup::NoRoute, Decision::NoRoute) => true,
            // `fib4_rule_action`: the error of the rule is that of a missing route.
            (Lookup::NoRoute, Decision::Rejected { kind, route, .. }) => {
                *kind == RouteKind::Unreachable && route.is_none()
            }
            (Lookup::Rejected(said), Decision::Rejected { kind, route, .. }) => {
                said == kind && (route.is_some() || *kind != RouteKind::Unreachable)
            }
            _ => false,
        }
    }
}
