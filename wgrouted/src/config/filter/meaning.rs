//! What the operator meant by the packet filter's configuration.
//!
//! Here live defaults, what peers take over from their link, and every check that needs more than
//! one value. Only values that could be read take part.

use std::collections::BTreeMap;

use ebpf_xdp::layout;

use super::{
    Filter,
    grammar::{self, RuleError},
    link_defaults,
    raw::{RawFilter, RawLinkFilter, RawPolicy},
};
use crate::{
    config::{
        document::{At, Report},
        error::Problem,
        links::raw::RawTunnel,
        meaning::{Unique, values},
        raw::RawInterface,
    },
    core::{
        filter::{
            policy::{PolicyRule, RuleSpec},
            rule::{LinkFilter, PeerFilter, SourceMode},
        },
        prefix::Prefix,
        rule::LinkMode,
    },
};

/// What rules may call a peer, and which prefixes that stands for.
struct Peers<'a> {
    pinned: BTreeMap<&'a str, Vec<Prefix>>,
    /// Some peer could not be read: a name that is unknown may be its.
    incomplete: bool,
}

impl<'a> Peers<'a> {
    fn of(interfaces: Option<&'a [RawInterface]>) -> Self {
        let mut peers = Peers { pinned: BTreeMap::new(), incomplete: interfaces.is_none() };
        for peer in interfaces.into_iter().flatten().flat_map(|interface| &interface.peers) {
            peers.incomplete |= !peer.sound;
            if let Some(name) = &peer.name {
                let pinned = peer.pinned.iter().flatten().map(|prefix| prefix.value);
                peers.pinned.entry(&name.value).or_default().extend(pinned);
            }
        }
        peers
    }

    fn find(&self, name: &str) -> Result<Vec<Prefix>, RuleError> {
        match self.pinned.get(name) {
            Some(pinned) if pinned.is_empty() => Err(RuleError::NothingPinned(name.to_owned())),
            Some(pinned) => Ok(pinned.clone()),
            None => Err(RuleError::UnknownPeer {
                given: name.to_owned(),
                known: self.pinned.keys().map(|&name| name.to_owned()).collect(),
            }),
        }
    }
}

/// What `[filter]` means.
pub(in crate::config) fn filter(
    raw: RawFilter,
    interfaces: Option<&[RawInterface]>,
    tunnels: &[RawTunnel],
    report: &Report<'_>,
) -> Filter {
    let peers = Peers::of(interfaces);
    let Filter { directory, rule: default } = Filter::default();
    let mut rule = default;
    rule.hook = raw.hook.unwrap_or(rule.hook);
    rule.grace = raw.grace.unwrap_or(rule.grace);
    rule.samples_per_second = raw.samples.unwrap_or(rule.samples_per_second);
    rule.audit = raw.audit_interval.unwrap_or(rule.audit);
    rule.on_exit = raw.on_exit.unwrap_or(rule.on_exit);
    let sizes = &mut rule.sizes;
    sizes.sources_v4 = raw.ipv4_sources.unwrap_or(sizes.sources_v4);
    sizes.sources_v6 = raw.ipv6_sources.unwrap_or(sizes.sources_v6);
    sizes.peers = raw.peers.map_or(sizes.peers, |peers| peers.value);
    sizes.flows = raw.flows.unwrap_or(sizes.flows);
    let rules_at = raw.rules.map_or(raw.at, |rules| rules.at);
    sizes.rules = raw.rules.map_or(sizes.rules, |rules| rules.value);

    let filtered = interfaces.into_iter().flatten().filter(|interface| interface.filter.is_some());
    let filtered = filtered.map(|interface| {
        let inside = tunnels.iter().filter(|tunnel| tunnel.is_over(interface.name.as_ref()));
        interface.peers.len() + inside.count()
    });
    let named = filtered.sum();
    if named > sizes.peers as usize {
        let at = raw.peers.map_or(raw.at, |peers| peers.at);
        report.add(at, "filter.peers", Problem::PeersSize { named, room: sizes.peers });
    }

    let mut names = Unique::new(report, "filter.policy.name", "merge the two or correct one name");
    let mut total = 0_usize;
    for raw in raw.policies.into_iter().flatten() {
        if let Some(name) = &raw.name {
            names.add(name.at, name.value.clone(), format!("policy {}", name.value));
        }
        let at = raw.at;
        let policy = policy(raw, &peers, report);
        let size = policy.size();
        if size > layout::MAX_RULES as usize {
            let problem = Problem::PolicySize { size, most: layout::MAX_RULES as usize };
            report.add(at, "filter.policy", problem);
        } else {
            total += size;
        }
        rule.policies.push(policy);
    }
    // While a policy is replaced, the maps hold the old one and the new one.
    let needed = 2 * total;
    if needed > rule.sizes.rules as usize {
        let problem = Problem::RulesSize { total, needed, room: rule.sizes.rules };
        report.add(rules_at, "filter.rules", problem);
    }
    Filter { directory: raw.directory.unwrap_or(directory), rule }
}

fn policy(raw: RawPolicy, peers: &Peers<'_>, report: &Report<'_>) -> PolicyRule {
    let mut rules = Vec::new();
    for At { at, value } in raw.rules {
        let line = u32::try_from(report.line(at)).unwrap_or(u32::MAX);
        match grammar::parse(&value, line, |name| peers.find(name)) {
            Ok(specs) => rules.extend(specs),
            // Its section says what is wrong with it.
            Err(RuleError::UnknownPeer { .. } | RuleError::NothingPinned(_))
                if peers.incomplete => {}
            Err(error) => report.add(at, "filter.policy.rules", Problem::Rule(error)),
        }
    }
    if raw.most_specific == Some(true) {
        rules = most_specific(rules);
    }
    PolicyRule {
        name: raw.name.map(|name| name.value).unwrap_or_default(),
        accept: raw.accept.unwrap_or(false),
        stateful: raw.stateful.unwrap_or(true),
        rules,
    }
}

/// One rule a destination, longest destination first; equal ones stay as they are.
fn most_specific(rules: Vec<RuleSpec>) -> Vec<RuleSpec> {
    let mut split: Vec<RuleSpec> = Vec::new();
    for rule in rules {
        if rule.to.len() < 2 {
            split.push(rule);
        } else {
            split.extend(rule.to.iter().map(|&to| RuleSpec { to: vec![to], ..rule.clone() }));
        }
    }
    split.retain(|rule| rule.size() > 0);
    let length = |rule: &RuleSpec| rule.to.first().map_or(0, Prefix::prefix_len);
    split.sort_by_key(|rule| std::cmp::Reverse(length(rule)));
    split
}

/// The policies that a link or a peer may name.
pub(in crate::config) struct Policies(Option<Vec<String>>);

impl Policies {
    /// Those of `[filter]`; if one of them could not be read, any name may be its.
    pub(in crate::config) fn of(raw: &RawFilter) -> Self {
        let names = |policies: &Vec<RawPolicy>| {
            policies.iter().map(|policy| Some(policy.name.as_ref()?.value.clone())).collect()
        };
        Policies(raw.policies.as_ref().and_then(names))
    }

    fn check(&self, policy: &At<String>, key: String, report: &Report<'_>) {
        if let Some(known) = &self.0
            && !known.contains(&policy.value)
        {
            let (given, known) = (policy.value.clone(), known.clone());
            report.add(policy.at, key, Problem::UnknownPolicy { given, known });
        }
    }
}

/// What an interface's `filter` means.
pub(in crate::config) fn link(
    raw: RawLinkFilter,
    link: Option<LinkMode>,
    policies: &Policies,
    report: &Report<'_>,
) -> LinkFilter {
    let default = link_defaults();
    if let Some(At { at, value: true }) = raw.open
        && link != Some(LinkMode::Dedicated)
    {
        report.add(at, "interface.filter.open", Problem::OpenShared);
    }
    let open = raw.open.map_or(default.open, |open| open.value);
    let peers = resolve(raw, &default.peers, "interface.filter", policies, report);
    LinkFilter { peers, open }
}

/// What a peer's `filter` means, on a link that is filtered like this.
pub(in crate::config) fn peer(
    raw: RawLinkFilter,
    link: Option<&LinkFilter>,
    policies: &Policies,
    report: &Report<'_>,
) -> Option<PeerFilter> {
    const KEY: &str = "interface.peer.filter";
    let Some(link) = link else {
        report.add(raw.at, KEY, Problem::PeerFilterAlone);
        return None;
    };
    Some(resolve(raw, &link.peers, KEY, policies, report))
}

/// What a tunnel's `filter` means, whose peer is filtered like `above`; `None`: it is not.
pub(in crate::config) fn tunnel(
    raw: Option<RawLinkFilter>,
    above: Option<&PeerFilter>,
    policies: &Policies,
    report: &Report<'_>,
) -> Option<PeerFilter> {
    const KEY: &str = "tunnel.filter";
    match (raw, above) {
        (None, above) => above.cloned(),
        (Some(raw), Some(above)) => Some(resolve(raw, above, KEY, policies, report)),
        (Some(raw), None) => {
            report.add(raw.at, KEY, Problem::TunnelFilterAlone);
            None
        }
    }
}

/// Fills in what is absent from what stands above: the link's filter, or the defaults.
fn resolve(
    raw: RawLinkFilter,
    above: &PeerFilter,
    key: &'static str,
    policies: &Policies,
    report: &Report<'_>,
) -> PeerFilter {
    let list_key = format!("{key}.list");
    let mut listed = Unique::new(report, &list_key, "list it once");
    for prefix in raw.list.iter().flatten() {
        listed.add(prefix.at, prefix.value, format!("prefix {}", prefix.value));
    }
    if let Some(policy) = &raw.policy {
        policies.check(policy, format!("{key}.policy"), report);
    }
    let group = raw.group.or_else(|| above.group.clone());
    if let Some(source) = &raw.source {
        let problem = match source.value {
            SourceMode::List if raw.list.is_none() && above.list.is_empty() => {
                Some(Problem::NoList)
            }
            SourceMode::Group if group.is_none() => Some(Problem::NoGroup),
            _ => None,
        };
        if let Some(problem) = problem {
            report.add(source.at, format!("{key}.source"), problem);
        }
    }
    PeerFilter {
        source: raw.source.map_or(above.source, |source| source.value),
        monitor: raw.monitor.unwrap_or(above.monitor),
        list: raw.list.map_or_else(|| above.list.clone(), values),
        group,
        policy: raw.policy.map(|policy| policy.value).or_else(|| above.policy.clone()),
        link_local: raw.link_local.unwrap_or(above.link_local),
        unspecified: raw.unspecified.unwrap_or(above.unspecified),
        control: raw.control.unwrap_or(above.control),
        ignore_default: raw.ignore_default.unwrap_or(above.ignore_default),
    }
}
