//! Packets made by hand.
//!
//! Here live the bytes of IP packets that no kernel would send: any source, fragments that come
//! alone, chains of extension headers, transport headers cut short. Invariant: unless a caller
//! spoils it, a packet is one that routers forward (its IPv4 header checksum is right).
//!
//! Each carries a *label* where every forwarded packet has room for one, fragments and truncated
//! packets included: in the identification of IPv4, in the flow label of IPv6. A
//! [`Tap`](super::Tap) tells them apart by it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::echo::checksum;

/// Protocol numbers (IANA).
pub mod protocol {
    #![allow(missing_docs, reason = "the names say it")]
    pub const HOP_BY_HOP: u8 = 0;
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const GRE: u8 = 47;
    pub const ICMPV6: u8 = 58;
    pub const DESTINATION: u8 = 60;
    pub const OSPF: u8 = 89;
}

/// TCP flags as they lie in the header.
pub mod tcp {
    #![allow(missing_docs, reason = "the names say it")]
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// Time to live: more than what the kernel gives to packets (64, or 255 where it must), so that none
/// of those is taken for one of ours by the chance of its identification.
const HOPS: u8 = 150;
/// What is left of it on the lab's longest path.
const FEWEST_HOPS: u8 = 140;

/// Where a packet comes from and goes to, and what it is known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Source.
    pub from: IpAddr,
    /// Destination, of the same family.
    pub to: IpAddr,
    /// The label.
    pub label: u16,
}

impl Route {
    /// Whether it is IPv4.
    pub fn is_v4(&self) -> bool {
        self.to.is_ipv4()
    }

    /// A packet of any protocol.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match self.pair() {
            (Pair::V4(..), _) => self.v4(protocol, 0, &[], payload),
            (Pair::V6(from, to), label) => {
                let length = u16::try_from(payload.len()).expect("a packet of the lab is small");
                let mut packet = vec![0x60, 0];
                packet.extend(label.to_be_bytes());
                packet.extend(length.to_be_bytes());
                packet.extend([protocol, HOPS]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                packet.extend(payload);
                packet
            }
        }
    }

    /// An IPv4 packet with options (a multiple of four octets) and a fragment's flags and offset,
    /// which counts eights of octets.
    pub fn v4(&self, protocol: u8, fragment: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let (Pair::V4(from, to), label) = self.pair() else {
            panic!("an IPv4 packet between {} and {}", self.from, self.to);
        };
        let header = 20 + options.len();
        let length = u16::try_from(header + payload.len()).expect("a packet of the lab is small");
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(length.to_be_bytes());
        packet.extend(label.to_be_bytes());
        packet.extend(fragment.to_be_bytes());
        packet.extend([HOPS, protocol, 0, 0]);
        packet.extend(from.octets());
        packet.extend(to.octets());
        packet.extend(options);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// A fragment of either family; `offset` in octets, a multiple of eight.
    pub fn fragment(&self, protocol: u8, offset: u16, more: bool, payload: &[u8]) -> Vec<u8> {
        if self.is_v4() {
            let flags = if more { MORE_FRAGMENTS } else { 0 };
            return self.v4(protocol, flags | (offset / 8), &[], payload);
        }
        let mut header = vec![protocol, 0];
        header.extend((offset | u16::from(more)).to_be_bytes());
        header.extend(u32::from(self.label).to_be_bytes());
        header.extend(payload);
        self.packet(protocol::FRAGMENT, &header)
    }

    /// A UDP datagram of a few octets.
    pub fn udp(&self, from: u16, to: u16) -> Vec<u8> {
        self.packet(protocol::UDP, &udp(from, to))
    }

    /// A TCP segment without payload.
    pub fn tcp(&self, from: u16, to: u16, flags: u8) -> Vec<u8> {
        self.packet(protocol::TCP, &tcp(from, to, flags))
    }

    /// A message of the family's ICMP: its type, its code, and what follows the checksum.
    pub fn icmp(&self, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        let (protocol, pseudo) = match self.pair().0 {
            Pair::V4(..) => (protocol::ICMP, Vec::new()),
            // RFC 4443, section 2.3.
            Pair::V6(from, to) => {
                let mut pseudo = Vec::from(from.octets());
                pseudo.extend(to.octets());
                pseudo.extend(u32::try_from(message.len()).expect("small").to_be_bytes());
                pseudo.extend([0, 0, 0, protocol::ICMPV6]);
                (protocol::ICMPV6, pseudo)
            }
        };
        let sum = checksum(&[pseudo, message.clone()].concat());
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.packet(protocol, &message)
    }

    /// An echo request.
    pub fn echo(&self) -> Vec<u8> {
        self.icmp(if self.is_v4() { 8 } else { 128 }, 0, &[0; 12])
    }

    /// "Port unreachable" about a packet that went the other way.
    pub fn unreachable(&self, quoted: &[u8]) -> Vec<u8> {
        let (kind, code) = if self.is_v4() { (3, 3) } else { (1, 4) };
        self.icmp(kind, code, &[&[0; 4], quoted].concat())
    }

    fn pair(&self) -> (Pair, u16) {
        let pair = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Pair::V4(from, to),
            (IpAddr::V6(from), IpAddr::V6(to)) => Pair::V6(from, to),
            (from, to) => panic!("{from} and {to} are of different families"),
        };
        (pair, self.label)
    }
}

enum Pair {
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// The flag that says that another fragment follows (RFC 791).
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// A UDP datagram. Its checksum is left out, which only its receiver would mind.
pub fn udp(from: u16, to: u16) -> Vec<u8> {
    let mut datagram = Vec::from(from.to_be_bytes());
    datagram.extend(to.to_be_bytes());
    datagram.extend([0, 16, 0, 0]);
    datagram.extend([0xab; 8]);
    datagram
}

/// A TCP header.
pub fn tcp(from: u16, to: u16, flags: u8) -> Vec<u8> {
    let mut segment = Vec::from(from.to_be_bytes());
    segment.extend(to.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, flags, 1, 0, 0, 0, 0, 0]);
    segment
}

/// An IPv6 extension header of eight octets before the payload. Its type-specific octets make it
/// padding where it holds options, and a segment routing header where it routes.
pub fn extension(next: u8, payload: &[u8]) -> Vec<u8> {
    // PadN with four octets of data (RFC 8200, section 4.2).
    let mut header = vec![next, 0, 1, 4, 0, 0, 0, 0];
    header.extend(payload);
    header
}

/// The label of a packet that was made here; `None` for others.
pub(super) fn label_of(packet: &[u8]) -> Option<u16> {
    let (at, hops) = match packet.first()? >> 4 {
        4 => (4, packet.get(8)?),
        6 => (2, packet.get(7)?),
        _ => return None,
    };
    if !(FEWEST_HOPS..=HOPS).contains(hops) {
        return None;
    }
    packet.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(from: &str, to: &str) -> Route {
        Route { from: from.parse().unwrap(), to: to.parse().unwrap(), label: 0xbeef }
    }

    #[test]
    fn headers_say_how_long_packets_are_and_carry_the_label() {
        let v4 = route("10.1.0.1", "10.98.0.2").udp(1, 2);
        assert_eq!(usize::from(u16::from_be_bytes([v4[2], v4[3]])), v4.len());
        assert_eq!(checksum(&v4[..20]), 0);
        assert_eq!(label_of(&v4), Some(0xbeef));
        let v6 = route("fd00::1", "fd98::2").udp(1, 2);
        assert_eq!(usize::from(u16::from_be_bytes([v6[4], v6[5]])) + 40, v6.len());
        assert_eq!(label_of(&v6), Some(0xbeef));
        assert_eq!(label_of(&[]), None);
        let mut kernels = v4;
        kernels[8] = 64;
        assert_eq!(label_of(&kernels), None);
    }

    #[test]
    fn fragments_of_both_families_have_their_offset() {
        let v4 = route("10.1.0.1", "10.98.0.2").fragment(protocol::UDP, 16, true, b"x");
        assert_eq!(u16::from_be_bytes([v4[6], v4[7]]), MORE_FRAGMENTS | 2);
        let v6 = route("fd00::1", "fd98::2").fragment(protocol::UDP, 16, true, b"x");
        assert_eq!((v6[6], v6[40]), (protocol::FRAGMENT, protocol::UDP));
        assert_eq!(u16::from_be_bytes([v6[42], v6[43]]), 16 | 1);
    }

    #[test]
    fn icmpv6_has_a_checksum_over_its_addresses() {
        let (from, to) = ("fd00::1", "fd98::2");
        let packet = route(from, to).echo();
        let mut sum = packet[8..40].to_vec();
        sum.extend([0, 0, 0, (packet.len() - 40) as u8, 0, 0, 0, protocol::ICMPV6]);
        sum.extend(&packet[40..]);
        assert_eq!(checksum(&sum), 0);
    }
}
