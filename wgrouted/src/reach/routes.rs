//! The sink of kernel routes: what `core::reach::announce` wants, in the kernel.
//!
//! Here lives the task that writes routes, and looks whether they are still there: after whatever
//! may have taken one away, and from time to time. Invariant: nothing is touched before every
//! interface was looked at once, so that a restart leaves the routes of living peers alone; and
//! nothing but our own routes ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use tokio::{
    io::{Interest, unix::AsyncFd},
    task,
    time::{Instant, sleep_until},
};

use super::{
    Feed,
    board::{SinkStatus, in_one_line},
};
use crate::{
    config::{NameKind, Names},
    core::{
        event::NetEvent,
        prefix::Family,
        reach::{
            announce::{Announced, Announcer, Wanted},
            route::{OurRoute, Owned, PROTOCOL, Step, steps},
            status::{PeerStatus, Reachability},
        },
        rule::OnExit,
    },
    source::rtnetlink::{Error, Notifier},
    target::kroute::KernelRoutes,
};

/// The sink's name on the board.
const SINK: &str = "routes";
/// The kernel announces a link *before* it deletes its routes; after this time they are gone.
const SETTLE: Duration = Duration::from_millis(50);
/// On a slow machine they are not; then after this time.
const SETTLE_AGAIN: Duration = Duration::from_secs(1);
/// How often the kernel is asked whether all is as it should be: IPv4 routes vanish, and routes are
/// replaced, without a word. A full table costs the kernel some 60 ms each time, off this thread.
const CHECK: Duration = Duration::from_secs(30);
/// When what failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Figures change with every probe; metrics need not be worked out anew each time.
const FIGURES: Duration = Duration::from_secs(1);

/// Writes the routes until the daemon stops.
pub async fn run(mut feed: Feed) {
    let mut sink = Sink::new(feed.clone());
    let (mut revision, mut looked) = (None, Instant::now());
    loop {
        if *feed.stopping.borrow() {
            return sink.stop().await;
        }
        tokio::select! {
            changed = feed.picture.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = feed.picture.borrow_and_update().revision;
                if revision == Some(now) && looked.elapsed() < FIGURES {
                    continue;
                }
                (revision, looked) = (Some(now), Instant::now());
                sink.round().await;
            }
            () = sleep_until(sink.due()) => sink.check().await,
            events = sink.notifications() => sink.hear(&events),
            _ = feed.stopping.changed() => {}
        }
    }
}

struct Sink {
    feed: Feed,
    names: Names,
    announcer: Announcer,
    /// `None` while it is away with a question, and before the first.
    kernel: Option<KernelRoutes>,
    notifier: Option<AsyncFd<Notifier>>,
    /// The protocols that the notifier hears.
    heard: BTreeSet<u8>,
    /// The protocols whose routes were asked for.
    dumped: BTreeSet<u8>,
    /// What the kernel has; `None` before it was asked.
    have: Option<BTreeSet<OurRoute>>,
    owned: Owned,
    /// Who has a route, for the log.
    peers: BTreeMap<OurRoute, Announced>,
    /// What does not work, and why.
    faults: BTreeMap<OurRoute, String>,
    trouble: Option<String>,
    /// When to look at the kernel's routes: soon after an event, and in any case.
    soon: Option<Instant>,
    later: Instant,
}

/// What became of a step.
type Outcome = (Step, Result<(), Error>);

impl Sink {
    fn new(feed: Feed) -> Sink {
        Sink {
            feed,
            names: Names::system(),
            announcer: Announcer::default(),
            kernel: None,
            notifier: None,
            heard: BTreeSet::new(),
            dumped: BTreeSet::new(),
            have: None,
            owned: Owned { protocols: [PROTOCOL].into(), links: BTreeSet::new() },
            peers: BTreeMap::new(),
            faults: BTreeMap::new(),
            trouble: None,
            soon: None,
            later: Instant::now(),
        }
    }

    fn due(&self) -> Instant {
        self.soon.map_or(self.later, |soon| soon.min(self.later))
    }

    /// Waits for notifications; for ever where there is no notifier.
    async fn notifications(&mut self) -> Vec<NetEvent> {
        let Some(notifier) = &mut self.notifier else { return std::future::pending().await };
        let received =
            notifier.async_io_mut(Interest::READABLE, |notifier| match notifier.receive() {
                Ok(events) if events.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
                Ok(events) => Ok(events),
                Err(error) => Err(io::Error::other(error)),
            });
        match received.await {
            Ok(events) => events,
            Err(_) => {
                // The next check opens another.
                self.notifier = None;
                vec![NetEvent::Lost]
            }
        }
    }

    /// Something may have taken a route away.
    fn hear(&mut self, events: &[NetEvent]) {
        let links = &self.owned.links;
        let concerns = |event: &NetEvent| match event {
            NetEvent::Lost => true,
            NetEvent::Link(link) => links.contains(&link.index),
            NetEvent::LinkGone { index }
            | NetEvent::AddressAdded { index, .. }
            | NetEvent::AddressGone { index, .. } => links.contains(index),
            // What we removed ourselves is not missed.
            NetEvent::Route(event) => OurRoute::of(&event.route)
                .is_some_and(|route| self.have.iter().any(|have| have.contains(&route))),
            _ => false,
        };
        if events.iter().any(concerns) {
            let now = Instant::now();
            self.soon = Some(self.soon.unwrap_or(now + SETTLE));
            self.later = self.later.min(now + SETTLE_AGAIN);
        }
    }

    /// Looks at what the kernel has, and does what is to be done.
    async fn check(&mut self) {
        let now = Instant::now();
        self.soon = self.soon.filter(|soon| *soon > now);
        if now >= self.later {
            self.later = now + CHECK;
        }
        let picture = self.feed.picture.borrow().clone();
        self.own(&picture);
        // Nobody is announced and nothing is left over: the kernel need not be asked.
        let idle = self.have.as_ref().is_some_and(BTreeSet::is_empty) && !announces(&picture);
        if self.have.is_none() && !picture.complete || idle {
            return;
        }
        if announces(&picture) {
            self.listen();
        }
        self.dump().await;
        self.apply(&picture).await;
    }

    /// There is another picture.
    async fn round(&mut self) {
        let picture = self.feed.picture.borrow().clone();
        self.own(&picture);
        if self.have.is_none() || self.dumped != self.owned.protocols {
            return self.check().await;
        }
        self.apply(&picture).await;
    }

    /// Takes note of what is ours: what was once, remains so until it is removed.
    fn own(&mut self, picture: &Reachability) {
        for peer in &picture.peers {
            self.owned.links.extend(peer.ifindex);
            let rule = peer.link_rule.as_ref().and_then(|rule| rule.announce.as_ref());
            self.owned.protocols.extend(rule.map(|rule| rule.protocol));
        }
    }

    fn listen(&mut self) {
        if self.notifier.is_some() && self.heard == self.owned.protocols {
            return;
        }
        let opened = Notifier::open(&self.owned.protocols).map_err(|error| in_one_line(&error));
        let notifier = opened.and_then(|notifier| {
            // SAFETY: a notifier owns one socket, which it neither exchanges nor closes before it is
            // dropped.
            let registered =
                unsafe { AsyncFd::register_with_interest(notifier, Interest::READABLE) };
            registered.map_err(|error| in_one_line(&error))
        });
        match notifier {
            Ok(notifier) => {
                self.notifier = Some(notifier);
                self.heard.clone_from(&self.owned.protocols);
            }
            // Checks from time to time still find what went.
            Err(error) => tracing::warn!(%error, "cannot hear of routes that somebody removes"),
        }
    }

    async fn dump(&mut self) {
        let protocols = self.owned.protocols.clone();
        match self.ask(move |kernel| kernel.dump(&protocols)).await {
            Ok(have) => {
                (self.have, self.trouble) = (Some(have), None);
                self.dumped.clone_from(&self.owned.protocols);
            }
            Err(error) => self.fail(in_one_line(&error)),
        }
    }

    fn fail(&mut self, error: String) {
        if self.trouble.as_ref() != Some(&error) {
            tracing::warn!(%error, "cannot look at the routes of reachable peers");
        }
        self.trouble = Some(error);
        self.later = self.later.min(Instant::now() + RETRY);
    }

    /// Does what is to be done, and says how it went.
    async fn apply(&mut self, picture: &Reachability) {
        if let Some(have) = &self.have {
            let wanted = self.announcer.wanted(picture, have);
            let routes = wanted.routes.values().map(|announced| &announced.route);
            let todo = steps(routes, have, &self.owned);
            let pending = |route: &OurRoute| {
                todo.iter().any(|step| matches!(step, Step::Add(r) | Step::Remove(r) if r == route))
            };
            self.faults.retain(|route, _| pending(route));
            self.peers.extend(wanted.routes.values().map(|w| (w.route, w.clone())));
            if !todo.is_empty() {
                self.take(todo).await;
            }
            let have = self.have.iter().flatten();
            let have: BTreeSet<OurRoute> = have.copied().collect();
            self.peers.retain(|route, _| have.contains(route));
            self.report(picture, &wanted);
        } else if self.trouble.is_some() {
            self.report(picture, &Wanted::default());
        }
    }

    async fn take(&mut self, todo: Vec<Step>) {
        let outcomes: Result<Vec<Outcome>, Error> = self
            .ask(move |kernel| {
                let take = |step| match step {
                    Step::Add(route) => (step, kernel.add(&route)),
                    Step::Remove(route) => (step, kernel.remove(&route).map(drop)),
                };
                Ok(todo.into_iter().map(take).collect())
            })
            .await;
        match outcomes {
            Ok(outcomes) => outcomes.into_iter().for_each(|outcome| self.note(outcome)),
            Err(error) => self.fail(in_one_line(&error)),
        }
    }

    /// Keeps the books on a step.
    fn note(&mut self, (step, result): Outcome) {
        let (route, verb) = match step {
            Step::Add(route) => (route, "add"),
            Step::Remove(route) => (route, "remove"),
        };
        let who = self.peers.get(&route);
        let interface = who.map_or("", |who| &who.interface);
        let peer = who.map_or("", |who| &who.peer);
        match (result, step) {
            (Ok(()), Step::Add(_)) => {
                tracing::debug!(interface, peer, %route, "announced");
                self.faults.remove(&route);
                self.have.get_or_insert_default().insert(route);
            }
            (Ok(()), Step::Remove(_)) => {
                tracing::debug!(interface, peer, %route, "withdrawn");
                self.faults.remove(&route);
                self.have.get_or_insert_default().remove(&route);
            }
            (Err(error), _) => {
                let text = self.explain(verb, &route, &error);
                if self.faults.get(&route) != Some(&text) {
                    tracing::warn!(interface, peer, %route, error = text, "a route is not as it should be");
                }
                self.faults.insert(route, text);
                self.later = self.later.min(Instant::now() + RETRY);
            }
        }
    }

    fn explain(&self, verb: &str, route: &OurRoute, error: &Error) -> String {
        let place = &route.place;
        let table = self.names.name(NameKind::Table, place.table);
        let errno = match error {
            Error::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        };
        let what = match errno {
            Some(libc::EEXIST) => {
                return format!(
                    "table {table} has another route to {} with metric {}: give \
                     [interface.reach.announce] another metric or table",
                    place.prefix, place.metric
                );
            }
            Some(libc::EPERM) => "CAP_NET_ADMIN is needed: run as root".to_owned(),
            _ => in_one_line(error),
        };
        format!("cannot {verb} the route to {} in table {table}: {what}", place.prefix)
    }

    /// Writes on the board.
    fn report(&self, picture: &Reachability, wanted: &Wanted) {
        let have = self.have.iter().flatten().filter(|route| self.owned.holds(route));
        let have: BTreeSet<_> = have.collect();
        if have.is_empty() && !announces(picture) && self.trouble.is_none() {
            return self.feed.board.wipe(SINK);
        }
        let tables: BTreeSet<_> = have.iter().map(|route| route.place.table).collect();
        let tables: Vec<_> =
            tables.into_iter().map(|table| self.names.name(NameKind::Table, table)).collect();
        let mut doing = match have.len() {
            0 => "no routes".to_owned(),
            1 => format!("1 route in table {}", tables.join(", ")),
            many => format!("{many} routes in table {}", tables.join(", ")),
        };
        if let Some(first) = wanted.behind.first() {
            doing +=
                &format!("; {} stands behind {} with {}", first.peer, first.first, first.prefix);
        }
        if wanted.behind.len() > 1 {
            doing += &format!(" and {} more do so", wanted.behind.len() - 1);
        }
        let nowhere = wanted.nowhere.first().map(|lost| {
            let family = match lost.prefix.family() {
                Family::V4 => "",
                Family::V6 => "IPv6 ",
            };
            format!(
                "{} on {} has no {family}tunnel address to route {} by: add one to its `pinned`",
                lost.peer, lost.interface, lost.prefix
            )
        });
        let fault = self.faults.values().next().cloned();
        let error = self.trouble.clone().or(fault).or(nowhere);
        self.feed.board.write(SINK, SinkStatus { ok: error.is_none(), doing, error });
    }

    /// The daemon stops: what `on_exit` says goes.
    async fn stop(&mut self) {
        let picture = self.feed.picture.borrow().clone();
        self.own(&picture);
        let leaves = |on_exit: Option<OnExit>| on_exit == Some(OnExit::Remove);
        let links: BTreeSet<_> = picture
            .peers
            .iter()
            .filter(|peer| leaves(peer.link_rule.as_ref().map(|rule| rule.on_exit)))
            .filter_map(|peer| peer.ifindex)
            .collect();
        let owned = Owned { links, ..self.owned.clone() };
        let have = self.have.take().unwrap_or_default();
        let todo = steps([], &have, &owned);
        self.have = Some(have);
        if !todo.is_empty() {
            self.take(todo).await;
        }
    }

    /// Has something done that blocks, and so not on this thread, which has probes to send.
    async fn ask<T: Send + 'static>(
        &mut self,
        question: impl FnOnce(&mut KernelRoutes) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let kernel = match self.kernel.take() {
            Some(kernel) => kernel,
            None => KernelRoutes::open()?,
        };
        let asked = task::spawn_blocking(move || {
            let mut kernel = kernel;
            let answer = question(&mut kernel);
            (kernel, answer)
        });
        match asked.await {
            Ok((kernel, answer)) => {
                self.kernel = Some(kernel);
                answer
            }
            Err(error) => Err(Error::Socket { action: "ask on", source: io::Error::other(error) }),
        }
    }
}

/// Whether any link is to be announced.
fn announces(picture: &Reachability) -> bool {
    let rule =
        |peer: &PeerStatus| peer.link_rule.as_ref().is_some_and(|rule| rule.announce.is_some());
    picture.peers.iter().any(rule)
}
