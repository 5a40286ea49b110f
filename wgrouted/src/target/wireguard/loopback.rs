//! A stand-in for the kernel's side of the socket, for tests.
//!
//! Here lives [`Loopback`], which reads our messages with the independent parser of
//! netlink-packet-wireguard and does to a [`FakeDevice`] what drivers/net/wireguard/netlink.c
//! does, change by change; and the random batches that tests feed it.

use std::collections::{BTreeMap, VecDeque};

use netlink_packet_core::ParseableParametrized;
use netlink_packet_generic::GenlHeader;
use netlink_packet_wireguard::{
    WireguardAllowedIpAttr, WireguardAttribute, WireguardMessage, WireguardPeer,
    WireguardPeerAttribute,
};

use super::{
    WgError,
    apply::Transport,
    uapi::{GENL_HEADER, HEADERS, WGPEER_F_REPLACE_ALLOWEDIPS, WGPEER_F_UPDATE_ONLY},
};
use crate::{
    core::{peer::PublicKey, prefix::Prefix, route::IfIndex},
    target::fake::FakeDevice,
};

/// How a kernel treats `WGALLOWEDIP_A_FLAGS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flavour {
    /// Linux 6.16: knows one flag.
    Modern,
    /// Later: the same, and a message is checked as a whole before anything is done.
    UpFront,
    /// Linux 5.6 to 6.15: refuses the attribute.
    Strict,
    /// The out-of-tree module on kernels before 5.2: skips the attribute.
    Lenient,
}

impl Flavour {
    pub(super) const ALL: [Flavour; 4] =
        [Flavour::Modern, Flavour::UpFront, Flavour::Strict, Flavour::Lenient];
}

type Watch = Box<dyn FnMut(&FakeDevice)>;

pub(super) struct Loopback {
    pub(super) device: FakeDevice,
    pub(super) flavour: Flavour,
    /// Prefixes that spoil a message.
    pub(super) refused: BTreeMap<Prefix, i32>,
    /// Errors of the coming messages, half of which is done.
    pub(super) errors: VecDeque<i32>,
    /// Called after each change.
    pub(super) watch: Option<Watch>,
    pub(super) messages: u32,
}

impl Loopback {
    pub(super) fn new(flavour: Flavour, device: FakeDevice) -> Loopback {
        Loopback {
            device,
            flavour,
            refused: BTreeMap::new(),
            errors: VecDeque::new(),
            watch: None,
            messages: 0,
        }
    }

    fn peer(&mut self, peer: &WireguardPeer, budget: &mut usize) -> Result<(), i32> {
        let (mut key, mut flags, mut ips) = (None, 0, &[][..]);
        for attribute in &peer.0 {
            match attribute {
                WireguardPeerAttribute::PublicKey(k) => key = Some(PublicKey(*k)),
                WireguardPeerAttribute::Flags(f) => flags = f.bits(),
                WireguardPeerAttribute::AllowedIps(a) => ips = a,
                other => panic!("never change a peer: {other:?}"),
            }
        }
        let key = key.ok_or(libc::EINVAL)?;
        if self.device.peer(&key).is_none() {
            if flags & WGPEER_F_UPDATE_ONLY != 0 {
                return Ok(());
            }
            self.device.add_peer(key);
        }
        if flags & WGPEER_F_REPLACE_ALLOWEDIPS != 0 {
            self.device.clear_peer(&key);
        }
        for ip in ips {
            let (prefix, flags) = allowed_ip(&ip.0);
            if *budget == 0 {
                return Err(0);
            }
            *budget -= 1;
            self.check(flags)?;
            if let Some(errno) = self.refused.get(&prefix) {
                return Err(*errno);
            }
            if flags == Some(1) && self.flavour != Flavour::Lenient {
                self.device.unset(&prefix, &key);
            } else {
                self.device.set(prefix, &key);
            }
            if let Some(watch) = &mut self.watch {
                watch(&self.device);
            }
        }
        Ok(())
    }

    fn check(&self, flags: Option<u32>) -> Result<(), i32> {
        let known = match self.flavour {
            Flavour::Modern | Flavour::UpFront => flags.is_none_or(|flags| flags & !1 == 0),
            Flavour::Strict => flags.is_none(),
            Flavour::Lenient => true,
        };
        if known { Ok(()) } else { Err(libc::EINVAL) }
    }

    fn execute(&mut self, message: &[u8], budget: &mut usize) -> Result<(), i32> {
        let header = GenlHeader::parse(&message[GENL_HEADER..]).unwrap();
        let message = WireguardMessage::parse_with_param(&message[HEADERS..], header).unwrap();
        let Some(WireguardAttribute::Peers(peers)) = message.attributes.last() else {
            panic!("no peers: {message:?}");
        };
        if self.flavour == Flavour::UpFront {
            for ip in
                peers.iter().flat_map(|peer| &peer.0).filter_map(|attribute| match attribute {
                    WireguardPeerAttribute::AllowedIps(ips) => Some(ips),
                    _ => None,
                })
            {
                ip.iter().try_for_each(|ip| self.check(allowed_ip(&ip.0).1))?;
            }
        }
        peers.iter().try_for_each(|peer| self.peer(peer, budget))
    }
}

impl Transport for Loopback {
    fn set_device(&mut self, ifindex: IfIndex, message: &mut [u8]) -> Result<(), WgError> {
        self.messages += 1;
        let (mut budget, forced) = match self.errors.pop_front() {
            Some(errno) => (message.len() / 28 / 2, Some(errno)),
            None => (usize::MAX, None),
        };
        let errno = match (self.execute(message, &mut budget), forced) {
            (Err(0) | Ok(()), Some(errno)) | (Err(errno), _) => errno,
            (Ok(()), None) => return Ok(()),
        };
        Err(match errno {
            libc::ENODEV => WgError::NoDevice(ifindex),
            _ => WgError::Refused { ifindex, errno, text: String::new() },
        })
    }
}

fn allowed_ip(attributes: &[WireguardAllowedIpAttr]) -> (Prefix, Option<u32>) {
    let (mut addr, mut len, mut flags) = (None, None, None);
    for attribute in attributes {
        match attribute {
            WireguardAllowedIpAttr::Family(_) => {}
            WireguardAllowedIpAttr::IpAddr(a) => addr = Some(*a),
            WireguardAllowedIpAttr::Cidr(l) => len = Some(*l),
            WireguardAllowedIpAttr::Flags(f) => flags = Some(f.bits()),
            other => panic!("{other:?}"),
        }
    }
    (Prefix::new(addr.unwrap(), len.unwrap()).unwrap(), flags)
}

/// Random batches over an address space so small that prefixes nest and collide.
pub(super) mod strategies {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::{collection::btree_map, option, prelude::*};

    use super::*;
    use crate::core::{change::Change, peer::PeerIdx};

    const PEERS: u32 = 4;

    pub(in super::super) fn peers() -> Vec<PublicKey> {
        (1..=PEERS as u8).map(|byte| PublicKey([byte; 32])).collect()
    }

    /// Every address that [`prefix`] can cover.
    pub(in super::super) fn addresses() -> Vec<IpAddr> {
        let v4 = (0..32).map(|bits| Ipv4Addr::new(10, 0, 0, bits).into());
        v4.chain((0..32).map(|bits| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, bits).into())).collect()
    }

    pub(in super::super) fn prefix() -> impl Strategy<Value = Prefix> {
        (0..64usize, 0..=5u8).prop_map(|(index, bits)| {
            let addr = addresses()[index];
            Prefix::new(addr, if addr.is_ipv4() { 27 } else { 123 } + bits).unwrap()
        })
    }

    /// A table before and after: of each prefix, its two owners.
    pub(in super::super) fn tables()
    -> impl Strategy<Value = BTreeMap<Prefix, (Option<PeerIdx>, Option<PeerIdx>)>> {
        let peer = || option::of((0..PEERS).prop_map(PeerIdx));
        btree_map(prefix(), (peer(), peer()), 0..100)
    }

    pub(in super::super) fn changes(
        tables: &BTreeMap<Prefix, (Option<PeerIdx>, Option<PeerIdx>)>,
    ) -> Vec<Change> {
        let changed = tables.iter().filter(|(_, (old, new))| old != new);
        changed
            .map(|(prefix, (old, new))| Change { prefix: *prefix, old: *old, new: *new })
            .collect()
    }

    /// A batch in any order.
    pub(in super::super) fn batch() -> impl Strategy<Value = (Vec<PublicKey>, Vec<Change>)> {
        let shuffled = tables().prop_flat_map(|tables| Just(changes(&tables)).prop_shuffle());
        (Just(peers()), shuffled)
    }
}
