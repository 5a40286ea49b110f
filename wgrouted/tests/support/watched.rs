//! Peers of which something is known, as sinks meet them.

use std::{sync::Arc, time::Duration};

use wgrouted::core::{
    peer::PublicKey,
    reach::{
        rule::{AnnounceRule, LinkReach},
        status::{PeerStatus, ProbeStatus, Reachability},
    },
    time::Time,
};

use crate::pictures::{quiet_link, unheard};

/// A watched link that announces its peers in a table, or does not.
pub fn link_rule(announce: Option<AnnounceRule>) -> LinkReach {
    LinkReach { announce, ..quiet_link() }
}

/// A peer with tunnel addresses, on the link with this number.
pub fn peer(
    interface: &str,
    ifindex: u32,
    name: &str,
    pinned: &[&str],
    rule: LinkReach,
) -> PeerStatus {
    let mut key = [0; 32];
    let bytes = name.bytes().take(32);
    key.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    PeerStatus {
        pinned: pinned.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        link_rule: Some(Arc::new(rule)),
        ..unheard(interface, ifindex, name, PublicKey(key))
    }
}

/// Says that probes of a peer take this long.
pub fn set_rtt(peer: &mut PeerStatus, rtt: Option<Duration>) {
    peer.probe = rtt.map(|rtt| ProbeStatus { rtt: Some(rtt), ..ProbeStatus::default() });
}

/// All peers at a moment, everything having been looked at.
pub fn picture(now: Time, revision: u64, peers: &[PeerStatus]) -> Reachability {
    Reachability { now, revision, complete: true, peers: peers.to_vec() }
}
