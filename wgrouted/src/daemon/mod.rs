//! The daemon: sockets, clocks and signals around the core.
//!
//! Here lives [`run`], the only place that knows all parts. One loop on one thread owns the
//! engine; everything that blocks is a thread of its own ([`workers`]). Order at the start:
//! subscribe, then dump, so that nothing falls between.

mod allocator;
pub mod links;
pub mod lock;
mod log;
pub mod memory;
pub mod privilege;
pub mod recording;
mod rosters;
pub mod workers;

use std::{
    future, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::{
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::sleep,
};
use tracing::{error, info, warn};

use self::{
    links::Links,
    lock::{Lock, LockError},
    memory::Memory,
    privilege::PrivilegeError,
    recording::Recorder,
    rosters::Rosters,
    workers::Workers,
};
use crate::{
    config::{Config, ConfigErrors, Source},
    core::{
        device::DeviceError,
        engine::Engine,
        event::Event,
        filter::table::FilterEvent,
        route::{Link, LinkKind},
        time::Time,
    },
    exits::{Exits, ExitsError},
    reach::Reach,
    serve::{
        Desk, Question, SOCKET, http,
        tcp::{Tcp, TcpError},
    },
    source::rtnetlink::{self, Dumper, Monitor},
    target::{
        filter::{FilterTarget, KernelFilter},
        links::LinkError,
        wireguard::{KernelWireguard, WgError},
    },
};

/// How long a shutdown may take that removes what is ours (`on_exit = "remove"`).
const CLOSING: Duration = Duration::from_secs(30);
/// How long whoever follows events has to be told of the end.
const FAREWELL: Duration = Duration::from_millis(20);
/// Events taken in between two looks at the clock.
const BURST: usize = 64;

/// What `run` needs to know besides the configuration.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the configuration comes from, also for a reload.
    pub source: Source,
    /// Stands above the configuration's.
    pub runtime_dir: Option<PathBuf>,
    /// Stands above the configuration's.
    pub log: Option<String>,
    /// Where to record events.
    pub record: Option<PathBuf>,
}

/// Why the daemon could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Privileges are missing.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// Another daemon follows the interface.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The kernel's routes cannot be read.
    #[error(transparent)]
    Network(#[from] rtnetlink::Error),
    /// WireGuard cannot be reached.
    #[error(transparent)]
    Wireguard(#[from] WgError),
    /// A device cannot be read.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The interface is of another kind.
    #[error(
        "interface {name} is not a WireGuard device: name one of {}",
        if .others.is_empty() { "those that `ip link add … type wireguard` makes".to_owned() }
        else { .others.join(", ") }
    )]
    NotWireguard {
        /// The interface.
        name: String,
        /// WireGuard devices that exist.
        others: Vec<String>,
    },
    /// Links cannot be read.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// Flows cannot be put in force.
    #[error(transparent)]
    Exits(#[from] ExitsError),
    /// The control socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] http::SocketError),
    /// Nobody can ask over TCP.
    #[error(transparent)]
    Tcp(#[from] TcpError),
    /// The recording cannot be written.
    #[error("cannot record to {}: {source}", path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("{doing}: {source}")]
    System {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
}

fn system(doing: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::System { doing, source }
}

/// Runs the daemon until SIGTERM or SIGINT.
pub fn run(options: &Options) -> Result<(), RunError> {
    allocator::return_large_allocations();
    let config = options.source.load()?;
    start_log(options.log.as_deref().unwrap_or(&config.daemon.log));
    privilege::require()?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("cannot start the event loop"))?;
    runtime.block_on(async { Daemon::start(options, config)?.serve().await })
}

/// Puts flows in force once, without a daemon; none may run.
pub fn enforce(runtime_dir: &Path, config: Config) -> Result<(), RunError> {
    start_log(&config.daemon.log);
    privilege::require()?;
    let _lock = Lock::flows()?;
    Exits::start(runtime_dir, config.flows)?;
    Ok(())
}

fn start_log(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::new(filter);
    // The journal has its own clock.
    let journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let builder = builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    if journal {
        builder.without_time().init();
    } else {
        builder.init();
    }
}

struct Daemon {
    engine: Engine,
    rosters: Rosters,
    reach: Reach,
    tcp: Tcp,
    started: Instant,
    source: Source,
    locks: Vec<Lock>,
    links: Links,
    exits: Exits,
    workers: Workers,
    events: mpsc::Receiver<Event>,
    questions: mpsc::Receiver<Question>,
    recorder: Option<Recorder>,
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
    socket: PathBuf,
    ready: bool,
}

impl Daemon {
    fn start(options: &Options, config: Config) -> Result<Daemon, RunError> {
        let runtime_dir = options.runtime_dir.as_ref().unwrap_or(&config.daemon.runtime_dir);
        // Opened once, so that a kernel without WireGuard is told at the start.
        KernelWireguard::open()?;
        let mut locks = Vec::new();
        lock_all(&mut locks, &config)?;
        let mut dumper = Dumper::open()?;
        remove_leftovers(&config, &mut dumper)?;
        // Before any thread starts: privileges belong to threads.
        privilege::keep_only_what_is_needed(config.filter_rule().is_some())?;
        let audit = config.audit();
        let links = Links::start(runtime_dir, config.links.clone(), audit)?;
        // Behind the links, which exits lead to, and before anybody is told that we are ready.
        let (exits, begun) = Exits::start(runtime_dir, config.flows.clone())?;
        let monitor = Monitor::open(config.daemon.receive_buffer)?;
        if monitor.receive_buffer() < config.daemon.receive_buffer {
            warn!(
                wanted = config.daemon.receive_buffer,
                granted = monitor.receive_buffer(),
                "the netlink receive buffer is smaller than configured: raise net.core.rmem_max, \
                 or run with CAP_NET_ADMIN in the initial user namespace"
            );
        }
        check_kinds(&config, &mut dumper)?;

        let recorder = match &options.record {
            None => None,
            Some(path) => Some(
                Recorder::create(path, &config.interfaces, config.daemon.resync_interval)
                    .map_err(|source| RunError::Record { path: path.clone(), source })?,
            ),
        };
        let socket = runtime_dir.join(SOCKET);
        let listener = http::listen(&socket)?;

        let (event_sender, events) = mpsc::channel(workers::CHANNEL);
        let (question_sender, questions) = mpsc::channel(8);
        let memory = Memory::new(runtime_dir);
        let workers = Workers::start(
            monitor,
            dumper,
            memory,
            KernelFilter::new(&config.filter.directory),
            &event_sender,
        )?;
        let started = Instant::now();
        let filter = config.filter.directory.clone();
        let status = begun.status();
        let reach = Reach::start(config.reach.clone(), filter, begun, started)
            .map_err(system("cannot start a thread"))?;
        let directory = config.filter.directory.clone();
        let desk =
            Desk::new(question_sender, event_sender, directory, reach.feed().clone(), status);
        let mut tcp = Tcp::new(desk.clone());
        tcp.configure(&config.api)?;
        tokio::spawn(async move {
            if let Err(error) = http::serve(listener, desk).await {
                error!(%error, "the control socket is no longer served");
            }
        });
        let rosters = Rosters::new(reach.feed().events.clone());
        rosters.configure(&config);
        let signals = "cannot handle signals";
        let filter_rule = config.filter_rule();
        let mut daemon = Daemon {
            engine: Engine::new(config.interfaces, config.daemon.resync_interval),
            rosters,
            reach,
            tcp,
            started,
            source: options.source.clone(),
            locks,
            links,
            exits,
            workers,
            events,
            questions,
            recorder,
            hangup: signal(SignalKind::hangup()).map_err(system(signals))?,
            terminate: signal(SignalKind::terminate()).map_err(system(signals))?,
            interrupt: signal(SignalKind::interrupt()).map_err(system(signals))?,
            socket,
            ready: false,
        };
        daemon.handle(Event::Filter(FilterEvent::Configure(filter_rule)));
        Ok(daemon)
    }

    fn now(&self) -> Time {
        Time(self.started.elapsed())
    }

    async fn serve(mut self) -> Result<(), RunError> {
        let watchdog = sd_notify::watchdog_enabled().map(|interval| interval / 2);
        let mut stop_by: Option<Instant> = None;
        let mut alive = Instant::now();
        loop {
            let now = self.now();
            log::round(self.engine.poll(now), |request| self.workers.submit(request));
            self.tell_ready();
            if watchdog.is_some_and(|interval| alive.elapsed() >= interval) {
                alive = Instant::now();
                notify(&[sd_notify::NotifyState::Watchdog]);
            }
            if let Some(limit) = stop_by
                && (self.engine.is_closed() || Instant::now() >= limit)
            {
                break;
            }
            let deadline = self.engine.deadline().map(|at| at.since(self.now()));
            let closing = stop_by.map(|limit| limit.saturating_duration_since(Instant::now()));
            // Counted from the last sign of life: events in between must not put the next one off.
            let pulse = watchdog.map(|interval| interval.saturating_sub(alive.elapsed()));
            let wait = deadline.into_iter().chain(pulse).chain(closing).min();
            let timer = async {
                match wait {
                    Some(wait) => sleep(wait).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = self.terminate.recv() => self.stop(&mut stop_by),
                _ = self.interrupt.recv() => self.stop(&mut stop_by),
                _ = self.hangup.recv() => self.reload(),
                Some(question) = self.questions.recv() => question(&self.engine),
                Some(event) = self.events.recv() => self.take_in(event),
                () = timer => {}
            }
        }
        self.reach.stop().await;
        sleep(FAREWELL).await;
        let _ = std::fs::remove_file(&self.socket);
        info!("stopped; what WireGuard holds stays as it is");
        Ok(())
    }

    /// Takes in an event and those that wait behind it.
    fn take_in(&mut self, first: Event) {
        self.handle(first);
        for _ in 0..BURST {
            let Ok(event) = self.events.try_recv() else { break };
            self.handle(event);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = self.now();
        if let Some(recorder) = &mut self.recorder
            && let Err(error) = recorder.record(&event, now)
        {
            error!(%error, "the recording cannot be written any more; it ends here");
            self.recorder = None;
        }
        let touched = self.rosters.look(&event);
        self.engine.handle(event, now);
        self.rosters.tell(touched, &self.engine);
    }

    fn tell_ready(&mut self) {
        if !self.ready && self.engine.is_in_sync() {
            self.ready = true;
            notify(&[sd_notify::NotifyState::Ready]);
        }
    }

    fn stop(&mut self, stop_by: &mut Option<Instant>) {
        if stop_by.is_none() {
            notify(&[sd_notify::NotifyState::Stopping]);
            self.handle(Event::Shutdown);
            *stop_by = Some(Instant::now() + CLOSING);
        }
    }

    /// Loads the configuration again. Whatever is wrong with it, the daemon goes on as it was.
    fn reload(&mut self) {
        let config = match self.source.load() {
            Ok(config) => config,
            Err(errors) => {
                for line in errors.to_string().lines() {
                    error!(error = line, "the configuration is wrong; going on with the old one");
                }
                return;
            }
        };
        if let Err(error) = self.exits.check(&config.flows) {
            return error!(%error, "the configuration was not loaded; going on with the old one");
        }
        let held = self.locks.len();
        if let Err(error) = lock_all(&mut self.locks, &config) {
            return error!(%error, "the configuration was not loaded; going on with the old one");
        }
        if let Err(error) = self.tcp.configure(&config.api) {
            self.locks.truncate(held);
            return error!(%error, "the configuration was not loaded; going on with the old one");
        }
        let configured = |name: &str| config.interfaces.iter().any(|rule| rule.name == name);
        // The others stay: what is configured no more may still be being removed.
        self.locks.retain(|lock| !lock.is_interface() || configured(lock.name()));
        info!(interfaces = config.interfaces.len(), "configuration loaded again");
        self.rosters.configure(&config);
        self.links.configure(config.links.clone(), config.audit());
        self.exits.configure(config.flows.clone());
        // The rules first: interfaces name policies.
        self.handle(Event::Filter(FilterEvent::Configure(config.filter_rule())));
        self.handle(Event::Reconfigure(config.interfaces));
    }
}

/// Locks what is not locked yet.
fn lock_all(locks: &mut Vec<Lock>, config: &Config) -> Result<(), LockError> {
    let mut fresh = Vec::new();
    for rule in &config.interfaces {
        if !locks.iter().any(|lock| lock.name() == rule.name) {
            fresh.push(Lock::interface(&rule.name)?);
        }
    }
    if config.filter_rule().is_some() && !locks.iter().any(Lock::is_filter) {
        fresh.push(Lock::filter()?);
    }
    if !config.flows.is_empty() && !locks.iter().any(Lock::is_flows) {
        fresh.push(Lock::flows()?);
    }
    locks.append(&mut fresh);
    Ok(())
}

/// An earlier daemon's filter goes if nobody is filtered any more, and if it was on our interfaces.
fn remove_leftovers(config: &Config, dumper: &mut Dumper) -> Result<(), RunError> {
    let mut filter = KernelFilter::new(&config.filter.directory);
    if config.filter_rule().is_some() {
        return Ok(());
    }
    let links = dumper.links()?;
    let removed = filter.devices().and_then(|devices| {
        let ours = |link: &Link| config.interfaces.iter().any(|rule| rule.name == link.name);
        let mut found = links.iter().filter(|link| devices.contains(&link.index));
        if !found.any(ours) || Lock::filter().is_err() {
            return Ok(false);
        }
        filter.remove().map(|()| true)
    });
    match removed {
        Ok(true) => info!("removed the filter of an earlier daemon: no interface is filtered"),
        Ok(false) => {}
        Err(error) => warn!(%error, "an earlier daemon's filter may still be in force"),
    }
    Ok(())
}

/// An interface that exists but is of another kind is a mistake; one that is missing may come.
fn check_kinds(config: &Config, dumper: &mut Dumper) -> Result<(), RunError> {
    let links = dumper.links()?;
    for rule in &config.interfaces {
        let wrong =
            links.iter().any(|link| link.name == rule.name && link.kind != LinkKind::Wireguard);
        if wrong {
            let others = links.iter().filter(|link| link.kind == LinkKind::Wireguard);
            return Err(RunError::NotWireguard {
                name: rule.name.clone(),
                others: others.map(|link| link.name.clone()).collect(),
            });
        }
    }
    Ok(())
}

/// Tells systemd, if there is one.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!(%error, "systemd could not be told");
    }
}
