//! What the operator configured for the packet filter, as plain data.
//!
//! Here live the rules that the configuration is turned into. What they mean for the maps is
//! worked out elsewhere in [`super`]; nothing here refers to numbers that the maps use.

use std::{net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::core::{peer::PublicKey, prefix::Prefix, route::TableId, rule::Audit};

use super::policy::PolicyRule;

/// What holds for all links.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRule {
    /// Where the programs are attached.
    pub hook: Hook,
    /// Room in the maps.
    pub sizes: Sizes,
    /// Sampled drops a second and CPU; 0 samples nothing.
    pub samples_per_second: u32,
    /// How long a source stays legal for the peer that it was legal for before a route changed:
    /// packets that were under way then still arrive.
    pub grace: Duration,
    /// How often the maps are compared with what they should hold.
    pub audit: Audit,
    /// What happens at exit: the programs stay attached, or everything is removed.
    pub on_exit: crate::core::rule::OnExit,
    /// The policies, in the order of the file.
    pub policies: Vec<PolicyRule>,
}

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// The cheaper one that the kernel offers: tc. XDP on a WireGuard device is generic XDP, which
    /// switches GRO off there and copies packets (`netif_elide_gro`, net/core/dev.c).
    #[default]
    Auto,
    /// XDP.
    Xdp,
    /// tc: tcx from Linux 6.6 on, before that a classifier in the clsact queueing discipline.
    Tcx,
}

/// Room in the maps, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// IPv4 prefixes in all tries of sources together.
    pub sources_v4: u32,
    /// IPv6 prefixes in all tries of sources together.
    pub sources_v6: u32,
    /// Peers of all filtered links.
    pub peers: u32,
    /// Rules of all policies after they were compiled, twice, because a policy is replaced by
    /// writing the new one beside the old one.
    pub rules: u32,
    /// Flows that stateful policies remember.
    pub flows: u32,
}

/// How a link is filtered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkFilter {
    /// What holds for peers that have no filter of their own.
    pub peers: PeerFilter,
    /// The peer's AllowedIPs are opened (0.0.0.0/0 and ::/0 added) once the filter is in force, and
    /// closed if it cannot be. Dedicated links only.
    pub open: bool,
}

/// How a peer is filtered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerFilter {
    /// Which sources it may use.
    pub source: SourceMode,
    /// Count and sample what would be dropped, and let it pass.
    pub monitor: bool,
    /// With `list`: the legal sources. With other modes: what narrows them, unless it is empty.
    pub list: Vec<Prefix>,
    /// The peer's group by name; required for mode `group`.
    pub group: Option<String>,
    /// Name of its policy; none: it may say everything.
    pub policy: Option<String>,
    /// Link-local sources pass towards destinations that stay on the link.
    pub link_local: bool,
    /// The unspecified source passes where protocols need it.
    pub unspecified: bool,
    /// What stays on the link is not subject to the policy.
    pub control: bool,
    /// `loose` is not satisfied by a default route.
    pub ignore_default: bool,
}

/// A tunnel inside a filtered link, and how what comes out of it is filtered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelRule {
    /// Name of its device.
    pub name: String,
    /// The peer at its other end, if the operator names it.
    pub peer: Option<PublicKey>,
    /// The other end. The peer is the one that has pinned it, if there is one.
    pub remote: Option<IpAddr>,
    /// Which packets are its; `None`: all that its peer sends and that encapsulate.
    pub ends: Option<Ends>,
    /// The tables that count for it, most preferred first. Empty: those of its link, or its VRF's,
    /// or main.
    pub tables: Vec<TableId>,
    /// The peer's own addresses inside it.
    pub pinned: Vec<Prefix>,
    /// How what comes out of it is filtered.
    pub filter: PeerFilter,
}

/// Between which ends a tunnel's packets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ends {
    /// This end.
    pub local: IpAddr,
    /// The other end, of the same family.
    pub remote: IpAddr,
    /// Protocol of the outer packets.
    pub protocol: u8,
    /// GRE's key.
    pub key: Option<u32>,
}

/// Which sources a peer may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceMode {
    /// Any.
    Off,
    /// The best route to the source points at this peer (RFC 3704 section 2.2).
    Strict,
    /// Some followed route to the source points at this peer (RFC 3704 section 2.3).
    Feasible,
    /// There is a route to the source (RFC 3704 section 2.4).
    Loose,
    /// The source is in the peer's list.
    List,
    /// The source is legal for a member of the peer's group (the idea of RFC 8704).
    Group,
}
