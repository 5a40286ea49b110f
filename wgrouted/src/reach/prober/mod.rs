//! Reachability's sockets.
//!
//! Here lives [`Prober`], which sends the probes that the machine asks for, tells what comes back, and
//! answers those of other daemons. It decides nothing. One socket a link, protocol and family
//! (`socket`), each with a task that listens (`line`); what a probe says is in [`datagram`], and why
//! an answer is believed in [`seal`]. Invariant: nothing blocks, and what cannot be sent is told as
//! [`ReachEvent::Unsent`], in the log once.
//!
//! Probes pass the tunnel and the packet filters of both ends like any other packet: ICMP echo, or
//! the UDP port, must be allowed there.

mod clock;
mod complaints;
pub mod datagram;
mod icmp;
mod line;
pub mod seal;
mod socket;

use std::{
    future, io,
    net::IpAddr,
    time::{Duration, Instant},
};

use hashbrown::HashMap;
use tokio::{sync::mpsc::UnboundedSender, time::sleep_until};

use self::{
    clock::Clock,
    complaints::Complaints,
    line::{Line, Office},
    seal::Seal,
    socket::{Echo, Medium},
};
use crate::core::{
    prefix::Family,
    reach::{
        event::{ProbeId, ReachEvent, ReachRequest, Target},
        rule::ProbeKind,
    },
    route::IfIndex,
    time::Time,
};

/// A socket that cannot be opened is tried again after this.
const RETRY: Duration = Duration::from_secs(2);
/// A socket that sends nothing, and need not answer, is closed after this.
const IDLE: Duration = Duration::from_secs(60);

/// Sends probes and answers them. Lives in the runtime in which it is used.
#[derive(Debug)]
pub struct Prober {
    office: Office,
    lines: HashMap<(IfIndex, Medium), Slot>,
    /// Links on which requests are answered.
    answering: Vec<IfIndex>,
    port: u16,
    /// When to look for lines that should answer and could not be opened.
    retry: Option<Instant>,
    complaints: Complaints,
}

#[derive(Debug)]
enum Slot {
    Open(Line),
    Failed { errno: i32, until: Time },
}

impl Prober {
    /// What comes back is told to `events`, on the clock that began at `started`.
    pub fn new(events: UnboundedSender<ReachEvent>, started: Instant) -> Prober {
        Prober {
            office: Office { events, seal: Seal::default(), clock: Clock(started) },
            lines: HashMap::new(),
            answering: Vec::new(),
            port: 0,
            retry: None,
            complaints: Complaints::default(),
        }
    }

    /// Carries out a request, without waiting.
    pub fn carry_out(&mut self, request: ReachRequest) {
        match request {
            ReachRequest::Probe { probe, target } => {
                if let Err(error) = self.probe(probe, target) {
                    let errno = errno_of(&error);
                    // Nobody is there to be told: the daemon is stopping.
                    let _ = self.office.events.send(ReachEvent::Unsent { probe, errno });
                }
            }
            ReachRequest::Answer { links, port } => self.answer(links, port),
        }
    }

    /// Waits until there is something to be tried again, and tries it. May be dropped at any time.
    pub async fn tend(&mut self) {
        match self.retry {
            None => future::pending().await,
            Some(at) => sleep_until(at.into()).await,
        }
        self.open_answering();
    }

    fn probe(&mut self, probe: ProbeId, target: Target) -> io::Result<()> {
        let Target { ifindex, address, kind } = target;
        let protocol = match kind {
            ProbeKind::Icmp => Echo::Icmp,
            // The port comes with the first request to answer.
            ProbeKind::Udp if self.port == 0 => return Err(errno(libc::EADDRNOTAVAIL)),
            ProbeKind::Udp => Echo::Udp,
            ProbeKind::Off => return Err(errno(libc::EINVAL)),
        };
        let family = match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        };
        let medium = Medium { protocol, family };
        let sent = self.line(ifindex, medium, true)?.probe(probe, address);
        if let Err(error) = &sent {
            match error.raw_os_error() {
                // The link is gone. If it comes back under its number, a fresh socket will do.
                Some(libc::ENODEV | libc::ENXIO) => drop(self.lines.remove(&(ifindex, medium))),
                Some(libc::EPERM) => self.complaints.unsent(medium, self.port),
                _ => {}
            }
        }
        sent
    }

    fn answer(&mut self, links: Vec<IfIndex>, port: u16) {
        if port != self.port {
            self.lines.retain(|(_, medium), _| medium.protocol != Echo::Udp);
            self.port = port;
        }
        self.answering = links;
        for ((ifindex, medium), slot) in &self.lines {
            if let (Slot::Open(line), Echo::Udp) = (slot, medium.protocol) {
                line.answer(self.answering.contains(ifindex));
            }
        }
        self.close_idle();
        self.open_answering();
    }

    /// Opens what shall answer and is not open.
    fn open_answering(&mut self) {
        self.retry = None;
        let families = |ifindex| Family::ALL.map(|family| (ifindex, family));
        let wanted: Vec<_> = self.answering.iter().copied().flat_map(families).collect();
        for (ifindex, family) in wanted {
            let medium = Medium { protocol: Echo::Udp, family };
            match self.line(ifindex, medium, false) {
                Ok(_) => {}
                // Without IPv6 there is nobody to be answered by it, and never will be.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(_) => self.retry = Some(Instant::now() + RETRY),
            }
        }
    }

    /// Closes what nobody uses: links go, and rules change.
    fn close_idle(&mut self) {
        let now = self.office.clock.now();
        let answering = &self.answering;
        self.lines.retain(|(ifindex, medium), slot| match slot {
            Slot::Open(_) if medium.protocol == Echo::Udp && answering.contains(ifindex) => true,
            Slot::Open(line) => now.since(line.used) < IDLE,
            Slot::Failed { until, .. } => now < *until,
        });
    }

    /// The line, opened if it is not. `asked`: a probe waits for it.
    fn line(&mut self, ifindex: IfIndex, medium: Medium, asked: bool) -> io::Result<&mut Line> {
        let Prober { office, lines, answering, port, complaints, .. } = self;
        let now = office.clock.now();
        let slot = lines.entry((ifindex, medium)).or_insert(Slot::Failed { errno: 0, until: now });
        if let Slot::Failed { until, .. } = slot
            && *until <= now
        {
            *slot = match Line::open(medium, ifindex, *port, office.clone()) {
                Ok(line) => {
                    line.answer(medium.protocol == Echo::Udp && answering.contains(&ifindex));
                    complaints.opened(medium);
                    Slot::Open(line)
                }
                Err(error) => {
                    if asked || error.raw_os_error() != Some(libc::EAFNOSUPPORT) {
                        complaints.not_opened(medium, *port, &error);
                    }
                    // Shorter than the pause of `tend`, so that its try is one.
                    Slot::Failed { errno: errno_of(&error), until: now + RETRY / 2 }
                }
            };
        }
        match slot {
            Slot::Open(line) => Ok(line),
            Slot::Failed { errno: number, .. } => Err(errno(*number)),
        }
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

fn errno_of(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}
