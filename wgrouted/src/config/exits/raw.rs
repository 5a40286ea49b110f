//! What the operator wrote about exits and flows.
//!
//! Here live the keys. Single values are checked; what they mean together is `meaning`'s business.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use super::{
    BACK_AFTER_RANGE, NEXTHOPS_RANGE, RULES_RANGE, TABLES_RANGE,
    value::{self as exits, RawVia},
};
use crate::{
    config::{
        document::{At, Section},
        names::Names,
        value,
    },
    core::{
        exits::{
            iprule::{Mark, Span},
            rule::WhenDown,
        },
        prefix::Prefix,
        route::TableId,
    },
};

/// `[flows]`.
pub(in crate::config) struct RawFlows {
    pub(super) rules: Option<At<RangeInclusive<u32>>>,
    pub(super) tables: Option<At<RangeInclusive<u32>>>,
    pub(super) nexthops: Option<At<RangeInclusive<u32>>>,
}

/// `[[exit]]`.
pub(in crate::config) struct RawExit {
    pub(super) at: usize,
    pub(super) name: Option<At<String>>,
    /// `None` if the key is absent.
    pub(super) via: Option<Vec<At<RawVia>>>,
    pub(super) when_down: Option<WhenDown>,
    pub(super) back_after: Option<Duration>,
    pub(super) table: Option<At<TableId>>,
    pub(super) feed: Option<At<bool>>,
    pub(super) source: Vec<At<IpAddr>>,
}

/// `[[flow]]`.
pub(in crate::config) struct RawFlow {
    pub(super) at: usize,
    pub(super) name: Option<At<String>>,
    pub(super) from: Vec<At<Prefix>>,
    pub(super) to: Vec<At<Prefix>>,
    pub(super) iif: Option<At<String>>,
    pub(super) mark: Option<At<Mark>>,
    pub(super) uid: Vec<At<Span<u32>>>,
    pub(super) tos: Option<At<u8>>,
    pub(super) dscp: Option<At<u8>>,
    pub(super) protocol: Option<At<u8>>,
    pub(super) sport: Vec<At<Span<u16>>>,
    pub(super) dport: Vec<At<Span<u16>>>,
    pub(super) vrf: Option<At<String>>,
    pub(super) realm: Option<At<u32>>,
    pub(super) exit: Option<At<String>>,
}

impl RawFlows {
    pub(in crate::config) fn read(mut section: Section<'_, '_>) -> Self {
        let flows = RawFlows {
            rules: section.take("rules", |v| exits::range(v, &RULES_RANGE)),
            tables: section.take("tables", |v| exits::range(v, &TABLES_RANGE)),
            nexthops: section.take("nexthops", |v| exits::range(v, &NEXTHOPS_RANGE)),
        };
        section.finish();
        flows
    }
}

impl RawExit {
    pub(in crate::config) fn read(mut section: Section<'_, '_>, names: &Names) -> Self {
        const DOWN: [(&str, WhenDown); 3] =
            [("next", WhenDown::Next), ("main", WhenDown::Main), ("block", WhenDown::Block)];
        let at = section.at;
        let name = section.require("name", "name = \"berlin\"", value::exit_name);
        let empty = Some("name a link: a dedicated interface, a tunnel, or a peer that has one");
        let given = section.holds("via");
        let via = section.list("via", empty, exits::via).unwrap_or_default();
        let via = given.then_some(via);
        let exit = RawExit {
            at,
            name,
            via,
            when_down: section.take("when_down", |v| value::choice(v, &DOWN)).map(|at| at.value),
            back_after: section
                .take("back_after", |v| value::duration(v, &BACK_AFTER_RANGE))
                .map(|at| at.value),
            table: section.take("table", |v| value::table(v, names)),
            feed: section.take("feed", value::boolean),
            source: section.one_or_more("source", value::address),
        };
        section.finish();
        exit
    }
}

impl RawFlow {
    pub(in crate::config) fn read(mut section: Section<'_, '_>, names: &Names) -> Self {
        let flow = RawFlow {
            at: section.at,
            name: section.take("name", value::flow_name),
            from: section.one_or_more("from", value::parsed),
            to: section.one_or_more("to", value::parsed),
            iif: section.take("iif", value::interface),
            mark: section.take("mark", exits::mark),
            uid: section.one_or_more("uid", exits::uid),
            tos: section.take("tos", exits::tos),
            dscp: section.take("dscp", exits::dscp),
            protocol: section.take("protocol", exits::protocol),
            sport: section.one_or_more("sport", exits::ports),
            dport: section.one_or_more("dport", exits::ports),
            vrf: section.take("vrf", value::interface),
            realm: section.take("realm", |v| value::realm(v, names)),
            exit: section.require("exit", "exit = \"berlin\"", value::exit_name),
        };
        section.finish();
        flow
    }
}
