//! Every default of the packet filter's configuration, with its reason.
//!
//! Here live constants only, for `dist/wgrouted.toml` as in [`crate::config::defaults`].

use std::{ops::RangeInclusive, time::Duration};

use crate::core::{
    filter::rule::{Hook, SourceMode},
    rule::{Audit, OnExit},
};

/// The cheaper hook that the kernel offers; see [`Hook::Auto`].
pub const HOOK: Hook = Hook::Auto;

/// Where maps and programs are pinned, so that they stay in force when the daemon stops.
pub const DIRECTORY: &str = "/sys/fs/bpf/wgrouted";

/// Longer than packets are under way on any path, shorter than routes are stable.
pub const GRACE: Duration = Duration::from_secs(1);
/// What is accepted for `grace`.
pub const GRACE_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(60);

/// Enough to see what is dropped; a flood costs no more.
pub const SAMPLES: u32 = 100;
/// What is accepted for `samples`.
pub const SAMPLES_RANGE: RangeInclusive<u32> = 0..=100_000;

/// By cost, as for what WireGuard holds.
pub const AUDIT_INTERVAL: Audit = Audit::Auto;

/// A stop or a crash of the daemon must not open the network.
pub const ON_EXIT: OnExit = OnExit::Keep;

/// A full IPv4 table and as much again. Room costs nothing until it is used.
pub const IPV4_SOURCES: u32 = 2_000_000;
/// A full IPv6 table and as much again. Room costs nothing until it is used.
pub const IPV6_SOURCES: u32 = 500_000;
/// What is accepted for `ipv4_sources` and `ipv6_sources`.
pub const SOURCES_RANGE: RangeInclusive<u32> = 1_000..=100_000_000;

/// Counters take 512 bytes a peer and CPU.
pub const PEERS: u32 = 1024;
/// What is accepted for `peers`. WireGuard takes 2^20 peers on a device.
pub const PEERS_RANGE: RangeInclusive<u32> = 1..=1_048_576;

/// A rule takes 80 bytes.
pub const RULES: u32 = 16_384;
/// What is accepted for `rules`.
pub const RULES_RANGE: RangeInclusive<u32> = 16..=4_194_304;

/// As many as a small router's connection tracking.
pub const FLOWS: u32 = 65_536;
/// What is accepted for `flows`. A table of few entries would forget the flows that it needs, for
/// each CPU holds some back.
pub const FLOWS_RANGE: RangeInclusive<u32> = 1_024..=16_777_216;

/// What RFC 3704 calls strict: what uses a path is what is routed to it.
pub const SOURCE: SourceMode = SourceMode::Strict;
