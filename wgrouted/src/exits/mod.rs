//! Exits' edge: the kernel's rules, tables and nexthop objects, kept as flows need them.
//!
//! Here lives the task that looks and acts: when reachability, the configuration or the kernel changes,
//! and from time to time. What there should be is `core::exits`' business. Invariants: the first look is
//! over before the daemon says that it is ready, so that what is to be blocked is blocked; nothing goes
//! when the daemon stops or dies.

mod cleanup;
mod keeper;
pub mod view;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::watch,
    task,
    time::sleep_until,
};
use tracing::{error, info, warn};

use self::keeper::{Cause, Keeper, Outcome};
pub use self::{cleanup::cleanup, keeper::ExitsError};
use crate::{
    core::{
        exits::{rule::FlowsRule, status::ExitsStatus},
        reach::status::Reachability,
        time::Time,
    },
    reach::Feed,
    source::rtnetlink::Notifier,
};

/// Rules, nexthop objects and routes go without a word now and then, and ports change so.
const CHECK: Duration = Duration::from_secs(10);
/// After a failure, then ever more rarely.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Changes come in bursts, and our own steps are heard too: one look for all that comes in this time.
const GATHER: Duration = Duration::from_millis(20);

/// Hands new configurations to the task, and tells how things are.
#[derive(Debug)]
pub struct Exits {
    configure: watch::Sender<Arc<FlowsRule>>,
    runtime_dir: PathBuf,
}

/// What the task begins with.
pub struct Begun {
    keeper: Keeper,
    rule: watch::Receiver<Arc<FlowsRule>>,
    status: watch::Sender<Arc<ExitsStatus>>,
}

impl Begun {
    /// How things are, now and later.
    pub fn status(&self) -> watch::Receiver<Arc<ExitsStatus>> {
        self.status.subscribe()
    }
}

impl Exits {
    /// Takes the first look and does what is to be done: whatever is to be blocked is blocked when this
    /// returns. Fails if that cannot be, or if others have what is configured to be ours.
    pub fn start(runtime_dir: &Path, rule: FlowsRule) -> Result<(Exits, Begun), ExitsError> {
        let mut keeper = Keeper::new(runtime_dir)?;
        keeper.check(&rule)?;
        let (configure, incoming) = watch::channel(Arc::new(rule.clone()));
        keeper.configure(rule);
        let outcome = keeper.round(&Reachability::default(), Time::ZERO, Cause::Start)?;
        if let Some(failure) = outcome.failures.into_iter().next() {
            return Err(ExitsError::Step(failure));
        }
        if outcome.steps > 0 {
            info!(steps = outcome.steps, "flows are in force");
        }
        let (status, _) = watch::channel(Arc::new(keeper.status(Time::ZERO)));
        let begun = Begun { keeper, rule: incoming, status };
        let exits = Exits { configure, runtime_dir: runtime_dir.to_owned() };
        Ok((exits, begun))
    }

    /// Whether others have what this configuration calls ours.
    pub fn check(&self, rule: &FlowsRule) -> Result<(), ExitsError> {
        Keeper::new(&self.runtime_dir)?.check(rule)
    }

    /// From now on these exits and flows are configured.
    pub fn configure(&self, rule: FlowsRule) {
        self.configure.send_if_modified(|known| {
            let changed = **known != rule;
            if changed {
                *known = Arc::new(rule);
            }
            changed
        });
    }
}

/// Keeps flows in force until the daemon stops.
pub async fn run(mut feed: Feed, begun: Begun) {
    let Begun { keeper, mut rule, status } = begun;
    let mut task = Task { keeper: Some(keeper), status, notifier: None, retry: RETRY.0 };
    let mut revision = None;
    let mut due = Instant::now() + CHECK;
    let mut cause = Cause::Check;
    loop {
        if *feed.stopping.borrow() || task.keeper.is_none() {
            return;
        }
        task.listen();
        tokio::select! {
            biased;
            _ = feed.stopping.changed() => continue,
            changed = rule.changed() => {
                if changed.is_err() {
                    return;
                }
                let new = rule.borrow_and_update().clone();
                task.configure((*new).clone());
                cause = Cause::Configured;
            }
            changed = feed.picture.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = feed.picture.borrow_and_update().revision;
                if revision.replace(now) == Some(now) {
                    continue;
                }
                cause = cause.max(Cause::Reachability);
            }
            () = sleep_until(due.into()) => {}
            () = task.heard() => {
                cause = cause.max(Cause::Kernel);
                due = due.min(Instant::now() + GATHER);
                continue;
            }
        }
        let picture = feed.picture.borrow().clone();
        due = task.round(picture, feed.now(), cause).await;
        cause = Cause::Check;
    }
}

struct Task {
    /// `None` only while it is away, or lost by a panic.
    keeper: Option<Keeper>,
    status: watch::Sender<Arc<ExitsStatus>>,
    notifier: Option<AsyncFd<Notifier>>,
    retry: Duration,
}

impl Task {
    fn configure(&mut self, rule: FlowsRule) {
        if let Some(keeper) = &mut self.keeper {
            keeper.configure(rule);
        }
    }

    /// Looks and acts, off this thread, which has probes to send. Returns when to do so again.
    async fn round(&mut self, picture: Arc<Reachability>, now: Time, cause: Cause) -> Instant {
        let Some(mut keeper) = self.keeper.take() else { return Instant::now() + CHECK };
        let away = task::spawn_blocking(move || {
            let outcome = keeper.round(&picture, now, cause);
            (keeper, outcome)
        });
        let (keeper, outcome) = match away.await {
            Ok(back) => back,
            Err(error) => {
                error!(%error, "flows are no longer looked after; what is in force stays");
                return Instant::now() + CHECK;
            }
        };
        self.status.send_replace(Arc::new(keeper.status(now)));
        self.keeper = Some(keeper);
        let next = match outcome {
            Ok(Outcome { failures, next, .. }) if failures.is_empty() => {
                self.retry = RETRY.0;
                next.map_or(CHECK, |at| at.since(now).min(CHECK))
            }
            Ok(_) => self.again(),
            Err(error) => {
                warn!(%error, "cannot look at what flows need");
                self.again()
            }
        };
        Instant::now() + next
    }

    fn again(&mut self) -> Duration {
        let retry = self.retry;
        self.retry = (self.retry * 2).min(RETRY.1);
        retry
    }

    /// Starts to listen once there is something to look after.
    fn listen(&mut self) {
        let idle = self.keeper.as_ref().is_none_or(Keeper::is_idle);
        if idle || self.notifier.is_some() {
            return;
        }
        let notifier = Notifier::exits().map_err(io::Error::other).and_then(|notifier| {
            // SAFETY: a notifier owns one socket, which it neither exchanges nor closes before it is
            // dropped.
            unsafe { AsyncFd::register_with_interest(notifier, Interest::READABLE) }
                .map_err(io::Error::from)
        });
        match notifier {
            Ok(notifier) => self.notifier = Some(notifier),
            // Looks from time to time still find what went.
            Err(error) => warn!(%error, "cannot hear of rules and links that change"),
        }
    }

    /// Waits until something happened in the kernel; for ever where nobody listens.
    async fn heard(&mut self) {
        let Some(notifier) = &mut self.notifier else { return std::future::pending().await };
        let heard = notifier.async_io_mut(Interest::READABLE, |notifier| match notifier.heard() {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::ErrorKind::WouldBlock.into()),
            Err(error) => Err(io::Error::other(error)),
        });
        if heard.await.is_err() {
            // The next round opens another.
            self.notifier = None;
        }
    }
}
