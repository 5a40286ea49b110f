//! Laws of liveness: one peer's state machine against a simulated path.

use std::{collections::VecDeque, net::IpAddr, time::Duration};

use proptest::prelude::*;
use wgrouted::core::{
    reach::{
        liveness::{Due, Liveness, Watch},
        roster::Statistics,
        status::{Proof, State},
    },
    time::Time,
};

const MILLISECOND: Duration = Duration::from_millis(1);

fn at(milliseconds: u64) -> Time {
    Time(Duration::from_millis(milliseconds))
}

/// A path to a peer: answers come after `delay`, unless the path is cut at that time or chance takes
/// them.
struct Path {
    delay: u64,
    cuts: Vec<(u64, u64)>,
    /// Of 100 probes this many are lost, by a sequence of chance.
    loss: u32,
    chance: u64,
}

impl Path {
    fn answers(&mut self, now: u64) -> bool {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let lost = (self.chance >> 33) % 100 < u64::from(self.loss);
        !lost && !self.cuts.iter().any(|(from, to)| (*from..*to).contains(&now))
    }
}

/// A run: what the state became, and when.
struct Run {
    flips: Vec<(u64, State)>,
    probes: u64,
}

impl Run {
    /// The state at a time.
    fn state(&self, time: u64) -> State {
        let past = self.flips.iter().rev().find(|(at, _)| *at <= time);
        past.map_or(State::Unknown, |(_, state)| *state)
    }
}

fn address(n: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, n])
}

/// Runs a machine for so many milliseconds, waking it when it asks to be, later by `sleep(now)`.
fn run(
    watch: Watch,
    path: &mut Path,
    addresses: usize,
    until: u64,
    mut sleep: impl FnMut(u64) -> u64,
) -> Run {
    let list: Vec<IpAddr> = (0..addresses).map(|n| address(n as u8 + 2)).collect();
    let mut peer = Liveness::new(watch, &list, Duration::ZERO, at(0));
    let mut answers: VecDeque<(u64, Due, u64)> = VecDeque::new();
    let mut run = Run { flips: Vec::new(), probes: 0 };
    let mut state = State::Unknown;
    let (mut now, mut awake) = (0, 0);
    while now < until {
        while answers.front().is_some_and(|(when, ..)| *when <= now) {
            let (when, due, sent) = answers.pop_front().unwrap();
            peer.answered(due, at(sent), at(when), at(now));
        }
        let due = peer.deadline();
        if now >= awake && due.is_some_and(|due| due.0.as_millis() as u64 <= now) {
            let late = due.map_or(Duration::ZERO, |due| at(now).since(due));
            for due in peer.poll(at(now), late, true) {
                run.probes += 1;
                if path.answers(now) {
                    answers.push_back((now + path.delay, due, now));
                }
            }
            assert!(peer.deadline().is_none_or(|due| due > at(now)), "a machine that spins");
            awake = now + sleep(now);
        }
        if peer.state() != state {
            state = peer.state();
            run.flips.push((now, state));
        }
        // On to the next thing that happens.
        let woken = peer.deadline().map(|due| (due.0.as_millis() as u64).max(awake));
        let next = woken.into_iter().chain(answers.front().map(|(when, ..)| *when)).min();
        now = next.unwrap_or(until).max(now + 1);
    }
    run
}

fn watch() -> impl Strategy<Value = Watch> {
    (1_u32..10, 2_u32..6, 1_u32..4, 0_u64..20).prop_map(|(interval, lost, answered, hold)| Watch {
        interval: MILLISECOND * 100 * interval,
        lost,
        answered,
        hold_down: MILLISECOND * 100 * hold as u32,
    })
}

proptest! {
    /// From its last sign of life, a dead peer is down within `lost` intervals, not earlier than one
    /// interval before; and a living one that answers within an interval is never down.
    #[test]
    fn a_cut_is_noticed_in_time(
        watch in watch(),
        share in 0.0..1.0_f64,
        delay in 0_u64..90,
        addresses in 1_usize..3,
    ) {
        let interval = watch.interval.as_millis() as u64;
        let cut = interval * 10 + (interval as f64 * share) as u64;
        let until = cut + interval * (u64::from(watch.lost) + 3);
        let mut path = Path { delay, cuts: vec![(cut, u64::MAX)], loss: 0, chance: 1 };
        let run = run(watch, &mut path, addresses, until, |_| 0);
        prop_assert_eq!(run.state(cut), State::Up);
        let down = run.flips.iter().find(|(_, state)| *state == State::Down);
        let Some((down, _)) = down else { return Err(TestCaseError::fail("never down")) };
        let (least, most) = (u64::from(watch.lost) - 1, u64::from(watch.lost));
        prop_assert!(*down >= cut + interval * least - interval / 2, "{} {}", down, cut);
        prop_assert!(*down <= cut + interval * most + delay + 1, "{} {}", down, cut);
    }

    /// A link that loses four in ten exchanges from the start, or comes to lose three in four, does not
    /// make a peer look dead, at the default of three intervals; nor do round trips of several.
    #[test]
    fn a_lossy_peer_stays_up(
        chance: u64,
        (loss, delay) in prop_oneof![(0_u32..=36, 0_u64..40), (Just(75), 0_u64..5), (0_u32..30, 0_u64..250)],
    ) {
        let watch = Watch {
            interval: MILLISECOND * 100,
            lost: 3,
            answered: 2,
            hold_down: Duration::ZERO,
        };
        let mut path = Path { delay, cuts: vec![], loss, chance };
        let run = run(watch, &mut path, 1, 20_000, |_| 0);
        // Of a path that is bad from the start, the first seconds teach.
        let taught = run.flips.iter().filter(|(at, _)| *at > 3_000);
        prop_assert!(taught.clone().all(|(_, state)| *state != State::Down), "{:?}", run.flips);
    }

    /// In silence the state only gets worse.
    #[test]
    fn silence_is_monotone(watch in watch(), cut in 0_u64..5_000, delay in 0_u64..90) {
        let mut path = Path { delay, cuts: vec![(cut, u64::MAX)], loss: 0, chance: 1 };
        let run = run(watch, &mut path, 1, 20_000, |_| 0);
        let after: Vec<State> =
            run.flips.iter().filter(|(at, _)| *at > cut + delay).map(|(_, state)| *state).collect();
        let rank = |state: &State| match state {
            State::Up => 0,
            State::Unknown | State::Suspect => 1,
            State::Down => 2,
        };
        prop_assert!(after.is_sorted_by_key(rank), "{:?}", after);
    }

    /// Two returns are at least the hold-down apart, whatever the path does; and once it is well for
    /// long, the peer is up.
    #[test]
    fn at_most_one_return_a_hold_down(
        watch in watch(),
        cuts in prop::collection::vec((0_u64..30_000, 1_u64..4_000), 0..20),
        chance: u64,
        loss in 0_u32..70,
    ) {
        let cuts: Vec<(u64, u64)> = cuts.into_iter().map(|(at, span)| (at, at + span)).collect();
        let mut path = Path { delay: 20, cuts, loss, chance };
        let flapping = run(watch, &mut path, 1, 40_000, |_| 0);
        let mut returns = Vec::new();
        let mut fallen = true;
        for (at, state) in &flapping.flips {
            match state {
                State::Up if fallen => {
                    returns.push(*at);
                    fallen = false;
                }
                State::Down => fallen = true,
                _ => {}
            }
        }
        let hold_down = watch.hold_down.as_millis() as u64;
        for pair in returns.windows(2) {
            prop_assert!(pair[1] - pair[0] >= hold_down, "{:?}", returns);
        }
        path.loss = 0;
        path.cuts = vec![(5_000, 9_000)];
        let well = run(watch, &mut path, 1, 200_000, |_| 0);
        prop_assert_eq!(well.state(200_000), State::Up);
    }

    /// Our own sleep convicts nobody: a peer that answers is up, however late we wake.
    #[test]
    fn sleep_convicts_nobody(
        watch in watch(),
        naps in prop::collection::vec(0_u64..5_000, 1..20),
        delay in 0_u64..90,
    ) {
        let mut path = Path { delay, cuts: vec![], loss: 0, chance: 1 };
        let mut naps = naps.into_iter().cycle();
        let mut slept = 0;
        // A nap now and then, and real work in between.
        let run = run(watch, &mut path, 1, 60_000, |now| {
            if now > slept + 3_000 {
                slept = now;
                naps.next().unwrap_or(0)
            } else {
                0
            }
        });
        prop_assert!(run.flips.iter().all(|(_, state)| *state != State::Down), "{:?}", run.flips);
    }

    /// What our own host cannot send convicts nobody.
    #[test]
    fn what_was_not_sent_was_not_unanswered(watch in watch(), errno in prop::sample::select(vec![1, 13, 105])) {
        let mut peer = Liveness::new(watch, &[address(2)], Duration::ZERO, at(0));
        for now in 0..20_000 {
            if peer.deadline().is_some_and(|due| due <= at(now)) {
                for due in peer.poll(at(now), Duration::ZERO, true) {
                    peer.unsent(due, errno);
                }
            }
        }
        prop_assert_eq!(peer.state(), State::Unknown);
    }

    /// Probes are no flood: one an interval and address while answers come, and not many more while
    /// they are missing and it matters.
    #[test]
    fn probes_are_bounded(watch in watch(), cut in 0_u64..20_000, addresses in 1_usize..3) {
        let mut path = Path { delay: 5, cuts: vec![(cut, u64::MAX)], loss: 0, chance: 1 };
        let run = run(watch, &mut path, addresses, 20_000, |_| 0);
        let intervals = 20_000 / watch.interval.as_millis() as u64 + 1;
        // As many as at nine tenths of loss.
        let hurried = 160 + u64::from(watch.lost) * 11;
        prop_assert!(run.probes <= (intervals + hurried) * addresses as u64, "{}", run.probes);
    }

    /// A peer that is not probed, without a keepalive, is never down for being silent; and a link
    /// that is down is.
    #[test]
    fn the_unprobed_and_silent_are_unknown(
        watch in watch(),
        looks in prop::collection::vec((0_u64..100_000, prop::option::of(0_u64..1_000)), 1..20),
    ) {
        let mut peer = Liveness::new(watch, &[], Duration::ZERO, at(0));
        let mut now = 0;
        for (pause, age) in looks {
            now += pause;
            let handshake_age = age.map(Duration::from_secs);
            peer.looked(Statistics { handshake_age, ..Statistics::default() }, at(now));
            prop_assert!(matches!(peer.state(), State::Up | State::Unknown));
        }
        now += 1_000_000;
        peer.poll(at(now), Duration::ZERO, true);
        prop_assert_eq!(peer.state(), State::Unknown);
        peer.link(false, at(now));
        prop_assert_eq!((peer.state(), peer.proof()), (State::Down, Proof::Link));
        peer.link(true, at(now));
        prop_assert_eq!(peer.state(), State::Unknown);
    }
}
