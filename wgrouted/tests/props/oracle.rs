//! What the AllowedIPs should be, worked out the slow and obvious way.
//!
//! Here lives [`owners`]: a second reading of the rules of assignment, from the kernel model's own
//! tables, without a mirror, an index, a cache or an event.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use wgrouted::core::{
    peer::PublicKey,
    prefix::Prefix,
    route::{Hop, IfIndex, NexthopKind, Path, TableId},
    rule::PeerRule,
};

use crate::kernel::Kernel;

/// Peers with their tags, pinned prefixes, and whether the device has them.
pub struct Peer {
    pub key: PublicKey,
    pub pinned: BTreeSet<Prefix>,
    pub metrics: Vec<u32>,
    pub present: bool,
}

pub fn peers(rules: &[PeerRule], present: &[PublicKey]) -> Vec<Peer> {
    let peer = |rule: &PeerRule| Peer {
        key: rule.public_key,
        pinned: rule.pinned.iter().flatten().copied().collect(),
        metrics: rule.matches.iter().filter_map(|entry| entry.metric).collect(),
        present: present.contains(&rule.public_key),
    };
    rules.iter().map(peer).collect()
}

/// Every prefix that should be installed, with its owner.
pub fn owners(
    kernel: &Kernel,
    link: IfIndex,
    tables: &[TableId],
    managed: &[Prefix],
    peers: &[Peer],
) -> BTreeMap<Prefix, PublicKey> {
    let mut routes: BTreeMap<Prefix, Vec<(usize, u32, usize, Path)>> = BTreeMap::new();
    for (rank, table) in tables.iter().enumerate() {
        for (prefix, paths) in kernel.table(*table) {
            let ranked = paths.into_iter().enumerate();
            let ranked = ranked.map(|(at, path)| (rank, path.metric, at, path));
            routes.entry(prefix).or_default().extend(ranked);
        }
    }
    let mut owners = BTreeMap::new();
    for (prefix, mut candidates) in routes {
        if !managed.iter().any(|range| range.covers(&prefix)) {
            continue;
        }
        candidates.sort_by_key(|(rank, metric, at, _)| (*rank, *metric, *at));
        let verdict = candidates.iter().find_map(|(.., path)| verdict(kernel, link, peers, path));
        if let Some(Some(key)) = verdict {
            owners.insert(prefix, key);
        }
    }
    for peer in peers {
        for prefix in &peer.pinned {
            owners.remove(prefix);
            if peer.present {
                owners.insert(*prefix, peer.key);
            }
        }
    }
    owners
}

/// `None`: the route says nothing about this link. `Some(None)`: packets end here.
fn verdict(
    kernel: &Kernel,
    link: IfIndex,
    peers: &[Peer],
    path: &Path,
) -> Option<Option<PublicKey>> {
    let drops = kernel.nexthops().get(&path.nexthop) == Some(&NexthopKind::Blackhole);
    if path.kind.is_reject() || drops {
        return Some(None);
    }
    let hops = kernel.hops(path).into_iter().map(|(_, hop)| hop);
    let here = hops.filter(|hop| hop.oif == link && !hop.dead);
    let mut owned: Vec<(Reverse<u32>, PublicKey)> =
        here.filter_map(|hop| Some((Reverse(hop.weight), peer_of(peers, path, &hop)?))).collect();
    owned.sort();
    owned.first().map(|(_, key)| Some(*key))
}

pub fn peer_of(peers: &[Peer], path: &Path, hop: &Hop) -> Option<PublicKey> {
    let tagged = peers.iter().find(|peer| peer.metrics.contains(&path.metric));
    let pinned = || {
        let gateway = hop.gateway?;
        let pins = peers.iter().flat_map(|peer| peer.pinned.iter().map(move |pin| (pin, peer)));
        let over = pins.filter(|(pin, _)| pin.contains(gateway));
        over.max_by_key(|(pin, _)| pin.prefix_len()).map(|(_, peer)| peer)
    };
    tagged.or_else(pinned).filter(|peer| peer.present).map(|peer| peer.key)
}
