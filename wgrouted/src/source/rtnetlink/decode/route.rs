//! `RTM_NEWROUTE` and `RTM_DELROUTE`: the hot path.
//!
//! Here lives the decoding of one route, nothing else. It reads each attribute where it lies.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{DecodeError, Message, Reader, family, split};
use crate::{
    core::{
        prefix::{Family, Prefix},
        route::{Hop, Hops, Path, Route, RouteKind},
    },
    source::rtnetlink::wire::{self, Attributes, align, u32_at},
};

/// `struct rtnexthop`, include/uapi/linux/rtnetlink.h.
const RTNH_HEADER: usize = 8;

/// The route in an `RTM_NEWROUTE` or `RTM_DELROUTE`; `None` if it is of a family that we do not
/// follow or a clone: a cached answer to a lookup (`RTM_F_CLONED`), not an entry of a table.
pub fn route(message: &Message<'_>) -> Result<Option<Route>, DecodeError> {
    let (header, _) = split::<12>(message)?;
    if u32_at(header, 8) & wire::RTM_F_CLONED != 0 {
        return Ok(None);
    }
    route_or_clone(message)
}

/// The answer to `RTM_GETROUTE` for one packet, with the source that the packet gets or has.
pub fn answer(message: &Message<'_>) -> Result<Option<(Route, Option<IpAddr>)>, DecodeError> {
    let Some(route) = route_or_clone(message)? else { return Ok(None) };
    let read = Reader { kind: message.kind };
    let mut source = None;
    for attribute in split::<12>(message)?.1 {
        let (kind, value) = attribute?;
        if kind == wire::RTA_PREFSRC {
            source = Some(read.address(kind, route.prefix.family(), value)?);
        }
    }
    Ok(Some((route, source)))
}

/// As [`route`], clones included: the answer to `RTM_GETROUTE` for one address is one.
pub fn route_or_clone(message: &Message<'_>) -> Result<Option<Route>, DecodeError> {
    // struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
    let (header, attributes) = split::<12>(message)?;
    let &[family_byte, dst_len, src_len, tos, table, protocol, _scope, kind, ..] = header;
    let Some(family) = family(family_byte) else {
        return Ok(None);
    };
    let read = Reader { kind: message.kind };

    let mut path = Path {
        table: u32::from(table),
        metric: 0,
        tos,
        protocol,
        kind: route_kind(kind),
        source: None,
        nexthop: 0,
        hops: Hops::new(),
    };
    let (mut dst, mut src, mut multipath) = (None, None, None);
    // The flags of the only hop are those of the route, `fib_nexthop_info`,
    // net/ipv4/fib_semantics.c.
    let mut hop = Hop {
        oif: 0,
        gateway: None,
        weight: 1,
        realm: 0,
        dead: u32_at(header, 8) & u32::from(wire::RTNH_F_DEAD) != 0,
    };
    for attribute in attributes {
        let (kind, value) = attribute?;
        match kind {
            wire::RTA_DST => dst = Some(read.address(kind, family, value)?),
            wire::RTA_SRC => src = Some(read.address(kind, family, value)?),
            wire::RTA_PRIORITY => path.metric = read.u32(kind, value)?,
            wire::RTA_TABLE => path.table = read.u32(kind, value)?,
            wire::RTA_NH_ID => path.nexthop = read.u32(kind, value)?,
            wire::RTA_OIF => hop.oif = read.u32(kind, value)?,
            wire::RTA_MULTIPATH => multipath = Some(value),
            _ => hop_attribute(read, family, kind, value, &mut hop)?,
        }
    }

    let prefix = prefix(read, wire::RTA_DST, family, dst, dst_len)?;
    // IPv4 has no source-specific routes; there RTA_SRC repeats what a lookup asked for.
    if family == Family::V6 && src_len > 0 {
        path.source = Some(self::prefix(read, wire::RTA_SRC, family, src, src_len)?);
    }
    // IPv6 gives a reject route the loopback device as its hop.
    if !path.kind.is_reject() && path.kind != RouteKind::Throw {
        match multipath {
            Some(value) => hops(read, family, value, &mut path.hops)?,
            None if hop.oif != 0 || hop.gateway.is_some() => path.hops.push(hop),
            None => {}
        }
    }
    Ok(Some(Route { prefix, path }))
}

/// The attributes that a hop can have within and without `RTA_MULTIPATH`.
#[inline]
fn hop_attribute(
    read: Reader,
    family: Family,
    kind: u16,
    value: &[u8],
    hop: &mut Hop,
) -> Result<(), DecodeError> {
    match kind {
        wire::RTA_GATEWAY => hop.gateway = Some(read.address(kind, family, value)?),
        wire::RTA_VIA => hop.gateway = Some(via(read, value)?),
        wire::RTA_FLOW => hop.realm = read.u32(kind, value)?,
        _ => {}
    }
    Ok(())
}

/// `struct rtvia`: a family in 16 bits, then the address.
fn via(read: Reader, value: &[u8]) -> Result<IpAddr, DecodeError> {
    let malformed = read.malformed(wire::RTA_VIA);
    let (family, address) = value.split_first_chunk::<2>().ok_or(malformed)?;
    let family = u8::try_from(u16::from_ne_bytes(*family)).ok().and_then(super::family);
    read.address(wire::RTA_VIA, family.ok_or(malformed)?, address)
}

/// A run of `struct rtnexthop`, each followed by its attributes.
fn hops(
    read: Reader,
    family: Family,
    mut bytes: &[u8],
    hops: &mut Hops,
) -> Result<(), DecodeError> {
    while !bytes.is_empty() {
        let available = bytes.len();
        let Some(header) = bytes.first_chunk::<RTNH_HEADER>() else {
            return Err(DecodeError::AttributeLength { length: RTNH_HEADER, available });
        };
        let length = usize::from(wire::u16_at(header, 0));
        let Some(attributes) = bytes.get(RTNH_HEADER..length) else {
            return Err(DecodeError::AttributeLength { length, available });
        };
        let mut hop = Hop {
            oif: u32_at(header, 4),
            gateway: None,
            weight: u32::from(header[3]) + 1,
            realm: 0,
            dead: header[2] & wire::RTNH_F_DEAD != 0,
        };
        for attribute in Attributes::new(attributes) {
            let (kind, value) = attribute?;
            hop_attribute(read, family, kind, value, &mut hop)?;
        }
        hops.push(hop);
        bytes = bytes.get(align(length)..).unwrap_or_default();
    }
    Ok(())
}

/// The kernel leaves the address out only where the length is zero.
#[inline]
fn prefix(
    read: Reader,
    attribute: u16,
    family: Family,
    address: Option<IpAddr>,
    len: u8,
) -> Result<Prefix, DecodeError> {
    let address = match (address, family) {
        (Some(address), _) => address,
        (None, _) if len > 0 => return Err(read.missing(attribute)),
        (None, Family::V4) => Ipv4Addr::UNSPECIFIED.into(),
        (None, Family::V6) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Prefix::new(address, len).ok_or(read.malformed(attribute))
}

const fn route_kind(byte: u8) -> RouteKind {
    match byte {
        libc::RTN_UNICAST => RouteKind::Unicast,
        libc::RTN_BLACKHOLE => RouteKind::Blackhole,
        libc::RTN_UNREACHABLE => RouteKind::Unreachable,
        libc::RTN_PROHIBIT => RouteKind::Prohibit,
        libc::RTN_THROW => RouteKind::Throw,
        _ => RouteKind::Other,
    }
}
