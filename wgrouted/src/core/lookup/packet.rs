//! A packet that is asked about.

use std::net::IpAddr;

use serde::Serialize;

use crate::core::{
    prefix::{Family, Prefix},
    route::IfIndex,
};

/// A packet before it is routed, as far as routing looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Packet {
    /// Destination.
    pub dst: IpAddr,
    /// Source; `None` of a packet of this host whose source is still to be chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    /// The link that it comes in by; `None` of this host's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iif: Option<IfIndex>,
    /// The link that its socket is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oif: Option<IfIndex>,
    /// Its mark.
    pub mark: u32,
    /// Who owns its socket; zero of the kernel's own and of forwarded packets (`sock_net_uid`,
    /// include/net/sock.h).
    pub uid: u32,
    /// TOS or traffic class.
    pub tos: u8,
    /// The protocol in it. `None` is UDP to the kernel in IPv4 and nothing in IPv6, when it is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Source port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    /// Destination port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
}

impl Packet {
    /// A packet of this host's of which nothing else is known.
    pub const fn to(dst: IpAddr) -> Packet {
        Packet {
            dst,
            src: None,
            iif: None,
            oif: None,
            mark: 0,
            uid: 0,
            tos: 0,
            protocol: None,
            sport: None,
            dport: None,
        }
    }

    /// Its family.
    pub fn family(&self) -> Family {
        Prefix::host(self.dst).family()
    }
}
