//! Reachability's edge: a thread of its own, so that a full table on its way through the engine of
//! routes does not make probes late.
//!
//! Here lives [`Reach`], which starts the thread, and [`Feed`], what every sink gets. The machine is
//! in [`crate::core::reach`]; [`prober`] has its sockets. Invariant: a sink that fails says so on the
//! [`Board`] and in the log, tries again, and stops nothing else.

pub mod babeld;
pub mod bird;
pub mod board;
mod dialogue;
pub mod dormant;
pub mod hooks;
pub mod list;
pub mod packets;
pub mod prober;
pub mod routes;
pub mod top;
pub mod view;

use std::{
    io,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime,
    sync::{
        broadcast,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        watch,
    },
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use self::{board::Board, prober::Prober};
use crate::{
    core::{
        reach::{
            event::{ReachEvent, ReachOutput},
            machine::Machine,
            rule::ReachRule,
            status::{Change, Reachability, State},
        },
        time::Time,
    },
    exits::{self, Begun},
};

/// Figures are published this often when nothing else changes.
const FIGURES: Duration = Duration::from_secs(1);
/// A picture is published at most this often, however much changes.
const PACE: Duration = Duration::from_millis(5);
/// How long sinks may take to do what `on_exit` asks for.
const CLOSING: Duration = Duration::from_secs(10);
/// Events taken in between two looks at the clock.
const BURST: usize = 256;
/// News that a slow listener may be behind by; it is told that it missed some.
const NEWS: usize = 1024;

/// What every sink gets, and everybody who asks.
#[derive(Clone, Debug)]
pub struct Feed {
    /// The latest picture.
    pub picture: watch::Receiver<Arc<Reachability>>,
    /// What is configured.
    pub rule: watch::Receiver<Arc<ReachRule>>,
    /// True when the daemon is stopping: a sink then does what `on_exit` asks for, and ends.
    pub stopping: watch::Receiver<bool>,
    /// Changes as they happen.
    pub news: broadcast::Sender<Change>,
    /// Evidence that a sink comes across.
    pub events: UnboundedSender<ReachEvent>,
    /// How each sink fares.
    pub board: Board,
    /// The daemon's start: the clock of all times.
    pub started: Instant,
}

impl Feed {
    /// What time it is.
    pub fn now(&self) -> Time {
        Time(self.started.elapsed())
    }

    /// Waits until the daemon is stopping, or is gone.
    pub fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut stopping = self.stopping.clone();
        async move { drop(stopping.wait_for(|stopping| *stopping).await.map(drop)) }
    }
}

/// The thread.
#[derive(Debug)]
pub struct Reach {
    feed: Feed,
    stop: watch::Sender<bool>,
    done: Option<thread::JoinHandle<()>>,
}

impl Reach {
    /// Starts it. `started` is the daemon's clock.
    /// `filter` is where the packet filter's maps are pinned.
    /// `exits` are looked after here too, since reachability decides about them.
    pub fn start(
        rule: ReachRule,
        filter: PathBuf,
        exits: Begun,
        started: Instant,
    ) -> io::Result<Reach> {
        let (events, incoming) = mpsc::unbounded_channel();
        let (publish, picture) = watch::channel(Arc::new(Reachability::default()));
        let (configure, rule) = watch::channel(Arc::new(rule));
        let (stop, stopping) = watch::channel(false);
        let (news, _) = broadcast::channel(NEWS);
        let board = Board::default();
        let feed = Feed { picture, rule, stopping, news, events, board, started };
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let done = thread::Builder::new().name("reach".to_owned()).spawn({
            let feed = feed.clone();
            move || runtime.block_on(serve(incoming, feed, publish, configure, filter, exits))
        })?;
        Ok(Reach { feed, stop, done: Some(done) })
    }

    /// What sinks and askers need.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Lets the sinks do what `on_exit` asks for, and waits for them.
    pub async fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(done) = self.done.take() {
            // Its panic, if it had one, was told when it happened.
            let _ = spawn_blocking(move || done.join()).await;
        }
    }
}

/// The thread's loop.
async fn serve(
    mut incoming: UnboundedReceiver<ReachEvent>,
    feed: Feed,
    publish: watch::Sender<Arc<Reachability>>,
    configure: watch::Sender<Arc<ReachRule>>,
    filter: PathBuf,
    exits: Begun,
) {
    let mut stopping = feed.stopping.clone();
    let mut machine = Machine::new((**feed.rule.borrow()).clone());
    let mut prober = Prober::new(feed.events.clone(), feed.started);
    let mut sinks = JoinSet::new();
    sinks.spawn(packets::follow(feed.clone(), filter));
    sinks.spawn(hooks::serve(feed.clone()));
    sinks.spawn(bird::run(feed.clone()));
    sinks.spawn(babeld::run(feed.clone()));
    sinks.spawn(routes::run(feed.clone()));
    sinks.spawn(dormant::run(feed.clone()));
    sinks.spawn(exits::run(feed.clone(), exits));
    let mut published = Time::ZERO;
    let mut changes = Vec::new();
    loop {
        let now = feed.now();
        for output in machine.poll(now) {
            match output {
                ReachOutput::Request(request) => prober.carry_out(request),
                ReachOutput::Change(change) => changes.push(change),
            }
        }
        let changed = machine.revision() != publish.borrow().revision;
        if now >= published + if changed { PACE } else { FIGURES } {
            published = now;
            publish.send_replace(Arc::new(machine.picture(now)));
            // Behind the picture: whoever begins to listen and then looks has missed nothing.
            changes.drain(..).for_each(|change| tell(&feed, change));
        }
        let changed = machine.revision() != publish.borrow().revision;
        let figures = published + if changed { PACE } else { FIGURES };
        let deadline = machine.deadline().unwrap_or(figures).min(figures);
        tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => break,
            event = incoming.recv() => {
                let Some(event) = event else { break };
                let mut next = Some(event);
                let mut taken = 0;
                while let Some(event) = next {
                    if let ReachEvent::Configure { rule, .. } = &event {
                        configure.send_replace(Arc::new(rule.clone()));
                    }
                    machine.handle(event, feed.now());
                    taken += 1;
                    next = if taken < BURST { incoming.try_recv().ok() } else { None };
                }
            }
            () = prober.tend() => {}
            () = sleep(deadline.since(feed.now())) => {}
        }
    }
    let done = async { while sinks.join_next().await.is_some() {} };
    if timeout(CLOSING, done).await.is_err() {
        warn!("not everybody could be told of the stop in time");
    }
}

/// Tells people and whoever listens.
fn tell(feed: &Feed, change: Change) {
    match &change {
        Change::State { interface, peer, from, to: to @ State::Suspect, proof, .. }
        | Change::State {
            interface,
            peer,
            from: from @ State::Suspect,
            to: to @ State::Up,
            proof,
            ..
        } => {
            debug!(interface, peer, ?from, ?to, ?proof, "reachability in doubt");
        }
        Change::State { interface, peer, from, to, proof, rtt, .. } => {
            info!(interface, peer, ?from, ?to, ?proof, ?rtt, "reachability changed");
        }
        Change::Endpoint { interface, peer, from, to, .. } => {
            info!(interface, peer, %from, %to, "the peer's endpoint moved");
        }
        Change::Appeared { interface, peer, .. } => debug!(interface, peer, "peer appeared"),
        Change::Vanished { interface, peer, .. } => debug!(interface, peer, "peer vanished"),
    }
    // Without a listener there is nobody to tell.
    let _ = feed.news.send(change);
}
