//! The kernel's time of receipt on the daemon's clock.
//!
//! Here lives [`Clock`]. Invariant: no time it gives lies in the future.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::core::time::Time;

/// A packet that waited longer than this in a socket did not: the wall clock was set.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// The daemon's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(pub(super) Instant);

impl Clock {
    pub(super) fn now(self) -> Time {
        Time(self.0.elapsed())
    }

    /// When a packet came to which the kernel gave `stamp`, on the wall clock since the Unix epoch
    /// (`SO_TIMESTAMPNS`, Documentation/networking/timestamping.rst), and which was sent at `sent`.
    /// If the wall clock was set meanwhile, the time of reading stands in for it.
    pub(super) fn receipt(self, stamp: Option<Duration>, sent: Time) -> Time {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        receipt(stamp, wall, self.now(), sent)
    }
}

fn receipt(stamp: Option<Duration>, wall: Duration, now: Time, sent: Time) -> Time {
    let waited = stamp.and_then(|stamp| wall.checked_sub(stamp));
    let waited = waited.filter(|waited| *waited <= LONGEST_WAIT).unwrap_or_default();
    let at = now - waited;
    if at < sent { now } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_the_socket_does_not_count_unless_the_clock_was_set() {
        let ms = Duration::from_millis;
        let (wall, now, sent) = (ms(1_000_000), Time(ms(900)), Time(ms(500)));
        for (stamp, at, why) in [
            (Some(ms(999_700)), 600, "it waited for 300 ms"),
            (Some(wall), 900, "it just came"),
            (None, 900, "there is no time stamp"),
            (Some(ms(1_000_001)), 900, "the wall clock was set back"),
            (Some(ms(999_400)), 900, "it cannot have come before it was sent"),
            (Some(ms(900_000)), 900, "the wall clock was set forward"),
        ] {
            assert_eq!(receipt(stamp, wall, now, sent), Time(ms(at)), "{why}");
        }
    }
}
