//! Laws of exits: the order of steps on rules, the choice of links, and the way to the wanted objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::{collection::vec, prelude::*, sample::select};
use wgrouted::core::{
    exits::{
        choice::{Choice, Health},
        iprule::{Action, IpRule, Mark, Selector},
        order::{Clause, rule_steps},
        rule::{ExitRule, Via, WhenDown},
    },
    prefix::Family,
    reach::route::PROTOCOL,
    time::Time,
};

/// Four bits of mark are all that packets differ in here.
const PACKETS: u32 = 16;

fn clause() -> impl Strategy<Value = Clause> {
    let mark = proptest::option::of(
        (0..16u32, 1..16u32).prop_map(|(value, mask)| Mark { value: value & mask, mask }),
    );
    (mark, 1..5u32)
        .prop_map(|(mark, table)| (Selector { mark, ..Selector::default() }, Action::table(table)))
}

fn clauses(count: usize) -> impl Strategy<Value = Vec<Clause>> {
    vec(clause(), 0..count).prop_map(|all| {
        let mut seen = BTreeSet::new();
        all.into_iter().filter(|clause| seen.insert(clause.clone())).collect()
    })
}

fn rule(priority: u32, (selector, action): &Clause) -> IpRule {
    let (selector, action) = (selector.clone(), *action);
    IpRule { family: Family::V4, priority, selector, action, protocol: PROTOCOL }
}

/// The kernel's list of rules (net/core/fib_rules.c).
#[derive(Clone, Debug, Default)]
struct Rules(Vec<IpRule>);

impl Rules {
    /// Behind those of the same priority (`fib_nl_newrule`). The very same rule is refused.
    fn add(&mut self, rule: &IpRule) {
        assert!(!self.0.contains(rule), "EEXIST: {rule}");
        let at = self.0.iter().position(|other| other.priority > rule.priority);
        self.0.insert(at.unwrap_or(self.0.len()), rule.clone());
    }

    /// The first that has all that is given (`rule_find`): what is absent matches anything.
    fn remove(&mut self, rule: &IpRule) {
        let fits = |other: &IpRule| {
            other.priority == rule.priority
                && other.action == rule.action
                && (rule.selector.mark.is_none() || rule.selector.mark == other.selector.mark)
        };
        let at = self.0.iter().position(fits).expect("ENOENT");
        self.0.remove(at);
    }

    /// What decides about a packet.
    fn decision(&self, packet: u32) -> Option<Action> {
        let holds = |rule: &&IpRule| rule.selector.mark.is_none_or(|mark| mark.holds(packet));
        self.0.iter().find(holds).map(|rule| rule.action)
    }
}

fn decisions(rules: &Rules) -> Vec<Option<Action>> {
    (0..PACKETS).map(|packet| rules.decision(packet)).collect()
}

/// Carries steps out; after each, every packet must meet what it met before or what it shall meet.
fn carry_out(have: &[IpRule], wanted: &[Clause], room: u32) -> Option<Rules> {
    let mut rules = Rules::default();
    have.iter().for_each(|rule| rules.add(rule));
    let mut target = Rules::default();
    wanted.iter().zip(1..).for_each(|(clause, at)| target.add(&rule(at, clause)));
    let (old, new) = (decisions(&rules), decisions(&target));
    let (added, removed) = rule_steps(Family::V4, wanted, &rules.0, &(100..=99 + room))?;
    let check = |rules: &Rules, what: &IpRule| {
        for (packet, now) in decisions(rules).iter().enumerate() {
            let expected = [&old[packet], &new[packet]];
            assert!(expected.contains(&now), "packet {packet:#x} meets a third after {what}");
        }
    };
    for rule in &added {
        rules.add(rule);
        check(&rules, rule);
    }
    for rule in &removed {
        rules.remove(rule);
        check(&rules, rule);
    }
    Some(rules)
}

proptest! {
    /// Old or new, never a third; in the end, the wanted rules in the wanted order.
    #[test]
    fn rules_change_without_a_third_decision(
        before in clauses(12),
        gaps in vec(1..5u32, 12),
        wanted in clauses(12),
        room in 24..80u32,
    ) {
        let mut priority = 99;
        let have: Vec<IpRule> = before
            .iter()
            .zip(&gaps)
            .map(|(clause, gap)| {
                priority += gap;
                rule(priority, clause)
            })
            .collect();
        let rules = carry_out(&have, &wanted, room).expect("there is room for all at once");
        let found: Vec<Clause> =
            rules.0.iter().map(|rule| (rule.selector.clone(), rule.action)).collect();
        prop_assert_eq!(found, wanted);
        prop_assert!(rules.0.iter().all(|rule| (100..=99 + room).contains(&rule.priority)));
        let priorities: BTreeSet<u32> = rules.0.iter().map(|rule| rule.priority).collect();
        prop_assert_eq!(priorities.len(), rules.0.len(), "no two of the same priority");
    }

    /// A change of one rule is one addition, one removal or both, wherever it is.
    #[test]
    fn one_rule_is_one_step(
        wanted in clauses(40).prop_filter("some", |all| all.len() > 2),
        at in any::<prop::sample::Index>(),
        other in 100..200u32,
    ) {
        let rules = carry_out(&[], &wanted, 1000).unwrap();
        let at = at.index(wanted.len());
        let fresh: Clause = (Selector::default(), Action::table(other));
        let mut inserted = wanted.clone();
        inserted.insert(at, fresh.clone());
        let room = 100..=1099;
        let count = |wanted: &[Clause]| {
            let (added, removed) = rule_steps(Family::V4, wanted, &rules.0, &room).unwrap();
            (added.len(), removed.len())
        };
        prop_assert_eq!(count(&inserted), (1, 0));
        let mut removed = wanted.clone();
        removed.remove(at);
        prop_assert_eq!(count(&removed), (0, 1));
        let mut replaced = wanted.clone();
        replaced[at] = fresh;
        prop_assert_eq!(count(&replaced), (1, 1));
        prop_assert_eq!(count(&wanted), (0, 0));
    }

    /// Where there is no room, nothing is begun.
    #[test]
    fn too_many_rules_are_refused(wanted in clauses(20)) {
        let room = wanted.len() as u32;
        prop_assert!(room == 0 || rule_steps(Family::V4, &wanted, &[], &(1..=room)).is_some());
        prop_assert!(room < 2 || rule_steps(Family::V4, &wanted, &[], &(1..=room - 1)).is_none());
    }
}

/// What happens to an exit: who is healthy, and how long until the next look.
fn days(links: usize) -> impl Strategy<Value = Vec<(Vec<Health>, u64)>> {
    let health = select(vec![Health::Good, Health::Good, Health::Unknown, Health::Bad]);
    vec((vec(health, links), 0..15u64), 1..30)
}

fn exit(links: usize, weighted: bool, back_after: u64) -> ExitRule {
    let via = |at: usize| Via {
        link: format!("wg{at}"),
        interface: format!("wg{at}"),
        peer: None,
        weight: 1,
        ipv6: true,
    };
    ExitRule {
        name: "exit".to_owned(),
        via: (0..links).map(via).collect(),
        weighted,
        when_down: WhenDown::Next,
        back_after: Duration::from_secs(back_after),
        table: None,
        feed: false,
        source: Vec::new(),
    }
}

proptest! {
    /// What cannot be used never is, and what can be is if there is nothing better.
    #[test]
    fn usable_links_are_used_and_others_never(
        days in days(4),
        weighted in any::<bool>(),
        back_after in 0..30u64,
    ) {
        let rule = exit(4, weighted, back_after);
        let (mut choice, mut now) = (Choice::default(), Time::ZERO);
        for (health, pause) in days {
            let again = choice.decide(&rule, &health, now);
            let used = choice.used();
            for at in used {
                prop_assert_ne!(health[*at], Health::Bad);
            }
            prop_assert_eq!(used.is_empty(), health.iter().all(|one| *one == Health::Bad));
            prop_assert!(weighted || used.len() <= 1);
            prop_assert!(again.is_none_or(|at| at > now), "asked again at once");
            now = now + Duration::from_secs(pause);
        }
    }

    /// A link that fell is gone back to only after it could be used for `back_after`, and then it is.
    #[test]
    fn links_return_when_they_have_proved_themselves(
        days in days(3),
        weighted in any::<bool>(),
        back_after in 1..30u64,
    ) {
        let rule = exit(3, weighted, back_after);
        let (mut choice, mut now) = (Choice::default(), Time::ZERO);
        let mut usable_since: BTreeMap<usize, Time> = BTreeMap::new();
        let mut fell = BTreeSet::new();
        for (health, pause) in days {
            for (at, health) in health.iter().enumerate() {
                if *health == Health::Bad {
                    usable_since.remove(&at);
                    fell.insert(at);
                } else {
                    usable_since.entry(at).or_insert(now);
                }
            }
            let before = choice.used().clone();
            let survivors = before.iter().filter(|at| health[**at] != Health::Bad).count();
            choice.decide(&rule, &health, now);
            let proved = |at: &usize| {
                let wait = Duration::from_secs(if fell.contains(at) { back_after } else { 0 });
                usable_since.get(at).is_some_and(|since| *since + wait <= now)
            };
            if survivors > 0 {
                for at in choice.used().difference(&before) {
                    prop_assert!(proved(at), "{at} was gone back to too early");
                }
            }
            if weighted {
                let all = (0..3).filter(proved);
                prop_assert!(all.into_iter().all(|at| choice.used().contains(&at)));
            } else if let Some(used) = choice.used().first() {
                let better = (0..*used).filter(|at| health[*at] == Health::Good && proved(at));
                prop_assert_eq!(better.count(), 0, "a better link has proved itself");
            }
            now = now + Duration::from_secs(pause);
        }
    }

    /// After a restart nothing is known, and nothing changes for as long as it takes to know.
    #[test]
    fn ignorance_changes_nothing(weighted in any::<bool>(), at in 0..3usize) {
        let rule = exit(3, weighted, 5);
        let mut choice = Choice::adopted([at].into());
        for second in 0..5 {
            choice.decide(&rule, &[Health::Unknown; 3], Time(Duration::from_secs(second)));
            prop_assert_eq!(choice.used(), &[at].into());
        }
    }
}
