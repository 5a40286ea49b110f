//! `RTM_NEWRULE`: policy rules.
//!
//! Here lives the decoding of one rule (include/uapi/linux/fib_rules.h), nothing else. The crate's
//! types drop attributes that they do not know; a rule of which a part is unknown must not be taken
//! for a simpler one.

use super::{DecodeError, Message, Reader, family, split};
use crate::{
    core::{
        exits::iprule::{Action, IpRule, Mark, Selector, Span},
        prefix::Prefix,
    },
    source::rtnetlink::wire::{self, u32_at},
};

/// The default mask of a mark.
const ALL_BITS: u32 = u32::MAX;

/// The rule in an `RTM_NEWRULE`; `None` if it is of a family that we do not follow.
pub fn iprule(message: &Message<'_>) -> Result<Option<IpRule>, DecodeError> {
    // struct fib_rule_hdr: family, dst_len, src_len, tos, table, two reserved, action, flags
    let (header, attributes) = split::<12>(message)?;
    let Some(family) = family(header[0]) else { return Ok(None) };
    let read = Reader { kind: message.kind };
    let mut selector = Selector { tos: header[3], ..Selector::default() };
    selector.inverted = u32_at(header, 8) & wire::FIB_RULE_INVERT != 0;
    let (mut priority, mut protocol, mut table) = (0, 0, u32::from(header[4]));
    let (mut goto, mut mark, mut mask) = (0, None, None);
    let (mut suppress_prefixlength, mut suppress_group) = (None, None);
    let prefix = |kind: u16, value: &[u8], length: u8| {
        let address = read.address(kind, family, value)?;
        Prefix::new(address, length).ok_or(read.malformed(kind))
    };
    for attribute in attributes {
        let (kind, value) = attribute?;
        match kind {
            wire::FRA_DST => selector.to = Some(prefix(kind, value, header[1])?),
            wire::FRA_SRC => selector.from = Some(prefix(kind, value, header[2])?),
            wire::FRA_IIFNAME => selector.iif = Some(name(value)),
            wire::FRA_OIFNAME => selector.oif = Some(name(value)),
            wire::FRA_GOTO => goto = read.u32(kind, value)?,
            wire::FRA_PRIORITY => priority = read.u32(kind, value)?,
            wire::FRA_FWMARK => mark = Some(read.u32(kind, value)?),
            wire::FRA_FWMASK => mask = Some(read.u32(kind, value)?),
            wire::FRA_SUPPRESS_IFGROUP => {
                suppress_group = Some(read.u32(kind, value)?).filter(|group| *group != u32::MAX);
            }
            wire::FRA_SUPPRESS_PREFIXLEN => {
                let length = read.u32(kind, value)?;
                suppress_prefixlength = Some(length).filter(|length| *length != u32::MAX);
            }
            wire::FRA_TABLE => table = read.u32(kind, value)?,
            wire::FRA_L3MDEV => selector.l3mdev = octet(read, kind, value)? != 0,
            wire::FRA_UID_RANGE => {
                let range: &[u8; 8] = value.try_into().map_err(|_| read.malformed(kind))?;
                selector.uid = Some(Span { first: u32_at(range, 0), last: u32_at(range, 4) });
            }
            wire::FRA_PROTOCOL => protocol = octet(read, kind, value)?,
            wire::FRA_IP_PROTO => selector.protocol = octet(read, kind, value)?,
            wire::FRA_SPORT_RANGE => selector.sport = Some(ports(read, kind, value)?),
            wire::FRA_DPORT_RANGE => selector.dport = Some(ports(read, kind, value)?),
            wire::FRA_DSCP => selector.dscp = Some(octet(read, kind, value)?),
            // Told since Linux 6.15 of whatever is compared in full, which is what we take it for.
            wire::FRA_SPORT_MASK | wire::FRA_DPORT_MASK if value == [0xff; 2] => {}
            wire::FRA_DSCP_MASK if value == [0x3f] => {}
            // A realm is given to packets, not asked of them; the other is padding.
            wire::FRA_FLOW | wire::FRA_PAD => {}
            other => selector.unknown.push(other),
        }
    }
    if mark.is_some() || mask.is_some() {
        let mask = mask.unwrap_or(ALL_BITS);
        selector.mark = Some(Mark { value: mark.unwrap_or(0), mask }).filter(|mark| mark.mask != 0);
    }
    let action = match header[7] {
        wire::FR_ACT_TO_TBL => Action::Table { table, suppress_prefixlength, suppress_group },
        wire::FR_ACT_GOTO => Action::Goto(goto),
        wire::FR_ACT_NOP => Action::Nop,
        wire::FR_ACT_BLACKHOLE => Action::Blackhole,
        wire::FR_ACT_UNREACHABLE => Action::Unreachable,
        wire::FR_ACT_PROHIBIT => Action::Prohibit,
        other => Action::Other(other),
    };
    Ok(Some(IpRule { family, priority, selector, action, protocol }))
}

fn octet(read: Reader, kind: u16, value: &[u8]) -> Result<u8, DecodeError> {
    match value {
        [octet] => Ok(*octet),
        _ => Err(read.malformed(kind)),
    }
}

/// struct fib_rule_port_range
fn ports(read: Reader, kind: u16, value: &[u8]) -> Result<Span<u16>, DecodeError> {
    let [a, b, c, d] = *value else { return Err(read.malformed(kind)) };
    Ok(Span { first: u16::from_ne_bytes([a, b]), last: u16::from_ne_bytes([c, d]) })
}

fn name(value: &[u8]) -> String {
    let text = value.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}
