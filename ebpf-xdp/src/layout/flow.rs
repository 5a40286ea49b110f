//! Flows and fragmented packets.

use crate::addr::Addr;

/// A flow, the same for both directions: `a` is the lower of the two ends.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Lower end.
    pub a: Addr,
    /// Higher end.
    pub b: Addr,
    /// Port of the lower end.
    pub a_port: u16,
    /// Port of the higher end.
    pub b_port: u16,
    /// Protocol.
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
    /// [`super::Link::zone`].
    pub zone: u16,
}

/// What is known of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// When a packet of it passed last, in nanoseconds of the coarse monotonic clock; no more
    /// exact than a second.
    pub seen: u64,
    /// The peer that opened it; 0: this side.
    pub peer: u32,
    /// Bits of [`crate::flow::FROM_A`] and the like.
    pub state: u32,
}

/// A fragmented packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Identification.
    pub id: u32,
    /// [`super::Link::zone`].
    pub zone: u16,
    /// Protocol; 0 for IPv6, where only the first fragment knows it (RFC 8200 section 4.5).
    pub protocol: u8,
    /// 4 or 6.
    pub family: u8,
}
