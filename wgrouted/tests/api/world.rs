//! A daemon without a kernel: an engine that has read some routes and devices, reachability's feed,
//! and the router on a Unix socket.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{broadcast, mpsc, watch};
use wgrouted::{
    config::{Config, Names},
    core::{
        device::{Device, DevicePeer},
        engine::Engine,
        event::{Event, Output, Request, Scope, SyncPart},
        exits::{
            choice::Health,
            status::{
                ExitLinkStatus, ExitState, ExitStatus, ExitsStatus, FlowRuleStatus, FlowStatus,
                Objects,
            },
        },
        filter::table::{FilterEvent, FilterRequest, HookKind, LinkState},
        peer::{PeerIdx, PublicKey},
        prefix::{Family, Prefix},
        reach::{
            rule::ReachRule,
            status::{Change, PeerStatus, ProbeStatus, Proof, Reachability, State},
        },
        route::{Hop, Link, LinkKind, Route, RouteKind, TABLE_MAIN},
        time::Time,
    },
    reach::{
        Feed,
        board::{Board, SinkStatus},
    },
    serve::{Desk, SOCKET, http},
};

/// Two peers on a shared link, and one behind a filter on a link of its own.
const CONFIG: &str = "
[[filter.policy]]
name = 'p'
rules = ['accept tcp to port 22']
[[interface]]
name = 'wg0'
link = 'shared'
[[interface.peer]]
name = 'left'
public_key = 'xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg='
pinned = ['10.0.0.2/32']
[[interface.peer]]
name = 'right'
public_key = 'TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0='
pinned = ['10.0.0.3/32']
[[interface]]
name = 'wg1'
link = 'dedicated'
filter = { source = 'strict', policy = 'p' }
[[interface.peer]]
name = 'exit'
public_key = 'kaT9I7wM6ECwwTiR6LhgCR2zfCaMtI2spQRCq1jrEWQ='
pinned = ['0.0.0.0/0', '::/0']
";

pub const LEFT: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const RIGHT: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";
const EXIT: &str = "kaT9I7wM6ECwwTiR6LhgCR2zfCaMtI2spQRCq1jrEWQ=";

pub fn key(text: &str) -> PublicKey {
    text.parse().unwrap()
}

fn route(prefix: &str, metric: u32, oif: u32, gateway: Option<[u8; 4]>) -> Route {
    let gateway = gateway.map(|octets| IpAddr::V4(Ipv4Addr::from(octets)));
    let hop = Hop { oif, gateway, weight: 1, realm: 0, dead: false };
    let path = wgrouted::core::route::Path {
        table: TABLE_MAIN,
        metric,
        tos: 0,
        protocol: 12,
        kind: RouteKind::Unicast,
        source: None,
        nexthop: 0,
        hops: [hop].into_iter().collect(),
    };
    Route { prefix: prefix.parse().unwrap(), path }
}

/// One that is there, one to come, one that lost, and one that is nobody's.
fn routes() -> Vec<Route> {
    vec![
        route("10.1.0.0/16", 10, 7, Some([10, 0, 0, 2])),
        route("10.1.0.0/16", 20, 7, Some([10, 0, 0, 3])),
        route("10.2.0.0/16", 10, 7, Some([10, 0, 0, 3])),
        route("10.9.0.0/16", 10, 7, Some([10, 0, 0, 99])),
        route("192.0.2.0/24", 10, 8, None),
    ]
}

fn link(index: u32, name: &str) -> Link {
    Link { index, name: name.to_owned(), up: true, master: None, kind: LinkKind::Wireguard }
}

fn device(ifindex: u32) -> Device {
    let peer = |text| DevicePeer {
        public_key: key(text),
        endpoint: None,
        persistent_keepalive: 0,
        last_handshake: None,
        rx_bytes: 0,
        tx_bytes: 0,
    };
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let (name, peers, allowed_ips) = match ifindex {
        7 => (
            "wg0",
            vec![peer(LEFT), peer(RIGHT)],
            vec![
                (prefix("10.0.0.2/32"), PeerIdx(0)),
                (prefix("10.0.0.3/32"), PeerIdx(1)),
                (prefix("10.1.0.0/16"), PeerIdx(0)),
            ],
        ),
        _ => ("wg1", vec![peer(EXIT)], vec![(prefix("0.0.0.0/0"), PeerIdx(0))]),
    };
    let name = name.to_owned();
    Device { ifindex, name, peers, allowed_ips, ..Device::default() }
}

/// An engine that has read everything, and whose changes nobody makes.
fn engine() -> Engine {
    let config =
        Config::from_bytes(CONFIG.as_bytes(), Path::new("x.toml"), &Names::built_in()).unwrap();
    let filter = config.filter_rule();
    let mut engine = Engine::new(config.interfaces, Duration::from_secs(1));
    engine.handle(Event::Filter(FilterEvent::Configure(filter)), Time::ZERO);
    for round in 0..20 {
        let now = Time(Duration::from_millis(round * 100));
        let outputs: Vec<Output> = engine.poll(now).collect();
        for output in outputs {
            let Output::Request(request) = output else { continue };
            match request {
                Request::Sync { epoch, objects, scopes } => {
                    let mut parts = Vec::new();
                    if objects {
                        parts.push(SyncPart::Links(vec![link(7, "wg0"), link(8, "wg1")]));
                        parts.push(SyncPart::Nexthops(Vec::new()));
                    }
                    let asked = |route: &Route, scope: &Scope| {
                        scope.family == route.prefix.family()
                            && scope.table.is_none_or(|table| table == route.path.table)
                    };
                    let brought =
                        routes().into_iter().filter(|r| scopes.iter().any(|s| asked(r, s)));
                    parts.push(SyncPart::Routes(brought.collect()));
                    for part in parts {
                        engine.handle(Event::SyncPart { epoch, part }, now);
                    }
                    engine.handle(Event::SyncDone { epoch, error: None }, now);
                }
                Request::Dump { interface, token, ifindex } => engine.handle(
                    Event::Device {
                        interface,
                        token,
                        cost: Duration::from_millis(1),
                        result: Ok(device(ifindex)),
                        remembered: Default::default(),
                    },
                    now,
                ),
                Request::Filter(request) => {
                    if let Some(event) = answer(request) {
                        engine.handle(Event::Filter(event), now);
                    }
                }
                _ => {}
            }
        }
    }
    engine
}

/// What a target without maps says.
fn answer(request: FilterRequest) -> Option<FilterEvent> {
    Some(match request {
        FilterRequest::Open { token, .. } => {
            FilterEvent::Opened { token, result: Ok(Default::default()) }
        }
        FilterRequest::Apply { token, .. } => {
            FilterEvent::Applied { token, result: Ok(Default::default()) }
        }
        FilterRequest::Attach { token, links } => {
            let attached = links.into_iter().map(|link| LinkState {
                ifindex: link.ifindex,
                hook: Ok(HookKind::Tcx),
                reattached: false,
            });
            FilterEvent::Attached { token, links: attached.collect() }
        }
        FilterRequest::Dump { .. } | FilterRequest::Remove { .. } => return None,
    })
}

/// A peer in some state, with everything known of it.
pub fn status(interface: &str, peer: &str, public_key: PublicKey, state: State) -> PeerStatus {
    PeerStatus {
        interface: interface.to_owned(),
        ifindex: Some(7),
        dedicated: false,
        peer: peer.to_owned(),
        public_key,
        state,
        proof: Proof::Probe,
        since: Time::ZERO,
        heard: Some(Time::ZERO),
        falls: 1,
        probed: vec!["10.0.0.2".parse().unwrap()],
        probe: Some(ProbeStatus {
            sent: 100,
            answered: 75,
            unsent: 1,
            loss: 0.25,
            rtt: Some(Duration::from_micros(12_500)),
            rtt_deviation: Some(Duration::from_micros(500)),
            rtt_last: Some(Duration::from_millis(13)),
        }),
        endpoint: Some("192.0.2.2:51820".parse().unwrap()),
        roamed: 2,
        handshake_age: Some(Duration::from_secs(70)),
        rx_bytes: 1000,
        tx_bytes: 2000,
        rx_rate: 10.0,
        tx_rate: 20.0,
        pinned: vec!["10.0.0.2/32".parse().unwrap()],
        rule: Default::default(),
        link_rule: None,
    }
}

pub fn picture() -> Reachability {
    let bare = PeerStatus {
        proof: Proof::None,
        heard: None,
        probe: None,
        endpoint: None,
        handshake_age: None,
        ..status("wg0", "right", key(RIGHT), State::Unknown)
    };
    Reachability {
        now: Time::ZERO,
        revision: 3,
        complete: true,
        peers: vec![status("wg0", "left", key(LEFT), State::Up), bare],
    }
}

pub fn falls() -> Change {
    Change::State {
        interface: "wg0".to_owned(),
        peer: "left".to_owned(),
        public_key: key(LEFT),
        from: State::Up,
        to: State::Down,
        proof: Proof::Probe,
        rtt: None,
        heard: Some(Time::ZERO),
    }
}

/// Everything that can happen to a peer.
pub fn changes() -> Vec<Change> {
    let (interface, peer, public_key) = ("wg0".to_owned(), "left".to_owned(), key(LEFT));
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    vec![
        falls(),
        Change::Endpoint {
            interface: interface.clone(),
            peer: peer.clone(),
            public_key,
            from: address("192.0.2.2:1"),
            to: address("[2001:db8::1]:2"),
        },
        Change::Appeared { interface: interface.clone(), peer: peer.clone(), public_key },
        Change::Vanished { interface, peer, public_key },
    ]
}

/// The other ends of a feed.
pub struct Ends {
    pub picture: watch::Sender<Arc<Reachability>>,
    pub rule: watch::Sender<Arc<ReachRule>>,
    pub stop: watch::Sender<bool>,
}

/// A feed whose news may wait in so many places.
pub fn feed(rule: ReachRule, news: usize) -> (Feed, Ends) {
    let (events, _) = mpsc::unbounded_channel();
    let (show, picture) = watch::channel(Arc::new(picture()));
    let (configure, rule) = watch::channel(Arc::new(rule));
    let (stop, stopping) = watch::channel(false);
    let board = Board::default();
    let error = Some("BIRD refuses: use an unrestricted socket".to_owned());
    board.write("bird", SinkStatus { ok: false, doing: "nothing".to_owned(), error });
    let doing = "12 routes in table main".to_owned();
    board.write("routes", SinkStatus { ok: true, doing, error: None });
    let news = broadcast::channel(news).0;
    let started = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
    let feed = Feed { picture, rule, stopping, news, events, board, started };
    (feed, Ends { picture: show, rule: configure, stop })
}

pub fn no_hooks() -> ReachRule {
    Config::for_interfaces(&["wg0"]).reach
}

/// Exits of which every field is filled.
pub fn exits() -> ExitsStatus {
    let link = |link: &str, health, used| ExitLinkStatus {
        link: link.to_owned(),
        peer: Some("exit".to_owned()),
        health,
        used,
        weight: 1,
    };
    ExitsStatus {
        in_force: false,
        exits: vec![ExitStatus {
            name: "berlin".to_owned(),
            table: Some(119_001),
            state: ExitState::Up,
            feed: false,
            links: vec![link("wg-b", Health::Bad, false), link("wg-c", Health::Good, true)],
            changes: 2,
            age_seconds: 3.5,
        }],
        flows: vec![FlowStatus {
            name: "mail".to_owned(),
            exit: "berlin".to_owned(),
            rules: vec![FlowRuleStatus {
                family: Family::V4,
                priority: 10_020,
                rule: "from all fwmark 0x10 lookup 119001".to_owned(),
            }],
        }],
        faults: vec!["cannot add the rule".to_owned()],
        objects: Objects { rules: 3, routes: 2, nexthops: 2, groups: 1 },
        repaired: 1,
    }
}

/// The daemon.
pub struct World {
    pub desk: Desk,
    pub feed: Feed,
    pub ends: Ends,
    pub directory: PathBuf,
    pub events: mpsc::Receiver<Event>,
}

impl World {
    /// Serves on a Unix socket in a directory of its own.
    pub fn start() -> World {
        World::with_news(1024)
    }

    pub fn with_news(news: usize) -> World {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("wgrouted-api-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let (feed, ends) = feed(no_hooks(), news);
        let (ask, mut questions) = mpsc::channel::<wgrouted::serve::Question>(8);
        let (orders, events) = mpsc::channel(8);
        let exits = watch::channel(Arc::new(exits())).1;
        let desk = Desk::new(ask, orders, "/nonexistent/pins".into(), feed.clone(), exits);
        tokio::spawn(async move {
            let engine = engine();
            while let Some(question) = questions.recv().await {
                question(&engine);
            }
        });
        let listener = http::listen(&directory.join(SOCKET)).unwrap();
        tokio::spawn(http::serve(listener, desk.clone()));
        World { desk, feed, ends, directory, events }
    }

    /// Sends a request over the Unix socket and reads the whole answer.
    pub async fn ask(&self, method: &str, path: &str) -> Answer {
        let (socket, head) = (self.directory.join(SOCKET), head(method, path, &[]));
        tokio::task::spawn_blocking(move || {
            Answer::read(UnixStream::connect(socket).unwrap(), &head)
        })
        .await
        .unwrap()
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A request by HTTP/1.0, whose answer ends with the connection.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("{method} {path} HTTP/1.0\r\n{headers}\r\n")
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn read(mut stream: impl Read + Write, request: &str) -> Answer {
        stream.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}
