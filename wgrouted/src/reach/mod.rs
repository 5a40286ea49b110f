//! Reachability's edge: a thread of its own, so that a full table on its way through the engine of
//! routes does not make probes late.
//!
//! Here lives [`Reach`], which starts the thread, and [`Feed`], what every sink gets. The machine is
//! in [`crate::core::reach`]; [`prober`] has its sockets. Invariant: a sink that fails says so on the
//! [`Board`] and in the log, tries again, and stops nothing else.

pub mod board;

use std::{sync::Arc, thread, time::Instant};

use tokio::{
    runtime,
    sync::{
        broadcast,
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        watch,
    },
};

use self::board::Board;
use crate::core::{
    reach::{
        event::ReachEvent,
        rule::ReachRule,
        status::{Change, Reachability},
    },
    time::Time,
};

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
    pub fn start(rule: ReachRule, started: Instant) -> std::io::Result<Reach> {
        let (events, incoming) = mpsc::unbounded_channel();
        let (publish, picture) = watch::channel(Arc::new(Reachability::default()));
        let (_configure, rule) = watch::channel(Arc::new(rule));
        let (stop, stopping) = watch::channel(false);
        let (news, _) = broadcast::channel(NEWS);
        let board = Board::default();
        let feed = Feed { picture, rule, stopping, news, events, board, started };
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let done = thread::Builder::new().name("reach".to_owned()).spawn({
            let feed = feed.clone();
            move || runtime.block_on(serve(incoming, feed, publish))
        })?;
        Ok(Reach { feed, stop, done: Some(done) })
    }

    /// What sinks and askers need.
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// Lets the sinks do what `on_exit` asks for, and waits for them.
    pub fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(done) = self.done.take() {
            let _ = done.join();
        }
    }
}

/// The thread's loop.
async fn serve(
    mut incoming: UnboundedReceiver<ReachEvent>,
    feed: Feed,
    _publish: watch::Sender<Arc<Reachability>>,
) {
    let mut stopping = feed.stopping.clone();
    loop {
        tokio::select! {
            event = incoming.recv() => if event.is_none() { return },
            _ = stopping.changed() => return,
        }
    }
}
