//! BIRD, as a model, and the laws of its machine.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use wgrouted::core::{
    reach::{
        bird::machine::{Bird, Notice},
        dialogue::Dialogue,
        status::State,
    },
    rule::OnExit,
};

use crate::{
    pictures::{link, peer, picture},
    sockets::{Model, World},
};

/// Three peers. `both` is of two of them; nobody has configured `own`.
const PEERS: [(&str, &[&str]); 3] =
    [("wg1", &["p1", "both"]), ("wg2", &["p2", "both"]), ("wg3", &["p3"])];
const PROTOCOLS: [&str; 5] = ["p1", "p2", "p3", "both", "own"];

struct Daemon {
    /// Whether each protocol that it has is enabled.
    enabled: BTreeMap<&'static str, bool>,
    /// What the next connection, and this one, may do.
    restrict: bool,
    restricted: bool,
    touched: Vec<String>,
}

impl Daemon {
    fn new() -> Self {
        let enabled = PROTOCOLS.map(|name| (name, true)).into();
        Daemon { enabled, restrict: false, restricted: false, touched: Vec::new() }
    }

    fn set(&mut self, name: &str, to: bool) -> String {
        if self.restricted {
            return "8007 Access denied\n".to_owned();
        }
        self.touched.push(name.to_owned());
        let Some(enabled) = self.enabled.get_mut(name) else {
            return "8003 No protocols match\n".to_owned();
        };
        let (code, word) = match (std::mem::replace(enabled, to), to) {
            (false, false) => (8, "already disabled"),
            (true, false) => (9, "disabled"),
            (true, true) => (10, "already enabled"),
            (false, true) => (11, "enabled"),
        };
        format!("{code:04}-{name}: {word}\n0000 \n")
    }
}

impl Model for Daemon {
    fn greet(&mut self) -> String {
        self.restricted = self.restrict;
        "0001 BIRD 2.0.12 ready.\n".to_owned()
    }

    fn answer(&mut self, command: &str) -> String {
        let mut quoted = command.split('"');
        match (quoted.next(), quoted.next()) {
            (Some("show protocols"), None) => {
                let mut text =
                    "2002-Name       Proto      Table      State  Since         Info\n".to_owned();
                for (at, (name, enabled)) in self.enabled.iter().enumerate() {
                    let mark = if at == 0 { "1002-" } else { " " };
                    let state = if *enabled { "up" } else { "down" };
                    text += &format!(
                        "{mark}{name:<10} Static     master4    {state:<6} 17:57:01.366  \n"
                    );
                }
                text + "0000 \n"
            }
            (Some("enable "), Some(name)) => self.set(name, true),
            (Some("disable "), Some(name)) => self.set(name, false),
            _ => "9001 syntax error\n".to_owned(),
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    State(usize, State),
    /// Somebody enables or disables a protocol by hand.
    Hand(usize, bool),
    /// `birdc configure`, after which all is enabled.
    Configure,
    /// A protocol is no longer in BIRD's configuration, or is again.
    Remove(usize),
    Restart,
    Restrict(bool),
    Incomplete,
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let state = prop::sample::select(vec![State::Up, State::Suspect, State::Down, State::Unknown]);
    prop::collection::vec(
        prop_oneof![
            4 => (0..3usize, state).prop_map(|(peer, state)| Event::State(peer, state)),
            2 => (0..5usize, any::<bool>()).prop_map(|(name, on)| Event::Hand(name, on)),
            1 => Just(Event::Configure),
            1 => (0..5usize).prop_map(Event::Remove),
            1 => Just(Event::Restart),
            1 => any::<bool>().prop_map(Event::Restrict),
            1 => Just(Event::Incomplete),
            3 => (0..20_000u64).prop_map(Event::Pass),
        ],
        0..30,
    )
}

fn run(world: &mut World<Bird, Daemon>, events: Vec<Event>) -> [State; 3] {
    let mut states = [State::Unknown; 3];
    let mut complete = true;
    for event in events {
        match event {
            Event::State(peer, state) => states[peer] = state,
            Event::Hand(name, on) => {
                if let Some(enabled) = world.model.enabled.get_mut(PROTOCOLS[name]) {
                    *enabled = on;
                }
            }
            Event::Configure => world.model.enabled.values_mut().for_each(|on| *on = true),
            Event::Remove(name) => {
                if world.model.enabled.remove(PROTOCOLS[name]).is_none() {
                    world.model.enabled.insert(PROTOCOLS[name], true);
                }
            }
            Event::Restart => {
                world.disconnect();
                world.model.enabled.values_mut().for_each(|on| *on = true);
            }
            Event::Restrict(on) => world.model.restrict = on,
            Event::Incomplete => complete = false,
            Event::Pass(ms) => world.pass(Duration::from_millis(ms)),
        }
        show(world, states, complete);
        complete = true;
    }
    states
}

fn show(world: &mut World<Bird, Daemon>, states: [State; 3], complete: bool) {
    let link = || link(None, OnExit::Keep);
    let peers = PEERS.iter().zip(states);
    // What was not looked at yet is not there.
    let peers = peers.skip(usize::from(!complete));
    let peers = peers.map(|((name, bird), state)| peer(name, state, None, bird, link()));
    world.picture = picture(world.picture.revision + 1, complete, peers.collect());
}

/// What the rule in the manual comes to.
fn wanted(states: [State; 3], protocol: &str) -> Option<bool> {
    let of = PEERS.iter().zip(states).filter(|((_, bird), _)| bird.contains(&protocol));
    let of: Vec<_> = of.map(|(_, state)| state).collect();
    if of.iter().any(|state| matches!(state, State::Up | State::Suspect)) {
        Some(true)
    } else if of.iter().all(|state| *state == State::Down) && !of.is_empty() {
        Some(false)
    } else {
        None
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(300)))]

    #[test]
    fn bird_is_brought_in_line(events in events(), piece in 1..80usize, down in any::<bool>()) {
        let mut world = World::new(Bird::default(), Daemon::new(), piece);
        let states = run(&mut world, events);
        world.model.restrict = false;
        show(&mut world, states, true);
        // A quarrel, a restricted socket: after ten minutes both are over.
        world.pass(Duration::from_secs(900));
        for (name, enabled) in &world.model.enabled {
            if let Some(wanted) = wanted(states, name) {
                prop_assert_eq!(*enabled, wanted, "{}", name);
            }
        }
        let report = world.machine.report().expect("it has read");
        let missing = PROTOCOLS[..4].iter().any(|name| !world.model.enabled.contains_key(name));
        prop_assert_eq!(report.error.is_some(), missing, "{:?}", report);

        // Nothing to do: it reads, and changes nothing.
        let before = world.model.touched.len();
        world.pass(Duration::from_secs(60));
        prop_assert_eq!(world.model.touched.len(), before);
        prop_assert!(!world.model.touched.contains(&"own".to_owned()));

        // Reconfigured: in line again after the next look.
        world.model.enabled.values_mut().for_each(|on| *on = true);
        world.pass(Duration::from_secs(4));
        for (name, enabled) in &world.model.enabled {
            prop_assert!(wanted(states, name) != Some(false) || !enabled, "{name}");
        }

        // In the end nothing stays disabled that is only so because of us.
        if down {
            world.stop();
            for (name, enabled) in &world.model.enabled {
                prop_assert!(wanted(states, name) != Some(false) || *enabled, "{name}");
            }
            prop_assert!(!world.model.touched.contains(&"own".to_owned()));
        }
    }
}

/// Somebody disables it each second: it is not enabled more often than the pauses allow.
#[test]
fn a_quarrel_stays_slow() {
    let mut world = World::new(Bird::default(), Daemon::new(), 80);
    show(&mut world, [State::Up; 3], true);
    for _ in 0..3600 {
        world.model.enabled.insert("p1", false);
        world.pass(Duration::from_secs(1));
    }
    let told = world.model.touched.iter().filter(|name| *name == "p1").count();
    assert!((10..=22).contains(&told), "{told} times in an hour");
    let repaired = |notice: &&Notice| matches!(notice, Notice::Changed { repaired: true, .. });
    assert_eq!(world.notices.iter().filter(repaired).count() as u64, world.machine.repaired());
}

#[test]
fn a_restricted_socket_is_known_before_it_matters() {
    let mut world = World::new(Bird::default(), Daemon::new(), 7);
    world.model.restrict = true;
    show(&mut world, [State::Up; 3], true);
    world.pass(Duration::from_secs(5));
    let error = world.machine.report().unwrap().error.unwrap();
    assert!(error.contains("restricted"), "{error}");
    assert!(world.model.touched.is_empty());
    let writes = world.commands.iter().filter(|(_, command)| !command.starts_with("show")).count();
    assert_eq!(writes, 1, "{:?}", world.commands);
    world.model.restrict = false;
    world.pass(Duration::from_secs(65));
    assert_eq!(world.machine.report().unwrap().error, None);
}

#[test]
fn what_was_disabled_is_handed_back_when_nothing_is_known_any_more() {
    let mut world = World::new(Bird::default(), Daemon::new(), 7);
    world.model.enabled.insert("p2", false);
    show(&mut world, [State::Down, State::Unknown, State::Up], true);
    world.pass(Duration::from_secs(5));
    assert!(!world.model.enabled["p1"]);
    assert!(!world.model.enabled["p2"], "somebody else's");
    show(&mut world, [State::Unknown; 3], true);
    world.pass(Duration::from_secs(5));
    assert!(world.model.enabled["p1"], "ours");
    assert!(!world.model.enabled["p2"], "somebody else's");
}

#[test]
fn a_stranger_is_left() {
    let mut bird = Bird::default();
    let now = wgrouted::core::time::Time::ZERO;
    bird.connected(now);
    bird.receive(b"BABEL 1.0\nversion babeld-1.12.1\n0001 nothing\n", now);
    let step = bird.next(now);
    assert!(
        matches!(&step, wgrouted::core::reach::dialogue::Step::Leave(why) if why.contains("no BIRD")),
        "{step:?}"
    );
}
