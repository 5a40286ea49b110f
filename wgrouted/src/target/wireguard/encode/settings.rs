//! Settings of devices and peers as `WG_CMD_SET_DEVICE` messages.
//!
//! Here lives everything that may change a key, an endpoint or the being of a peer. Invariants: a
//! peer that is not to be added carries `WGPEER_F_UPDATE_ONLY`; nothing here replaces what a peer
//! that is there has; the bytes, which may hold secrets, lie in one place and are wiped.

use std::net::SocketAddr;

use zeroize::Zeroize;

use super::{Encoder, MAX_MESSAGE};
use crate::{
    core::{peer::PublicKey, route::IfIndex},
    target::wireguard::{
        settings::{PeerSettings, Settings},
        uapi::{
            WGDEVICE_A_FWMARK, WGDEVICE_A_LISTEN_PORT, WGDEVICE_A_PEERS, WGDEVICE_A_PRIVATE_KEY,
            WGPEER_A_ALLOWEDIPS, WGPEER_A_ENDPOINT, WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL,
            WGPEER_A_PRESHARED_KEY, WGPEER_F_REMOVE_ME, WGPEER_F_UPDATE_ONLY,
        },
    },
};

/// One message.
pub(in crate::target::wireguard) struct SettingsEncoder(Encoder);

impl SettingsEncoder {
    fn new(ifindex: IfIndex) -> Self {
        let mut encoder = Encoder::new(MAX_MESSAGE);
        // Growing would leave a copy behind.
        encoder.buffer.reserve_exact(MAX_MESSAGE);
        encoder.begin_device(ifindex);
        SettingsEncoder(encoder)
    }

    /// The message, with room for its netlink header.
    pub(in crate::target::wireguard) fn bytes(&mut self) -> &mut [u8] {
        self.0.bytes()
    }

    /// Settings of the device itself.
    pub(in crate::target::wireguard) fn device(ifindex: IfIndex, settings: &Settings<'_>) -> Self {
        let mut this = SettingsEncoder::new(ifindex);
        let encoder = &mut this.0;
        if let Some(key) = settings.private_key {
            encoder.secret(WGDEVICE_A_PRIVATE_KEY, &key.0);
        }
        if let Some(port) = settings.listen_port {
            encoder.put(WGDEVICE_A_LISTEN_PORT, port.to_ne_bytes());
        }
        if let Some(mark) = settings.fwmark {
            encoder.put(WGDEVICE_A_FWMARK, mark.to_ne_bytes());
        }
        this
    }

    /// Settings of a peer. The AllowedIPs that it begins with are cut at the bound of a message,
    /// which is far more than a peer has addresses.
    pub(in crate::target::wireguard) fn peer(ifindex: IfIndex, peer: &PeerSettings<'_>) -> Self {
        let mut this = SettingsEncoder::new(ifindex);
        let encoder = &mut this.0;
        let peers = encoder.open(WGDEVICE_A_PEERS);
        let nest = encoder.open(0);
        let flags = if peer.add.is_some() { 0 } else { WGPEER_F_UPDATE_ONLY };
        encoder.peer(peer.public_key, flags);
        if let Some(key) = peer.preshared {
            encoder.secret(WGPEER_A_PRESHARED_KEY, &key.0);
        }
        match peer.endpoint {
            Some(SocketAddr::V4(end)) => {
                // struct sockaddr_in
                let mut bytes = [0; 16];
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[2..4].copy_from_slice(&end.port().to_be_bytes());
                bytes[4..8].copy_from_slice(&end.ip().octets());
                encoder.put(WGPEER_A_ENDPOINT, bytes);
            }
            Some(SocketAddr::V6(end)) => {
                // struct sockaddr_in6
                let mut bytes = [0; 28];
                bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                bytes[2..4].copy_from_slice(&end.port().to_be_bytes());
                bytes[4..8].copy_from_slice(&end.flowinfo().to_be_bytes());
                bytes[8..24].copy_from_slice(&end.ip().octets());
                bytes[24..].copy_from_slice(&end.scope_id().to_ne_bytes());
                encoder.put(WGPEER_A_ENDPOINT, bytes);
            }
            None => {}
        }
        if let Some(seconds) = peer.keepalive {
            encoder.put(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, seconds.to_ne_bytes());
        }
        if let Some(allowed_ips) = peer.add {
            let ips = encoder.open(WGPEER_A_ALLOWEDIPS);
            for prefix in allowed_ips {
                if encoder.buffer.len() + super::allowed_ip_size(prefix, false) > MAX_MESSAGE {
                    break;
                }
                encoder.allowed_ip(prefix, None);
            }
            encoder.close(ips);
        }
        encoder.close(nest);
        encoder.close(peers);
        this
    }

    /// The removal of a peer.
    pub(in crate::target::wireguard) fn removal(ifindex: IfIndex, key: PublicKey) -> Self {
        let mut this = SettingsEncoder::new(ifindex);
        let encoder = &mut this.0;
        let peers = encoder.open(WGDEVICE_A_PEERS);
        let nest = encoder.open(0);
        encoder.peer(key, WGPEER_F_REMOVE_ME | WGPEER_F_UPDATE_ONLY);
        encoder.close(nest);
        encoder.close(peers);
        this
    }
}

impl Drop for SettingsEncoder {
    fn drop(&mut self) {
        self.0.buffer.zeroize();
    }
}

impl Encoder {
    /// Appends a key without a copy of it on the stack.
    fn secret(&mut self, kind: u16, key: &[u8; 32]) {
        self.header(4 + key.len(), kind);
        self.buffer.extend_from_slice(key);
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::ParseableParametrized;
    use netlink_packet_generic::GenlHeader;
    use netlink_packet_wireguard::{
        WireguardAttribute, WireguardMessage, WireguardPeerAttribute, WireguardPeerFlags,
    };

    use super::*;
    use crate::{
        core::prefix::Prefix,
        target::wireguard::{
            settings::Secret,
            uapi::{GENL_HEADER, HEADERS},
        },
    };

    /// The attributes as the independent parser understands them.
    fn parse(mut message: SettingsEncoder) -> Vec<WireguardAttribute> {
        let bytes = message.bytes();
        let header = GenlHeader::parse(&bytes[GENL_HEADER..]).unwrap();
        assert_eq!((header.cmd, header.version), (1, 1));
        WireguardMessage::parse_with_param(&bytes[HEADERS..], header).unwrap().attributes
    }

    fn peer(attributes: &[WireguardAttribute]) -> &[WireguardPeerAttribute] {
        let [WireguardAttribute::IfIndex(7), WireguardAttribute::Peers(peers)] = attributes else {
            panic!("{attributes:?}");
        };
        &peers[0].0
    }

    #[test]
    fn a_device_is_set_as_far_as_asked() {
        let key = Secret::new(&[3; 32]);
        let all = Settings { private_key: Some(&key), listen_port: Some(5), fwmark: Some(6) };
        assert_eq!(
            parse(SettingsEncoder::device(7, &all)),
            [
                WireguardAttribute::IfIndex(7),
                WireguardAttribute::PrivateKey([3; 32]),
                WireguardAttribute::ListenPort(5),
                WireguardAttribute::Fwmark(6)
            ]
        );
        let none = parse(SettingsEncoder::device(7, &Settings::default()));
        assert_eq!(none, [WireguardAttribute::IfIndex(7)]);
    }

    #[test]
    fn a_peer_that_is_changed_is_neither_made_nor_given_allowed_ips() {
        let end: SocketAddr = "[fe80::1%3]:9".parse().unwrap();
        let psk = Secret::new(&[4; 32]);
        let change = PeerSettings {
            public_key: PublicKey([1; 32]),
            add: None,
            preshared: Some(&psk),
            endpoint: Some(end),
            keepalive: Some(25),
        };
        assert_eq!(
            peer(&parse(SettingsEncoder::peer(7, &change))),
            [
                WireguardPeerAttribute::PublicKey([1; 32]),
                WireguardPeerAttribute::Flags(WireguardPeerFlags::UpdateOnly),
                WireguardPeerAttribute::PresharedKey([4; 32]),
                WireguardPeerAttribute::Endpoint(end),
                WireguardPeerAttribute::PersistentKeepalive(25),
            ]
        );
        let ips = [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6];
        let end: SocketAddr = "192.0.2.1:9".parse().unwrap();
        let add = PeerSettings {
            add: Some(&ips),
            preshared: None,
            endpoint: Some(end),
            keepalive: None,
            ..change
        };
        let attributes = parse(SettingsEncoder::peer(7, &add));
        let [_, flags, endpoint, WireguardPeerAttribute::AllowedIps(seen)] = peer(&attributes)
        else {
            panic!("{attributes:?}");
        };
        assert_eq!(*flags, WireguardPeerAttribute::Flags(WireguardPeerFlags::empty()));
        assert_eq!(*endpoint, WireguardPeerAttribute::Endpoint(end));
        assert_eq!(seen.len(), 2);
    }

    #[test]
    fn a_removal_names_the_peer_alone() {
        let attributes = parse(SettingsEncoder::removal(7, PublicKey([1; 32])));
        let flags = WireguardPeerFlags::RemoveMe | WireguardPeerFlags::UpdateOnly;
        assert_eq!(
            peer(&attributes),
            [WireguardPeerAttribute::PublicKey([1; 32]), WireguardPeerAttribute::Flags(flags)]
        );
    }
}
