//! BIRD 2 and 3.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use wgrouted::{
    core::{
        reach::status::{PeerStatus, State},
        rule::OnExit,
    },
    reach,
};

use crate::{
    Desk, Folder, Program, ask, block_on, exists,
    pictures::{link, peer},
    support::netns,
    until,
};

const CONFIG: &str = "log stderr { warning, error, fatal };\n\
                      router id 192.0.2.1;\n\
                      protocol device {}\n\
                      protocol static right4 { ipv4; route 198.51.100.0/24 blackhole; }\n\
                      protocol static right6 { ipv6; route 2001:db8:1::/48 blackhole; }\n\
                      protocol bgp beyond {\n\
                        local 127.0.0.1 as 64501; neighbor 127.0.0.2 as 64502; multihop;\n\
                        ipv4 { import all; export all; };\n\
                      }\n\
                      protocol static own { ipv4; route 203.0.113.0/24 blackhole; }\n";

/// Every BIRD that is here: the distribution's, and those that the lab puts aside.
fn birds() -> Vec<&'static str> {
    let all = ["bird", "/opt/bird2/bird", "/opt/bird3/bird"];
    let here: Vec<_> = all.into_iter().filter(|program| exists(program)).collect();
    assert!(!here.is_empty(), "no BIRD here");
    here
}

struct Bird {
    socket: PathBuf,
    folder: Folder,
    program: &'static str,
    process: Option<Program>,
}

impl Bird {
    async fn start(program: &'static str, name: &str, config: &str) -> Bird {
        let folder = Folder::new(&format!("bird-{name}-{}", program.replace('/', "-")));
        folder.write("bird.conf", config);
        let socket = folder.file("bird.ctl");
        let mut bird = Bird { socket, folder, program, process: None };
        bird.restart().await;
        bird
    }

    async fn restart(&mut self) {
        self.process = None;
        let mut command = Command::new(self.program);
        command.arg("-f").arg("-c").arg(self.folder.file("bird.conf"));
        command.arg("-s").arg(&self.socket).arg("-P").arg(self.folder.file("bird.pid"));
        self.process = Some(Program::start(&mut command));
        until("BIRD to answer", || ask_bird(&self.socket, "show status")).await;
    }

    fn ask(&self, command: &str) -> String {
        ask_bird(&self.socket, command).unwrap()
    }

    /// What BIRD says of protocols.
    fn states(&self, names: &[&str]) -> Vec<String> {
        let text = self.ask("show protocols");
        let state = |name: &&str| {
            let row = text.lines().map(|line| line.trim_start_matches("1002-"));
            let mut row = row.filter(|line| line.split_whitespace().next() == Some(*name));
            row.next().unwrap().split_whitespace().nth(3).unwrap().to_owned()
        };
        names.iter().map(state).collect()
    }

    async fn wait_states(&self, names: &[&str], states: &[&str]) -> Duration {
        let look = || (self.states(names) == states).then_some(());
        until(format!("{names:?} to be {states:?}"), look).await.1
    }
}

fn ask_bird(socket: &Path, command: &str) -> Option<String> {
    let is_last =
        |line: &str| line.len() > 4 && line.as_bytes()[4] == b' ' && !line.starts_with(' ');
    ask(socket, command, is_last)
}

fn peers(right: State, other: State) -> Vec<PeerStatus> {
    let link = || link(None, OnExit::Keep);
    vec![
        peer("wg1", right, None, &["right4", "right6"], link()),
        peer("wg2", other, None, &["beyond"], link()),
    ]
}

#[test]
#[ignore = "needs root and BIRD"]
fn protocols_follow_their_peers() {
    assert!(netns::fresh());
    block_on(async {
        for program in birds() {
            let mut bird = Bird::start(program, "follow", CONFIG).await;
            let mut desk = Desk::new(Some(&bird.socket), None);
            let sink = tokio::spawn(reach::bird::run(desk.feed.clone()));
            let all = ["right4", "right6", "beyond", "own"];

            desk.show(peers(State::Unknown, State::Up));
            let status = desk.wait_board("bird", |status| status.ok).await;
            assert!(status.doing.contains("BIRD "), "{status:?}");
            assert_eq!(bird.states(&all), ["up", "up", "start", "up"]);

            desk.show(peers(State::Down, State::Down));
            let took = bird.wait_states(&all, &["down", "down", "down", "up"]).await;
            println!("{program}: {}: down after {took:?}", status.doing);
            assert!(took < Duration::from_secs(1), "{took:?}");
            let text = bird.ask("show protocols all right4");
            assert!(text.contains("wgrouted: peer peer-wg1 cannot be reached"), "{text}");
            desk.wait_board("bird", |status| status.doing.contains("3 down")).await;

            desk.show(peers(State::Up, State::Suspect));
            let took = bird.wait_states(&all, &["up", "up", "start", "up"]).await;
            assert!(took < Duration::from_secs(1), "{took:?}");

            // Somebody else's hand, and what is not ours.
            desk.show(peers(State::Down, State::Up));
            bird.wait_states(&all, &["down", "down", "start", "up"]).await;
            desk.wait_board("bird", |status| status.doing.contains("2 down")).await;
            bird.ask("enable all");
            bird.ask("disable own");
            let took = bird.wait_states(&all, &["down", "down", "start", "down"]).await;
            assert!(took < Duration::from_secs(5), "{took:?}");
            let repaired = |status: &reach::board::SinkStatus| {
                let count =
                    status.doing.rsplit(", ").next().and_then(|text| text.split(' ').next());
                count.and_then(|count| count.parse::<u32>().ok()).is_some_and(|count| count >= 2)
            };
            desk.wait_board("bird", repaired).await;

            // A new configuration restarts what is different in it.
            let config = CONFIG.replace("198.51.100.0/24", "198.51.100.0/25");
            bird.folder.write("bird.conf", &config.replace("static right6", "static right7"));
            let answer = bird.ask("configure");
            assert!(answer.contains("Reconfigur"), "{answer}");
            let status = desk.wait_board("bird", |status| !status.ok).await;
            let error = status.error.unwrap();
            assert!(error.contains("BIRD knows no protocol right6"), "{error}");
            bird.wait_states(&["right4", "right7"], &["down", "up"]).await;
            bird.folder.write("bird.conf", CONFIG);
            bird.ask("configure");
            desk.wait_board("bird", |status| status.ok).await;
            bird.wait_states(&["right4", "right6"], &["down", "down"]).await;

            // A new process knows nothing.
            bird.process = None;
            let away = |text: &String| text.contains("bird.ctl") && text.contains("start BIRD");
            desk.wait_board("bird", |status| status.error.as_ref().is_some_and(away)).await;
            bird.restart().await;
            let took = bird.wait_states(&["right4", "right6"], &["down", "down"]).await;
            println!("{program}: in line {took:?} after a restart");
            desk.wait_board("bird", |status| status.ok).await;

            // What stayed disabled would have nobody to enable it.
            desk.finish(sink).await;
            assert_eq!(bird.states(&["right4", "right6"]), ["up", "up"]);
        }
    });
}

#[test]
#[ignore = "needs root and BIRD"]
fn what_is_no_bird_is_reported() {
    assert!(netns::fresh());
    block_on(async {
        let folder = Folder::new("bird-nothing");
        let mut desk = Desk::new(Some(&folder.file("bird.ctl")), None);
        let sink = tokio::spawn(reach::bird::run(desk.feed.clone()));
        desk.show(peers(State::Up, State::Up));
        let error = desk.wait_board("bird", |status| !status.ok).await.error.unwrap();
        println!("{error}");
        assert!(error.contains("No such file") && error.contains("start BIRD"), "{error}");

        // The configuration is loaded again and names a BIRD that is there.
        let bird = Bird::start(birds()[0], "elsewhere", CONFIG).await;
        let mut rule = (**desk.feed.rule.borrow()).clone();
        rule.bird = Some(bird.socket.clone());
        desk.rule.send_replace(rule.clone().into());
        desk.wait_board("bird", |status| status.ok).await;
        desk.show(peers(State::Down, State::Up));
        bird.wait_states(&["right4", "right6"], &["down", "down"]).await;

        // And then none.
        rule.bird = None;
        desk.rule.send_replace(rule.into());
        bird.wait_states(&["right4", "right6"], &["up", "up"]).await;
        until("the board to be wiped", || desk.board("bird").is_none().then_some(())).await;
        desk.finish(sink).await;
    });
}

#[test]
#[ignore = "needs root and BIRD"]
fn a_restricted_socket_is_reported() {
    assert!(netns::fresh());
    block_on(async {
        let mut tried = 0;
        for program in birds() {
            let folder = Folder::new("bird-restricted");
            let socket = folder.file("restricted.ctl");
            let config = format!("{CONFIG}cli \"{}\" {{ restrict; }};\n", socket.display());
            let file = folder.write("bird.conf", &config);
            let parse = Command::new(program).arg("-p").arg("-c").arg(&file).output().unwrap();
            if !parse.status.success() {
                println!("{program} knows no restricted sockets");
                continue;
            }
            tried += 1;
            let bird = Bird::start(program, "restricted", &config).await;
            until("the socket", || socket.exists().then_some(())).await;
            let mut desk = Desk::new(Some(&socket), None);
            let sink = tokio::spawn(reach::bird::run(desk.feed.clone()));
            desk.show(peers(State::Up, State::Up));
            // Before anything is to be changed.
            let error = desk.wait_board("bird", |status| !status.ok).await.error.unwrap();
            println!("{program}: {error}");
            assert!(error.contains("restricted") && error.contains("`restrict`"), "{error}");
            desk.show(peers(State::Down, State::Down));
            tokio::time::sleep(Duration::from_secs(4)).await;
            assert_eq!(bird.states(&["right4", "right6"]), ["up", "up"]);
            desk.finish(sink).await;
        }
        println!("{tried} of {} have restricted sockets", birds().len());
    });
}
