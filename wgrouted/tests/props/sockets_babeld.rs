//! babeld, as a model, and the laws of its machine.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use wgrouted::core::{
    reach::{
        babeld::machine::{Babeld, Notice, RXCOST_INTERVAL},
        dialogue::Dialogue,
        rule::BabeldRule,
        status::State,
    },
    rule::OnExit,
};

use crate::{
    pictures::{link, peer, picture},
    sockets::{Model, World},
};

/// Three links with babeld; `eth0` is babeld's own business.
const LINKS: [&str; 3] = ["wg1", "wg2", "wg3"];

#[derive(Default)]
struct Daemon {
    /// What it uses, with which options.
    interfaces: BTreeMap<String, String>,
    read_only: bool,
    monitored: bool,
    touched: Vec<String>,
}

impl Daemon {
    fn new() -> Self {
        let interfaces = BTreeMap::from([("eth0".to_owned(), String::new())]);
        Daemon { interfaces, ..Daemon::default() }
    }
}

impl Model for Daemon {
    fn greet(&mut self) -> String {
        self.monitored = false;
        "BABEL 1.0\nversion babeld-1.12.1\nhost vm\nmy-id ec:03:84:6d:11:07:6b:cd\nok\n".to_owned()
    }

    fn answer(&mut self, command: &str) -> String {
        if command == "monitor" {
            self.monitored = true;
            let lines = self.interfaces.keys();
            let lines: String =
                lines.map(|name| format!("add interface {name} up true\n")).collect();
            return lines + "add xroute 10.0.0.0/8-::/0 prefix 10.0.0.0/8 from ::/0 metric 0\nok\n";
        }
        if self.read_only {
            return "bad\n".to_owned();
        }
        assert!(self.monitored, "`{command}` before all is known");
        if let Some(name) = command.strip_prefix("flush interface ") {
            if self.interfaces.remove(name).is_none() {
                return "no No such interface\n".to_owned();
            }
            self.touched.push(name.to_owned());
            return format!(
                "change interface {name} up false\nflush interface {name} up false\nok\n"
            );
        }
        let Some(rest) = command.strip_prefix("interface ") else { return "bad\n".to_owned() };
        let (name, options) = rest.split_once(' ').unwrap_or((rest, ""));
        if options.contains("rubbish") {
            return "bad\n".to_owned();
        }
        self.touched.push(name.to_owned());
        if self.interfaces.contains_key(name) {
            // "new configuration ignored" (`add_interface` in babeld's `interface.c`)
            return "ok\n".to_owned();
        }
        self.interfaces.insert(name.to_owned(), options.to_owned());
        format!("add interface {name} up false\nok\nchange interface {name} up true ipv6 fe80::1\n")
    }
}

#[derive(Clone, Debug)]
struct Setting {
    states: [State; 3],
    rtt: [u64; 3],
    options: &'static str,
    rxcost: Option<u32>,
    on_exit: OnExit,
}

#[derive(Clone, Debug)]
enum Event {
    State(usize, State),
    Rtt(usize, u64),
    Options(&'static str),
    /// Somebody adds or flushes an interface by hand.
    Hand(usize, bool),
    Restart,
    ReadOnly(bool),
    Pass(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let state = prop::sample::select(vec![State::Up, State::Suspect, State::Down, State::Unknown]);
    let options = prop::sample::select(vec!["", "type tunnel", "rubbish"]);
    prop::collection::vec(
        prop_oneof![
            4 => (0..3usize, state).prop_map(|(link, state)| Event::State(link, state)),
            2 => (0..3usize, 0..500u64).prop_map(|(link, rtt)| Event::Rtt(link, rtt)),
            1 => options.prop_map(Event::Options),
            2 => (0..3usize, any::<bool>()).prop_map(|(link, on)| Event::Hand(link, on)),
            1 => Just(Event::Restart),
            1 => any::<bool>().prop_map(Event::ReadOnly),
            3 => (0..100_000u64).prop_map(Event::Pass),
        ],
        0..30,
    )
}

fn show(world: &mut World<Babeld, Daemon>, setting: &Setting) {
    let rule = || BabeldRule { options: setting.options.to_owned(), rxcost: setting.rxcost };
    let peers = LINKS.iter().zip(setting.states).zip(setting.rtt);
    let peers = peers.map(|((name, state), rtt)| {
        peer(name, state, Some(rtt), &[], link(Some(rule()), setting.on_exit))
    });
    world.picture = picture(world.picture.revision + 1, true, peers.collect());
}

fn setting(rxcost: Option<u32>, on_exit: OnExit) -> Setting {
    Setting { states: [State::Unknown; 3], rtt: [0; 3], options: "", rxcost, on_exit }
}

fn check(world: &World<Babeld, Daemon>, setting: &Setting) -> Result<(), TestCaseError> {
    for (name, state) in LINKS.iter().zip(setting.states) {
        let has = world.model.interfaces.contains_key(*name);
        prop_assert_eq!(world.machine.has(name), has);
        match state {
            State::Unknown => {}
            State::Down => prop_assert!(!has, "{name}"),
            State::Up | State::Suspect => {
                prop_assert!(has || setting.options == "rubbish", "{name}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(300)))]

    #[test]
    fn babeld_is_brought_in_line(
        events in events(),
        piece in 1..80usize,
        rxcost in prop::option::of(1..500u32),
        on_exit in prop::sample::select(vec![OnExit::Keep, OnExit::Remove]),
    ) {
        let mut setting = setting(rxcost, on_exit);
        let mut world = World::new(Babeld::default(), Daemon::new(), piece);
        for event in events {
            match event {
                Event::State(link, state) => setting.states[link] = state,
                Event::Rtt(link, rtt) => setting.rtt[link] = rtt,
                Event::Options(options) => setting.options = options,
                Event::Hand(link, true) => {
                    world.model.interfaces.insert(LINKS[link].to_owned(), String::new());
                    world.say(&format!("add interface {} up false\n", LINKS[link]));
                }
                Event::Hand(link, false) => {
                    if world.model.interfaces.remove(LINKS[link]).is_some() {
                        world.say(&format!("flush interface {} up false\n", LINKS[link]));
                    }
                }
                Event::Restart => {
                    world.disconnect();
                    world.model.interfaces.retain(|name, _| name == "eth0");
                }
                Event::ReadOnly(on) => world.model.read_only = on,
                Event::Pass(ms) => world.pass(Duration::from_millis(ms)),
            }
            show(&mut world, &setting);
        }
        world.model.read_only = false;
        world.disconnect();
        world.pass(Duration::from_secs(200));
        check(&world, &setting)?;
        let usable = |state: &State| matches!(state, State::Up | State::Suspect);
        for ((name, state), rtt) in LINKS.iter().zip(setting.states).zip(setting.rtt) {
            let Some(options) = world.model.interfaces.get(*name) else { continue };
            if let (true, Some(base)) = (usable(&state), rxcost)
                && let Some((_, cost)) = options.split_once("rxcost ")
            {
                let (cost, target): (u32, _) = (cost.parse().unwrap(), base + rtt as u32);
                prop_assert!(cost.abs_diff(target) < 16.max(cost / 4), "{cost} for {target}");
            }
        }
        // Nothing to do: it says nothing.
        let before = world.commands.len();
        world.pass(Duration::from_secs(200));
        prop_assert_eq!(world.commands.len(), before, "{:?}", &world.commands[before..]);

        world.stop();
        for (name, state) in LINKS.iter().zip(setting.states) {
            let has = world.model.interfaces.contains_key(*name);
            match (on_exit, state) {
                (OnExit::Remove, _) => prop_assert!(!has, "{name}"),
                (OnExit::Keep, State::Unknown) => {}
                (OnExit::Keep, _) => prop_assert!(has || setting.options == "rubbish", "{name}"),
            }
        }
        let own = |name: &&String| !LINKS.contains(&name.as_str());
        prop_assert_eq!(world.model.touched.iter().find(own), None);
    }

    /// However the round-trip time jumps, the link is left alone most of the time.
    #[test]
    fn rxcost_follows_slowly(rtts in prop::collection::vec(0..500u64, 1..120)) {
        let mut world = World::new(Babeld::default(), Daemon::new(), 80);
        let mut setting = setting(Some(96), OnExit::Keep);
        setting.states = [State::Up; 3];
        for rtt in &rtts {
            setting.rtt = [*rtt, 5, 5];
            show(&mut world, &setting);
            world.pass(Duration::from_secs(10));
        }
        let added = |name: &str| -> Vec<_> {
            let command = format!("interface {name} ");
            let of = world.commands.iter().filter(|(_, text)| text.starts_with(&command));
            of.map(|(at, _)| *at).collect()
        };
        prop_assert_eq!(added("wg2").len(), 1);
        for pair in added("wg1").windows(2) {
            prop_assert!(pair[1].since(pair[0]) >= RXCOST_INTERVAL);
        }
    }
}

#[test]
fn a_read_only_socket_is_known_before_it_matters() {
    let mut world = World::new(Babeld::default(), Daemon::new(), 7);
    world.model.read_only = true;
    show(&mut world, &setting(None, OnExit::Keep));
    world.pass(Duration::from_secs(5));
    let error = world.machine.report().unwrap().error.unwrap();
    assert!(error.contains("read-only"), "{error}");
    world.model.read_only = false;
    world.pass(Duration::from_secs(65));
    assert_eq!(world.machine.report().unwrap().error, None);
}

#[test]
fn options_that_babeld_does_not_know_are_reported_and_not_repeated() {
    let mut world = World::new(Babeld::default(), Daemon::new(), 7);
    let mut setting = setting(None, OnExit::Keep);
    setting.states = [State::Up, State::Unknown, State::Unknown];
    setting.options = "rubbish";
    show(&mut world, &setting);
    world.pass(Duration::from_secs(100));
    let error = world.machine.report().unwrap().error.unwrap();
    assert!(error.contains("`interface wg1 rubbish`"), "{error}");
    let told = world.commands.iter().filter(|(_, text)| text.contains("rubbish")).count();
    assert_eq!(told, 1);
    setting.options = "type tunnel";
    show(&mut world, &setting);
    world.pass(Duration::from_secs(5));
    assert_eq!(world.machine.report().unwrap().error, None);
    assert_eq!(world.model.interfaces["wg1"], "type tunnel");
}

/// Lines that babeld 1.12.1 wrote, the addresses shortened.
#[test]
fn what_babeld_hears_is_evidence() {
    let mut world = World::new(Babeld::default(), Daemon::new(), 7);
    let mut setting = setting(None, OnExit::Keep);
    setting.states[0] = State::Up;
    show(&mut world, &setting);
    world.pass(Duration::from_secs(1));
    let mut hear = |lines: &[&str]| -> Vec<Option<bool>> {
        world.notices.clear();
        lines.iter().for_each(|line| world.say(&format!("{line}\n")));
        let heard = world.notices.iter().filter_map(|notice| match notice {
            Notice::Heard { interface, heard } if interface == "wg1" => Some(*heard),
            Notice::Heard { .. } => panic!("{notice:?}"),
            _ => None,
        });
        heard.collect()
    };
    let line = |kind: &str, id: &str, reach: &str| {
        format!(
            "{kind} neighbour {id} address fe80::2 if wg1 reach {reach} ureach 0000 rxcost 96 \
             txcost 96 rtt 1.234 rttcost 0 cost 96"
        )
    };
    let none: &[Option<bool>] = &[];
    // New: nothing is known. What was never added is left over from before.
    assert_eq!(hear(&[&line("add", "a1", "0000"), &line("change", "b2", "0fff")]), none);
    assert_eq!(hear(&[&line("change", "a1", "8000")]), [Some(true)]);
    // Said twice: only a Hello is news.
    assert_eq!(hear(&[&line("change", "a1", "8000"), &line("change", "a1", "c000")]), [Some(true)]);
    // One lost Hello is a misfortune.
    assert_eq!(hear(&[&line("change", "a1", "6000")]), none);
    assert_eq!(hear(&[&line("change", "a1", "3000")]), [Some(false)]);
    assert_eq!(hear(&[&line("change", "a1", "9800")]), [Some(true)]);
    assert_eq!(hear(&[&line("flush", "a1", "0000")]), [None]);
    assert_eq!(hear(&[&line("add", "a1", "0000"), &line("change", "a1", "8000")]), [Some(true)]);
    // Gone with its interface; what is said of it later is of memory that was freed.
    assert_eq!(hear(&["flush interface wg1 up false"]), [None]);
    assert_eq!(hear(&[&line("change", "a1", "c000"), &line("flush", "a1", "0000")]), none);
    // Without a connection nothing is known.
    hear(&["add interface wg1 up true"]);
    assert_eq!(hear(&[&line("add", "a1", "8000")]), [Some(true)]);
    world.notices.clear();
    world.disconnect();
    assert_eq!(world.notices, [Notice::Heard { interface: "wg1".to_owned(), heard: None }]);
}
