//! A packet to ask the filter about.
//!
//! Here lives [`Probe`], which becomes the bytes of an IP packet. Invariant: the bytes are a packet
//! that the filter's parser takes, and it finds in them what the probe says. Checksums are zero:
//! neither the verdict nor the programs look at them.

use std::net::IpAddr;

use clap::ValueEnum;
use ebpf_xdp::parse::{self, protocol, tcp};
use serde::{Deserialize, Serialize};

use crate::{
    config::filter::{has_ports, is_icmp, protocol_name},
    core::filter::rule::Ends,
};

/// What the operator asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// The protocol.
    pub protocol: u8,
    /// Source port; an ephemeral one if absent.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: Option<u16>,
    /// ICMP type; echo request if absent.
    pub icmp_type: Option<u8>,
    /// ICMP code; zero if absent.
    pub icmp_code: Option<u8>,
    /// Which part of a fragmented packet it is.
    pub fragment: Option<Fragment>,
}

/// A part of a fragmented packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fragment {
    /// The first one, with the transport header.
    First,
    /// A later one, without.
    Later,
}

/// Why there is no such packet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// Addresses of different families.
    #[error("{src} and {dst} are not of one family: give two IPv4 or two IPv6 addresses")]
    Families {
        /// Source.
        src: IpAddr,
        /// Destination.
        dst: IpAddr,
    },
    /// A protocol of the other family.
    #[error("{0}")]
    Protocol(&'static str),
    /// Ports without a place for them.
    #[error(
        "{0} has no ports: leave --sport and --dport out, or name tcp, udp, sctp, udplite or dccp"
    )]
    Ports(String),
    /// No destination port.
    #[error("{0} needs a destination port: add --dport")]
    NoPort(String),
    /// A tunnel that does not carry the family.
    #[error("an ipip tunnel carries IPv4 only: give IPv4 addresses")]
    Payload,
    /// Types without a place for them.
    #[error("{0} has no types: leave --icmp-type and --icmp-code out, or name icmp or icmpv6")]
    Types(String),
}

/// A packet that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    header: Header,
    fragment: Option<Fragment>,
}

/// What stands after the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Header {
    Ports { src: u16, dst: u16 },
    Icmp { kind: u8, code: u8 },
    Other,
}

/// The first port of the dynamic range (RFC 6335 section 6).
const EPHEMERAL: u16 = 49152;
/// Where the later fragment begins: a multiple of eight that many a path's first fragment fills.
const OFFSET: u16 = 1232;
/// Identification of the packet.
const ID: u8 = 1;

impl Probe {
    /// The packet that a question is about.
    pub fn new(question: &Question) -> Result<Self, ProbeError> {
        let &Question { src, dst, protocol, fragment, .. } = question;
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(ProbeError::Families { src, dst });
        }
        match (protocol, src.is_ipv4()) {
            (protocol::ICMP, false) => {
                return Err(ProbeError::Protocol("icmp is IPv4's: name icmpv6"));
            }
            (protocol::ICMPV6, true) => {
                return Err(ProbeError::Protocol("icmpv6 is IPv6's: name icmp"));
            }
            (number, false) if parse::is_extension(number) => {
                return Err(ProbeError::Protocol(
                    "in IPv6 this is an extension header, which the filter looks through: name \
                     the protocol that it carries",
                ));
            }
            _ => {}
        }
        let name = || match protocol_name(protocol) {
            Some(name) => name.to_owned(),
            None => format!("protocol {protocol}"),
        };
        let ports = question.src_port.is_some() || question.dst_port.is_some();
        let types = question.icmp_type.is_some() || question.icmp_code.is_some();
        if ports && !has_ports(protocol) {
            return Err(ProbeError::Ports(name()));
        }
        if types && !is_icmp(protocol) {
            return Err(ProbeError::Types(name()));
        }
        let header = if has_ports(protocol) {
            let dst = match (question.dst_port, fragment) {
                (Some(port), _) => port,
                (None, Some(Fragment::Later)) => 0,
                (None, _) => return Err(ProbeError::NoPort(name())),
            };
            Header::Ports { src: question.src_port.unwrap_or(EPHEMERAL), dst }
        } else if is_icmp(protocol) {
            let request = if protocol == protocol::ICMP { 8 } else { 128 };
            let kind = question.icmp_type.unwrap_or(request);
            Header::Icmp { kind, code: question.icmp_code.unwrap_or(0) }
        } else {
            Header::Other
        };
        Ok(Probe { src, dst, protocol, header, fragment })
    }

    /// Its bytes, from the IP header on.
    pub fn packet(&self) -> Vec<u8> {
        let mut payload = match self.fragment {
            Some(Fragment::Later) => vec![0; 8],
            _ => self.transport(),
        };
        // All fragments but the last one are multiples of eight long.
        payload.resize(payload.len().next_multiple_of(8), 0);
        packet(self.src, self.dst, self.protocol, self.fragment, payload)
    }

    /// Its bytes inside a tunnel's packet that comes in between these ends.
    pub fn inside(&self, ends: &Ends) -> Result<Vec<u8>, ProbeError> {
        let inner = self.packet();
        if ends.protocol == protocol::IPIP && !self.src.is_ipv4() {
            return Err(ProbeError::Payload);
        }
        let mut payload = Vec::new();
        if ends.protocol == protocol::GRE {
            let kind: u16 = if self.src.is_ipv4() { 0x0800 } else { 0x86dd };
            payload.extend([if ends.key.is_some() { 0x20 } else { 0 }, 0]);
            payload.extend(kind.to_be_bytes());
            payload.extend(ends.key.into_iter().flat_map(u32::to_be_bytes));
        }
        payload.extend(inner);
        Ok(packet(ends.remote, ends.local, ends.protocol, None, payload))
    }

    fn transport(&self) -> Vec<u8> {
        let (src, dst) = match self.header {
            Header::Ports { src, dst } => (src, dst),
            // An identifier and a sequence number, as echo requests have them.
            Header::Icmp { kind, code } => return vec![kind, code, 0, 0, 0, 1, 0, 1],
            Header::Other => return vec![0; 8],
        };
        let mut header = Vec::from(src.to_be_bytes());
        header.extend(dst.to_be_bytes());
        let rest: &[u8] = match self.protocol {
            // Sequence and acknowledgement, five words, SYN, a window, checksum, urgent.
            protocol::TCP => &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, tcp::SYN, 1, 0, 0, 0, 0, 0],
            // Five words, no checksum coverage, a request with a long sequence number, service 0.
            protocol::DCCP => &[5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0],
            // Verification tag, checksum, an INIT chunk's head.
            protocol::SCTP => &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4],
            // Length (UDP-Lite: coverage), checksum, eight octets of data.
            _ => &[0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        };
        header.extend(rest);
        header
    }
}

/// An IP packet, or a fragment of one.
fn packet(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    fragment: Option<Fragment>,
    mut payload: Vec<u8>,
) -> Vec<u8> {
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let field = match fragment {
                None => 0x4000,
                Some(Fragment::First) => 0x2000,
                Some(Fragment::Later) => OFFSET / 8,
            };
            let mut packet = vec![0x45, 0];
            packet.extend(length(20 + payload.len()));
            packet.extend([0, ID]);
            packet.extend(field.to_be_bytes());
            packet.extend([64, protocol, 0, 0]);
            packet.extend(src.octets());
            packet.extend(dst.octets());
            packet.extend(payload);
            packet
        }
        (src, dst) => {
            let field = match fragment {
                None => None,
                Some(Fragment::First) => Some(1),
                Some(Fragment::Later) => Some(OFFSET),
            };
            let mut next = protocol;
            if let Some(field) = field {
                let [high, low] = u16::to_be_bytes(field);
                payload.splice(0..0, [next, 0, high, low, 0, 0, 0, ID]);
                next = protocol::FRAGMENT;
            }
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(length(payload.len()));
            packet.extend([next, 64]);
            packet.extend(octets6(src));
            packet.extend(octets6(dst));
            packet.extend(payload);
            packet
        }
    }
}

fn length(octets: usize) -> [u8; 2] {
    // The longest probe has some 130 octets.
    u16::try_from(octets).unwrap_or(u16::MAX).to_be_bytes()
}

fn octets6(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

#[cfg(test)]
mod tests {
    use ebpf_xdp::{
        addr::{Addr, V4, V6},
        parse::{Extent, FIRST, Headers, LATER, WHOLE},
    };

    use super::*;

    fn question(src: &str, dst: &str, protocol: u8) -> Question {
        Question {
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol,
            src_port: None,
            dst_port: has_ports(protocol).then_some(53),
            icmp_type: None,
            icmp_code: None,
            fragment: None,
        }
    }

    fn headers(question: &Question) -> Headers {
        let packet = Probe::new(question).unwrap().packet();
        let mut headers = Headers::default();
        parse::ip(&packet.as_slice(), 0, Extent::Whole, &mut headers).unwrap();
        assert_eq!(headers.end as usize, packet.len(), "the length is that of the packet");
        headers
    }

    #[test]
    fn the_parser_finds_what_was_asked_about() {
        for number in 0..=u8::MAX {
            for (src, dst, family) in
                [("192.0.2.1", "10.0.0.1", V4), ("2001:db8::1", "fd00::1", V6)]
            {
                if Probe::new(&question(src, dst, number)).is_err() {
                    assert!(
                        number == if family == V4 { 58 } else { 1 }
                            || (family == V6 && parse::is_extension(number)),
                        "{number}"
                    );
                    continue;
                }
                for (fragment, place) in
                    [(None, WHOLE), (Some(Fragment::First), FIRST), (Some(Fragment::Later), LATER)]
                {
                    let mut question = question(src, dst, number);
                    question.fragment = fragment;
                    question.src_port = has_ports(number).then_some(1000);
                    question.icmp_code = is_icmp(number).then_some(4);
                    let headers = headers(&question);
                    assert_eq!((headers.family, headers.protocol), (family, number));
                    assert_eq!(headers.fragment, place, "{number} {fragment:?}");
                    let echo = if family == V4 { 8 } else { 128 };
                    let ports = match fragment {
                        Some(Fragment::Later) => (0, 0),
                        _ if has_ports(number) => (1000, 53),
                        _ if is_icmp(number) => (4, echo),
                        _ => (0, 0),
                    };
                    assert_eq!((headers.src_port, headers.dst_port), ports, "{number}");
                    let syn = number == protocol::TCP && place != LATER;
                    assert_eq!(headers.tcp_flags, if syn { tcp::SYN } else { 0 });
                    let addr = |addr: IpAddr| match addr {
                        IpAddr::V4(addr) => Addr::v4(addr.octets()),
                        IpAddr::V6(addr) => Addr::v6(addr.octets()),
                    };
                    let addresses = (addr(question.src), addr(question.dst));
                    assert_eq!((headers.src, headers.dst), addresses);
                }
            }
        }
    }

    #[test]
    fn a_tunnel_s_packet_is_read_as_it_is_made() {
        let inner = Probe::new(&question("192.0.2.1", "10.0.0.1", 17)).unwrap();
        let inner6 = Probe::new(&question("2001:db8::1", "fd00::1", 17)).unwrap();
        for (local, remote) in [("10.9.0.1", "10.9.0.2"), ("fd09::1", "fd09::2")] {
            let (local, remote) = (local.parse().unwrap(), remote.parse().unwrap());
            for (protocol, key) in [(4, None), (47, None), (47, Some(0)), (47, Some(42))] {
                let ends = Ends { local, remote, protocol, key };
                for (probe, family) in [(&inner, V4), (&inner6, V6)] {
                    if protocol == 4 && family == V6 {
                        assert_eq!(probe.inside(&ends), Err(ProbeError::Payload));
                        continue;
                    }
                    let packet = probe.inside(&ends).unwrap();
                    let mut outer = Headers::default();
                    parse::ip(&packet.as_slice(), 0, Extent::Whole, &mut outer).unwrap();
                    assert_eq!(outer.end as usize, packet.len());
                    let found = parse::encapsulated(&packet.as_slice(), &outer).unwrap();
                    let carried = &packet[found.at as usize..];
                    assert_eq!(carried, probe.packet());
                    assert_eq!(found.family, family);
                    assert_eq!(found.keyed.then_some(found.key), key);
                }
            }
        }
    }

    #[test]
    fn impossible_packets_are_refused_with_the_remedy() {
        let refused = |question: &Question| Probe::new(question).unwrap_err().to_string();
        let (a, b) = ("192.0.2.1", "2001:db8::1");
        assert!(refused(&question(a, b, 17)).contains("give two IPv4 or two IPv6 addresses"));
        assert!(refused(&question(b, b, 1)).contains("name icmpv6"));
        assert!(refused(&question(a, a, 58)).contains("name icmp"));
        assert!(refused(&question(b, b, 51)).contains("extension header"));
        let ports = Question { dst_port: Some(1), ..question(a, a, 47) };
        assert!(refused(&ports).starts_with("gre has no ports: leave --sport and --dport out"));
        let types = Question { icmp_type: Some(1), ..question(a, a, 99) };
        assert!(refused(&types).starts_with("protocol 99 has no types: leave --icmp-type"));
        let portless = Question { dst_port: None, ..question(a, a, 6) };
        assert_eq!(refused(&portless), "tcp needs a destination port: add --dport");
        let later = Question { fragment: Some(Fragment::Later), ..portless };
        assert_eq!(headers(&later).fragment, LATER);
    }
}
