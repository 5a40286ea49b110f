//! A WireGuard device as the core sees it.
//!
//! Here live what a dump of a device brings and what applying changes reports. Secrets have no
//! type here: private and preshared keys are dropped by the parsers at the edge.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    peer::{PeerIdx, PublicKey},
    prefix::Prefix,
    route::IfIndex,
};

/// What a WireGuard device holds, as far as it concerns us. Never contains key material other
/// than public keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The device's link number.
    pub ifindex: IfIndex,
    /// The device's name.
    pub name: String,
    /// The device's own public key; `None` while no private key is set.
    pub public_key: Option<PublicKey>,
    /// UDP port, zero if none is chosen.
    pub listen_port: u16,
    /// Its peers, in the device's order, without the graveyard. Fragments that the kernel sent in
    /// several messages are joined.
    pub peers: Vec<DevicePeer>,
    /// Every allowed IP with the position of its owner in `peers`.
    pub allowed_ips: Vec<(Prefix, PeerIdx)>,
    /// Removed allowed IPs that a removal which was cut short left on the graveyard, the peer that
    /// stands in for removal on kernels before Linux 6.16. They swallow traffic until buried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub graveyard: Vec<Prefix>,
}

/// A peer as the device reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DevicePeer {
    /// Its key.
    pub public_key: PublicKey,
    /// Where its last authenticated packet came from.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive in seconds, zero if off.
    pub persistent_keepalive: u16,
    /// Time of the last completed handshake since the Unix epoch (wall clock); `None` if never.
    pub last_handshake: Option<Duration>,
    /// Bytes received, handshakes included.
    pub rx_bytes: u64,
    /// Bytes sent, keepalives included.
    pub tx_bytes: u64,
}

/// What applying a batch did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Changes that the device refused, by position in the batch, with the error number.
    /// Everything else was acknowledged.
    pub failed: Vec<(usize, i32)>,
    /// Netlink messages sent.
    pub messages: u32,
    /// Longest time one message took from send to acknowledgement: an upper bound of how long it
    /// held the kernel's RTNL lock.
    pub longest_message: Duration,
}

/// Why a device could not be dumped or changed at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct DeviceError {
    /// What happened and what to do about it.
    pub message: String,
    /// The device is gone: waiting for it makes sense, trying again does not.
    pub gone: bool,
}
