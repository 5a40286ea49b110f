//! babeld.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use wgrouted::{
    core::{
        reach::{
            event::ReachEvent,
            rule::BabeldRule,
            status::{PeerStatus, State},
        },
        rule::OnExit,
    },
    reach,
};

use crate::{
    Desk, Folder, Program, ask, block_on,
    pictures::{link, peer},
    support::netns,
    until,
};

struct Babeld {
    folder: Folder,
    socket: PathBuf,
    process: Option<Program>,
}

impl Babeld {
    async fn start(name: &str, config: &str) -> Babeld {
        let folder = Folder::new(&format!("babeld-{name}"));
        let socket = folder.file("babeld.ctl");
        let mut babeld = Babeld { folder, socket, process: None };
        babeld
            .restart(&format!("local-path-readwrite {}\n{config}", babeld.socket.display()))
            .await;
        babeld
    }

    async fn restart(&mut self, config: &str) {
        self.process = None;
        for file in ["babeld.ctl", "babeld.pid"] {
            let _ = std::fs::remove_file(self.folder.file(file));
        }
        let config = self.folder.write("babeld.conf", config);
        let mut command = Command::new("babeld");
        command.arg("-c").arg(config).arg("-S").arg(self.folder.file("babeld.state"));
        command.arg("-I").arg(self.folder.file("babeld.pid"));
        // babeld sets sysctls of the namespace that its /proc/sys shows: this one's.
        self.process = Some(Program::start(&mut command));
        until("babeld to answer", || ask_babeld(&self.socket, "dump")).await;
    }

    fn ask(&self, command: &str) -> String {
        ask_babeld(&self.socket, command).unwrap()
    }

    fn has(&self, interface: &str) -> bool {
        self.ask("dump").contains(&format!("add interface {interface} "))
    }

    async fn wait_has(&self, interface: &str, has: bool) -> Duration {
        let look = || (self.has(interface) == has).then_some(());
        until(format!("{interface} to be in use: {has}"), look).await.1
    }

    async fn wait_neighbour(&self, interface: &str, what: &str) -> Duration {
        let look = || {
            let text = self.ask("dump");
            let mut lines = text.lines().filter(|line| {
                line.starts_with("add neighbour ") && line.contains(&format!("if {interface} "))
            });
            lines.any(|line| line.contains(what)).then_some(())
        };
        until(format!("a neighbour on {interface} with {what}"), look).await.1
    }
}

fn ask_babeld(socket: &Path, command: &str) -> Option<String> {
    ask(socket, command, |line| matches!(line, "ok" | "bad" | "no") || line.starts_with("no "))
}

/// A pair of interfaces with link-local addresses, the second one in a namespace of its own with a
/// babeld of its own.
async fn neighbour(folder: &Folder) -> Program {
    netns::ip("link add a0 type veth peer name b0");
    netns::ip("link set a0 up");
    let config = folder.write(
        "neighbour.conf",
        "skip-kernel-setup true\ninterface b0 type wired hello-interval 1 update-interval 4\n",
    );
    let script = format!(
        "ip link set lo up; while ! ip link set b0 up 2> /dev/null; do sleep 0.1; done; \
         exec babeld -c {} -S {} -I {}",
        config.display(),
        folder.file("neighbour.state").display(),
        folder.file("neighbour.pid").display()
    );
    let log = File::create(folder.file("neighbour.log")).unwrap();
    let mut command = Command::new("unshare");
    let process = Program::start(command.args(["-n", "sh", "-c", &script]).stderr(log));
    let pid = process.0.id();
    let namespace = || std::fs::read_link(format!("/proc/{pid}/ns/net")).unwrap();
    let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
    until("the other namespace", || (namespace() != own).then_some(())).await;
    netns::ip(&format!("link set b0 netns {pid}"));
    process
}

fn peers(state: State, rtt: u64, rule: &BabeldRule) -> Vec<PeerStatus> {
    vec![peer("a0", state, Some(rtt), &[], link(Some(rule.clone()), OnExit::Keep))]
}

const OPTIONS: &str = "type wired hello-interval 1 update-interval 4";

#[test]
#[ignore = "needs root and babeld"]
fn interfaces_follow_their_peers() {
    assert!(netns::fresh());
    block_on(async {
        let mut babeld =
            Babeld::start("follow", "skip-kernel-setup true\ninterface nobody\n").await;
        let _neighbour = neighbour(&babeld.folder).await;
        let mut desk = Desk::new(None, Some(&babeld.socket));
        let sink = tokio::spawn(reach::babeld::run(desk.feed.clone()));
        let rule = BabeldRule { options: OPTIONS.to_owned(), rxcost: Some(100) };

        desk.show(peers(State::Unknown, 5, &rule));
        let status = desk.wait_board("babeld", |status| status.ok).await;
        assert!(status.doing.contains("babeld-"), "{status:?}");
        assert!(!babeld.has("a0"), "nothing is known yet");

        desk.show(peers(State::Up, 5, &rule));
        let took = babeld.wait_has("a0", true).await;
        assert!(took < Duration::from_secs(1), "{took:?}");
        let took = babeld.wait_neighbour("a0", "rxcost 105 ").await;
        println!("{}: heard {took:?} after it was added", status.doing);
        let mut heard = Vec::new();
        until("evidence", || {
            while let Ok(event) = desk.events.try_recv() {
                let ReachEvent::Babel { interface, heard: own, .. } = event else { panic!() };
                assert_eq!(interface, "a0");
                heard.push(own);
            }
            heard.contains(&Some(true)).then_some(())
        })
        .await;
        assert!(!heard.contains(&Some(false)), "{heard:?}");

        desk.show(peers(State::Down, 5, &rule));
        let took = babeld.wait_has("a0", false).await;
        println!("flushed after {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
        desk.show(peers(State::Up, 400, &rule));
        babeld.wait_neighbour("a0", "rxcost 500 ").await;

        // It lasts: the interface is added once more.
        desk.show(peers(State::Up, 20, &rule));
        let took = babeld.wait_neighbour("a0", "rxcost 120 ").await;
        println!("rxcost followed after {took:?}");
        assert!(took > Duration::from_secs(25), "{took:?}");

        // By hand, and by a restart.
        babeld.ask("flush interface a0");
        babeld.wait_has("a0", true).await;
        let config = format!(
            "local-path-readwrite {}\nskip-kernel-setup true\ninterface nobody\n",
            babeld.socket.display()
        );
        babeld.restart(&config).await;
        let took = babeld.wait_has("a0", true).await;
        println!("in line {took:?} after a restart");

        desk.show(peers(State::Down, 20, &rule));
        babeld.wait_has("a0", false).await;
        desk.finish(sink).await;
        assert!(babeld.has("a0"), "handed back");
    });
}

#[test]
#[ignore = "needs root and babeld"]
fn a_read_only_socket_and_a_second_listener_are_reported() {
    assert!(netns::fresh());
    block_on(async {
        let mut babeld =
            Babeld::start("refusals", "skip-kernel-setup true\ninterface nobody\n").await;
        let mut desk = Desk::new(None, Some(&babeld.socket));
        let sink = tokio::spawn(reach::babeld::run(desk.feed.clone()));
        let rubbish = BabeldRule { options: "typ tunnel".to_owned(), rxcost: None };
        desk.show(peers(State::Up, 5, &rubbish));
        let error = desk.wait_board("babeld", |status| !status.ok).await.error.unwrap();
        println!("{error}");
        assert!(error.contains("`interface a0 typ tunnel`"), "{error}");

        let socket = babeld.socket.display().to_string();
        babeld
            .restart(&format!("local-path {socket}\nskip-kernel-setup true\ninterface nobody\n"))
            .await;
        desk.show(peers(State::Up, 5, &BabeldRule { options: String::new(), rxcost: None }));
        let is = |status: &crate::SinkStatus| {
            status.error.as_ref().is_some_and(|error| error.contains("read-only"))
        };
        let error = desk.wait_board("babeld", is).await.error.unwrap();
        println!("{error}");

        // babeld heeds the last listener only.
        babeld.process = None;
        let other = babeld.folder.file("other.ctl");
        let config = format!(
            "local-path-readwrite {socket}\nlocal-path {}\nskip-kernel-setup true\ninterface nobody\n",
            other.display()
        );
        babeld.socket = other;
        babeld.restart(&config).await;
        let is = |status: &crate::SinkStatus| {
            status.error.as_ref().is_some_and(|error| error.contains("the last one only, or"))
        };
        let error = desk.wait_board("babeld", is).await.error.unwrap();
        println!("{error}");
        desk.finish(sink).await;
    });
}
