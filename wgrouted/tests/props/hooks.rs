//! A hook is told of a peer at most once per interval, of one thing at a time, and in the end of what
//! is so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use proptest::prelude::*;
use wgrouted::core::{
    reach::{
        hooks::{Kind, Pacer, PeerKey, Telling},
        status::{Change, PeerStatus, Proof, Reachability, State},
    },
    time::Time,
};

use crate::{cases, domain::key, pictures::unheard};

const STATES: [State; 4] = [State::Up, State::Suspect, State::Down, State::Unknown];

#[derive(Clone, Debug)]
enum Step {
    /// A peer comes into a state, or from another place, and says so.
    State(u8, usize),
    Endpoint(u8, u16),
    Vanishes(u8),
    /// The same, but the news is missed.
    Missed(u8, usize),
    /// Everything is looked at.
    Look,
    /// Time passes, in milliseconds; what is due is told.
    Wait(u64),
    /// So many of those who are being told are done.
    Done(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = 0..4_u8;
    let step = prop_oneof![
        6 => (peer.clone(), 0..4_usize).prop_map(|(peer, state)| Step::State(peer, state)),
        2 => (peer.clone(), 1..4_u16).prop_map(|(peer, port)| Step::Endpoint(peer, port)),
        1 => peer.clone().prop_map(Step::Vanishes),
        1 => (peer, 0..4_usize).prop_map(|(peer, state)| Step::Missed(peer, state)),
        1 => Just(Step::Look),
        6 => (0..700_u64).prop_map(Step::Wait),
        3 => (1..4_usize).prop_map(Step::Done),
    ];
    prop::collection::vec(step, 0..80)
}

/// What is so, and what a hook believes.
#[derive(Default)]
struct World {
    now: u64,
    truth: BTreeMap<u8, (State, Option<SocketAddr>)>,
    believed: BTreeMap<PeerKey, State>,
    /// Whom it was told of since they appeared.
    known: BTreeSet<PeerKey>,
    last: BTreeMap<PeerKey, u64>,
    busy: Vec<PeerKey>,
}

fn peer_key(peer: u8) -> PeerKey {
    PeerKey { interface: format!("wg{}", peer % 2), public_key: key(peer) }
}

fn who(peer: u8) -> (String, String, wgrouted::core::peer::PublicKey) {
    let PeerKey { interface, public_key } = peer_key(peer);
    (interface, format!("p{peer}"), public_key)
}

fn place(port: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], port))
}

impl World {
    fn picture(&self) -> Reachability {
        let status = |(peer, (state, endpoint)): (&u8, &(State, Option<SocketAddr>))| {
            let (interface, peer, public_key) = who(*peer);
            PeerStatus {
                state: *state,
                proof: Proof::Probe,
                endpoint: *endpoint,
                ..unheard(&interface, 1, &peer, public_key)
            }
        };
        let peers = self.truth.iter().map(status).collect();
        Reachability { peers, complete: true, ..Reachability::default() }
    }

    fn time(&self) -> Time {
        Time(Duration::from_millis(self.now))
    }

    fn told(&mut self, telling: Telling, interval: u64) {
        let Telling { key, kind, state, previous, .. } = telling;
        assert_ne!(state, State::Suspect, "doubt is no news");
        assert!(!self.busy.contains(&key), "told of a peer twice at a time");
        if let Some(last) = self.last.insert(key.clone(), self.now) {
            assert!(self.now - last >= interval, "{last} and {}", self.now);
        }
        let believed = self.believed.insert(key.clone(), state).unwrap_or_default();
        assert_eq!(previous, believed);
        match kind {
            Kind::State => assert_ne!(state, previous),
            Kind::Endpoint => {
                assert_eq!(state, previous);
                assert_ne!(telling.endpoint, telling.previous_endpoint);
            }
            Kind::Vanished => assert!(self.known.contains(&key), "it was never told of"),
        }
        match kind {
            Kind::Vanished => self.known.remove(&key),
            _ => self.known.insert(key.clone()),
        };
        self.busy.push(key);
    }

    fn tell(&mut self, pacer: &mut Pacer, interval: u64) {
        while let Some(telling) = pacer.due(self.time()) {
            self.told(telling, interval);
        }
        assert!(pacer.deadline().is_none_or(|at| at > self.time()), "something is still due");
    }

    fn done(&mut self, pacer: &mut Pacer, count: usize) {
        for key in self.busy.drain(..count.min(self.busy.len())) {
            pacer.done(&key);
        }
    }
}

fn state_of(peer: u8, from: State, to: State) -> Change {
    let (interface, peer, public_key) = who(peer);
    Change::State {
        interface,
        peer,
        public_key,
        from,
        to,
        proof: Proof::Probe,
        rtt: None,
        heard: None,
    }
}

fn run(steps: Vec<Step>, interval: u64) {
    let mut pacer = Pacer::new(Duration::from_millis(interval));
    let mut world = World::default();
    for step in steps.into_iter().chain([Step::Look]) {
        match step {
            Step::State(peer, state) => {
                let entry = world.truth.entry(peer).or_default();
                let from = std::mem::replace(&mut entry.0, STATES[state]);
                pacer.change(&state_of(peer, from, STATES[state]));
            }
            Step::Missed(peer, state) => {
                world.truth.entry(peer).or_default().0 = STATES[state];
            }
            Step::Endpoint(peer, port) => {
                let entry = world.truth.entry(peer).or_default();
                let (from, to) = (entry.1.replace(place(port)), place(port));
                if let Some(from) = from.filter(|from| *from != to) {
                    let (interface, peer, public_key) = who(peer);
                    pacer.change(&Change::Endpoint { interface, peer, public_key, from, to });
                }
            }
            Step::Vanishes(peer) => {
                if world.truth.remove(&peer).is_some() {
                    let (interface, peer, public_key) = who(peer);
                    pacer.change(&Change::Vanished { interface, peer, public_key });
                }
            }
            Step::Look => pacer.picture(&world.picture()),
            Step::Wait(span) => {
                // Deadlines in between are kept, as the daemon does.
                let end = world.now + span;
                world.tell(&mut pacer, interval);
                while let Some(at) = pacer.deadline().map(|at| at.0.as_millis() as u64)
                    && at <= end
                {
                    world.now = world.now.max(at);
                    world.tell(&mut pacer, interval);
                }
                world.now = end;
                world.tell(&mut pacer, interval);
            }
            Step::Done(count) => world.done(&mut pacer, count),
        }
    }
    for _ in 0..3 {
        world.done(&mut pacer, usize::MAX);
        world.now += interval;
        world.tell(&mut pacer, interval);
    }
    world.done(&mut pacer, usize::MAX);
    for peer in 0..4 {
        let truth = world.truth.get(&peer).map(|(state, _)| *state).unwrap_or_default();
        let believed = world.believed.get(&peer_key(peer)).copied().unwrap_or_default();
        if truth == State::Suspect {
            assert_ne!(believed, State::Down, "peer {peer}");
        } else {
            assert_eq!(believed, truth, "peer {peer}");
        }
        let known = world.known.contains(&peer_key(peer));
        assert!(!known || world.truth.contains_key(&peer), "nobody said that {peer} vanished");
    }
    world.now += interval;
    assert_eq!(pacer.due(world.time()), None, "told, and nothing has changed");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(500)))]

    #[test]
    fn hooks_are_told_what_is_so_and_not_too_often(steps in steps(), interval in 0..1000_u64) {
        run(steps, interval);
    }
}

#[test]
fn what_goes_back_in_time_is_not_told() {
    let mut pacer = Pacer::new(Duration::from_secs(1));
    let at = |ms| Time(Duration::from_millis(ms));
    pacer.change(&state_of(0, State::Unknown, State::Up));
    let first = pacer.due(at(0)).unwrap();
    assert_eq!((first.kind, first.previous, first.state), (Kind::State, State::Unknown, State::Up));
    pacer.done(&first.key);
    pacer.change(&state_of(0, State::Up, State::Down));
    assert_eq!((pacer.due(at(999)), pacer.deadline()), (None, Some(at(1000))));
    pacer.change(&state_of(0, State::Down, State::Up));
    assert_eq!((pacer.due(at(1000)), pacer.deadline()), (None, None));
    pacer.change(&state_of(0, State::Up, State::Suspect));
    assert_eq!((pacer.due(at(1000)), pacer.deadline()), (None, None));
    pacer.change(&state_of(0, State::Suspect, State::Down));
    let second = pacer.due(at(1000)).unwrap();
    assert_eq!((second.previous, second.state), (State::Up, State::Down));
}
