//! Looks at what the kernel holds for flows, and makes it what it should be.
//!
//! Here lives [`Keeper`], which blocks. Invariants: which numbers are used is remembered before the
//! first of them is; every step's failure is kept, told once, and tried again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::Path,
};

use tracing::{info, warn};

use crate::{
    config::{NameKind, Names},
    core::{
        exits::{
            choice::{Choice, Health},
            health::health,
            iprule::IpRule,
            object::{ExitRouteKind, Have, Owned},
            rule::{ExitRule, FlowsRule, Guard, Target, Via, WhenDown},
            status::{
                ExitLinkStatus, ExitState, ExitStatus, ExitsStatus, FlowRuleStatus, FlowStatus,
                Objects,
            },
            steps::{Step, steps, strangers, taken_tables},
            want::{Fault, Features, Used, Want, World},
        },
        prefix::Family,
        reach::status::Reachability,
        route::{Link, TableId},
        time::Time,
    },
    daemon::memory::{Memory, MemoryError},
    source::rtnetlink::{Dumper, Error},
    target::{kexits::KernelExits, wireguard::KernelWireguard},
};

/// Why flows cannot be put in force.
#[derive(Debug, thiserror::Error)]
pub enum ExitsError {
    /// Others have what is configured to be ours.
    #[error("{0}")]
    Taken(Fault),
    /// A step failed.
    #[error("{0}")]
    Step(String),
    /// The kernel cannot be asked.
    #[error(transparent)]
    Network(#[from] Error),
    /// What is used cannot be remembered.
    #[error("cannot remember which rules and tables are used: {0}")]
    Memory(#[from] MemoryError),
}

/// Why a look is taken, in rising order of what it may find.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cause {
    /// Time has passed.
    Check,
    /// The kernel said that something happened.
    Kernel,
    /// Reachability changed.
    Reachability,
    /// The configuration changed.
    Configured,
    /// The daemon starts.
    Start,
}

/// What a look came to.
pub(super) struct Outcome {
    /// Steps that were carried out.
    pub(super) steps: usize,
    /// What failed, in words.
    pub(super) failures: Vec<String>,
    /// When to look again though nothing happens.
    pub(super) next: Option<Time>,
}

/// The memory of an exit.
#[derive(Default)]
struct Memo {
    choice: Choice,
    health: Vec<Health>,
    changes: u64,
    since: Time,
}

/// Keeps flows in force.
pub(super) struct Keeper {
    kernel: KernelExits,
    dumper: Dumper,
    memory: Memory,
    names: Names,
    features: Features,
    owned: Owned,
    rule: FlowsRule,
    exits: BTreeMap<String, Memo>,
    taken: BTreeSet<TableId>,
    have: Option<Have>,
    want: Want,
    failures: Vec<String>,
    repaired: u64,
}

impl Keeper {
    pub(super) fn new(runtime_dir: &Path) -> Result<Keeper, ExitsError> {
        let memory = Memory::new(runtime_dir);
        let mut kernel = KernelExits::open()?;
        Ok(Keeper {
            features: kernel.features()?,
            kernel,
            dumper: Dumper::open()?,
            owned: memory.recall_exits()?,
            memory,
            names: Names::system(),
            rule: crate::config::exits::rule_defaults(),
            exits: BTreeMap::new(),
            taken: BTreeSet::new(),
            have: None,
            want: Want::default(),
            failures: Vec::new(),
            repaired: 0,
        })
    }

    /// From now on this is configured.
    pub(super) fn configure(&mut self, rule: FlowsRule) {
        self.exits.retain(|name, _| rule.exits.iter().any(|exit| exit.name == *name));
        // Positions in `via` mean other links now.
        for exit in &rule.exits {
            let before = self.rule.exits.iter().find(|before| before.name == exit.name);
            if before.is_some_and(|before| before.via != exit.via)
                && let Some(memo) = self.exits.remove(&exit.name)
            {
                let (changes, since) = (memo.changes, memo.since);
                let choice = self.adopted(exit);
                let memo = Memo { choice, changes, since, ..Memo::default() };
                self.exits.insert(exit.name.clone(), memo);
            }
        }
        self.rule = rule;
    }

    /// Whether there is nothing to look after.
    pub(super) fn is_idle(&self) -> bool {
        self.rule.is_empty() && self.owned.is_empty()
    }

    /// Whether others have what this configuration calls ours.
    pub(super) fn check(&mut self, rule: &FlowsRule) -> Result<(), ExitsError> {
        if rule.is_empty() {
            return Ok(());
        }
        let tables = rule.exits.iter().filter(|exit| !exit.feed).filter_map(|exit| exit.table);
        let tables: BTreeSet<TableId> = tables.collect();
        let have = self.kernel.look(&self.owned, &tables, &BTreeSet::new())?;
        let taken = strangers(rule, &have).into_iter().chain(taken_tables(rule, &have)).next();
        taken.map_or(Ok(()), |fault| Err(ExitsError::Taken(fault)))
    }

    /// Looks, and does what is to be done.
    pub(super) fn round(
        &mut self,
        picture: &Reachability,
        now: Time,
        cause: Cause,
    ) -> Result<Outcome, ExitsError> {
        if self.is_idle() {
            return Ok(Outcome { steps: 0, failures: Vec::new(), next: None });
        }
        if self.owned.extend(&self.rule) {
            self.memory.remember_exits(&self.owned)?;
        }
        let links = self.dumper.links()?;
        let links: HashMap<&str, &Link> =
            links.iter().map(|link| (link.name.as_str(), link)).collect();
        let have = self.look(cause == Cause::Start)?;
        if self.have.is_none() {
            self.have = Some(have.clone());
            let rule = self.rule.clone();
            for exit in &rule.exits {
                let choice = self.adopted_from(exit, &have, &links);
                self.exits.insert(exit.name.clone(), Memo { choice, ..Memo::default() });
            }
        }
        let (used, next) = self.choose(picture, &links, now);
        let world = World { used, ports: ports(&self.rule, &links), taken: self.taken.clone() };
        let want = Want::of(&self.rule, &world, self.features);
        let (todo, faults) = steps(&self.rule, &want, &have, &self.owned);
        let unprovoked = cause <= Cause::Kernel && want == self.want;
        let mut failures: Vec<String> = want.faults.iter().chain(&faults).map(describe).collect();
        failures.extend(strangers(&self.rule, &have).iter().map(describe));
        let count = todo.len();
        let failed = self.carry_out(todo, &mut failures);
        if count > 0 {
            self.tell(unprovoked, count - failed);
            self.have = Some(self.look(false)?);
        } else {
            self.have = Some(have);
        }
        for failure in failures.iter().filter(|failure| !self.failures.contains(failure)) {
            warn!(error = failure, "a flow or an exit is not as configured");
        }
        self.failures.clone_from(&failures);
        self.want = want;
        if self.rule.is_empty() && failed == 0 {
            self.owned = Owned::default();
            self.memory.remember_exits(&self.owned)?;
        }
        Ok(Outcome { steps: count - failed, failures, next })
    }

    /// What the kernel holds. Tables are chosen anew where somebody else has one.
    fn look(&mut self, all: bool) -> Result<Have, ExitsError> {
        loop {
            let world = World { taken: self.taken.clone(), ..World::default() };
            let planned = Want::of(&self.rule, &world, self.features);
            let mut tables: BTreeSet<TableId> = planned.exits.iter().flatten().copied().collect();
            let ours = self.want.tables.keys().map(|(table, _)| *table);
            tables.extend(ours);
            let fed: BTreeSet<TableId> = self
                .rule
                .exits
                .iter()
                .zip(&planned.exits)
                .filter(|(exit, _)| exit.feed)
                .filter_map(|(_, table)| *table)
                .collect();
            let mut have = self.kernel.look(&self.owned, &tables, &fed)?;
            if all {
                self.kernel.leftovers(&self.owned, &mut have)?;
            }
            let exits = self.rule.exits.iter().zip(&planned.exits);
            let chosen = exits.filter(|(exit, _)| exit.table.is_none());
            let chosen: Vec<TableId> = chosen.filter_map(|(_, table)| *table).collect();
            let foreign: Vec<TableId> = chosen
                .into_iter()
                .filter(|table| have.foreign_tables.contains_key(table))
                .collect();
            if foreign.is_empty() {
                return Ok(have);
            }
            self.taken.extend(foreign);
        }
    }

    /// Which links of each exit are used now, and when that may change by itself.
    fn choose(
        &mut self,
        picture: &Reachability,
        links: &HashMap<&str, &Link>,
        now: Time,
    ) -> (Vec<Vec<Used>>, Option<Time>) {
        let (mut all, mut next) = (Vec::new(), None::<Time>);
        for exit in &self.rule.exits {
            let memo = self.exits.entry(exit.name.clone()).or_default();
            let up = |name: &str| links.get(name).is_some_and(|link| link.up);
            memo.health = exit.via.iter().map(|via| health(via, picture, up)).collect();
            let before = memo.choice.used().clone();
            let again = memo.choice.decide(exit, &memo.health, now);
            next = again.map_or(next, |at| Some(next.map_or(at, |next| next.min(at))));
            if *memo.choice.used() != before {
                memo.changes += 1;
                memo.since = now;
                let names = |used: &BTreeSet<usize>| {
                    let names: Vec<&str> = used.iter().map(|at| &*exit.via[*at].link).collect();
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
                };
                info!(
                    exit = exit.name,
                    from = names(&before),
                    to = names(memo.choice.used()),
                    "the exit's links changed"
                );
            }
            let used = memo.choice.used().iter().filter_map(|at| {
                let via = &exit.via[*at];
                let oif = links.get(&*via.link)?.index;
                Some(Used { oif, weight: via.weight, ipv6: via.ipv6 })
            });
            all.push(used.collect());
        }
        (all, next)
    }

    /// What was in use by the kernel's account, for an exit whose links are other ones now.
    fn adopted(&mut self, exit: &ExitRule) -> Choice {
        let Ok(links) = self.dumper.links() else { return Choice::default() };
        let links = links.iter().map(|link| (link.name.as_str(), link)).collect();
        let have = self.have.clone().unwrap_or_default();
        self.adopted_from(exit, &have, &links)
    }

    fn adopted_from(&self, exit: &ExitRule, have: &Have, links: &HashMap<&str, &Link>) -> Choice {
        let world = World { taken: self.taken.clone(), ..World::default() };
        let planned = Want::of(&self.rule, &world, self.features);
        let at = self.rule.exits.iter().position(|other| other.name == exit.name);
        let table = at.and_then(|at| planned.exits.get(at).copied().flatten());
        let groups = have.routes.iter().filter(|route| Some(route.table) == table);
        let groups = groups.filter_map(|route| match route.kind {
            ExitRouteKind::Via { group, .. } => have.groups.get(&group),
            _ => None,
        });
        let members = groups.flat_map(|group| group.members.keys());
        let oifs: BTreeSet<u32> =
            members.filter_map(|id| have.hops.get(id)).map(|hop| hop.oif).collect();
        let of = |via: &Via| links.get(&*via.link).is_some_and(|link| oifs.contains(&link.index));
        let used = exit.via.iter().enumerate().filter(|(_, via)| of(via)).map(|(at, _)| at);
        Choice::adopted(used.collect())
    }

    /// Carries steps out; returns how many failed.
    fn carry_out(&mut self, todo: Vec<Step>, failures: &mut Vec<String>) -> usize {
        let mut failed = 0;
        for step in todo {
            if let Err(error) = self.kernel.take(&step) {
                failed += 1;
                failures.push(self.explain(&step, &error));
            }
        }
        failed
    }

    /// A failed step, in words.
    fn explain(&self, step: &Step, error: &Error) -> String {
        let table = |table| self.names.name(NameKind::Table, table);
        let what = match step {
            Step::AddHop(_, hop) => format!("use link {} for {}", hop.oif, hop.family),
            Step::SetGroup { id, .. } => format!("set nexthop group {id}"),
            Step::AddRoute { route, .. } => format!("add a route to table {}", table(route.table)),
            Step::RemoveRoute(route) => format!("remove a route from table {}", table(route.table)),
            Step::AddRule(rule) => format!("add the {} rule `{rule}`", rule.family),
            Step::RemoveRule(rule) => format!("remove the {} rule `{rule}`", rule.family),
            Step::RemoveNexthop(id) => format!("remove nexthop object {id}"),
        };
        let errno = match error {
            Error::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        };
        match errno {
            Some(libc::EPERM) => {
                format!("cannot {what}: CAP_NET_ADMIN is missing, run as root")
            }
            _ => format!("cannot {what}: {}", crate::reach::board::in_one_line(error)),
        }
    }

    fn tell(&mut self, unprovoked: bool, count: usize) {
        if unprovoked && count > 0 {
            self.repaired += count as u64;
            warn!(steps = count, "somebody removed parts of flows or exits; they are there again");
        }
    }

    /// What is left of ours, as steps that take it away.
    pub(super) fn leftovers(&mut self) -> Result<Vec<Step>, ExitsError> {
        if self.owned.is_empty() {
            return Ok(Vec::new());
        }
        let have = self.look(true)?;
        Ok(steps(&self.rule, &Want::default(), &have, &self.owned).0)
    }

    /// Takes these away, and forgets them.
    pub(super) fn remove(&mut self, todo: Vec<Step>) -> Result<(), ExitsError> {
        let mut failures = Vec::new();
        self.carry_out(todo, &mut failures);
        if let Some(failure) = failures.into_iter().next() {
            return Err(ExitsError::Step(failure));
        }
        Ok(self.memory.remember_exits(&Owned::default())?)
    }

    /// How things are.
    pub(super) fn status(&self, now: Time) -> ExitsStatus {
        let have = self.have.clone().unwrap_or_default();
        let ours = |family| {
            have.rules.iter().filter(move |r| r.family == family && self.owned.holds_rule(r))
        };
        let exits = self.rule.exits.iter().enumerate();
        ExitsStatus {
            in_force: self.failures.is_empty(),
            exits: exits.map(|(at, exit)| self.exit_status(at, exit, now)).collect(),
            flows: self.flow_statuses(&have),
            faults: self.failures.clone(),
            objects: Objects {
                rules: Family::ALL.into_iter().map(|family| ours(family).count()).sum(),
                routes: have.routes.iter().filter(|r| self.owned.holds_table(r.table)).count(),
                nexthops: have.hops.len(),
                groups: have.groups.len(),
            },
            repaired: self.repaired,
        }
    }

    fn exit_status(&self, at: usize, exit: &ExitRule, now: Time) -> ExitStatus {
        let memo = self.exits.get(&exit.name);
        let used = |at: usize| memo.is_some_and(|memo| memo.choice.used().contains(&at));
        let links = exit.via.iter().enumerate().map(|(at, via)| ExitLinkStatus {
            link: via.link.clone(),
            peer: via.peer.clone(),
            health: memo.and_then(|memo| memo.health.get(at).copied()).unwrap_or(Health::Unknown),
            used: used(at),
            weight: via.weight,
        });
        let links: Vec<_> = links.collect();
        let state = match exit.when_down {
            _ if exit.feed => ExitState::Fed,
            _ if links.iter().any(|link| link.used) => ExitState::Up,
            WhenDown::Next => ExitState::Next,
            WhenDown::Main => ExitState::Main,
            WhenDown::Block => ExitState::Blocked,
        };
        ExitStatus {
            name: exit.name.clone(),
            table: self.want.exits.get(at).copied().flatten(),
            state,
            feed: exit.feed,
            links,
            changes: memo.map_or(0, |memo| memo.changes),
            age_seconds: now.since(memo.map_or(Time::ZERO, |memo| memo.since)).as_secs_f64(),
        }
    }

    fn flow_statuses(&self, have: &Have) -> Vec<FlowStatus> {
        let mut all: Vec<FlowStatus> = self
            .rule
            .flows
            .iter()
            .map(|flow| FlowStatus {
                name: flow.name.clone(),
                exit: match &flow.target {
                    Target::Exit(name) => name.clone(),
                    Target::Main => "main".to_owned(),
                    Target::Block => "block".to_owned(),
                },
                rules: Vec::new(),
            })
            .collect();
        for family in Family::ALL {
            let flows = self.want.flows_by_clause(family);
            let ours = |rule: &&IpRule| rule.family == family && self.owned.holds_rule(rule);
            for rule in have.rules.iter().filter(ours) {
                if let Some(at) = flows.get(&(&rule.selector, rule.action)) {
                    all[*at].rules.push(FlowRuleStatus {
                        family,
                        priority: rule.priority,
                        rule: format!("{} {}", rule.selector, rule.action),
                    });
                }
            }
        }
        all
    }
}

fn describe(fault: &Fault) -> String {
    fault.to_string()
}

/// The ports of the devices that are guarded. One that cannot be asked, or has none, needs no guard.
fn ports(rule: &FlowsRule, links: &HashMap<&str, &Link>) -> BTreeMap<String, u16> {
    let devices = rule.guards.iter().filter_map(|guard| match guard {
        Guard::Device { name } => Some(name),
        Guard::Tunnel { .. } => None,
    });
    devices
        .filter_map(|name| {
            let link = links.get(&**name)?;
            let port = KernelWireguard::listen_port(link.index).ok().filter(|port| *port != 0)?;
            Some((name.clone(), port))
        })
        .collect()
}
