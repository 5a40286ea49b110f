//! A `WG_CMD_GET_DEVICE` dump as a [`Device`].
//!
//! Here lives the decoder: pure, over raw bytes. Invariant: it never looks into
//! `WGDEVICE_A_PRIVATE_KEY` and `WGPEER_A_PRESHARED_KEY`, so no secret leaves the receive buffer.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

use super::{
    Device, DevicePeer, GRAVEYARD, WgError,
    answers::{Answers, Dumped},
    uapi::{
        Attributes, Malformed, WGALLOWEDIP_A_CIDR_MASK, WGALLOWEDIP_A_IPADDR, WGDEVICE_A_IFINDEX,
        WGDEVICE_A_IFNAME, WGDEVICE_A_LISTEN_PORT, WGDEVICE_A_PEERS, WGDEVICE_A_PUBLIC_KEY,
        WGPEER_A_ALLOWEDIPS, WGPEER_A_ENDPOINT, WGPEER_A_LAST_HANDSHAKE_TIME,
        WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, WGPEER_A_PUBLIC_KEY, WGPEER_A_RX_BYTES,
        WGPEER_A_TX_BYTES, fixed,
    },
};
use crate::core::{
    peer::{PeerIdx, PublicKey},
    prefix::Prefix,
};

/// Puts the messages of a dump together.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    device: Device,
    begun: bool,
    /// The peer that the last message ended with, whose list may go on in the next.
    last: Option<(PublicKey, Owner)>,
}

/// What the datagrams that answer a `WG_CMD_GET_DEVICE` request say: the device, or nothing if it
/// changed meanwhile. `family` and `sequence` are those of the request.
pub fn read_dump<'a>(
    family: u16,
    sequence: u32,
    datagrams: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Option<Device>, WgError> {
    let mut assembly = Assembly::default();
    let mut answers = Answers::new(family, sequence);
    for datagram in datagrams {
        let read = answers.datagram(datagram, &mut |_, attributes| assembly.message(attributes));
        let dumped = read.map_err(|error| WgError::from_genl(0, error))?;
        if let Some(dumped) = dumped {
            return Ok((dumped == Dumped::Whole).then(|| assembly.finish()));
        }
    }
    Ok(None)
}

#[derive(Clone, Copy, Debug)]
enum Owner {
    Peer(PeerIdx),
    Graveyard,
}

impl Assembly {
    /// Takes the attributes of one message, in the order of arrival.
    pub(super) fn message(&mut self, attributes: &[u8]) -> Result<(), Malformed> {
        // The kernel repeats the device's own attributes until it is through with the first peer
        // (wg_get_device_dump() in drivers/net/wireguard/netlink.c).
        let first = !std::mem::replace(&mut self.begun, true);
        for attribute in Attributes::new(attributes) {
            let (kind, value) = attribute?;
            match kind {
                WGDEVICE_A_PEERS => {
                    for peer in Attributes::new(value) {
                        self.peer(peer?.1)?;
                    }
                }
                WGDEVICE_A_IFINDEX if first => {
                    self.device.ifindex = u32::from_ne_bytes(fixed(value)?);
                }
                WGDEVICE_A_IFNAME if first => {
                    let name = value.split(|&byte| byte == 0).next().unwrap_or(value);
                    self.device.name = String::from_utf8_lossy(name).into_owned();
                }
                WGDEVICE_A_PUBLIC_KEY if first => {
                    self.device.public_key = Some(PublicKey(fixed(value)?));
                }
                WGDEVICE_A_LISTEN_PORT if first => {
                    self.device.listen_port = u16::from_ne_bytes(fixed(value)?);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The device, once all messages are in.
    pub(super) fn finish(self) -> Device {
        self.device
    }

    fn peer(&mut self, attributes: &[u8]) -> Result<(), Malformed> {
        let mut key = None;
        let mut allowed_ips: &[u8] = &[];
        let mut peer = DevicePeer {
            public_key: PublicKey([0; 32]),
            endpoint: None,
            persistent_keepalive: 0,
            last_handshake: None,
            rx_bytes: 0,
            tx_bytes: 0,
        };
        for attribute in Attributes::new(attributes) {
            let (kind, value) = attribute?;
            match kind {
                WGPEER_A_PUBLIC_KEY => key = Some(PublicKey(fixed(value)?)),
                WGPEER_A_ENDPOINT => peer.endpoint = endpoint(value)?,
                WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL => {
                    peer.persistent_keepalive = u16::from_ne_bytes(fixed(value)?);
                }
                WGPEER_A_LAST_HANDSHAKE_TIME => peer.last_handshake = timespec(value)?,
                WGPEER_A_RX_BYTES => peer.rx_bytes = u64::from_ne_bytes(fixed(value)?),
                WGPEER_A_TX_BYTES => peer.tx_bytes = u64::from_ne_bytes(fixed(value)?),
                WGPEER_A_ALLOWEDIPS => allowed_ips = value,
                _ => {}
            }
        }
        let key = key.ok_or(Malformed("a peer without a public key"))?;
        let owner = match self.last {
            Some((last, owner)) if last == key => owner,
            _ if key == GRAVEYARD => Owner::Graveyard,
            _ => {
                let index = u32::try_from(self.device.peers.len())
                    .map_err(|_| Malformed("more peers than a device can have"))?;
                self.device.peers.push(DevicePeer { public_key: key, ..peer });
                Owner::Peer(PeerIdx(index))
            }
        };
        self.last = Some((key, owner));
        for allowed_ip in Attributes::new(allowed_ips) {
            let prefix = prefix(allowed_ip?.1)?;
            match owner {
                Owner::Peer(peer) => self.device.allowed_ips.push((prefix, peer)),
                Owner::Graveyard => self.device.graveyard.push(prefix),
            }
        }
        Ok(())
    }
}

fn prefix(attributes: &[u8]) -> Result<Prefix, Malformed> {
    let mut addr = None;
    let mut len = None;
    for attribute in Attributes::new(attributes) {
        match attribute? {
            // The length of the address says what WGALLOWEDIP_A_FAMILY says.
            (WGALLOWEDIP_A_IPADDR, value) => {
                addr = Some(match value.len() {
                    4 => IpAddr::from(fixed::<4>(value)?),
                    _ => IpAddr::from(fixed::<16>(value)?),
                });
            }
            (WGALLOWEDIP_A_CIDR_MASK, value) => len = Some(fixed::<1>(value)?[0]),
            _ => {}
        }
    }
    let (Some(addr), Some(len)) = (addr, len) else {
        return Err(Malformed("an allowed IP without address or length"));
    };
    Prefix::new(addr, len).ok_or(Malformed("an allowed IP longer than its family's addresses"))
}

/// `struct sockaddr_in` or `struct sockaddr_in6`. Families to come are no reason to fail.
pub(super) fn endpoint(value: &[u8]) -> Result<Option<SocketAddr>, Malformed> {
    let cut = Malformed("an endpoint of the wrong size");
    let (family, rest) = value.split_first_chunk::<2>().ok_or(cut)?;
    let (port, rest) = rest.split_first_chunk::<2>().ok_or(cut)?;
    let port = u16::from_be_bytes(*port);
    Ok(match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => {
            let (addr, _) = rest.split_first_chunk::<4>().ok_or(cut)?;
            Some(SocketAddrV4::new(Ipv4Addr::from(*addr), port).into())
        }
        libc::AF_INET6 => {
            let (flow, rest) = rest.split_first_chunk::<4>().ok_or(cut)?;
            let (addr, rest) = rest.split_first_chunk::<16>().ok_or(cut)?;
            let (scope, _) = rest.split_first_chunk::<4>().ok_or(cut)?;
            let (flow, scope) = (u32::from_be_bytes(*flow), u32::from_ne_bytes(*scope));
            Some(SocketAddrV6::new(Ipv6Addr::from(*addr), port, flow, scope).into())
        }
        _ => None,
    })
}

/// `struct __kernel_timespec`; all zero means never, and so does what no clock should have said.
pub(super) fn timespec(value: &[u8]) -> Result<Option<Duration>, Malformed> {
    let [seconds, nanoseconds]: [[u8; 8]; 2] =
        [fixed(value.get(..8).unwrap_or(&[]))?, fixed(value.get(8..).unwrap_or(&[]))?];
    let (seconds, nanoseconds) = (i64::from_ne_bytes(seconds), i64::from_ne_bytes(nanoseconds));
    Ok(match (u64::try_from(seconds), u32::try_from(nanoseconds)) {
        (Ok(0), Ok(0)) => None,
        (Ok(seconds), Ok(nanoseconds)) if nanoseconds < 1_000_000_000 => {
            Some(Duration::new(seconds, nanoseconds))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::Emitable;
    use netlink_packet_wireguard::{
        WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
        WireguardPeer, WireguardPeerAttribute, WireguardTimeSpec,
    };
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn bytes(attributes: &[WireguardAttribute]) -> Vec<u8> {
        let mut bytes = vec![0; attributes.buffer_len()];
        attributes.emit(&mut bytes);
        bytes
    }

    fn header() -> Vec<WireguardAttribute> {
        vec![
            WireguardAttribute::ListenPort(51820),
            WireguardAttribute::Fwmark(0),
            WireguardAttribute::IfIndex(7),
            WireguardAttribute::IfName("wg0".to_owned()),
            WireguardAttribute::PrivateKey([0x5e; 32]),
            WireguardAttribute::PublicKey([0xaa; 32]),
        ]
    }

    fn full_peer(peer: &DevicePeer) -> Vec<WireguardPeerAttribute> {
        let handshake = peer.last_handshake.unwrap_or_default();
        let mut attributes = vec![
            WireguardPeerAttribute::PublicKey(peer.public_key.0),
            WireguardPeerAttribute::PresharedKey([0x5e; 32]),
            WireguardPeerAttribute::LastHandshake(WireguardTimeSpec {
                seconds: handshake.as_secs() as i64,
                nano_seconds: handshake.subsec_nanos().into(),
            }),
            WireguardPeerAttribute::PersistentKeepalive(peer.persistent_keepalive),
            WireguardPeerAttribute::TxBytes(peer.tx_bytes),
            WireguardPeerAttribute::RxBytes(peer.rx_bytes),
            WireguardPeerAttribute::ProtocolVersion(1),
        ];
        attributes.extend(peer.endpoint.map(WireguardPeerAttribute::Endpoint));
        attributes
    }

    fn allowed_ip(prefix: &Prefix) -> WireguardAllowedIp {
        WireguardAllowedIp(vec![
            WireguardAllowedIpAttr::Cidr(prefix.prefix_len()),
            WireguardAllowedIpAttr::Family(match prefix {
                Prefix::V4(_) => WireguardAddressFamily::Ipv4,
                Prefix::V6(_) => WireguardAddressFamily::Ipv6,
            }),
            WireguardAllowedIpAttr::IpAddr(prefix.addr()),
        ])
    }

    /// A device whose peers own `lists` in turn; an entry that is `None` is the graveyard.
    fn device(lists: &[(Option<DevicePeer>, Vec<Prefix>)]) -> Device {
        let mut device = Device {
            ifindex: 7,
            name: "wg0".to_owned(),
            public_key: Some(PublicKey([0xaa; 32])),
            listen_port: 51820,
            ..Device::default()
        };
        for (peer, prefixes) in lists {
            let Some(peer) = peer else {
                device.graveyard.extend(prefixes);
                continue;
            };
            let index = PeerIdx(device.peers.len() as u32);
            device.peers.push(peer.clone());
            device.allowed_ips.extend(prefixes.iter().map(|prefix| (*prefix, index)));
        }
        device
    }

    /// The same device as a dump: each list cut after `cut` allowed IPs, `together` pieces to a
    /// message. The device's own attributes are repeated with other values, which must not count.
    fn messages(
        lists: &[(Option<DevicePeer>, Vec<Prefix>)],
        cut: usize,
        together: usize,
    ) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        for (peer, prefixes) in lists {
            let key = peer.as_ref().map_or(GRAVEYARD, |peer| peer.public_key);
            let mut attributes = match peer {
                Some(peer) => full_peer(peer),
                None => vec![WireguardPeerAttribute::PublicKey(key.0)],
            };
            for piece in prefixes.chunks(cut) {
                attributes.push(WireguardPeerAttribute::AllowedIps(
                    piece.iter().map(allowed_ip).collect(),
                ));
                pieces.push(WireguardPeer(attributes));
                attributes = vec![WireguardPeerAttribute::PublicKey(key.0)];
            }
            if prefixes.is_empty() {
                pieces.push(WireguardPeer(attributes));
            }
        }
        let mut header = header();
        let mut messages = Vec::new();
        for pieces in pieces.chunks(together) {
            header.push(WireguardAttribute::Peers(pieces.to_vec()));
            messages.push(bytes(&header));
            header =
                vec![WireguardAttribute::ListenPort(1), WireguardAttribute::PrivateKey([0x5e; 32])];
        }
        messages
    }

    fn assemble(messages: &[Vec<u8>]) -> Result<Device, Malformed> {
        let mut assembly = Assembly::default();
        messages.iter().try_for_each(|message| assembly.message(message))?;
        Ok(assembly.finish())
    }

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        (any::<IpAddr>(), 0..=128u8).prop_map(|(addr, len)| {
            Prefix::new(addr, if addr.is_ipv4() { len % 33 } else { len }).unwrap()
        })
    }

    fn any_endpoint() -> impl Strategy<Value = SocketAddr> {
        // What sockaddr_in cannot say, the kernel cannot return.
        any::<(IpAddr, u16, u32)>().prop_map(|(addr, port, scope)| match addr {
            IpAddr::V4(addr) => SocketAddrV4::new(addr, port).into(),
            IpAddr::V6(addr) => SocketAddrV6::new(addr, port, 0, scope).into(),
        })
    }

    prop_compose! {
        fn any_peer()(
            key: [u8; 32],
            endpoint in proptest::option::of(any_endpoint()),
            persistent_keepalive: u16,
            handshake in proptest::option::of((1..4_000_000_000u64, 0..1_000_000_000u32)),
            rx_bytes: u64,
            tx_bytes: u64,
        ) -> DevicePeer {
            let last_handshake = handshake.map(|(s, ns)| Duration::new(s, ns));
            DevicePeer {
                public_key: PublicKey(key),
                endpoint, persistent_keepalive, last_handshake, rx_bytes, tx_bytes,
            }
        }
    }

    fn any_lists() -> impl Strategy<Value = Vec<(Option<DevicePeer>, Vec<Prefix>)>> {
        let prefixes = || vec(any_prefix(), 0..30);
        let lists = vec((any_peer().prop_map(Some), prefixes()), 1..5);
        (lists, prefixes(), any::<prop::sample::Index>()).prop_map(|(mut lists, buried, at)| {
            if !buried.is_empty() {
                lists.insert(at.index(lists.len() + 1), (None, buried));
            }
            lists
        })
    }

    proptest! {
        #[test]
        fn pieces_are_joined(lists in any_lists(), cut in 1..20usize, together in 1..4usize) {
            prop_assert_eq!(assemble(&messages(&lists, cut, together)), Ok(device(&lists)));
        }

        #[test]
        fn no_secret_gets_out(lists in any_lists()) {
            let device = assemble(&messages(&lists, 5, 2)).unwrap();
            let text = format!("{device:?}");
            prop_assert!(!text.contains(&PublicKey([0x5e; 32]).to_string()));
            prop_assert!(!text.contains("94, 94, 94, 94"));
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _ = assemble(&[bytes]);
        }

        #[test]
        fn damaged_dumps_are_survived(
            lists in any_lists(),
            damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
            end in any::<prop::sample::Index>(),
        ) {
            let mut messages = messages(&lists, 5, 2);
            for (at, byte) in damage {
                let index = at.index(messages[0].len());
                messages[0][index] = byte;
            }
            let end = end.index(messages[0].len());
            let _ = assemble(&messages);
            messages[0].truncate(end);
            let _ = assemble(&messages);
        }
    }

    const FAMILY: u16 = 28;

    /// The messages as the kernel sends them, a datagram each, and the end of the dump.
    fn datagrams(messages: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let datagram = |kind: u16, payload: &[u8]| {
            let length = 16 + payload.len() as u32;
            let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[2, 0]];
            [&header.concat(), &7u32.to_ne_bytes()[..], &[0; 4], payload].concat()
        };
        let answer = |message: &Vec<u8>| datagram(FAMILY, &[&[0; 4], &message[..]].concat());
        let done = datagram(netlink_packet_core::NLMSG_DONE, &[0; 4]);
        messages.iter().map(answer).chain([done]).collect()
    }

    fn read(datagrams: &[Vec<u8>]) -> Result<Option<Device>, WgError> {
        read_dump(FAMILY, 7, datagrams.iter().map(Vec::as_slice))
    }

    proptest! {
        #[test]
        fn datagrams_are_read(lists in any_lists()) {
            let mut datagrams = datagrams(&messages(&lists, 5, 2));
            prop_assert_eq!(read(&datagrams).unwrap(), Some(device(&lists)));
            // NLM_F_DUMP_INTR
            datagrams[0][6] |= 0x10;
            prop_assert_eq!(read(&datagrams).unwrap(), None);
        }

        #[test]
        fn damaged_datagrams_are_survived(
            lists in any_lists(),
            damage in vec((any::<prop::sample::Index>(), 0..64usize, any::<u8>()), 1..10),
            end in any::<prop::sample::Index>(),
            joined: bool,
        ) {
            let mut datagrams = datagrams(&messages(&lists, 5, 2));
            if joined {
                datagrams = vec![datagrams.concat()];
            }
            for (which, at, byte) in damage {
                let datagram = which.get(&datagrams).len();
                let which = which.index(datagrams.len());
                datagrams[which][at % datagram] = byte;
            }
            let _ = read(&datagrams);
            let end = end.index(datagrams[0].len());
            datagrams[0].truncate(end);
            let _ = read(&datagrams);
        }

        #[test]
        fn any_datagrams_are_survived(datagrams: Vec<Vec<u8>>) {
            let _ = read(&datagrams);
        }
    }

    #[test]
    fn a_device_without_peers_is_a_device() {
        assert_eq!(assemble(&[bytes(&header())]).unwrap(), device(&[]));
    }

    #[test]
    fn cut_attributes_are_errors() {
        let mut message = bytes(&header());
        message.truncate(message.len() - 4);
        assert!(assemble(&[message]).is_err());
    }
}
