//! The filter's target in the simulated world.
//!
//! Here lives [`FilterWorld`]: the maps, which outlive the daemon, and what goes wrong with requests
//! to them. Requests are carried out in their order by one worker, with drawn delays; every single
//! change is looked at by `filter_watch`.

use std::{
    collections::{BTreeSet, VecDeque},
    time::Duration,
};

use wgrouted::{
    core::{
        event::Event,
        filter::{
            rule::FilterRule,
            table::{
                FilterChange, FilterError, FilterEvent, FilterReport, FilterRequest, LinkPlan,
                LinkState,
            },
        },
        route::IfIndex,
        time::Time,
    },
    target::filter::{FilterTarget, fake::FakeFilter},
};

use crate::{
    filter_watch::Watch,
    sim::{Fault, Sim},
};

/// The error number of a change that is refused for no reason.
const EIO: i32 = 5;

#[derive(Debug, Default)]
pub struct FilterWorld {
    pub maps: FakeFilter,
    pub rule: Option<FilterRule>,
    /// What becomes of the coming requests; beyond its end all goes well.
    pub faults: VecDeque<Fault>,
    /// What becomes of every request besides.
    pub stubborn: Option<Fault>,
    /// Links that cannot be attached to.
    pub unattachable: BTreeSet<IfIndex>,
    pub watch: Watch,
    pub opens: u64,
    pub applies: u64,
    pub dumps: u64,
    pub attaches: u64,
    /// Requests that were carried out or will be, and are not answered.
    pub open_requests: usize,
    /// The network was read since the daemon started.
    pub synced: bool,
    /// Devices that were read since the daemon started.
    pub seen: BTreeSet<IfIndex>,
    /// The daemon was told since it started why a door might have to be closed.
    pub may_close: bool,
    /// Links that the daemon was told the filter to be in force on.
    pub in_force: BTreeSet<IfIndex>,
    /// Nothing was changed yet since it started.
    fresh: bool,
    worker: Time,
}

impl FilterWorld {
    /// An answer reaches the engine.
    pub fn hear(&mut self, event: &Event) {
        match event {
            Event::Device { result: Ok(device), .. } => {
                self.seen.insert(device.ifindex);
            }
            Event::Filter(event) => {
                self.open_requests = self.open_requests.saturating_sub(1);
                if let FilterEvent::Opened { result: Ok(_), .. }
                | FilterEvent::Dumped { result: Ok(_), .. } = event
                {
                    self.watch.doubt = false;
                }
                match event {
                    FilterEvent::Opened { result: Err(_), .. } => self.may_close = true,
                    FilterEvent::Opened { .. } => self.in_force.clear(),
                    FilterEvent::Attached { links, .. } => {
                        let (able, not): (Vec<_>, Vec<_>) =
                            links.iter().partition(|l| l.hook.is_ok());
                        self.may_close |= !not.is_empty();
                        self.in_force = able.iter().map(|link| link.ifindex).collect();
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
}

fn failed() -> FilterError {
    FilterError { message: "failed".to_owned() }
}

impl Sim {
    /// The operator wants this filter, or none.
    pub fn configure_filter(&mut self, rule: Option<FilterRule>) {
        self.filter.rule.clone_from(&rule);
        self.filter.watch.disturb(self.now);
        self.tell(Event::Filter(FilterEvent::Configure(rule)));
    }

    /// Somebody else changes the maps.
    pub fn tamper_with_filter(&mut self, edit: impl FnOnce(&mut FakeFilter)) {
        edit(&mut self.filter.maps);
        self.filter.watch.disturb(self.now);
        (self.filter.watch.doubt, self.filter.watch.spoiled) = (true, true);
    }

    /// The daemon was killed and started again at this time; the maps are still there.
    pub(crate) fn restart_filter(&mut self, at: Time) {
        let world = &mut self.filter;
        (world.worker, world.open_requests) = (Time::ZERO, 0);
        (world.synced, world.may_close, world.fresh) = (false, false, true);
        world.in_force.clear();
        world.seen.clear();
        world.watch.restart(at);
        if let Some(rule) = self.filter.rule.clone() {
            self.engine.handle(Event::Filter(FilterEvent::Configure(Some(rule))), self.now);
        }
    }

    pub(crate) fn take_filter(&mut self, request: FilterRequest, wait: u64) {
        let world = &mut self.filter;
        world.open_requests += 1;
        let fault = world.stubborn.or_else(|| world.faults.pop_front()).unwrap_or(Fault::Fine);
        if fault != Fault::Fine {
            world.watch.disturb(self.now);
            world.watch.doubt |= !matches!(fault, Fault::Late(_));
        }
        if matches!(request, FilterRequest::Apply { .. }) {
            self.check_may_change();
            self.filter.fresh = false;
        }
        self.filter.worker = self.filter.worker.max(self.now) + Duration::from_millis(wait);
        self.plan_filter(self.filter.worker, request, fault);
    }

    /// Nothing is changed before everything was read.
    fn check_may_change(&self) {
        assert!(self.filter.synced, "changed before the network was read");
        for rule in self.rules.iter().filter(|rule| rule.filter.is_some()) {
            let link = self.kernel.link(&rule.name).map(|link| link.index);
            let known = |index| {
                let mut interfaces = self.engine.interfaces();
                interfaces.any(|interface| interface.ifindex() == Some(index))
            };
            if let Some(index) = link.filter(|index| self.filter.fresh && known(*index)) {
                assert!(self.filter.seen.contains(&index), "changed before {} was read", rule.name);
            }
        }
    }

    pub(crate) fn carry_out(&mut self, request: FilterRequest, fault: Fault) {
        let fails = matches!(fault, Fault::Fails | Fault::HalfWay(_));
        let world = &mut self.filter;
        let event = match request {
            FilterRequest::Open { token, plan } => {
                world.opens += 1;
                let result = if fails { Err(failed()) } else { world.maps.open(&plan) };
                FilterEvent::Opened { token, result }
            }
            FilterRequest::Apply { token, changes } => {
                world.applies += 1;
                let result = self.make_in_filter(&changes, fault);
                FilterEvent::Applied { token, result }
            }
            FilterRequest::Attach { token, links } => {
                world.attaches += 1;
                let able: Vec<LinkPlan> = links
                    .iter()
                    .filter(|link| !fails && !world.unattachable.contains(&link.ifindex))
                    .copied()
                    .collect();
                let mut states = world.maps.attach(&able);
                for (at, link) in links.iter().enumerate() {
                    if !able.contains(link) {
                        let (ifindex, hook) = (link.ifindex, Err(failed()));
                        let state = LinkState { ifindex, hook, reattached: false };
                        states.insert(at, state);
                    }
                }
                FilterEvent::Attached { token, links: states }
            }
            FilterRequest::Dump { token } => {
                world.dumps += 1;
                let result = if fails { Err(failed()) } else { world.maps.dump() };
                FilterEvent::Dumped { token, cost: Duration::from_millis(1), result }
            }
            FilterRequest::Remove { token } => {
                FilterEvent::Removed { token, result: world.maps.remove() }
            }
        };
        self.answer(fault, Event::Filter(event));
    }

    fn make_in_filter(
        &mut self,
        changes: &[FilterChange],
        fault: Fault,
    ) -> Result<FilterReport, FilterError> {
        let (limit, refused) = match fault {
            Fault::Fails => (0, usize::MAX),
            Fault::HalfWay(limit) => (limit, usize::MAX),
            Fault::Refuses(every) => (usize::MAX, every),
            Fault::Fine | Fault::Late(_) => (usize::MAX, usize::MAX),
        };
        let mut report = FilterReport::default();
        for (at, change) in changes.iter().enumerate().take(limit) {
            if refused != usize::MAX && at % refused == 0 {
                report.failed.push((at, EIO));
                continue;
            }
            let mut one = self.filter.maps.apply(std::slice::from_ref(change))?;
            report.failed.extend(one.failed.drain(..).map(|(_, errno)| (at, errno)));
            self.look(change);
        }
        match fault {
            Fault::Fails | Fault::HalfWay(_) => Err(failed()),
            _ => Ok(report),
        }
    }
}
