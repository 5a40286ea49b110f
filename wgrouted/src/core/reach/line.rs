//! The probes of one address: what was sent, what came back, how long it took.
//!
//! Here lives [`Line`]. Pure arithmetic over sequence numbers and times; when a probe is due and what
//! silence means is `liveness`'s business. Invariant: each probe is counted once as sent, and at most
//! once as answered, whatever arrives how often.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use super::status::ProbeStatus;
use crate::core::time::Time;

/// Probes over which loss is counted.
const WINDOW: u64 = 100;
/// Probes of which an answer may still be told from another's. At 100 ms, and ten times as many under
/// suspicion, this is more than twelve seconds.
const PENDING: usize = 1024;

/// The probes of one address.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) address: IpAddr,
    /// Sequence number of the next probe.
    next: u64,
    /// Sent and not answered, oldest first.
    pending: VecDeque<u64>,
    /// Bit n: the probe n before the next one was answered, from 1.
    answers: u128,
    /// Answered in a row, the latest included.
    run: u32,
    latest_answer: Option<u64>,
    sent: u64,
    answered: u64,
    unsent: u64,
    rtt: Option<Rtt>,
}

/// Round-trip times, smoothed as in RFC 6298 section 2.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Rtt {
    last: Duration,
    smoothed: Duration,
    deviation: Duration,
}

impl Rtt {
    fn first(sample: Duration) -> Self {
        Rtt { last: sample, smoothed: sample, deviation: sample / 2 }
    }

    fn next(self, sample: Duration) -> Self {
        let off = self.smoothed.abs_diff(sample);
        Rtt {
            last: sample,
            deviation: (self.deviation * 3 + off) / 4,
            smoothed: (self.smoothed * 7 + sample) / 8,
        }
    }
}

impl Line {
    pub(super) fn new(address: IpAddr) -> Self {
        Line {
            address,
            next: 0,
            pending: VecDeque::new(),
            answers: 0,
            run: 0,
            latest_answer: None,
            sent: 0,
            answered: 0,
            unsent: 0,
            rtt: None,
        }
    }

    /// Counts a probe and gives it its number.
    pub(super) fn send(&mut self) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.sent += 1;
        self.answers <<= 1;
        self.pending.push_back(sequence);
        if self.pending.len() > PENDING {
            self.pending.pop_front();
        }
        sequence
    }

    /// Takes an answer in. Whether it is news.
    pub(super) fn answer(&mut self, sequence: u64, sent: Time, received: Time) -> bool {
        let Ok(at) = self.pending.binary_search(&sequence) else { return false };
        self.pending.remove(at);
        self.answered += 1;
        let back = self.next - sequence;
        if back < u64::from(u128::BITS) {
            self.answers |= 1 << back;
        }
        match self.latest_answer {
            Some(latest) if sequence < latest => {}
            latest => {
                let follows = latest.is_some_and(|latest| latest + 1 == sequence);
                self.run = if follows { self.run.saturating_add(1) } else { 1 };
                self.latest_answer = Some(sequence);
            }
        }
        let sample = received.since(sent);
        self.rtt = Some(self.rtt.map_or_else(|| Rtt::first(sample), |rtt| rtt.next(sample)));
        true
    }

    /// A probe never left this host.
    pub(super) fn unsent(&mut self, sequence: u64) -> bool {
        let Ok(at) = self.pending.binary_search(&sequence) else { return false };
        self.pending.remove(at);
        self.unsent += 1;
        true
    }

    /// Answered in a row, the latest answer included.
    pub(super) fn run(&self) -> u32 {
        self.run
    }

    /// Answers begin to count anew.
    pub(super) fn restart_run(&mut self) {
        self.run = 0;
        self.latest_answer = None;
    }

    /// How much an answer may be later than usual.
    pub(super) fn slack(&self) -> Duration {
        self.rtt.map_or(Duration::ZERO, |rtt| rtt.deviation * 4)
    }

    /// How long an answer may take (the timeout of RFC 6298 section 2).
    pub(super) fn patience(&self) -> Duration {
        self.rtt.map_or(Duration::ZERO, |rtt| rtt.smoothed + rtt.deviation * 4)
    }

    /// What the probes say. Those of which an answer may still come count neither way: all that
    /// were sent after the latest one that was answered, unless the peer is `silent`.
    pub(super) fn status(&self, silent: bool) -> ProbeStatus {
        let open = match self.latest_answer.map(|latest| self.next - latest - 1) {
            Some(open) if !silent => open,
            None if !silent => self.next,
            _ => 0,
        };
        let seen = self.next.min(WINDOW + open).saturating_sub(open);
        let lost = if seen == 0 {
            0.0
        } else {
            let bits = (self.answers >> (open + 1).min(127)) & ((1 << seen.min(100)) - 1);
            1.0 - f64::from(bits.count_ones()) / seen as f64
        };
        ProbeStatus {
            sent: self.sent,
            answered: self.answered,
            unsent: self.unsent,
            loss: lost,
            rtt: self.rtt.map(|rtt| rtt.smoothed),
            rtt_deviation: self.rtt.map(|rtt| rtt.deviation),
            rtt_last: self.rtt.map(|rtt| rtt.last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Line {
        Line::new("10.0.0.2".parse().unwrap())
    }

    fn at(milliseconds: u64) -> Time {
        Time(Duration::from_millis(milliseconds))
    }

    #[test]
    fn answers_count_once_and_runs_break_at_gaps() {
        let mut line = line();
        let sequences: Vec<u64> = (0..5).map(|_| line.send()).collect();
        assert!(line.answer(sequences[0], at(0), at(10)));
        assert!(!line.answer(sequences[0], at(0), at(10)), "a duplicate is no news");
        assert!(!line.answer(99, at(0), at(10)), "nobody asked");
        assert!(line.answer(sequences[1], at(0), at(10)));
        assert_eq!(line.run(), 2);
        assert!(line.answer(sequences[3], at(0), at(10)));
        assert_eq!(line.run(), 1, "number 2 is missing");
        assert!(line.answer(sequences[2], at(0), at(10)), "late is better than never");
        assert_eq!(line.run(), 1);
        let status = line.status(false);
        assert_eq!((status.sent, status.answered), (5, 4));
        assert_eq!(status.rtt, Some(Duration::from_millis(10)));
    }

    #[test]
    fn loss_is_the_share_of_the_last_hundred() {
        let mut line = line();
        for n in 0..1000_u64 {
            let sequence = line.send();
            if n >= 950 && n % 5 != 0 || n < 500 {
                line.answer(sequence, at(0), at(1));
            }
        }
        let loss = line.status(false).loss;
        assert!((loss - 0.6).abs() < 1e-9, "50 + 10 of 100 are missing: {loss}");
        for _ in 0..1000 {
            line.send();
        }
        assert!((line.status(true).loss - 1.0).abs() < 1e-9);
    }

    #[test]
    fn probes_under_way_are_not_lost() {
        let mut line = line();
        assert!(line.status(false).loss.abs() < 1e-9);
        let first = line.send();
        assert!(line.status(false).loss.abs() < 1e-9);
        line.answer(first, at(0), at(1));
        line.send();
        assert!(line.status(false).loss.abs() < 1e-9);
        assert!((line.status(true).loss - 0.5).abs() < 1e-9);
    }
}
