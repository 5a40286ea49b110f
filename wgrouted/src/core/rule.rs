//! What the operator configured, as plain data.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    filter::rule::{LinkFilter, PeerFilter, TunnelRule},
    peer::PublicKey,
    prefix::Prefix,
    reach::rule::{LinkReach, PeerReach},
    route::{NexthopId, TableId},
};

/// One `match` entry of a peer: a route belongs to the peer if all given conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Match {
    /// `rtm_protocol`.
    pub protocol: Option<u8>,
    /// The route's "to" realm (low 16 bits of `RTA_FLOW`); IPv4 only.
    pub realm: Option<u32>,
    /// Routing table.
    pub table: Option<TableId>,
    /// Metric.
    pub metric: Option<u32>,
    /// Nexthop object, or a member of the route's nexthop group.
    pub nexthop: Option<NexthopId>,
    /// The gateway lies in this prefix.
    pub gateway: Option<Prefix>,
}

/// A configured peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRule {
    /// Name for people.
    pub name: String,
    /// Its key.
    pub public_key: PublicKey,
    /// The peer's own tunnel addresses. `None`: learn them from the device.
    pub pinned: Option<Vec<Prefix>>,
    /// Tags.
    pub matches: Vec<Match>,
    /// How what it sends is filtered, if not as the link says; only where the link is filtered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<PeerFilter>,
    /// How it is watched and announced; only where the link is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<PeerReach>,
}

/// How the peers of a link are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkMode {
    /// Dedicated if the single peer's pinned prefixes hold a default route, else shared.
    #[default]
    Auto,
    /// Many peers; AllowedIPs follow the routes.
    Shared,
    /// One peer, which owns whatever is routed to the link; AllowedIPs are left alone.
    Dedicated,
}

/// What happens to synced AllowedIPs when the daemon stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// They stay: traffic flows on.
    #[default]
    Keep,
    /// They are removed.
    Remove,
}

/// How often the device is compared with what it should hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Audit {
    /// After 100 times the duration of a dump of all devices, within 1 s and 5 min: at most 1 % of
    /// the time.
    #[default]
    Auto,
    /// At this interval.
    Every(Duration),
    /// Never.
    Off,
}

/// A configured interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRule {
    /// Its name.
    pub name: String,
    /// How its peers are told apart.
    pub link: LinkMode,
    /// Tables to follow, most preferred first. Empty: the VRF's table, or main.
    pub tables: Vec<TableId>,
    /// Only prefixes inside these are ever added or removed.
    pub managed: Vec<Prefix>,
    /// How long a removal waits for a new owner to turn up.
    pub delete_hold: Duration,
    /// At most one round of changes is begun in this time.
    pub coalesce: Duration,
    /// Bound of a netlink message in bytes.
    pub message_size: usize,
    /// How long after first sight a peer's AllowedIPs are learned as pinned.
    pub adopt: Duration,
    /// What happens at exit.
    pub on_exit: OnExit,
    /// How often the device is audited.
    pub audit: Audit,
    /// Configured peers.
    pub peers: Vec<PeerRule>,
    /// How what comes from its peers is filtered; `None`: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<LinkFilter>,
    /// The tunnels inside it whose packets are looked into; only where it is filtered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<TunnelRule>,
    /// How its peers are watched and announced; `None`: only looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<LinkReach>,
}
