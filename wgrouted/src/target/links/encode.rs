//! Requests about links and addresses.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::DefaultNla;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage, AddressProtocol},
    link::{
        GreIOFlags, InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, LinkAttribute,
        LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, Prop,
    },
    route::{RouteAddress, RouteAttribute, RouteMessage},
};

use crate::core::{
    links::{
        address::InterfaceAddress,
        rule::{Tunnel, TunnelKind},
    },
    prefix::Prefix,
    route::IfIndex,
};

/// The protocol number of addresses that we add (`IFA_PROTO`, since Linux 5.18): "w".
pub const PROTOCOL: u8 = b'w';

// include/uapi/linux/rtnetlink.h
const RTA_IP_PROTO: u16 = 27;
const RTA_SPORT: u16 = 28;
const RTA_DPORT: u16 = 29;
/// `IFLA_GRE_FLAGS` (include/uapi/linux/if_tunnel.h).
const IFLA_GRE_FLAGS: u16 = 13;
/// `IP6_TNL_F_IGN_ENCAP_LIMIT` (include/uapi/linux/ip6_tunnel.h): no destination option (RFC 2473,
/// section 4.1.1) of eight bytes in each packet.
const NO_ENCAP_LIMIT: u32 = 1;

pub(super) fn links() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    RouteNetlinkMessage::GetLink(message)
}

pub(super) fn addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

pub(super) fn named(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    RouteNetlinkMessage::GetLink(message)
}

pub(super) fn wireguard(name: &str) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
    ];
    RouteNetlinkMessage::NewLink(message)
}

pub(super) fn tunnel(name: &str, tunnel: &Tunnel, over: IfIndex) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes =
        vec![LinkAttribute::IfName(name.to_owned()), LinkAttribute::LinkInfo(info(tunnel, over))];
    RouteNetlinkMessage::NewLink(message)
}

pub(super) fn retunnel(index: IfIndex, tunnel: &Tunnel, over: IfIndex) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.attributes.push(LinkAttribute::LinkInfo(info(tunnel, over)));
    RouteNetlinkMessage::NewLink(message)
}

fn info(tunnel: &Tunnel, over: IfIndex) -> Vec<LinkInfo> {
    let (kind, data) = match (tunnel.kind, tunnel.local, tunnel.remote) {
        (TunnelKind::Gre, IpAddr::V4(local), IpAddr::V4(remote)) => {
            let mut data = vec![
                InfoGre::Link(over),
                InfoGre::Local(local),
                InfoGre::Remote(remote),
                InfoGre::Ttl(tunnel.ttl),
            ];
            if let Some(key) = tunnel.key {
                let flags = GreIOFlags::Key;
                data.extend([InfoGre::IFlags(flags), InfoGre::OFlags(flags)]);
                data.extend([InfoGre::IKey(key), InfoGre::OKey(key)]);
            }
            (InfoKind::GreTun, InfoData::GreTun(data))
        }
        (TunnelKind::Ip6gre, IpAddr::V6(local), IpAddr::V6(remote)) => {
            let flags = DefaultNla::new(IFLA_GRE_FLAGS, NO_ENCAP_LIMIT.to_ne_bytes().to_vec());
            let mut data = vec![
                InfoGre6::Link(over),
                InfoGre6::Local(local),
                InfoGre6::Remote(remote),
                InfoGre6::Ttl(tunnel.ttl),
                InfoGre6::Other(flags),
            ];
            if let Some(key) = tunnel.key {
                let flags = GreIOFlags::Key;
                data.extend([InfoGre6::IFlags(flags), InfoGre6::OFlags(flags)]);
                data.extend([InfoGre6::IKey(key), InfoGre6::OKey(key)]);
            }
            (InfoKind::GreTun6, InfoData::GreTun6(data))
        }
        // The configuration gives each kind ends of its family.
        (_, local, remote) => {
            let data = vec![
                InfoIpTunnel::Link(over),
                InfoIpTunnel::Local(local),
                InfoIpTunnel::Remote(remote),
                InfoIpTunnel::Ttl(tunnel.ttl),
            ];
            (InfoKind::IpIp, InfoData::IpTunnel(data))
        }
    };
    vec![LinkInfo::Kind(kind), LinkInfo::Data(data)]
}

pub(super) fn mark(index: IfIndex, name: String) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.attributes.push(LinkAttribute::PropList(vec![Prop::AltIfName(name)]));
    RouteNetlinkMessage::NewLinkProp(message)
}

pub(super) fn delete(index: IfIndex) -> RouteNetlinkMessage {
    RouteNetlinkMessage::DelLink(link(index))
}

pub(super) fn mtu(index: IfIndex, mtu: u32) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.attributes.push(LinkAttribute::Mtu(mtu));
    RouteNetlinkMessage::SetLink(message)
}

pub(super) fn up(index: IfIndex) -> RouteNetlinkMessage {
    let mut message = link(index);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

fn link(index: IfIndex) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

pub(super) fn address(index: IfIndex, address: InterfaceAddress) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.family = family(address.address);
    message.header.prefix_len = address.length;
    message.attributes = vec![
        AddressAttribute::Local(address.address),
        AddressAttribute::Address(address.address),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ];
    message
}

/// The route of UDP packets from a port and with a mark: rules may look at either.
pub(super) fn route(to: SocketAddr, from: u16, fwmark: u32) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.ip());
    message.header.destination_prefix_length = Prefix::host(to.ip()).prefix_len();
    let destination = match to.ip() {
        IpAddr::V4(to) => RouteAddress::Inet(to),
        IpAddr::V6(to) => RouteAddress::Inet6(to),
    };
    let other = |kind, value: &[u8]| RouteAttribute::Other(DefaultNla::new(kind, value.to_vec()));
    message.attributes = vec![
        RouteAttribute::Destination(destination),
        RouteAttribute::Mark(fwmark),
        other(RTA_IP_PROTO, &[libc::IPPROTO_UDP as u8]),
        other(RTA_SPORT, &from.to_be_bytes()),
        other(RTA_DPORT, &to.port().to_be_bytes()),
    ];
    RouteNetlinkMessage::GetRoute(message)
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
