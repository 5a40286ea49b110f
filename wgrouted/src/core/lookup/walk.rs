//! The walk of a packet through the policy rules.
//!
//! Here lives [`walk`], after `fib_rules_lookup`, net/core/fib_rules.c: rule by rule, with the reason
//! for each, to what becomes of the packet.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    packet::Packet,
    picture::{Picture, vrf_table},
    select::{Flow, Mismatch, select},
    table::{Best, Found, best},
};
use crate::core::{
    exits::iprule::{Action, IpRule},
    nexthops::{ResolvedHop, ResolvedHops},
    prefix::Family,
    route::{IfIndex, Route, RouteKind, TableId},
};

/// What became of a packet, and how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Walk {
    /// The rules that were tried, in order.
    pub steps: Vec<Step>,
    /// What becomes of it.
    pub decision: Decision,
}

/// A rule that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The rule.
    pub rule: IpRule,
    /// What it did.
    pub outcome: Outcome,
}

/// What a rule did with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is for other packets.
    Skipped(Mismatch),
    /// It passed the packet on to a later rule.
    Jumped,
    /// It should have, but there is no rule of that priority.
    NoTarget,
    /// It does nothing.
    Passed,
    /// A table was looked up.
    Looked {
        /// The table.
        table: TableId,
        /// What it said.
        found: Found,
        /// Why that does not count.
        #[serde(skip_serializing_if = "Option::is_none")]
        suppressed: Option<Suppressed>,
    },
    /// It rejected the packet.
    Rejected(RouteKind),
}

impl Step {
    /// Whether nobody can tell if the rule's route counts. In IPv6 that is asked of the hop that the
    /// hash took, and of a route in the cache of its nexthop object, which routes of one object share
    /// (`fib6_rule_suppress`, net/ipv6/fib6_rules.c).
    pub fn is_open(&self, picture: &Picture<'_>) -> bool {
        let (
            Outcome::Looked { found: Found::Route(best), suppressed, .. },
            Action::Table { suppress_prefixlength, suppress_group, .. },
        ) = (&self.outcome, self.rule.action)
        else {
            return false;
        };
        let unwanted = |one: &ResolvedHop| picture.groups.get(&one.hop.oif).copied();
        best.route.prefix.family() == Family::V6
            && (suppress_prefixlength.is_some() && best.route.path.nexthop != 0
                || suppressed.is_none()
                    && suppress_group.is_some()
                    && best.hops.iter().any(|one| unwanted(one) == suppress_group))
    }
}

/// Why a route does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suppressed {
    /// Its prefix is no longer than this.
    Prefixlength(u32),
    /// It leaves by a link of this group.
    Group(u32),
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// It takes a route.
    Route {
        /// The rule that decided.
        rule: IpRule,
        /// The route.
        #[serde(flatten)]
        best: Best,
    },
    /// No route matches, but its socket is bound to a link, on which IPv4 takes the destination for a
    /// neighbour (`ip_route_output_key_hash_rcu`, net/ipv4/route.c).
    OnLink {
        /// The link.
        oif: IfIndex,
    },
    /// It is rejected.
    Rejected {
        /// The rule that decided.
        rule: IpRule,
        /// How.
        kind: RouteKind,
        /// By which route; `None`: by the rule itself.
        #[serde(skip_serializing_if = "Option::is_none")]
        route: Option<Route>,
    },
    /// Nothing matches.
    NoRoute,
}

/// What becomes of a packet. `routes` gives the routes of a table whose prefixes hold the
/// destination, in the kernel's order; each table is asked for once, and only when it is needed.
pub fn walk<E>(
    picture: &Picture<'_>,
    packet: Packet,
    mut routes: impl FnMut(TableId) -> Result<Vec<Route>, E>,
) -> Result<Walk, E> {
    let flow = Flow::new(picture, packet);
    let mut known: BTreeMap<TableId, Found> = BTreeMap::new();
    let mut walk = Walk { steps: Vec::new(), decision: Decision::NoRoute };
    let is_v4 = packet.family() == Family::V4;
    // IPv4 does not even ask.
    let down = |index| picture.link(index).is_some_and(|link| !link.up);
    if is_v4 && packet.iif.is_none() && packet.oif.is_some_and(down) {
        return Ok(walk);
    }
    let mut at = 0;
    while let Some(rule) = picture.rules.get(at) {
        at += 1;
        let mut step = |outcome| walk.steps.push(Step { rule: rule.clone(), outcome });
        if let Err(why) = select(picture, &flow, &rule.selector) {
            step(Outcome::Skipped(why));
            continue;
        }
        let reject = |kind, route| Decision::Rejected { rule: rule.clone(), kind, route };
        let decision = match rule.action {
            Action::Nop => {
                step(Outcome::Passed);
                continue;
            }
            Action::Goto(to) => {
                // The target lies behind: the kernel refuses others.
                let target = picture.rules.iter().position(|rule| rule.priority == to);
                match target.filter(|target| *target >= at) {
                    Some(target) => {
                        step(Outcome::Jumped);
                        at = target;
                    }
                    None => step(Outcome::NoTarget),
                }
                continue;
            }
            Action::Unreachable => reject(RouteKind::Unreachable, None),
            Action::Prohibit => reject(RouteKind::Prohibit, None),
            Action::Blackhole | Action::Other(_) => reject(RouteKind::Blackhole, None),
            Action::Table { table, .. } => {
                let vrf = flow.vrf.and_then(vrf_table);
                let table = if rule.selector.l3mdev { vrf.unwrap_or(table) } else { table };
                let found = match known.get(&table) {
                    Some(found) => found.clone(),
                    None => {
                        let found = best(picture, &flow, &routes(table)?);
                        known.insert(table, found.clone());
                        found
                    }
                };
                let suppressed = suppressed(picture, rule, &found);
                step(Outcome::Looked { table, found: found.clone(), suppressed });
                match found {
                    Found::Route(best) if suppressed.is_none() => {
                        Decision::Route { rule: rule.clone(), best }
                    }
                    Found::Reject { kind, route } => reject(kind, Some(route)),
                    Found::Route(_) | Found::Nothing | Found::Throw(_) => continue,
                }
            }
        };
        if let Decision::Rejected { kind, route: None, .. } = &decision {
            step(Outcome::Rejected(*kind));
        }
        walk.decision = decision;
        break;
    }
    if is_v4
        && packet.iif.is_none()
        && flow.vrf.is_none()
        && !matches!(walk.decision, Decision::Route { .. })
        && let Some(oif) = packet.oif
    {
        walk.decision = Decision::OnLink { oif };
    }
    Ok(walk)
}

/// Whether a rule does not want what its table said (`fib4_rule_suppress`, `fib6_rule_suppress`).
fn suppressed(picture: &Picture<'_>, rule: &IpRule, found: &Found) -> Option<Suppressed> {
    let (Found::Route(best), Action::Table { suppress_prefixlength, suppress_group, .. }) =
        (found, rule.action)
    else {
        return None;
    };
    if let Some(length) = suppress_prefixlength
        && u32::from(best.route.prefix.prefix_len()) <= length
    {
        return Some(Suppressed::Prefixlength(length));
    }
    let unwanted = suppress_group?;
    let is_unwanted = |one: &ResolvedHop| picture.groups.get(&one.hop.oif) == Some(&unwanted);
    let suppressed = match (best.route.prefix.family(), picture.nexthops.resolve(&best.route.path))
    {
        // IPv4 looks at the first hop, even if it is dead; IPv6 at the one that its hash takes.
        (Family::V4, ResolvedHops::Hops(hops)) => hops.first().is_some_and(is_unwanted),
        _ => best.hops.iter().all(is_unwanted),
    };
    suppressed.then_some(Suppressed::Group(unwanted))
}
