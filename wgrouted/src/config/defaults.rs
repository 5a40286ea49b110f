//! Every default of the configuration, with its reason.
//!
//! Here live constants only. Invariant: each of them appears, commented out, in the annotated
//! `dist/wgrouted.toml`, which a test verifies.

use std::{ops::RangeInclusive, time::Duration};

use crate::core::{
    prefix::Prefix,
    rule::{Audit, LinkMode, OnExit},
};

/// Where the configuration is read from when neither a file nor an interface is named.
pub const CONFIG_FILE: &str = "/etc/wgrouted/wgrouted.toml";

/// Where the control socket and what was learned about pinned prefixes live. It must survive a
/// restart of the daemon but not a reboot, for WireGuard's state does not survive one either.
pub const RUNTIME_DIR: &str = "/run/wgrouted";

/// Netlink receive buffer (`SO_RCVBUFFORCE`). The kernel's default holds 256 route notifications;
/// this one holds some 40,000 and spares most bursts a full dump.
pub const RECEIVE_BUFFER: usize = 64 << 20;
/// Below this a routing daemon's ordinary burst overruns; above it `SO_RCVBUFFORCE` would clamp
/// (`__sock_set_rcvbuf`, net/core/sock.c: twice the value must fit an `int`).
pub const RECEIVE_BUFFER_RANGE: RangeInclusive<usize> = (64 << 10)..=(512 << 20);

/// At most one full route dump per this time after overruns, so that a storm which outruns the
/// daemon cannot make it dump all the time.
pub const RESYNC_INTERVAL: Duration = Duration::from_secs(1);
/// What is accepted for `resync_interval`.
pub const RESYNC_INTERVAL_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(60);

/// How often what WireGuard holds is compared with what it should hold: by cost, so that audits
/// take at most 1 % of the time.
pub const AUDIT_INTERVAL: Audit = Audit::Auto;
/// What is accepted for `audit_interval` besides `auto` and `off`.
pub const AUDIT_INTERVAL_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Log filter: what changed state, what was repaired and what needs the operator.
pub const LOG: &str = "info";

/// Told by the pinned prefixes; see [`LinkMode::Auto`].
pub const LINK: LinkMode = LinkMode::Auto;

/// Everything that is not pinned is managed, in both families.
pub const MANAGED: [Prefix; 2] = [Prefix::DEFAULT_V4, Prefix::DEFAULT_V6];

/// A removal waits this long for a new owner. babeld and BIRD change a route by deleting and
/// adding it; with the hold that is a move, without it packets would find no peer in between.
pub const DELETE_HOLD: Duration = Duration::from_millis(20);
/// What is accepted for `delete_hold`.
pub const DELETE_HOLD_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(10);

/// The first change is applied at once, then at most one round of changes per this time.
pub const COALESCE: Duration = Duration::from_millis(5);
/// What is accepted for `coalesce`.
pub const COALESCE_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(1);

/// Bound of one netlink message to WireGuard. The kernel holds RTNL, which every route change on
/// the host needs, for a whole message.
pub const MESSAGE_SIZE: usize = 16 << 10;
/// The lower bound leaves room for a peer and some prefixes; the upper one keeps a peer's nested
/// attribute, whose length has 16 bits (`struct nlattr`), from overflowing.
pub const MESSAGE_SIZE_RANGE: RangeInclusive<usize> = (1 << 10)..=(60 << 10);

/// How long after a peer was first seen its AllowedIPs are still learned as pinned: `wg set` and
/// wg-quick configure a peer in several steps.
pub const ADOPT: Duration = Duration::from_secs(2);
/// What is accepted for `adopt`.
pub const ADOPT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(300);

/// A stop or a crash of the daemon must not stop traffic.
pub const ON_EXIT: OnExit = OnExit::Keep;
