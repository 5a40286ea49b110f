//! Netlink framing: messages in a datagram, attributes in a message.
//!
//! Here live the two iterators that every decoder is written over, and the constants that `libc`
//! does not have for each Linux target. Invariant: for any bytes they end after finitely many
//! items, never panic, and never hand out a slice beyond what a length field covers.

use super::decode::DecodeError;
use crate::core::prefix::Family;

// include/uapi/linux/netlink.h
const NLMSG_HEADER: usize = 16;
const NLA_HEADER: usize = 4;
const NLA_TYPE_MASK: u16 = 0x3fff;
/// `NLMSGERR_ATTR_MSG`: the kernel's explanation of an error.
pub(crate) const NLMSGERR_ATTR_MSG: u16 = 1;
pub(crate) const NLM_F_CAPPED: u16 = 0x100;
pub(crate) const NLM_F_ACK_TLVS: u16 = 0x200;
pub(crate) const NLM_F_DUMP_INTR: u16 = 0x10;

// include/uapi/linux/rtnetlink.h
pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
pub(crate) const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_SETLINK: u16 = 19;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
pub(crate) const RTM_NEWROUTE: u16 = 24;
pub(crate) const RTM_DELROUTE: u16 = 25;
pub(crate) const RTM_GETROUTE: u16 = 26;
pub(crate) const RTM_NEWRULE: u16 = 32;
pub(crate) const RTM_DELRULE: u16 = 33;
pub(crate) const RTM_GETRULE: u16 = 34;
pub(crate) const RTM_NEWNEXTHOP: u16 = 104;
pub(crate) const RTM_DELNEXTHOP: u16 = 105;
pub(crate) const RTM_GETNEXTHOP: u16 = 106;

pub(crate) const RTM_F_CLONED: u32 = 0x200;
pub(crate) const RTM_F_LOOKUP_TABLE: u32 = 0x1000;
pub(crate) const RTM_F_FIB_MATCH: u32 = 0x2000;
pub(crate) const RTNH_F_DEAD: u8 = 1;
pub(crate) const RTNH_F_ONLINK: u8 = 4;

pub(crate) const RTA_DST: u16 = 1;
pub(crate) const RTA_SRC: u16 = 2;
pub(crate) const RTA_IIF: u16 = 3;
pub(crate) const RTA_OIF: u16 = 4;
pub(crate) const RTA_GATEWAY: u16 = 5;
pub(crate) const RTA_PRIORITY: u16 = 6;
pub(crate) const RTA_PREFSRC: u16 = 7;
pub(crate) const RTA_MULTIPATH: u16 = 9;
pub(crate) const RTA_FLOW: u16 = 11;
pub(crate) const RTA_TABLE: u16 = 15;
pub(crate) const RTA_MARK: u16 = 16;
pub(crate) const RTA_VIA: u16 = 18;
pub(crate) const RTA_UID: u16 = 25;
pub(crate) const RTA_IP_PROTO: u16 = 27;
pub(crate) const RTA_SPORT: u16 = 28;
pub(crate) const RTA_DPORT: u16 = 29;
pub(crate) const RTA_NH_ID: u16 = 30;

// include/uapi/linux/nexthop.h
pub(crate) const NHA_ID: u16 = 1;
pub(crate) const NHA_GROUP: u16 = 2;
pub(crate) const NHA_GROUP_TYPE: u16 = 3;
pub(crate) const NHA_OIF: u16 = 5;
pub(crate) const NHA_RES_GROUP: u16 = 12;
pub(crate) const NHA_RES_GROUP_BUCKETS: u16 = 1;
pub(crate) const NEXTHOP_GRP_TYPE_RES: u16 = 1;

// include/uapi/linux/fib_rules.h
pub(crate) const FIB_RULE_INVERT: u32 = 2;
pub(crate) const FRA_DST: u16 = 1;
pub(crate) const FRA_SRC: u16 = 2;
pub(crate) const FRA_IIFNAME: u16 = 3;
pub(crate) const FRA_GOTO: u16 = 4;
pub(crate) const FRA_PRIORITY: u16 = 6;
pub(crate) const FRA_FWMARK: u16 = 10;
pub(crate) const FRA_FLOW: u16 = 11;
pub(crate) const FRA_SUPPRESS_IFGROUP: u16 = 13;
pub(crate) const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
pub(crate) const FRA_TABLE: u16 = 15;
pub(crate) const FRA_FWMASK: u16 = 16;
pub(crate) const FRA_OIFNAME: u16 = 17;
pub(crate) const FRA_PAD: u16 = 18;
pub(crate) const FRA_L3MDEV: u16 = 19;
pub(crate) const FRA_UID_RANGE: u16 = 20;
pub(crate) const FRA_PROTOCOL: u16 = 21;
pub(crate) const FRA_IP_PROTO: u16 = 22;
pub(crate) const FRA_SPORT_RANGE: u16 = 23;
pub(crate) const FRA_DPORT_RANGE: u16 = 24;
pub(crate) const FRA_DSCP: u16 = 25;
pub(crate) const FRA_SPORT_MASK: u16 = 28;
pub(crate) const FRA_DPORT_MASK: u16 = 29;
pub(crate) const FRA_DSCP_MASK: u16 = 30;
pub(crate) const FR_ACT_TO_TBL: u8 = 1;
pub(crate) const FR_ACT_GOTO: u8 = 2;
pub(crate) const FR_ACT_NOP: u8 = 3;
pub(crate) const FR_ACT_BLACKHOLE: u8 = 6;
pub(crate) const FR_ACT_UNREACHABLE: u8 = 7;
pub(crate) const FR_ACT_PROHIBIT: u8 = 8;

/// `AF_INET` as the `u8` of a message header.
pub(crate) const AF_INET: u8 = libc::AF_INET as u8;
/// `AF_INET6` as the `u8` of a message header.
pub(crate) const AF_INET6: u8 = libc::AF_INET6 as u8;

/// A family as the `u8` of a message header.
pub(crate) const fn family_byte(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

/// One netlink message: the header's fields that matter, and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Type (`RTM_…`, `NLMSG_…`).
    pub kind: u16,
    /// `NLM_F_…`.
    pub flags: u16,
    /// Sequence number, that of the request in an answer.
    pub sequence: u32,
    /// The family's header and the attributes.
    pub payload: &'a [u8],
}

/// The messages of one datagram. A broken length ends it with an error.
#[derive(Clone, Debug)]
pub struct Messages<'a>(&'a [u8]);

impl<'a> Messages<'a> {
    /// Reads a datagram.
    pub const fn new(datagram: &'a [u8]) -> Self {
        Messages(datagram)
    }
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let available = bytes.len();
        let Some(header) = bytes.first_chunk::<NLMSG_HEADER>() else {
            return Some(Err(DecodeError::MessageLength { length: NLMSG_HEADER, available }));
        };
        let length = u32_at(header, 0) as usize;
        let Some(payload) = bytes.get(NLMSG_HEADER..length) else {
            return Some(Err(DecodeError::MessageLength { length, available }));
        };
        self.0 = bytes.get(align(length)..).unwrap_or_default();
        Some(Ok(Message {
            kind: u16_at(header, 4),
            flags: u16_at(header, 6),
            sequence: u32_at(header, 8),
            payload,
        }))
    }
}

/// The attributes of a message or of a nest: type without its flag bits, and value. A broken
/// length ends it with an error.
#[derive(Clone, Debug)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// Reads a run of attributes.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Attributes(bytes)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), DecodeError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let bytes = std::mem::take(&mut self.0);
        if bytes.is_empty() {
            return None;
        }
        let available = bytes.len();
        let Some(header) = bytes.first_chunk::<NLA_HEADER>() else {
            return Some(Err(DecodeError::AttributeLength { length: NLA_HEADER, available }));
        };
        let length = u16_at(header, 0) as usize;
        let Some(value) = bytes.get(NLA_HEADER..length) else {
            return Some(Err(DecodeError::AttributeLength { length, available }));
        };
        self.0 = bytes.get(align(length)..).unwrap_or_default();
        Some(Ok((u16_at(header, 2) & NLA_TYPE_MASK, value)))
    }
}

/// `NLMSG_ALIGN`, `NLA_ALIGN` and `RTNH_ALIGN`: all to four bytes.
pub(crate) const fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// The native-endian `u16` at `offset` of a fixed header.
#[inline]
pub(crate) const fn u16_at<const N: usize>(header: &[u8; N], offset: usize) -> u16 {
    u16::from_ne_bytes([header[offset], header[offset + 1]])
}

/// The native-endian `u32` at `offset` of a fixed header.
#[inline]
pub(crate) const fn u32_at<const N: usize>(header: &[u8; N], offset: usize) -> u32 {
    u32::from_ne_bytes([header[offset], header[offset + 1], header[offset + 2], header[offset + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_that_lie_end_the_iteration() {
        for length in [0u32, 1, 15, 17, u32::MAX] {
            let mut bytes = [0u8; 16];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let found: Vec<_> = Messages::new(&bytes).collect();
            let length = length as usize;
            assert_eq!(found, [Err(DecodeError::MessageLength { length, available: 16 })]);
        }
        for length in [0u16, 3, 9, u16::MAX] {
            let mut bytes = [0u8; 8];
            bytes[..2].copy_from_slice(&length.to_ne_bytes());
            let found: Vec<_> = Attributes::new(&bytes).collect();
            let length = usize::from(length);
            assert_eq!(found, [Err(DecodeError::AttributeLength { length, available: 8 })]);
        }
    }

    #[test]
    fn the_last_item_needs_no_padding() {
        let bytes = [5, 0, 1, 0, 7, 0, 0, 0, 5, 0, 2, 0x80, 8];
        let found: Result<Vec<_>, _> = Attributes::new(&bytes).collect();
        assert_eq!(found.unwrap(), [(1, &[7u8][..]), (2, &[8u8][..])]);
    }
}
