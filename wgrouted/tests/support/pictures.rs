//! Pictures of reachability as the machine would publish them.

#![allow(dead_code, unreachable_pub)]

use std::{sync::Arc, time::Duration};

use wgrouted::core::{
    peer::PublicKey,
    reach::{
        rule::{BabeldRule, LinkReach, PeerReach, ProbeKind},
        status::{PeerStatus, ProbeStatus, Proof, Reachability, State},
    },
    rule::OnExit,
    time::Time,
};

/// How a link is watched, with babeld or without.
pub fn link(babeld: Option<BabeldRule>, on_exit: OnExit) -> LinkReach {
    LinkReach {
        probe: ProbeKind::Icmp,
        interval: Duration::from_millis(100),
        lost: 3,
        answered: 2,
        hold_down: Duration::ZERO,
        announce: None,
        dormant: false,
        babeld,
        on_exit,
    }
}

/// A peer alone on an interface.
pub fn peer(
    interface: &str,
    state: State,
    rtt: Option<u64>,
    bird: &[&str],
    link: LinkReach,
) -> PeerStatus {
    let rtt = rtt.map(Duration::from_millis);
    PeerStatus {
        interface: interface.to_owned(),
        ifindex: Some(1),
        dedicated: true,
        peer: format!("peer-{interface}"),
        public_key: PublicKey([1; 32]),
        state,
        proof: Proof::Probe,
        since: Time::ZERO,
        heard: None,
        falls: 0,
        probed: Vec::new(),
        probe: Some(ProbeStatus { rtt, ..ProbeStatus::default() }),
        endpoint: None,
        roamed: 0,
        handshake_age: None,
        rx_bytes: 0,
        tx_bytes: 0,
        rx_rate: 0.0,
        tx_rate: 0.0,
        pinned: Vec::new(),
        rule: PeerReach {
            bird: bird.iter().map(|&name| name.to_owned()).collect(),
            ..PeerReach::default()
        },
        link_rule: Some(Arc::new(link)),
    }
}

/// A picture of them.
pub fn picture(revision: u64, complete: bool, peers: Vec<PeerStatus>) -> Reachability {
    Reachability { now: Time::ZERO, revision, complete, peers }
}
