//! What was seen of a machine, as plain data.
//!
//! Here live the observations that the edge makes and the checks judge. Whatever could not be looked
//! at says why, in words that follow "not checked, ".

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use super::wants::Wants;
use crate::core::{
    exits::iprule::IpRule,
    links::state::Have,
    route::{IfIndex, NexthopId, Route},
};

/// An observation, or why there is none.
pub type Seen<T> = Result<T, String>;

/// Before anybody looked.
fn nobody<T>() -> Seen<T> {
    Err("nobody looked".to_owned())
}

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The configuration and who runs with it.
    pub daemon: DaemonSeen,
    /// The kernel's release, as `uname -r` prints it.
    pub release: Seen<String>,
    /// What the kernel can do.
    pub features: BTreeMap<Feature, Seen<bool>>,
    /// What the daemon may do, or this process where there is no daemon.
    pub process: ProcessSeen,
    /// Settings by their path below `/proc/sys`; what does not exist is absent.
    pub sysctls: BTreeMap<String, i64>,
    /// Links, rules, routes.
    pub network: Seen<Network>,
    /// Sockets that are bound to a port.
    pub ports: Seen<Vec<PortSeen>>,
    /// The time.
    pub clock: ClockSeen,
    /// What is needed.
    pub wants: Wants,
}

impl Default for Machine {
    fn default() -> Self {
        Machine {
            daemon: DaemonSeen::default(),
            release: nobody(),
            features: BTreeMap::new(),
            process: ProcessSeen::default(),
            sysctls: BTreeMap::new(),
            network: nobody(),
            ports: nobody(),
            clock: ClockSeen::default(),
            wants: Wants::default(),
        }
    }
}

/// What the kernel may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Feature {
    /// WireGuard.
    Wireguard,
    /// Removal of single allowed IPs.
    SingleRemoval,
    /// IPv6.
    Ipv6,
    /// The protocol of an address (`IFA_PROTO`).
    AddressProtocol,
    /// Nexthop objects.
    Nexthops,
    /// Nexthop groups that keep flows where they are.
    ResilientGroups,
    /// Rules by user.
    UserRules,
    /// Rules by protocol and port.
    PortRules,
    /// Rules by DSCP.
    DscpRules,
    /// The rule that looks VRFs' tables up.
    VrfRules,
    /// The `bpf()` system call.
    Bpf,
    /// Tries for prefixes.
    LpmTries,
    /// BPF programs at tc, with links.
    Tcx,
    /// BPF programs at tc, as classifiers.
    Clsact,
    /// BPF programs at XDP.
    Xdp,
}

/// The configuration and who runs with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DaemonSeen {
    /// The configuration's file; `None`: there is none, and none was asked for.
    pub file: Option<String>,
    /// What is wrong with it.
    pub errors: Vec<String>,
    /// Interfaces were named, in a file or on the command line; otherwise all are looked at.
    pub chosen: bool,
    /// Whether a daemon answers in the runtime directory; `Err`: it may, but nobody may ask.
    pub answers: Option<Seen<()>>,
    /// What running daemons have locked, and their processes where those can be seen.
    pub locks: Vec<LockSeen>,
    /// The runtime directory exists, and whether this process may write there.
    pub runtime_dir: Option<bool>,
}

/// What a running daemon has locked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockSeen {
    /// The interface; `None`: the packet filter.
    pub interface: Option<String>,
    /// The daemon.
    pub process: Option<u32>,
}

/// What a process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSeen {
    /// A running daemon's; otherwise our own.
    pub daemon: Option<u32>,
    /// Its capabilities, as capabilities(7) names them.
    pub capabilities: Seen<Vec<String>>,
    /// How many files it may open.
    pub files: Option<u64>,
    /// It is in the initial user namespace.
    pub initial_user: bool,
    /// A BPF file system is where the filter's pins shall be.
    pub bpffs: Option<bool>,
}

impl Default for ProcessSeen {
    fn default() -> Self {
        let (daemon, files, bpffs) = (None, None, None);
        ProcessSeen { daemon, capabilities: nobody(), files, initial_user: false, bpffs }
    }
}

/// Links, rules, routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// The links.
    pub links: Vec<Have>,
    /// Devices whose settings could not be read, and why.
    pub unread: Vec<(String, String)>,
    /// How WireGuard's own packets go to each peer.
    pub ways: Vec<Way>,
    /// All rules.
    pub rules: Seen<Vec<IpRule>>,
    /// Others' routes in our tables.
    pub strays: Seen<Vec<Route>>,
    /// Routes that cover endpoints whose packets loop.
    pub covering: Vec<Route>,
    /// Nexthop objects in our range: number and protocol.
    pub nexthops: Seen<Vec<(NexthopId, u8)>>,
}

impl Default for Network {
    fn default() -> Self {
        Network {
            links: Vec::new(),
            unread: Vec::new(),
            ways: Vec::new(),
            rules: nobody(),
            strays: nobody(),
            covering: Vec::new(),
            nexthops: nobody(),
        }
    }
}

impl Network {
    /// A link by number.
    pub fn link(&self, index: IfIndex) -> Option<&Have> {
        self.links.iter().find(|link| link.index == index)
    }

    /// A link by name.
    pub fn named(&self, name: &str) -> Option<&Have> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// How WireGuard's own packets go to a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The device.
    pub device: String,
    /// The peer, by the key.
    pub peer: String,
    /// Where it is.
    pub endpoint: SocketAddr,
    /// The mark of the packets, zero for none.
    pub mark: u32,
    /// The link that they leave by, and the path's MTU if the route has one; `None`: no way.
    pub path: Option<(IfIndex, Option<u32>)>,
    /// The link that they would leave by without the mark, which is how their source is checked.
    pub unmarked: Option<IfIndex>,
    /// The last handshake lies in the future.
    pub ahead: bool,
}

/// A socket that is bound to a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSeen {
    /// TCP, not UDP.
    pub tcp: bool,
    /// Where.
    pub address: SocketAddr,
    /// Who has it; `None`: the kernel, or somebody who cannot be seen.
    pub owner: Option<PortOwner>,
}

/// Who has a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOwner {
    /// The process.
    pub process: u32,
    /// Its program.
    pub name: String,
    /// The systemd unit that it is in.
    pub unit: Option<String>,
}

impl fmt::Display for PortOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.process)
    }
}

/// The time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClockSeen {
    /// Seconds since the Unix epoch; negative before it.
    pub now: i64,
    /// The kernel counts its clock as synchronised.
    pub synchronised: Seen<bool>,
}

impl Default for ClockSeen {
    fn default() -> Self {
        ClockSeen { now: 0, synchronised: nobody() }
    }
}
