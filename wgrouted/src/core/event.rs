//! What the core is told and what it asks for.
//!
//! Here live the messages between the core and the edge. They are plain data that can be written
//! to a file and read back: a recorded run replays.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    change::Change,
    device::{Device, DeviceError, Report},
    filter::table::{FilterError, FilterEvent, FilterRequest, HookKind},
    peer::{PeerIdx, PublicKey},
    peers::RememberedPins,
    prefix::{Family, Prefix},
    route::{IfIndex, Link, Nexthop, NexthopId, Route, RouteEvent, TableId},
    rule::InterfaceRule,
};

/// One thing that the kernel announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetEvent {
    /// A route was added, replaced or deleted.
    Route(RouteEvent),
    /// A link appeared or changed.
    Link(Link),
    /// A link is gone.
    LinkGone {
        /// Its number.
        index: IfIndex,
    },
    /// An address was removed from a link: its routes may have vanished without notice.
    AddressGone {
        /// The link.
        index: IfIndex,
        /// The address's family.
        family: Family,
    },
    /// An address was added to a link: dead hops through it may have come back to life without
    /// notice (`fib_sync_up`, net/ipv4/fib_semantics.c).
    AddressAdded {
        /// The link.
        index: IfIndex,
        /// The address's family.
        family: Family,
    },
    /// A nexthop object appeared or changed.
    Nexthop(Nexthop),
    /// A nexthop object is gone, and with it, silently, the routes that use it.
    NexthopGone {
        /// Its number.
        id: NexthopId,
    },
    /// Notifications were lost (`ENOBUFS`). Everything received before this marker was queued
    /// before the loss; the queue was drained, so whatever happens from here on is complete
    /// again.
    Lost,
}

/// Which routes a dump shall bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Scope {
    /// Address family.
    pub family: Family,
    /// One table, or all.
    pub table: Option<TableId>,
    /// Only routes with a next hop on this link, or all.
    pub oif: Option<IfIndex>,
}

/// A piece of what a dump of the network brings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncPart {
    /// All links.
    Links(Vec<Link>),
    /// All nexthop objects.
    Nexthops(Vec<Nexthop>),
    /// Some of the routes in the scopes asked for.
    Routes(Vec<Route>),
}

/// An interface's number in the engine. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InterfaceId(pub u32);

/// Everything that can happen to the core.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Event {
    /// The kernel announced these, in this order.
    Net(Vec<NetEvent>),
    /// A part of the answer to [`Request::Sync`].
    SyncPart {
        /// The request's number.
        epoch: u64,
        /// The part.
        part: SyncPart,
    },
    /// The answer to [`Request::Sync`] is complete, or failed. Everything that the kernel announced
    /// before the last part was read has been handed over before this: later announcements are
    /// taken for news.
    SyncDone {
        /// The request's number.
        epoch: u64,
        /// What went wrong.
        error: Option<String>,
    },
    /// The answer to [`Request::Dump`].
    Device {
        /// Which interface.
        interface: InterfaceId,
        /// The request's number.
        token: u64,
        /// How long the dump took.
        cost: Duration,
        /// What the device holds.
        result: Result<Device, DeviceError>,
        /// Pinned prefixes that an earlier run learned on this very device.
        remembered: RememberedPins,
    },
    /// The answer to [`Request::Apply`].
    Applied {
        /// Which interface.
        interface: InterfaceId,
        /// The request's number.
        token: u64,
        /// How it went.
        result: Result<Report, DeviceError>,
    },
    /// Something happened to the packet filter.
    Filter(FilterEvent),
    /// The operator wants these interfaces followed.
    Reconfigure(Vec<InterfaceRule>),
    /// The operator wants everything read anew.
    Resync,
    /// The daemon is about to stop: do what `on_exit` asks for.
    Shutdown,
}

/// What the core wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the network. Answered by [`Event::SyncPart`]s and one [`Event::SyncDone`]; a newer
    /// request makes the older ones void.
    Sync {
        /// Number to answer with.
        epoch: u64,
        /// Bring all links and nexthop objects too.
        objects: bool,
        /// Bring the routes in these scopes.
        scopes: Vec<Scope>,
    },
    /// Read a device. Answered by [`Event::Device`].
    Dump {
        /// Interface to answer for.
        interface: InterfaceId,
        /// Number to answer with.
        token: u64,
        /// The device.
        ifindex: IfIndex,
    },
    /// Change a device. Answered by [`Event::Applied`].
    Apply {
        /// Interface to answer for.
        interface: InterfaceId,
        /// Number to answer with.
        token: u64,
        /// The device.
        ifindex: IfIndex,
        /// Bound of a netlink message in bytes.
        message_size: usize,
        /// Key of each peer number in `changes`.
        peers: Arc<Vec<PublicKey>>,
        /// What shall change, in this order.
        changes: Arc<Vec<Change>>,
    },
    /// Work for the packet filter's target.
    Filter(FilterRequest),
    /// Remember the learned pinned prefixes of a device. Not answered.
    Remember {
        /// The device's name.
        name: String,
        /// Its number: a device that is made anew has another.
        ifindex: IfIndex,
        /// What to remember.
        pins: RememberedPins,
    },
}

/// Something that the operator may want to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The interface does not exist (any more); it is waited for.
    Waiting {
        /// Its name.
        interface: String,
    },
    /// A link of that name exists, but it is not a WireGuard device.
    NotWireguard {
        /// Its name.
        interface: String,
    },
    /// The interface was taken over as it is.
    Adopted {
        /// Its name.
        interface: String,
        /// Peers on it.
        peers: usize,
        /// AllowedIPs on it.
        allowed_ips: usize,
        /// How many of them are pinned.
        pinned: usize,
    },
    /// AllowedIPs equal the routes for the first time since the interface was adopted.
    InSync {
        /// Its name.
        interface: String,
        /// AllowedIPs installed.
        allowed_ips: usize,
    },
    /// A peer came to the device.
    PeerAppeared {
        /// The interface.
        interface: String,
        /// The peer's name.
        peer: String,
    },
    /// A peer left the device.
    PeerVanished {
        /// The interface.
        interface: String,
        /// The peer's name.
        peer: String,
    },
    /// An audit found that somebody else changed AllowedIPs that are ours.
    Drift {
        /// The interface.
        interface: String,
        /// How many prefixes differed.
        prefixes: usize,
        /// One of them.
        example: Prefix,
    },
    /// The device refused a change; it is tried again later.
    Refused {
        /// The interface.
        interface: String,
        /// The prefix.
        prefix: Prefix,
        /// The owner that it should have got.
        peer: Option<PeerIdx>,
        /// Error number.
        errno: i32,
    },
    /// The device could not be read or changed; tried again later.
    DeviceFailed {
        /// The interface.
        interface: String,
        /// Why.
        error: DeviceError,
    },
    /// The network could not be read; tried again later.
    SyncFailed {
        /// Why.
        error: String,
    },
    /// Notifications were lost; everything is read again.
    Overrun,
    /// The filter that an earlier daemon left was taken over; it had been in force all the time.
    FilterAdopted {
        /// Links that it is attached to.
        links: usize,
        /// Sources in its tries.
        sources: usize,
    },
    /// The filter cannot do what it shall; tried again later.
    FilterFailed {
        /// Why.
        error: FilterError,
    },
    /// The filter is in force on a link.
    FilterInForce {
        /// The interface.
        interface: String,
        /// How packets are looked at.
        hook: HookKind,
    },
    /// The filter is not in force on a link.
    FilterNotInForce {
        /// The interface.
        interface: String,
        /// Why.
        error: FilterError,
    },
    /// Somebody had detached the filter from a link; it was attached again.
    FilterReattached {
        /// The interface.
        interface: String,
    },
    /// The maps refused sources; tried again later.
    FilterRefused {
        /// How many.
        entries: usize,
        /// One of them.
        example: Prefix,
        /// Error number.
        errno: i32,
    },
    /// An audit found that somebody else changed the maps.
    FilterDrift {
        /// How many sources differed.
        entries: usize,
    },
    /// There are more peers than the maps have room for: what the others send is dropped.
    FilterRoom {
        /// How many have no place.
        peers: usize,
    },
    /// The AllowedIPs of a dedicated link were opened, because the filter is in force, or are
    /// about to be closed, because it is not.
    Door {
        /// The interface.
        interface: String,
        /// Opened.
        open: bool,
    },
}

/// What comes out of the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Work for the edge.
    Request(Request),
    /// News for the operator.
    Notice(Notice),
}
