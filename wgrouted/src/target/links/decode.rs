//! What the kernel says about links and addresses.
//!
//! A link that is not understood is left out: somebody's exotic device must not keep ours from being
//! made.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressProtocol},
    link::{
        GreIOFlags, InfoData, InfoGre, InfoGre6, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags,
        LinkInfo, LinkMessage, Prop,
    },
    route::{RouteAttribute, RouteMetric},
};

use super::{encode::PROTOCOL, mark::Mark};
use crate::core::{
    links::{
        address::InterfaceAddress,
        rule::{Tunnel, TunnelKind},
        state::{Have, HaveAddress, HaveShape},
    },
    route::IfIndex,
};

/// The links of a dump, without their addresses.
pub(super) fn links(answers: &[RouteNetlinkMessage], mark: &Mark) -> Vec<Have> {
    let links = answers.iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link),
        _ => None,
    });
    let named: Vec<_> = links.filter_map(|link| Some((name(link)?, link))).collect();
    let names: HashMap<IfIndex, &str> =
        named.iter().map(|(name, link)| (link.header.index, *name)).collect();
    named.iter().map(|(name, link)| self::link(name, link, &names, mark)).collect()
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn link(name: &str, link: &LinkMessage, names: &HashMap<IfIndex, &str>, mark: &Mark) -> Have {
    let mut have = Have {
        index: link.header.index,
        name: name.to_owned(),
        ours: false,
        shape: HaveShape::Other("physical".to_owned()),
        up: link.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        addresses: Vec::new(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => have.mtu = *mtu,
            LinkAttribute::PropList(list) => {
                let ours = |prop: &Prop| matches!(prop, Prop::AltIfName(name) if mark.is_in(name));
                have.ours |= list.iter().any(ours);
            }
            LinkAttribute::LinkInfo(info) => have.shape = shape(info, names),
            _ => {}
        }
    }
    have
}

fn shape(info: &[LinkInfo], names: &HashMap<IfIndex, &str>) -> HaveShape {
    let kind = info.iter().find_map(|part| match part {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = info.iter().find_map(|part| match part {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let tunnel = match (kind, data) {
        (Some(InfoKind::Wireguard), _) => return HaveShape::Wireguard(None),
        (Some(InfoKind::GreTun), Some(InfoData::GreTun(data))) => gre(data, names),
        (Some(InfoKind::GreTun6), Some(InfoData::GreTun6(data))) => ip6gre(data, names),
        (Some(InfoKind::IpIp), Some(InfoData::IpTunnel(data))) => ipip(data, names),
        _ => None,
    };
    tunnel.map_or_else(
        || HaveShape::Other(kind.map_or("physical".to_owned(), ToString::to_string)),
        HaveShape::Tunnel,
    )
}

/// What is read of a tunnel.
struct Parts {
    tunnel: Tunnel,
    /// Flags and key in, and out.
    keys: [(GreIOFlags, u32); 2],
}

impl Parts {
    fn new(kind: TunnelKind) -> Self {
        let any = if kind.is_over_ipv6() {
            IpAddr::from(Ipv6Addr::UNSPECIFIED)
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let over = String::new();
        let tunnel = Tunnel { kind, over, local: any, remote: any, ttl: 0, key: None };
        Parts { tunnel, keys: [(GreIOFlags::empty(), 0); 2] }
    }

    fn over(&mut self, index: IfIndex, names: &HashMap<IfIndex, &str>) {
        self.tunnel.over = names.get(&index).map(|name| (*name).to_owned()).unwrap_or_default();
    }

    fn finish(mut self) -> Tunnel {
        let [(in_flags, in_key), (out_flags, out_key)] = self.keys;
        if in_flags != out_flags || in_key != out_key {
            // Nothing that we make; bound to nothing, it is like nothing that is configured.
            self.tunnel.over.clear();
        }
        self.tunnel.key = out_flags.contains(GreIOFlags::Key).then_some(out_key);
        self.tunnel
    }
}

/// `None` if its ends are chosen packet by packet (`external`).
fn gre(data: &[InfoGre], names: &HashMap<IfIndex, &str>) -> Option<Tunnel> {
    let mut parts = Parts::new(TunnelKind::Gre);
    for attribute in data {
        match attribute {
            InfoGre::CollectMetadata => return None,
            InfoGre::Link(index) => parts.over(*index, names),
            InfoGre::Local(address) => parts.tunnel.local = (*address).into(),
            InfoGre::Remote(address) => parts.tunnel.remote = (*address).into(),
            InfoGre::Ttl(ttl) => parts.tunnel.ttl = *ttl,
            InfoGre::IFlags(flags) => parts.keys[0].0 = *flags,
            InfoGre::OFlags(flags) => parts.keys[1].0 = *flags,
            InfoGre::IKey(key) => parts.keys[0].1 = *key,
            InfoGre::OKey(key) => parts.keys[1].1 = *key,
            _ => {}
        }
    }
    Some(parts.finish())
}

/// `None` if its ends are chosen packet by packet (`external`).
fn ip6gre(data: &[InfoGre6], names: &HashMap<IfIndex, &str>) -> Option<Tunnel> {
    let mut parts = Parts::new(TunnelKind::Ip6gre);
    for attribute in data {
        match attribute {
            InfoGre6::CollectMetadata => return None,
            InfoGre6::Link(index) => parts.over(*index, names),
            InfoGre6::Local(address) => parts.tunnel.local = (*address).into(),
            InfoGre6::Remote(address) => parts.tunnel.remote = (*address).into(),
            InfoGre6::Ttl(ttl) => parts.tunnel.ttl = *ttl,
            InfoGre6::IFlags(flags) => parts.keys[0].0 = *flags,
            InfoGre6::OFlags(flags) => parts.keys[1].0 = *flags,
            InfoGre6::IKey(key) => parts.keys[0].1 = *key,
            InfoGre6::OKey(key) => parts.keys[1].1 = *key,
            _ => {}
        }
    }
    Some(parts.finish())
}

/// `None` if its ends are chosen packet by packet (`external`).
fn ipip(data: &[InfoIpTunnel], names: &HashMap<IfIndex, &str>) -> Option<Tunnel> {
    let mut parts = Parts::new(TunnelKind::Ipip);
    for attribute in data {
        match attribute {
            InfoIpTunnel::CollectMetadata => return None,
            InfoIpTunnel::Link(index) => parts.over(*index, names),
            InfoIpTunnel::Local(address) => parts.tunnel.local = *address,
            InfoIpTunnel::Remote(address) => parts.tunnel.remote = *address,
            InfoIpTunnel::Ttl(ttl) => parts.tunnel.ttl = *ttl,
            _ => {}
        }
    }
    Some(parts.finish())
}

/// An address and its link.
pub(super) fn address(answer: &RouteNetlinkMessage) -> Option<(IfIndex, HaveAddress)> {
    let RouteNetlinkMessage::NewAddress(message) = answer else { return None };
    let (mut local, mut address, mut ours) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            // With a peer's address, that is `Address`.
            AddressAttribute::Local(own) => local = Some(*own),
            AddressAttribute::Address(other) => address = Some(*other),
            AddressAttribute::Protocol(protocol) => {
                ours = *protocol == AddressProtocol::Other(PROTOCOL);
            }
            _ => {}
        }
    }
    let length = message.header.prefix_len;
    let address = InterfaceAddress { address: local.or(address)?, length };
    Some((message.header.index, HaveAddress { address, ours }))
}

/// The number of the link that a link message is about.
pub(super) fn index(answer: &RouteNetlinkMessage) -> Option<IfIndex> {
    match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
        _ => None,
    }
}

/// The link that a route leads through, and the route's own MTU.
pub(super) fn path(answer: &RouteNetlinkMessage) -> Option<(IfIndex, Option<u32>)> {
    let RouteNetlinkMessage::NewRoute(route) = answer else { return None };
    let (mut index, mut mtu) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    Some((index?, mtu))
}
