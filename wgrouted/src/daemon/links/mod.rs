//! Links that we make: brought up before interfaces are followed, and kept as configured.
//!
//! Here lives the thread that looks after them, and what wakes it: the kernel's notifications about
//! links and addresses, a new configuration, and time, for the kernel does not announce what is set
//! in WireGuard. Links stay when the daemon ends; [`cleanup`] takes them away.

mod keys;
mod names;
mod round;

use std::{
    io,
    path::Path,
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::{Duration, Instant},
};

use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use tracing::{info, warn};

use self::round::{Depth, Maker, Outcome};
use super::{RunError, workers::spawn};
use crate::{
    core::{links::rule::LinkRule, rule::Audit},
    target::links::LinkError,
};

/// Looks at settings take at most one percent of the time, as audits of AllowedIPs do.
const SHARE: u32 = 100;
/// Bounds of the time between two such looks. Links change rarely, and their deletion is announced.
const AUTO: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// After a failure: soon, for a key file or a name may just be on its way, then ever more rarely.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Notifications come in bursts, and our own steps cause some: this long after the first, one look
/// is taken for all.
const GATHER: Duration = Duration::from_millis(100);
/// No more often than this, whatever happens to somebody's links.
const PAUSE: Duration = Duration::from_secs(1);

/// `RTNLGRP_LINK`, `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR` (linux/rtnetlink.h).
const GROUPS: [u32; 3] = [1, 5, 9];

enum Wake {
    Configure(Vec<LinkRule>, Audit),
    Changed,
}

/// Hands new configurations to the thread.
#[derive(Debug)]
pub struct Links(Sender<Wake>);

impl Links {
    /// Makes what is configured, as far as that needs no name service, and keeps looking after it.
    pub fn start(
        runtime_dir: &Path,
        rules: Vec<LinkRule>,
        audit: Audit,
    ) -> Result<Links, RunError> {
        let mut maker = Maker::new(runtime_dir)?;
        let count = rules.len();
        maker.configure(rules);
        let Outcome { steps, failed } = maker.round(Depth::Settings);
        if count > 0 || steps > 0 {
            info!(links = count, steps, failed, "links made");
        }
        let (sender, wakes) = mpsc::channel();
        // The first look asked no name service.
        let due = Some(Instant::now());
        let (retry, notes) = (RETRY.0, sender.clone());
        let keeper = Keeper { maker, audit, retry, due, notes, listens: false };
        spawn("links", move || keeper.serve(&wakes))?;
        Ok(Links(sender))
    }

    /// From now on these links are configured.
    pub fn configure(&self, rules: Vec<LinkRule>, audit: Audit) {
        // A thread that is gone has said why; the daemon goes on with the links that there are.
        let _ = self.0.send(Wake::Configure(rules, audit));
    }
}

/// Deletes the links that the daemon with this runtime directory has made, and from links that it
/// adopted the addresses and peers that it has added. No such daemon may be running. Returns the steps
/// that this takes, or with `dry` would take, and what went wrong with a link, each in words.
pub fn cleanup(runtime_dir: &Path, dry: bool) -> Result<(Vec<String>, Vec<String>), LinkError> {
    Maker::new(runtime_dir)?.clean(dry)
}

/// Keeps links as configured.
struct Keeper {
    maker: Maker,
    audit: Audit,
    retry: Duration,
    /// When the next look at everything is due.
    due: Option<Instant>,
    notes: Sender<Wake>,
    listens: bool,
}

impl Keeper {
    fn serve(mut self, wakes: &Receiver<Wake>) {
        loop {
            self.listen();
            let wake = match self.due {
                Some(due) => wakes.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => wakes.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            let depth = match wake {
                Ok(Wake::Configure(rules, audit)) => self.configure(rules, audit),
                Ok(Wake::Changed) => self.gather(wakes),
                Err(RecvTimeoutError::Timeout) => Depth::All,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let started = Instant::now();
            let outcome = self.maker.round(depth);
            let Outcome { steps, failed } = outcome;
            if steps > 0 {
                info!(steps, failed, "links changed");
            }
            self.plan(depth, outcome, started.elapsed());
        }
    }

    fn configure(&mut self, rules: Vec<LinkRule>, audit: Audit) -> Depth {
        self.maker.configure(rules);
        self.audit = audit;
        self.retry = RETRY.0;
        Depth::All
    }

    /// Waits until a burst is over.
    fn gather(&mut self, wakes: &Receiver<Wake>) -> Depth {
        std::thread::sleep(GATHER);
        let mut depth = Depth::Links;
        while let Ok(wake) = wakes.try_recv() {
            if let Wake::Configure(rules, audit) = wake {
                depth = self.configure(rules, audit);
            }
        }
        depth
    }

    /// Sets when to look again, if nothing happens.
    fn plan(&mut self, depth: Depth, outcome: Outcome, took: Duration) {
        let now = Instant::now();
        if outcome.failed > 0 {
            let retry = now + self.retry;
            self.due = Some(self.due.filter(|due| *due > now).map_or(retry, |due| due.min(retry)));
            self.retry = (self.retry * 2).min(RETRY.1);
            return;
        }
        self.retry = RETRY.0;
        // A look at less leaves the next audit when it is.
        if depth == Depth::All {
            let interval = match self.audit {
                _ if self.maker.is_idle() => None,
                Audit::Off => None,
                Audit::Every(interval) => Some(interval),
                Audit::Auto => Some((took * SHARE).clamp(AUTO.0, AUTO.1)),
            };
            self.due = interval.map(|interval| now + interval);
        }
    }

    /// Starts to listen once there is something to look after.
    fn listen(&mut self) {
        if self.listens || self.maker.is_idle() {
            return;
        }
        self.listens = true;
        let notes = self.notes.clone();
        let listening = subscribe().and_then(|socket| {
            let listen = move || while notified(&socket) && notes.send(Wake::Changed).is_ok() {};
            spawn("links-monitor", listen).map_err(io::Error::other)
        });
        if let Err(error) = listening {
            warn!(%error, "changes of links cannot be heard: they are found at the next audit");
        }
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    for group in GROUPS {
        socket.add_membership(group)?;
    }
    Ok(socket)
}

/// Waits for a notification, or several. What it says is of no matter.
fn notified(socket: &Socket) -> bool {
    std::thread::sleep(PAUSE);
    let mut buffer = [0; 1];
    let mut wait = 0;
    loop {
        match socket.recv(&mut &mut buffer[..], wait) {
            Ok(_) => wait = libc::MSG_DONTWAIT,
            Err(error) => match error.raw_os_error() {
                // Lost ones are a notification too.
                Some(libc::EINTR) => {}
                Some(libc::ENOBUFS) => wait = libc::MSG_DONTWAIT,
                Some(libc::EAGAIN) => return true,
                _ => return false,
            },
        }
    }
}
