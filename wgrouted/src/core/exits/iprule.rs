//! A policy rule of the kernel's, as `ip rule` shows it.
//!
//! Here live the data only; which rules there should be is `want`'s business. Source: struct
//! `fib_rule_hdr` and the `FRA_` attributes, include/uapi/linux/fib_rules.h; what matches is
//! `fib_rule_match`, net/core/fib_rules.c, and `fib4_rule_match`, `fib6_rule_match`.

use std::fmt;

use serde::Serialize;

use crate::core::{
    prefix::{Family, Prefix},
    route::TableId,
};

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct IpRule {
    /// Which packets' addresses it is for.
    pub family: Family,
    /// Lower ones come first (`FRA_PRIORITY`).
    pub priority: u32,
    /// Which packets.
    pub selector: Selector,
    /// What becomes of them.
    pub action: Action,
    /// Who installed it (`FRA_PROTOCOL`), as with routes.
    pub protocol: u8,
}

/// Which packets a rule is for: those to which everything applies that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Selector {
    /// Source (`FRA_SRC`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<Prefix>,
    /// Destination (`FRA_DST`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<Prefix>,
    /// The interface that they come from, `lo` for the host's own (`FRA_IIFNAME`). An interface inside
    /// a VRF counts as the VRF too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iif: Option<String>,
    /// The interface that a socket is bound to, or its VRF (`FRA_OIFNAME`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oif: Option<String>,
    /// The mark (`FRA_FWMARK`, `FRA_FWMASK`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Mark>,
    /// The owner of the socket (`FRA_UID_RANGE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<Span<u32>>,
    /// The TOS or traffic class octet; zero for any. Of IPv4's, kernels before 6.13 compare the bits
    /// `0x1c` of the packet only (`IPTOS_RT_MASK`).
    #[serde(skip_serializing_if = "is_zero")]
    pub tos: u8,
    /// The DSCP, whole (`FRA_DSCP`, Linux 6.13).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// The protocol in the packet (`FRA_IP_PROTO`); zero for any.
    #[serde(skip_serializing_if = "is_zero")]
    pub protocol: u8,
    /// Source port (`FRA_SPORT_RANGE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sport: Option<Span<u16>>,
    /// Destination port (`FRA_DPORT_RANGE`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dport: Option<Span<u16>>,
    /// Packets of VRFs, whose own table is looked up (`FRA_L3MDEV`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub l3mdev: bool,
    /// The rule is for all other packets (`FIB_RULE_INVERT`).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inverted: bool,
    /// There are attributes that we do not know: what is written here is not all. By number.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<u16>,
}

fn is_zero(value: &u8) -> bool {
    *value == 0
}

/// A mark and the bits of it that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Mark {
    /// The bits.
    pub value: u32,
    /// Those that count.
    pub mask: u32,
}

impl Mark {
    /// Whether a packet's mark is meant.
    pub const fn holds(self, mark: u32) -> bool {
        (mark ^ self.value) & self.mask == 0
    }
}

/// A range, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Span<T> {
    /// The first.
    pub first: T,
    /// The last.
    pub last: T,
}

impl<T: PartialOrd + Copy> Span<T> {
    /// Whether a value is in it.
    pub fn holds(&self, value: T) -> bool {
        self.first <= value && value <= self.last
    }
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A table is looked up (`FR_ACT_TO_TBL`); without a route there, the next rule counts.
    Table {
        /// The table. Zero with `l3mdev`.
        table: TableId,
        /// Routes with at most this prefix length do not count (`FRA_SUPPRESS_PREFIXLEN`).
        #[serde(skip_serializing_if = "Option::is_none")]
        suppress_prefixlength: Option<u32>,
        /// Nor do those through an interface of this group (`FRA_SUPPRESS_IFGROUP`).
        #[serde(skip_serializing_if = "Option::is_none")]
        suppress_group: Option<u32>,
    },
    /// On with the first rule of this priority, if there is one (`FR_ACT_GOTO`).
    Goto(u32),
    /// On with the next rule (`FR_ACT_NOP`).
    Nop,
    /// Dropped silently.
    Blackhole,
    /// Rejected: network unreachable.
    Unreachable,
    /// Rejected: prohibited.
    Prohibit,
    /// Something that we do not know, by number.
    Other(u8),
}

impl<T: PartialEq + fmt::Display> fmt::Display for Span<T> {
    /// One number, or two.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span { first, last } = self;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl Action {
    /// A plain lookup.
    pub const fn table(table: TableId) -> Action {
        Action::Table { table, suppress_prefixlength: None, suppress_group: None }
    }
}

impl fmt::Display for IpRule {
    /// As `ip rule` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "priority {} {} {}", self.priority, self.selector, self.action)?;
        if self.protocol != 0 {
            write!(f, " protocol {}", self.protocol)?;
        }
        Ok(())
    }
}

impl fmt::Display for Selector {
    /// As `ip rule` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.inverted {
            f.write_str("not ")?;
        }
        match &self.from {
            Some(from) => write!(f, "from {from}")?,
            None => f.write_str("from all")?,
        }
        if let Some(to) = &self.to {
            write!(f, " to {to}")?;
        }
        if self.tos != 0 {
            write!(f, " tos {:#x}", self.tos)?;
        }
        if let Some(dscp) = self.dscp {
            write!(f, " dscp {dscp}")?;
        }
        if let Some(Mark { value, mask }) = self.mark {
            match mask {
                u32::MAX => write!(f, " fwmark {value:#x}")?,
                mask => write!(f, " fwmark {value:#x}/{mask:#x}")?,
            }
        }
        if let Some(iif) = &self.iif {
            write!(f, " iif {iif}")?;
        }
        if let Some(oif) = &self.oif {
            write!(f, " oif {oif}")?;
        }
        if self.l3mdev {
            f.write_str(" l3mdev")?;
        }
        if let Some(Span { first, last }) = self.uid {
            write!(f, " uidrange {first}-{last}")?;
        }
        if self.protocol != 0 {
            write!(f, " ipproto {}", self.protocol)?;
        }
        for (word, ports) in [("sport", self.sport), ("dport", self.dport)] {
            if let Some(ports) = ports {
                write!(f, " {word} {ports}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    /// As `ip rule` takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Table { table: 0, .. } => Ok(()),
            Action::Table { table, suppress_prefixlength, suppress_group } => {
                write!(f, "lookup {table}")?;
                if let Some(length) = suppress_prefixlength {
                    write!(f, " suppress_prefixlength {length}")?;
                }
                if let Some(group) = suppress_group {
                    write!(f, " suppress_ifgroup {group}")?;
                }
                Ok(())
            }
            Action::Goto(priority) => write!(f, "goto {priority}"),
            Action::Nop => f.write_str("nop"),
            Action::Blackhole => f.write_str("blackhole"),
            Action::Unreachable => f.write_str("unreachable"),
            Action::Prohibit => f.write_str("prohibit"),
            Action::Other(number) => write!(f, "action {number}"),
        }
    }
}
