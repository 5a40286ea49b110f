//! The filter as people see it: state, peers, counters.
//!
//! Here live the answer to `GET /v1/filter` and its form as text. The state is the core's, the
//! counters are the maps'.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::check::source_word;
use crate::{
    core::filter::{
        report::{Action, FilterState, FilterStatus, FilteredPeer},
        table::HookKind,
    },
    show::table,
};

/// The answer to `GET /v1/filter`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FilterView {
    /// State and counters of the filter as a whole.
    #[serde(flatten)]
    pub status: FilterStatus,
    /// The filtered peers.
    pub peers: Vec<PeerView>,
    /// Packets whose peer could not be told.
    pub unknown: Vec<Count>,
    /// What is counted beside packets, by name.
    pub events: BTreeMap<String, u64>,
    /// Why the counters could not be read.
    pub unread: Option<String>,
}

/// Packets with the same fate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Why.
    pub reason: String,
    /// They were dropped.
    pub dropped: bool,
    /// They passed although the reason speaks against it.
    pub monitored: bool,
    /// How many.
    pub packets: u64,
    /// Their bytes, as the hook saw them.
    pub bytes: u64,
}

/// What the maps counted.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Packets, by peer; 0: unknown.
    pub counts: BTreeMap<u32, Vec<Count>>,
    /// How long ago each peer's last packet passed.
    pub last_seen: BTreeMap<u32, Duration>,
    /// What is counted beside packets.
    pub events: BTreeMap<String, u64>,
}

/// A filtered peer with what was counted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerView {
    /// Who it is and how it is filtered.
    #[serde(flatten)]
    pub peer: FilteredPeer,
    /// Milliseconds since its last packet passed, no more exact than a second; none if none did.
    pub last_seen_ms: Option<u64>,
    /// Packets by reason.
    pub counters: Vec<Count>,
}

impl FilterView {
    /// Brings together what the core knows and what the maps hold.
    pub fn new(
        status: FilterStatus,
        peers: Vec<FilteredPeer>,
        readings: Result<Readings, String>,
    ) -> Self {
        let (mut readings, unread) = match readings {
            Ok(readings) => (readings, None),
            Err(error) => (Readings::default(), Some(error)),
        };
        let peers = peers.into_iter().map(|peer| PeerView {
            last_seen_ms: readings.last_seen.get(&peer.id).map(|age| age.as_millis() as u64),
            counters: readings.counts.remove(&peer.id).unwrap_or_default(),
            peer,
        });
        FilterView {
            status,
            peers: peers.collect(),
            unknown: readings.counts.remove(&0).unwrap_or_default(),
            events: readings.events,
            unread,
        }
    }

    /// Leaves only what concerns one interface.
    pub fn only(mut self, interface: &str) -> Self {
        self.status.links.retain(|link| link.interface == interface);
        self.peers.retain(|row| row.peer.interface == interface);
        self
    }
}

/// `filter show`.
pub fn print(out: &mut impl Write, view: &FilterView) -> io::Result<()> {
    let status = &view.status;
    let state = match status.state {
        FilterState::Off => return writeln!(out, "off: no interface has [interface.filter]"),
        FilterState::Failed => "failed",
        FilterState::Filling => "filling the maps",
        FilterState::Partly => "in force on some links only",
        FilterState::InForce => "in force",
    };
    writeln!(out, "filter: {state}")?;
    if let Some(error) = &status.error {
        writeln!(out, "  {error}")?;
    }
    writeln!(
        out,
        "sources: {} of {} IPv4, {} of {} IPv6, {} refused, {} pending, {} sets",
        status.ipv4_sources,
        status.ipv4_room,
        status.ipv6_sources,
        status.ipv6_room,
        status.refused,
        status.pending,
        status.sets,
    )?;
    let counters = &status.counters;
    writeln!(
        out,
        "changes: {} made, {} refused; {} dumps, {} entries of others repaired, {} times attached \
         again",
        counters.changes, counters.refused, counters.dumps, counters.drift, counters.reattached,
    )?;
    if status.left_out > 0 {
        writeln!(out, "no room for {} peers: raise `peers` in [filter]", status.left_out)?;
    }
    for link in &status.links {
        let hook = match link.hook {
            Some(HookKind::Xdp) => "xdp",
            Some(HookKind::Tcx) => "tcx",
            Some(HookKind::Clsact) => "clsact",
            None => "not attached",
        };
        let doors = if link.opens { ", opens AllowedIPs" } else { "" };
        let error = link.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        writeln!(out, "{}: {hook}{doors}{error}", link.interface)?;
    }
    writeln!(out)?;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    table(
        out,
        ["INTERFACE", "PEER", "SOURCE", "ACTION", "POLICY", "SEEN", "PASSED", "DROPPED"],
        view.peers.iter().map(|row| {
            let PeerView { peer, last_seen_ms, counters } = row;
            let sum = |dropped: bool| {
                let rows = counters.iter().filter(|count| count.dropped == dropped);
                rows.map(|count| count.packets).sum::<u64>().to_string()
            };
            [
                peer.interface.clone(),
                peer.who(),
                source_word(peer.source).to_owned(),
                match (peer.in_force, peer.action) {
                    (false, _) => "not in force",
                    (true, Action::Enforce) => "enforce",
                    (true, Action::Monitor) => "monitor",
                }
                .to_owned(),
                or_dash(peer.policy.clone()),
                or_dash(last_seen_ms.map(|age| format!("{} s ago", age / 1000))),
                sum(false),
                sum(true),
            ]
        }),
    )?;
    let mut counts = Vec::new();
    for row in &view.peers {
        counts.extend(row.counters.iter().map(|count| (row.peer.who(), count)));
    }
    counts.extend(view.unknown.iter().map(|count| ("(unknown)".to_owned(), count)));
    if !counts.is_empty() {
        writeln!(out)?;
        table(
            out,
            ["PEER", "REASON", "PACKETS", "BYTES", "FATE"],
            counts.iter().map(|(peer, count)| {
                [
                    peer.clone(),
                    count.reason.clone(),
                    count.packets.to_string(),
                    count.bytes.to_string(),
                    match (count.dropped, count.monitored) {
                        (true, _) => "dropped",
                        (false, true) => "passed, would be dropped",
                        (false, false) => "passed",
                    }
                    .to_owned(),
                ]
            }),
        )?;
    }
    for (name, times) in view.events.iter().filter(|(_, times)| **times > 0) {
        writeln!(out, "{name}: {times}")?;
    }
    if let Some(error) = &view.unread {
        writeln!(out, "counters could not be read: {error}")?;
    }
    Ok(())
}
