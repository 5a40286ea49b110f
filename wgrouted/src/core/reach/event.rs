//! What the machine of reachability is told and what it asks for.
//!
//! Here live the messages between `core::reach` and the edge in `crate::reach`. Plain data.

use std::net::IpAddr;

use super::{
    roster::Roster,
    rule::{ProbeKind, ReachRule},
    status::Change,
};
use crate::core::{peer::PublicKey, route::IfIndex, time::Time};

/// A peer's number on an interface. Never reused while the daemon runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectId(pub u32);

/// One probe: who is asked, by which address, for which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProbeId {
    /// The peer.
    pub subject: SubjectId,
    /// Which of its addresses.
    pub address: u8,
    /// Grows by one with each probe of the address.
    pub sequence: u64,
}

/// Where a probe goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The link that it is bound to.
    pub ifindex: IfIndex,
    /// The address.
    pub address: IpAddr,
    /// How it is asked. Never [`ProbeKind::Off`].
    pub kind: ProbeKind,
}

/// Everything that can happen to reachability.
#[derive(Clone, Debug, PartialEq)]
pub enum ReachEvent {
    /// The operator wants it like this; interfaces that are not named are not asked about any more.
    Configure {
        /// What concerns all.
        rule: ReachRule,
        /// The interfaces that are followed.
        interfaces: Vec<String>,
    },
    /// An interface was looked at.
    Roster(Roster),
    /// A probe was answered.
    Answered {
        /// Which.
        probe: ProbeId,
        /// When it was sent.
        sent: Time,
        /// When the kernel received the answer.
        received: Time,
    },
    /// A probe could not be sent.
    Unsent {
        /// Which.
        probe: ProbeId,
        /// Error number.
        errno: i32,
    },
    /// The filter program saw a packet of a peer.
    Packets {
        /// The interface.
        interface: String,
        /// The peer.
        public_key: PublicKey,
        /// When.
        at: Time,
    },
    /// babeld says how well it hears its neighbour on a dedicated interface.
    Babel {
        /// The interface.
        interface: String,
        /// Whether it hears it: `None` if it no longer says so.
        heard: Option<bool>,
        /// When it said so.
        at: Time,
    },
}

/// What comes out of the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum ReachOutput {
    /// Work for the edge.
    Request(ReachRequest),
    /// News for everybody.
    Change(Change),
}

/// What reachability wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReachRequest {
    /// Send a probe now. Answered by [`ReachEvent::Answered`], [`ReachEvent::Unsent`] or nothing.
    Probe {
        /// Which.
        probe: ProbeId,
        /// Where to.
        target: Target,
    },
    /// Be ready to answer echo requests on these links, and on no others.
    Answer {
        /// The links.
        links: Vec<IfIndex>,
        /// The UDP port.
        port: u16,
    },
}
