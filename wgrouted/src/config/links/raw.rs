//! What the operator wrote about links that we make.
//!
//! Here live the keys. Single values are checked; what they mean together is `meaning`'s business.

use std::{net::IpAddr, path::PathBuf};

use super::{TTL_RANGE, value as links};
use crate::{
    config::{
        document::{At, Section},
        filter::raw::RawLinkFilter,
        names::Names,
        value,
    },
    core::{
        links::{
            address::InterfaceAddress,
            rule::{Endpoint, LinkLocal, MtuRule, TunnelKind},
        },
        prefix::Prefix,
        route::TableId,
    },
};

/// What `[[interface]]` has beside the keys of the interface as it is followed.
pub(in crate::config) struct RawLink {
    pub(super) manage: bool,
    pub(super) private_key_file: Option<At<PathBuf>>,
    pub(super) listen_port: Option<At<u16>>,
    pub(super) fwmark: Option<At<u32>>,
    pub(super) ends: RawEnds,
}

/// What all links have.
pub(in crate::config) struct RawEnds {
    pub(super) addresses: Option<Vec<At<InterfaceAddress>>>,
    pub(super) link_local: Option<At<LinkLocal>>,
    pub(super) mtu: Option<At<MtuRule>>,
}

/// What `[[interface.peer]]` has beside.
pub(in crate::config) struct RawPeerLink {
    pub(super) endpoint: Option<At<Endpoint>>,
    pub(super) keepalive: Option<At<u16>>,
    pub(super) preshared_key_file: Option<At<PathBuf>>,
}

/// `[[tunnel]]`.
pub(in crate::config) struct RawTunnel {
    pub(super) at: usize,
    pub(super) manage: bool,
    pub(super) name: Option<At<String>>,
    pub(super) kind: Option<At<TunnelKind>>,
    pub(super) over: Option<At<String>>,
    pub(super) peer: Option<At<String>>,
    pub(super) local: Option<At<IpAddr>>,
    pub(super) remote: Option<At<IpAddr>>,
    pub(super) ttl: Option<At<u8>>,
    pub(super) key: Option<At<u32>>,
    pub(super) ends: RawEnds,
    pub(super) tables: Option<Vec<At<TableId>>>,
    pub(super) pinned: Option<Vec<At<Prefix>>>,
    pub(super) filter: Option<RawLinkFilter>,
    /// Whether nothing is wrong inside it.
    pub(super) sound: bool,
}

impl RawLink {
    pub(in crate::config) fn read(section: &mut Section<'_, '_>) -> Self {
        let port = |v: &_| value::count(v, &(1..=u16::MAX.into())).map(|port| port as u16);
        RawLink {
            manage: section.take("manage", value::boolean).is_some_and(|manage| manage.value),
            private_key_file: section.take("private_key_file", value::absolute_path),
            listen_port: section.take("listen_port", port),
            fwmark: section.take("fwmark", |v| value::count(v, &(0..=u32::MAX))),
            ends: RawEnds::read(section),
        }
    }
}

impl RawEnds {
    fn read(section: &mut Section<'_, '_>) -> Self {
        RawEnds {
            addresses: section.list("addresses", None, value::parsed),
            link_local: section.take("link_local", links::link_local),
            mtu: section.take("mtu", links::mtu),
        }
    }
}

impl RawPeerLink {
    pub(in crate::config) fn read(section: &mut Section<'_, '_>) -> Self {
        RawPeerLink {
            endpoint: section.take("endpoint", value::parsed),
            keepalive: section.take("keepalive", links::keepalive),
            preshared_key_file: section.take("preshared_key_file", value::absolute_path),
        }
    }
}

impl RawTunnel {
    pub(in crate::config) fn read(mut section: Section<'_, '_>, names: &Names) -> Self {
        const KINDS: [(&str, TunnelKind); 3] =
            [("gre", TunnelKind::Gre), ("ip6gre", TunnelKind::Ip6gre), ("ipip", TunnelKind::Ipip)];
        let manage = section.take("manage", value::boolean).is_none_or(|manage| manage.value);
        let kind = |v: &_| value::choice(v, &KINDS);
        let mut tunnel = RawTunnel {
            at: section.at,
            manage,
            name: section.require("name", "name = \"gre-a\"", value::interface),
            kind: if manage {
                section.require("kind", "kind = \"gre\"", kind)
            } else {
                section.take("kind", kind)
            },
            over: section.require("over", "over = \"wg0\"", value::interface),
            peer: section.take("peer", value::peer_name),
            local: section.take("local", links::address),
            remote: section.take("remote", links::address),
            ttl: section.take("ttl", |v| value::count(v, &TTL_RANGE).map(|ttl| ttl as u8)),
            key: section.take("key", |v| value::count(v, &(0..=u32::MAX))),
            ends: RawEnds::read(&mut section),
            tables: section.list(
                "tables",
                Some("name a table, or leave `tables` out to follow those of the interface"),
                |v| value::table(v, names),
            ),
            pinned: section.list("pinned", None, value::parsed),
            filter: section.table("filter").map(RawLinkFilter::of_peer),
            sound: false,
        };
        tunnel.sound = section.finish();
        tunnel
    }

    /// Whether it is inside the interface of this name.
    pub(in crate::config) fn is_over(&self, interface: Option<&At<String>>) -> bool {
        let over = self.over.as_ref().map(|over| &over.value);
        over.is_some() && over == interface.map(|name| &name.value)
    }
}
