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

/// A link that is watched, and of which nobody is told.
pub fn quiet_link() -> LinkReach {
    LinkReach {
        probe: ProbeKind::Icmp,
        interval: Duration::from_secs(1),
        lost: 3,
        answered: 2,
        hold_down: Duration::ZERO,
        announce: None,
        dormant: false,
        babeld: None,
        on_exit: OnExit::Keep,
    }
}

/// How a link is watched, with babeld or without.
pub fn link(babeld: Option<BabeldRule>, on_exit: OnExit) -> LinkReach {
    LinkReach { interval: Duration::from_millis(100), babeld, on_exit, ..quiet_link() }
}

/// A peer of which nothing is known, on a link that is not watched.
pub fn unheard(interface: &str, ifindex: u32, name: &str, public_key: PublicKey) -> PeerStatus {
    PeerStatus {
        interface: interface.to_owned(),
        ifindex: Some(ifindex),
        dedicated: false,
        peer: name.to_owned(),
        public_key,
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
        pinned: Vec::new(),
        rule: PeerReach::default(),
        link_rule: None,
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
        dedicated: true,
        state,
        proof: Proof::Probe,
        probe: Some(ProbeStatus { rtt, ..ProbeStatus::default() }),
        rule: PeerReach {
            bird: bird.iter().map(|&name| name.to_owned()).collect(),
            ..PeerReach::default()
        },
        link_rule: Some(Arc::new(link)),
        ..unheard(interface, 1, &format!("peer-{interface}"), PublicKey([1; 32]))
    }
}

/// A picture of them.
pub fn picture(revision: u64, complete: bool, peers: Vec<PeerStatus>) -> Reachability {
    Reachability { now: Time::ZERO, revision, complete, peers }
}
