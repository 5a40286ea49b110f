//! What becomes of a packet, hop by hop: `wgrouted explain`.
//!
//! Here live the way from what the operator asks to what is answered ([`explain`]): the walk through
//! rules and tables, what the kernel says to it, the peer at the end ([`onward`]) and whether replies
//! come back in. What is printed is `print`'s business. Nothing is changed.

pub mod network;
pub mod onward;
pub mod print;
pub mod question;
pub mod view;

use std::net::IpAddr;

use self::{
    network::Network,
    onward::{Devices, Onward},
    question::{Question, QuestionError},
    view::{Answer, PacketView, Said},
};
use crate::{
    cli,
    core::{
        exits::iprule::IpRule,
        lookup::{kernel::Lookup, walk::Decision},
        report::{Explanation, PeerRow},
        route::{Hop, NexthopId},
    },
    serve::filter::{TestAnswer, TestQuery},
    source::rtnetlink,
};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// The question is wrong.
    #[error(transparent)]
    Question(#[from] QuestionError),
    /// The network cannot be read.
    #[error(transparent)]
    Network(#[from] rtnetlink::Error),
}

/// Who knows what the kernel does not: a running daemon, or an engine that has read everything once.
pub trait Informant {
    /// The peers of all interfaces.
    fn peers(&mut self) -> Vec<PeerRow>;
    /// What the packet filter says about a packet; `None` if none is in force there.
    fn judge(&mut self, query: TestQuery) -> Option<TestAnswer>;
}

/// The names that rules and nexthop objects have beyond the kernel's.
#[derive(Clone, Copy)]
pub struct Labels<'a> {
    /// Of a rule, such as "flow `mail`".
    pub rule: &'a dyn Fn(&IpRule) -> Option<String>,
    /// Of a nexthop object, such as "exit `berlin`".
    pub nexthop: &'a dyn Fn(NexthopId) -> Option<String>,
}

impl Labels<'_> {
    /// None has a name.
    pub const NONE: Labels<'static> = Labels { rule: &|_| None, nexthop: &|_| None };
}

/// What becomes of the packet that is asked about.
pub fn explain(
    args: &cli::Explain,
    informant: &mut dyn Informant,
    labels: Labels<'_>,
    explanations: Vec<Explanation>,
) -> Result<Answer, ExplainError> {
    let mut network = Network::read(args.address)?;
    let Question { packet, mut notes, askable } = Question::new(args, &network)?;
    let devices = Devices::read();
    if let Some(note) = devices.stranger(&packet) {
        notes.push(note);
    }
    let walk = network.walk(packet)?;
    notes.extend(network.doubts(&walk));
    let kernel = match network.ask(&packet) {
        Ok(lookup) if askable => Said::Answer { agrees: lookup.agrees(&walk), lookup },
        Ok(_) => Said::NotAsked,
        Err(error) => Said::Failed { error: error.to_string() },
    };
    let (hop, is_way) = match &kernel {
        Said::Answer { lookup, .. } => {
            (lookup.hop().filter(|_| is_elsewhere(lookup)), lookup.is_way())
        }
        Said::NotAsked | Said::Failed { .. } => match &walk.decision {
            Decision::Route { best, .. } => (best.hops.first().map(|one| one.hop), true),
            Decision::OnLink { oif } => {
                let hop = Hop { oif: *oif, gateway: None, weight: 1, realm: 0, dead: false };
                (Some(hop), true)
            }
            Decision::Rejected { .. } | Decision::NoRoute => (None, false),
        },
    };
    let source = packet.src.or_else(|| match &kernel {
        Said::Answer { lookup, .. } => lookup.source(),
        _ => None,
    });
    let onward = hop
        .map(|hop| Onward::of(&mut network, &devices, hop, &packet, source, informant, &mut notes));
    let only = args.is_about_a_packet() && args.interface.is_none();
    let device = onward.as_ref().and_then(|onward| onward.device());
    let mut interfaces = explanations;
    interfaces.retain(|one| !only || Some(one.interface.as_str()) == device);
    let names = walk.steps.iter().map(|step| (labels.rule)(&step.rule)).collect();
    let nexthop = match &walk.decision {
        Decision::Route { best, .. } if best.route.path.nexthop != 0 => {
            (labels.nexthop)(best.route.path.nexthop)
        }
        _ => None,
    };
    Ok(Answer {
        packet: PacketView::new(&packet, &network),
        walk,
        rule_names: names,
        nexthop_name: nexthop,
        links: network.names(),
        kernel,
        onward,
        notes,
        interfaces,
        is_way,
    })
}

/// Whether the packet leaves this host: what is for the host itself leaves by `lo`.
fn is_elsewhere(lookup: &Lookup) -> bool {
    match lookup {
        Lookup::Route { route, .. } => route.path.kind == crate::core::route::RouteKind::Unicast,
        _ => true,
    }
}

/// The family of an address, as people say it.
pub(crate) const fn family_name(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
