//! Trains of echo requests.
//!
//! Here lives the count of what was sent and answered. Invariant: a packet counts as lost only if
//! its own answer never came.

use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    echo::{Echo, Ping, TICK},
    node::Node,
    wait::{PATIENCE, wait_for, wait_until},
};

/// How long to wait for the answers to the last packets.
const GRACE: Duration = Duration::from_secs(3);

/// A train of echo requests that runs until it is stopped.
#[derive(Debug)]
pub struct Train {
    began: Instant,
    stop: Arc<AtomicBool>,
    counts: Arc<Counts>,
    sender: JoinHandle<Vec<Sent>>,
    receiver: JoinHandle<io::Result<HashMap<u64, Instant>>>,
}

/// What a running train has done so far.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    answered: AtomicU64,
}

#[derive(Debug)]
pub(super) struct Sent {
    pub(super) at: Instant,
    pub(super) error: Option<io::Error>,
}

impl Train {
    /// Waits for a first answer, for a tunnel's handshake takes a while, then sends a packet
    /// every `interval` (later if the machine is too slow, never several at once).
    pub fn start(node: &Node, ping: impl Into<Ping>, interval: Duration) -> Result<Train> {
        let ping = ping.into();
        let warm_up = ping.open(node)?;
        wait_for(format!("an answer of {} to {node:?}", ping.to), PATIENCE, || {
            warm_up.send(0)?;
            Ok(warm_up.receive()?.is_some())
        })?;
        let echo = Arc::new(ping.open(node)?);
        let stop = Arc::new(AtomicBool::new(false));
        let began = Instant::now();
        let counts = Arc::new(Counts::default());
        let receiver = {
            let (echo, stop, counts) = (echo.clone(), stop.clone(), counts.clone());
            thread::spawn(move || receive_all(&echo, &stop, &counts))
        };
        let sender = {
            let (stop, counts) = (stop.clone(), counts.clone());
            thread::spawn(move || send_all(&echo, interval, &stop, &counts))
        };
        Ok(Train { began, stop, counts, sender, receiver })
    }

    /// How long it has run.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// How many packets were sent and answered so far. The difference includes those that are on
    /// their way.
    pub fn so_far(&self) -> (u64, u64) {
        (self.counts.sent.load(Ordering::Relaxed), self.counts.answered.load(Ordering::Relaxed))
    }

    /// Lets the train run until `packets` more have been answered.
    pub fn run(&self, packets: u64) -> Result<()> {
        let goal = self.so_far().1 + packets;
        wait_until(
            format!("{packets} more answers"),
            PATIENCE,
            || Ok(self.so_far().1),
            |answered| *answered >= goal,
        )
        .map(drop)
    }

    /// Stops sending, waits for the last answers, and reports.
    pub fn stop(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("the sender does not panic");
        let answered = self.receiver.join().expect("the receiver does not panic")?;
        Report::new(&sent, &answered)
    }
}

fn send_all(echo: &Echo, interval: Duration, stop: &AtomicBool, counts: &Counts) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let at = Instant::now();
        let error = echo.send(sent.len() as u64).err();
        sent.push(Sent { at, error });
        counts.sent.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        next = (next + interval).max(now);
        thread::sleep(next - now);
    }
    sent
}

fn receive_all(
    echo: &Echo,
    stop: &AtomicBool,
    counts: &Counts,
) -> io::Result<HashMap<u64, Instant>> {
    let mut answered = HashMap::new();
    let mut stopped: Option<Instant> = None;
    loop {
        if let Some(sequence) = echo.receive()? {
            answered.entry(sequence).or_insert_with(Instant::now);
            counts.answered.store(answered.len() as u64, Ordering::Relaxed);
        }
        if stop.load(Ordering::Relaxed) {
            let since = stopped.get_or_insert_with(Instant::now).elapsed();
            let all = counts.sent.load(Ordering::Relaxed) == answered.len() as u64;
            if since > GRACE || (all && since > TICK) {
                return Ok(answered);
            }
        }
    }
}

/// What became of a train.
#[derive(Debug)]
pub struct Report {
    /// Packets sent.
    pub sent: usize,
    /// Packets without an answer.
    pub lost: Vec<Loss>,
    /// How long the train ran.
    pub duration: Duration,
    /// The longest time between two answers, or between one and the train's end.
    pub longest_gap: Duration,
}

/// A packet without an answer.
#[derive(Debug)]
pub struct Loss {
    /// Its number in the train.
    pub sequence: usize,
    /// When it was sent, counted from the train's start.
    pub at: Duration,
    /// What the kernel said when it was sent: `ENOKEY` if no peer owned the destination.
    pub error: Option<i32>,
}

impl Report {
    pub(super) fn new(sent: &[Sent], answered: &HashMap<u64, Instant>) -> Result<Report> {
        let (first, last) = sent.first().zip(sent.last()).context("the train sent nothing")?;
        let lost = sent
            .iter()
            .enumerate()
            .filter(|(sequence, _)| !answered.contains_key(&(*sequence as u64)))
            .map(|(sequence, sent)| Loss {
                sequence,
                at: sent.at - first.at,
                error: sent.error.as_ref().and_then(io::Error::raw_os_error),
            })
            .collect();
        let mut answers: Vec<Instant> = answered.values().copied().collect();
        answers.extend([first.at, last.at]);
        answers.sort_unstable();
        let longest_gap =
            answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        Ok(Report { sent: sent.len(), lost, duration: last.at - first.at, longest_gap })
    }

    /// An error if any packet was lost.
    pub fn assert_no_loss(&self) -> Result<()> {
        ensure!(self.lost.is_empty(), "packets were lost: {self}");
        Ok(())
    }

    /// How many packets the kernel refused because no peer owned their destination.
    pub fn without_peer(&self) -> usize {
        self.lost.iter().filter(|loss| loss.error == Some(libc::ENOKEY)).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = self.duration / u32::try_from(self.sent).unwrap_or(u32::MAX).max(1);
        write!(
            f,
            "{} sent in {:.1} s (every {:.2} ms), {} lost, longest gap {} ms",
            self.sent,
            self.duration.as_secs_f32(),
            interval.as_secs_f32() * 1e3,
            self.lost.len(),
            self.longest_gap.as_millis()
        )?;
        for loss in self.lost.iter().take(10) {
            write!(f, "\n  no. {} at {} ms", loss.sequence, loss.at.as_millis())?;
            if let Some(error) = loss.error {
                write!(f, ": {}", io::Error::from_raw_os_error(error))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_losses_and_gaps() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let sent: Vec<Sent> = (0..4)
            .map(|i| Sent {
                at: ms(i * 10),
                error: (i == 2).then(|| io::Error::from_raw_os_error(libc::ENOKEY)),
            })
            .collect();
        let answered = HashMap::from([(0, ms(1)), (3, ms(31))]);
        let report = Report::new(&sent, &answered).unwrap();
        assert_eq!((report.sent, report.lost.len(), report.without_peer()), (4, 2, 1));
        assert_eq!(report.longest_gap, Duration::from_millis(29));
        assert!(report.assert_no_loss().is_err());
    }
}
