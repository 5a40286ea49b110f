//! The engine in a simulated world: a kernel model, WireGuard devices, and a virtual clock.
//!
//! Here lives [`Sim`]. It does what the daemon's threads do, with every delay drawn by the test:
//! notifications are heard late, dumps are read piece by piece while the world goes on, requests
//! are carried out late and answered later. It keeps two promises that the daemon keeps: what was
//! announced before a dump ended is handed over before its end is, and time advances only to what
//! happens next or to the engine's own deadline. What holds after every step is in `checks`.

#[path = "sim_devices.rs"]
mod devices;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use wgrouted::core::{
    change::Change,
    device::{DeviceError, Report},
    engine::Engine,
    event::{Event, InterfaceId, NetEvent, Notice, Output, Request, Scope, SyncPart},
    filter::table::FilterRequest,
    peer::PublicKey,
    peers::RememberedPins,
    prefix::Prefix,
    route::{IfIndex, LinkKind, Route},
    rule::InterfaceRule,
    time::Time,
};

use self::devices::error;
pub use crate::chance::{Delays, Fault};
use crate::{device::FakeDevice, filter_target::FilterWorld, kernel::Kernel};

/// Prefixes that are read at one moment of a dump.
const CHUNK: usize = 2;

#[derive(Debug)]
enum Step {
    Links,
    Nexthops,
    Routes(Scope, Option<Prefix>),
}

#[derive(Debug)]
enum Action {
    /// The kernel does what it announced.
    Finish,
    /// Announcements reach the engine.
    Hear,
    /// The next piece of a dump of the network is read.
    Read {
        epoch: u64,
        steps: VecDeque<Step>,
    },
    /// A dump of the network is over.
    Done {
        epoch: u64,
        error: Option<String>,
    },
    Dump {
        interface: InterfaceId,
        token: u64,
        ifindex: IfIndex,
        fault: Fault,
    },
    Apply {
        interface: InterfaceId,
        token: u64,
        ifindex: IfIndex,
        peers: Arc<Vec<PublicKey>>,
        changes: Arc<Vec<Change>>,
        fault: Fault,
    },
    Filter(FilterRequest, Fault),
    Tell(Event),
}

/// What is known of a device besides what the engine knows.
#[derive(Debug, Default)]
pub struct Trust {
    /// The device has been dumped, and since then nobody else changed it and no request failed.
    pub sure: bool,
    /// Somebody changed the device after this request was carried out.
    dumped: Option<u64>,
}

#[derive(Debug)]
pub struct Sim {
    pub engine: Engine,
    pub kernel: Kernel,
    pub devices: BTreeMap<IfIndex, FakeDevice>,
    pub now: Time,
    pub rules: Vec<InterfaceRule>,
    pub delays: Delays,
    /// What becomes of the coming requests to devices; beyond its end all goes well.
    pub faults: VecDeque<Fault>,
    /// What becomes of every request to change a device besides, and whether dumps fail too.
    pub stubborn: Option<(Fault, bool)>,
    /// Dumps of the network that fail, counted down.
    pub sync_failures: u32,
    /// While set, announcements are dropped where the mask has a bit.
    pub losing: Option<u64>,
    pub notices: Vec<Notice>,
    /// Every change as it was made, in order.
    pub made: Vec<(Time, IfIndex, Change)>,
    pub dumps: u64,
    pub applies: u64,
    pub syncs: u64,
    pub polls: u64,
    /// How many milliseconds a dump of a device takes, as far as the engine is told.
    pub cost: u64,
    /// How many milliseconds after an announcement the kernel has done what it announced.
    pub slowness: u64,
    /// Every announcement is heard twice.
    pub stutter: bool,
    pub filter: FilterWorld,
    remembered: BTreeMap<(String, IfIndex), RememberedPins>,
    pub trust: BTreeMap<IfIndex, Trust>,
    agenda: BTreeMap<(Time, u64), Action>,
    number: u64,
    unheard: Vec<NetEvent>,
    /// When the requests to devices will have been carried out.
    worker: Time,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

impl Sim {
    /// A world with these rules, in which nothing has been read yet.
    pub fn new(rules: Vec<InterfaceRule>, kernel: Kernel, delays: Delays) -> Sim {
        let mut sim = Sim {
            engine: Engine::new(rules.clone(), ms(1000)),
            kernel,
            devices: BTreeMap::new(),
            now: Time::ZERO,
            rules,
            delays,
            faults: VecDeque::new(),
            stubborn: None,
            sync_failures: 0,
            losing: None,
            notices: Vec::new(),
            made: Vec::new(),
            dumps: 0,
            applies: 0,
            syncs: 0,
            polls: 0,
            cost: 1,
            slowness: 0,
            stutter: false,
            filter: FilterWorld::default(),
            remembered: BTreeMap::new(),
            trust: BTreeMap::new(),
            agenda: BTreeMap::new(),
            number: 0,
            unheard: Vec::new(),
            worker: Time::ZERO,
        };
        // What happened before the daemon subscribed is not heard.
        sim.kernel.finish();
        sim.kernel.announcements();
        sim.follow_links();
        sim
    }

    // ---- the world ----

    /// Changes the kernel; the announcements are on their way.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut Kernel) -> T) -> T {
        let result = change(&mut self.kernel);
        self.collect();
        if self.kernel.is_busy() {
            self.plan(self.slowness, Action::Finish);
        }
        self.follow_links();
        self.note_routes();
        self.run_ready();
        result
    }

    /// Notifications are lost from now on, those in the mask's positions.
    pub fn lose(&mut self, mask: u64) {
        self.losing = Some(mask);
    }

    /// The socket's queue has been drained.
    pub fn lost(&mut self) {
        if self.losing.take().is_some() {
            self.unheard.push(NetEvent::Lost);
            self.plan(0, Action::Hear);
            self.run_ready();
        }
    }

    /// Somebody else changes a device.
    pub fn tamper(&mut self, name: &str, edit: impl FnOnce(&mut FakeDevice)) {
        let Some(index) = self.kernel.index(name) else { return };
        if let Some(device) = self.devices.get_mut(&index) {
            edit(device);
            *self.trust.entry(index).or_default() = Trust::default();
            self.filter.may_close = true;
        }
        self.note();
    }

    /// The daemon is killed and started again.
    pub fn restart(&mut self) {
        self.engine = Engine::new(self.rules.clone(), ms(1000));
        self.trust.clear();
        self.unheard.clear();
        let kernels = |action: &Action| matches!(action, Action::Finish);
        self.agenda.retain(|_, action| kernels(action));
        // The engine's clock starts anew.
        let agenda = std::mem::take(&mut self.agenda);
        let start = self.now;
        let shifted = agenda.into_iter().map(|((at, n), a)| ((Time(at.since(start)), n), a));
        self.agenda = shifted.collect();
        (self.now, self.worker) = (Time::ZERO, Time::ZERO);
        self.restart_filter(start);
        self.run_ready();
    }

    pub fn device(&self, name: &str) -> Option<&FakeDevice> {
        self.devices.get(&self.kernel.index(name)?)
    }

    pub fn tell(&mut self, event: Event) {
        if let Event::Reconfigure(rules) = &event {
            self.rules.clone_from(rules);
            self.filter.watch.mix(self.now);
            self.filter.may_close = true;
        }
        self.note();
        self.handle(event);
        self.run_ready();
    }

    /// WireGuard devices come and go with their links.
    fn follow_links(&mut self) {
        let links: BTreeMap<IfIndex, String> = self
            .kernel
            .dump_links()
            .into_iter()
            .filter(|link| link.kind == LinkKind::Wireguard)
            .map(|link| (link.index, link.name))
            .collect();
        self.devices.retain(|index, _| links.contains_key(index));
        for (index, name) in links {
            let rule = self.rules.iter().find(|rule| rule.name == name);
            self.devices.entry(index).or_insert_with(|| {
                let mut device = FakeDevice { name, ..FakeDevice::default() };
                for peer in rule.iter().flat_map(|rule| &rule.peers) {
                    // The last peer of each interface is not there at first.
                    if peer.public_key.0[0] % 4 != 0 {
                        device.add_peer(peer.public_key);
                    }
                }
                device
            });
        }
    }

    fn collect(&mut self) {
        let mut news = self.kernel.announcements();
        if news.is_empty() {
            return;
        }
        if self.stutter {
            news = news.into_iter().flat_map(|event| [event.clone(), event]).collect();
        }
        match &mut self.losing {
            None => self.unheard.extend(news),
            Some(mask) => {
                for event in news {
                    if *mask & 1 == 0 {
                        self.unheard.push(event);
                    }
                    *mask = mask.rotate_right(1);
                }
            }
        }
        let wait = self.delays.draw() % 30;
        self.plan(wait, Action::Hear);
    }

    // ---- time ----

    fn plan(&mut self, wait: u64, action: Action) {
        self.number += 1;
        self.agenda.insert((self.now + ms(wait), self.number), action);
    }

    /// One thread does the requests to devices, in their order.
    fn queue_up(&mut self, wait: u64, action: Action) {
        self.number += 1;
        self.worker = self.worker.max(self.now) + ms(wait);
        self.agenda.insert((self.worker, self.number), action);
    }

    pub(crate) fn plan_filter(&mut self, at: Time, request: FilterRequest, fault: Fault) {
        self.number += 1;
        self.agenda.insert((at, self.number), Action::Filter(request, fault));
    }

    /// Lets time pass.
    pub fn pass(&mut self, milliseconds: u64) {
        let end = self.now + ms(milliseconds);
        self.run_ready();
        loop {
            let next = self.agenda.keys().next().map(|(at, _)| *at);
            let Some(next) = next.into_iter().chain(self.engine.deadline()).min() else { break };
            if next > end {
                break;
            }
            self.now = next.max(self.now);
            self.run_ready();
        }
        self.now = end;
    }

    /// Does all that is due now.
    fn run_ready(&mut self) {
        self.poll();
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let action = entry.remove();
            self.act(action);
            self.poll();
            self.check();
            self.watch_settles();
        }
    }

    fn poll(&mut self) {
        for _ in 0..20 {
            self.polls += 1;
            let outputs: Vec<Output> = self.engine.poll(self.now).collect();
            for output in outputs {
                match output {
                    Output::Notice(notice) => self.notices.push(notice),
                    Output::Request(request) => self.take(request),
                }
            }
            if self.engine.deadline().is_none_or(|at| at > self.now) {
                return;
            }
        }
        panic!(
            "busy loop: the deadline {:?} is never met at {:?}",
            self.engine.deadline(),
            self.now
        );
    }

    fn take(&mut self, request: Request) {
        let wait = self.delays.draw();
        match request {
            Request::Sync { epoch, objects, scopes } => {
                self.syncs += 1;
                let objects = objects.then_some([Step::Links, Step::Nexthops]);
                let routes = scopes.into_iter().map(|scope| Step::Routes(scope, None));
                let steps = objects.into_iter().flatten().chain(routes).collect();
                self.plan(wait, Action::Read { epoch, steps });
            }
            Request::Dump { interface, token, ifindex } => {
                self.dumps += 1;
                let stubborn = self.stubborn.filter(|(_, dumps)| *dumps).map(|_| Fault::Fails);
                let fault = stubborn.or_else(|| self.faults.pop_front()).unwrap_or(Fault::Fine);
                self.queue_up(wait, Action::Dump { interface, token, ifindex, fault });
            }
            Request::Apply { interface, token, ifindex, peers, changes, .. } => {
                self.applies += 1;
                self.check_batch(ifindex, &peers, &changes);
                self.check_doors(ifindex, &peers, &changes);
                let stubborn = self.stubborn.map(|(fault, _)| fault);
                let fault = stubborn.or_else(|| self.faults.pop_front()).unwrap_or(Fault::Fine);
                let action = Action::Apply { interface, token, ifindex, peers, changes, fault };
                self.queue_up(wait, action);
            }
            Request::Filter(request) => self.take_filter(request, wait),
            Request::Remember { name, ifindex, pins } => {
                self.remembered.insert((name, ifindex), pins);
            }
        }
    }

    fn handle(&mut self, event: Event) {
        self.engine.handle(event, self.now);
    }

    fn hear(&mut self) {
        let news = std::mem::take(&mut self.unheard);
        if !news.is_empty() {
            self.handle(Event::Net(news));
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Finish => {
                self.kernel.finish();
                self.collect();
                self.follow_links();
                self.note_routes();
            }
            Action::Hear => self.hear(),
            Action::Read { epoch, steps } => self.read(epoch, steps),
            Action::Done { epoch, error } => {
                self.hear();
                self.filter.synced |= error.is_none();
                self.handle(Event::SyncDone { epoch, error });
            }
            Action::Dump { interface, token, ifindex, fault } => {
                let result = match (self.devices.get(&ifindex), fault) {
                    (None, _) => Err(error("gone", true)),
                    (_, Fault::Fails | Fault::HalfWay(_)) => Err(error("failed", false)),
                    (Some(device), _) => Ok(device.dump(ifindex)),
                };
                let name = self.devices.get(&ifindex).map(|device| device.name.clone());
                let remembered = name.and_then(|name| self.remembered.get(&(name, ifindex)));
                let remembered = remembered.cloned().unwrap_or_default();
                if result.is_ok() {
                    self.trust.entry(ifindex).or_default().dumped = Some(token);
                }
                let cost = ms(self.cost);
                let event = Event::Device { interface, token, cost, result, remembered };
                self.answer(fault, event);
            }
            Action::Apply { interface, token, ifindex, peers, changes, fault } => {
                let result = self.make(ifindex, &peers, &changes, fault);
                if result.is_err() {
                    self.trust.entry(ifindex).or_default().sure = false;
                }
                self.answer(fault, Event::Applied { interface, token, result });
            }
            Action::Filter(request, fault) => self.carry_out(request, fault),
            Action::Tell(event) => {
                self.filter.hear(&event);
                if let Event::Device { token, result: Ok(device), .. } = &event {
                    let index = device.ifindex;
                    let current = self.engine.interfaces().any(|i| i.ifindex() == Some(index));
                    let trust = self.trust.entry(index).or_default();
                    if current && trust.dumped == Some(*token) {
                        trust.sure = true;
                    }
                }
                self.handle(event);
            }
        }
    }

    pub(crate) fn answer(&mut self, fault: Fault, event: Event) {
        let late = if let Fault::Late(late) = fault { u64::from(late) } else { 0 };
        let wait = self.delays.draw() + late;
        self.plan(wait, Action::Tell(event));
    }

    fn read(&mut self, epoch: u64, mut steps: VecDeque<Step>) {
        let part = match steps.pop_front() {
            None => {
                let error = (self.sync_failures > 0).then(|| "no memory".to_owned());
                self.sync_failures = self.sync_failures.saturating_sub(1);
                let wait = self.delays.draw();
                return self.plan(wait, Action::Done { epoch, error });
            }
            Some(Step::Links) => SyncPart::Links(self.kernel.dump_links()),
            Some(Step::Nexthops) => SyncPart::Nexthops(self.kernel.dump_nexthops()),
            Some(Step::Routes(scope, after)) => {
                let all = self.kernel.dump_routes(&scope);
                let rest: Vec<Route> = all
                    .into_iter()
                    .filter(|r| after.is_none_or(|after| r.prefix > after))
                    .collect();
                let prefixes: BTreeSet<Prefix> = rest.iter().map(|route| route.prefix).collect();
                let last = prefixes.iter().nth(CHUNK - 1).or(prefixes.last()).copied();
                if let Some(last) = last {
                    steps.push_front(Step::Routes(scope, Some(last)));
                }
                let here = |route: &Route| last.is_some_and(|last| route.prefix <= last);
                SyncPart::Routes(rest.into_iter().filter(here).collect())
            }
        };
        self.handle(Event::SyncPart { epoch, part });
        let wait = self.delays.draw();
        self.plan(wait, Action::Read { epoch, steps });
    }
}
