//! What is counted, noted and sampled.

use crate::addr::Addr;

/// Packets and bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets.
    pub packets: u64,
    /// Bytes as the hook saw them: tc counts a coalesced packet once.
    pub bytes: u64,
}

/// How many samples a CPU may still take.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// When the second began.
    pub since: u64,
    /// Samples taken in it.
    pub taken: u64,
}

/// A dropped packet, or one that would have been.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Nanoseconds of the coarse monotonic clock.
    pub time: u64,
    /// Source; of a tunnel's packet the inner one, if it could be read.
    pub src: Addr,
    /// Destination.
    pub dst: Addr,
    /// Device.
    pub ifindex: u32,
    /// Peer; 0: unknown.
    pub peer: u32,
    /// Index of the rule within its policy plus one; 0: no rule.
    pub rule: u32,
    /// Length of the packet.
    pub length: u32,
    /// Source port, or ICMP code.
    pub src_port: u16,
    /// Destination port, or ICMP type.
    pub dst_port: u16,
    /// Protocol.
    pub protocol: u8,
    /// 4 or 6; 0: the packet was not understood.
    pub family: u8,
    /// A [`super::Reason`].
    pub reason: u8,
    /// 1: the packet passed, for the peer is monitored.
    pub monitored: u8,
}

/// What is counted beside packets.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flow was opened. The table drops the least recently used ones by itself: what was opened,
    /// has not ended and is not there was evicted.
    FlowOpened = 0,
    /// A flow could not be stored: its replies will not pass.
    FlowFailed = 1,
    /// A packet met its flow after the timeout.
    FlowExpired = 2,
    /// The first fragment of a packet passed.
    FragmentOpened = 3,
    /// A sample was not taken: the second's budget was spent.
    SampleLimited = 4,
    /// A sample was not taken: the reader is behind.
    SampleLost = 5,
}

/// Number of [`Event`]s.
pub const EVENTS: u32 = 6;
