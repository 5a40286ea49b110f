//! What the operator wrote: every key of the configuration, by name and type.
//!
//! Here live the keys. Single values are checked; nothing is defaulted, and nothing is compared
//! with anything else. `meaning` does that.

use std::{path::PathBuf, time::Duration};

use super::{
    api::RawApi,
    defaults,
    document::{At, Section},
    exits::raw::{RawExit, RawFlow, RawFlows},
    filter::raw::{RawFilter, RawLinkFilter},
    links::raw::{RawLink, RawPeerLink, RawTunnel},
    names::Names,
    reach::raw::{RawLinkReach, RawPeerReach, RawReach},
    value,
};
use crate::core::{
    peer::PublicKey,
    prefix::Prefix,
    route::{NexthopId, TableId},
    rule::{Audit, LinkMode, OnExit},
};

/// What can be written for `on_exit`.
pub(super) const EXITS: [(&str, OnExit); 2] = [("keep", OnExit::Keep), ("remove", OnExit::Remove)];

/// The file.
pub(super) struct RawConfig {
    pub(super) daemon: RawDaemon,
    pub(super) filter: RawFilter,
    pub(super) reach: RawReach,
    pub(super) api: RawApi,
    /// `None` if it is not a list of tables.
    pub(super) interfaces: Option<Vec<RawInterface>>,
    pub(super) tunnels: Vec<RawTunnel>,
    pub(super) flows: RawFlows,
    pub(super) exits: Vec<RawExit>,
    pub(super) flow: Vec<RawFlow>,
}

/// `[daemon]`.
pub(super) struct RawDaemon {
    pub(super) runtime_dir: Option<PathBuf>,
    pub(super) receive_buffer: Option<usize>,
    pub(super) resync_interval: Option<Duration>,
    pub(super) audit_interval: Option<Audit>,
    pub(super) log: Option<String>,
}

/// `[[interface]]`.
pub(super) struct RawInterface {
    pub(super) at: usize,
    pub(super) name: Option<At<String>>,
    pub(super) link: Option<At<LinkMode>>,
    pub(super) tables: Option<Vec<At<TableId>>>,
    pub(super) managed: Option<Vec<At<Prefix>>>,
    pub(super) delete_hold: Option<Duration>,
    pub(super) coalesce: Option<Duration>,
    pub(super) message_size: Option<usize>,
    pub(super) adopt: Option<Duration>,
    pub(super) on_exit: Option<OnExit>,
    pub(super) own: RawLink,
    pub(super) peers: Vec<RawPeer>,
    pub(super) filter: Option<RawLinkFilter>,
    pub(super) reach: Option<RawLinkReach>,
}

/// `[[interface.peer]]`.
pub(super) struct RawPeer {
    pub(super) at: usize,
    pub(super) name: Option<At<String>>,
    pub(super) public_key: Option<At<PublicKey>>,
    pub(super) pinned: Option<Vec<At<Prefix>>>,
    pub(super) matches: Vec<RawMatch>,
    pub(super) own: RawPeerLink,
    pub(super) filter: Option<RawLinkFilter>,
    pub(super) reach: Option<RawPeerReach>,
    /// Whether nothing is wrong inside it.
    pub(super) sound: bool,
}

/// An entry of `match`, without errors in its values.
pub(super) struct RawMatch {
    pub(super) at: usize,
    pub(super) protocol: Option<At<u8>>,
    pub(super) realm: Option<At<u32>>,
    pub(super) table: Option<At<TableId>>,
    pub(super) metric: Option<At<u32>>,
    pub(super) nexthop: Option<At<NexthopId>>,
    pub(super) gateway: Option<At<Prefix>>,
}

impl<T> At<T> {
    fn into_value(self) -> T {
        self.value
    }
}

impl RawConfig {
    pub(super) fn read(mut document: Section<'_, '_>, names: &Names) -> Self {
        let daemon = RawDaemon::read(document.section("daemon"));
        let filter = RawFilter::read(document.section("filter"));
        let reach = RawReach::read(document.section("reach"));
        let api = RawApi::read(document.section("api"));
        let interfaces = document.sections(
            "interface",
            "a table in double brackets, [[interface]],",
            |section| RawInterface::read(section, names),
        );
        let tunnels =
            document.sections("tunnel", "a table in double brackets, [[tunnel]],", |section| {
                RawTunnel::read(section, names)
            });
        let flows = RawFlows::read(document.section("flows"));
        let exits = document.sections("exit", "a table in double brackets, [[exit]],", |section| {
            RawExit::read(section, names)
        });
        let flow = document.sections("flow", "a table in double brackets, [[flow]],", |section| {
            RawFlow::read(section, names)
        });
        document.finish();
        let (tunnels, exits) = (tunnels.unwrap_or_default(), exits.unwrap_or_default());
        let flow = flow.unwrap_or_default();
        RawConfig { daemon, filter, reach, api, interfaces, tunnels, flows, exits, flow }
    }
}

impl RawDaemon {
    fn read(mut section: Section<'_, '_>) -> Self {
        let daemon = RawDaemon {
            runtime_dir: section.take("runtime_dir", value::absolute_path).map(At::into_value),
            receive_buffer: section
                .take("receive_buffer", |v| value::size(v, &defaults::RECEIVE_BUFFER_RANGE))
                .map(At::into_value),
            resync_interval: section
                .take("resync_interval", |v| value::duration(v, &defaults::RESYNC_INTERVAL_RANGE))
                .map(At::into_value),
            audit_interval: section.take("audit_interval", value::audit).map(At::into_value),
            log: section.take("log", value::log).map(At::into_value),
        };
        section.finish();
        daemon
    }
}

impl RawInterface {
    fn read(mut section: Section<'_, '_>, names: &Names) -> Self {
        const LINKS: [(&str, LinkMode); 3] = [
            ("auto", LinkMode::Auto),
            ("shared", LinkMode::Shared),
            ("dedicated", LinkMode::Dedicated),
        ];
        let interface = RawInterface {
            at: section.at,
            name: section.require("name", "name = \"wg0\"", value::interface),
            link: section.take("link", |v| value::choice(v, &LINKS)),
            tables: section.list(
                "tables",
                Some("name a table, or leave `tables` out to follow the VRF's or the main table"),
                |v| value::table(v, names),
            ),
            managed: section.list(
                "managed",
                Some("nothing would ever be synced; leave `managed` out to manage everything"),
                value::parsed,
            ),
            delete_hold: section
                .take("delete_hold", |v| value::duration(v, &defaults::DELETE_HOLD_RANGE))
                .map(At::into_value),
            coalesce: section
                .take("coalesce", |v| value::duration(v, &defaults::COALESCE_RANGE))
                .map(At::into_value),
            message_size: section
                .take("message_size", |v| value::size(v, &defaults::MESSAGE_SIZE_RANGE))
                .map(At::into_value),
            adopt: section
                .take("adopt", |v| value::duration(v, &defaults::ADOPT_RANGE))
                .map(At::into_value),
            on_exit: section.take("on_exit", |v| value::choice(v, &EXITS)).map(At::into_value),
            own: RawLink::read(&mut section),
            filter: section.table("filter").map(RawLinkFilter::of_link),
            reach: section.table("reach").map(|section| RawLinkReach::read(section, names)),
            peers: section
                .sections("peer", "a table in double brackets, [[interface.peer]],", |section| {
                    RawPeer::read(section, names)
                })
                .unwrap_or_default(),
        };
        section.finish();
        interface
    }
}

impl RawPeer {
    fn read(mut section: Section<'_, '_>, names: &Names) -> Self {
        let mut peer = RawPeer {
            at: section.at,
            name: section.take("name", value::peer_name),
            public_key: section.require(
                "public_key",
                "public_key = \"…\", as `wg show` prints it",
                value::parsed,
            ),
            pinned: section.list("pinned", None, value::parsed),
            matches: section
                .sections("match", "a list of tables, [{ protocol = \"bird\" }],", |section| {
                    RawMatch::read(section, names)
                })
                .unwrap_or_default()
                .into_iter()
                .flatten()
                .collect(),
            own: RawPeerLink::read(&mut section),
            filter: section.table("filter").map(RawLinkFilter::of_peer),
            reach: section.table("reach").map(RawPeerReach::read),
            sound: false,
        };
        peer.sound = section.finish();
        peer
    }
}

impl RawMatch {
    /// `None` if a condition could not be read: what is left of the entry would match too much.
    fn read(mut section: Section<'_, '_>, names: &Names) -> Option<Self> {
        let entry = RawMatch {
            at: section.at,
            protocol: section.take("protocol", |v| value::protocol(v, names)),
            realm: section.take("realm", |v| value::realm(v, names)),
            table: section.take("table", |v| value::table(v, names)),
            metric: section.take("metric", value::metric),
            nexthop: section.take("nexthop", value::nexthop),
            gateway: section.take("gateway", value::parsed),
        };
        section.finish().then_some(entry)
    }
}
