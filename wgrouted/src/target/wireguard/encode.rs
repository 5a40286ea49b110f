//! Changes of AllowedIPs as `WG_CMD_SET_DEVICE` messages.
//!
//! Here lives the encoder: pure, into one reused buffer. Never in here: sockets. Attributes that
//! change a key, an endpoint or a peer itself are `settings`' business alone. Invariants: a message never exceeds its bound,
//! so that no nested attribute exceeds the 65,535 bytes that its length field can say; and every
//! real peer carries `WGPEER_F_UPDATE_ONLY`, so that a peer which somebody removed a moment ago
//! does not come back without its preshared key.

mod settings;

use std::net::IpAddr;

pub(super) use self::settings::SettingsEncoder;
use super::{
    Batch, GRAVEYARD,
    uapi::{
        GENL_HEADER, HEADERS, WG_CMD_SET_DEVICE, WG_GENL_VERSION, WGALLOWEDIP_A_CIDR_MASK,
        WGALLOWEDIP_A_FAMILY, WGALLOWEDIP_A_FLAGS, WGALLOWEDIP_A_IPADDR, WGALLOWEDIP_F_REMOVE_ME,
        WGDEVICE_A_IFINDEX, WGDEVICE_A_PEERS, WGPEER_A_ALLOWEDIPS, WGPEER_A_FLAGS,
        WGPEER_A_PUBLIC_KEY, WGPEER_F_REPLACE_ALLOWEDIPS, WGPEER_F_UPDATE_ONLY,
    },
};
use crate::core::{
    change::Change,
    peer::{PeerIdx, PublicKey},
    prefix::Prefix,
    route::IfIndex,
};

/// Bound of a message in bytes unless chosen otherwise. The kernel holds the global RTNL lock
/// while it works through a message; larger ones gain next to no throughput.
pub const DEFAULT_MESSAGE: usize = 16 << 10;
/// The smallest bound that can be chosen: one change with all that goes around it.
pub const MIN_MESSAGE: usize = 256;
/// The largest bound that can be chosen: the length of a nested attribute has 16 bits.
pub const MAX_MESSAGE: usize = u16::MAX as usize & !3;

const NLA_F_NESTED: u16 = 1 << 15;

/// Header, key and flags of a peer, and the header of its list of allowed IPs.
const PEER_OVERHEAD: usize = 4 + 36 + 8 + 4;
/// The entry that empties the graveyard at the end of a message.
const CLEAR: usize = 4 + 36 + 8;

/// How an allowed IP leaves the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// By `WGALLOWEDIP_F_REMOVE_ME`, which has no effect unless the named peer owns it.
    Flag,
    /// By a move to the [`GRAVEYARD`], which the same message then empties. Whoever owned it loses
    /// it.
    Graveyard,
}

/// Positions of a batch's changes in the order in which they go out.
#[derive(Debug)]
pub(super) struct Order(Vec<(PeerIdx, u32)>);

impl Order {
    /// Keeps the order of the batch, except that neighbours of equal prefix length and equal kind
    /// (set or removal), among which the order is free, are grouped by peer: a message names each
    /// peer once a group, and half a million /24 interleaved over a hundred peers would else need
    /// three times the bytes.
    pub(super) fn of(batch: &Batch<'_>) -> Order {
        let kind = |change: &Change| (change.prefix.prefix_len(), change.new.is_some());
        let mut order = Vec::with_capacity(batch.changes.len());
        let mut position = 0;
        for run in batch.changes.chunk_by(|a, b| kind(a) == kind(b)) {
            let start = order.len();
            for change in run {
                // A change names at least one owner; one that names none asks for nothing.
                if let Some(owner) = change.new.or(change.old) {
                    order.push((owner, position));
                }
                position += 1;
            }
            order[start..].sort_unstable();
        }
        Order(order)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Position in the batch of the change that goes out as number `index`.
    pub(super) fn position(&self, index: usize) -> usize {
        self.0[index].1 as usize
    }
}

/// Builds messages.
#[derive(Debug)]
pub(super) struct Encoder {
    limit: usize,
    buffer: Vec<u8>,
}

/// Whose entry of the list of peers is being written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Peer(PeerIdx),
    Graveyard,
}

impl Encoder {
    /// `limit` bounds each message, within [`MIN_MESSAGE`] and [`MAX_MESSAGE`].
    pub(super) fn new(limit: usize) -> Encoder {
        Encoder { limit: limit.clamp(MIN_MESSAGE, MAX_MESSAGE), buffer: Vec::new() }
    }

    /// The message made last, with room for its netlink header.
    pub(super) fn bytes(&mut self) -> &mut [u8] {
        &mut self.buffer
    }

    /// Encodes as many changes as fit, from number `start` of the order on but at most up to `end`,
    /// and returns where it stopped.
    pub(super) fn changes(
        &mut self,
        ifindex: IfIndex,
        batch: &Batch<'_>,
        order: &Order,
        (start, end): (usize, usize),
        removal: Removal,
    ) -> usize {
        let limit = match removal {
            Removal::Flag => self.limit,
            Removal::Graveyard => self.limit - CLEAR,
        };
        let peers = self.begin(ifindex);
        let mut open: Option<(Owner, usize, usize)> = None;
        let mut buried = false;
        let mut next = start;
        for &(peer, position) in &order.0[start..end] {
            let change = &batch.changes[position as usize];
            let (owner, flags) = match (change.new, removal) {
                (Some(_), _) => (Owner::Peer(peer), None),
                (None, Removal::Flag) => (Owner::Peer(peer), Some(WGALLOWEDIP_F_REMOVE_ME)),
                (None, Removal::Graveyard) => (Owner::Graveyard, None),
            };
            let same = open.is_some_and(|(current, ..)| current == owner);
            let size = allowed_ip_size(&change.prefix, flags.is_some())
                + if same { 0 } else { PEER_OVERHEAD };
            if self.buffer.len() + size > limit {
                break;
            }
            if !same {
                if let Some((_, peer_nest, ips_nest)) = open {
                    self.close(ips_nest);
                    self.close(peer_nest);
                }
                let nest = self.open(0);
                match owner {
                    Owner::Peer(peer) => {
                        self.peer(batch.peers[peer.0 as usize], WGPEER_F_UPDATE_ONLY);
                    }
                    Owner::Graveyard => {
                        self.peer(GRAVEYARD, 0);
                        buried = true;
                    }
                }
                open = Some((owner, nest, self.open(WGPEER_A_ALLOWEDIPS)));
            }
            self.allowed_ip(&change.prefix, flags);
            next += 1;
        }
        if let Some((_, peer_nest, ips_nest)) = open {
            self.close(ips_nest);
            self.close(peer_nest);
        }
        if buried {
            self.clear_graveyard();
        }
        self.close(peers);
        next
    }

    /// Encodes one allowed IP of one peer with `WGALLOWEDIP_A_FLAGS`, to learn what the kernel
    /// makes of it.
    pub(super) fn probe(&mut self, ifindex: IfIndex, key: PublicKey, prefix: Prefix, flags: u32) {
        let peers = self.begin(ifindex);
        let nest = self.open(0);
        self.peer(key, WGPEER_F_UPDATE_ONLY);
        let ips = self.open(WGPEER_A_ALLOWEDIPS);
        self.allowed_ip(&prefix, Some(flags));
        self.close(ips);
        self.close(nest);
        self.close(peers);
    }

    /// Encodes the way of one prefix through the graveyard.
    pub(super) fn graveyard(&mut self, ifindex: IfIndex, prefix: Prefix) {
        let peers = self.begin(ifindex);
        let nest = self.open(0);
        self.peer(GRAVEYARD, 0);
        let ips = self.open(WGPEER_A_ALLOWEDIPS);
        self.allowed_ip(&prefix, None);
        self.close(ips);
        self.close(nest);
        self.clear_graveyard();
        self.close(peers);
    }

    /// Encodes the removal of all that lies in the graveyard; a device without one gets none.
    pub(super) fn bury(&mut self, ifindex: IfIndex) {
        let peers = self.begin(ifindex);
        self.clear_graveyard();
        self.close(peers);
    }

    fn begin(&mut self, ifindex: IfIndex) -> usize {
        self.begin_device(ifindex);
        self.open(WGDEVICE_A_PEERS)
    }

    fn begin_device(&mut self, ifindex: IfIndex) {
        self.buffer.clear();
        self.buffer.resize(HEADERS, 0);
        self.buffer[GENL_HEADER] = WG_CMD_SET_DEVICE;
        self.buffer[GENL_HEADER + 1] = WG_GENL_VERSION;
        self.put(WGDEVICE_A_IFINDEX, ifindex.to_ne_bytes());
    }

    fn peer(&mut self, key: PublicKey, flags: u32) {
        self.put(WGPEER_A_PUBLIC_KEY, key.0);
        self.put(WGPEER_A_FLAGS, flags.to_ne_bytes());
    }

    fn clear_graveyard(&mut self) {
        let nest = self.open(0);
        self.peer(GRAVEYARD, WGPEER_F_UPDATE_ONLY | WGPEER_F_REPLACE_ALLOWEDIPS);
        self.close(nest);
    }

    fn allowed_ip(&mut self, prefix: &Prefix, flags: Option<u32>) {
        let size = allowed_ip_size(prefix, flags.is_some());
        self.header(size, NLA_F_NESTED);
        match prefix.addr() {
            IpAddr::V4(addr) => {
                self.put(WGALLOWEDIP_A_FAMILY, (libc::AF_INET as u16).to_ne_bytes());
                self.put(WGALLOWEDIP_A_IPADDR, addr.octets());
            }
            IpAddr::V6(addr) => {
                self.put(WGALLOWEDIP_A_FAMILY, (libc::AF_INET6 as u16).to_ne_bytes());
                self.put(WGALLOWEDIP_A_IPADDR, addr.octets());
            }
        }
        self.put(WGALLOWEDIP_A_CIDR_MASK, [prefix.prefix_len()]);
        if let Some(flags) = flags {
            self.put(WGALLOWEDIP_A_FLAGS, flags.to_ne_bytes());
        }
    }

    /// Appends an attribute, padded.
    fn put<const N: usize>(&mut self, kind: u16, value: [u8; N]) {
        self.header(4 + N, kind);
        self.buffer.extend_from_slice(&value);
        self.buffer.extend_from_slice(&[0; 3][..N.next_multiple_of(4) - N]);
    }

    /// Begins a nested attribute; without `NLA_F_NESTED` the kernel refuses it.
    fn open(&mut self, kind: u16) -> usize {
        let nest = self.buffer.len();
        self.header(0, kind | NLA_F_NESTED);
        nest
    }

    fn close(&mut self, nest: usize) {
        let length = self.buffer.len() - nest;
        debug_assert!(length <= MAX_MESSAGE, "the bound of a message keeps its nests below 64 KiB");
        self.buffer[nest..nest + 2].copy_from_slice(&(length as u16).to_ne_bytes());
    }

    fn header(&mut self, length: usize, kind: u16) {
        self.buffer.extend_from_slice(&(length as u16).to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
    }
}

/// Bytes of one allowed IP in a message.
const fn allowed_ip_size(prefix: &Prefix, flags: bool) -> usize {
    let address = match prefix {
        Prefix::V4(_) => 4,
        Prefix::V6(_) => 16,
    };
    4 + 8 + (4 + address) + 8 + if flags { 8 } else { 0 }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::ParseableParametrized;
    use netlink_packet_generic::GenlHeader;
    use netlink_packet_wireguard::{
        WireguardAllowedIpAttr, WireguardAllowedIpFlags, WireguardAttribute, WireguardMessage,
        WireguardPeerAttribute, WireguardPeerFlags,
    };
    use proptest::prelude::*;

    use super::*;
    use crate::target::wireguard::loopback::strategies;

    /// One allowed IP as the independent parser understands it.
    #[derive(Debug, PartialEq)]
    struct Seen {
        key: PublicKey,
        peer_flags: u32,
        prefix: Prefix,
        remove: bool,
    }

    fn parse(bytes: &[u8]) -> (Vec<Seen>, bool) {
        let header = GenlHeader::parse(&bytes[GENL_HEADER..]).unwrap();
        assert_eq!((header.cmd, header.version), (1, 1));
        let message = WireguardMessage::parse_with_param(&bytes[HEADERS..], header).unwrap();
        assert_eq!(message.attributes[0], WireguardAttribute::IfIndex(7));
        let [_, WireguardAttribute::Peers(peers)] = message.attributes.as_slice() else {
            panic!("ifindex and peers, nothing else: {message:?}");
        };
        let mut seen = Vec::new();
        let mut cleared = false;
        for peer in peers {
            assert!(!cleared, "the graveyard is emptied last");
            let [
                WireguardPeerAttribute::PublicKey(key),
                WireguardPeerAttribute::Flags(flags),
                rest @ ..,
            ] = peer.0.as_slice()
            else {
                panic!("key and flags first: {peer:?}");
            };
            let key = PublicKey(*key);
            match rest {
                [] => {
                    assert_eq!(
                        (key, flags.bits()),
                        (GRAVEYARD, WGPEER_F_UPDATE_ONLY | WGPEER_F_REPLACE_ALLOWEDIPS)
                    );
                    cleared = true;
                }
                [WireguardPeerAttribute::AllowedIps(ips)] => {
                    assert_eq!(key != GRAVEYARD, flags.contains(WireguardPeerFlags::UpdateOnly));
                    seen.extend(ips.iter().map(|ip| {
                        let (mut addr, mut len, mut remove) = (None, None, false);
                        for attribute in &ip.0 {
                            match attribute {
                                WireguardAllowedIpAttr::IpAddr(a) => addr = Some(*a),
                                WireguardAllowedIpAttr::Cidr(l) => len = Some(*l),
                                WireguardAllowedIpAttr::Flags(f) => {
                                    assert_eq!(*f, WireguardAllowedIpFlags::RemoveMe);
                                    remove = true;
                                }
                                WireguardAllowedIpAttr::Family(_) => {}
                                other => panic!("{other:?}"),
                            }
                        }
                        let prefix = Prefix::new(addr.unwrap(), len.unwrap()).unwrap();
                        Seen { key, peer_flags: flags.bits(), prefix, remove }
                    }));
                }
                other => panic!("nothing but allowed IPs may follow: {other:?}"),
            }
        }
        (seen, cleared)
    }

    fn expected(batch: &Batch<'_>, order: &Order, removal: Removal) -> Vec<Seen> {
        (0..order.len())
            .map(|index| {
                let change = &batch.changes[order.position(index)];
                let owner = batch.peers[change.new.or(change.old).unwrap().0 as usize];
                let (key, peer_flags, remove) = match (change.new, removal) {
                    (Some(_), _) => (owner, 4, false),
                    (None, Removal::Flag) => (owner, 4, true),
                    (None, Removal::Graveyard) => (GRAVEYARD, 0, false),
                };
                Seen { key, peer_flags, prefix: change.prefix, remove }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn the_messages_together_are_the_batch(
            (peers, changes) in strategies::batch(),
            removal in prop_oneof![Just(Removal::Flag), Just(Removal::Graveyard)],
            limit in MIN_MESSAGE..1500,
        ) {
            let batch = Batch { peers: &peers, changes: &changes };
            let order = Order::of(&batch);
            let mut encoder = Encoder::new(limit);
            let mut start = 0;
            let mut seen = Vec::new();
            while start < order.len() {
                let next = encoder.changes(7, &batch, &order, (start, order.len()), removal);
                prop_assert!(next > start);
                prop_assert!(encoder.bytes().len() <= limit);
                let (entries, cleared) = parse(encoder.bytes());
                prop_assert_eq!(entries.len(), next - start);
                prop_assert_eq!(cleared, entries.iter().any(|entry| entry.key == GRAVEYARD));
                seen.extend(entries);
                start = next;
            }
            prop_assert_eq!(seen, expected(&batch, &order, removal));
        }

        #[test]
        fn only_neighbours_of_one_kind_and_length_change_places((peers, changes) in strategies::batch()) {
            let order = Order::of(&Batch { peers: &peers, changes: &changes });
            let mut positions: Vec<_> = (0..order.len()).map(|i| order.position(i)).collect();
            for (index, &position) in positions.iter().enumerate() {
                let kind = |i: usize| (changes[i].prefix.prefix_len(), changes[i].new.is_some());
                let (low, high) = (index.min(position), index.max(position));
                prop_assert!((low..=high).all(|i| kind(i) == kind(position)));
            }
            positions.sort_unstable();
            prop_assert_eq!(positions, (0..changes.len()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_peer_is_named_once_a_run() {
        let peers = [PublicKey([1; 32]), PublicKey([2; 32])];
        let changes: Vec<_> = (0..100u8)
            .map(|i| Change {
                prefix: Prefix::new([10, 0, i, 0].into(), 24).unwrap(),
                old: None,
                new: Some(PeerIdx(u32::from(i % 2))),
            })
            .collect();
        let batch = Batch { peers: &peers, changes: &changes };
        let mut encoder = Encoder::new(DEFAULT_MESSAGE);
        assert_eq!(encoder.changes(7, &batch, &Order::of(&batch), (0, 100), Removal::Flag), 100);
        assert_eq!(encoder.bytes().len(), HEADERS + 8 + 4 + 2 * PEER_OVERHEAD + 100 * 28);
    }

    #[test]
    fn sizes_are_those_of_the_kernels_layout() {
        let v4 = Prefix::DEFAULT_V4;
        let v6 = Prefix::DEFAULT_V6;
        assert_eq!([v4, v6].map(|p| allowed_ip_size(&p, false)), [28, 40]);
        assert_eq!([v4, v6].map(|p| allowed_ip_size(&p, true)), [36, 48]);
        let worst = HEADERS + 8 + 4 + PEER_OVERHEAD + allowed_ip_size(&v6, true) + CLEAR;
        assert!(worst <= MIN_MESSAGE);
    }

    #[test]
    fn the_largest_message_keeps_its_lengths() {
        let peers = [PublicKey([1; 32])];
        let changes: Vec<_> = (0..4000u32)
            .map(|i| Change {
                prefix: Prefix::host(std::net::Ipv4Addr::from(i).into()),
                old: None,
                new: Some(PeerIdx(0)),
            })
            .collect();
        let batch = Batch { peers: &peers, changes: &changes };
        let mut encoder = Encoder::new(usize::MAX);
        let next = encoder.changes(7, &batch, &Order::of(&batch), (0, 4000), Removal::Graveyard);
        assert!(next > 2300, "{next}");
        assert!(encoder.bytes().len() <= MAX_MESSAGE);
        assert_eq!(parse(encoder.bytes()).0.len(), next);
    }
}
