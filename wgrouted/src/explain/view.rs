//! The answer, as data. Its JSON is what `wgrouted explain --json` prints.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Serialize;

use super::{network::Network, onward::Onward};
use crate::core::{
    lookup::{kernel::Lookup, packet::Packet, walk::Walk},
    report::Explanation,
    route::IfIndex,
};

/// What becomes of a packet.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// The packet.
    pub packet: PacketView,
    /// What the rules and tables make of it.
    pub walk: Walk,
    /// The names of the walk's rules, where they have one.
    pub rule_names: Vec<Option<String>>,
    /// The name of the nexthop object that the walk ends at, if it has one.
    pub nexthop_name: Option<String>,
    /// The names of links.
    pub links: BTreeMap<IfIndex, String>,
    /// What the kernel says.
    pub kernel: Said,
    /// The link that it leaves by, and who is there; none if it does not leave.
    pub onward: Option<Onward>,
    /// What was taken for granted, and what nobody knows.
    pub notes: Vec<String>,
    /// Which peer the address belongs to on each interface, and why.
    pub interfaces: Vec<Explanation>,
    /// Whether the packet gets anywhere.
    pub is_way: bool,
}

/// What the kernel says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Said {
    /// Its answer, which counts.
    Answer {
        /// Whether the walk came to the same.
        agrees: bool,
        /// The answer.
        lookup: Lookup,
    },
    /// It cannot be asked about such a packet.
    NotAsked,
    /// It did not answer.
    Failed {
        /// Why.
        error: String,
    },
}

/// A packet, with names for links.
#[derive(Clone, Debug, Serialize)]
pub struct PacketView {
    /// Destination.
    pub to: IpAddr,
    /// Source.
    pub from: Option<IpAddr>,
    /// Where it comes in; none of this host's own.
    pub iif: Option<String>,
    /// The link that its socket is bound to.
    pub oif: Option<String>,
    /// Mark.
    pub mark: u32,
    /// Owner of its socket.
    pub uid: u32,
    /// TOS or traffic class.
    pub tos: u8,
    /// Protocol.
    pub protocol: Option<u8>,
    /// Source port.
    pub sport: Option<u16>,
    /// Destination port.
    pub dport: Option<u16>,
}

impl PacketView {
    /// Of a packet.
    pub fn new(packet: &Packet, network: &Network) -> PacketView {
        let &Packet { dst: to, src: from, iif, oif, mark, uid, tos, protocol, sport, dport } =
            packet;
        let name = |index| network.name(index);
        let (iif, oif) = (iif.map(name), oif.map(name));
        PacketView { to, from, iif, oif, mark, uid, tos, protocol, sport, dport }
    }
}
