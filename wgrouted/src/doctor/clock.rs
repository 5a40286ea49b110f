//! The time, and whether somebody keeps it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::core::doctor::seen::ClockSeen;

/// Looks at the clock.
pub(super) fn look() -> ClockSeen {
    let now = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => {
            i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds)
        }
    };
    // SAFETY: all zero is a value of this structure of integers.
    let mut clock: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel reads and writes one `timex`; with no modes it changes nothing.
    let state = unsafe { libc::adjtimex(&raw mut clock) };
    let synchronised = match state {
        -1 => Err(std::io::Error::last_os_error().to_string()),
        _ => Ok(clock.status & libc::STA_UNSYNC == 0),
    };
    ClockSeen { now, synchronised }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_read() {
        let seen = look();
        assert!(seen.now > 1_700_000_000 && seen.synchronised.is_ok(), "{seen:?}");
    }
}
