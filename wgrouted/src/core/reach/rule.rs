//! What the operator configured about reachability, as plain data.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::core::{prefix::Prefix, route::TableId, rule::OnExit};

/// What concerns reachability as a whole (`[reach]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReachRule {
    /// UDP port on which echo requests are answered, and to which they are sent.
    pub port: u16,
    /// BIRD's control socket.
    pub bird: Option<PathBuf>,
    /// babeld's control socket.
    pub babeld: Option<BabeldSocket>,
    /// Whom to tell of changes.
    pub hooks: Vec<HookRule>,
}

/// Where babeld listens (`local-path` or `local-port`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BabeldSocket {
    /// A Unix socket.
    Path(PathBuf),
    /// A port of `::1`.
    Port(u16),
}

/// Whom to tell of changes (`[[reach.hook]]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookRule {
    /// What to do.
    pub action: HookAction,
    /// At most once per peer and this time; what changed meanwhile is told as one change.
    pub interval: Duration,
    /// How long a command or a request may take.
    pub timeout: Duration,
}

/// What a hook does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookAction {
    /// Runs a program, without a shell; the change is in its environment and, as JSON, on its
    /// standard input.
    Command(Vec<String>),
    /// Sends the change as JSON in a POST request.
    Webhook(String),
}

/// How a probe is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// ICMP echo requests, which every peer answers.
    #[default]
    Icmp,
    /// UDP echo requests, which another wgrouted answers.
    Udp,
    /// None: only what is seen anyway counts.
    Off,
}

/// How the peers of a link are watched and announced (`[interface.reach]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkReach {
    /// How a probe is sent.
    pub probe: ProbeKind,
    /// Time between two probes of one address.
    pub interval: Duration,
    /// A peer is down when this many probes in a row are unanswered, and nothing else was heard.
    pub lost: u32,
    /// A peer that was down is up again when this many probes in a row are answered.
    pub answered: u32,
    /// A peer that came up and fell is held down for this long; doubled while it flaps.
    pub hold_down: Duration,
    /// Host routes for peers that are up.
    pub announce: Option<AnnounceRule>,
    /// The link of a dedicated peer that is down becomes `dormant`.
    pub dormant: bool,
    /// babeld gets and loses the interface with the peer.
    pub babeld: Option<BabeldRule>,
    /// What happens to all of this when the daemon stops; the interface's own.
    pub on_exit: OnExit,
}

/// Kernel routes for peers that are up (`[interface.reach.announce]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnnounceRule {
    /// Where to.
    pub table: TableId,
    /// Whose they are.
    pub protocol: u8,
    /// Metric; the base, where it follows the round-trip time.
    pub metric: u32,
    /// The metric grows with the round-trip time, by one a millisecond.
    pub metric_from_rtt: bool,
    /// The peer's own tunnel addresses too, not only its `announce` prefixes.
    pub hosts: bool,
}

/// What babeld is told of a link (`[interface.reach.babeld]`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BabeldRule {
    /// The interface's own options, as babeld's configuration has them: `type tunnel`, …
    pub options: String,
    /// `rxcost` grows with the round-trip time from this base, by one a millisecond.
    pub rxcost: Option<u32>,
}

/// How one peer is watched and announced (`[interface.peer.reach]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReach {
    /// What to probe; empty: the peer's own tunnel addresses, the first of each family, or all nodes
    /// on the link (ff02::1) where a dedicated link has none.
    pub addresses: Vec<IpAddr>,
    /// Prefixes to announce while it is up.
    pub announce: Vec<Prefix>,
    /// Protocols of BIRD that are enabled while it is up.
    pub bird: Vec<String>,
}
