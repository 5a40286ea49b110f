//! What is published about reachability.
//!
//! Here live [`Reachability`], the picture of one moment that every sink works from, and
//! [`Change`], the news between two pictures. How they are shown to people and scripts is the business
//! of `crate::reach::view`.

use std::{net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::rule::{LinkReach, PeerReach as PeerRule};
use crate::core::{peer::PublicKey, prefix::Prefix, route::IfIndex, time::Time};

/// Whether a peer can be reached.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Something was heard of it, recently enough.
    Up,
    /// It should have been heard of by now. Still announced.
    Suspect,
    /// Nothing was heard for so long that it cannot be reached.
    Down,
    /// Nothing was heard, and nothing had to be.
    #[default]
    Unknown,
}

/// How a state is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// Our probes were answered, or not.
    Probe,
    /// The filter program saw packets.
    Packets,
    /// The counters of the device grew, or did not although a keepalive is set.
    Counters,
    /// A handshake was completed, or is overdue.
    Handshake,
    /// babeld heard, or stopped hearing, its neighbour.
    Babel,
    /// The link is down or gone.
    Link,
    /// It flapped and is held down.
    HeldDown,
    /// Nothing is known.
    #[default]
    None,
}

/// What probes of a peer say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProbeStatus {
    /// Sent so far.
    pub sent: u64,
    /// Answered so far.
    pub answered: u64,
    /// Could not be sent.
    pub unsent: u64,
    /// Share of the last 100 that were not answered, 0 to 1.
    pub loss: f64,
    /// Round-trip time, smoothed as in RFC 6298 section 2.
    pub rtt: Option<Duration>,
    /// Its mean deviation.
    pub rtt_deviation: Option<Duration>,
    /// The last one's.
    pub rtt_last: Option<Duration>,
}

/// One peer's reachability.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerStatus {
    /// The interface.
    pub interface: String,
    /// Its link.
    pub ifindex: Option<IfIndex>,
    /// The interface has this one peer.
    pub dedicated: bool,
    /// Its configured name, or its key.
    pub peer: String,
    /// Its key.
    pub public_key: PublicKey,
    /// Whether it can be reached.
    pub state: State,
    /// How that is known.
    pub proof: Proof,
    /// Since when.
    pub since: Time,
    /// When something was last heard of it.
    pub heard: Option<Time>,
    /// How often it went down.
    pub falls: u64,
    /// What is probed.
    pub probed: Vec<IpAddr>,
    /// What the probes say; absent if it is not probed.
    pub probe: Option<ProbeStatus>,
    /// Where its last authenticated packet came from.
    pub endpoint: Option<SocketAddr>,
    /// How often that changed.
    pub roamed: u64,
    /// Age of the last handshake at the last look.
    pub handshake_age: Option<Duration>,
    /// Bytes received at the last look.
    pub rx_bytes: u64,
    /// Bytes sent at the last look.
    pub tx_bytes: u64,
    /// Bytes received a second, between the last two looks.
    pub rx_rate: f64,
    /// Bytes sent a second, likewise.
    pub tx_rate: f64,
    /// Its own tunnel addresses.
    pub pinned: Vec<Prefix>,
    /// What is configured for it: for sinks.
    pub rule: PeerRule,
    /// What is configured for its link: for sinks.
    pub link_rule: Option<Arc<LinkReach>>,
}

impl PeerStatus {
    /// Whether it is announced: up or suspect.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, State::Up | State::Suspect)
    }
}

/// All peers at one moment, by interface and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reachability {
    /// The moment.
    pub now: Time,
    /// Grows with each change of a state, endpoint or roster; not with mere figures.
    pub revision: u64,
    /// Every interface has been looked at once: who is absent is gone.
    pub complete: bool,
    /// The peers.
    pub peers: Vec<PeerStatus>,
}

/// Something that became different.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A peer's state.
    State {
        /// The interface.
        interface: String,
        /// The peer.
        peer: String,
        /// Its key.
        public_key: PublicKey,
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// How that is known.
        proof: Proof,
        /// Round-trip time, if it is probed and answered.
        rtt: Option<Duration>,
        /// When it was last heard before.
        heard: Option<Time>,
    },
    /// A peer's packets come from somewhere else.
    Endpoint {
        /// The interface.
        interface: String,
        /// The peer.
        peer: String,
        /// Its key.
        public_key: PublicKey,
        /// Before.
        from: SocketAddr,
        /// Now.
        to: SocketAddr,
    },
    /// A peer appeared on a device.
    Appeared {
        /// The interface.
        interface: String,
        /// The peer.
        peer: String,
        /// Its key.
        public_key: PublicKey,
    },
    /// A peer is no longer on its device.
    Vanished {
        /// The interface.
        interface: String,
        /// The peer.
        peer: String,
        /// Its key.
        public_key: PublicKey,
    },
}
