//! Hooks as they are run: what they are told, what they may, and what becomes of slow ones.

use std::{
    io::{Read, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use wgrouted::{
    core::reach::{
        rule::{HookAction, HookRule, ReachRule},
        status::{Reachability, State},
    },
    reach::hooks,
};

use crate::world::{Ends, falls, feed, key, no_hooks, status};

const PATIENCE: Duration = Duration::from_secs(20);

fn rule(action: HookAction, interval: u64, timeout: u64) -> ReachRule {
    let (interval, timeout) = (Duration::from_millis(interval), Duration::from_millis(timeout));
    ReachRule { hooks: vec![HookRule { action, interval, timeout }], ..no_hooks() }
}

fn shell(script: &str) -> HookAction {
    HookAction::Command(["/bin/sh", "-c", script].map(str::to_owned).to_vec())
}

/// A directory that goes with this.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let name = format!("wgrouted-hooks-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Waits until a file holds so many lines, and reads it.
async fn lines(path: &Path, count: usize) -> Vec<String> {
    let begin = Instant::now();
    loop {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        if lines.len() >= count {
            return lines;
        }
        assert!(begin.elapsed() < PATIENCE, "{} lines: {text}", lines.len());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Only `left`, in this state.
fn only(state: State) -> Arc<Reachability> {
    let left = status("wg0", "left", key(crate::world::LEFT), state);
    Arc::new(Reachability { complete: true, peers: vec![left], ..Default::default() })
}

fn start(rule: ReachRule) -> (wgrouted::reach::Feed, Ends) {
    let (feed, ends) = feed(rule, 64);
    ends.picture.send_replace(only(State::Up));
    tokio::spawn(hooks::serve(feed.clone()));
    (feed, ends)
}

#[tokio::test]
async fn a_command_learns_what_is_and_what_changes() {
    let place = Place::new("command");
    let out = place.file("out");
    let script = format!(
        "echo \"$WGROUTED_EVENT $WGROUTED_INTERFACE $WGROUTED_PEER $WGROUTED_PUBLIC_KEY \
         $WGROUTED_PREVIOUS $WGROUTED_STATE $WGROUTED_PROOF $WGROUTED_RTT_MS \
         $NOTIFY_SOCKET|$(cat)\" >> {}",
        out.display()
    );
    let (feed, _ends) = start(rule(shell(&script), 0, 10_000));
    let first = lines(&out, 1).await;
    let (words, json) = first[0].split_once('|').unwrap();
    let key = crate::world::LEFT;
    assert_eq!(words, format!("state wg0 left {key} unknown up probe 12.500 "));
    let json: Value = serde_json::from_str(json).unwrap();
    assert_eq!((&json["state"], &json["rtt_seconds"]), (&"up".into(), &0.0125.into()));
    feed.news.send(falls()).unwrap();
    let second = &lines(&out, 2).await[1];
    assert!(second.starts_with(&format!("state wg0 left {key} up down probe  |")), "{second}");
    let begin = Instant::now();
    while !feed.board.read()["hooks"].doing.contains("2 times told, 0 failures") {
        assert!(begin.elapsed() < PATIENCE, "{:?}", feed.board.read());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_command_has_no_capabilities_and_gains_none() {
    let place = Place::new("rights");
    let out = place.file("out");
    let script = format!(
        "grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs):' /proc/self/status > {0}.x; mv {0}.x {0}",
        out.display()
    );
    let (_feed, _ends) = start(rule(shell(&script), 0, 10_000));
    for line in lines(&out, 5).await {
        let (name, value) = line.split_once(":\t").unwrap();
        let want = if name == "NoNewPrivs" { "1" } else { "0000000000000000" };
        assert_eq!(value, want, "{name}");
    }
}

#[tokio::test]
async fn what_takes_too_long_dies_with_all_that_it_started() {
    let place = Place::new("slow");
    let (pids, late) = (place.file("pids"), place.file("late"));
    let script = format!(
        "(sleep 2; echo late > {}) & echo $! > {}; echo moan >&2; sleep 60",
        late.display(),
        pids.display()
    );
    let (feed, _ends) = start(rule(shell(&script), 0, 300));
    lines(&pids, 1).await;
    let begin = Instant::now();
    let error = loop {
        let board = feed.board.read();
        if let Some(error) = board.get("hooks").and_then(|status| status.error.clone()) {
            break error;
        }
        assert!(begin.elapsed() < PATIENCE, "{board:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(error.contains("longer than 300ms") && error.contains("raise `timeout`"), "{error}");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(!late.exists(), "what it started in the background lives on");
}

#[tokio::test]
async fn a_failure_is_told_in_its_own_words() {
    for (action, words) in [
        (shell("echo 'no such table' >&2; exit 3"), ["/bin/sh failed", "no such table"]),
        (shell("exit 4"), ["exit status: 4", "it said nothing"]),
        (HookAction::Command(vec!["/nonexistent/x".to_owned()]), ["cannot be run", "No such file"]),
    ] {
        let (feed, _ends) = start(rule(action, 0, 10_000));
        let begin = Instant::now();
        let status = loop {
            match feed.board.read().remove("hooks") {
                Some(status) if status.error.is_some() => break status,
                status => assert!(begin.elapsed() < PATIENCE, "{status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let error = status.error.unwrap();
        assert!(!status.ok && words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[tokio::test]
async fn a_flapping_peer_is_told_of_once_an_interval() {
    let place = Place::new("flaps");
    let out = place.file("out");
    let script = format!("echo $WGROUTED_STATE >> {}", out.display());
    let (feed, _ends) = start(rule(shell(&script), 1500, 10_000));
    lines(&out, 1).await;
    let told = Instant::now();
    for number in 0..21 {
        let mut change = falls();
        if let wgrouted::core::reach::status::Change::State { to, .. } = &mut change {
            *to = if number % 2 == 0 { State::Down } else { State::Up };
        }
        feed.news.send(change).unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(lines(&out, 2).await, ["up", "down"]);
    assert!(told.elapsed() > Duration::from_millis(1300), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_webhook_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/peers?x=1", listener.local_addr().unwrap());
    let (heard, hears) = mpsc::channel();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut text = Vec::new();
            let mut buffer = [0; 4096];
            while !text.ends_with(b"}") {
                let count = stream.read(&mut buffer).unwrap();
                text.extend_from_slice(&buffer[..count]);
            }
            let status = if number == 0 { "503 Busy" } else { "204 Thanks" };
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
            heard.send(String::from_utf8(text).unwrap()).unwrap();
        }
    });
    let (feed, ends) = start(rule(HookAction::Webhook(url), 0, 5000));
    let hears = tokio::task::spawn_blocking(move || {
        (hears.recv_timeout(PATIENCE).unwrap(), hears.recv_timeout(PATIENCE).unwrap())
    });
    let (first, second) = hears.await.unwrap();
    let (head, body) = second.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /peers?x=1 HTTP/1.1\r\nhost: 127.0.0.1:"), "{head}");
    assert!(head.contains("content-type: application/json"), "{head}");
    assert_eq!(first.split_once("\r\n\r\n").unwrap().1, body, "the same again");
    assert_eq!(serde_json::from_str::<Value>(body).unwrap()["state"], "up");
    let begin = Instant::now();
    while !feed.board.read()["hooks"].doing.contains("1 times told, 0 failures") {
        assert!(begin.elapsed() < PATIENCE, "{:?}", feed.board.read());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Without hooks nothing is said of them any more.
    ends.rule.send_replace(Arc::new(no_hooks()));
    while feed.board.read().contains_key("hooks") {
        assert!(begin.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn it_ends_with_the_daemon_and_kills_what_runs() {
    let place = Place::new("end");
    let (begun, late) = (place.file("begun"), place.file("late"));
    let script = format!("echo x > {}; sleep 1; echo late > {}", begun.display(), late.display());
    let (feed, ends) = feed(rule(shell(&script), 0, 60_000), 64);
    ends.picture.send_replace(only(State::Up));
    let task = tokio::spawn(hooks::serve(feed));
    lines(&begun, 1).await;
    ends.stop.send_replace(true);
    tokio::time::timeout(Duration::from_millis(900), task).await.expect("at once").unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!late.exists());
}
