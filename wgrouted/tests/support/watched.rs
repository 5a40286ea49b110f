//! Peers of which something is known, as sinks meet them.

use std::{sync::Arc, time::Duration};

use wgrouted::core::{
    peer::PublicKey,
    reach::{
        rule::{AnnounceRule, LinkReach, PeerReach, ProbeKind},
        status::{PeerStatus, ProbeStatus, Proof, Reachability, State},
    },
    rule::OnExit,
    time::Time,
};

/// A watched link that announces its peers in a table, or does not.
pub fn link_rule(announce: Option<AnnounceRule>) -> LinkReach {
    LinkReach {
        probe: ProbeKind::Icmp,
        interval: Duration::from_secs(1),
        lost: 3,
        answered: 2,
        hold_down: Duration::ZERO,
        announce,
        dormant: false,
        babeld: None,
        on_exit: OnExit::Keep,
    }
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
        interface: interface.to_owned(),
        ifindex: Some(ifindex),
        dedicated: false,
        peer: name.to_owned(),
        public_key: PublicKey(key),
        state: State::Unknown,
        proof: Proof::None,
        since: Time::ZERO,
        heard: None,
        falls: 0,
        probed: Vec::new(),
        probe: None,
        endpoint: None,
        roamed: 0,
        handshake_age: None,
        rx_bytes: 0,
        tx_bytes: 0,
        rx_rate: 0.0,
        tx_rate: 0.0,
        pinned: pinned.iter().map(|prefix| prefix.parse().unwrap()).collect(),
        rule: PeerReach::default(),
        link_rule: Some(Arc::new(rule)),
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
