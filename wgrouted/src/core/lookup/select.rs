//! Which packets a policy rule is for.
//!
//! Here live [`Flow`], the packet as rules see it, and the first thing about it that a rule does not
//! want ([`Mismatch`]), in the kernel's order: `fib_rule_match`, net/core/fib_rules.c, then
//! `fib4_rule_match` or `fib6_rule_match`.

use std::{fmt, net::IpAddr};

use serde::Serialize;

use super::{
    packet::Packet,
    picture::{Picture, is_vrf},
};
use crate::core::{
    exits::iprule::{Mark, Selector, Span},
    prefix::{Family, Prefix},
    route::{IfIndex, Link},
};

/// The bits of an IPv4 packet's TOS that rules and routes look at (`IPTOS_RT_MASK`).
pub(super) const TOS_BITS: u8 = 0x1c;
/// The name of the loopback device, by which this host's own packets come.
const LOOPBACK: &str = "lo";
/// Attributes that ask for something that an ordinary packet does not have: `FRA_TUN_ID`.
const OF_TUNNELS: u16 = 12;

/// A packet as rules see it (`l3mdev_update_flow`, net/l3mdev/l3mdev.c).
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// The packet.
    pub packet: Packet,
    /// Where it comes in.
    iif: &'a str,
    /// Where it shall go out. A VRF counts by its table, so it is no link any more.
    pub oif: Option<IfIndex>,
    /// Its VRF.
    pub vrf: Option<&'a Link>,
    /// The VRF is that of the link where it shall go out.
    vrf_by_oif: bool,
}

impl<'a> Flow<'a> {
    /// Of a packet.
    pub fn new(picture: &Picture<'a>, packet: Packet) -> Flow<'a> {
        let iif = packet.iif.and_then(|index| picture.link(index));
        let mut flow = Flow {
            packet,
            iif: iif.map_or(LOOPBACK, |link| &link.name),
            oif: packet.oif,
            vrf: None,
            vrf_by_oif: false,
        };
        if let Some(oif) = packet.oif.and_then(|index| picture.link(index)) {
            flow.vrf = picture.vrf_of(oif.index);
            flow.vrf_by_oif = flow.vrf.is_some();
            if is_vrf(oif) {
                flow.oif = None;
            }
        } else if let Some(iif) = iif.filter(|link| link.name != LOOPBACK) {
            flow.vrf = picture.vrf_of(iif.index);
        }
        flow
    }

    /// The source that rules and routes compare: IPv4 has none where none is given, which is 0.0.0.0.
    pub fn src(&self) -> IpAddr {
        let any = match self.packet.family() {
            Family::V4 => Prefix::DEFAULT_V4,
            Family::V6 => Prefix::DEFAULT_V6,
        };
        self.packet.src.unwrap_or(any.addr())
    }
}

/// What a rule wants of a packet that this one does not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "selector")]
#[allow(missing_docs, reason = "the fields say it")]
pub enum Mismatch {
    /// It comes from elsewhere.
    Iif { wants: String, has: String },
    /// Its socket is not bound so.
    Oif { wants: String, has: Option<String> },
    /// Another mark.
    Mark { wants: Mark, has: u32 },
    /// It belongs to no VRF.
    L3mdev,
    /// Another owner.
    Uid { wants: Span<u32>, has: u32 },
    /// Another source.
    From { wants: Prefix, has: Option<IpAddr> },
    /// Another destination.
    To { wants: Prefix },
    /// Another TOS or DSCP.
    Tos { wants: u8, has: u8 },
    /// Another DSCP.
    Dscp { wants: u8, has: u8 },
    /// Another protocol.
    Protocol { wants: u8, has: Option<u8> },
    /// Another source port.
    Sport { wants: Span<u16>, has: Option<u16> },
    /// Another destination port.
    Dport { wants: Span<u16>, has: Option<u16> },
    /// The rule also wants what we do not know; taken for something that no ordinary packet has.
    Unknown { attributes: Vec<u16> },
    /// The packet is what the rule excludes.
    Excluded,
}

/// Whether a rule is for a packet, and if not, why.
pub fn select(picture: &Picture<'_>, flow: &Flow<'_>, wants: &Selector) -> Result<(), Mismatch> {
    match (wants.inverted, compare(picture, flow, wants)) {
        (false, answer) => answer,
        (true, Ok(())) => Err(Mismatch::Excluded),
        (true, Err(_)) => Ok(()),
    }
}

fn compare(picture: &Picture<'_>, flow: &Flow<'_>, wants: &Selector) -> Result<(), Mismatch> {
    links(picture, flow, wants)?;
    let packet = &flow.packet;
    if let Some(mark) = wants.mark
        && !mark.holds(packet.mark)
    {
        return Err(Mismatch::Mark { wants: mark, has: packet.mark });
    }
    if wants.unknown.contains(&OF_TUNNELS) {
        return Err(Mismatch::Unknown { attributes: wants.unknown.clone() });
    }
    if wants.l3mdev && flow.vrf.is_none() {
        return Err(Mismatch::L3mdev);
    }
    if let Some(uids) = wants.uid
        && !uids.holds(packet.uid)
    {
        return Err(Mismatch::Uid { wants: uids, has: packet.uid });
    }
    if let Some(to) = wants.to
        && !to.contains(packet.dst)
    {
        return Err(Mismatch::To { wants: to });
    }
    if let Some(from) = wants.from
        && !from_holds(&from, flow)
    {
        return Err(Mismatch::From { wants: from, has: packet.src });
    }
    traffic_class(packet, wants)?;
    if wants.protocol != 0 && packet.protocol != Some(wants.protocol) {
        return Err(Mismatch::Protocol { wants: wants.protocol, has: packet.protocol });
    }
    let outside = |ports: &Span<u16>, has: Option<u16>| !has.is_some_and(|port| ports.holds(port));
    if let Some(ports) = wants.sport.filter(|ports| outside(ports, packet.sport)) {
        return Err(Mismatch::Sport { wants: ports, has: packet.sport });
    }
    if let Some(ports) = wants.dport.filter(|ports| outside(ports, packet.dport)) {
        return Err(Mismatch::Dport { wants: ports, has: packet.dport });
    }
    if !wants.unknown.is_empty() {
        return Err(Mismatch::Unknown { attributes: wants.unknown.clone() });
    }
    Ok(())
}

fn links(picture: &Picture<'_>, flow: &Flow<'_>, wants: &Selector) -> Result<(), Mismatch> {
    // A link that does not exist is none that a packet comes from.
    let vrf =
        |name: &str| picture.kernel.rules_know_vrfs && picture.named(name).is_some_and(is_vrf);
    let in_vrf = |name: &str| flow.vrf.is_some_and(|vrf| vrf.name == *name);
    if let Some(iif) = &wants.iif {
        let fits = match vrf(iif) {
            true => !flow.vrf_by_oif && in_vrf(iif),
            false => iif == flow.iif,
        };
        if !fits {
            return Err(Mismatch::Iif { wants: iif.clone(), has: flow.iif.to_owned() });
        }
    }
    if let Some(oif) = &wants.oif {
        let name = |index| picture.link(index).map(|link| link.name.as_str());
        let fits = match vrf(oif) {
            true => flow.vrf_by_oif && in_vrf(oif),
            false => flow.oif.and_then(name) == Some(oif),
        };
        if !fits {
            let has = flow.packet.oif.and_then(name).map(str::to_owned);
            return Err(Mismatch::Oif { wants: oif.clone(), has });
        }
    }
    Ok(())
}

/// In IPv6 a packet without a source is from nowhere, in IPv4 from 0.0.0.0.
fn from_holds(from: &Prefix, flow: &Flow<'_>) -> bool {
    match flow.packet.family() {
        Family::V4 => from.contains(flow.src()),
        Family::V6 => {
            from.prefix_len() == 0 || flow.packet.src.is_some_and(|src| from.contains(src))
        }
    }
}

fn traffic_class(packet: &Packet, wants: &Selector) -> Result<(), Mismatch> {
    let has = packet.tos;
    let seen = match packet.family() {
        Family::V4 => has & TOS_BITS,
        Family::V6 => has & !3,
    };
    if wants.tos != 0 && wants.tos != seen {
        return Err(Mismatch::Tos { wants: wants.tos, has });
    }
    match wants.dscp {
        Some(dscp) if dscp != has >> 2 => Err(Mismatch::Dscp { wants: dscp, has: has >> 2 }),
        _ => Ok(()),
    }
}

impl fmt::Display for Mismatch {
    /// What the rule wants, and what the packet has instead.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mismatch::Iif { wants, has } if has == LOOPBACK => {
                write!(f, "iif {wants}: the packet is this host's own")
            }
            Mismatch::Iif { wants, has } if wants == LOOPBACK => {
                write!(f, "iif lo: the packet comes from {has}")
            }
            Mismatch::Iif { wants, has } => write!(f, "iif {wants}: the packet comes from {has}"),
            Mismatch::Oif { wants, has: Some(has) } => {
                write!(f, "oif {wants}: the packet's socket is bound to {has}")
            }
            Mismatch::Oif { wants, has: None } => {
                write!(f, "oif {wants}: the packet's socket is bound to no link")
            }
            Mismatch::Mark { wants: Mark { value, mask }, has } => {
                write!(f, "mark {value:#x}")?;
                if *mask != u32::MAX {
                    write!(f, "/{mask:#x}")?;
                }
                match has {
                    0 => f.write_str(": the packet has none"),
                    has => write!(f, ": the packet has {has:#x}"),
                }
            }
            Mismatch::L3mdev => f.write_str("packets of VRFs: the packet belongs to none"),
            Mismatch::Uid { wants, has } => write!(f, "uid {wants}: the packet's is {has}"),
            Mismatch::From { wants, has: Some(has) } => {
                write!(f, "from {wants}: the packet is from {has}")
            }
            Mismatch::From { wants, has: None } => {
                write!(f, "from {wants}: the packet has no source yet")
            }
            Mismatch::To { wants } => write!(f, "to {wants}: the packet goes elsewhere"),
            Mismatch::Tos { wants, has } => write!(f, "tos {wants:#x}: the packet's is {has:#x}"),
            Mismatch::Dscp { wants, has } => write!(f, "dscp {wants}: the packet's is {has}"),
            Mismatch::Protocol { wants, has: Some(has) } => {
                write!(f, "protocol {wants}: the packet's is {has}")
            }
            Mismatch::Protocol { wants, has: None } => {
                write!(f, "protocol {wants}: the packet's is not given")
            }
            Mismatch::Sport { wants, has } => write!(f, "source port {wants}: {}", Port(*has)),
            Mismatch::Dport { wants, has } => write!(f, "port {wants}: {}", Port(*has)),
            Mismatch::Unknown { attributes } => {
                let numbers: Vec<String> = attributes.iter().map(u16::to_string).collect();
                let numbers = numbers.join(", ");
                write!(f, "it wants something that wgrouted does not know (attribute {numbers})")
            }
            Mismatch::Excluded => f.write_str("the packet is what it excludes"),
        }
    }
}

/// A packet's port.
struct Port(Option<u16>);

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(port) => write!(f, "the packet's is {port}"),
            None => f.write_str("the packet's is not given"),
        }
    }
}
