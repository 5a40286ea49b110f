//! What exits consist of, as the kernel shows it: nexthop objects with their owner, routes with
//! their preferred source.
//!
//! Here lives the decoding of what the engine of routes has no use for, and therefore does not keep.

use std::net::IpAddr;

use super::{DecodeError, Message, Reader, family, nexthop, split};
use crate::{
    core::{
        prefix::Family,
        route::{NexthopId, NexthopKind},
    },
    source::rtnetlink::wire,
};

/// A nexthop object, with what makes it ours or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedNexthop {
    /// Its number.
    pub id: NexthopId,
    /// Who made it.
    pub protocol: u8,
    /// Whose routes may use it; none for groups.
    pub family: Option<Family>,
    /// A group that keeps flows where they are (`NEXTHOP_GRP_TYPE_RES`).
    pub resilient: bool,
    /// What it stands for; `None` for those that serve bridges.
    pub kind: Option<NexthopKind>,
}

/// The object in an `RTM_NEWNEXTHOP`.
pub fn owned_nexthop(message: &Message<'_>) -> Result<Option<OwnedNexthop>, DecodeError> {
    // struct nhmsg: family, scope, protocol, reserved, flags
    let (header, attributes) = split::<8>(message)?;
    let read = Reader { kind: message.kind };
    let (mut id, mut resilient) = (None, false);
    for attribute in attributes {
        match attribute? {
            (wire::NHA_ID, value) => id = Some(read.u32(wire::NHA_ID, value)?),
            (wire::NHA_GROUP_TYPE, value) => {
                resilient = value == wire::NEXTHOP_GRP_TYPE_RES.to_ne_bytes();
            }
            _ => {}
        }
    }
    Ok(Some(OwnedNexthop {
        id: id.ok_or(read.missing(wire::NHA_ID))?,
        protocol: header[2],
        family: family(header[0]),
        resilient,
        kind: nexthop(message)?.map(|nexthop| nexthop.kind),
    }))
}

/// The preferred source of the route in an `RTM_NEWROUTE`.
pub fn preferred_source(message: &Message<'_>) -> Result<Option<IpAddr>, DecodeError> {
    let (header, attributes) = split::<12>(message)?;
    let read = Reader { kind: message.kind };
    for attribute in attributes {
        if let (wire::RTA_PREFSRC, value) = attribute? {
            let family = family(header[0]).ok_or(read.malformed(wire::RTA_PREFSRC))?;
            return read.address(wire::RTA_PREFSRC, family, value).map(Some);
        }
    }
    Ok(None)
}
