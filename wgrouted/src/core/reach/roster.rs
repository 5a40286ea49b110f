//! Whose reachability is asked for: interfaces and peers, as the engine of routes knows them.
//!
//! Here live [`Roster`] and its parts, built after each look at a device, which the engine takes
//! anyway: reachability costs no dump of its own. Plain data; statistics are as fresh as the look.

use std::{net::SocketAddr, time::Duration};

use super::rule::{LinkReach, PeerReach};
use crate::core::{device::DevicePeer, peer::PublicKey, prefix::Prefix, route::IfIndex};

/// One interface's link and peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// The interface's name.
    pub interface: String,
    /// Its link; `None` while there is none.
    pub ifindex: Option<IfIndex>,
    /// Administratively up.
    pub up: bool,
    /// Its device was read, or there is none: who is not in `peers` is gone.
    pub looked: bool,
    /// Whether it has one peer that owns the link.
    pub dedicated: bool,
    /// Number of the look that `statistics` are from.
    pub look: u64,
    /// How its peers are watched.
    pub rule: Option<LinkReach>,
    /// Its peers on the device.
    pub peers: Vec<RosterPeer>,
}

/// A peer on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterPeer {
    /// Its key.
    pub public_key: PublicKey,
    /// Its configured name, or its key.
    pub name: String,
    /// Its own tunnel addresses.
    pub pinned: Vec<Prefix>,
    /// What is configured for it.
    pub rule: PeerReach,
    /// What the device said at the last look.
    pub statistics: Statistics,
}

/// What a device says of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Where its last authenticated packet came from.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive in seconds, zero if off.
    pub persistent_keepalive: u16,
    /// Age of the last completed handshake at the look; `None` if there was none.
    pub handshake_age: Option<Duration>,
    /// Bytes received, handshakes and keepalives included.
    pub rx_bytes: u64,
    /// Bytes sent, likewise.
    pub tx_bytes: u64,
}

impl Statistics {
    /// What a dump says of a peer, taken when the wall clock showed `now` since the Unix epoch.
    pub fn of(peer: &DevicePeer, now: Duration) -> Self {
        Statistics {
            endpoint: peer.endpoint,
            persistent_keepalive: peer.persistent_keepalive,
            handshake_age: peer.last_handshake.map(|at| now.saturating_sub(at)),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
        }
    }
}
