//! The threads that talk to the kernel.
//!
//! Here live three loops, each around one blocking conversation: the monitor listens, the reader
//! dumps the network, the WireGuard worker dumps and changes devices. They hold no state that
//! matters: what to do comes as a [`Request`], what came of it goes back as an [`Event`].

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc as std_mpsc,
    },
    thread,
    time::Instant,
};

use tokio::sync::mpsc;
use tracing::{debug, error, warn};

use super::{RunError, memory::Memory, system};
use crate::{
    core::{
        device::{Device, DeviceError},
        event::{Event, InterfaceId, Request, Scope, SyncPart},
        filter::table::{FilterEvent, FilterRequest},
        peers::RememberedPins,
        route::IfIndex,
    },
    source::rtnetlink::{self, Dumper, Knocker, Monitor, Wake},
    target::{
        filter::FilterTarget,
        wireguard::{Batch, KernelWireguard, WgError, WireguardTarget},
    },
};

/// Routes that may be on their way to the engine at once are bounded by this many chunks.
pub const CHANNEL: usize = 64;

/// Hands requests to the threads.
#[derive(Debug)]
pub struct Workers {
    network: std_mpsc::Sender<Request>,
    wireguard: std_mpsc::Sender<Request>,
    filter: std_mpsc::Sender<FilterRequest>,
    /// The latest dump asked for: older ones are cut short.
    epoch: Arc<AtomicU64>,
}

impl Workers {
    /// Starts the threads. They end with the process; a fatal error reaches the daemon as the end
    /// of the event channel.
    pub fn start(
        mut monitor: Monitor,
        dumper: Dumper,
        memory: Memory,
        filter: impl FilterTarget + Send + 'static,
        events: &mpsc::Sender<Event>,
    ) -> Result<Workers, RunError> {
        let knocker = monitor.knocker()?;
        let epoch = Arc::new(AtomicU64::new(0));
        let (network, network_requests) = std_mpsc::channel();
        let (wireguard, wireguard_requests) = std_mpsc::channel();
        let (filter_sender, filter_requests) = std_mpsc::channel();
        spawn("monitor", {
            let events = events.clone();
            move || listen(monitor, &events)
        })?;
        spawn("reader", {
            let (events, epoch) = (events.clone(), Arc::clone(&epoch));
            move || read(dumper, &knocker, &network_requests, &events, &epoch)
        })?;
        spawn("wireguard", {
            let events = events.clone();
            move || Wireguard::new(memory).serve(&wireguard_requests, &events)
        })?;
        spawn("filter", {
            let events = events.clone();
            move || serve_filter(filter, &filter_requests, &events)
        })?;
        Ok(Workers { network, wireguard, filter: filter_sender, epoch })
    }

    /// Hands over a request. Its answer comes as an event.
    pub fn submit(&self, request: Request) {
        let to = match &request {
            Request::Sync { epoch, .. } => {
                self.epoch.store(*epoch, Ordering::Relaxed);
                &self.network
            }
            _ => &self.wireguard,
        };
        // A thread that is gone has said why; the daemon ends with it.
        let _ = match request {
            Request::Filter(request) => self.filter.send(request).is_ok(),
            request => to.send(request).is_ok(),
        };
    }
}

pub(super) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), RunError> {
    let started = thread::Builder::new().name(name.to_owned()).spawn(work);
    started.map(drop).map_err(system("cannot start a thread"))
}

/// Listens until the daemon ends.
fn listen(mut monitor: Monitor, events: &mpsc::Sender<Event>) {
    loop {
        let mut batch = Vec::new();
        match monitor.recv(&mut batch) {
            Ok(Wake::Received) => {
                let news = (!batch.is_empty()).then_some(Event::Net(batch));
                let knocks = monitor.take_knocks().into_iter();
                let done = knocks.map(|epoch| Event::SyncDone { epoch, error: None });
                for event in news.into_iter().chain(done) {
                    if events.blocking_send(event).is_err() {
                        return;
                    }
                }
            }
            Ok(Wake::Stopped) => return,
            Err(error) => {
                error!(%error, "the kernel's route notifications cannot be received any more");
                std::process::exit(1);
            }
        }
    }
}

/// Dumps the network on request. The end of a dump takes the way through the monitor, so that it
/// comes behind everything that the kernel announced before.
fn read(
    mut dumper: Dumper,
    knocker: &Knocker,
    requests: &std_mpsc::Receiver<Request>,
    events: &mpsc::Sender<Event>,
    latest: &AtomicU64,
) {
    while let Ok(request) = requests.recv() {
        let Request::Sync { epoch, objects, scopes } = request else { continue };
        let mut sink = |part| {
            let heard = events.blocking_send(Event::SyncPart { epoch, part }).is_ok();
            match heard && latest.load(Ordering::Relaxed) == epoch {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        };
        let started = Instant::now();
        let result = dump_network(&mut dumper, objects, &scopes, &mut sink);
        debug!(epoch, objects, ?scopes, took = ?started.elapsed(), "network read");
        if let Err(error) = result.and_then(|()| knocker.knock(epoch)) {
            let error = Some(error.to_string());
            if events.blocking_send(Event::SyncDone { epoch, error }).is_err() {
                return;
            }
        }
    }
}

/// Answers one [`Request::Sync`], part by part.
pub fn dump_network(
    dumper: &mut Dumper,
    objects: bool,
    scopes: &[Scope],
    sink: &mut dyn FnMut(SyncPart) -> ControlFlow<()>,
) -> Result<(), rtnetlink::Error> {
    if objects
        && (sink(SyncPart::Links(dumper.links()?)).is_break()
            || sink(SyncPart::Nexthops(dumper.nexthops()?)).is_break())
    {
        return Ok(());
    }
    for scope in scopes {
        if dumper.routes(*scope, &mut |routes| sink(SyncPart::Routes(routes)))?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Answers the filter's requests until the daemon ends.
fn serve_filter(
    mut target: impl FilterTarget,
    requests: &std_mpsc::Receiver<FilterRequest>,
    events: &mpsc::Sender<Event>,
) {
    while let Ok(request) = requests.recv() {
        let started = Instant::now();
        let event = match request {
            FilterRequest::Open { token, plan } => {
                FilterEvent::Opened { token, result: target.open(&plan) }
            }
            FilterRequest::Apply { token, changes } => {
                FilterEvent::Applied { token, result: target.apply(&changes) }
            }
            FilterRequest::Attach { token, links } => {
                FilterEvent::Attached { token, links: target.attach(&links) }
            }
            FilterRequest::Dump { token } => {
                let result = target.dump();
                FilterEvent::Dumped { token, cost: started.elapsed(), result }
            }
            FilterRequest::Remove { token } => {
                FilterEvent::Removed { token, result: target.remove() }
            }
        };
        if events.blocking_send(Event::Filter(event)).is_err() {
            return;
        }
    }
}

/// Devices and what is remembered of them.
#[derive(Debug)]
pub struct Wireguard {
    memory: Memory,
    /// Whether leftovers of an earlier run may be cleared.
    repair: bool,
    /// One door an interface: each has its own bound of message sizes and knows its own device.
    doors: HashMap<InterfaceId, (usize, KernelWireguard)>,
}

impl Wireguard {
    /// Remembers pinned prefixes in `memory`.
    pub fn new(memory: Memory) -> Self {
        Wireguard { memory, repair: true, doors: HashMap::new() }
    }

    /// Dumps only: changes nothing, not even what an earlier run left behind.
    pub fn read_only(memory: Memory) -> Self {
        Wireguard { repair: false, ..Wireguard::new(memory) }
    }

    fn serve(mut self, requests: &std_mpsc::Receiver<Request>, events: &mpsc::Sender<Event>) {
        while let Ok(request) = requests.recv() {
            if let Some(event) = self.answer(request)
                && events.blocking_send(event).is_err()
            {
                return;
            }
        }
    }

    /// Carries out a request.
    pub fn answer(&mut self, request: Request) -> Option<Event> {
        match request {
            Request::Dump { interface, token, ifindex } => {
                let started = Instant::now();
                let result = self.dump(interface, ifindex).map_err(DeviceError::from);
                let cost = started.elapsed();
                let remembered = result.as_ref().map_or_else(
                    |_| Vec::new(),
                    |device: &Device| self.recall(&device.name, ifindex),
                );
                Some(Event::Device { interface, token, cost, result, remembered })
            }
            Request::Apply { interface, token, ifindex, message_size, peers, changes } => {
                let batch = Batch { peers: &peers, changes: &changes };
                let result = self
                    .door(interface, Some(message_size))
                    .and_then(|door| door.apply(ifindex, batch))
                    .map_err(DeviceError::from);
                Some(Event::Applied { interface, token, result })
            }
            Request::Remember { name, ifindex, pins } => {
                if let Err(error) = self.memory.remember(&name, ifindex, pins) {
                    warn!(interface = name, %error, "learned pinned prefixes could not be saved: \
                        a restart may take synced prefixes for the peers' own; free some space or \
                        configure `pinned`");
                }
                None
            }
            Request::Sync { .. } | Request::Filter(_) => None,
        }
    }

    fn dump(&mut self, interface: InterfaceId, ifindex: IfIndex) -> Result<Device, WgError> {
        let repair = self.repair;
        let door = self.door(interface, None)?;
        let mut device = door.dump(ifindex)?;
        // An earlier run may have ended between burying prefixes and clearing the grave.
        if repair && !device.graveyard.is_empty() {
            door.bury(ifindex)?;
            device.graveyard.clear();
        }
        Ok(device)
    }

    fn door(
        &mut self,
        interface: InterfaceId,
        message_size: Option<usize>,
    ) -> Result<&mut KernelWireguard, WgError> {
        let known = self.doors.get(&interface).map(|(size, _)| *size);
        if known.is_none() || message_size.is_some_and(|size| Some(size) != known) {
            let door = match message_size {
                Some(size) => (size, KernelWireguard::with_message_limit(size)?),
                None => (0, KernelWireguard::open()?),
            };
            self.doors.insert(interface, door);
        }
        Ok(&mut self.doors.get_mut(&interface).expect("inserted above").1)
    }

    fn recall(&self, name: &str, ifindex: IfIndex) -> RememberedPins {
        self.memory.recall(name, ifindex).unwrap_or_else(|error| {
            warn!(interface = name, %error, "remembered pinned prefixes could not be read: what \
                is on the device counts as the peers' own; remove the file to silence this");
            Vec::new()
        })
    }
}
