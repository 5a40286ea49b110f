//! Every default of the configuration of reachability, with its reason.
//!
//! Here live constants only, for `dist/wgrouted.toml` as in [`crate::config::defaults`].

use std::{ops::RangeInclusive, time::Duration};

use crate::core::{
    reach::{
        route::PROTOCOL,
        rule::{AnnounceRule, ProbeKind},
    },
    route::TableId,
};

/// UDP port of echo requests: babeld's (RFC 8966 section 6) is 6696, this is the next.
pub const PORT: u16 = 6697;

/// A command or a request is not repeated within this time for one peer, however it flaps.
pub const HOOK_INTERVAL: Duration = Duration::from_secs(1);
/// What is accepted for a hook's `interval`.
pub const HOOK_INTERVAL_RANGE: RangeInclusive<Duration> =
    Duration::ZERO..=Duration::from_secs(3600);
/// A command or a request that takes longer is ended.
pub const HOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// What is accepted for a hook's `timeout`.
pub const HOOK_TIMEOUT_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);

/// Every peer answers ICMP echo requests; see [`ProbeKind::Icmp`].
pub const PROBE: ProbeKind = ProbeKind::Icmp;

/// A dead peer is noticed after three seconds, for a few hundred bytes a second.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// What is accepted for `interval`.
pub const INTERVAL_RANGE: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3600);

/// One lost probe is weather, three in a row are none.
pub const LOST: u32 = 3;
/// What is accepted for `lost`. With one, weather would be death.
pub const LOST_RANGE: RangeInclusive<u32> = 2..=255;

/// A peer that was down answers twice before it is trusted again.
pub const ANSWERED: u32 = 2;
/// What is accepted for `answered`.
pub const ANSWERED_RANGE: RangeInclusive<u32> = 1..=255;

/// A peer that fell again soon after it came up is held down for this long, then twice as long, up
/// to 64 times; a routing protocol suffers more from flapping than from a late return.
pub const HOLD_DOWN: Duration = Duration::from_secs(5);
/// What is accepted for `hold_down`.
pub const HOLD_DOWN_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);

/// `RT_TABLE_MAIN`: where BIRD, babeld and FRR look unless they are told otherwise.
pub const ANNOUNCE_TABLE: TableId = 254;

/// Behind what routing daemons install themselves: BIRD's metric is 32, babeld's 0, FRR's 20.
pub const ANNOUNCE_METRIC: u32 = 1024;
/// What is accepted for it: IPv6 has no metric of zero.
pub const ANNOUNCE_METRIC_RANGE: RangeInclusive<u32> = 1..=u32::MAX;

/// The routes of a link about which nothing is said but that it has some.
pub const ANNOUNCE: AnnounceRule = AnnounceRule {
    table: ANNOUNCE_TABLE,
    protocol: PROTOCOL,
    metric: ANNOUNCE_METRIC,
    metric_from_rtt: false,
    hosts: true,
};
