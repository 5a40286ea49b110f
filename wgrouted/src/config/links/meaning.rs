//! What the operator meant: defaults filled in, contradictions refused.

use std::net::IpAddr;

use super::raw::RawEnds;
use crate::{
    config::{
        document::Report,
        error::Problem,
        meaning::Unique,
        raw::{RawInterface, RawPeer},
    },
    core::{
        links::{
            address::InterfaceAddress,
            rule::{DeviceRule, LinkLocal, LinkRule, MtuRule, PeerLinkRule, ShapeRule},
        },
        prefix::Prefix,
        rule::LinkMode,
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

pub(super) fn addresses(raw: &RawEnds, key: &str, report: &Report<'_>) -> Vec<InterfaceAddress> {
    let mut unique = Unique::new(report, key, "an interface has an address once");
    for address in raw.addresses.iter().flatten() {
        let what = format!("address {}", address.value.address);
        unique.add(address.at, address.value.address, what);
    }
    raw.addresses.iter().flatten().map(|address| address.value).collect()
}

pub(super) fn link_local(raw: &RawEnds, default: LinkLocal) -> LinkLocal {
    let given = raw.addresses.iter().flatten().any(|address| is_link_local(address.value.address));
    // One is enough for every protocol.
    let default = if given { LinkLocal::Off } else { default };
    raw.link_local.map_or(default, |link_local| link_local.value)
}

pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
