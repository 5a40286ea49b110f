//! What the operator meant: defaults filled in, contradictions refused.

use std::net::IpAddr;

use super::{
    TTL,
    raw::{RawEnds, RawTunnel},
};
use crate::{
    config::{
        document::{At, Report},
        error::Problem,
        meaning::Unique,
        raw::{RawInterface, RawPeer},
    },
    core::{
        links::{
            address::InterfaceAddress,
            rule::{
                DeviceRule, LinkLocal, LinkRule, MtuRule, PeerLinkRule, ShapeRule, Tunnel,
                TunnelKind,
            },
        },
        prefix::Prefix,
        rule::{InterfaceRule, LinkMode, PeerRule},
    },
};

/// The device that an interface is, if it is ours to make.
pub(in crate::config) fn device(raw: &RawInterface, report: &Report<'_>) -> Option<LinkRule> {
    if !raw.own.manage {
        only_managed(raw, report);
        return None;
    }
    let mut rule = LinkRule {
        name: raw.name.as_ref()?.value.clone(),
        shape: ShapeRule::Wireguard(DeviceRule {
            private_key_file: Default::default(),
            listen_port: raw.own.listen_port.map(|port| port.value),
            fwmark: raw.own.fwmark.map(|mark| mark.value),
            peers: raw.peers.iter().filter_map(|peer| self::peer(raw, peer, report)).collect(),
        }),
        addresses: addresses(&raw.own.ends, "interface.addresses", report),
        link_local: link_local(&raw.own.ends, LinkLocal::Auto),
        mtu: raw.own.ends.mtu.map_or(MtuRule::Auto, |mtu| mtu.value),
    };
    match (&raw.own.private_key_file, &mut rule.shape) {
        (Some(file), ShapeRule::Wireguard(device)) => {
            device.private_key_file.clone_from(&file.value);
        }
        _ => {
            let example =
                "private_key_file = \"/etc/wgrouted/wg0.key\", a file made by `wg genkey`";
            report.add(raw.at, "interface.private_key_file", Problem::Missing { example });
        }
    }
    Some(rule)
}

/// Reports the keys that mean nothing on an interface which somebody else makes.
fn only_managed(raw: &RawInterface, report: &Report<'_>) {
    let RawEnds { addresses, link_local, mtu } = &raw.own.ends;
    let first_address = addresses.as_ref().map(|list| list.first().map_or(raw.at, |at| at.at));
    let keys = [
        ("private_key_file", raw.own.private_key_file.as_ref().map(|at| at.at)),
        ("listen_port", raw.own.listen_port.map(|at| at.at)),
        ("fwmark", raw.own.fwmark.map(|at| at.at)),
        ("addresses", first_address),
        ("link_local", link_local.map(|at| at.at)),
        ("mtu", mtu.map(|at| at.at)),
    ];
    for (key, at) in keys {
        if let Some(at) = at {
            report.add(at, format!("interface.{key}"), Problem::NotManaged);
        }
    }
    for peer in &raw.peers {
        let keys = [
            ("endpoint", peer.own.endpoint.as_ref().map(|at| at.at)),
            ("keepalive", peer.own.keepalive.map(|at| at.at)),
            ("preshared_key_file", peer.own.preshared_key_file.as_ref().map(|at| at.at)),
        ];
        for (key, at) in keys {
            if let Some(at) = at {
                report.add(at, format!("interface.peer.{key}"), Problem::NotManaged);
            }
        }
    }
}

fn peer(raw: &RawInterface, peer: &RawPeer, report: &Report<'_>) -> Option<PeerLinkRule> {
    let dedicated = raw.link.is_some_and(|link| link.value == LinkMode::Dedicated);
    let open = raw.filter.as_ref().is_some_and(|filter| filter.is_open());
    if peer.sound && peer.pinned.is_none() && !dedicated {
        report.add(peer.at, "interface.peer.pinned", Problem::ManagedPinned);
    }
    let allowed_ips = match &peer.pinned {
        Some(pinned) => pinned.iter().map(|prefix| prefix.value).collect(),
        // The filter opens them when it is in force.
        None if open => Vec::new(),
        None => vec![Prefix::DEFAULT_V4, Prefix::DEFAULT_V6],
    };
    Some(PeerLinkRule {
        public_key: peer.public_key.as_ref()?.value,
        endpoint: peer.own.endpoint.as_ref().map(|endpoint| endpoint.value.clone()),
        keepalive: peer.own.keepalive.map(|keepalive| keepalive.value),
        preshared_key_file: peer.own.preshared_key_file.as_ref().map(|file| file.value.clone()),
        allowed_ips,
    })
}

fn addresses(raw: &RawEnds, key: &str, report: &Report<'_>) -> Vec<InterfaceAddress> {
    let mut unique = Unique::new(report, key, "an interface has an address once");
    for address in raw.addresses.iter().flatten() {
        let what = format!("address {}", address.value.address);
        unique.add(address.at, address.value.address, what);
    }
    raw.addresses.iter().flatten().map(|address| address.value).collect()
}

fn link_local(raw: &RawEnds, default: LinkLocal) -> LinkLocal {
    let given = raw.addresses.iter().flatten().any(|address| is_link_local(address.value.address));
    // One is enough for every protocol.
    let default = if given { LinkLocal::Off } else { default };
    raw.link_local.map_or(default, |link_local| link_local.value)
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// The tunnels. `interfaces` are all that are configured, `links` those that we make.
pub(in crate::config) fn tunnels(
    raws: Vec<RawTunnel>,
    interfaces: &[InterfaceRule],
    links: &[LinkRule],
    report: &Report<'_>,
) -> Vec<LinkRule> {
    let remedy = "tunnels of one kind between the same addresses are told apart by `key`";
    let mut ends = Unique::new(report, "tunnel", remedy);
    let mut names = Unique::new(report, "tunnel.name", "choose another name");
    let mut rules = Vec::new();
    for raw in raws {
        if let Some(name) = &raw.name {
            names.add(name.at, name.value.clone(), format!("tunnel {}", name.value));
            if interfaces.iter().any(|interface| interface.name == name.value) {
                report.add(name.at, "tunnel.name", Problem::TunnelName(name.value.clone()));
            }
        }
        let Some(rule) = tunnel(&raw, interfaces, links, report) else { continue };
        if let ShapeRule::Tunnel(tunnel) = &rule.shape {
            let Tunnel { kind, over, local, remote, key, .. } = tunnel.clone();
            let what = format!("a tunnel {kind} from {local} to {remote}");
            ends.add(raw.at, (kind, over, local, remote, key), what);
        }
        rules.push(rule);
    }
    rules
}

/// `None` if something is missing, which was reported.
fn tunnel(
    raw: &RawTunnel,
    interfaces: &[InterfaceRule],
    links: &[LinkRule],
    report: &Report<'_>,
) -> Option<LinkRule> {
    let name = raw.name.as_ref()?.value.clone();
    let kind = raw.kind?.value;
    let over_at = raw.over.as_ref()?;
    let Some(over) = interfaces.iter().find(|interface| interface.name == over_at.value) else {
        let known = interfaces.iter().map(|interface| interface.name.clone()).collect();
        let problem = Problem::TunnelOver { given: over_at.value.clone(), known };
        report.add(over_at.at, "tunnel.over", problem);
        return None;
    };
    let peer = match &raw.peer {
        None => None,
        Some(named) => match find(&over.peers, &named.value) {
            Some(peer) => Some(peer),
            None => {
                let known = over.peers.iter().map(|peer| peer.name.clone()).collect();
                let (given, over) = (named.value.clone(), over.name.clone());
                report.add(named.at, "tunnel.peer", Problem::TunnelPeer { given, over, known });
                return None;
            }
        },
    };
    let fits = |address: &IpAddr| address.is_ipv6() == kind.is_over_ipv6();
    let usable = |address: &IpAddr| fits(address) && !is_link_local(*address);
    for (key, end) in [("local", raw.local), ("remote", raw.remote)] {
        if let Some(end) = end.filter(|end| !fits(&end.value)) {
            let problem = Problem::TunnelFamily { kind, address: end.value };
            report.add(end.at, format!("tunnel.{key}"), problem);
            return None;
        }
    }
    let over_link = links.iter().find(|link| link.name == over.name);
    let own = over_link.into_iter().flat_map(|link| &link.addresses).map(|own| own.address);
    let local = raw.local.map(|end| end.value).or_else(|| own.clone().find(usable));
    let pinned = peer.into_iter().flat_map(|peer| peer.pinned.iter().flatten());
    let hosts = pinned.filter(|prefix| **prefix == Prefix::host(prefix.addr()));
    let remote = raw.remote.map(|end| end.value);
    let remote = remote.or_else(|| hosts.map(Prefix::addr).find(usable));
    if raw.sound {
        let missing = |key: &str, example| {
            report.add(raw.at, format!("tunnel.{key}"), Problem::Missing { example });
        };
        if local.is_none() {
            missing("local", "local = \"10.0.0.1\", the address that this end has on `over`");
        }
        if remote.is_none() {
            missing(
                "remote",
                "remote = \"10.0.0.2\", the peer's address, or peer = \"…\" with it pinned",
            );
        }
    }
    check_remote(raw, over, peer, report);
    check_payload(raw, kind, report);
    let default = if kind.carries_ipv6() { LinkLocal::Auto } else { LinkLocal::Off };
    Some(LinkRule {
        name,
        shape: ShapeRule::Tunnel(Tunnel {
            kind,
            over: over.name.clone(),
            local: local?,
            remote: remote?,
            ttl: raw.ttl.map_or(TTL, |ttl| ttl.value),
            key: raw.key.map(|key| key.value),
        }),
        addresses: addresses(&raw.ends, "tunnel.addresses", report),
        link_local: link_local(&raw.ends, default),
        mtu: raw.ends.mtu.map_or(MtuRule::Auto, |mtu| mtu.value),
    })
}

fn find<'p>(peers: &'p [PeerRule], name: &str) -> Option<&'p PeerRule> {
    peers.iter().find(|peer| peer.name == name || peer.public_key.to_string() == name)
}

/// WireGuard drops what it has no peer for, so the other end must be a peer's own address.
fn check_remote(
    raw: &RawTunnel,
    over: &InterfaceRule,
    peer: Option<&PeerRule>,
    report: &Report<'_>,
) {
    let Some(At { at, value: remote }) = raw.remote else { return };
    let candidates: Vec<_> = match peer {
        Some(peer) => vec![peer],
        None => over.peers.iter().collect(),
    };
    // What is learned is not known here.
    let Some(pinned) =
        candidates.iter().map(|peer| peer.pinned.as_ref()).collect::<Option<Vec<_>>>()
    else {
        return;
    };
    let holds = |prefix: &Prefix| prefix.contains(remote);
    if !candidates.is_empty() && !pinned.into_iter().flatten().any(holds) {
        let who = match peer {
            Some(peer) => format!("peer {}", peer.name),
            None => format!("a peer of {}", over.name),
        };
        report.add(at, "tunnel.remote", Problem::TunnelRemote { remote, who });
    }
}

fn check_payload(raw: &RawTunnel, kind: TunnelKind, report: &Report<'_>) {
    if kind.carries_ipv6() {
        return;
    }
    let v6 = raw.ends.addresses.iter().flatten().find(|address| address.value.address.is_ipv6());
    let wanted = raw.ends.link_local.filter(|link_local| link_local.value != LinkLocal::Off);
    for (key, at) in [("addresses", v6.map(|v6| v6.at)), ("link_local", wanted.map(|l| l.at))] {
        if let Some(at) = at {
            report.add(at, format!("tunnel.{key}"), Problem::TunnelPayload(kind));
        }
    }
}
