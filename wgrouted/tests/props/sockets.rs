//! BIRD and babeld are brought in line, whatever happens to them, and nothing else of theirs is touched.
//!
//! Here lives what both machines are put through: bytes in pieces, connections that break, and a
//! clock. The daemons are naive models; [`crate::sockets_bird`] and [`crate::sockets_babeld`] have them,
//! and `tests/sockets.rs` asks the real ones.

use std::time::Duration;

use proptest::prelude::*;
use wgrouted::core::{
    reach::{
        babeld::grammar::{Kind, Line as BabeldLine, Neighbour},
        bird::grammar::{Line as BirdLine, Protocol, Replies},
        dialogue::{Dialogue, Step},
        lines::Lines,
        status::Reachability,
    },
    time::Time,
};

/// A daemon as a machine sees it.
pub trait Model {
    fn greet(&mut self) -> String;
    /// The answer to a command.
    fn answer(&mut self, command: &str) -> String;
}

/// A machine, a daemon and a clock.
pub struct World<D: Dialogue, M> {
    pub machine: D,
    pub model: M,
    pub picture: Reachability,
    pub now: Time,
    pub notices: Vec<D::Notice>,
    pub commands: Vec<(Time, String)>,
    connected: bool,
    piece: usize,
}

impl<D: Dialogue, M: Model> World<D, M> {
    pub fn new(machine: D, model: M, piece: usize) -> Self {
        World {
            machine,
            model,
            picture: Reachability::default(),
            now: Time::ZERO,
            notices: Vec::new(),
            commands: Vec::new(),
            connected: false,
            piece: piece.max(1),
        }
    }

    pub fn say(&mut self, text: &str) {
        if self.connected {
            for piece in text.as_bytes().chunks(self.piece) {
                self.notices.extend(self.machine.receive(piece, self.now));
            }
        }
    }

    pub fn disconnect(&mut self) {
        if self.connected {
            self.connected = false;
            self.notices.extend(self.machine.disconnected());
        }
    }

    /// Lets the time pass as the edge does, a second at a time at most.
    pub fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        let mut same = 0;
        loop {
            if !self.connected {
                self.machine.connected(self.now);
                self.connected = true;
                let greeting = self.model.greet();
                self.say(&greeting);
            }
            self.notices.extend(self.machine.want(&self.picture.clone(), self.now));
            let until = match self.machine.next(self.now) {
                Step::Send(command) => {
                    same += 1;
                    assert!(same < 100, "a command after another and no time passes: {command}");
                    self.commands.push((self.now, command.clone()));
                    let answer = self.model.answer(&command);
                    self.say(&answer);
                    continue;
                }
                Step::Leave(_) => {
                    self.disconnect();
                    self.now + Duration::from_secs(1)
                }
                Step::Wait(until) => until.unwrap_or(end),
            };
            same = 0;
            if self.now >= end {
                return;
            }
            assert!(until > self.now, "it waits for what is over");
            self.now = until.min(end).min(self.now + Duration::from_secs(1));
        }
    }

    /// The daemon ends.
    pub fn stop(&mut self) {
        self.machine.stop();
        for _ in 0..1000 {
            if self.machine.is_done() {
                return;
            }
            match self.machine.next(self.now) {
                Step::Send(command) => {
                    let answer = self.model.answer(&command);
                    self.commands.push((self.now, command));
                    self.say(&answer);
                }
                Step::Wait(Some(until)) => self.now = until,
                other => panic!("not done, and {other:?}"),
            }
        }
        panic!("it hands back for ever");
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let near = prop::sample::select(b"0019 -+\n\nshow okbadno addflushinterfaceneighbour".to_vec());
    prop::collection::vec(prop_oneof![4 => near, 1 => any::<u8>()], 0..300)
}

fn text() -> impl Strategy<Value = String> {
    "[ -~]{0,30}"
}

fn bird_line() -> impl Strategy<Value = BirdLine> {
    prop_oneof![
        (0..10_000u16, text()).prop_map(|(code, text)| BirdLine::More(code, text)),
        (0..10_000u16, text()).prop_map(|(code, text)| BirdLine::Last(code, text)),
        text().prop_map(BirdLine::Same),
        text().prop_map(BirdLine::Log),
    ]
}

fn babeld_line() -> impl Strategy<Value = BabeldLine> {
    let kind = || prop::sample::select(vec![Kind::Add, Kind::Change, Kind::Flush]);
    let name = || "[a-z][a-z0-9.-]{0,14}";
    let numbers = (any::<[u8; 16]>(), any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>());
    let neighbour = (name(), "[0-9a-f]{1,12}", numbers, prop::option::of(0..10_000_000u64));
    let neighbour = neighbour.prop_map(|(interface, id, numbers, rtt)| {
        let (address, reach, ureach, rxcost, txcost) = numbers;
        Neighbour {
            id,
            address: address.into(),
            interface,
            reach,
            ureach,
            rxcost: rxcost.into(),
            txcost: txcost.into(),
            rtt: rtt.map(Duration::from_micros),
        }
    });
    prop_oneof![
        Just(BabeldLine::Ok),
        Just(BabeldLine::Bad),
        "[ -~]{0,30}".prop_map(BabeldLine::No),
        "[0-9.]{1,5}".prop_map(|version| BabeldLine::Banner { version }),
        "[ -~]{0,30}".prop_map(BabeldLine::Version),
        (kind(), name(), any::<bool>()).prop_map(|(kind, name, up)| BabeldLine::Interface {
            kind,
            name,
            up
        }),
        (kind(), neighbour).prop_map(|(kind, neighbour)| BabeldLine::Neighbour { kind, neighbour }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(crate::cases(500)))]

    #[test]
    fn lines_do_not_depend_on_the_pieces(bytes in bytes(), cuts in prop::collection::vec(0..300usize, 0..10)) {
        let whole = Lines::default().push(&bytes);
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut lines = Lines::default();
        let pieces: Vec<_> =
            cuts.windows(2).flat_map(|cut| lines.push(&bytes[cut[0]..cut[1]])).collect();
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn any_bytes_can_be_read(bytes in bytes()) {
        let mut replies = Replies::default();
        for line in Lines::default().push(&bytes) {
            let _ = BabeldLine::parse(&line);
            let _ = Protocol::parse(&line);
            if let Some(reply) = replies.push(BirdLine::parse(&line)) {
                prop_assert_eq!(reply.lines.last().map(|(code, _)| *code), Some(reply.code));
            }
        }
    }

    #[test]
    fn lines_of_bird_are_read_as_written(line in bird_line()) {
        prop_assert_eq!(BirdLine::parse(&line.to_string()), line);
    }

    #[test]
    fn lines_of_babeld_are_read_as_written(line in babeld_line()) {
        prop_assert_eq!(BabeldLine::parse(&line.to_string()), line);
    }
}
