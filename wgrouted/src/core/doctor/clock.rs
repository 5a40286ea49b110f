//! The time.
//!
//! A WireGuard peer that begins a handshake sends the time (TAI64N, section 5.4.2 of the paper), and
//! who has heard a later one from it drops the message. Here live the checks that matter for it: the
//! clock was not set back, and is kept right.

use super::{
    finding::{Area, Finding, Level},
    seen::Machine,
};

/// The start of 2026, before which this was not written. A machine without a battery for its clock
/// begins in 1970, or where its file system was made.
const EARLIEST: i64 = 1_767_225_600;

/// Judges the clock.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    let why = "peers drop handshakes that bear an earlier time than one they have seen: tunnels stay \
               dead until the clock has passed it";
    let finding = |level, found: String| Finding::new(Area::Clock, "clock", level, found);
    out.push(if machine.clock.now < EARLIEST {
        finding(Level::Failure, format!("the clock is wrong: {} s since 1970", machine.clock.now))
            .why(why)
            .run("timedatectl set-ntp true")
            .advise("without systemd, `date -s` and a time daemon")
    } else {
        finding(Level::Ok, "the clock is plausible".to_owned())
    });
    out.push(match &machine.clock.synchronised {
        Err(because) => Finding::not_checked(Area::Clock, "clock-sync", "synchronisation", because),
        Ok(true) => Finding::new(Area::Clock, "clock-sync", Level::Ok, "the clock is synchronised"),
        Ok(false) => {
            let found = "nobody keeps the clock right (STA_UNSYNC)";
            Finding::new(Area::Clock, "clock-sync", Level::Warning, found)
                .why(why)
                .run("timedatectl set-ntp true")
                .advise("or run chrony or ntpd; a fresh one takes some minutes to be satisfied")
        }
    });
    let Ok(network) = &machine.network else { return };
    for way in network.ways.iter().filter(|way| way.ahead) {
        let found = format!(
            "the clock was set back: the last handshake of {} with {} lies in the future",
            way.device, way.peer
        );
        out.push(
            Finding::new(Area::Clock, "clock-back", Level::Failure, found).why(why).advise(format!(
                "set the clock right; if it is right now, have the other end forget: there, `wg set \
                 {} peer KEY remove`, and add the peer again",
                way.device
            )),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::{
        seen::ClockSeen,
        tests::{all, find, machine, way},
    };

    #[test]
    fn a_clock_that_never_was_right() {
        let at = |now| {
            let clock = ClockSeen { now, synchronised: Ok(true) };
            find(&Machine { clock, ..machine() }, "clock").level
        };
        assert_eq!(
            (at(0), at(-5), at(EARLIEST - 1)),
            (Level::Failure, Level::Failure, Level::Failure)
        );
        assert_eq!(at(EARLIEST), Level::Ok);
    }

    #[test]
    fn a_clock_that_nobody_keeps() {
        for (seen, level) in [
            (Ok(true), Level::Ok),
            (Ok(false), Level::Warning),
            (Err("it is forbidden".to_owned()), Level::NotChecked),
        ] {
            let clock = ClockSeen { now: EARLIEST, synchronised: seen };
            assert_eq!(find(&Machine { clock, ..machine() }, "clock-sync").level, level);
        }
    }

    #[test]
    fn a_handshake_of_the_future() {
        let mut machine = machine();
        let network = machine.network.as_mut().unwrap();
        network.ways = vec![way("wg0", "192.0.2.1:1", None)];
        assert_eq!(all(&machine, "clock-back"), []);
        machine.network.as_mut().unwrap().ways[0].ahead = true;
        assert_eq!(find(&machine, "clock-back").level, Level::Failure);
    }
}
