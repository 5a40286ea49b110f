//! What the operator meant by `[[tunnel]]`: the link, if it is ours to make, and its filter.

use std::net::IpAddr;

use super::{
    TTL,
    meaning::{addresses, is_link_local, link_local},
    raw::{RawEnds, RawTunnel},
};
use crate::{
    config::{
        document::{At, Report},
        error::Problem,
        filter::meaning::{self as filter, Policies},
        meaning::{Unique, values},
    },
    core::{
        filter::rule::{Ends, TunnelRule},
        links::{
            address::InterfaceAddress,
            rule::{LinkLocal, LinkRule, MtuRule, ShapeRule, Tunnel, TunnelKind},
        },
        prefix::Prefix,
        rule::{InterfaceRule, PeerRule},
    },
};

/// A tunnel.
pub(in crate::config) struct Meant {
    /// The interface that it is inside.
    pub(in crate::config) over: String,
    /// The link, if enough is known of it.
    pub(in crate::config) link: Option<LinkRule>,
    /// It is ours to make.
    pub(in crate::config) ours: bool,
    /// How it is filtered; `None`: not at all.
    pub(in crate::config) filter: Option<TunnelRule>,
}

/// The tunnels. `interfaces` are all that are configured, `links` those that we make.
pub(in crate::config) fn tunnels(
    raws: Vec<RawTunnel>,
    interfaces: &[InterfaceRule],
    links: &[LinkRule],
    policies: &Policies,
    report: &Report<'_>,
) -> Vec<Meant> {
    let remedy = "tunnels of one kind between the same addresses are told apart by `key`";
    let mut between = Unique::new(report, "tunnel", remedy);
    let remedy =
        "a tunnel without kind and local takes all that its peer encapsulates, so give both";
    let mut boundless = Unique::new(report, "tunnel", remedy);
    let mut names = Unique::new(report, "tunnel.name", "choose another name");
    let mut all = Vec::new();
    for raw in raws {
        if let Some(name) = &raw.name {
            names.add(name.at, name.value.clone(), format!("tunnel {}", name.value));
            if interfaces.iter().any(|interface| interface.name == name.value) {
                report.add(name.at, "tunnel.name", Problem::TunnelName(name.value.clone()));
            }
        }
        let at = raw.at;
        let Some((place, peer)) = place(&raw, interfaces, links, report) else { continue };
        let over = place.over.name.clone();
        match place.ends {
            Some((kind, local, remote)) => {
                let what = format!("a tunnel {kind} from {local} to {remote}");
                let key = raw.key.map(|key| key.value);
                between.add(at, (kind, over.clone(), local, remote, key), what);
            }
            None => {
                let what = format!("a tunnel of peer {peer}");
                boundless.add(at, (over.clone(), peer), what);
            }
        }
        let (link, ours) = (link(&raw, &place, report), raw.manage);
        let filter = tunnel_filter(raw, &place, policies, report);
        all.push(Meant { over, link, ours, filter });
    }
    all
}

/// Where a tunnel is.
struct Place<'a> {
    over: &'a InterfaceRule,
    /// The peer at the other end, if the configuration tells.
    peer: Option<&'a PeerRule>,
    remote: Option<IpAddr>,
    /// `None`: not known, of a tunnel that somebody else makes.
    ends: Option<(TunnelKind, IpAddr, IpAddr)>,
}

/// Where a tunnel is, and what people call its peer. `None` if something is missing, which was
/// reported.
fn place<'a>(
    raw: &RawTunnel,
    interfaces: &'a [InterfaceRule],
    links: &[LinkRule],
    report: &Report<'_>,
) -> Option<(Place<'a>, String)> {
    raw.name.as_ref()?;
    let over_at = raw.over.as_ref()?;
    let Some(over) = interfaces.iter().find(|interface| interface.name == over_at.value) else {
        let known = interfaces.iter().map(|interface| interface.name.clone()).collect();
        let problem = Problem::TunnelOver { given: over_at.value.clone(), known };
        report.add(over_at.at, "tunnel.over", problem);
        return None;
    };
    let named = match &raw.peer {
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
    let bounded = raw.manage || raw.kind.is_some() || raw.local.is_some() || raw.key.is_some();
    let given = raw.remote.map(|end| end.value);
    let pins = |peer: &&PeerRule| {
        let pinned = peer.pinned.iter().flatten();
        pinned
            .filter(|pin| given.is_some_and(|given| pin.contains(given)))
            .map(Prefix::prefix_len)
            .max()
    };
    let owner = || over.peers.iter().filter(|peer| pins(peer).is_some()).max_by_key(pins);
    let peer = named.or_else(owner);
    if !bounded {
        check_remote(raw, over, named, report);
        if peer.is_none() && given.is_none() {
            missing(raw, "peer", "peer = \"…\", the name of one of the interface's peers", report);
            return None;
        }
        let called = peer.map(|peer| peer.name.clone());
        let called = called.or_else(|| given.map(|remote| remote.to_string())).unwrap_or_default();
        return Some((Place { over, peer, remote: given, ends: None }, called));
    }
    let Some(kind) = raw.kind.map(|kind| kind.value) else {
        if !raw.manage {
            missing(raw, "kind", "kind = \"gre\"", report);
        }
        return None;
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
    let pinned = named.into_iter().flat_map(|peer| peer.pinned.iter().flatten());
    let hosts = pinned.filter(|prefix| **prefix == Prefix::host(prefix.addr()));
    let remote = given.or_else(|| hosts.map(Prefix::addr).find(usable));
    if local.is_none() {
        let example = "local = \"10.0.0.1\", the address that this end has on `over`";
        missing(raw, "local", example, report);
    }
    if remote.is_none() {
        let example = "remote = \"10.0.0.2\", the peer's address, or peer = \"…\" with it pinned";
        missing(raw, "remote", example, report);
    }
    check_remote(raw, over, named, report);
    check_payload(raw, kind, report);
    let ends = Some((kind, local?, remote?));
    Some((Place { over, peer, remote, ends }, String::new()))
}

fn missing(raw: &RawTunnel, key: &str, example: &'static str, report: &Report<'_>) {
    if raw.sound {
        report.add(raw.at, format!("tunnel.{key}"), Problem::Missing { example });
    }
}

/// The link, as we would make it.
fn link(raw: &RawTunnel, place: &Place<'_>, report: &Report<'_>) -> Option<LinkRule> {
    let (kind, local, remote) = place.ends?;
    let default = if kind.carries_ipv6() { LinkLocal::Auto } else { LinkLocal::Off };
    Some(LinkRule {
        name: raw.name.as_ref()?.value.clone(),
        shape: ShapeRule::Tunnel(Tunnel {
            kind,
            over: place.over.name.clone(),
            local,
            remote,
            ttl: raw.ttl.map_or(TTL, |ttl| ttl.value),
            key: raw.key.map(|key| key.value),
        }),
        addresses: addresses(&raw.ends, "tunnel.addresses", report),
        link_local: link_local(&raw.ends, default),
        mtu: raw.ends.mtu.map_or(MtuRule::Auto, |mtu| mtu.value),
    })
}

/// How what comes out of the tunnel is filtered.
fn tunnel_filter(
    raw: RawTunnel,
    place: &Place<'_>,
    policies: &Policies,
    report: &Report<'_>,
) -> Option<TunnelRule> {
    if !raw.manage {
        only_managed(&raw, report);
    }
    let link = place.over.filter.as_ref().map(|filter| &filter.peers);
    let above = place.peer.and_then(|peer| peer.filter.as_ref()).or(link);
    let filter = filter::tunnel(raw.filter, above, policies, report)?;
    let networks = || {
        let addresses = raw.ends.addresses.iter().flatten();
        addresses.filter_map(|address| network(&address.value)).collect()
    };
    Some(TunnelRule {
        name: raw.name?.value,
        peer: place.peer.map(|peer| peer.public_key),
        remote: place.remote,
        ends: place.ends.map(|(kind, local, remote)| Ends {
            local,
            remote,
            protocol: kind.protocol(),
            key: raw.key.map(|key| key.value),
        }),
        tables: raw.tables.map(values).unwrap_or_default(),
        pinned: raw.pinned.map_or_else(networks, values),
        filter,
    })
}

/// The network of an address, if somebody else may be in it. Link-local ones need no mention.
fn network(address: &InterfaceAddress) -> Option<Prefix> {
    let network = Prefix::new(address.address, address.length)?;
    let shared = network != Prefix::host(address.address) && !is_link_local(address.address);
    shared.then_some(network)
}

/// Reports the keys that mean nothing for a tunnel which somebody else makes.
fn only_managed(raw: &RawTunnel, report: &Report<'_>) {
    let RawEnds { addresses, link_local, mtu } = &raw.ends;
    let first = addresses.as_ref().map(|list| list.first().map_or(raw.at, |at| at.at));
    let keys = [
        ("addresses", first),
        ("link_local", link_local.map(|at| at.at)),
        ("mtu", mtu.map(|at| at.at)),
        ("ttl", raw.ttl.map(|at| at.at)),
    ];
    for (key, at) in keys {
        if let Some(at) = at {
            report.add(at, format!("tunnel.{key}"), Problem::TunnelNotManaged);
        }
    }
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
