//! What the operator asks, as a packet.

use std::net::IpAddr;

use ebpf_xdp::parse::protocol;

use super::{family_name, network::Network};
use crate::{
    cli::Explain,
    config::filter::{has_ports, protocol_name},
    core::{
        lookup::packet::Packet,
        route::{IfIndex, LinkKind},
    },
    source::rtnetlink::can_ask,
};

/// Why there is no such packet.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// Addresses of different families.
    #[error("{from} and {to} are not of one family: give two IPv4 or two IPv6 addresses")]
    Families {
        /// Source.
        from: IpAddr,
        /// Destination.
        to: IpAddr,
    },
    /// No such link.
    #[error("there is no link {name}: name one of {}", links.join(", "))]
    NoLink {
        /// What was named.
        name: String,
        /// Those that there are.
        links: Vec<String>,
    },
    /// A forwarded packet from nowhere.
    #[error("a packet that comes in by {0} has a source: add --from")]
    NoSource(String),
    /// A forwarded packet with an owner, or bound to a link.
    #[error("{0} is about this host's own packets, which come in by no link: leave --iif out")]
    NotOurs(&'static str),
    /// A protocol without ports.
    #[error("{0}: leave --sport and --dport out, or name tcp, udp, sctp, udplite or dccp")]
    Ports(String),
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// The packet.
    pub packet: Packet,
    /// What was taken for granted.
    pub notes: Vec<String>,
    /// Whether the kernel's answer is about this very packet.
    pub askable: bool,
}

impl Question {
    /// Of the arguments.
    pub fn new(args: &Explain, network: &Network) -> Result<Question, QuestionError> {
        let (to, mut notes) = (args.address, Vec::new());
        if let Some(from) = args.from
            && from.is_ipv4() != to.is_ipv4()
        {
            return Err(QuestionError::Families { from, to });
        }
        let mut packet = Packet { src: args.from, ..Packet::to(to) };
        packet.oif = args.oif.as_deref().map(|name| index(name, network)).transpose()?;
        // What comes by `lo` is this host's own.
        if let Some(iif) = args.iif.as_deref().filter(|name| *name != "lo") {
            packet.iif = Some(incoming(iif, args, network, &mut notes)?);
        }
        packet.mark = args.mark.unwrap_or(0);
        packet.uid = args.uid.unwrap_or(0);
        packet.tos = args.tos.unwrap_or(0);
        (packet.sport, packet.dport) = (args.sport, args.dport);
        packet.protocol = args.proto;
        if packet.sport.or(packet.dport).is_some()
            && let Some(number) = args.proto.filter(|number| !has_ports(*number))
        {
            let name = protocol_name(number).map_or_else(|| number.to_string(), str::to_owned);
            return Err(QuestionError::Ports(format!("protocol {name} has no ports")));
        }
        let rules = network.rules.iter().map(|rule| &rule.selector);
        let by_protocol = rules
            .clone()
            .any(|wants| wants.protocol != 0 || wants.sport.is_some() || wants.dport.is_some());
        if by_protocol && packet.protocol.is_none() {
            packet.protocol = Some(protocol::UDP);
            notes.push("no --proto given: taken for udp, as `ip route get` does".to_owned());
        }
        if packet.src.is_none() && rules.clone().any(|wants| wants.from.is_some()) {
            notes.push(
                "no --from given: rules are tried before the source is chosen; a connected socket's \
                 are tried again with it"
                    .to_owned(),
            );
        }
        let askable = !by_protocol || packet.protocol.is_none_or(can_ask);
        if !askable {
            notes.push(format!(
                "the kernel cannot be asked about this protocol in {}, only about tcp, udp and icmp",
                family_name(to)
            ));
        }
        Ok(Question { packet, notes, askable })
    }
}

fn index(name: &str, network: &Network) -> Result<IfIndex, QuestionError> {
    let found = network.links.iter().find(|link| link.name == name);
    found.map(|link| link.index).ok_or_else(|| QuestionError::NoLink {
        name: name.to_owned(),
        links: network.links.iter().map(|link| link.name.clone()).collect(),
    })
}

fn incoming(
    name: &str,
    args: &Explain,
    network: &Network,
    notes: &mut Vec<String>,
) -> Result<IfIndex, QuestionError> {
    for (given, option) in [(args.uid.is_some(), "--uid"), (args.oif.is_some(), "--oif")] {
        if given {
            return Err(QuestionError::NotOurs(option));
        }
    }
    let index = index(name, network)?;
    if args.from.is_none() {
        return Err(QuestionError::NoSource(name.to_owned()));
    }
    match network.vrf_of(index) {
        // `vrf_ip_rcv`, drivers/net/vrf.c: before they are routed they change their link.
        Some(vrf) if vrf.index != index && matches!(vrf.kind, LinkKind::Vrf { .. }) => {
            notes.push(format!(
                "packets from {name} are routed as coming from its VRF {}",
                vrf.name
            ));
            Ok(vrf.index)
        }
        _ => Ok(index),
    }
}
