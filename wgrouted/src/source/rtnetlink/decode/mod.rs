//! Bytes of the kernel become the core's types.
//!
//! Here lives the decoding of rtnetlink messages, and no I/O. Invariants: no bytes make it panic
//! or loop, and a route costs no allocation unless it has several hops. It is written by hand for
//! that reason alone: a full table is a million of these messages.

mod exits;
mod iprule;
mod link;
mod nexthop;
mod route;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

pub use self::{
    exits::{OwnedNexthop, owned_nexthop, preferred_source},
    iprule::iprule,
    link::{link, link_group},
    nexthop::nexthop,
    route::{answer, route, route_or_clone},
};

use super::wire::{self, Message, Messages};
use crate::core::{
    event::NetEvent,
    prefix::Family,
    route::{RouteEvent, RouteOp},
};

/// Why a message cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A message's length field does not fit the datagram.
    #[error("a netlink message claims {length} bytes where {available} are left")]
    MessageLength {
        /// What the length field says.
        length: usize,
        /// What the datagram holds.
        available: usize,
    },
    /// An attribute's or a multipath hop's length field does not fit its container.
    #[error("a netlink attribute claims {length} bytes where {available} are left")]
    AttributeLength {
        /// What the length field says.
        length: usize,
        /// What the container holds.
        available: usize,
    },
    /// The message is shorter than its type's fixed header.
    #[error("a netlink message of type {kind} is shorter than its header")]
    Header {
        /// The message's type.
        kind: u16,
    },
    /// An attribute's size or content is not what its type demands.
    #[error("attribute {attribute} of a netlink message of type {kind} is malformed")]
    Attribute {
        /// The message's type.
        kind: u16,
        /// The attribute's type.
        attribute: u16,
    },
    /// A needed attribute is not there.
    #[error("a netlink message of type {kind} lacks attribute {attribute}")]
    Missing {
        /// The message's type.
        kind: u16,
        /// The attribute's type.
        attribute: u16,
    },
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Messages seen, the malformed included.
    pub messages: u64,
    /// Malformed ones among them.
    pub errors: u64,
    /// The last of those.
    pub last_error: Option<DecodeError>,
}

/// Decodes every message of a datagram and appends what it announces. A malformed message is
/// counted and left out; what follows it is still read if its length field can be trusted.
pub fn events(datagram: &[u8], out: &mut Vec<NetEvent>) -> Tally {
    let mut tally = Tally::default();
    for message in Messages::new(datagram) {
        tally.messages += 1;
        match message.and_then(|message| event(&message)) {
            Ok(event) => out.extend(event),
            Err(error) => {
                tally.errors += 1;
                tally.last_error = Some(error);
            }
        }
    }
    tally
}

/// What a notification announces; `None` for what is of no interest.
pub fn event(message: &Message<'_>) -> Result<Option<NetEvent>, DecodeError> {
    Ok(match message.kind {
        wire::RTM_NEWROUTE | wire::RTM_DELROUTE => {
            let op = route_op(message);
            route(message)?.map(|route| NetEvent::Route(RouteEvent { op, route }))
        }
        wire::RTM_NEWLINK => link(message)?.map(NetEvent::Link),
        wire::RTM_DELLINK => link::gone(message)?.map(|index| NetEvent::LinkGone { index }),
        wire::RTM_NEWADDR => {
            link::address(message)?.map(|(index, family)| NetEvent::AddressAdded { index, family })
        }
        wire::RTM_DELADDR => {
            link::address(message)?.map(|(index, family)| NetEvent::AddressGone { index, family })
        }
        wire::RTM_NEWNEXTHOP => nexthop(message)?.map(NetEvent::Nexthop),
        wire::RTM_DELNEXTHOP => Some(NetEvent::NexthopGone { id: nexthop::gone(message)? }),
        _ => None,
    })
}

/// IPv4: `fib_table_insert`, net/ipv4/fib_trie.c; IPv6: `fib6_add_rt2node`, net/ipv6/ip6_fib.c.
fn route_op(message: &Message<'_>) -> RouteOp {
    let has = |flag: libc::c_int| message.flags & flag as u16 != 0;
    if message.kind == wire::RTM_DELROUTE {
        RouteOp::Delete
    } else if has(libc::NLM_F_REPLACE) {
        RouteOp::Replace
    } else if has(libc::NLM_F_APPEND) {
        RouteOp::Append
    } else {
        RouteOp::Add
    }
}

/// A message's fixed header and its attributes.
fn split<'a, const N: usize>(
    message: &Message<'a>,
) -> Result<(&'a [u8; N], wire::Attributes<'a>), DecodeError> {
    let (header, attributes) = message
        .payload
        .split_first_chunk::<N>()
        .ok_or(DecodeError::Header { kind: message.kind })?;
    Ok((header, wire::Attributes::new(attributes)))
}

/// Attributes of one message type, read with errors that name both.
#[derive(Clone, Copy)]
struct Reader {
    kind: u16,
}

impl Reader {
    const fn malformed(self, attribute: u16) -> DecodeError {
        DecodeError::Attribute { kind: self.kind, attribute }
    }

    const fn missing(self, attribute: u16) -> DecodeError {
        DecodeError::Missing { kind: self.kind, attribute }
    }

    #[inline]
    fn u32(self, attribute: u16, value: &[u8]) -> Result<u32, DecodeError> {
        value.try_into().map(u32::from_ne_bytes).map_err(|_| self.malformed(attribute))
    }

    #[inline]
    fn address(self, attribute: u16, family: Family, value: &[u8]) -> Result<IpAddr, DecodeError> {
        match family {
            Family::V4 => <[u8; 4]>::try_from(value).map(IpAddr::from),
            Family::V6 => <[u8; 16]>::try_from(value).map(IpAddr::from),
        }
        .map_err(|_| self.malformed(attribute))
    }
}

/// The family of a route, address or nexthop header, if it is one that we follow.
const fn family(byte: u8) -> Option<Family> {
    match byte {
        wire::AF_INET => Some(Family::V4),
        wire::AF_INET6 => Some(Family::V6),
        _ => None,
    }
}
