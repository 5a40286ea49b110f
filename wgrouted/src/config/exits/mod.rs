//! What the configuration says about exits and flows.
//!
//! Here live the keys of `[flows]`, `[[exit]]` and `[[flow]]`, and what they mean. Invariant: the
//! kernel can do what a rule that exists asks for, as far as that can be known without asking it.

mod error;
pub(super) mod meaning;
pub(super) mod raw;
pub(super) mod value;

pub use self::error::{ExitLink, ExitProblem};

use std::{ops::RangeInclusive, time::Duration};

use crate::core::{
    exits::rule::FlowsRule,
    route::{NexthopId, TableId},
};

/// Default of `rules`: behind those that let VRFs decide (1000), before those that `ip rule` and
/// wg-quick choose (32765 and down).
pub const RULES: RangeInclusive<u32> = 10_000..=29_999;
/// What is accepted for `rules`: behind the local table's, before the main table's
/// (`fib_default_rules_init`, net/ipv4/fib_rules.c).
pub const RULES_RANGE: RangeInclusive<u32> = 1..=32_765;
/// Default of `tables`.
pub const TABLES: RangeInclusive<TableId> = 119_000..=128_999;
/// What is accepted for `tables`: above those that fit into one octet, which people use.
pub const TABLES_RANGE: RangeInclusive<TableId> = 256..=u32::MAX - 1;
/// Default of `nexthops`.
pub const NEXTHOPS: RangeInclusive<NexthopId> = 1_190_000..=1_229_999;
/// What is accepted for `nexthops`.
pub const NEXTHOPS_RANGE: RangeInclusive<NexthopId> = 1..=u32::MAX - 1;
/// Default of `back_after`.
pub const BACK_AFTER: Duration = Duration::from_secs(10);
/// What is accepted for `back_after`.
pub const BACK_AFTER_RANGE: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
/// What is accepted for `weight` (`struct nexthop_grp`, include/uapi/linux/nexthop.h: an octet, less
/// one).
pub const WEIGHT_RANGE: RangeInclusive<u32> = 1..=256;

/// No exits and no flows.
pub fn rule_defaults() -> FlowsRule {
    FlowsRule {
        rules: RULES,
        tables: TABLES,
        nexthops: NEXTHOPS,
        exits: Vec::new(),
        flows: Vec::new(),
        guards: Vec::new(),
    }
}
