//! `RTM_NEWNEXTHOP` and `RTM_DELNEXTHOP`, which no crate decodes.
//!
//! Here lives the decoding of one nexthop object (include/uapi/linux/nexthop.h), nothing else.

use super::{DecodeError, Message, Reader, family, split};
use crate::{
    core::route::{Nexthop, NexthopId, NexthopKind},
    source::rtnetlink::wire::{NHA_GROUP, NHA_ID, NHA_OIF, u32_at},
};

const NHA_BLACKHOLE: u16 = 4;
const NHA_GATEWAY: u16 = 6;
const NHA_FDB: u16 = 11;
const NHA_OP_FLAGS: u16 = 14;
/// In an answer: the group entries' reserved bytes are initialised. Without it they may hold
/// garbage (before Linux 6.10), and the weight has eight bits only.
const NHA_OP_FLAG_RESP_GRP_RESVD_0: u32 = 1 << 31;

/// The object in an `RTM_NEWNEXTHOP`; `None` if it serves bridge forwarding (`NHA_FDB`), not
/// routes.
pub fn nexthop(message: &Message<'_>) -> Result<Option<Nexthop>, DecodeError> {
    // struct nhmsg: family, scope, protocol, reserved, flags
    let (header, attributes) = split::<8>(message)?;
    let read = Reader { kind: message.kind };
    let (mut id, mut oif, mut gateway, mut group) = (None, None, None, None);
    let (mut blackhole, mut op_flags) = (false, 0);
    for attribute in attributes {
        let (kind, value) = attribute?;
        match kind {
            NHA_ID => id = Some(read.u32(kind, value)?),
            NHA_GROUP => group = Some(value),
            NHA_BLACKHOLE => blackhole = true,
            NHA_OIF => oif = Some(read.u32(kind, value)?),
            NHA_GATEWAY => {
                let family = family(header[0]).ok_or(read.malformed(kind))?;
                gateway = Some(read.address(kind, family, value)?);
            }
            NHA_FDB => return Ok(None),
            NHA_OP_FLAGS => op_flags = read.u32(kind, value)?,
            _ => {}
        }
    }
    let id = id.ok_or(read.missing(NHA_ID))?;
    let kind = if let Some(value) = group {
        let wide = op_flags & NHA_OP_FLAG_RESP_GRP_RESVD_0 != 0;
        NexthopKind::Group(members(value, wide).ok_or(read.malformed(NHA_GROUP))?)
    } else if blackhole {
        NexthopKind::Blackhole
    } else {
        NexthopKind::Hop { oif: oif.ok_or(read.missing(NHA_OIF))?, gateway }
    };
    Ok(Some(Nexthop { id, kind }))
}

/// The number in an `RTM_DELNEXTHOP`.
pub(super) fn gone(message: &Message<'_>) -> Result<NexthopId, DecodeError> {
    let (_, attributes) = split::<8>(message)?;
    let read = Reader { kind: message.kind };
    for attribute in attributes {
        let (kind, value) = attribute?;
        if kind == NHA_ID {
            return read.u32(kind, value);
        }
    }
    Err(read.missing(NHA_ID))
}

/// A run of `struct nexthop_grp`: id, weight - 1 (low byte, then high byte), reserved.
fn members(value: &[u8], wide: bool) -> Option<Vec<(NexthopId, u32)>> {
    let (entries, rest) = value.as_chunks::<8>();
    if entries.is_empty() || !rest.is_empty() {
        return None;
    }
    let weight = |low: u8, high: u8| u32::from(u16::from_le_bytes([low, high])) + 1;
    let member = |e: &[u8; 8]| (u32_at(e, 0), weight(e[4], if wide { e[5] } else { 0 }));
    Some(entries.iter().map(member).collect())
}
