//! What the kernel should hold, given what is configured and which links are used.
//!
//! Here live [`Want`] and how it is worked out. Numbers that are not configured (priorities, numbers
//! of nexthop objects) are `steps`' business. Invariant: nothing here depends on what the kernel
//! holds, but for tables that somebody else has.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use super::{
    iprule::{Action, Selector, Span},
    object::Hop,
    order::Clause,
    rule::{ExitRule, FlowRule, FlowsRule, Guard, Target, WhenDown},
};
use crate::core::{
    prefix::{Family, Prefix},
    route::{IfIndex, TableId},
};

/// The protocol of WireGuard's packets.
const UDP: u8 = 17;
/// `iif` of packets that the host itself sends.
const LOOPBACK: &str = "lo";
/// DSCPs that kernels without `FRA_DSCP` see whole in the TOS octet of IPv4 packets (`IPTOS_RT_MASK`).
const LOW_DSCPS: u8 = 8;

/// What a kernel can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Rules by DSCP (`FRA_DSCP`, Linux 6.13).
    pub dscp: bool,
    /// Resilient groups (Linux 5.13).
    pub resilient: bool,
    /// IPv6.
    pub ipv6: bool,
}

impl Features {
    /// The families that there are.
    fn families(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.ipv6 || *family == Family::V4)
    }
}

/// What is known of the world.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// For each exit, by position: the links that are used, with their weights.
    pub used: Vec<Vec<Used>>,
    /// Ports that WireGuard devices listen on, by name.
    pub ports: BTreeMap<String, u16>,
    /// Tables that somebody else has.
    pub taken: BTreeSet<TableId>,
}

/// A link in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// The link.
    pub oif: IfIndex,
    /// Its share.
    pub weight: u16,
    /// Whether it carries IPv6.
    pub ipv6: bool,
}

/// What a table should hold for a family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The links that lead out, with weights; none: no way out.
    pub hops: BTreeMap<Hop, u16>,
    /// Whether flows keep their link when others come and go.
    pub resilient: bool,
    /// Source of the host's own packets.
    pub source: Option<IpAddr>,
    /// What has no way out is rejected.
    pub block: bool,
}

/// What the kernel should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Rules in the order in which they shall be tried, by family. The anchor, which ends
    /// them, is not among them.
    pub rules: BTreeMap<Family, Vec<Clause>>,
    /// The flow, by position, that each of these rules belongs to; none for guards.
    pub flows: BTreeMap<Family, Vec<Option<usize>>>,
    /// Tables.
    pub tables: BTreeMap<(TableId, Family), Content>,
    /// What cannot be had, and why.
    pub faults: Vec<Fault>,
    /// The table of each exit, by position.
    pub exits: Vec<Option<TableId>>,
}

/// What is configured and cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Fault {
    /// The kernel cannot tell packets apart like this.
    #[error(
        "flow {flow}: this kernel does not see the whole DSCP of IPv4 packets (Linux 6.13 does): \
         IPv4 packets are not selected; mark them with nft and select by `mark`"
    )]
    Dscp {
        /// The flow.
        flow: String,
    },
    /// All tables are taken.
    #[error("exit {exit}: no table of `tables` is free: give `tables` in [flows] a wider range")]
    Tables {
        /// The exit.
        exit: String,
    },
    /// The table is somebody else's.
    #[error(
        "exit {exit}: table {table} holds routes of protocol {protocol}: name another `table`, or, if \
         a routing daemon fills it for this exit, set `feed = true`"
    )]
    Table {
        /// The exit.
        exit: String,
        /// The table.
        table: TableId,
        /// Whose.
        protocol: u8,
    },
    /// A rule among ours is somebody else's.
    #[error(
        "somebody else's rule `{rule}` ({family}) stands among the priorities of flows: give `rules` in \
         [flows] another range, or remove it: ip {} rule del priority {priority}",
        if *.family == Family::V6 { "-6" } else { "-4" }
    )]
    Rule {
        /// Its family.
        family: Family,
        /// Its priority.
        priority: u32,
        /// The rule.
        rule: String,
    },
    /// There is no room for all rules.
    #[error("{count} rules do not fit into `rules` in [flows]: give it a wider range")]
    Rules {
        /// How many.
        count: usize,
    },
    /// There is no free number for a nexthop object.
    #[error("no number of `nexthops` in [flows] is free: give it a wider range")]
    Nexthops,
}

impl Want {
    /// Works it out.
    pub fn of(rule: &FlowsRule, world: &World, features: Features) -> Want {
        let mut want = Want::default();
        if rule.is_empty() {
            return want;
        }
        want.exits = tables(rule, &world.taken, &mut want.faults);
        for (position, exit) in rule.exits.iter().enumerate() {
            let Some(table) = want.exits[position] else { continue };
            let used = world.used.get(position).map_or(&[][..], Vec::as_slice);
            for family in features.families() {
                let content = content(exit, used, family, features);
                want.tables.insert((table, family), content);
            }
        }
        for family in features.families() {
            let clauses = clauses(rule, world, family, features, &mut want);
            let (clauses, flows) = clauses.into_iter().unzip();
            want.rules.insert(family, clauses);
            want.flows.insert(family, flows);
        }
        want
    }

    /// The flow, by position, that each rule of a family belongs to.
    pub fn flows_by_clause(&self, family: Family) -> HashMap<(&Selector, Action), usize> {
        let rules = self.rules.get(&family).into_iter().flatten();
        let flows = self.flows.get(&family).into_iter().flatten();
        rules
            .zip(flows)
            .filter_map(|((selector, action), flow)| Some(((selector, *action), (*flow)?)))
            .collect()
    }
}

/// Each exit's table: the configured one, or one by its name, so that neither a restart nor another
/// exit changes it.
fn tables(
    rule: &FlowsRule,
    taken: &BTreeSet<TableId>,
    faults: &mut Vec<Fault>,
) -> Vec<Option<TableId>> {
    let mut used: BTreeSet<TableId> = rule.exits.iter().filter_map(|exit| exit.table).collect();
    used.extend(taken);
    let mut tables: Vec<Option<TableId>> = rule.exits.iter().map(|exit| exit.table).collect();
    let mut unnumbered: Vec<usize> =
        (0..rule.exits.len()).filter(|at| rule.exits[*at].table.is_none()).collect();
    unnumbered.sort_by_key(|at| &rule.exits[*at].name);
    let (first, last) = (*rule.tables.start(), *rule.tables.end());
    let width = u64::from(last - first) + 1;
    for at in unnumbered {
        let name = &rule.exits[at].name;
        let hash = fnv(name.as_bytes()) % width;
        let candidates = (0..width).map(|step| first + ((hash + step) % width) as TableId);
        match candidates.into_iter().find(|table| !used.contains(table)) {
            Some(table) => {
                used.insert(table);
                tables[at] = Some(table);
            }
            None => faults.push(Fault::Tables { exit: name.clone() }),
        }
    }
    tables
}

/// FNV-1a: the same number for the same name, whatever the compiler.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn content(exit: &ExitRule, used: &[Used], family: Family, features: Features) -> Content {
    let mut content = Content { block: exit.when_down == WhenDown::Block, ..Content::default() };
    if exit.feed {
        return content;
    }
    for link in used.iter().filter(|link| link.ipv6 || family == Family::V4) {
        content.hops.insert(Hop { family, oif: link.oif }, link.weight);
    }
    content.resilient = exit.weighted && features.resilient;
    content.source = exit.source.iter().find(|ip| ip.is_ipv6() == (family == Family::V6)).copied();
    content
}

/// The rules of a family, each with its flow's position: guards, then flows in their order. The anchor
/// that ends them is `steps`' business.
fn clauses(
    rule: &FlowsRule,
    world: &World,
    family: Family,
    features: Features,
    want: &mut Want,
) -> Vec<(Clause, Option<usize>)> {
    let anchor = *rule.rules.end();
    let mut all = Vec::new();
    for guard in &rule.guards {
        let selector = guarded(guard, world, family);
        all.extend(selector.map(|selector| ((selector, Action::Goto(anchor)), None)));
    }
    for (position, flow) in rule.flows.iter().enumerate() {
        let actions: &[Action] = match &flow.target {
            Target::Main => &[Action::Goto(anchor)],
            Target::Block => &[Action::Unreachable],
            Target::Exit(name) => {
                let Some(at) = rule.exits.iter().position(|exit| exit.name == *name) else {
                    continue;
                };
                // A flow of an exit that cannot be had must not leak where it is to be blocked.
                match (want.exits[at], rule.exits[at].when_down) {
                    (Some(table), WhenDown::Main) => &[Action::table(table), Action::Goto(anchor)],
                    (Some(table), WhenDown::Next | WhenDown::Block) => &[Action::table(table)],
                    (None, WhenDown::Main) => &[Action::Goto(anchor)],
                    (None, WhenDown::Block) => &[Action::Unreachable],
                    (None, WhenDown::Next) => &[],
                }
            }
        };
        let selectors = selectors(flow, family, features, &mut want.faults);
        for selector in selectors {
            let clauses = actions.iter().map(|action| (selector.clone(), *action));
            all.extend(clauses.map(|clause| (clause, Some(position))));
        }
    }
    // Of rules that say the same the first one decides.
    let mut seen = HashSet::new();
    all.retain(|(clause, _)| seen.insert(clause.clone()));
    all
}

fn guarded(guard: &Guard, world: &World, family: Family) -> Option<Selector> {
    let own = Selector { iif: Some(LOOPBACK.to_owned()), ..Selector::default() };
    match guard {
        Guard::Device { name } => {
            let port = *world.ports.get(name)?;
            let sport = Some(Span { first: port, last: port });
            Some(Selector { protocol: UDP, sport, ..own })
        }
        Guard::Tunnel { local, protocol } => {
            let from = Prefix::host(*local);
            (from.family() == family).then_some(Selector {
                from: Some(from),
                protocol: *protocol,
                ..own
            })
        }
    }
}

/// One selector for each combination of what a flow lists.
fn selectors(
    flow: &FlowRule,
    family: Family,
    features: Features,
    faults: &mut Vec<Fault>,
) -> Vec<Selector> {
    let (Some(from), Some(to)) = (of_family(&flow.from, family), of_family(&flow.to, family))
    else {
        return Vec::new();
    };
    let mut base = Selector {
        iif: flow.iif.clone(),
        mark: flow.mark,
        tos: flow.tos,
        protocol: flow.protocol,
        ..Selector::default()
    };
    match flow.dscp {
        Some(dscp) if features.dscp => base.dscp = Some(dscp),
        Some(dscp) if family == Family::V6 || dscp < LOW_DSCPS => base.tos = dscp << 2,
        Some(_) => {
            faults.push(Fault::Dscp { flow: flow.name.clone() });
            return Vec::new();
        }
        None => {}
    }
    // What is forwarded counts as root's, whoever sent it.
    if !flow.uid.is_empty() {
        base.iif = Some(LOOPBACK.to_owned());
    }
    // An interface in a VRF, or a socket bound to one, which is all that a user can have there.
    let vrfs = match &flow.vrf {
        None => vec![base],
        Some(vrf) => {
            let bound = Selector { oif: Some(vrf.clone()), ..base.clone() };
            let inside = Selector { iif: Some(vrf.clone()), ..base };
            if flow.uid.is_empty() { vec![inside, bound] } else { vec![bound] }
        }
    };
    let mut all = Vec::new();
    for base in vrfs {
        for from in &from {
            for to in &to {
                for uid in options(&flow.uid) {
                    for sport in options(&flow.sport) {
                        for dport in options(&flow.dport) {
                            all.push(Selector {
                                from: *from,
                                to: *to,
                                uid,
                                sport,
                                dport,
                                ..base.clone()
                            });
                        }
                    }
                }
            }
        }
    }
    all
}

/// The prefixes of a family, or "any"; `None` if only the other family is meant. A default route
/// says "any of this family".
fn of_family(prefixes: &[Prefix], family: Family) -> Option<Vec<Option<Prefix>>> {
    if prefixes.is_empty() {
        return Some(vec![None]);
    }
    let fitting = prefixes.iter().filter(|prefix| prefix.family() == family);
    let fitting: Vec<_> =
        fitting.map(|prefix| Some(*prefix).filter(|prefix| !prefix.is_default())).collect();
    (!fitting.is_empty()).then_some(fitting)
}

fn options<T: Copy>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
}
