//! The sinks of kernel routes and link states against the running kernel, each test in a network
//! namespace of its own. A veth link stands for WireGuard: to a route it is a link like another.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

#[path = "reach_routes/monitor.rs"]
mod monitor;
#[path = "support/pictures.rs"]
mod pictures;
mod support;
#[path = "support/watched.rs"]
mod watched;

use std::{
    collections::BTreeSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use monitor::Monitor;
use support::netns::{fresh, index, ip, try_ip};
use tokio::{
    runtime,
    sync::{broadcast, mpsc, watch},
};
use watched::{link_rule, peer, picture, set_rtt};
use wgrouted::{
    core::{
        reach::{
            route::PROTOCOL,
            rule::{AnnounceRule, LinkReach, ReachRule},
            status::{PeerStatus, Reachability, State},
        },
        rule::OnExit,
        time::Time,
    },
    reach::{
        Feed,
        board::{Board, SinkStatus},
        dormant, routes,
    },
};

/// How long a test may wait for one thing.
const PATIENCE: Duration = Duration::from_secs(20);

const RULE: AnnounceRule = AnnounceRule {
    table: 254,
    protocol: PROTOCOL,
    metric: 1024,
    metric_from_rtt: false,
    hosts: true,
};

/// Which sink.
#[derive(Clone, Copy)]
enum Kind {
    Routes,
    Links,
}

/// A sink that runs, and the peers that it is told of.
struct Sink {
    publish: watch::Sender<Arc<Reachability>>,
    stop: watch::Sender<bool>,
    board: Board,
    revision: u64,
    now: Time,
    done: Option<thread::JoinHandle<()>>,
}

impl Sink {
    fn start(kind: Kind) -> Sink {
        let (publish, picture) = watch::channel(Arc::new(Reachability::default()));
        let rule = ReachRule { port: 6697, bird: None, babeld: None, hooks: Vec::new() };
        let (_, rule) = watch::channel(Arc::new(rule));
        let (stop, stopping) = watch::channel(false);
        let (news, _) = broadcast::channel(1);
        let (events, _) = mpsc::unbounded_channel();
        let board = Board::default();
        let feed = Feed {
            picture,
            rule,
            stopping,
            news,
            events,
            board: board.clone(),
            started: Instant::now(),
        };
        // Threads inherit the namespace.
        let done = thread::spawn(move || {
            let runtime = runtime::Builder::new_current_thread().enable_all().build().unwrap();
            match kind {
                Kind::Routes => runtime.block_on(routes::run(feed)),
                Kind::Links => runtime.block_on(dormant::run(feed)),
            }
        });
        Sink { publish, stop, board, revision: 0, now: Time::ZERO, done: Some(done) }
    }

    fn tell(&mut self, peers: &[PeerStatus]) {
        self.revision += 1;
        self.publish.send_replace(Arc::new(picture(self.now, self.revision, peers)));
    }

    fn status(&self, sink: &str) -> Option<SinkStatus> {
        self.board.read().remove(sink)
    }

    /// As a daemon that is told to stop.
    fn stop(mut self) {
        self.stop.send_replace(true);
        self.done.take().unwrap().join().unwrap();
    }

    /// As a daemon that is killed: it does nothing more.
    fn kill(mut self) {
        drop(std::mem::replace(&mut self.publish, watch::channel(Arc::default()).0));
        self.done.take().unwrap().join().unwrap();
    }
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Routes of our protocol in all tables, as `ip route` prints them.
fn ours() -> BTreeSet<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown = format!(
        "{}{}",
        ip("-N route show table all proto 119"),
        ip("-N -6 route show table all proto 119")
    );
    shown.lines().map(words).collect()
}

fn expect(routes: &[&str]) {
    let wanted: BTreeSet<String> = routes.iter().map(|text| (*text).to_owned()).collect();
    let start = Instant::now();
    while ours() != wanted {
        assert!(start.elapsed() < PATIENCE, "wanted {wanted:#?}\nbut {:#?}", ours());
        thread::sleep(Duration::from_millis(10));
    }
}

/// A pair of links that are up, with carrier.
fn carrier(name: &str) {
    ip(&format!("link add {name} type veth peer name {name}-peer"));
    ip(&format!("link set {name}-peer up"));
    ip(&format!("link set {name} up"));
    eventually("carrier", || state(name).0 == "UP");
}

/// A link that is up, with addresses; returns its number.
fn link(name: &str) -> u32 {
    carrier(name);
    ip(&format!("address add 10.0.0.254/32 dev {name}"));
    index(name)
}

fn announcing() -> LinkReach {
    link_rule(Some(RULE))
}

/// A peer of `wg0` that is up.
fn reachable(ifindex: u32) -> PeerStatus {
    let mut one =
        peer("wg0", ifindex, "a", &["10.0.0.1/32", "fd00::1/128", "fe80::1/128"], announcing());
    one.state = State::Up;
    one
}

const HOST4: &str = "10.0.0.1 dev wg0 scope 253 metric 1024";
const HOST6: &str = "fd00::1 dev wg0 metric 1024 pref medium";

#[test]
#[ignore = "needs root"]
fn routes_come_and_go_with_their_peer() {
    if !fresh() {
        return;
    }
    let mut one = reachable(link("wg0"));
    one.rule.announce = ["10.1.0.0/16", "2001:db8::/32"].map(|p| p.parse().unwrap()).into();
    let mut six = peer("wg0", index("wg0"), "six", &["fe80::6/128"], announcing());
    six.rule.announce = vec!["10.6.0.0/16".parse().unwrap()];
    let mut sink = Sink::start(Kind::Routes);
    sink.tell(&[one.clone(), six.clone()]);
    let of_one = [
        HOST4,
        HOST6,
        "10.1.0.0/16 via 10.0.0.1 dev wg0 metric 1024 onlink",
        "2001:db8::/32 via fd00::1 dev wg0 metric 1024 onlink pref medium",
    ];
    expect(&of_one);
    six.state = State::Up;
    sink.tell(&[one.clone(), six.clone()]);
    let of_six = "10.6.0.0/16 via inet6 fe80::6 dev wg0 metric 1024 onlink";
    expect(&[&of_one[..], &[of_six]].concat());
    eventually("the board", || {
        sink.status("routes").is_some_and(|s| s.ok && s.doing == "5 routes in table main")
    });
    one.state = State::Suspect;
    six.state = State::Unknown;
    sink.tell(&[one.clone(), six.clone()]);
    one.state = State::Down;
    sink.tell(&[one.clone(), six.clone()]);
    expect(&[of_six]);
    // The table moves, and the peer leaves.
    let rule = AnnounceRule { table: 1000, ..RULE };
    six.link_rule = Some(link_rule(Some(rule)).into());
    sink.tell(&[six.clone()]);
    expect(&["10.6.0.0/16 via inet6 fe80::6 dev wg0 table 1000 metric 1024 onlink"]);
    sink.tell(&[]);
    expect(&[]);
    eventually("a clean board", || sink.status("routes").is_none());
}

#[test]
#[ignore = "needs root"]
fn a_metric_follows_the_round_trip_time_without_a_gap() {
    if !fresh() {
        return;
    }
    let mut one = reachable(link("wg0"));
    let rule = AnnounceRule { metric_from_rtt: true, ..RULE };
    one.link_rule = Some(link_rule(Some(rule)).into());
    set_rtt(&mut one, Some(Duration::from_millis(20)));
    let mut sink = Sink::start(Kind::Routes);
    sink.tell(&[one.clone()]);
    expect(&["10.0.0.1 dev wg0 scope 253 metric 1044", "fd00::1 dev wg0 metric 1044 pref medium"]);
    let mut monitor = Monitor::start();
    set_rtt(&mut one, Some(Duration::from_millis(50)));
    sink.now = Time(Duration::from_secs(11));
    sink.tell(&[one.clone()]);
    expect(&["10.0.0.1 dev wg0 scope 253 metric 1074", "fd00::1 dev wg0 metric 1074 pref medium"]);
    // Not again so soon, and a restart keeps it.
    set_rtt(&mut one, Some(Duration::from_millis(90)));
    sink.now = Time(Duration::from_secs(13));
    sink.tell(&[one.clone()]);
    sink.kill();
    let mut sink = Sink::start(Kind::Routes);
    one.state = State::Unknown;
    set_rtt(&mut one, None);
    sink.tell(&[one.clone()]);
    let mut other = peer("wg0", index("wg0"), "b", &["10.0.0.2/32"], announcing());
    other.state = State::Up;
    sink.tell(&[one.clone(), other]);
    expect(&[
        "10.0.0.1 dev wg0 scope 253 metric 1074",
        "10.0.0.2 dev wg0 scope 253 metric 1024",
        "fd00::1 dev wg0 metric 1074 pref medium",
    ]);
    let events = monitor.stop();
    for (added, deleted) in [
        ("10.0.0.1 dev wg0 proto 119 scope 253 metric 1074", "Deleted 10.0.0.1 dev wg0"),
        ("fd00::1 dev wg0 proto 119 metric 1074", "Deleted fd00::1 dev wg0"),
    ] {
        let at = |text: &str| events.iter().position(|line| line.starts_with(text));
        let (added, gone) = (at(added), at(deleted));
        assert!(added.is_some() && gone.is_some() && added < gone, "{events:#?}");
        assert_eq!(
            events.iter().filter(|line| line.starts_with(deleted)).count(),
            1,
            "{events:#?}"
        );
    }
}

#[test]
#[ignore = "needs root"]
fn a_route_of_somebody_else_is_never_touched() {
    if !fresh() {
        return;
    }
    let mut one = reachable(link("wg0"));
    carrier("other");
    // The same place, the same protocol on another link, and another protocol on ours.
    ip("route add 10.0.0.1 dev other proto 12 metric 1024");
    ip("-6 route add fd00::1 dev other proto 12 metric 1024");
    ip("route add 10.9.0.0/16 dev other proto 119 metric 7");
    ip("route add 10.8.0.0/16 dev wg0 proto 4 metric 1024");
    let foreign = || {
        ip("-N route show table all dev other")
            + &ip("-N -6 route show fd00::1")
            + &ip("-N route show 10.8.0.0/16")
    };
    let before = foreign();
    let mut sink = Sink::start(Kind::Routes);
    sink.tell(&[one.clone()]);
    eventually("a complaint", || {
        sink.status("routes").is_some_and(|status| {
            status.error.is_some_and(|error| {
                error.contains("table main has another route to 10.0.0.1/32 with metric 1024")
                    && error.contains("[interface.reach.announce]")
            })
        })
    });
    one.state = State::Down;
    sink.tell(&[one.clone()]);
    eventually("all is well", || sink.status("routes").is_some_and(|status| status.ok));
    assert_eq!(foreign(), before);
    // When the other goes, ours comes.
    one.state = State::Up;
    sink.tell(&[one.clone()]);
    eventually("a complaint", || sink.status("routes").is_some_and(|status| !status.ok));
    ip("route del 10.0.0.1 dev other proto 12 metric 1024");
    ip("-6 route del fd00::1 dev other proto 12 metric 1024");
    expect(&[HOST4, HOST6, "10.9.0.0/16 dev other scope 253 metric 7"]);
    eventually("all is well", || sink.status("routes").is_some_and(|status| status.ok));
}

#[test]
#[ignore = "needs root"]
fn what_a_killed_daemon_left_is_kept_or_cleaned() {
    if !fresh() {
        return;
    }
    let mut one = reachable(link("wg0"));
    let mut two = peer("wg0", index("wg0"), "b", &["10.0.0.2/32"], announcing());
    two.state = State::Up;
    let mut sink = Sink::start(Kind::Routes);
    sink.tell(&[one.clone(), two.clone()]);
    let host2 = "10.0.0.2 dev wg0 scope 253 metric 1024";
    expect(&[HOST4, HOST6, host2]);
    sink.kill();
    // Meanwhile the configuration lost a prefix, in another table.
    ip("route add 10.7.0.0/16 dev wg0 proto 119 metric 3 table 77");
    let mut monitor = Monitor::start();
    let mut sink = Sink::start(Kind::Routes);
    // Before all is known nothing is touched.
    let mut first = picture(Time::ZERO, 1, &[]);
    first.complete = false;
    sink.publish.send_replace(first.into());
    thread::sleep(Duration::from_millis(200));
    assert_eq!(ours().len(), 4);
    (one.state, two.state) = (State::Unknown, State::Unknown);
    sink.revision = 1;
    sink.tell(&[one.clone(), two.clone()]);
    expect(&[HOST4, HOST6, host2]);
    (one.state, two.state) = (State::Up, State::Down);
    sink.tell(&[one.clone(), two.clone()]);
    expect(&[HOST4, HOST6]);
    let events = monitor.stop();
    let about_one = |line: &&String| line.contains("10.0.0.1") || line.contains("fd00::1");
    assert_eq!(events.iter().find(about_one), None, "a living peer's routes do not blink");
    // A daemon whose link is no longer watched cleans too.
    sink.kill();
    let mut sink = Sink::start(Kind::Routes);
    (one.link_rule, two.link_rule) = (None, None);
    sink.tell(&[one, two]);
    expect(&[]);
}

#[test]
#[ignore = "needs root"]
fn what_somebody_removes_comes_back() {
    if !fresh() {
        return;
    }
    let one = reachable(link("wg0"));
    let mut sink = Sink::start(Kind::Routes);
    sink.tell(&[one]);
    expect(&[HOST4, HOST6]);
    ip("route del 10.0.0.1 dev wg0 proto 119");
    ip("-6 route del fd00::1 dev wg0 proto 119");
    expect(&[HOST4, HOST6]);
    ip("link set wg0 down");
    assert!(ours().is_empty(), "IPv4 silently");
    ip("link set wg0 up");
    expect(&[HOST4, HOST6]);
    ip("address del 10.0.0.254/32 dev wg0");
    expect(&[HOST4, HOST6]);
    eventually("all is well", || sink.status("routes").is_some_and(|status| status.ok));
}

#[test]
#[ignore = "needs root"]
fn on_exit_decides_what_stays() {
    if !fresh() {
        return;
    }
    let one = reachable(link("wg0"));
    let mut going = peer("wg0", index("wg0"), "b", &["10.0.0.2/32"], announcing());
    going.state = State::Up;
    carrier("other");
    let mut removed = peer(
        "other",
        index("other"),
        "c",
        &["10.0.0.3/32"],
        LinkReach { on_exit: OnExit::Remove, ..announcing() },
    );
    removed.state = State::Up;
    let mut sink = Sink::start(Kind::Routes);
    sink.tell(&[one.clone(), removed.clone()]);
    expect(&[HOST4, HOST6, "10.0.0.3 dev other scope 253 metric 1024"]);
    sink.stop();
    expect(&[HOST4, HOST6]);
}

/// The operational state of a link, and its mode.
fn state(name: &str) -> (String, String) {
    let shown = ip(&format!("-d link show {name}"));
    let word = |key: &str| {
        let mut words = shown.split_whitespace().skip_while(|word| *word != key);
        words.nth(1).unwrap().to_owned()
    };
    (word("state"), word("mode"))
}

#[test]
#[ignore = "needs root"]
fn a_dedicated_link_is_dormant_while_its_peer_is_down() {
    if !fresh() {
        return;
    }
    let ifindex = link("wg0");
    let dormant = |name: &str| state(name) == ("DORMANT".to_owned(), "DORMANT".to_owned());
    let awake = |name: &str| {
        let (state, mode) = state(name);
        matches!(state.as_str(), "UP" | "UNKNOWN") && mode == "DEFAULT"
    };
    let mut one = peer("wg0", ifindex, "a", &[], LinkReach { dormant: true, ..link_rule(None) });
    one.dedicated = true;
    one.probed = vec!["ff02::1".parse().unwrap()];
    one.state = State::Down;
    let mut sink = Sink::start(Kind::Links);
    sink.tell(&[one.clone()]);
    eventually("dormant", || dormant("wg0"));
    eventually("the board", || {
        sink.status("links").is_some_and(|s| s.ok && s.doing == "1 watched, dormant: wg0")
    });
    one.state = State::Up;
    sink.tell(&[one.clone()]);
    eventually("awake", || awake("wg0"));
    // Killed while dormant: probes will know better soon, until then it stays.
    one.state = State::Down;
    sink.tell(&[one.clone()]);
    eventually("dormant", || dormant("wg0"));
    sink.kill();
    let mut sink = Sink::start(Kind::Links);
    one.state = State::Unknown;
    sink.tell(&[one.clone()]);
    eventually("the board", || sink.status("links").is_some());
    assert!(dormant("wg0"));
    // Without probes nothing would ever know better.
    one.probed.clear();
    sink.tell(&[one.clone()]);
    eventually("awake", || awake("wg0"));
    // The configuration goes.
    one.state = State::Down;
    sink.tell(&[one.clone()]);
    eventually("dormant", || dormant("wg0"));
    let mut other = one.clone();
    other.link_rule = Some(link_rule(None).into());
    sink.tell(&[other]);
    eventually("awake", || awake("wg0"));
    eventually("a clean board", || sink.status("links").is_none());
    // The daemon stops.
    sink.tell(&[one.clone()]);
    eventually("dormant", || dormant("wg0"));
    sink.stop();
    assert!(awake("wg0"), "{:?}", state("wg0"));
    // A link that vanishes is no fault.
    let mut sink = Sink::start(Kind::Links);
    sink.tell(&[one.clone()]);
    eventually("dormant", || dormant("wg0"));
    ip("link del wg0");
    one.ifindex = None;
    sink.tell(&[one]);
    eventually("a clean board", || sink.status("links").is_none());
    assert!(try_ip("link show wg0").is_err());
}
