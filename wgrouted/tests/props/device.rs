//! A WireGuard device in memory, one change at a time.
//!
//! Here lives [`FakeDevice`]: each prefix has one owner, setting moves, removing checks the owner,
//! changes to a missing peer are acknowledged and do nothing (drivers/net/wireguard/netlink.c,
//! allowedips.c). Peers have names, so that it knows nothing of the core's numbers.

use std::{collections::BTreeMap, net::IpAddr};

use wgrouted::core::{
    device::{Device, DevicePeer},
    peer::{PeerIdx, PublicKey},
    prefix::Prefix,
    route::IfIndex,
};

#[derive(Clone, Debug, Default)]
pub struct FakeDevice {
    pub name: String,
    pub peers: Vec<PublicKey>,
    pub table: BTreeMap<Prefix, PublicKey>,
}

impl FakeDevice {
    pub fn add_peer(&mut self, key: PublicKey) {
        if !self.peers.contains(&key) {
            self.peers.push(key);
        }
    }

    pub fn remove_peer(&mut self, key: PublicKey) {
        self.peers.retain(|peer| *peer != key);
        self.table.retain(|_, owner| *owner != key);
    }

    pub fn set(&mut self, prefix: Prefix, key: PublicKey) {
        if self.peers.contains(&key) {
            self.table.insert(prefix, key);
        }
    }

    pub fn unset(&mut self, prefix: Prefix, key: PublicKey) {
        if self.table.get(&prefix) == Some(&key) {
            self.table.remove(&prefix);
        }
    }

    pub fn dump(&self, ifindex: IfIndex) -> Device {
        let peer = |key: &PublicKey| DevicePeer {
            public_key: *key,
            endpoint: None,
            persistent_keepalive: 0,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        let number =
            |key| self.peers.iter().position(|peer| peer == key).expect("peers own") as u32;
        Device {
            ifindex,
            name: self.name.clone(),
            peers: self.peers.iter().map(peer).collect(),
            allowed_ips: self.table.iter().map(|(p, key)| (*p, PeerIdx(number(key)))).collect(),
            ..Device::default()
        }
    }
}

/// The kernel's own "horrible" oracle: look at every entry.
pub fn longest_match(table: &BTreeMap<Prefix, PublicKey>, addr: IpAddr) -> Option<PublicKey> {
    let matches = table.iter().filter(|(prefix, _)| prefix.contains(addr));
    matches.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, key)| *key)
}
