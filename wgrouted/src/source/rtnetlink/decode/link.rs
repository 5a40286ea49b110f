//! `RTM_NEWLINK`, `RTM_DELLINK`, `RTM_NEWADDR` and `RTM_DELADDR`.
//!
//! Here lives the decoding of links and of addresses as far as routes depend on them.

use super::{DecodeError, Message, Reader, family, split};
use crate::{
    core::{
        prefix::Family,
        route::{IfIndex, Link, LinkKind},
    },
    source::rtnetlink::wire::{Attributes, u32_at},
};

// include/uapi/linux/if_link.h
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_WIRELESS: u16 = 11;
const IFLA_LINKINFO: u16 = 18;
const IFLA_GROUP: u16 = 27;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_VRF_TABLE: u16 = 1;

/// The link in an `RTM_NEWLINK`; `None` if the message is not about the link itself: bridge
/// ports are announced with family `AF_BRIDGE` (net/bridge/br_netlink.c), wireless events with
/// little more than a name (net/wireless/wext-core.c).
pub fn link(message: &Message<'_>) -> Result<Option<Link>, DecodeError> {
    let Some((index, flags, attributes)) = header(message)? else {
        return Ok(None);
    };
    let read = Reader { kind: message.kind };
    let (mut name, mut master, mut kind) = (None, None, LinkKind::Other);
    for attribute in attributes {
        let (attribute, value) = attribute?;
        match attribute {
            IFLA_IFNAME => name = Some(String::from_utf8_lossy(text(value)).into_owned()),
            IFLA_MASTER => master = Some(read.u32(attribute, value)?).filter(|&index| index != 0),
            IFLA_LINKINFO => kind = link_kind(read, value)?,
            IFLA_WIRELESS => return Ok(None),
            _ => {}
        }
    }
    let name = name.ok_or(read.missing(IFLA_IFNAME))?;
    Ok(Some(Link { index, name, up: flags & libc::IFF_UP as u32 != 0, master, kind }))
}

/// The group of the link in an `RTM_NEWLINK`.
pub fn link_group(message: &Message<'_>) -> Result<Option<(IfIndex, u32)>, DecodeError> {
    let Some((index, _, attributes)) = header(message)? else {
        return Ok(None);
    };
    let read = Reader { kind: message.kind };
    for attribute in attributes {
        let (attribute, value) = attribute?;
        if attribute == IFLA_GROUP {
            return Ok(Some((index, read.u32(attribute, value)?)));
        }
    }
    Ok(None)
}

/// The link that an `RTM_DELLINK` takes away; `None` where a port merely leaves its bridge.
pub(super) fn gone(message: &Message<'_>) -> Result<Option<IfIndex>, DecodeError> {
    Ok(header(message)?.map(|(index, ..)| index))
}

/// The link and family of the address in an `RTM_NEWADDR` or `RTM_DELADDR`.
pub(super) fn address(message: &Message<'_>) -> Result<Option<(IfIndex, Family)>, DecodeError> {
    // struct ifaddrmsg: family, prefixlen, flags, scope, index
    let (header, _) = split::<8>(message)?;
    Ok(family(header[0]).map(|family| (u32_at(header, 4), family)))
}

/// `struct ifinfomsg`: family, pad, type, index, flags, change.
fn header<'a>(
    message: &Message<'a>,
) -> Result<Option<(IfIndex, u32, Attributes<'a>)>, DecodeError> {
    let (header, attributes) = split::<16>(message)?;
    let is_link = i32::from(header[0]) == libc::AF_UNSPEC;
    Ok(is_link.then(|| (u32_at(header, 4), u32_at(header, 8), attributes)))
}

fn link_kind(read: Reader, info: &[u8]) -> Result<LinkKind, DecodeError> {
    let (mut kind, mut data) = (None, None);
    for attribute in Attributes::new(info) {
        match attribute? {
            (IFLA_INFO_KIND, value) => kind = Some(text(value)),
            (IFLA_INFO_DATA, value) => data = Some(value),
            _ => {}
        }
    }
    match kind {
        Some(b"wireguard") => Ok(LinkKind::Wireguard),
        Some(b"vrf") => {
            for attribute in Attributes::new(data.unwrap_or_default()) {
                let (attribute, value) = attribute?;
                if attribute == IFLA_VRF_TABLE {
                    return Ok(LinkKind::Vrf { table: read.u32(attribute, value)? });
                }
            }
            Err(read.missing(IFLA_LINKINFO))
        }
        _ => Ok(LinkKind::Other),
    }
}

/// A string attribute up to its terminating zero.
fn text(value: &[u8]) -> &[u8] {
    value.split(|&byte| byte == 0).next().unwrap_or_default()
}
