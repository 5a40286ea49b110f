//! What can be concluded without asking: from the device's counters and handshakes, from packets that
//! the filter saw, from what babeld says.
//!
//! Here lives [`Passive`]. WireGuard's own timers (drivers/net/wireguard/messages.h, timers.c) say
//! what a living peer does: it answers data within `KEEPALIVE_TIMEOUT`, and completes a handshake
//! before a session is `REJECT_AFTER_TIME` old. Keepalives are not answered. Invariant: a peer that
//! had no reason to say anything is never called down.

use std::time::Duration;

use super::{
    roster::Statistics,
    status::{Proof, State},
};
use crate::core::time::Time;

/// A session that is older carries nothing (`REJECT_AFTER_TIME`).
const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// A healthy session is renewed before this (`REKEY_AFTER_TIME` and some attempts); the threshold of
/// wireguard-tools' reresolve-dns.sh.
const OVERDUE: Duration = Duration::from_secs(135);
/// Data is answered, be it by a keepalive, within `KEEPALIVE_TIMEOUT` (10 s); after
/// `KEEPALIVE_TIMEOUT + REKEY_TIMEOUT` (15 s) without an answer WireGuard itself doubts the session.
const UNANSWERED: Duration = Duration::from_secs(15);
/// By then three handshakes, `REKEY_TIMEOUT` (5 s) apart, were not answered either.
const LOST: Duration = Duration::from_secs(30);
/// Bytes of a keepalive (`message_data_len(0)`).
const KEEPALIVE_BYTES: u64 = 32;

/// What was noticed of a peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Passive {
    last: Option<(Time, Statistics)>,
    /// When something of it was last noticed, and how.
    heard: Option<(Time, Proof)>,
    /// Since when what we send has not been answered.
    unanswered: Option<Time>,
    /// babeld lost its neighbour.
    babel_lost: Option<Time>,
    /// The session is so old that it is dead, although a keepalive would have renewed it.
    handshake: Option<State>,
    /// Bytes received and sent a second, between the last two looks.
    pub(super) rates: (f64, f64),
}

impl Passive {
    /// Takes in a look at the device. Whether something was heard since the last one.
    pub(super) fn look(&mut self, statistics: Statistics, now: Time) -> bool {
        let keepalive = statistics.persistent_keepalive;
        self.handshake = match statistics.handshake_age {
            Some(age) if keepalive > 0 && age > REJECT_AFTER_TIME => Some(State::Down),
            Some(age) if keepalive > 0 && age > OVERDUE => Some(State::Suspect),
            _ => None,
        };
        let Some((before, last)) = self.last.replace((now, statistics)) else {
            // Of what was before we know only the age of the session.
            let fresh = statistics.handshake_age.filter(|age| *age < REJECT_AFTER_TIME);
            if let Some(age) = fresh {
                self.hear(now - age, Proof::Handshake);
            }
            return fresh.is_some();
        };
        let span = now.since(before);
        let seconds = span.as_secs_f64().max(f64::EPSILON);
        let grown = |now: u64, then: u64| now.saturating_sub(then);
        let (received, sent) =
            (grown(statistics.rx_bytes, last.rx_bytes), grown(statistics.tx_bytes, last.tx_bytes));
        self.rates = (received as f64 / seconds, sent as f64 / seconds);
        let shaken = statistics.handshake_age.is_some_and(|age| age <= span);
        if received > 0 || shaken {
            let proof = if received > 0 { Proof::Counters } else { Proof::Handshake };
            self.hear(now, proof);
            return true;
        }
        let keepalives = match u64::from(keepalive) {
            0 => 0,
            keepalive => span.as_secs() / keepalive + 1,
        };
        if sent > keepalives * KEEPALIVE_BYTES {
            // It was sent after the look before; counted from then on a slow look would convict.
            self.unanswered.get_or_insert(now);
        }
        false
    }

    /// The filter saw a packet, or babeld heard its neighbour.
    pub(super) fn hear(&mut self, at: Time, proof: Proof) {
        if self.heard.is_none_or(|(then, _)| then <= at) {
            self.heard = Some((at, proof));
            self.unanswered = None;
            self.babel_lost = None;
        }
    }

    /// babeld no longer hears its neighbour.
    pub(super) fn babel_lost(&mut self, at: Time) {
        self.babel_lost.get_or_insert(at);
    }

    /// When something of it was last noticed.
    pub(super) fn heard(&self) -> Option<Time> {
        self.heard.map(|(at, _)| at)
    }

    /// The latest statistics.
    pub(super) fn statistics(&self) -> Statistics {
        self.last.map(|(_, statistics)| statistics).unwrap_or_default()
    }

    /// The conclusion, and until when it holds if nothing happens.
    pub(super) fn conclusion(&self, now: Time) -> (State, Proof, Option<Time>) {
        if self.babel_lost.is_some() {
            return (State::Down, Proof::Babel, None);
        }
        if let Some(since) = self.unanswered {
            let silent = now.since(since);
            if silent >= LOST {
                return (State::Down, Proof::Counters, None);
            }
            if silent >= UNANSWERED {
                return (State::Suspect, Proof::Counters, Some(since + LOST));
            }
        }
        if let Some(state) = self.handshake {
            return (state, Proof::Handshake, None);
        }
        let doubt = self.unanswered.map(|since| since + UNANSWERED);
        match self.heard {
            Some((at, proof)) if now.since(at) < REJECT_AFTER_TIME => {
                let end = at + REJECT_AFTER_TIME;
                (State::Up, proof, Some(doubt.map_or(end, |doubt| doubt.min(end))))
            }
            _ => (State::Unknown, Proof::None, doubt),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    fn looked(age: Option<u64>, rx_bytes: u64, tx_bytes: u64) -> Statistics {
        let handshake_age = age.map(Duration::from_secs);
        Statistics { handshake_age, rx_bytes, tx_bytes, ..Statistics::default() }
    }

    #[test]
    fn silence_without_a_reason_to_speak_is_not_death() {
        let mut passive = Passive::default();
        passive.look(looked(None, 0, 0), at(0));
        assert_eq!(passive.conclusion(at(10_000)).0, State::Unknown);
        passive.look(looked(Some(1), 100, 100), at(1));
        assert_eq!(passive.conclusion(at(100)).0, State::Up);
        assert_eq!(passive.conclusion(at(10_000)).0, State::Unknown);
    }

    #[test]
    fn data_without_an_answer_is() {
        let mut passive = Passive::default();
        passive.look(looked(Some(1), 100, 100), at(0));
        passive.look(looked(Some(6), 100, 400), at(5));
        assert_eq!(passive.conclusion(at(6)).0, State::Up);
        assert_eq!(passive.conclusion(at(21)).0, State::Suspect);
        assert_eq!(passive.conclusion(at(36)).0, State::Down);
        passive.look(looked(Some(40), 132, 500), at(39));
        assert_eq!(passive.conclusion(at(39)), (State::Up, Proof::Counters, Some(at(219))));
    }

    #[test]
    fn keepalives_are_not_answered() {
        let mut passive = Passive::default();
        let keepalive = |rx, tx| Statistics { persistent_keepalive: 5, ..looked(Some(1), rx, tx) };
        passive.look(keepalive(100, 100), at(0));
        passive.look(keepalive(100, 164), at(10));
        passive.look(
            Statistics { handshake_age: Some(Duration::from_secs(60)), ..keepalive(100, 196) },
            at(15),
        );
        assert_eq!(passive.conclusion(at(60)).0, State::Up);
        passive.look(
            Statistics { handshake_age: Some(Duration::from_secs(181)), ..keepalive(100, 228) },
            at(20),
        );
        assert_eq!(passive.conclusion(at(60)), (State::Down, Proof::Handshake, None));
    }
}
