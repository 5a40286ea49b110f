//! What the filter's maps hold, and how it changes, as data.
//!
//! Here live the messages between the filter's state machine and the target that holds the maps.
//! The words in them are those of [`ebpf_xdp::layout`].

use std::{net::IpAddr, sync::Arc, time::Duration};

use ebpf_xdp::{
    addr::{Addr, V4, V6},
    layout,
};
use serde::{Deserialize, Serialize};

use super::rule::{Ends, FilterRule, Hook, Sizes};
use crate::core::{peer::PublicKey, prefix::Prefix, route::IfIndex};

/// Key of an entry in the tries of sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceKey {
    /// A [`layout::domain`].
    pub domain: u32,
    /// The prefix.
    pub prefix: Prefix,
}

/// Who a peer number stands for. It is kept beside the maps, so that whoever adopts them can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The WireGuard device. A device that is made anew has another number.
    pub ifindex: IfIndex,
    /// The peer.
    pub public_key: PublicKey,
    /// The tunnel through which the peer speaks; `None`: directly.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelName>,
}

/// The name of a tunnel's device, filled up with zeros (`IFNAMSIZ`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TunnelName(pub [u8; 16]);

impl From<&str> for TunnelName {
    fn from(name: &str) -> Self {
        // No device has a longer name.
        let mut octets = [0; 16];
        octets.iter_mut().zip(name.bytes()).for_each(|(octet, byte)| *octet = byte);
        TunnelName(octets)
    }
}

/// Key of a tunnel: the peer that has the other end, and the ends, if they are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TunnelKey {
    /// Number of the peer that sends the outer packets.
    pub peer: u32,
    /// The ends; `None`: all that encapsulates.
    pub ends: Option<Ends>,
}

impl TunnelKey {
    /// As the maps have it.
    pub fn to_layout(self) -> layout::TunnelKey {
        let key = layout::TunnelKey { peer: self.peer, ..layout::TunnelKey::default() };
        let Some(Ends { local, remote, protocol, key: number }) = self.ends else { return key };
        layout::TunnelKey {
            local: address(local),
            remote: address(remote),
            family: if local.is_ipv4() { V4 } else { V6 },
            protocol,
            keyed: number.is_some().into(),
            key: number.unwrap_or(0),
            ..key
        }
    }

    /// What the maps have.
    pub fn from_layout(key: &layout::TunnelKey) -> Self {
        let address = |addr: Addr| match key.family {
            V4 => IpAddr::from(addr.octets4()),
            _ => IpAddr::from(addr.octets6()),
        };
        let ends = (key.family != 0).then(|| Ends {
            local: address(key.local),
            remote: address(key.remote),
            protocol: key.protocol,
            key: (key.keyed != 0).then_some(key.key),
        });
        TunnelKey { peer: key.peer, ends }
    }
}

fn address(addr: IpAddr) -> Addr {
    match addr {
        IpAddr::V4(addr) => Addr::v4(addr.octets()),
        IpAddr::V6(addr) => Addr::v6(addr.octets()),
    }
}

/// A policy as the maps hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledPolicy {
    /// What no rule matches passes.
    pub accept: bool,
    /// Flows are tracked.
    pub stateful: bool,
    /// At most [`layout::MAX_RULES`].
    pub rules: Vec<layout::Rule>,
}

/// One change of the maps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterChange {
    /// An entry of the tries of sources; `None` removes it.
    Source {
        /// Where.
        key: SourceKey,
        /// An owner as in [`layout::owner`].
        value: Option<u32>,
    },
    /// A peer joins a set of owners or leaves it.
    Member {
        /// The set.
        set: u32,
        /// The peer.
        peer: u32,
        /// It joins.
        present: bool,
    },
    /// How a peer is treated. A number whose identity changes starts with counters of zero.
    Peer {
        /// Its number, from 1.
        id: u32,
        /// Who it is; `None` frees the number.
        identity: Option<Identity>,
        /// How it is treated; all zero if the number is free.
        word: layout::Peer,
    },
    /// How a link's packets find their peer; `None` removes the link.
    Link {
        /// The link.
        ifindex: IfIndex,
        /// How.
        word: Option<layout::Link>,
    },
    /// What is inside packets between two ends; `None`: nothing that concerns us.
    Tunnel {
        /// Which packets.
        key: TunnelKey,
        /// What.
        word: Option<layout::Tunnel>,
    },
    /// A policy; `None` removes it. No peer's word names it then.
    Policy {
        /// Its number, from 1.
        id: u16,
        /// What it says.
        policy: Option<Arc<CompiledPolicy>>,
    },
}

/// What the target shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FilterPlan {
    /// Room in the maps.
    pub sizes: Sizes,
    /// Where the programs are attached.
    pub hook: Hook,
    /// Sampled drops a second and CPU.
    pub samples_per_second: u32,
}

/// Everything in the maps that [`FilterChange`]s change, but for the policies, which are always
/// written anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The tries of sources.
    pub sources: Vec<(SourceKey, u32)>,
    /// Sets of owners: set and peer.
    pub members: Vec<(u32, u32)>,
    /// The peers that have an identity.
    pub peers: Vec<(u32, Identity)>,
    /// The links.
    pub links: Vec<IfIndex>,
    /// The tunnels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tunnels: Vec<TunnelKey>,
}

/// A link to which the programs shall be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkPlan {
    /// The link.
    pub ifindex: IfIndex,
    /// What it sends opens flows, so the egress program is wanted too.
    pub egress: bool,
}

/// What became of a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkState {
    /// The link.
    pub ifindex: IfIndex,
    /// By which hook packets are looked at: `xdp`, `tcx` or `clsact`; or why they are not.
    pub hook: Result<HookKind, FilterError>,
    /// Somebody else had detached the program: it was attached again just now.
    pub reattached: bool,
}

/// A place where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookKind {
    /// XDP.
    Xdp,
    /// tcx.
    Tcx,
    /// A classifier in the clsact queueing discipline.
    Clsact,
}

/// What applying changes came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterReport {
    /// Positions of changes that failed, and the error numbers; in order. All others are in force.
    pub failed: Vec<(usize, i32)>,
}

/// Why the filter cannot do what it shall: one line with the thing and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct FilterError {
    /// The line.
    pub message: String,
}

/// What the filter wants of its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilterRequest {
    /// Open or adopt the maps. Answered by [`FilterEvent::Opened`].
    Open {
        /// Number to answer with.
        token: u64,
        /// What they shall be.
        plan: FilterPlan,
    },
    /// Change the maps. Answered by [`FilterEvent::Applied`].
    Apply {
        /// Number to answer with.
        token: u64,
        /// The changes, in this order.
        changes: Arc<Vec<FilterChange>>,
    },
    /// Have the programs attached to exactly these links. Answered by [`FilterEvent::Attached`].
    Attach {
        /// Number to answer with.
        token: u64,
        /// The links.
        links: Vec<LinkPlan>,
    },
    /// Read the maps. Answered by [`FilterEvent::Dumped`].
    Dump {
        /// Number to answer with.
        token: u64,
    },
    /// Leave nothing behind. Answered by [`FilterEvent::Removed`].
    Remove {
        /// Number to answer with.
        token: u64,
    },
}

/// What happens to the filter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FilterEvent {
    /// The operator wants this; `None`: no filter.
    Configure(Option<FilterRule>),
    /// The answer to [`FilterRequest::Open`].
    Opened {
        /// The request's number.
        token: u64,
        /// What the maps hold.
        result: Result<Contents, FilterError>,
    },
    /// The answer to [`FilterRequest::Apply`]. After an error any part may have been applied.
    Applied {
        /// The request's number.
        token: u64,
        /// How it went.
        result: Result<FilterReport, FilterError>,
    },
    /// The answer to [`FilterRequest::Attach`].
    Attached {
        /// The request's number.
        token: u64,
        /// What became of each link.
        links: Vec<LinkState>,
    },
    /// The answer to [`FilterRequest::Dump`].
    Dumped {
        /// The request's number.
        token: u64,
        /// How long it took.
        cost: Duration,
        /// What the maps hold.
        result: Result<Contents, FilterError>,
    },
    /// The answer to [`FilterRequest::Remove`].
    Removed {
        /// The request's number.
        token: u64,
        /// How it went.
        result: Result<(), FilterError>,
    },
}
