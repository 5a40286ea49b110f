//! What the configuration says about links that we make.
//!
//! Here live the keys behind `manage = true` and those of `[[tunnel]]`, and what they mean.
//! Invariant: a rule that exists is complete; whether files can be read and names be resolved shows
//! when links are made.

pub(super) mod meaning;
pub(super) mod raw;
pub(super) mod tunnel;
pub(super) mod value;

use std::{ops::RangeInclusive, time::Duration};

use crate::core::links::mtu;

/// What is accepted for `mtu` besides `auto`: IPv6's minimum to the longest IPv4 packet.
pub const MTU_RANGE: RangeInclusive<u32> = mtu::MIN..=65_535;
/// What is accepted for `keepalive` besides `off` (`persistent_keepalive_interval` is a `u16` of
/// seconds, drivers/net/wireguard/peer.h).
pub const KEEPALIVE_RANGE: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(65_535);
/// Routing protocols send with a time to live of one, which the kernel would copy to the outer
/// header by default; that is of no matter inside a WireGuard device, but a packet that is
/// forwarded through tunnels should arrive whatever is left of its own.
pub const TTL: u8 = 64;
/// What is accepted for `ttl`.
pub const TTL_RANGE: RangeInclusive<u32> = 1..=255;
