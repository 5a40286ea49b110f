//! What the operator wants of exits and flows, as plain data.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use super::iprule::{Mark, Span};
use crate::core::{
    prefix::Prefix,
    route::{NexthopId, TableId},
};

/// Exits, flows, and which numbers of the kernel's are ours to use for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowsRule {
    /// Priorities of `ip rule`. The first and the last are for guards and the anchor.
    pub rules: RangeInclusive<u32>,
    /// Routing tables.
    pub tables: RangeInclusive<TableId>,
    /// Nexthop objects.
    pub nexthops: RangeInclusive<NexthopId>,
    /// The exits, in file order. Their names are unique.
    pub exits: Vec<ExitRule>,
    /// The flows, in file order: the first that selects a packet decides.
    pub flows: Vec<FlowRule>,
    /// Tunnels' own packets, which no flow may select.
    pub guards: Vec<Guard>,
}

impl FlowsRule {
    /// Whether nothing is configured.
    pub fn is_empty(&self) -> bool {
        self.exits.is_empty() && self.flows.is_empty()
    }
}

/// A way out: a set of links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExitRule {
    /// Its name.
    pub name: String,
    /// The links, most preferred first.
    pub via: Vec<Via>,
    /// All usable links at once, by weight, instead of the first usable one.
    pub weighted: bool,
    /// What flows do while no link is usable.
    pub when_down: WhenDown,
    /// How long a better link must have been usable before flows go back to it.
    pub back_after: Duration,
    /// Its table; `None`: one of ours, by its name.
    pub table: Option<TableId>,
    /// Somebody else fills the table: no route of ours but the one that blocks.
    pub feed: bool,
    /// Preferred sources of the host's own packets, at most one a family.
    pub source: Vec<IpAddr>,
}

/// A link of an exit, with one peer at its other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// The link that packets leave by.
    pub link: String,
    /// The WireGuard interface with the peer: the link itself, or what the tunnel runs over.
    pub interface: String,
    /// The peer's name, as reachability knows it; `None`: the interface's only one.
    pub peer: Option<String>,
    /// Its share among usable links, 1 to 256.
    pub weight: u16,
    /// Whether it carries IPv6 (ipip tunnels do not).
    pub ipv6: bool,
}

/// What flows do while no link of their exit is usable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenDown {
    /// The next flow rule that selects them counts.
    #[default]
    Next,
    /// They are routed as if there were no flows.
    Main,
    /// They are rejected.
    Block,
}

/// Which packets go where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowRule {
    /// Its name.
    pub name: String,
    /// Source prefixes; none for any.
    pub from: Vec<Prefix>,
    /// Destination prefixes; none for any.
    pub to: Vec<Prefix>,
    /// The interface that they come from, `lo` for the host's own.
    pub iif: Option<String>,
    /// The mark.
    pub mark: Option<Mark>,
    /// Owners of sockets.
    pub uid: Vec<Span<u32>>,
    /// The TOS octet; zero for any.
    pub tos: u8,
    /// The DSCP.
    pub dscp: Option<u8>,
    /// The protocol; zero for any.
    pub protocol: u8,
    /// Source ports; none for any.
    pub sport: Vec<Span<u16>>,
    /// Destination ports; none for any.
    pub dport: Vec<Span<u16>>,
    /// The VRF that they are in.
    pub vrf: Option<String>,
    /// The realm of the destination's route (IPv4).
    pub realm: Option<u32>,
    /// Where they go.
    pub target: Target,
}

/// Where a flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Out by an exit.
    Exit(String),
    /// As if there were no flows.
    Main,
    /// Nowhere: rejected.
    Block,
}

/// Packets that carry others, and must not be sent into what they carry.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Guard {
    /// WireGuard's own packets: sent from the port that the device listens on.
    Device {
        /// The WireGuard device.
        name: String,
    },
    /// A tunnel's: sent from its own end.
    Tunnel {
        /// This end.
        local: IpAddr,
        /// The protocol: GRE or IP in IP.
        protocol: u8,
    },
}
