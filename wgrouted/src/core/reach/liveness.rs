//! One peer's state machine: evidence and the time in, a state and probes out.
//!
//! Here lives [`Liveness`]. A probe is due every interval. When an answer is missing, probes follow
//! each other ten times as fast, or faster if the link is known to be lossy, until one is answered or
//! the time is up: so a dead peer is down `lost` intervals after its last sign of life (and later by
//! what a round trip takes beyond an interval), and a lossy link stays up. For a peer that answers
//! probes only answers count: packets that merely arrive do not show that ours do. Laws
//! (`tests/props/reach.rs`): in silence the state only gets worse; between two returns lies the
//! hold-down; a peer that answers within the time is never down; what our own host cannot send, or
//! time in which we were asleep, convicts nobody.

use std::{net::IpAddr, time::Duration};

use smallvec::SmallVec;

use super::{
    hold::Hold,
    line::Line,
    passive::Passive,
    roster::Statistics,
    status::{ProbeStatus, Proof, State},
};
use crate::core::time::Time;

/// While an answer is missing, so many probes are sent before the time is up that the chance of all
/// being lost, at the loss that was seen of late, is below this.
const MISJUDGED: f64 = 1e-7;
/// At least so many an interval: loss comes in bursts, and was perhaps not seen yet.
const HURRY: u32 = 10;
/// They are never closer than this.
const CLOSEST: Duration = Duration::from_millis(2);
/// An answer that is later than usual by less than this is not missed.
const LEAST_SLACK: Duration = Duration::from_millis(10);
/// Who wakes later than this has slept: what was not heard meanwhile counts for nothing.
const SLEPT: Duration = Duration::from_millis(50);

/// Errors of sending that say that the peer cannot be reached, not that we cannot send
/// (include/uapi/asm-generic/errno.h): `ENETDOWN`, `ENETUNREACH`, `EHOSTUNREACH`, and WireGuard's
/// `EDESTADDRREQ` (no endpoint) and `ENOKEY` (no AllowedIPs), `wg_xmit`, drivers/net/wireguard/device.c.
const UNREACHABLE: [i32; 5] = [100, 101, 113, 89, 126];

/// How a peer is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Time between two probes of one address.
    pub interval: Duration,
    /// Intervals of silence after which the peer is down.
    pub lost: u32,
    /// Answers in a row after which it is up again.
    pub answered: u32,
    /// The least time between two returns.
    pub hold_down: Duration,
}

/// One peer's state machine.
#[derive(Clone, Debug)]
pub struct Liveness {
    watch: Watch,
    state: State,
    proof: Proof,
    since: Time,
    falls: u64,
    hold: Hold,
    link_up: bool,
    passive: Passive,
    lines: Vec<Line>,
    /// When each line's next probe is due.
    due: Vec<Time>,
    /// The latest answer of any line.
    answered: Option<Time>,
    /// Silence counts from here: the latest answer, the first probe, or the end of our own sleep.
    silent_since: Time,
    /// Probes that left since then.
    asked: u32,
    /// Whether probes follow each other fast.
    hurried: bool,
    /// How fast.
    hurry: Duration,
    /// When the first probe was due: what was heard before says nothing about now.
    first_asked: Time,
    /// The latest [`Liveness::poll`].
    polled: Time,
}

/// A probe that is due: which address, which number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Position of the address.
    pub line: u8,
    /// Number of the probe.
    pub sequence: u64,
}

impl Liveness {
    /// A peer of which nothing is known. Without addresses it is not probed. `phase` (below one
    /// interval) spreads the probes of many peers.
    pub fn new(watch: Watch, addresses: &[IpAddr], phase: Duration, now: Time) -> Self {
        let mut liveness = Liveness {
            watch,
            state: State::Unknown,
            proof: Proof::None,
            since: now,
            falls: 0,
            hold: Hold::default(),
            link_up: true,
            passive: Passive::default(),
            lines: Vec::new(),
            due: Vec::new(),
            answered: None,
            silent_since: now,
            asked: 0,
            hurried: false,
            hurry: watch.interval,
            first_asked: now + phase,
            polled: now,
        };
        liveness.probe(watch, addresses, phase, now);
        liveness
    }

    /// Watches it like this from now on. What is known stays.
    pub fn probe(&mut self, watch: Watch, addresses: &[IpAddr], phase: Duration, now: Time) {
        let same = self.lines.iter().map(|line| line.address).eq(addresses.iter().copied());
        if same && self.watch == watch {
            return;
        }
        self.watch = watch;
        if !same {
            let mut old = std::mem::take(&mut self.lines);
            self.lines = addresses
                .iter()
                .map(|address| {
                    let known = old.iter().position(|line| line.address == *address);
                    known.map_or_else(|| Line::new(*address), |at| old.swap_remove(at))
                })
                .collect();
        }
        let gap = watch.interval / u32::try_from(self.lines.len()).unwrap_or(u32::MAX).max(1);
        self.due = (0..).zip(&self.lines).map(|(n, _)| now + phase + gap * n).collect();
        self.silence_begins(now + phase);
        if self.lines.is_empty() {
            self.answered = None;
        }
        self.conclude(now);
    }

    // ---- evidence ----

    /// A probe was answered.
    pub fn answered(&mut self, due: Due, sent: Time, received: Time, now: Time) {
        let Some(line) = self.lines.get_mut(usize::from(due.line)) else { return };
        if !line.answer(due.sequence, sent, received) {
            return;
        }
        let received = received.min(now);
        self.answered = self.answered.max(Some(received));
        if received >= self.silent_since {
            self.silence_begins(received);
        }
        if self.hurried {
            self.hurried = false;
            self.calm(now);
        }
        let enough = match self.state {
            State::Down => line_runs(&self.lines) >= self.watch.answered,
            State::Up | State::Suspect | State::Unknown => true,
        };
        if enough && self.link_up {
            self.become_up(Proof::Probe, now);
        }
    }

    /// A probe could not be sent.
    pub fn unsent(&mut self, due: Due, errno: i32) {
        let Some(line) = self.lines.get_mut(usize::from(due.line)) else { return };
        if line.unsent(due.sequence) && !UNREACHABLE.contains(&errno) {
            self.asked = self.asked.saturating_sub(1);
        }
    }

    /// The device was looked at.
    pub fn looked(&mut self, statistics: Statistics, now: Time) {
        self.passive.look(statistics, now);
        self.conclude(now);
    }

    /// Something of the peer was noticed.
    pub fn heard(&mut self, at: Time, proof: Proof, now: Time) {
        self.passive.hear(at, proof);
        self.conclude(now);
    }

    /// babeld lost its neighbour.
    pub fn babel_lost(&mut self, at: Time, now: Time) {
        self.passive.babel_lost(at);
        self.conclude(now);
    }

    /// The link went up or down.
    pub fn link(&mut self, up: bool, now: Time) {
        if self.link_up == up {
            return;
        }
        self.link_up = up;
        if !up {
            return self.set(State::Down, Proof::Link, now);
        }
        self.silence_begins(now);
        self.due.iter_mut().for_each(|due| *due = now);
        if self.lines.is_empty() {
            self.set(State::Unknown, Proof::None, now);
            self.conclude(now);
        } else {
            self.lines.iter_mut().for_each(Line::restart_run);
            self.proof = Proof::Probe;
        }
    }

    // ---- time ----

    /// Probes that are due now, and what silence has come to mean. `late` is by how much the caller
    /// woke later than [`Liveness::deadline`] said; `may_hurry` is false while too many peers miss
    /// answers for each to be asked often.
    pub fn poll(&mut self, now: Time, late: Duration, may_hurry: bool) -> SmallVec<[Due; 2]> {
        self.polled = now;
        if !self.link_up {
            return SmallVec::new();
        }
        if late > SLEPT.max(self.watch.interval / 4) && !self.lines.is_empty() {
            // Answers may lie unread in a queue, and what was not asked could not be answered.
            let allowed = self.watch.interval * self.watch.lost.saturating_sub(1);
            self.silence_begins(self.silent_since.max(now - allowed));
        }
        let missed = !self.lines.is_empty() && now >= self.hurry_at();
        let hurry = missed && self.state != State::Down && (may_hurry || self.hurried);
        if hurry && !self.hurried {
            self.hurry = self.hurry_gap();
            self.due.iter_mut().for_each(|due| *due = now.min(*due));
        }
        self.hurried = hurry;
        let mut probes = SmallVec::new();
        for at in 0..self.lines.len() {
            if self.due[at] <= now {
                let sequence = self.lines[at].send();
                self.asked = self.asked.saturating_add(1);
                probes.push(Due { line: at as u8, sequence });
                let next = self.due[at] + self.gap();
                // What was missed is not made up for.
                self.due[at] = if next <= now { now + self.gap() } else { next };
            }
        }
        self.conclude(now);
        probes
    }

    /// When [`Liveness::poll`] has something to do, if nothing happens before.
    pub fn deadline(&self) -> Option<Time> {
        if !self.link_up {
            return None;
        }
        let silence = [
            (!self.hurried).then(|| self.hurry_at()),
            (self.state == State::Up).then(|| self.suspect_at()),
            Some(self.down_at()),
        ];
        let silent = !self.lines.is_empty() && self.state != State::Down;
        let silence = silence.into_iter().flatten().filter(|_| silent);
        let passive = self.passive.conclusion(self.polled).2;
        let held = (self.proof == Proof::HeldDown).then(|| self.hold.until());
        // What is over was dealt with, or waits for a probe.
        let rest = silence.chain(passive).chain(held).filter(|at| *at > self.polled);
        self.due.iter().copied().chain(rest).min()
    }

    /// Whether probes follow each other fast, because an answer is missing.
    pub fn is_hurried(&self) -> bool {
        self.hurried
    }

    // ---- answers ----

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// How it is known.
    pub fn proof(&self) -> Proof {
        self.proof
    }

    /// Since when.
    pub fn since(&self) -> Time {
        self.since
    }

    /// When something was last heard.
    pub fn last_heard(&self) -> Option<Time> {
        self.answered.max(self.passive.heard())
    }

    /// How often it went from up to down.
    pub fn falls(&self) -> u64 {
        self.falls
    }

    /// What is probed.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.lines.iter().map(|line| line.address)
    }

    /// What the probes say: all counts, the times of the quickest address.
    pub fn probe_status(&self) -> Option<ProbeStatus> {
        let silent = matches!(self.state, State::Down | State::Suspect);
        let all = self.lines.iter().map(|line| line.status(silent));
        all.reduce(|a, b| {
            let (first, second) =
                if b.rtt.is_some() && (a.rtt.is_none() || b.rtt < a.rtt) { (b, a) } else { (a, b) };
            ProbeStatus {
                sent: a.sent + b.sent,
                answered: a.answered + b.answered,
                unsent: a.unsent + b.unsent,
                loss: if second.rtt.is_some() { (a.loss + b.loss) / 2.0 } else { first.loss },
                ..first
            }
        })
    }

    /// What the device said at the last look.
    pub fn statistics(&self) -> Statistics {
        self.passive.statistics()
    }

    /// Bytes received and sent a second, between the last two looks.
    pub fn rates(&self) -> (f64, f64) {
        self.passive.rates
    }

    // ---- within ----

    /// Between two probes of a line, at present.
    fn gap(&self) -> Duration {
        if self.hurried { self.hurry } else { self.watch.interval }
    }

    /// Between two probes of a line while an answer is missing.
    fn hurry_gap(&self) -> Duration {
        let loss = self.lines.iter().map(|line| line.status(false).loss);
        let loss = loss.fold(1.0, f64::min).clamp(0.1, 0.9);
        let needed = (MISJUDGED.ln() / loss.ln()).ceil();
        let span = self.watch.interval * self.watch.lost.saturating_sub(1);
        span.div_f64(needed).min(self.watch.interval / HURRY).max(CLOSEST)
    }

    /// What an answer may take beyond an interval: a queue that is full delays it, and is no death.
    fn allowance(&self) -> Duration {
        let patience = self.lines.iter().map(Line::patience).max().unwrap_or_default();
        patience.saturating_sub(self.watch.interval).min(self.watch.interval * self.watch.lost)
    }

    /// Probes are no longer in a hurry.
    fn calm(&mut self, now: Time) {
        self.hurried = false;
        let count = u32::try_from(self.lines.len()).unwrap_or(u32::MAX).max(1);
        let gap = self.watch.interval / count;
        let mut at = now + gap;
        for due in &mut self.due {
            *due = at;
            at = at + gap;
        }
    }

    fn silence_begins(&mut self, at: Time) {
        self.silent_since = at;
        self.asked = 0;
    }

    /// When a missing answer is missed.
    fn hurry_at(&self) -> Time {
        let slack = self.lines.iter().map(Line::slack).max().unwrap_or_default();
        let slack = slack.max(LEAST_SLACK).min(self.watch.interval / 2);
        self.silent_since + self.watch.interval + slack
    }

    /// When silence becomes suspicious.
    fn suspect_at(&self) -> Time {
        self.silent_since + self.watch.interval * self.watch.lost * 2 / 3 + self.allowance()
    }

    /// When silence is death.
    fn down_at(&self) -> Time {
        self.silent_since + self.watch.interval * self.watch.lost + self.allowance()
    }

    /// Whether answers decide. A peer that never answered is judged by what else shows it alive
    /// since it was first asked.
    fn is_judged_by_probes(&self, now: Time) -> bool {
        let alive = || {
            self.passive.heard().is_some_and(|at| at > self.first_asked)
                && self.passive.conclusion(now).0 == State::Up
        };
        !self.lines.is_empty() && (self.answered.is_some() || !alive())
    }

    /// Draws the conclusions of silence, and of evidence that came without asking.
    fn conclude(&mut self, now: Time) {
        if !self.link_up {
            return;
        }
        if self.is_judged_by_probes(now) {
            self.conclude_from_silence(now);
        } else {
            let (state, proof, _) = self.passive.conclusion(now);
            match state {
                State::Up => self.become_up(proof, now),
                // Who is down stays so until something is heard.
                State::Unknown if self.state == State::Down => {}
                state => self.set(state, proof, now),
            }
        }
    }

    fn conclude_from_silence(&mut self, now: Time) {
        let asked = self.asked >= self.watch.lost;
        if now >= self.down_at() && asked {
            if self.state != State::Down {
                self.set(State::Down, Proof::Probe, now);
                self.lines.iter_mut().for_each(Line::restart_run);
            } else if self.proof == Proof::HeldDown {
                self.proof = Proof::Probe;
                self.lines.iter_mut().for_each(Line::restart_run);
            }
        } else if now >= self.suspect_at() && asked && self.state == State::Up {
            self.set(State::Suspect, Proof::Probe, now);
        } else if self.proof == Proof::HeldDown
            && now >= self.hold.until()
            && line_runs(&self.lines) >= self.watch.answered
        {
            self.become_up(Proof::Probe, now);
        }
    }

    fn become_up(&mut self, proof: Proof, now: Time) {
        if matches!(self.state, State::Down | State::Unknown) {
            if now < self.hold.until() {
                self.proof = Proof::HeldDown;
                return;
            }
            self.hold.rise(now);
        }
        self.set(State::Up, proof, now);
    }

    fn set(&mut self, state: State, proof: Proof, now: Time) {
        if self.state != state {
            if state == State::Down {
                if matches!(self.state, State::Up | State::Suspect) {
                    self.falls += 1;
                    self.hold.fall(now, self.watch.hold_down);
                }
                self.hurried = false;
            }
            self.state = state;
            self.since = now;
        }
        self.proof = proof;
    }
}

/// The longest run of answers.
fn line_runs(lines: &[Line]) -> u32 {
    lines.iter().map(Line::run).max().unwrap_or_default()
}
