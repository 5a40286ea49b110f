//! May the peer use this source address?
//!
//! The answer depends on the packet's addresses, the peer's word in the tables and the tries;
//! never on ports, flows or time.

use crate::addr::{Addr, V4, is_link_local, is_martian, is_multicast, stays_on_link};
use crate::layout::{Mode, Peer, Reason, domain, owner};
use crate::parse::{Headers, protocol};
use crate::tables::Tables;

/// Whether the packet is one of those that must have the unspecified source: DHCP requests
/// (RFC 2131 section 4.1), and ICMPv6 neighbour and router solicitation and listener reports
/// (RFC 4861 section 4, RFC 4862 section 5.4.2, RFC 3810 section 5.2.13).
#[inline(always)]
pub fn is_unspecified_use(headers: &Headers) -> bool {
    if headers.family == V4 {
        headers.dst.lo == 0xffff_ffff
            && headers.protocol == protocol::UDP
            && headers.src_port == 68
            && headers.dst_port == 67
    } else {
        is_multicast(headers.family, headers.dst)
            && stays_on_link(headers.family, headers.dst)
            && headers.protocol == protocol::ICMPV6
            && matches!(headers.dst_port, 131 | 133 | 135 | 143)
    }
}

/// The reason to drop, if there is one.
#[inline(never)]
pub fn check<T: Tables>(tables: &T, id: u32, peer: &Peer, headers: &Headers) -> Result<(), Reason> {
    if peer.mode == Mode::Off as u8 {
        return Ok(());
    }
    let (family, src) = (headers.family, headers.src);
    if is_martian(family, src) {
        let allowed = peer.flags & Peer::UNSPECIFIED != 0
            && src == Addr::UNSPECIFIED
            && is_unspecified_use(headers);
        return if allowed { Ok(()) } else { Err(Reason::Martian) };
    }
    if peer.flags & Peer::LINK_LOCAL != 0
        && is_link_local(family, src)
        && stays_on_link(family, headers.dst)
    {
        return Ok(());
    }
    match by_mode(tables, id, peer, family, src) {
        Ok(()) => Ok(()),
        Err(_) if is_present(tables, family, domain::own(id), src) => Ok(()),
        Err(reason) => Err(reason),
    }
}

#[inline(always)]
fn by_mode<T: Tables>(
    tables: &T,
    id: u32,
    peer: &Peer,
    family: u8,
    src: Addr,
) -> Result<(), Reason> {
    if peer.flags & Peer::NARROW != 0 && !is_present(tables, family, domain::list(id), src) {
        return Err(Reason::NotListed);
    }
    let found = tables.owner(family, peer.domain, src).unwrap_or(owner::NOBODY);
    let number = found & owner::NUMBER;
    if peer.mode == Mode::Strict as u8 {
        if number == owner::NOBODY {
            Err(Reason::NoRoute)
        } else if found & owner::SET != 0 {
            if tables.in_set(number, id) { Ok(()) } else { Err(Reason::OtherPeer) }
        } else if number == id {
            Ok(())
        } else {
            Err(Reason::OtherPeer)
        }
    } else if number == owner::NOBODY {
        Err(if peer.mode == Mode::List as u8 { Reason::NotListed } else { Reason::NoRoute })
    } else if peer.mode == Mode::Loose as u8
        && peer.flags & Peer::IGNORE_DEFAULT != 0
        && found & owner::DEFAULT != 0
    {
        Err(Reason::NoRoute)
    } else {
        Ok(())
    }
}

#[inline(always)]
fn is_present<T: Tables>(tables: &T, family: u8, domain: u32, addr: Addr) -> bool {
    matches!(tables.owner(family, domain, addr), Some(found) if found & owner::NUMBER != 0)
}
