//! From what the kernel holds to what it should hold.
//!
//! Here lives [`steps`]. Invariants: what blocks is there before any rule leads to it, and goes after
//! the last one; a table is filled before rules lead to it; a group is changed in place, so that its
//! routes and the flows of its other members stay; nothing that is not ours is named.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
};

use super::{
    iprule::{Action, IpRule, Selector},
    object::{ExitRoute, ExitRouteKind, Group, Have, Hop, Owned},
    order::rule_steps,
    rule::FlowsRule,
    want::{Content, Fault, Want},
};
use crate::core::{
    prefix::{Family, Prefix},
    reach::route::PROTOCOL,
    route::{NexthopId, TableId},
};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Add a nexthop object, whose number is free.
    AddHop(NexthopId, Hop),
    /// Add a group, whose number is free, or give our own other members.
    SetGroup {
        /// Its number.
        id: NexthopId,
        /// What it shall be.
        group: Group,
        /// It is not there yet.
        fresh: bool,
    },
    /// Add a route; with `replace` it takes the place of our own.
    AddRoute {
        /// The route.
        route: ExitRoute,
        /// Our own stands there.
        replace: bool,
    },
    /// Remove exactly this route.
    RemoveRoute(ExitRoute),
    /// Add a rule.
    AddRule(IpRule),
    /// Remove exactly this rule.
    RemoveRule(IpRule),
    /// Remove a nexthop object or group that no route needs.
    RemoveNexthop(NexthopId),
}

/// What to do, in this order, and why some of it cannot be done.
pub fn steps(rule: &FlowsRule, want: &Want, have: &Have, owned: &Owned) -> (Vec<Step>, Vec<Fault>) {
    let mut plan = Plan {
        have,
        ids: rule.nexthops.clone(),
        used: BTreeSet::new(),
        faults: Vec::new(),
        blocks: Vec::new(),
        objects: Vec::new(),
        ways: Vec::new(),
        late: Vec::new(),
    };
    // Those that stay keep their numbers; only then are new ones given out.
    let mut fresh = Vec::new();
    for ((table, family), content) in &want.tables {
        if let Some(hint) = plan.group_of(*table, *family, content) {
            plan.used.insert(hint);
        }
    }
    for ((table, family), content) in &want.tables {
        fresh.extend(plan.table(*table, *family, content));
    }
    let wanted: BTreeSet<(TableId, Prefix, u32)> = fresh.into_iter().collect();
    for route in have.routes.iter().filter(|route| owned.holds_table(route.table)) {
        if !wanted.contains(&route.place()) {
            // Whoever came this way has somewhere else to go when the rules are right.
            plan.late.push(Step::RemoveRoute(*route));
        }
    }
    // Blocks last.
    plan.late.sort_by_key(|step| {
        matches!(step, Step::RemoveRoute(ExitRoute { kind: ExitRouteKind::Block, .. }))
    });
    let rules = rules(rule, want, have, owned, &mut plan.faults);
    let groups = have.groups.keys().filter(|id| !plan.used.contains(id));
    let hops = have.hops.keys().filter(|id| !plan.used.contains(id));
    let unused: Vec<Step> = groups.chain(hops).copied().map(Step::RemoveNexthop).collect();
    let Plan { blocks, objects, ways, late, faults, .. } = plan;
    let all = [blocks, objects, ways, rules, late, unused];
    (all.into_iter().flatten().collect(), faults)
}

struct Plan<'h> {
    have: &'h Have,
    ids: RangeInclusive<NexthopId>,
    /// Numbers that are needed, or were given out.
    used: BTreeSet<NexthopId>,
    faults: Vec<Fault>,
    blocks: Vec<Step>,
    objects: Vec<Step>,
    ways: Vec<Step>,
    late: Vec<Step>,
}

impl Plan<'_> {
    /// The group that a table's route leads to, if it can stay.
    fn group_of(&self, table: TableId, family: Family, content: &Content) -> Option<NexthopId> {
        if content.hops.is_empty() {
            return None;
        }
        let place = (table, Prefix::default_of(family));
        let route = self.have.routes.iter().find(|route| (route.table, route.prefix) == place)?;
        let ExitRouteKind::Via { group, .. } = route.kind else { return None };
        let have = self.have.groups.get(&group)?;
        // The kernel turns no group of one kind into one of the other.
        (have.resilient == content.resilient).then_some(group)
    }

    /// What is to be done for a table; returns the places of the routes that it shall hold.
    fn table(
        &mut self,
        table: TableId,
        family: Family,
        content: &Content,
    ) -> Vec<(TableId, Prefix, u32)> {
        let prefix = Prefix::default_of(family);
        let mut places = Vec::new();
        if content.block {
            let route = ExitRoute { table, prefix, kind: ExitRouteKind::Block };
            places.push(route.place());
            if !self.have.routes.contains(&route) {
                self.blocks.push(Step::AddRoute { route, replace: false });
            }
        }
        if content.hops.is_empty() {
            return places;
        }
        let Some(group) = self.group(table, family, content) else {
            self.faults.push(Fault::Nexthops);
            return places;
        };
        let kind = ExitRouteKind::Via { group, source: content.source };
        let route = ExitRoute { table, prefix, kind };
        places.push(route.place());
        if !self.have.routes.contains(&route) {
            let replace = self.have.routes.iter().any(|have| have.place() == route.place());
            self.ways.push(Step::AddRoute { route, replace });
        }
        places
    }

    /// The group for a table; `None` if numbers have run out.
    fn group(&mut self, table: TableId, family: Family, content: &Content) -> Option<NexthopId> {
        let mut members = BTreeMap::new();
        for (hop, weight) in &content.hops {
            members.insert(self.hop(*hop)?, *weight);
        }
        let group = Group { resilient: content.resilient, members };
        let standing = self.group_of(table, family, content);
        let id = match standing {
            Some(id) => id,
            None => self.number()?,
        };
        self.used.insert(id);
        if self.have.groups.get(&id) != Some(&group) {
            self.objects.push(Step::SetGroup { id, group, fresh: standing.is_none() });
        }
        Some(id)
    }

    /// The nexthop object for a link.
    fn hop(&mut self, hop: Hop) -> Option<NexthopId> {
        let standing = self.have.hops.iter().find(|(_, have)| **have == hop).map(|(id, _)| *id);
        let added = || {
            self.objects.iter().find_map(|step| match step {
                Step::AddHop(id, added) if *added == hop => Some(*id),
                _ => None,
            })
        };
        if let Some(id) = standing.or_else(added) {
            self.used.insert(id);
            return Some(id);
        }
        let id = self.number()?;
        self.used.insert(id);
        self.objects.push(Step::AddHop(id, hop));
        Some(id)
    }

    /// A number that nobody has.
    fn number(&self) -> Option<NexthopId> {
        let have = self.have;
        self.ids.clone().find(|id| {
            !self.used.contains(id)
                && !have.groups.contains_key(id)
                && !have.hops.contains_key(id)
                && !have.foreign_nexthops.contains(id)
        })
    }
}

/// The rules' steps: the anchor before whatever leads to it, and gone after it.
fn rules(
    rule: &FlowsRule,
    want: &Want,
    have: &Have,
    owned: &Owned,
    faults: &mut Vec<Fault>,
) -> Vec<Step> {
    let mut steps = Vec::new();
    for family in Family::ALL {
        let ours = have.rules.iter().filter(|have| have.family == family && owned.holds_rule(have));
        let ours: Vec<IpRule> = ours.cloned().collect();
        let wanted = want.rules.get(&family).map_or(&[][..], Vec::as_slice);
        let anchor = IpRule {
            family,
            priority: *rule.rules.end(),
            selector: Selector::default(),
            action: Action::Nop,
            protocol: PROTOCOL,
        };
        let (anchors, ours): (Vec<IpRule>, Vec<IpRule>) =
            ours.into_iter().partition(|have| *have == anchor);
        let room = *rule.rules.start()..=rule.rules.end() - 1;
        let Some((added, removed)) = rule_steps(family, wanted, &ours, &room) else {
            faults.push(Fault::Rules { count: wanted.len() });
            continue;
        };
        let needed = want.rules.contains_key(&family);
        if needed && anchors.is_empty() {
            steps.push(Step::AddRule(anchor));
        }
        steps.extend(added.into_iter().map(Step::AddRule));
        steps.extend(removed.into_iter().map(Step::RemoveRule));
        if !needed {
            steps.extend(anchors.into_iter().map(Step::RemoveRule));
        }
    }
    steps
}

/// Others' rules among ours: where one stands nothing can be promised.
pub fn strangers(rule: &FlowsRule, have: &Have) -> Vec<Fault> {
    let among = have.rules.iter().filter(|have| rule.rules.contains(&have.priority));
    let others = among.filter(|have| have.protocol != PROTOCOL);
    others
        .map(|have| Fault::Rule {
            family: have.family,
            priority: have.priority,
            rule: format!("{} {}", have.selector, have.action),
        })
        .collect()
}

/// Tables that an exit names and somebody else fills.
pub fn taken_tables(rule: &FlowsRule, have: &Have) -> Vec<Fault> {
    let exits = rule.exits.iter().filter(|exit| !exit.feed);
    let taken = exits.filter_map(|exit| {
        let table = exit.table?;
        let protocol = *have.foreign_tables.get(&table)?;
        Some(Fault::Table { exit: exit.name.clone(), table, protocol })
    });
    taken.collect()
}
