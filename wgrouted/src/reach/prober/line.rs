//! One socket and who listens to it.
//!
//! Here lives [`Line`]: probes go out at once, answers come in by a task of their own, and so do
//! requests of other daemons, which it answers. Invariant: an answer is never answered, and nobody
//! gets more than was sent.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    sync::mpsc::UnboundedSender,
    task::{AbortHandle, spawn},
};
use tracing::debug;

use super::{
    clock::Clock,
    datagram::{Datagram, Kind, LENGTH},
    icmp,
    seal::Seal,
    socket::{Echo, Medium, Received, Socket},
};
use crate::core::{
    reach::event::{ProbeId, ReachEvent},
    route::IfIndex,
    time::Time,
};

/// Packets taken in between two looks at other tasks.
const BURST: usize = 32;
/// A probe with an IPv4 header full of options; all that is longer is not a probe.
const BUFFER: usize = 60 + 8 + LENGTH + 1;
/// Requests answered in a [`SLICE`]: 10,000 a second.
const ANSWERS: u32 = 1000;
const SLICE: Duration = Duration::from_millis(100);

/// What all lines have in common.
#[derive(Clone, Debug)]
pub(super) struct Office {
    pub(super) events: UnboundedSender<ReachEvent>,
    pub(super) seal: Seal,
    pub(super) clock: Clock,
}

/// The line. Its task ends with it.
#[derive(Debug)]
pub(super) struct Line {
    shared: Arc<Shared>,
    /// When a probe was last sent.
    pub(super) used: Time,
    listener: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    office: Office,
    medium: Medium,
    port: u16,
    socket: AsyncFd<Socket>,
    answers: AtomicBool,
}

impl Line {
    /// Opens it. `port` is UDP's.
    pub(super) fn open(
        medium: Medium,
        ifindex: IfIndex,
        port: u16,
        office: Office,
    ) -> io::Result<Line> {
        let socket = Socket::open(medium, ifindex, port)?;
        // SAFETY: the socket owns its descriptor, never changes it and closes it when it is dropped.
        let socket = unsafe { AsyncFd::register(socket) }?;
        let used = office.clock.now();
        let answers = AtomicBool::new(false);
        let shared = Arc::new(Shared { office, medium, port, socket, answers });
        let listener = spawn(listen(shared.clone())).abort_handle();
        Ok(Line { shared, used, listener })
    }

    /// Sends a probe.
    pub(super) fn probe(&mut self, probe: ProbeId, to: std::net::IpAddr) -> io::Result<()> {
        let shared = &*self.shared;
        let socket = shared.socket.get_ref();
        let sent = shared.office.clock.now();
        self.used = sent;
        let payload = shared.office.seal.request(probe, sent, socket.ifindex(), to).encode();
        match shared.medium.protocol {
            Echo::Udp => socket.send(&payload, to, shared.port),
            Echo::Icmp => {
                let (identifier, sequence) = (probe.subject.0 as u16, probe.sequence as u16);
                let packet = icmp::request(shared.medium.family, identifier, sequence, &payload);
                socket.send(&packet, to, 0)
            }
        }
    }

    /// Whether it answers requests.
    pub(super) fn answer(&self, answers: bool) {
        self.shared.answers.store(answers, Ordering::Relaxed);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// The task: until the line is dropped, or nobody wants to know any more.
async fn listen(shared: Arc<Shared>) {
    let mut buffer = [0; BUFFER];
    let mut allowance = Allowance::default();
    while let Ok(mut ready) = shared.socket.readable().await {
        for _ in 0..BURST {
            let Ok(received) = ready.try_io(|socket| socket.get_ref().receive(&mut buffer)) else {
                break;
            };
            match received {
                Ok(received) => {
                    let octets = &buffer[..received.length];
                    if !shared.take(octets, &received, &mut allowance) {
                        return;
                    }
                }
                // An error of the past, which is thereby read.
                Err(error) => {
                    debug!(ifindex = shared.socket.get_ref().ifindex(), %error, "not received");
                }
            }
        }
    }
}

impl Shared {
    /// Takes in a packet. Returns whether somebody is still there to be told.
    fn take(&self, octets: &[u8], received: &Received, allowance: &mut Allowance) -> bool {
        let payload = match self.medium.protocol {
            Echo::Icmp => icmp::payload(self.medium.family, octets),
            Echo::Udp => Some(octets),
        };
        let Some(datagram) = payload.and_then(Datagram::parse) else { return true };
        match (self.medium.protocol, datagram.kind) {
            (Echo::Icmp, Kind::Request) | (Echo::Udp, Kind::Answer) => {
                self.take_answer(&datagram, received)
            }
            (Echo::Udp, Kind::Request) => {
                self.take_request(datagram, received, allowance);
                true
            }
            (Echo::Icmp, Kind::Answer) => true,
        }
    }

    fn take_answer(&self, datagram: &Datagram, received: &Received) -> bool {
        let Office { events, seal, clock } = &self.office;
        let ifindex = self.socket.get_ref().ifindex();
        if !seal.is_genuine(datagram, ifindex, received.source.ip()) {
            return true;
        }
        let &Datagram { probe, sent, .. } = datagram;
        let received = clock.receipt(received.stamp, sent);
        events.send(ReachEvent::Answered { probe, sent, received }).is_ok()
    }

    fn take_request(&self, datagram: Datagram, received: &Received, allowance: &mut Allowance) {
        let source = received.source;
        let nobody = source.ip().is_unspecified() || source.ip().is_multicast();
        if nobody
            || source.port() == 0
            || !self.answers.load(Ordering::Relaxed)
            || !allowance.take(self.office.clock.now())
        {
            return;
        }
        let answer = datagram.answer().encode();
        if let Err(error) = self.socket.get_ref().answer(&answer, received) {
            debug!(to = %source, %error, "a probe is not answered");
        }
    }
}

/// Bounds answers in time.
#[derive(Debug, Default)]
struct Allowance {
    since: Time,
    taken: u32,
}

impl Allowance {
    fn take(&mut self, now: Time) -> bool {
        if now.since(self.since) >= SLICE {
            *self = Allowance { since: now, taken: 0 };
        }
        self.taken += 1;
        self.taken <= ANSWERS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_in_time() {
        let mut allowance = Allowance::default();
        let second = (0..1_000_000_u64)
            .filter(|at| allowance.take(Time(Duration::from_micros(*at))))
            .count();
        assert_eq!(second, 10_000);
    }
}
