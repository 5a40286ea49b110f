//! The kernel objects that exits consist of, besides rules: routes and nexthop objects.
//!
//! Here live the data, and by which marks an object is ours. Invariant: what is ours carries our
//! protocol number *and* lies in a range that is, or was, configured.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use serde::{Deserialize, Serialize};

use super::{iprule::IpRule, rule::FlowsRule};
use crate::core::{
    prefix::{Family, Prefix},
    reach::route::PROTOCOL,
    route::{IfIndex, NexthopId, TableId},
};

/// Metric of routes that lead out: IPv6's default, so that a daemon that feeds a table may be better.
pub const VIA_METRIC: u32 = 1024;
/// Metric of routes that block: the one that the kernel's documentation takes for a last resort
/// (Documentation/networking/vrf.rst), behind whatever else is in the table.
pub const BLOCK_METRIC: u32 = 4_278_198_272;

/// A route of an exit's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExitRoute {
    /// The table.
    pub table: TableId,
    /// Where to: everything, or what has a realm.
    pub prefix: Prefix,
    /// What becomes of packets.
    pub kind: ExitRouteKind,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ExitRouteKind {
    /// They leave by a group of nexthop objects.
    Via {
        /// The group.
        group: NexthopId,
        /// The source that the host's own packets get, if they have none.
        source: Option<IpAddr>,
    },
    /// They are rejected, unless something better is in the table.
    Block,
    /// The next rule counts.
    Throw,
}

impl ExitRoute {
    /// What the kernel tells routes of a table apart by.
    pub fn place(&self) -> (TableId, Prefix, u32) {
        (self.table, self.prefix, self.metric())
    }

    /// Its metric.
    pub fn metric(&self) -> u32 {
        match self.kind {
            ExitRouteKind::Via { .. } | ExitRouteKind::Throw => VIA_METRIC,
            ExitRouteKind::Block => BLOCK_METRIC,
        }
    }
}

/// A nexthop object for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hop {
    /// Whose routes may use it.
    pub family: Family,
    /// The link.
    pub oif: IfIndex,
}

/// A group of nexthop objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    /// Flows keep their member when others come and go (`NEXTHOP_GRP_TYPE_RES`, Linux 5.13).
    pub resilient: bool,
    /// Members with their weights, 1 to 256.
    pub members: BTreeMap<NexthopId, u16>,
}

/// What the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Have {
    /// All rules, ours and others', of each family in the order in which they are tried.
    pub rules: Vec<IpRule>,
    /// Our routes.
    pub routes: BTreeSet<ExitRoute>,
    /// Our nexthop objects for links.
    pub hops: BTreeMap<NexthopId, Hop>,
    /// Our groups.
    pub groups: BTreeMap<NexthopId, Group>,
    /// Numbers of nexthop objects that somebody else has.
    pub foreign_nexthops: BTreeSet<NexthopId>,
    /// Tables that hold somebody else's routes, each with one of their protocols.
    pub foreign_tables: BTreeMap<TableId, u8>,
}

/// Which numbers are, or were, configured to be ours. Kept in the runtime directory, so that what an
/// earlier daemon installed is found after its configuration changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {
    /// Priorities of rules.
    pub rules: BTreeSet<(u32, u32)>,
    /// Tables.
    pub tables: BTreeSet<(TableId, TableId)>,
    /// Nexthop objects.
    pub nexthops: BTreeSet<(NexthopId, NexthopId)>,
}

impl Owned {
    /// Takes in what is configured. Whether that is news.
    pub fn extend(&mut self, rule: &FlowsRule) -> bool {
        let before = self.clone();
        let ends = |range: &RangeInclusive<u32>| (*range.start(), *range.end());
        if !rule.is_empty() {
            self.rules.insert(ends(&rule.rules));
            self.tables.insert(ends(&rule.tables));
            self.nexthops.insert(ends(&rule.nexthops));
            let tables = rule.exits.iter().filter_map(|exit| exit.table);
            let apart = tables.filter(|table| !rule.tables.contains(table));
            self.tables.extend(apart.map(|table| (table, table)));
        }
        *self != before
    }

    /// Whether nothing was ever ours.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether a rule is ours.
    pub fn holds_rule(&self, rule: &IpRule) -> bool {
        rule.protocol == PROTOCOL && within(&self.rules, rule.priority)
    }

    /// Whether routes of our protocol in a table are ours.
    pub fn holds_table(&self, table: TableId) -> bool {
        within(&self.tables, table)
    }

    /// Whether nexthop objects of our protocol with such a number are ours.
    pub fn holds_nexthop(&self, id: NexthopId) -> bool {
        within(&self.nexthops, id)
    }
}

fn within(ranges: &BTreeSet<(u32, u32)>, number: u32) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&number))
}
