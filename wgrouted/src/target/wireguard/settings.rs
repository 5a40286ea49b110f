//! Settings of devices and peers: what a device that we make is beside its allowed IPs.
//!
//! Here live the secrets on their way to the kernel, and the decoder of what it says. Invariant: a
//! [`Secret`] is wiped when it is dropped and cannot be printed; of a preshared key in a dump only
//! the fingerprint leaves the receive buffer, and a private key is not looked at.

use std::{fmt, net::SocketAddr, time::Duration};

use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{
    GRAVEYARD,
    dump::{endpoint, timespec},
    uapi::{
        Attributes, Malformed, WGDEVICE_A_FWMARK, WGDEVICE_A_LISTEN_PORT, WGDEVICE_A_PEERS,
        WGDEVICE_A_PUBLIC_KEY, WGPEER_A_ENDPOINT, WGPEER_A_LAST_HANDSHAKE_TIME,
        WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, WGPEER_A_PRESHARED_KEY, WGPEER_A_PUBLIC_KEY, fixed,
    },
};
use crate::core::{
    links::state::{Fingerprint, HaveDevice, HavePeer},
    peer::PublicKey,
    prefix::Prefix,
};

/// A private or preshared key.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub(super) Box<[u8; 32]>);

impl Secret {
    /// Takes over a key; what it was copied from is the caller's to wipe.
    pub fn new(key: &[u8; 32]) -> Self {
        Secret(Box::new(*key))
    }

    /// The public half, if it is a private key.
    pub fn public_key(&self) -> PublicKey {
        let private = x25519_dalek::StaticSecret::from(*self.0);
        PublicKey(x25519_dalek::PublicKey::from(&private).to_bytes())
    }

    /// What tells it apart from others.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// New settings of a device. What is `None` stays as it is.
#[derive(Debug, Default)]
pub struct Settings<'a> {
    /// Its private key.
    pub private_key: Option<&'a Secret>,
    /// UDP port.
    pub listen_port: Option<u16>,
    /// The mark of its packets, zero for none.
    pub fwmark: Option<u32>,
}

/// New settings of a peer. What is `None` stays as it is.
#[derive(Debug)]
pub struct PeerSettings<'a> {
    /// Its key.
    pub public_key: PublicKey,
    /// The allowed IPs that it begins with, if it is added. A peer that is there never gets any
    /// this way, and one that is gone does not come back.
    pub add: Option<&'a [Prefix]>,
    /// Its preshared key.
    pub preshared: Option<&'a Secret>,
    /// Where it is.
    pub endpoint: Option<SocketAddr>,
    /// Persistent keepalive in seconds, zero for none.
    pub keepalive: Option<u16>,
}

/// Puts the messages of a dump together.
#[derive(Debug)]
pub(super) struct SettingsAssembly {
    device: HaveDevice,
    begun: bool,
    /// The last handshake (since the Unix epoch) of a peer that is not silent is later than this.
    since: Duration,
}

impl SettingsAssembly {
    pub(super) fn new(since: Duration) -> Self {
        SettingsAssembly { device: HaveDevice::default(), begun: false, since }
    }

    /// Takes the attributes of one message, in the order of arrival.
    pub(super) fn message(&mut self, attributes: &[u8]) -> Result<(), Malformed> {
        let first = !std::mem::replace(&mut self.begun, true);
        for attribute in Attributes::new(attributes) {
            let (kind, value) = attribute?;
            match kind {
                WGDEVICE_A_PEERS => {
                    for peer in Attributes::new(value) {
                        self.peer(peer?.1)?;
                    }
                }
                WGDEVICE_A_PUBLIC_KEY if first => {
                    self.device.public_key = Some(PublicKey(fixed(value)?));
                }
                WGDEVICE_A_LISTEN_PORT if first => {
                    self.device.listen_port = u16::from_ne_bytes(fixed(value)?);
                }
                WGDEVICE_A_FWMARK if first => {
                    self.device.fwmark = u32::from_ne_bytes(fixed(value)?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The settings, once all messages are in.
    pub(super) fn finish(self) -> HaveDevice {
        self.device
    }

    fn peer(&mut self, attributes: &[u8]) -> Result<(), Malformed> {
        let mut key = None;
        let mut peer = HavePeer { silent: true, ..HavePeer::default() };
        for attribute in Attributes::new(attributes) {
            let (kind, value) = attribute?;
            match kind {
                WGPEER_A_PUBLIC_KEY => key = Some(PublicKey(fixed(value)?)),
                WGPEER_A_PRESHARED_KEY => peer.preshared = preshared(value)?,
                WGPEER_A_ENDPOINT => peer.endpoint = endpoint(value)?,
                WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL => {
                    peer.keepalive = u16::from_ne_bytes(fixed(value)?);
                }
                WGPEER_A_LAST_HANDSHAKE_TIME => {
                    peer.silent = timespec(value)?.is_none_or(|last| last < self.since);
                }
                _ => {}
            }
        }
        let key = key.ok_or(Malformed("a peer without a public key"))?;
        if key != GRAVEYARD {
            // A peer that goes on in the next message has nothing but its key there.
            self.device.peers.entry(key).or_insert(peer);
        }
        Ok(())
    }
}

/// All zero stands for none (include/uapi/linux/wireguard.h).
fn preshared(value: &[u8]) -> Result<Option<Fingerprint>, Malformed> {
    let value: &[u8; 32] =
        value.try_into().map_err(|_| Malformed("an attribute of the wrong size"))?;
    Ok((*value != [0; 32]).then(|| Fingerprint::of(value)))
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_wireguard::{
        WireguardAttribute, WireguardPeer, WireguardPeerAttribute, WireguardTimeSpec,
    };

    use super::*;

    fn message(attributes: &[WireguardAttribute]) -> Vec<u8> {
        let mut bytes = vec![0; attributes.buffer_len()];
        attributes.emit(&mut bytes);
        bytes
    }

    #[test]
    fn a_dump_gives_settings_and_no_secret() {
        let handshake = |seconds| {
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec { seconds, nano_seconds: 0 })
        };
        let end: SocketAddr = "192.0.2.1:5".parse().unwrap();
        let peers = vec![
            WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey([1; 32]),
                WireguardPeerAttribute::PresharedKey([0x5e; 32]),
                handshake(1000),
                WireguardPeerAttribute::PersistentKeepalive(25),
                WireguardPeerAttribute::Endpoint(end),
            ]),
            WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey([2; 32]),
                WireguardPeerAttribute::PresharedKey([0; 32]),
                handshake(0),
            ]),
        ];
        let first = message(&[
            WireguardAttribute::ListenPort(51820),
            WireguardAttribute::Fwmark(7),
            WireguardAttribute::PrivateKey([0x5e; 32]),
            WireguardAttribute::PublicKey([9; 32]),
            WireguardAttribute::Peers(peers),
        ]);
        // The same peer goes on.
        let again = vec![WireguardPeer(vec![WireguardPeerAttribute::PublicKey([1; 32])])];
        let second =
            message(&[WireguardAttribute::ListenPort(1), WireguardAttribute::Peers(again)]);
        let mut assembly = SettingsAssembly::new(Duration::from_secs(500));
        assembly.message(&first).unwrap();
        assembly.message(&second).unwrap();
        let device = assembly.finish();
        assert_eq!((device.listen_port, device.fwmark), (51820, 7));
        assert_eq!(device.public_key, Some(PublicKey([9; 32])));
        let one = &device.peers[&PublicKey([1; 32])];
        assert_eq!((one.endpoint, one.keepalive, one.silent), (Some(end), 25, false));
        assert_eq!(one.preshared, Some(Secret::new(&[0x5e; 32]).fingerprint()));
        let two = &device.peers[&PublicKey([2; 32])];
        assert!(two.silent && two.preshared.is_none());
        assert!(!format!("{device:?}").contains("94, 94"));
    }

    /// The key pair of RFC 7748, section 6.1.
    #[test]
    fn public_keys_are_derived_as_wg_does() {
        let hex = |text: &str| -> [u8; 32] {
            std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        };
        let alice =
            Secret::new(&hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
        let public = hex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
        assert_eq!(alice.public_key(), PublicKey(public));
        assert_eq!(format!("{alice:?}"), "Secret");
    }
}
