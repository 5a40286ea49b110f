//! Laws of the way to the wanted objects, in a model of the kernel that refuses what the kernel does.

use std::collections::{BTreeMap, BTreeSet};

use proptest::{collection::vec, prelude::*, sample::select};
use wgrouted::core::{
    exits::{
        iprule::{Action, Mark},
        object::{ExitRoute, ExitRouteKind, Have, Owned},
        rule::{ExitRule, FlowRule, FlowsRule, Guard, Target, WhenDown},
        steps::{Step, steps},
        want::{Features, Used, Want, World},
    },
    prefix::{Family, Prefix},
};

const FEATURES: Features = Features { dscp: true, resilient: true, ipv6: true };

/// Exits, each with the links that are used, and flows by mark.
#[derive(Clone, Debug)]
struct Plan {
    rule: FlowsRule,
    world: World,
}

fn exit(name: usize) -> impl Strategy<Value = (ExitRule, Vec<Used>)> {
    let used = prop::sample::subsequence(vec![11u32, 12, 13], 0..=3);
    let down = select(vec![WhenDown::Next, WhenDown::Main, WhenDown::Block]);
    let table = proptest::option::weighted(0.2, Just(5000 + name as u32));
    (used, down, any::<bool>(), table, proptest::bool::weighted(0.1)).prop_map(
        move |(oifs, when_down, weighted, table, feed)| {
            let used = oifs.into_iter().take(if weighted { 3 } else { 1 });
            let used = used.map(|oif| Used { oif, weight: 1 + oif as u16 % 3, ipv6: oif != 13 });
            let rule = ExitRule {
                name: format!("exit{name}"),
                via: Vec::new(),
                weighted,
                when_down,
                back_after: Default::default(),
                table: table.or(feed.then_some(5000 + name as u32)),
                feed,
                source: Vec::new(),
            };
            (rule, used.collect())
        },
    )
}

fn flow(exits: usize) -> impl Strategy<Value = FlowRule> {
    let target = prop_oneof![
        8 => (0..exits).prop_map(|at| Target::Exit(format!("exit{at}"))),
        1 => Just(Target::Main),
        1 => Just(Target::Block),
    ];
    let from = proptest::option::weighted(0.2, select(vec!["10.0.0.0/8", "fd00::/8"]));
    ((0..8u32, 1..8u32), target, from).prop_map(|((value, mask), target, from)| FlowRule {
        name: "flow".to_owned(),
        from: from.iter().map(|text| text.parse().unwrap()).collect(),
        to: Vec::new(),
        iif: None,
        mark: Some(Mark { value: value & mask, mask }),
        uid: Vec::new(),
        tos: 0,
        dscp: None,
        protocol: 0,
        sport: Vec::new(),
        dport: Vec::new(),
        vrf: None,
        realm: None,
        target,
    })
}

fn plan() -> impl Strategy<Value = Plan> {
    let exits = (exit(0), exit(1), exit(2));
    (exits, vec(flow(3), 0..8), any::<bool>(), any::<bool>()).prop_map(
        |((a, b, c), flows, port, empty)| {
            let (exits, used) = [a, b, c].into_iter().unzip();
            let ports = port.then(|| ("wg0".to_owned(), 51820)).into_iter().collect();
            let mut rule = FlowsRule {
                rules: 1000..=1200,
                tables: 5000..=5100,
                nexthops: 100..=300,
                exits,
                flows,
                guards: vec![Guard::Device { name: "wg0".to_owned() }],
            };
            if empty && !port {
                (rule.exits, rule.flows) = (Vec::new(), Vec::new());
            }
            Plan { rule, world: World { used, ports, taken: BTreeSet::new() } }
        },
    )
}

/// The kernel.
#[derive(Clone, Debug, Default)]
struct Kernel(Have);

impl Kernel {
    fn take(&mut self, step: &Step) {
        let have = &mut self.0;
        match step {
            Step::AddHop(id, hop) => {
                assert!(!have.groups.contains_key(id), "EEXIST");
                assert!(!have.foreign_nexthops.contains(id), "somebody else's");
                assert_eq!(have.hops.insert(*id, *hop), None, "EEXIST");
            }
            Step::SetGroup { id, group, fresh } => {
                assert!(!group.members.is_empty(), "EINVAL: an empty group");
                for member in group.members.keys() {
                    assert!(have.hops.contains_key(member), "EINVAL: no member {member}");
                }
                let families = group.members.keys().map(|member| have.hops[member].family);
                assert_eq!(families.collect::<BTreeSet<_>>().len(), 1, "EINVAL: families");
                assert!(!have.hops.contains_key(id), "EINVAL: not a group");
                assert!(!have.foreign_nexthops.contains(id), "somebody else's");
                let before = have.groups.insert(*id, group.clone());
                assert_eq!(before.is_none(), *fresh, "EEXIST or ENOENT");
                let kept = before.is_none_or(|before| before.resilient == group.resilient);
                assert!(kept, "EINVAL: another type");
            }
            Step::AddRoute { route, replace } => {
                if let ExitRouteKind::Via { group, .. } = route.kind {
                    assert!(have.groups.contains_key(&group), "EINVAL: no group {group}");
                }
                let there = have.routes.iter().find(|have| have.place() == route.place()).copied();
                assert_eq!(there.is_some(), *replace, "EEXIST or ENOENT");
                there.map(|there| have.routes.remove(&there));
                have.routes.insert(*route);
            }
            Step::RemoveRoute(route) => assert!(have.routes.remove(route), "ESRCH"),
            Step::AddRule(rule) => {
                assert!(!have.rules.contains(rule), "EEXIST");
                if let Action::Goto(target) = rule.action {
                    let resolved = have
                        .rules
                        .iter()
                        .any(|other| (other.family, other.priority) == (rule.family, target));
                    assert!(resolved, "a goto into nothing is no rule");
                }
                let after = |other: &_| {
                    let other: &wgrouted::core::exits::iprule::IpRule = other;
                    (other.family, other.priority) > (rule.family, rule.priority)
                };
                let at = have.rules.iter().position(after).unwrap_or(have.rules.len());
                have.rules.insert(at, rule.clone());
            }
            Step::RemoveRule(rule) => {
                let at = have.rules.iter().position(|other| other == rule).expect("ENOENT");
                have.rules.remove(at);
            }
            Step::RemoveNexthop(id) => {
                for (group, content) in &have.groups {
                    let used = have.routes.iter().any(|route| {
                        matches!(route.kind, ExitRouteKind::Via { group: of, .. } if of == *group)
                    });
                    assert!(!content.members.contains_key(id) || !used, "a group loses its member");
                    assert!(group != id || !used, "a route loses its group");
                }
                let gone = have.groups.remove(id).is_some() || have.hops.remove(id).is_some();
                assert!(gone, "ENOENT");
            }
        }
    }

    /// Where a marked packet goes: the links, nowhere, or on to ordinary routing.
    fn outcome(&self, family: Family, mark: u32) -> Outcome {
        let mut skip_to = 0;
        for rule in self.0.rules.iter().filter(|rule| rule.family == family) {
            let selector = &rule.selector;
            let plain = selector.protocol == 0 && selector.from.is_none();
            let held = selector.mark.is_none_or(|held| held.holds(mark));
            if rule.priority < skip_to || !plain || !held {
                continue;
            }
            match rule.action {
                Action::Goto(target) => skip_to = target,
                Action::Unreachable => return Outcome::Nowhere,
                Action::Table { table, .. } => {
                    let of = |kind: &ExitRouteKind| {
                        let prefix = Prefix::default_of(family);
                        let route = |route: &&ExitRoute| {
                            (route.table, route.prefix) == (table, prefix)
                                && std::mem::discriminant(&route.kind)
                                    == std::mem::discriminant(kind)
                        };
                        self.0.routes.iter().find(route)
                    };
                    let via = ExitRouteKind::Via { group: 0, source: None };
                    if let Some(ExitRoute { kind: ExitRouteKind::Via { group, .. }, .. }) = of(&via)
                    {
                        let members = self.0.groups[group].members.keys();
                        return Outcome::Out(members.map(|id| self.0.hops[id].oif).collect());
                    }
                    if of(&ExitRouteKind::Block).is_some() {
                        return Outcome::Nowhere;
                    }
                }
                _ => {}
            }
        }
        Outcome::Ordinary
    }

    fn outcomes(&self) -> BTreeMap<(Family, u32), Outcome> {
        let all = Family::ALL.into_iter().flat_map(|family| (0..8).map(move |mark| (family, mark)));
        all.map(|key| (key, self.outcome(key.0, key.1))).collect()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Out(BTreeSet<u32>),
    Nowhere,
    Ordinary,
}

fn todo(plan: &Plan, kernel: &Kernel, owned: &Owned) -> Vec<Step> {
    let want = Want::of(&plan.rule, &plan.world, FEATURES);
    assert_eq!(want.faults, []);
    let (steps, faults) = steps(&plan.rule, &want, &kernel.0, owned);
    assert_eq!(faults, []);
    steps
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(256)))]

    /// Every step is one that the kernel takes; in the end all is there and nothing else; and a packet
    /// that leaves by an exit or is blocked, before and after, never meets ordinary routing between.
    #[test]
    fn steps_lead_there_and_never_leak(plans in vec(plan(), 1..5)) {
        let (mut kernel, mut owned) = (Kernel::default(), Owned::default());
        kernel.0.foreign_nexthops = [100, 103].into();
        for plan in plans {
            owned.extend(&plan.rule);
            let all = todo(&plan, &kernel, &owned);
            let old = kernel.outcomes();
            let mut target = kernel.clone();
            all.iter().for_each(|step| target.take(step));
            let new = target.outcomes();
            for step in &all {
                kernel.take(step);
                for (key, now) in kernel.outcomes() {
                    let bound = [&old[&key], &new[&key]];
                    prop_assert!(
                        now != Outcome::Ordinary || bound.contains(&&Outcome::Ordinary),
                        "{key:?} leaks after {step:?} on the way from {:?} to {:?}", bound[0], bound[1]
                    );
                }
            }
            prop_assert_eq!(todo(&plan, &kernel, &owned), vec![], "nothing is left to do");
        }
        // And all of it goes.
        let nothing = Plan {
            rule: FlowsRule { exits: vec![], flows: vec![], guards: vec![], ..plans_rule() },
            world: World::default(),
        };
        for step in todo(&nothing, &kernel, &owned) {
            kernel.take(&step);
        }
        let foreign_nexthops = kernel.0.foreign_nexthops.clone();
        prop_assert_eq!(kernel.0, Have { foreign_nexthops, ..Have::default() });
    }
}

fn plans_rule() -> FlowsRule {
    FlowsRule {
        rules: 1000..=1200,
        tables: 5000..=5100,
        nexthops: 100..=300,
        exits: Vec::new(),
        flows: Vec::new(),
        guards: Vec::new(),
    }
}
