//! Volleys: many flows of numbered datagrams from one node.
//!
//! Here lives a sender that takes turns among sockets, each with an origin of its own, and notes what
//! was sent, refused and answered. A [`Service`](super::Service) answers them; a
//! [`Capture`](super::Capture) knows their numbers. Invariant: a datagram counts as lost only if its own
//! answer never came.

use std::{
    collections::HashMap,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{SockAddr, Socket, Type};

use super::{
    echo::force_receive_buffer,
    node::Node,
    origin::Origin,
    train::{Report, Sent},
    wait::{PATIENCE, wait_for},
};

/// What a datagram begins with, before its number: nobody else's does.
const MAGIC: [u8; 8] = *b"volley: ";
/// Length of a datagram.
const LENGTH: usize = 16;
/// How long to wait for the answers to the last datagrams.
const GRACE: Duration = Duration::from_secs(2);

/// One flow: who sends to whom.
#[derive(Clone, Copy, Debug)]
pub struct Shots {
    /// Who.
    pub origin: Origin,
    /// To whom.
    pub to: SocketAddr,
}

/// Flows that go on until they are stopped.
#[derive(Debug)]
pub struct Volley {
    stop: Arc<AtomicBool>,
    counts: Arc<[Counts]>,
    locals: Vec<SocketAddr>,
    thread: JoinHandle<io::Result<Vec<Log>>>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    answered: AtomicU64,
}

#[derive(Debug, Default)]
struct Log {
    sent: Vec<Sent>,
    answered: HashMap<u64, Instant>,
}

/// A flow that has ended.
#[derive(Debug)]
pub struct Flown {
    /// Where it came from.
    pub local: SocketAddr,
    /// What became of it.
    pub report: Report,
    /// When each of its datagrams was sent.
    pub sent: Vec<Instant>,
}

impl Flown {
    /// How many datagrams were sent before this.
    pub fn sent_before(&self, when: Instant) -> u64 {
        self.sent.partition_point(|sent| *sent < when) as u64
    }
}

/// The number of a datagram of a volley; `None` for others.
pub(super) fn number_of(payload: &[u8]) -> Option<u64> {
    let number = payload.strip_prefix(&MAGIC)?.get(..LENGTH - MAGIC.len())?;
    number.try_into().ok().map(u64::from_be_bytes)
}

impl Volley {
    /// Starts to send: a datagram every `interval`, of one flow after the other.
    pub fn start(node: &Node, flows: &[Shots], interval: Duration) -> Result<Volley> {
        let open = |shots: &Shots| -> Result<(Socket, SockAddr)> {
            let socket = shots.origin.open(node, shots.to.ip(), Type::DGRAM)?;
            force_receive_buffer(&socket)?;
            socket.set_nonblocking(true)?;
            Ok((socket, shots.to.into()))
        };
        let sockets: Vec<_> = flows.iter().map(open).collect::<Result<_>>()?;
        let local = |(socket, _): &(Socket, SockAddr)| {
            socket.local_addr()?.as_socket().context("a socket without address")
        };
        let locals = sockets.iter().map(local).collect::<Result<_>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Arc<[Counts]> = flows.iter().map(|_| Counts::default()).collect();
        let thread = {
            let (stop, counts) = (stop.clone(), counts.clone());
            thread::spawn(move || shoot(&sockets, interval, &stop, &counts))
        };
        Ok(Volley { stop, counts, locals, thread })
    }

    /// Where each flow comes from: its address, unless that was left to the kernel, and its port.
    pub fn locals(&self) -> &[SocketAddr] {
        &self.locals
    }

    /// How many datagrams were sent so far, or refused by the kernel.
    pub fn sent(&self) -> u64 {
        self.counts.iter().map(|counts| counts.sent.load(Ordering::Relaxed)).sum()
    }

    /// How many of a flow were answered so far.
    pub fn answered(&self, flow: usize) -> u64 {
        self.counts[flow].answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more were sent.
    pub fn run(&self, datagrams: u64) -> Result<()> {
        let goal = self.sent() + datagrams;
        wait_for(format!("{datagrams} more datagrams"), PATIENCE, || Ok(self.sent() >= goal))
    }

    /// Waits until each of these flows has so many more answers.
    pub fn wait_answers(&self, flows: impl IntoIterator<Item = usize>, more: u64) -> Result<()> {
        let goals: Vec<_> =
            flows.into_iter().map(|flow| (flow, self.answered(flow) + more)).collect();
        wait_for(format!("{more} more answers for each of flows {goals:?}"), PATIENCE, || {
            Ok(goals.iter().all(|(flow, goal)| self.answered(*flow) >= *goal))
        })
    }

    /// Stops sending, waits for the last answers, and reports on each flow.
    pub fn stop(self) -> Result<Vec<Flown>> {
        self.stop.store(true, Ordering::Relaxed);
        let logs = self.thread.join().expect("the sender does not panic").context("volley")?;
        let flown = |(local, log): (SocketAddr, Log)| {
            let report = Report::new(&log.sent, &log.answered)?;
            Ok(Flown { local, report, sent: log.sent.iter().map(|sent| sent.at).collect() })
        };
        self.locals.into_iter().zip(logs).map(flown).collect()
    }
}

fn shoot(
    sockets: &[(Socket, SockAddr)],
    interval: Duration,
    stop: &AtomicBool,
    counts: &[Counts],
) -> io::Result<Vec<Log>> {
    let mut logs: Vec<Log> = sockets.iter().map(|_| Log::default()).collect();
    let mut next = Instant::now();
    for flow in (0..sockets.len()).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (socket, to) = &sockets[flow];
        let mut datagram = [0; LENGTH];
        datagram[..8].copy_from_slice(&MAGIC);
        datagram[8..].copy_from_slice(&(logs[flow].sent.len() as u64).to_be_bytes());
        let at = Instant::now();
        let error = socket.send_to(&datagram, to).err();
        logs[flow].sent.push(Sent { at, error });
        counts[flow].sent.fetch_add(1, Ordering::Relaxed);
        next = (next + interval).max(Instant::now());
        receive(sockets, next, &mut logs, counts)?;
    }
    let all = |logs: &[Log]| logs.iter().all(|log| log.sent.len() == log.answered.len());
    let end = Instant::now() + GRACE;
    while !all(&logs) && Instant::now() < end {
        receive(sockets, Instant::now() + Duration::from_millis(20), &mut logs, counts)?;
    }
    Ok(logs)
}

/// Takes in what comes until then.
fn receive(
    sockets: &[(Socket, SockAddr)],
    until: Instant,
    logs: &mut [Log],
    counts: &[Counts],
) -> io::Result<()> {
    let poll = |(socket, _): &(Socket, SockAddr)| libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let mut polled: Vec<libc::pollfd> = sockets.iter().map(poll).collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = libc::timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        // SAFETY: pointer and length describe `polled`, and the timeout outlives the call.
        let ready = unsafe {
            libc::ppoll(
                polled.as_mut_ptr(),
                polled.len() as libc::nfds_t,
                &raw const timeout,
                std::ptr::null(),
            )
        };
        if ready < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        for (flow, _) in polled.iter().enumerate().filter(|(_, polled)| polled.revents != 0) {
            let mut buffer = [MaybeUninit::<u8>::uninit(); 64];
            // An error of ICMP about an earlier datagram: its silence says the same.
            let Ok(length) = sockets[flow].0.recv(&mut buffer) else { continue };
            // SAFETY: recv has written the first `length` bytes.
            let datagram =
                unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), length) };
            let Some(number) = number_of(datagram) else { continue };
            logs[flow].answered.entry(number).or_insert_with(Instant::now);
            counts[flow].answered.store(logs[flow].answered.len() as u64, Ordering::Relaxed);
        }
        if Instant::now() >= until {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_others_have_no_number() {
        assert_eq!(number_of(b"volley: \0\0\0\0\0\0\x01\x02"), Some(0x102));
        assert_eq!(number_of(b"volley: \0\0\0\0"), None);
        assert_eq!(number_of(b"anything that is long enough"), None);
    }
}
