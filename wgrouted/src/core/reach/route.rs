//! Routes that we announce: what makes one ours, and the way from those that the kernel has to those
//! that it should have.
//!
//! Here live [`OurRoute`], [`Owned`] and [`steps`]. Who is announced is `announce`'s business.
//! Invariant: a route that is not ours by protocol *and* link is never removed, and nothing is
//! replaced: `NLM_F_REPLACE` takes the first route of a key, whoever installed it (`fib_table_insert`,
//! net/ipv4/fib_trie.c; `fib6_add_rt2node`, net/ipv6/ip6_fib.c).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use crate::core::{
    prefix::Prefix,
    route::{IfIndex, Route, RouteKind, TableId},
};

/// `rtm_protocol` of our routes unless the operator chooses another. The kernel interprets none
/// above `RTPROT_STATIC`, 4 (include/uapi/linux/rtnetlink.h); what is taken there, and by FRR
/// (zebra/rt_netlink.h), is 8 to 18, 42, 84, 99 and 186 to 198.
pub const PROTOCOL: u8 = 119;

/// What the kernel tells routes apart by. There is one route of ours in each place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The table.
    pub table: TableId,
    /// Where to.
    pub prefix: Prefix,
    /// The metric. Never zero: IPv6 takes that for 1024, and a removal for any.
    pub metric: u32,
}

/// A route such as we install: one hop, by a link of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OurRoute {
    /// Where it stands.
    pub place: Place,
    /// Who installed it.
    pub protocol: u8,
    /// The link.
    pub oif: IfIndex,
    /// The peer's tunnel address, where the link has several peers and the prefix is not its own.
    /// Always on-link.
    pub gateway: Option<IpAddr>,
}

impl OurRoute {
    /// A route of the kernel's, if it is of a form that we install.
    pub fn of(route: &Route) -> Option<OurRoute> {
        let path = &route.path;
        let ([hop], RouteKind::Unicast, 0, None, 0) =
            (&path.hops[..], path.kind, path.tos, path.source, path.nexthop)
        else {
            return None;
        };
        Some(OurRoute {
            place: Place { table: path.table, prefix: route.prefix, metric: path.metric },
            protocol: path.protocol,
            oif: hop.oif,
            gateway: hop.gateway,
        })
    }
}

impl fmt::Display for OurRoute {
    /// As `ip route` prints it, with the link by number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OurRoute { place: Place { table, prefix, metric }, protocol, oif, gateway } = self;
        write!(f, "{prefix} ")?;
        if let Some(gateway) = gateway {
            write!(f, "via {gateway} ")?;
        }
        write!(f, "oif {oif} table {table} metric {metric} proto {protocol}")
    }
}

/// What makes a route ours. Another wgrouted may use the same protocol on other links; its routes
/// are none of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// The protocols that are, or were, configured.
    pub protocols: BTreeSet<u8>,
    /// The links that are, or were, configured.
    pub links: BTreeSet<IfIndex>,
}

impl Owned {
    /// Whether a route is ours.
    pub fn holds(&self, route: &OurRoute) -> bool {
        self.protocols.contains(&route.protocol) && self.links.contains(&route.oif)
    }
}

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add a route where there is none.
    Add(OurRoute),
    /// Remove exactly this route.
    Remove(OurRoute),
}

/// What to do, in this order: what is added comes before what goes, so that a changed metric leaves
/// no gap. Where a route takes the very place of another of ours, that one goes just before.
pub fn steps<'a>(
    wanted: impl IntoIterator<Item = &'a OurRoute>,
    have: &BTreeSet<OurRoute>,
    owned: &Owned,
) -> Vec<Step> {
    let wanted: BTreeMap<Place, OurRoute> =
        wanted.into_iter().map(|route| (route.place, *route)).collect();
    let (mut added, mut moved, mut gone) = (Vec::new(), Vec::new(), Vec::new());
    let mut in_the_way: BTreeMap<Place, Vec<Step>> = BTreeMap::new();
    for route in have.iter().filter(|route| owned.holds(route)) {
        match wanted.get(&route.place) {
            Some(other) if other == route => {}
            Some(_) => in_the_way.entry(route.place).or_default().push(Step::Remove(*route)),
            None => gone.push(Step::Remove(*route)),
        }
    }
    for (place, route) in &wanted {
        let others = in_the_way.remove(place);
        let add = (!have.contains(route)).then_some(Step::Add(*route));
        match others {
            Some(others) => moved.extend(others.into_iter().chain(add)),
            None => added.extend(add),
        }
    }
    added.into_iter().chain(moved).chain(gone).collect()
}
