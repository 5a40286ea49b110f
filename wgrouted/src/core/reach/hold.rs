//! Hold-down against flapping.
//!
//! Here lives [`Hold`]: when a peer that fell may be up again. A peer that was up for long comes back
//! at once; one that falls again soon is held down, twice as long with each further fall. Law: two
//! returns are at least the hold-down apart.

use std::time::Duration;

use crate::core::time::Time;

/// A peer that was up for this many hold-downs is steady.
const STEADY: u32 = 8;
/// The hold-down doubles this often at most.
const DOUBLINGS: u32 = 6;

/// When a peer that fell may be up again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hold {
    /// Falls in quick succession.
    level: u32,
    risen: Option<Time>,
    until: Time,
}

impl Hold {
    /// The peer came up.
    pub(super) fn rise(&mut self, now: Time) {
        self.risen = Some(now);
    }

    /// The peer went down.
    pub(super) fn fall(&mut self, now: Time, hold_down: Duration) {
        let steady = self.risen.is_none_or(|risen| now.since(risen) >= hold_down * STEADY);
        self.level = if steady { 0 } else { self.level + 1 };
        self.until = match self.level {
            0 => now,
            level => now + hold_down * (1 << (level - 1).min(DOUBLINGS)),
        };
    }

    /// Until when it is held.
    pub(super) fn until(&self) -> Time {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time(Duration::from_secs(seconds))
    }

    #[test]
    fn quick_falls_are_held_ever_longer_and_steadiness_forgives() {
        let hold_down = Duration::from_secs(5);
        let mut hold = Hold::default();
        hold.fall(at(1), hold_down);
        assert_eq!(hold.until(), at(1), "it was never up");
        hold.rise(at(10));
        hold.fall(at(60), hold_down);
        assert_eq!(hold.until(), at(60), "it was steady");
        hold.rise(at(61));
        hold.fall(at(62), hold_down);
        assert_eq!(hold.until(), at(67));
        hold.rise(at(68));
        hold.fall(at(69), hold_down);
        assert_eq!(hold.until(), at(79));
        hold.rise(at(80));
        hold.fall(at(120), hold_down);
        assert_eq!(hold.until(), at(120));
    }
}
