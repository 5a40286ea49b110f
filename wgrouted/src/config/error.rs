//! What can be wrong with a configuration, and how it is said.
//!
//! Here live the error types and their wording; where an error is found is the business of the
//! other files. Invariants: a [`ConfigErrors`] is never empty and is in file order; every error
//! is one line that names the thing and the remedy.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, Serializer};

use super::{exits::ExitProblem, filter::RuleError, names::NameKind};
use crate::core::{
    links::{
        address::ParseAddressError,
        rule::{ParseEndpointError, TunnelKind},
    },
    peer::ParseKeyError,
    prefix::ParsePrefixError,
    route::TableId,
};

/// Everything that is wrong with a configuration.
#[derive(Debug, Serialize)]
pub struct ConfigErrors {
    /// The file.
    #[serde(serialize_with = "path_as_text")]
    pub file: PathBuf,
    /// The errors, in file order; at least one.
    pub errors: Vec<ConfigError>,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub struct ConfigError {
    /// Where; `None` if the file could not be read at all.
    #[serde(flatten)]
    pub position: Option<Position>,
    /// The key, with the names of the tables that hold it (`interface.peer.public_key`). Empty if
    /// the text is not TOML.
    pub key: String,
    /// What is wrong and what to do about it.
    #[serde(rename = "message", serialize_with = "as_text")]
    pub problem: Problem,
}

fn path_as_text<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

fn as_text<S: Serializer>(problem: &Problem, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(problem)
}

/// A place in a text, as editors count: lines and characters from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Position {
    /// Line.
    pub line: usize,
    /// Character in the line.
    pub column: usize,
}

impl Position {
    /// The position of a byte offset; an offset past the end or inside a character counts as the
    /// nearest place before it.
    pub(super) fn of(text: &str, offset: usize) -> Self {
        let boundary = (0..=offset.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
        let before = &text[..boundary.unwrap_or_default()];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Position {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
        }
    }
}

impl ConfigErrors {
    /// A file that could not be read.
    pub(super) fn unreadable(file: &Path, source: io::Error) -> Self {
        let error =
            ConfigError { position: None, key: String::new(), problem: Problem::Read(source) };
        ConfigErrors { file: file.to_owned(), errors: vec![error] }
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some(Position { line, column }) = error.position {
                write!(f, "{line}:{column}:")?;
            }
            if !error.key.is_empty() {
                write!(f, " {}:", Visible(&error.key))?;
            }
            write!(f, " {}", Visible(&error.problem))?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Text that quotes the operator's: line breaks and terminal escapes in it are spelt out.
struct Visible<'a, T>(&'a T);

impl<T: fmt::Display> fmt::Display for Visible<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.to_string().chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                write!(f, "{c}")?;
            }
        }
        Ok(())
    }
}

/// What is wrong and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The file cannot be read.
    #[error(
        "cannot be read: {0}; name another file with --config, or run without one: \
         wgrouted run --interface wg0"
    )]
    Read(io::Error),
    /// What is said about exits and flows.
    #[error(transparent)]
    Exit(#[from] ExitProblem),
    /// The file is not text.
    #[error("not UTF-8: save the file as UTF-8 text")]
    Encoding,
    /// The text is not TOML.
    #[error("not valid TOML: {0}")]
    Syntax(String),
    /// There is nothing to do.
    #[error(
        "no interface is configured: add [[interface]] with its name, or run without a file: \
         wgrouted run --interface wg0"
    )]
    NoInterface,
    /// A key that means nothing here.
    #[error("unknown key; the keys here are {}", .known.join(", "))]
    UnknownKey {
        /// The keys that mean something.
        known: Vec<&'static str>,
    },
    /// A required key is absent.
    #[error("missing: add {example}")]
    Missing {
        /// A line that would do.
        example: &'static str,
    },
    /// A value of the wrong TOML type.
    #[error("{found} where {expected} is expected")]
    Type {
        /// What it should be, with an example.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A list that says nothing.
    #[error("an empty list: {remedy}")]
    EmptyList {
        /// What to write instead.
        remedy: &'static str,
    },
    /// A word outside a fixed choice.
    #[error("`{given}` is not a choice: write {}", quoted(.choices))]
    Choice {
        /// What was written.
        given: String,
        /// What could be written.
        choices: Vec<&'static str>,
    },
    /// A number outside its range.
    #[error("{given} is out of range: choose {min} to {max}")]
    NumberRange {
        /// What was written.
        given: String,
        /// The least that is accepted.
        min: u32,
        /// The most that is accepted.
        max: u32,
    },
    /// Not a duration.
    #[error("`{0}` is not a duration: write a number and its unit, such as \"20ms\" or \"5min\"")]
    Duration(String),
    /// A duration outside its range.
    #[error(
        "`{given}` is out of range: choose {} to {}",
        humantime::format_duration(*.min),
        humantime::format_duration(*.max)
    )]
    DurationRange {
        /// What was written.
        given: String,
        /// The least that is accepted.
        min: Duration,
        /// The most that is accepted.
        max: Duration,
    },
    /// Not a size.
    #[error("`{0}` is not a size: write a number and B, KiB, MiB or GiB, such as \"64MiB\"")]
    Size(String),
    /// A size outside its range.
    #[error("`{given}` is out of range: choose {} to {}", Size(*.min), Size(*.max))]
    SizeRange {
        /// What was written.
        given: String,
        /// The least that is accepted.
        min: usize,
        /// The most that is accepted.
        max: usize,
    },
    /// Not a log filter.
    #[error(
        "`{given}` is not a log filter ({reason}): write a level such as \"info\", or directives \
         such as \"info,wgrouted::target=debug\""
    )]
    LogFilter {
        /// What was written.
        given: String,
        /// What the parser said.
        reason: String,
    },
    /// A path that depends on the working directory.
    #[error("`{0}` is not an absolute path: begin it with /")]
    RelativePath(String),
    /// Not a name that a network interface can have.
    #[error(
        "`{0}` cannot be the name of an interface: 1 to 15 bytes without spaces, / and :, as \
         `ip link` shows it"
    )]
    InterfaceName(String),
    /// Not a name that can be told apart in output.
    #[error("`{given}` cannot be the name of {what}: 1 to 64 visible characters without spaces")]
    Name {
        /// What was written.
        given: String,
        /// What it should name.
        what: &'static str,
    },
    /// Not a prefix.
    #[error(transparent)]
    Prefix(#[from] ParsePrefixError),
    /// Not a key.
    #[error(transparent)]
    PublicKey(#[from] ParseKeyError),
    /// A name that iproute2 does not know either.
    #[error(
        "no {kind} is named `{name}`: write its number, or add the name to /etc/iproute2/{}",
        .kind.file()
    )]
    UnknownName {
        /// What it should name.
        kind: NameKind,
        /// What was written.
        name: String,
    },
    /// A table that holds no routes to follow.
    #[error("table {0} cannot be followed: {1}")]
    ReservedTable(TableId, &'static str),
    /// A protocol whose routes are somebody else's.
    #[error(
        "protocol {0} is used by {1}, whose routes would be removed: leave it out, or choose a number \
         that nobody uses"
    )]
    ForeignProtocol(u8, &'static str),
    /// The same name, key, prefix or table twice.
    #[error("{what} is already given in line {first}: {remedy}")]
    Duplicate {
        /// What is there twice.
        what: String,
        /// The line of the first.
        first: usize,
        /// What to do.
        remedy: &'static str,
    },
    /// A dedicated link with several peers.
    #[error(
        "a dedicated link has one peer, but {0} are configured: write \"shared\", or use one \
         interface per peer"
    )]
    DedicatedPeers(usize),
    /// A `match` entry without conditions.
    #[error(
        "an entry without conditions would match every route: give protocol, realm, table, \
         metric, nexthop or gateway; a peer that owns every route of its link needs \
         link = \"dedicated\""
    )]
    EmptyMatch,
    /// A realm where there are IPv6 routes only.
    #[error(
        "IPv6 routes carry no realm (the kernel drops it), and `managed` holds IPv6 only: match \
         by gateway, protocol, table, metric or nexthop instead"
    )]
    RealmIpv6,
    /// A condition on a table that is not followed.
    #[error("table {0} is not in this interface's `tables`, so no route can match: add it there")]
    TableNotFollowed(TableId),
    /// A peer that can never get a route.
    #[error(
        "no route can belong to this peer: it has no pinned prefix to resolve gateways and no \
         `match`; list its tunnel addresses, leave `pinned` out to learn them, or add `match`"
    )]
    Unreachable,
    /// A rule that says nothing.
    #[error(transparent)]
    Rule(#[from] RuleError),
    /// No policy has the name.
    #[error("no policy is named `{given}`: {}", policies(.known))]
    UnknownPolicy {
        /// What was written.
        given: String,
        /// What could be written.
        known: Vec<String>,
    },
    /// A policy too long for one packet.
    #[error(
        "{size} rules after compilation (each is one for every pair of prefixes and ranges of \
         ports), but a policy has at most {most}: merge prefixes or ranges, or split the policy \
         by peers"
    )]
    PolicySize {
        /// Its rules.
        size: usize,
        /// The most that there may be.
        most: usize,
    },
    /// Policies that do not fit the maps.
    #[error(
        "room for {room} rules, but all policies have {total} after compilation and each is \
         replaced beside the old one: write at least {needed}"
    )]
    RulesSize {
        /// What all policies have.
        total: usize,
        /// The room that they take.
        needed: usize,
        /// The room that there is.
        room: u32,
    },
    /// Peers that do not fit the maps.
    #[error("room for {room} peers, but {named} of filtered interfaces are configured: write more")]
    PeersSize {
        /// The peers of filtered interfaces.
        named: usize,
        /// The room that there is.
        room: u32,
    },
    /// Mode `list` without a list.
    #[error("\"list\" needs the legal sources: add list = [\"10.1.0.0/16\"] beside it")]
    NoList,
    /// Mode `group` without a group.
    #[error("\"group\" needs the group's name: add group = \"mesh\" beside it")]
    NoGroup,
    /// A shared link cannot be opened.
    #[error(
        "only a link of a single peer can be opened, for WireGuard tells several apart by their \
         AllowedIPs: write link = \"dedicated\" for this interface, or leave `open` out"
    )]
    OpenShared,
    /// A peer's filter where the link has none.
    #[error(
        "the filter of this interface is off: add [interface.filter] before its peers; what is \
         absent here is taken from there"
    )]
    PeerFilterAlone,
    /// A tunnel's filter inside a link that has none.
    #[error(
        "the filter of the interface that the tunnel is inside is off: add [interface.filter] there; \
         what is absent here is taken from there"
    )]
    TunnelFilterAlone,
    /// A key of a tunnel that somebody else makes.
    #[error(
        "this belongs to a tunnel that wgrouted makes: leave it out, or leave out manage = false"
    )]
    TunnelNotManaged,
    /// Not an address.
    #[error("`{0}` is not an address: write one such as \"10.0.0.2\" or \"fe80::2\"")]
    Address(String),
    /// Not an address with a port.
    #[error(
        "`{0}` is not an address with a port: write one such as \"127.0.0.1:9586\" or \"[::1]:9586\""
    )]
    SocketAddress(String),
    /// Others could ask without a token.
    #[error(
        "{0} can be reached by others: add token_file = \"/etc/wgrouted/token\", or listen on \
         127.0.0.1 or [::1]"
    )]
    OpenWithoutToken(SocketAddr),
    /// Not one line of text.
    #[error("`{0}` is not a line of text: write some, without line breaks")]
    Argument(String),
    /// Not something that a webhook can be sent to.
    #[error("`{0}` cannot be sent to: write a URL such as \"http://127.0.0.1:8080/peers\"")]
    Url(String),
    /// Not a name that BIRD takes for a protocol.
    #[error(
        "`{0}` cannot be the name of a protocol of BIRD's: letters, digits and _, as `birdc show \
         protocols` prints it"
    )]
    BirdProtocol(String),
    /// A hook that does nothing, or two things.
    #[error("a hook does one thing: write either `command` or `webhook`")]
    HookAction,
    /// Something that needs a link of a single peer.
    #[error(
        "`{0}` speaks of the whole link, so it needs a single peer: write link = \"dedicated\" for \
         this interface, or leave `{0}` out"
    )]
    OnlyDedicated(&'static str),
    /// A daemon whose socket is not known.
    #[error("where the socket is, is not said: add [reach] with `{0}` before")]
    NoSocket(&'static str),
    /// A peer's reachability where the link has none.
    #[error("the peers of this interface are not watched: add [interface.reach] before its peers")]
    LinkNotWatched,
    /// Prefixes that nobody announces.
    #[error("nothing is announced on this interface: add [interface.reach.announce]")]
    NothingAnnounced,
    /// Not an interface's address.
    #[error(transparent)]
    InterfaceAddress(#[from] ParseAddressError),
    /// Not an endpoint.
    #[error(transparent)]
    Endpoint(#[from] ParseEndpointError),
    /// Not a link-local address.
    #[error(
        "`{0}` is not a link-local address: write one in fe80::/10 without a length, \"auto\" or \
         \"off\""
    )]
    LinkLocal(String),
    /// A keepalive that WireGuard cannot do.
    #[error("`{0}` is no number of whole seconds: WireGuard counts keepalives in seconds")]
    WholeSeconds(String),
    /// A setting of a link that somebody else makes.
    #[error(
        "this belongs to a link that wgrouted makes: add manage = true to the interface, or set it \
         where the interface is made (wg, wg-quick or networkd)"
    )]
    NotManaged,
    /// A peer of a managed device that begins with nothing.
    #[error(
        "missing: a peer that wgrouted adds begins with its own addresses; add pinned = \
         [\"10.0.0.2/32\"], or link = \"dedicated\" to the interface if this is its only peer"
    )]
    ManagedPinned,
    /// A tunnel inside something that is not configured.
    #[error("no interface {given} is configured: write {}", .known.join(" or "))]
    TunnelOver {
        /// What was written.
        given: String,
        /// What could be written.
        known: Vec<String>,
    },
    /// A tunnel to nobody.
    #[error(
        "interface {over} has no peer {given}: add it there{}",
        if .known.is_empty() { String::new() } else { format!(", or write {}", .known.join(" or ")) }
    )]
    TunnelPeer {
        /// What was written.
        given: String,
        /// The interface.
        over: String,
        /// What could be written.
        known: Vec<String>,
    },
    /// A tunnel between addresses of the wrong family.
    #[error(
        "a tunnel of kind {kind} has {} ends, which {address} is not: use another kind or address",
        if .kind.is_over_ipv6() { "IPv6" } else { "IPv4" }
    )]
    TunnelFamily {
        /// The kind.
        kind: TunnelKind,
        /// The address.
        address: IpAddr,
    },
    /// A tunnel to an address that WireGuard has no peer for.
    #[error(
        "{remote} is not pinned by {who}, so WireGuard would drop the tunnel's packets: pin it \
         there, or correct the address"
    )]
    TunnelRemote {
        /// The far end.
        remote: IpAddr,
        /// Who should have it.
        who: String,
    },
    /// A tunnel that cannot carry what it is given.
    #[error("a tunnel of kind {0} carries IPv4 only: use gre or ip6gre, or leave this out")]
    TunnelPayload(TunnelKind),
    /// A tunnel with an interface's name.
    #[error("an interface is named {0}: choose another name for the tunnel")]
    TunnelName(String),
}

fn policies(known: &[String]) -> String {
    if known.is_empty() {
        "add [[filter.policy]] with this name".to_owned()
    } else {
        format!("write one of {}, or add [[filter.policy]] with this name", known.join(", "))
    }
}

/// `"a", "b" or "c"`.
fn quoted(choices: &[&str]) -> String {
    let mut text = String::new();
    for (i, choice) in choices.iter().enumerate() {
        text.push_str(match i {
            0 => "",
            _ if i + 1 == choices.len() => " or ",
            _ => ", ",
        });
        text.push('"');
        text.push_str(choice);
        text.push('"');
    }
    text
}

/// A number of bytes in the largest unit that divides it.
pub(super) struct Size(pub(super) usize);

impl Size {
    /// Units, largest first.
    pub(super) const UNITS: [(&str, usize); 4] =
        [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, bytes) = Self::UNITS
            .into_iter()
            .find(|(_, bytes)| self.0.is_multiple_of(*bytes))
            .expect("one byte divides every number");
        write!(f, "{}{unit}", self.0 / bytes)
    }
}
