//! Which route of one table a packet takes.
//!
//! Here lives [`best`], after `fib_table_lookup` (net/ipv4/fib_trie.c) and `fib6_table_lookup`
//! (net/ipv6/route.c). Which of several hops the kernel's hash takes cannot be known from outside.

use std::net::IpAddr;

use serde::Serialize;
use smallvec::SmallVec;

use super::{
    picture::Picture,
    select::{Flow, TOS_BITS},
};
use crate::core::{
    nexthops::{ResolvedHop, ResolvedHops},
    prefix::Family,
    route::{IfIndex, Route, RouteKind},
};

/// The number of the loopback device (`LOOPBACK_IFINDEX`), which IPv6's reject routes lead to.
const LOOPBACK: IfIndex = 1;

/// What a table says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// Nothing that the packet could take.
    Nothing,
    /// The lookup goes on with the next rule, on purpose.
    Throw(Route),
    /// The packet is rejected.
    Reject {
        /// How.
        kind: RouteKind,
        /// By which route.
        route: Route,
    },
    /// A route.
    Route(Best),
}

/// A route, and the hops of it that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Best {
    /// The route.
    pub route: Route,
    /// Its hops; the kernel takes one of them.
    pub hops: Vec<ResolvedHop>,
}

/// What a table says to a packet. `routes` are those of the table whose prefixes hold the
/// destination, in the kernel's order.
pub fn best(picture: &Picture<'_>, flow: &Flow<'_>, routes: &[Route]) -> Found {
    match flow.packet.family() {
        Family::V4 => best4(picture, flow, routes),
        Family::V6 => best6(picture, flow, routes),
    }
}

/// The hops that can be used; `None` if the route's nexthop object is a blackhole.
fn hops(
    picture: &Picture<'_>,
    route: &Route,
    oif: Option<IfIndex>,
) -> Option<SmallVec<[ResolvedHop; 2]>> {
    match picture.nexthops.resolve(&route.path) {
        ResolvedHops::Blackhole => None,
        ResolvedHops::Hops(mut hops) => {
            let fits = |one: &ResolvedHop| oif.is_none_or(|oif| oif == one.hop.oif);
            // `nexthop_path_fib6_result`: of a group with one hop that fits, IPv6 takes any.
            let any = route.prefix.family() == Family::V6 && route.path.nexthop != 0;
            let enough = any && hops.iter().any(fits);
            // Only the route's own hops say that they are dead: an object goes with its link.
            hops.retain(|one| !one.hop.dead && (enough || fits(one)));
            Some(hops)
        }
    }
}

fn best4(picture: &Picture<'_>, flow: &Flow<'_>, routes: &[Route]) -> Found {
    let mut routes: Vec<&Route> = routes.iter().collect();
    // `fib_find_alias`: the order of routes of one prefix.
    routes.sort_by_key(|route| {
        let length = u8::MAX - route.prefix.prefix_len();
        (length, u8::MAX - route.path.tos, route.path.metric)
    });
    // Routes whose prefixes have the same address share a leaf of the trie.
    let mut left: Option<IpAddr> = None;
    for route in routes {
        let path = &route.path;
        let tos = path.tos == 0 || path.tos == flow.packet.tos & TOS_BITS;
        if !tos || left == Some(route.prefix.addr()) {
            continue;
        }
        if path.kind == RouteKind::Throw {
            return Found::Throw(route.clone());
        }
        if path.kind.is_reject() {
            return Found::Reject { kind: path.kind, route: route.clone() };
        }
        match hops(picture, route, flow.oif) {
            None => return Found::Reject { kind: RouteKind::Blackhole, route: route.clone() },
            Some(hops) if hops.is_empty() => {
                // A nexthop object without a usable hop ends the search in the leaf.
                if path.nexthop != 0 {
                    left = Some(route.prefix.addr());
                }
            }
            Some(hops) => {
                return Found::Route(Best { route: route.clone(), hops: hops.into_vec() });
            }
        }
    }
    Found::Nothing
}

fn best6(picture: &Picture<'_>, flow: &Flow<'_>, routes: &[Route]) -> Found {
    let mut routes: Vec<&Route> = routes.iter().collect();
    let length = |route: &Route| u8::MAX - route.prefix.prefix_len();
    let source = |route: &Route| route.path.source.map_or(0, |source| source.prefix_len());
    routes.sort_by_key(|route| (length(route), u8::MAX - source(route), route.path.metric));
    let holds = |route: &Route| route.path.source.is_none_or(|from| from.contains(flow.src()));
    // `ip6_route_output`: without a source, the link that the socket is bound to is a must;
    // otherwise, and with the link of a forwarded packet, a wish.
    let packet = &flow.packet;
    let wish = packet.iif.or(flow.oif);
    let must = flow.oif.filter(|_| packet.iif.is_none() && packet.src.is_none());
    let mut entered = false;
    for node in routes.chunk_by(|a, b| length(a) == length(b)) {
        // `fib6_node_lookup_1`: where sources count and none is the packet's, even routes for any
        // source are passed over, unless the search began farther down or this is the root.
        let specific = |route: &&&Route| route.path.source.is_some();
        let passed_over = node.iter().any(|route| specific(&route))
            && !node.iter().filter(specific).any(|route| holds(route));
        if passed_over && !entered && !node.iter().any(|route| route.prefix.is_default()) {
            continue;
        }
        entered = true;
        let fitting: Vec<&Route> = node.iter().filter(|route| holds(route)).copied().collect();
        let place = |route: &Route| (source(route), route.path.metric);
        for alike in fitting.chunk_by(|a, b| place(a) == place(b)) {
            let usable: Vec<Found> =
                alike.iter().filter_map(|route| usable6(picture, route, must)).collect();
            let wished = usable.iter().position(|found| match found {
                Found::Route(best) => best.hops.iter().any(|one| Some(one.hop.oif) == wish),
                _ => wish == Some(LOOPBACK),
            });
            if let Some(found) = usable.into_iter().nth(wished.unwrap_or(0)) {
                return found;
            }
        }
    }
    Found::Nothing
}

fn usable6(picture: &Picture<'_>, route: &Route, must: Option<IfIndex>) -> Option<Found> {
    let kind = route.path.kind;
    let hops = match kind == RouteKind::Throw || kind.is_reject() {
        true => None,
        false => hops(picture, route, must),
    };
    let route = route.clone();
    match hops {
        Some(hops) if hops.is_empty() => None,
        Some(hops) => Some(Found::Route(Best { route, hops: hops.into_vec() })),
        // A blackhole that is a nexthop object fits any link.
        None if route.path.nexthop == 0 && must.is_some_and(|must| must != LOOPBACK) => None,
        None if kind == RouteKind::Throw => Some(Found::Throw(route)),
        None if kind.is_reject() => Some(Found::Reject { kind, route }),
        None => Some(Found::Reject { kind: RouteKind::Blackhole, route }),
    }
}
