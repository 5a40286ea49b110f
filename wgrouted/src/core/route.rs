//! Routes, links and nexthop objects as the kernel reports them.
//!
//! Here live the data types only, in the kernel's own terms (`rtnetlink(7)`); decoding is
//! `source`'s business, meaning is `rib`'s and `resolve`'s.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::prefix::Prefix;

/// A routing table's number (`RTA_TABLE`).
pub type TableId = u32;
/// A link's number (`IFLA_IFINDEX`, `RTA_OIF`). Zero means "none".
pub type IfIndex = u32;
/// A nexthop object's number (`NHA_ID`, `RTA_NH_ID`). Zero means "none".
pub type NexthopId = u32;

/// The main routing table, `RT_TABLE_MAIN`.
pub const TABLE_MAIN: TableId = 254;
/// Routes the kernel made itself, such as those of an interface's own addresses
/// (`RTPROT_KERNEL`, include/uapi/linux/rtnetlink.h).
pub const PROTOCOL_KERNEL: u8 = 2;

/// What happens to a packet that matches a route (`rtm_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteKind {
    /// Forwarded to a next hop (`RTN_UNICAST`).
    Unicast,
    /// Dropped silently (`RTN_BLACKHOLE`).
    Blackhole,
    /// Rejected, host unreachable (`RTN_UNREACHABLE`).
    Unreachable,
    /// Rejected, administratively prohibited (`RTN_PROHIBIT`).
    Prohibit,
    /// The lookup goes on in the next table (`RTN_THROW`).
    Throw,
    /// Anything that never leaves through a WireGuard interface (local, broadcast, multicast…).
    Other,
}

impl RouteKind {
    /// Whether a packet that matches such a route ends there: it has no peer, on purpose.
    pub const fn is_reject(self) -> bool {
        matches!(self, RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit)
    }
}

/// One next hop of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Hop {
    /// The link the packet leaves by (`RTA_OIF`, `rtnh_ifindex`).
    pub oif: IfIndex,
    /// The gateway (`RTA_GATEWAY` or `RTA_VIA`), which may be IPv6 under an IPv4 route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// Weight, 1 to 65536 (`rtnh_hops + 1`; nexthop groups allow 16 bits since Linux 6.12).
    pub weight: u32,
    /// Realms (`RTA_FLOW`): from << 16 | to. Zero means "none"; IPv6 routes never carry one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub realm: u32,
    /// The kernel does not use this hop at present (`RTNH_F_DEAD`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dead: bool,
}

fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// Everything about a route but its prefix.
///
/// A full table holds a million prefixes but only a handful of distinct paths, so the RIB stores
/// each path once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Path {
    /// Routing table.
    pub table: TableId,
    /// Metric (`RTA_PRIORITY`): lower wins.
    pub metric: u32,
    /// Type of service (`rtm_tos`), part of the key in IPv4.
    #[serde(default, skip_serializing_if = "is_zero_u8")]
    pub tos: u8,
    /// Who installed it (`rtm_protocol`), see `/etc/iproute2/rt_protos`.
    pub protocol: u8,
    /// What it does.
    pub kind: RouteKind,
    /// Source prefix of an IPv6 source-specific route (`RTA_SRC`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Prefix>,
    /// Nexthop object (`RTA_NH_ID`), zero if none. Where the object is known it wins over `hops`.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub nexthop: NexthopId,
    /// Next hops. Empty for reject routes and for `nexthop_compat_mode=0`.
    #[serde(default, skip_serializing_if = "SmallVec::is_empty")]
    pub hops: Hops,
}

fn is_zero_u8(value: &u8) -> bool {
    *value == 0
}

/// Next hops of a path; the usual single one needs no allocation.
pub type Hops = SmallVec<[Hop; 1]>;

/// A route: where a prefix goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Destination.
    pub prefix: Prefix,
    /// The rest.
    #[serde(flatten)]
    pub path: Path,
}

/// How a notification changes the kernel's list of routes for one key
/// (facts: `fib_table_insert`, net/ipv4/fib_trie.c; `fib6_add_rt2node`, net/ipv6/ip6_fib.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteOp {
    /// Put in front of routes with the same key (`NLM_F_CREATE`, also with `NLM_F_EXCL`).
    Add,
    /// Put behind routes with the same key (`NLM_F_APPEND`); in IPv6 the notification carries the
    /// complete new set of hops.
    Append,
    /// Take the place of the first route with the same key (`NLM_F_REPLACE`), whoever owns it.
    Replace,
    /// Gone (`RTM_DELROUTE`); in IPv6 it may name only the hops that went.
    Delete,
}

/// A route notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteEvent {
    /// What happened.
    pub op: RouteOp,
    /// To which route.
    #[serde(flatten)]
    pub route: Route,
}

/// What kind of device a link is, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    /// A WireGuard device.
    Wireguard,
    /// A VRF; its members' routes live in this table (`IFLA_VRF_TABLE`).
    Vrf {
        /// The VRF's table.
        table: TableId,
    },
    /// Anything else.
    Other,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Number.
    pub index: IfIndex,
    /// Name.
    pub name: String,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// The VRF or bridge it belongs to (`IFLA_MASTER`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<IfIndex>,
    /// What it is.
    pub kind: LinkKind,
}

/// A nexthop object (`RTM_NEWNEXTHOP`, include/uapi/linux/nexthop.h).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nexthop {
    /// Its number.
    pub id: NexthopId,
    /// What it stands for.
    #[serde(flatten)]
    pub kind: NexthopKind,
}

/// What a nexthop object stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NexthopKind {
    /// Drops (`NHA_BLACKHOLE`).
    Blackhole,
    /// A single next hop.
    Hop {
        /// Link.
        oif: IfIndex,
        /// Gateway.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        gateway: Option<IpAddr>,
    },
    /// A group of objects with their weights (`NHA_GROUP`), 1 to 65536 each.
    Group(Vec<(NexthopId, u32)>),
}

impl fmt::Display for Hop {
    /// As `ip route` prints it, with the link by number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(gateway) = self.gateway {
            write!(f, "via {gateway} ")?;
        }
        write!(f, "oif {}", self.oif)
    }
}
