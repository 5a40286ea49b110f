//! Policies and their rules.

use crate::addr::Addr;
use crate::parse::Headers;

/// Where a policy's rules lie. One word, so that a new version replaces an old one at once.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Index of its first rule.
    pub first: u32,
    /// Number of rules, at most [`MAX_RULES`].
    pub count: u16,
    /// 1: what no rule matches passes; anything else: it is dropped. A policy that was never
    /// loaded therefore drops.
    pub accept: u8,
    /// 1: flows are tracked.
    pub stateful: u8,
}

/// Most rules a policy may have: what bounds the work for one packet.
pub const MAX_RULES: u32 = 4096;

/// A rule. It holds masks, not lengths, so that it is matched without branches.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Source prefix.
    pub src: Addr,
    /// Mask of the source prefix.
    pub src_mask: Addr,
    /// Destination prefix.
    pub dst: Addr,
    /// Mask of the destination prefix.
    pub dst_mask: Addr,
    /// The protocol.
    pub protocol: u8,
    /// 0: any protocol; 255: the one above.
    pub protocol_mask: u8,
    /// [`Rule::V4`], [`Rule::V6`] or both.
    pub families: u8,
    /// 1: what matches is accepted; anything else: dropped.
    pub accept: u8,
    /// Lowest source port; of ICMP and ICMPv6, lowest code.
    pub src_port_min: u16,
    /// Highest source port, or code.
    pub src_port_max: u16,
    /// Lowest destination port; of ICMP and ICMPv6, lowest type.
    pub dst_port_min: u16,
    /// Highest destination port, or type.
    pub dst_port_max: u16,
    /// Free for the one who compiles policies; the programs never look at it.
    pub tag: u32,
}

impl Rule {
    /// Matches IPv4.
    pub const V4: u8 = 1;
    /// Matches IPv6.
    pub const V6: u8 = 2;

    /// Matches everything, and drops it.
    pub const ANY: Rule = Rule {
        src: Addr::UNSPECIFIED,
        src_mask: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        dst_mask: Addr::UNSPECIFIED,
        protocol: 0,
        protocol_mask: 0,
        families: Rule::V4 | Rule::V6,
        accept: 0,
        src_port_min: 0,
        src_port_max: u16::MAX,
        dst_port_min: 0,
        dst_port_max: u16::MAX,
        tag: 0,
    };

    /// Whether the rule matches.
    #[inline(always)]
    pub const fn matches(&self, headers: &Headers) -> bool {
        // Families 4 and 6 are `V4` and `V6`, 1 and 2.
        let family = (headers.family >> 1).wrapping_sub(1);
        let mut miss = (family & !self.families) as u64;
        miss |= ((headers.protocol ^ self.protocol) & self.protocol_mask) as u64;
        miss |= outside(headers.src_port, self.src_port_min, self.src_port_max);
        miss |= outside(headers.dst_port, self.dst_port_min, self.dst_port_max);
        miss |= (headers.src.hi ^ self.src.hi) & self.src_mask.hi;
        miss |= (headers.src.lo ^ self.src.lo) & self.src_mask.lo;
        miss |= (headers.dst.hi ^ self.dst.hi) & self.dst_mask.hi;
        miss |= (headers.dst.lo ^ self.dst.lo) & self.dst_mask.lo;
        miss == 0
    }
}

/// Not zero: the port is not between the two.
#[inline(always)]
const fn outside(port: u16, min: u16, max: u16) -> u64 {
    let (port, min, max) = (port as i64, min as i64, max as i64);
    (((port - min) | (max - port)) >> 63) as u64
}
