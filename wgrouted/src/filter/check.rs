//! What a configuration means to the packet filter: `wgrouted filter check`.
//!
//! Here live the report and its printing. A configuration that exists fits the maps, so all that is
//! said here is good news.

use std::io::{self, Write};

use serde::Serialize;

use crate::{
    config::{Config, filter::Canonical},
    core::{
        filter::{
            policy::{PolicyRule, compile},
            rule::{PeerFilter, SourceMode},
        },
        prefix::Prefix,
    },
    show::table,
};

/// The report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// How the links are filtered, in file order; each followed by its peers that have a filter of
    /// their own and by the tunnels inside it.
    pub links: Vec<LinkRow>,
    /// The policies, in file order.
    pub policies: Vec<PolicyRow>,
    /// Rules of all policies.
    pub rules: Room,
    /// Peers of filtered links that the configuration names; others are learned.
    pub peers: Room,
}

/// How a link or one of its peers is filtered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LinkRow {
    /// The interface.
    pub interface: String,
    /// The peer; `None`: all that have no filter of their own, or a tunnel's that is not named.
    pub peer: Option<String>,
    /// The tunnel through which it speaks; `None`: directly.
    pub tunnel: Option<String>,
    /// Which sources it may use.
    pub source: SourceMode,
    /// What would be dropped passes.
    pub monitor: bool,
    /// The legal sources, or what narrows them.
    pub list: Vec<Prefix>,
    /// Its group.
    pub group: Option<String>,
    /// Its policy.
    pub policy: Option<String>,
}

/// What became of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyRow {
    /// Its name.
    pub name: String,
    /// What no rule matches passes.
    pub accept: bool,
    /// Flows are tracked.
    pub stateful: bool,
    /// In the order in which they are asked.
    pub rules: Vec<SpecRow>,
    /// Rules after compilation.
    pub compiled: usize,
}

/// What became of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SpecRow {
    /// Its line in the file.
    pub line: u32,
    /// What it means.
    pub rule: String,
    /// Rules after compilation.
    pub compiled: usize,
}

/// How much of something there is, and for how much there is room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Room {
    /// What there is.
    pub used: usize,
    /// What there may be.
    pub room: usize,
}

impl Check {
    /// What this configuration means.
    pub fn of(config: &Config) -> Self {
        let mut links = Vec::new();
        let mut peers = 0;
        for interface in &config.interfaces {
            let Some(filter) = &interface.filter else { continue };
            peers += interface.peers.len() + interface.tunnels.len();
            let row = |peer, tunnel, filter| LinkRow::of(&interface.name, peer, tunnel, filter);
            links.push(row(None, None, &filter.peers));
            let own = interface.peers.iter();
            let own = own.filter_map(|peer| Some((&peer.name, peer.filter.as_ref()?)));
            links.extend(own.map(|(peer, filter)| row(Some(peer), None, filter)));
            links.extend(interface.tunnels.iter().map(|tunnel| {
                let key = tunnel.peer;
                let peer = interface.peers.iter().find(|peer| Some(peer.public_key) == key);
                row(peer.map(|peer| &peer.name), Some(&tunnel.name), &tunnel.filter)
            }));
        }
        let sizes = config.filter.rule.sizes;
        let policies: Vec<_> = config.filter.rule.policies.iter().map(PolicyRow::of).collect();
        // One half of the room is for policies that replace others.
        let rules = Room {
            used: policies.iter().map(|policy| policy.compiled).sum(),
            room: sizes.rules as usize / 2,
        };
        Check { links, policies, rules, peers: Room { used: peers, room: sizes.peers as usize } }
    }
}

impl LinkRow {
    fn of(
        interface: &str,
        peer: Option<&String>,
        tunnel: Option<&String>,
        filter: &PeerFilter,
    ) -> Self {
        LinkRow {
            interface: interface.to_owned(),
            peer: peer.cloned(),
            tunnel: tunnel.cloned(),
            source: filter.source,
            monitor: filter.monitor,
            list: filter.list.clone(),
            group: filter.group.clone(),
            policy: filter.policy.clone(),
        }
    }
}

impl PolicyRow {
    fn of(policy: &PolicyRule) -> Self {
        let compiled = compile(policy);
        let rules = (0..).zip(&policy.rules).map(|(tag, spec)| SpecRow {
            line: spec.line,
            rule: Canonical(spec).to_string(),
            compiled: compiled.rules.iter().filter(|rule| rule.tag == tag).count(),
        });
        PolicyRow {
            name: policy.name.clone(),
            accept: compiled.accept,
            stateful: compiled.stateful,
            rules: rules.collect(),
            compiled: compiled.rules.len(),
        }
    }
}

/// Prints the report for people.
pub fn print(out: &mut impl Write, check: &Check) -> io::Result<()> {
    let Check { links, policies, rules, peers } = check;
    if links.is_empty() {
        writeln!(out, "ok: no interface is filtered; add [interface.filter] to one")?;
    } else {
        let texts =
            |list: &[Prefix]| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let or_dash = |text: Option<&str>| text.unwrap_or("-").to_owned();
        table(
            out,
            ["INTERFACE", "PEER", "SOURCE", "ACTION", "POLICY", "GROUP", "LIST"],
            links.iter().map(|row| {
                [
                    row.interface.clone(),
                    match (&row.peer, &row.tunnel) {
                        (None, None) => "(any other)".to_owned(),
                        (None, Some(tunnel)) => format!("(the far end) in {tunnel}"),
                        (Some(peer), None) => peer.clone(),
                        (Some(peer), Some(tunnel)) => format!("{peer} in {tunnel}"),
                    },
                    source_word(row.source).to_owned(),
                    if row.monitor { "monitor" } else { "enforce" }.to_owned(),
                    or_dash(row.policy.as_deref()),
                    or_dash(row.group.as_deref()),
                    or_dash(Some(texts(&row.list).as_str()).filter(|text| !text.is_empty())),
                ]
            }),
        )?;
    }
    for policy in policies {
        let state = if policy.stateful { "stateful" } else { "stateless" };
        let default = if policy.accept { "accepts" } else { "drops" };
        let PolicyRow { name, compiled, .. } = policy;
        writeln!(out, "\npolicy {name}: {default} by default, {state}, {compiled} rules compiled")?;
        for SpecRow { line, rule, compiled } in &policy.rules {
            writeln!(out, "  line {line}: {rule} ({compiled})")?;
        }
    }
    writeln!(
        out,
        "\nfits: {} of {} rules, {} of {} peers (those that are learned come on top)",
        rules.used, rules.room, peers.used, peers.room
    )
}

/// As the configuration has it.
pub(super) const fn source_word(source: SourceMode) -> &'static str {
    match source {
        SourceMode::Off => "off",
        SourceMode::Strict => "strict",
        SourceMode::Feasible => "feasible",
        SourceMode::Loose => "loose",
        SourceMode::List => "list",
        SourceMode::Group => "group",
    }
}
