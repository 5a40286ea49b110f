//! The words that rules have for numbers: protocols and ICMP messages.
//!
//! Here live tables, in the spelling of `/etc/protocols` and nft(8). Nothing here reads a file:
//! a rule means the same on every machine.

use ebpf_xdp::parse::protocol;

/// Encapsulating security payload (RFC 4303).
const ESP: u8 = 50;
/// Open shortest path first (RFC 2328).
const OSPF: u8 = 89;

/// Protocols that have a name.
pub(super) const PROTOCOLS: [(&str, u8); 11] = [
    ("tcp", protocol::TCP),
    ("udp", protocol::UDP),
    ("icmp", protocol::ICMP),
    ("icmpv6", protocol::ICMPV6),
    ("sctp", protocol::SCTP),
    ("udplite", protocol::UDPLITE),
    ("dccp", protocol::DCCP),
    ("esp", ESP),
    ("ah", protocol::AUTHENTICATION),
    ("gre", protocol::GRE),
    ("ospf", OSPF),
];

/// ICMP messages (RFC 792, RFC 950, RFC 1256).
const ICMP: [(&str, u8); 15] = [
    ("echo-reply", 0),
    ("destination-unreachable", 3),
    ("source-quench", 4),
    ("redirect", 5),
    ("echo-request", 8),
    ("router-advertisement", 9),
    ("router-solicitation", 10),
    ("time-exceeded", 11),
    ("parameter-problem", 12),
    ("timestamp-request", 13),
    ("timestamp-reply", 14),
    ("info-request", 15),
    ("info-reply", 16),
    ("address-mask-request", 17),
    ("address-mask-reply", 18),
];

/// ICMPv6 messages (RFC 4443, RFC 2710, RFC 4861, RFC 3810).
const ICMPV6: [(&str, u8); 14] = [
    ("destination-unreachable", 1),
    ("packet-too-big", 2),
    ("time-exceeded", 3),
    ("parameter-problem", 4),
    ("echo-request", 128),
    ("echo-reply", 129),
    ("mld-listener-query", 130),
    ("mld-listener-report", 131),
    ("mld-listener-done", 132),
    ("nd-router-solicit", 133),
    ("nd-router-advert", 134),
    ("nd-neighbor-solicit", 135),
    ("nd-neighbor-advert", 136),
    ("mld2-listener-report", 143),
];

/// The number of a protocol.
pub fn protocol_number(name: &str) -> Option<u8> {
    PROTOCOLS.iter().find(|(known, _)| *known == name).map(|&(_, number)| number)
}

/// The name of a protocol, if it has one.
pub fn protocol_name(number: u8) -> Option<&'static str> {
    PROTOCOLS.iter().find(|&&(_, known)| known == number).map(|&(name, _)| name)
}

/// The types of a protocol's messages that have a name.
pub fn icmp_types(protocol: u8) -> &'static [(&'static str, u8)] {
    match protocol {
        protocol::ICMP => &ICMP,
        protocol::ICMPV6 => &ICMPV6,
        _ => &[],
    }
}

/// The type of a protocol's message.
pub fn icmp_type(protocol: u8, name: &str) -> Option<u8> {
    icmp_types(protocol).iter().find(|(known, _)| *known == name).map(|&(_, number)| number)
}

/// Whether the programs find ports in its header.
pub const fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::TCP | protocol::UDP | protocol::UDPLITE | protocol::SCTP | protocol::DCCP
    )
}

/// Whether it has types and codes.
pub const fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, protocol::ICMP | protocol::ICMPV6)
}
