//! What can be wrong with exits and flows, and how it is said.

use crate::core::{prefix::Family, route::TableId};

/// What is wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExitProblem {
    /// A range of numbers is malformed, outside of what is possible, or too narrow.
    #[error("`{given}` is not a range of at least 16 numbers from {min} to {max}: write \"A-B\"")]
    Range {
        /// What was written.
        given: String,
        /// The lowest number.
        min: u32,
        /// The highest.
        max: u32,
    },
    /// Not a number or range.
    #[error(
        "`{given}` is not a number or a range of {what} up to {max}: write 1000 or \"1000-1999\""
    )]
    Span {
        /// What was written.
        given: String,
        /// Of what.
        what: &'static str,
        /// The highest number.
        max: u32,
    },
    /// The kernel's rules know no such port.
    #[error("{first}-{last} is no range of ports for a rule: the kernel takes 1 to 65534")]
    RulePort {
        /// The first.
        first: u32,
        /// The last.
        last: u32,
    },
    /// Not a mark.
    #[error(
        "`{0}` is not a mark: write a number, or a value and a mask that holds all its bits, \
         \"0x10/0xff\""
    )]
    Mark(String),
    /// The bits of congestion notification.
    #[error(
        "TOS {0:#x} has bits of explicit congestion notification (0x3), which the kernel refuses"
    )]
    Tos(u8),
    /// Not a protocol.
    #[error("`{0}` is not a protocol: write tcp, udp, icmp, icmpv6 or a number up to 255")]
    FlowProtocol(String),
    /// A link that no exit can use.
    #[error("{}", .link.sentence(.given))]
    ExitVia {
        /// What was written.
        given: String,
        /// Why not.
        link: ExitLink,
    },
    /// A name that means something else.
    #[error("`{0}` as a flow's exit means something else: choose another name")]
    ExitName(String),
    /// A table that the kernel or everybody uses.
    #[error(
        "table {0} is for everybody's routes: leave `table` out, or name one that is this exit's"
    )]
    ExitTable(TableId),
    /// Who fills a table must know which.
    #[error("a routing daemon that fills this exit's table must know its number: add `table`")]
    FeedTable,
    /// Ordered and weighted at once.
    #[error("some links have a weight and some have none: give all a weight, or none for an order")]
    ExitWeights,
    /// Two sources of one family.
    #[error("packets get one {0} source: name one address of each family")]
    ExitSources(Family),
    /// An exit that is not configured.
    #[error("there is no exit `{given}`: name one of {}, or add an [[exit]]", .known.join(", "))]
    FlowExit {
        /// What was written.
        given: String,
        /// What there is.
        known: Vec<String>,
    },
    /// No packet has addresses of two families.
    #[error("`from` and `to` are of different families: no packet is selected")]
    FlowFamilies,
    /// Ports of what has none.
    #[error("only TCP, UDP, DCCP and SCTP have ports: add protocol = \"tcp\", for example")]
    FlowPorts,
    /// Owners of packets from elsewhere.
    #[error(
        "packets that come from {0} have no owner on this host: leave `iif` out, or select by `from` \
         instead of `uid`"
    )]
    FlowUid(String),
    /// Two ways to say where from.
    #[error("`vrf` already says which interfaces packets come from: leave `iif` out")]
    FlowVrf,
    /// Two ways to say the same.
    #[error("`dscp` already says what `tos` would: leave one of them out")]
    FlowTos,
    /// The kernel has no such selector.
    #[error(
        "the kernel's rules cannot select by realm, which is known only once a route was found: let \
         whoever sets the realm put these routes into a table of their own, and name that table in an \
         [[exit]] with `feed = true`, or select by `to`"
    )]
    FlowRealm,
    /// IPv6 through IPv4-only tunnels.
    #[error("exit {0} has ipip tunnels only, which carry no IPv6: use gre or ip6gre")]
    FlowIpip(String),
}

/// Why a link cannot be an exit's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitLink {
    /// Several peers behind one device.
    Shared(String),
    /// A peer on such a device.
    SharedPeer {
        /// The peer.
        peer: String,
        /// The device.
        over: String,
    },
    /// A device of which it is not said that it has one peer.
    Auto(String),
    /// A peer with several links.
    Several {
        /// The peer.
        peer: String,
        /// Its links.
        links: Vec<String>,
    },
    /// Nothing by that name.
    Unknown {
        /// What there is.
        known: Vec<String>,
    },
}

impl ExitLink {
    fn sentence(&self, given: &str) -> String {
        match self {
            ExitLink::Shared(link) => format!(
                "{link} is a shared interface, where WireGuard picks the peer by the destination alone, \
                 whatever the flow: give the exit an interface of its own (link = \"dedicated\"), or a \
                 [[tunnel]] over {link}"
            ),
            ExitLink::SharedPeer { peer, over } => format!(
                "{peer} is a peer of the shared interface {over}, where WireGuard picks the peer by the \
                 destination alone, whatever the flow: give {peer} an interface of its own (link = \
                 \"dedicated\"), or a [[tunnel]] over {over}"
            ),
            ExitLink::Auto(link) => format!(
                "nothing says that {link} has one peer only: add link = \"dedicated\" to it, or lead \
                 a [[tunnel]] over it"
            ),
            ExitLink::Several { peer, links } => format!(
                "{peer} has several links: name the one that is meant, {}",
                links.join(" or ")
            ),
            ExitLink::Unknown { known } => format!(
                "there is no link or peer `{given}`: name a dedicated [[interface]], a [[tunnel]], or a \
                 peer that has one; links are {}",
                known.join(", ")
            ),
        }
    }
}
