//! Links, and the tunnels inside them.

use crate::addr::Addr;

/// How a link's packets find their peer. One word, so that a change is seen whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// A [`Finder`].
    pub finder: u8,
    /// Bits of `Link::ETHERNET` and the like.
    pub flags: u8,
    /// Flows and fragments are known within a zone: links of different routing instances (VRFs),
    /// where the same addresses mean different hosts, have different zones.
    pub zone: u16,
    /// The peer of a dedicated link.
    pub peer: u32,
}

impl Link {
    /// Packets begin with an Ethernet header. WireGuard and tun devices have none.
    pub const ETHERNET: u8 = 1;
    /// What cannot be told by peer (malformed packets, unknown sources) is counted, not dropped.
    pub const MONITOR: u8 = 2;
    /// Packets sent through the device open flows: wanted once a peer behind it has a policy.
    pub const LEARN: u8 = 4;
    /// A peer behind it has tunnels: packets sent through the device may carry others.
    pub const TUNNELS: u8 = 8;
}

/// How a link's packets find their peer.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finder {
    /// The link has one peer.
    Dedicated = 1,
    /// The packet's source names it: WireGuard has checked that.
    Shared = 2,
}

/// Packets between which ends a tunnel's are. All zero but `peer`: any that the peer sends, for a
/// tunnel whose ends are not known.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TunnelKey {
    /// This end.
    pub local: Addr,
    /// The other end.
    pub remote: Addr,
    /// The peer that has the other end, by which source and link the outer packet was proven.
    pub peer: u32,
    /// GRE's key.
    pub key: u32,
    /// Family of the ends.
    pub family: u8,
    /// Protocol of the outer packet.
    pub protocol: u8,
    /// 1: `key` is in the packets. The row without it is there for any tunnel between the ends.
    pub keyed: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

/// What is inside a tunnel. One word, so that a change is seen whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tunnel {
    /// The peer as whom the inner packet is judged; 0: all tunnels between these ends have keys.
    pub peer: u32,
    /// [`Link::zone`] of the tunnel's device.
    pub zone: u16,
    /// Zero.
    pub reserved: u16,
}
