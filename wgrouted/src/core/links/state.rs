//! What links shall be, what they are, and what we remember of having made them.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{address::InterfaceAddress, rule::Tunnel};
use crate::core::{peer::PublicKey, prefix::Prefix, route::IfIndex};

/// Tells preshared keys apart without being one. Nobody finds 256 random bits from their hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of a secret.
    pub fn of(secret: &[u8; 32]) -> Self {
        Fingerprint(
            Sha256::new_with_prefix(b"wgrouted preshared").chain_update(secret).finalize().into(),
        )
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

/// What a link shall be, with all that had to be looked up: files read, names resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its name.
    pub name: String,
    /// What it is.
    pub shape: WantShape,
    /// Its addresses.
    pub addresses: Vec<InterfaceAddress>,
    /// Its MTU.
    pub mtu: u32,
}

/// What a link shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantShape {
    /// A WireGuard device.
    Wireguard(WantDevice),
    /// A tunnel.
    Tunnel(Tunnel),
}

/// What a WireGuard device shall be. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantDevice {
    /// The public half of its private key.
    pub public_key: PublicKey,
    /// UDP port.
    pub listen_port: Option<u16>,
    /// The mark of its packets.
    pub fwmark: Option<u32>,
    /// Its peers; others are left alone.
    pub peers: Vec<WantPeer>,
}

/// What a peer shall be. What is `None` stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantPeer {
    /// Its key.
    pub public_key: PublicKey,
    /// Of its preshared key.
    pub preshared: Option<Fingerprint>,
    /// Where it is.
    pub endpoint: Option<WantEndpoint>,
    /// Persistent keepalive in seconds, zero for none.
    pub keepalive: Option<u16>,
    /// The AllowedIPs that it is made with.
    pub allowed_ips: Vec<Prefix>,
}

/// Where a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantEndpoint {
    /// As configured.
    pub text: String,
    /// What that stands for, best first; empty if nobody knows.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is a name, which may come to stand for something else.
    pub is_name: bool,
}

/// A link that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Have {
    /// Its number.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// Whether it carries our mark: we made it.
    pub ours: bool,
    /// What it is.
    pub shape: HaveShape,
    /// Whether it is up.
    pub up: bool,
    /// Its MTU.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<HaveAddress>,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HaveShape {
    /// A WireGuard device. Its settings are not read for links that nobody asked for.
    Wireguard(Option<HaveDevice>),
    /// A tunnel; `over` is empty if it is bound to no link, or to one that is gone.
    Tunnel(Tunnel),
    /// Something else, by its kind.
    Other(String),
}

/// Settings of a WireGuard device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HaveDevice {
    /// `None` while it has no private key.
    pub public_key: Option<PublicKey>,
    /// UDP port.
    pub listen_port: u16,
    /// The mark of its packets, zero for none.
    pub fwmark: u32,
    /// Its peers.
    pub peers: BTreeMap<PublicKey, HavePeer>,
}

/// Settings of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HavePeer {
    /// Of its preshared key, if it has one.
    pub preshared: Option<Fingerprint>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive in seconds, zero for none.
    pub keepalive: u16,
    /// Whether no handshake has succeeded for so long that it may have moved.
    pub silent: bool,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HaveAddress {
    /// The address.
    pub address: InterfaceAddress,
    /// Whether it carries our protocol number: we added it.
    pub ours: bool,
}

/// What is remembered across restarts, by the names of links: what carries no mark.
pub type Known = BTreeMap<String, KnownLink>;

/// What is remembered of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownLink {
    /// Its number. One of another number is another link, of which nothing is known.
    pub index: IfIndex,
    /// Its peers that are configured.
    pub peers: BTreeMap<PublicKey, KnownPeer>,
}

/// What is remembered of a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPeer {
    /// Whether we added it.
    pub ours: bool,
    /// The endpoint that was configured when it was last set, as it was written.
    pub endpoint: Option<String>,
}
