//! From bytes to the headers that matter.
//!
//! Truncated and contradictory packets are refused ([`Reason::Malformed`]), never guessed at. The
//! loop has a constant bound. Checksums are not verified: the stack does that.

use crate::addr::{Addr, V4, V6};
use crate::layout::Reason;
use crate::packet::{Packet, Step};

/// IP protocol numbers.
pub mod protocol {
    #![allow(missing_docs, reason = "the names say it")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const IPIP: u8 = 4;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const DCCP: u8 = 33;
    pub const IPV6: u8 = 41;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const AUTHENTICATION: u8 = 51;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION: u8 = 60;
    pub const SCTP: u8 = 132;
    pub const MOBILITY: u8 = 135;
    pub const UDPLITE: u8 = 136;
    pub const HIP: u8 = 139;
    pub const SHIM6: u8 = 140;
}

/// Not a fragment. An atomic fragment (RFC 6946) is none either.
pub const WHOLE: u8 = 0;
/// The first fragment: it has the transport header, or it is malformed (RFC 7112).
pub const FIRST: u8 = 1;
/// A later fragment: it has no transport header.
pub const LATER: u8 = 2;

/// Most extension headers that are followed. RFC 8200 section 4.1 names seven.
pub const MAX_EXTENSIONS: u32 = 8;

/// TCP flags as they lie in the header.
pub mod tcp {
    #![allow(missing_docs, reason = "the names say it")]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// The headers of one packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Where the transport header begins; in a later fragment, the payload.
    pub transport: u32,
    /// Where the IP packet ends.
    pub end: u32,
    /// Identification of a fragment.
    pub fragment_id: u32,
    /// Source port, or ICMP code; 0 where there is none.
    pub src_port: u16,
    /// Destination port, or ICMP type; 0 where there is none.
    pub dst_port: u16,
    /// The link's zone ([`crate::layout::Link::zone`]): no header, but it tells flows apart as
    /// headers do.
    pub zone: u16,
    /// Identifier of an ICMP echo message.
    pub echo_id: u16,
    /// 4 or 6; 0 before anything was understood.
    pub family: u8,
    /// Transport protocol.
    pub protocol: u8,
    /// [`WHOLE`], [`FIRST`] or [`LATER`].
    pub fragment: u8,
    /// TCP flags.
    pub tcp_flags: u8,
}

impl Headers {
    /// Whether the protocol is the family's ICMP.
    #[inline(always)]
    pub const fn is_icmp(&self) -> bool {
        self.protocol == if self.family == V4 { protocol::ICMP } else { protocol::ICMPV6 }
    }

    /// Octets of the transport header that are looked at, or that must be there.
    #[inline(always)]
    const fn needed(&self) -> u32 {
        match self.protocol {
            protocol::TCP => 20,
            protocol::UDP | protocol::UDPLITE | protocol::SCTP | protocol::DCCP => 8,
            _ if self.is_icmp() => 8,
            _ => 0,
        }
    }

    /// Whether all headers lie before `end`. What comes behind the end of an outer packet is cut
    /// off before the kernel looks inside.
    #[inline(always)]
    pub const fn lie_before(&self, end: u32) -> bool {
        let needed = if self.fragment == LATER { 0 } else { self.needed() };
        self.transport.wrapping_add(needed) <= end
    }
}

/// How much of the packet must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All that its headers announce.
    Whole,
    /// What an ICMP error quotes: the IP header and four octets (RFC 792, RFC 4443).
    Quoted,
    /// What a first fragment shows of the packet that it encapsulates: all headers.
    Begun,
}

/// What an Ethernet header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ethernet {
    /// An IP packet, after the header.
    Ip,
    /// ARP.
    Arp,
    /// Something else, VLAN tags included.
    Other,
}

/// Length of an Ethernet header.
pub const ETHERNET_LENGTH: u32 = 14;

/// Reads an Ethernet header.
#[inline(always)]
pub fn ethernet<P: Packet>(packet: &P) -> Ethernet {
    match packet.load::<2>(12).map(u16::from_be_bytes) {
        Some(0x0800 | 0x86dd) => Ethernet::Ip,
        Some(0x0806) => Ethernet::Arp,
        _ => Ethernet::Other,
    }
}

/// Reads the IP packet at `at`. On an error the addresses are set if they could be read.
#[inline(never)]
pub fn ip<P: Packet>(
    packet: &P,
    at: u32,
    extent: Extent,
    headers: &mut Headers,
) -> Result<(), Reason> {
    *headers = Headers::default();
    match packet.load::<1>(at) {
        Some([first]) if first >> 4 == 4 => ipv4(packet, at, extent, headers)?,
        Some([first]) if first >> 4 == 6 => ipv6(packet, at, extent, headers)?,
        Some(_) => return Err(Reason::NotIp),
        None => return Err(Reason::Malformed),
    }
    if headers.fragment == LATER { Ok(()) } else { transport(packet, extent, headers) }
}

/// The end of a packet that announces `total` octets, if they are there. Beyond 65,535 octets
/// (coalesced, "BIG TCP") the kernel announces `unknown`, and the buffer tells.
#[inline(always)]
fn end<P: Packet>(
    packet: &P,
    at: u32,
    total: u32,
    unknown: u32,
    extent: Extent,
) -> Result<u32, Reason> {
    let length = packet.length();
    let available = length.wrapping_sub(at);
    let is_open = match extent {
        Extent::Whole => false,
        Extent::Quoted => true,
        Extent::Begun => total > available,
    };
    if is_open || (total == unknown && available > 0xffff) {
        Ok(length)
    } else if total > available {
        Err(Reason::Malformed)
    } else {
        Ok(at.wrapping_add(total))
    }
}

#[inline(always)]
fn ipv4<P: Packet>(
    packet: &P,
    at: u32,
    extent: Extent,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let Some(head) = packet.load::<20>(at) else { return Err(Reason::Malformed) };
    headers.family = V4;
    headers.src = Addr::v4([head[12], head[13], head[14], head[15]]);
    headers.dst = Addr::v4([head[16], head[17], head[18], head[19]]);
    headers.protocol = head[9];
    headers.fragment_id = u32::from(u16::from_be_bytes([head[4], head[5]]));
    let length = u32::from(head[0] & 15) * 4;
    let total = u32::from(u16::from_be_bytes([head[2], head[3]]));
    if length < 20 || (total != 0 && total < length) {
        return Err(Reason::Malformed);
    }
    headers.transport = at.wrapping_add(length);
    headers.end = end(packet, at, total, 0, extent)?;
    if headers.transport > headers.end {
        return Err(Reason::Malformed);
    }
    let field = u16::from_be_bytes([head[6], head[7]]);
    fragment(headers, u32::from(field & 0x1fff) * 8, field & 0x2000 != 0)
}

/// Takes note of a fragment's place.
#[inline(always)]
fn fragment(headers: &mut Headers, offset: u32, more: bool) -> Result<(), Reason> {
    if offset != 0 {
        headers.fragment = LATER;
        // What overlaps a TCP header's flags is an attack (RFC 1858, RFC 3128); what ends beyond
        // 65,535 octets cannot be put together (RFC 791 section 3.2, RFC 8200 section 4.5).
        let length = headers.end.wrapping_sub(headers.transport);
        if (offset == 8 && headers.protocol == protocol::TCP) || offset + (length & 0xffff) > 0xffff
        {
            return Err(Reason::Malformed);
        }
    } else if more {
        headers.fragment = FIRST;
    }
    Ok(())
}

#[inline(always)]
fn ipv6<P: Packet>(
    packet: &P,
    at: u32,
    extent: Extent,
    headers: &mut Headers,
) -> Result<(), Reason> {
    let Some(head) = packet.load::<40>(at) else { return Err(Reason::Malformed) };
    headers.family = V6;
    headers.src = address(&head, 8);
    headers.dst = address(&head, 24);
    let total = 40 + u32::from(u16::from_be_bytes([head[4], head[5]]));
    headers.end = end(packet, at, total, 40, extent)?;
    headers.protocol = head[6];
    headers.transport = at.wrapping_add(40);
    if !is_extension(headers.protocol) {
        return Ok(());
    }
    let mut chain = Chain { packet, headers, split: 0, malformed: 0 };
    packet.repeat(MAX_EXTENSIONS, &mut chain);
    let malformed = chain.malformed != 0;
    if malformed || (headers.fragment != LATER && is_extension(headers.protocol)) {
        return Err(Reason::Malformed);
    }
    Ok(())
}

/// The chain of extension headers; what its next header is, and where, stands in `headers`.
struct Chain<'a, P> {
    packet: &'a P,
    headers: &'a mut Headers,
    split: u32,
    malformed: u32,
}

impl<P: Packet> Step for Chain<'_, P> {
    #[inline(always)]
    fn step(&mut self, index: u32) -> bool {
        if !is_extension(self.headers.protocol) {
            return true;
        }
        match self.follow(index) {
            Ok(()) => self.headers.fragment == LATER,
            Err(_) => {
                self.malformed = 1;
                true
            }
        }
    }
}

impl<P: Packet> Chain<'_, P> {
    #[inline(always)]
    fn follow(&mut self, index: u32) -> Result<(), Reason> {
        let kind = self.headers.protocol;
        // Hop-by-hop options stand first or not at all (RFC 8200 section 4.1).
        if kind == protocol::HOP_BY_HOP && index != 0 {
            return Err(Reason::Malformed);
        }
        let Some(bytes) = self.packet.load::<8>(self.headers.transport) else {
            return Err(Reason::Malformed);
        };
        let length = match kind {
            protocol::FRAGMENT => 8,
            protocol::AUTHENTICATION => (u32::from(bytes[1]) + 2) * 4,
            _ => (u32::from(bytes[1]) + 1) * 8,
        };
        self.headers.protocol = bytes[0];
        self.headers.transport = self.headers.transport.wrapping_add(length);
        // Type 0 routing headers are deprecated as dangerous (RFC 5095).
        if self.headers.transport > self.headers.end || (kind == protocol::ROUTING && bytes[2] == 0)
        {
            return Err(Reason::Malformed);
        }
        if kind == protocol::FRAGMENT {
            if self.split != 0 {
                return Err(Reason::Malformed);
            }
            self.split = 1;
            self.headers.fragment_id = u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
            let field = u16::from_be_bytes([bytes[2], bytes[3]]);
            fragment(self.headers, u32::from(field & !7), field & 1 != 0)?;
        }
        Ok(())
    }
}

#[inline(always)]
fn address(head: &[u8; 40], at: usize) -> Addr {
    let word = |at: usize| {
        u64::from_be_bytes([
            head[at],
            head[at + 1],
            head[at + 2],
            head[at + 3],
            head[at + 4],
            head[at + 5],
            head[at + 6],
            head[at + 7],
        ])
    };
    Addr { hi: word(at), lo: word(at + 8) }
}

/// Whether the number is that of an IPv6 extension header, which is looked through.
#[inline(always)]
pub const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::FRAGMENT
            | protocol::AUTHENTICATION
            | protocol::DESTINATION
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6
    )
}

#[inline(always)]
fn transport<P: Packet>(packet: &P, extent: Extent, headers: &mut Headers) -> Result<(), Reason> {
    let (icmp, needed) = (headers.is_icmp(), headers.needed());
    if needed == 0 {
        return Ok(());
    }
    let quoted = matches!(extent, Extent::Quoted);
    if !quoted && headers.end.wrapping_sub(headers.transport) < needed {
        return Err(Reason::Malformed);
    }
    let Some(ports) = packet.load::<4>(headers.transport) else { return Err(Reason::Malformed) };
    if icmp {
        headers.dst_port = u16::from(ports[0]);
        headers.src_port = u16::from(ports[1]);
        if let Some(id) = packet.load::<2>(headers.transport.wrapping_add(4)) {
            headers.echo_id = u16::from_be_bytes(id);
        }
        return Ok(());
    }
    headers.src_port = u16::from_be_bytes([ports[0], ports[1]]);
    headers.dst_port = u16::from_be_bytes([ports[2], ports[3]]);
    if headers.protocol == protocol::TCP && !quoted {
        let Some(bytes) = packet.load::<2>(headers.transport.wrapping_add(12)) else {
            return Err(Reason::Malformed);
        };
        if bytes[0] >> 4 < 5 {
            return Err(Reason::Malformed);
        }
        headers.tcp_flags = bytes[1];
    }
    Ok(())
}

/// An encapsulated packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encapsulated {
    /// Where it begins.
    pub at: u32,
    /// The family that the encapsulation announces.
    pub family: u8,
    /// Whether there is a key.
    pub keyed: bool,
    /// GRE's key; 0 if there is none.
    pub key: u32,
}

/// Whether the protocol is one of those by which tunnels encapsulate.
#[inline(always)]
pub const fn is_encapsulation(next: u8) -> bool {
    matches!(next, protocol::IPIP | protocol::IPV6 | protocol::GRE)
}

/// Reads what stands between the outer packet's headers and the inner packet, of a protocol that
/// [encapsulates](is_encapsulation).
#[inline(always)]
pub fn encapsulated<P: Packet>(packet: &P, outer: &Headers) -> Result<Encapsulated, Reason> {
    let at = outer.transport;
    if outer.protocol != protocol::GRE {
        let family = if outer.protocol == protocol::IPIP { V4 } else { V6 };
        return Ok(Encapsulated { at, family, keyed: false, key: 0 });
    }
    // RFC 2784, RFC 2890: checksum, key and sequence number take four octets each, in this order.
    // Other bits and versions (source routing, PPTP) change what follows.
    let Some(head) = packet.load::<4>(at) else { return Err(Reason::TunnelTruncated) };
    let (checksum, keyed, sequence) = (head[0] >> 7, head[0] >> 5 & 1, head[0] >> 4 & 1);
    let length = 4 + 4 * (u32::from(checksum) + u32::from(keyed) + u32::from(sequence));
    if outer.end.wrapping_sub(at) < 4 {
        return Err(Reason::TunnelTruncated);
    }
    if head[0] & 0x4f != 0 || head[1] != 0 {
        return Err(Reason::Encapsulation);
    }
    let family = match u16::from_be_bytes([head[2], head[3]]) {
        0x0800 => V4,
        0x86dd => V6,
        _ => return Err(Reason::TunnelPayload),
    };
    if outer.end.wrapping_sub(at) < length {
        return Err(Reason::TunnelTruncated);
    }
    let mut key = 0;
    if keyed != 0 {
        let place = at.wrapping_add(4 + 4 * u32::from(checksum));
        let Some(bytes) = packet.load::<4>(place) else { return Err(Reason::TunnelTruncated) };
        key = u32::from_be_bytes(bytes);
    }
    Ok(Encapsulated { at: at.wrapping_add(length), family, keyed: keyed != 0, key })
}

/// Whether the packet is an ICMP error, which quotes another packet after eight octets.
#[inline(always)]
pub const fn is_icmp_error(headers: &Headers) -> bool {
    if headers.family == V4 {
        // Destination unreachable, time exceeded, parameter problem.
        headers.protocol == protocol::ICMP && matches!(headers.dst_port, 3 | 11 | 12)
    } else {
        // The above and packet too big.
        headers.protocol == protocol::ICMPV6 && matches!(headers.dst_port, 1..=4)
    }
}
