//! The rtnetlink source against the running kernel, each test in a network namespace of its own.
//!
//! `silent_death` documents how routes vanish: what is announced, and what a dump then shows.
//! `dump` asks questions, `overrun` listens too slowly.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "netns_source/dump.rs"]
mod dump;
#[path = "netns_source/overrun.rs"]
mod overrun;
#[path = "netns_source/silent_death.rs"]
mod silent_death;
mod support;

use std::{
    ops::ControlFlow,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use support::netns;
use wgrouted::{
    core::{
        event::{NetEvent, Scope},
        prefix::Family,
        route::{
            Hop, Hops, IfIndex, LinkKind, Nexthop, NexthopKind, Path, Route, RouteKind, RouteOp,
            TABLE_MAIN, TableId,
        },
    },
    source::rtnetlink::{Dumper, Monitor, Stopper, Wake},
};

/// A table that no test uses for anything else.
const MARKER_TABLE: TableId = 4242;
/// How long a test may wait in all: it may run under emulation.
const PATIENCE: Duration = Duration::from_secs(60);

/// A monitor that never waits for ever.
struct Watch {
    monitor: Monitor,
    _alive: mpsc::Sender<()>,
}

impl Watch {
    fn open(receive_buffer: usize) -> Watch {
        let monitor = Monitor::open(receive_buffer).unwrap();
        let (alive, watchdog) = mpsc::channel();
        let stopper: Stopper = monitor.stopper();
        thread::spawn(move || {
            if watchdog.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                stopper.stop();
            }
        });
        Watch { monitor, _alive: alive }
    }

    fn recv(&mut self, events: &mut Vec<NetEvent>) {
        let wake = self.monitor.recv(events).unwrap();
        assert_eq!(wake, Wake::Received, "nothing more arrived after {events:?}");
    }

    /// Everything that arrives up to the first event that `last` accepts, that one included.
    fn until(&mut self, last: impl Fn(&NetEvent) -> bool) -> Vec<NetEvent> {
        let mut events = Vec::new();
        while !events.iter().any(&last) {
            self.recv(&mut events);
        }
        events
    }

    /// What was announced so far: the kernel announces in order, so all of it precedes the
    /// announcement of a marker. Routes of its own making come at any time and are left out.
    fn news(&mut self) -> Vec<NetEvent> {
        let is_marker = |event: &NetEvent, wanted: RouteOp| {
            matches!(event, NetEvent::Route(route)
                if route.route.path.table == MARKER_TABLE && route.op == wanted)
        };
        let marker = format!("blackhole 255.255.255.255 table {MARKER_TABLE}");
        netns::ip(&format!("route add {marker}"));
        netns::ip(&format!("route del {marker}"));
        let mut events = self.until(|event| is_marker(event, RouteOp::Delete));
        let end = events.iter().position(|event| is_marker(event, RouteOp::Add)).unwrap();
        events.truncate(end);
        events.retain(|event| !matches!(event, NetEvent::Route(e) if e.route.path.protocol == 2));
        events
    }

    /// Of the news, those about routes of the main table that the kernel did not make itself.
    fn route_news(&mut self) -> Vec<String> {
        self.news().iter().filter_map(route_news).collect()
    }
}

fn route_news(event: &NetEvent) -> Option<String> {
    match event {
        NetEvent::Route(event) if is_ours(&event.route) => {
            Some(format!("{:?} {}", event.op, show(&event.route)))
        }
        _ => None,
    }
}

fn is_ours(route: &Route) -> bool {
    route.path.table == TABLE_MAIN && route.path.protocol != 2
}

/// A route in one line, much like `ip route`, hops by gateway.
fn show(route: &Route) -> String {
    let mut text = route.prefix.to_string();
    for hop in &route.path.hops {
        match hop.gateway {
            Some(gateway) => text += &format!(" via {gateway}"),
            None => text += " direct",
        }
        if hop.dead {
            text += " dead";
        }
    }
    if route.path.nexthop != 0 {
        text += &format!(" nhid {}", route.path.nexthop);
    }
    text
}

fn all_routes(scope: Scope) -> Vec<Route> {
    let mut all = Vec::new();
    let flow = Dumper::open().unwrap().routes(scope, &mut |chunk| {
        assert!(!chunk.is_empty());
        all.extend(chunk);
        ControlFlow::Continue(())
    });
    assert_eq!(flow.unwrap(), ControlFlow::Continue(()));
    all
}

/// The routes of the main table out of a link, as a scoped dump shows them.
fn dump(family: Family, oif: IfIndex) -> Vec<String> {
    let scope = Scope { family, table: Some(TABLE_MAIN), oif: Some(oif) };
    all_routes(scope).iter().filter(|route| is_ours(route)).map(show).collect()
}

/// Waits for what a work queue of the kernel's does, a link's carrier in most cases.
fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// v0 (10.0.0.1/24, fd00::1/64) and v1 (10.0.1.1/24, fd01::1/64), two ends of a veth pair, up
/// and with carrier.
fn two_links() -> (IfIndex, IfIndex) {
    netns::sysctl("net/ipv6/conf/default/accept_dad", "0");
    netns::ip("link add v0 type veth peer name v1");
    for (name, v4, v6) in [("v0", "10.0.0.1/24", "fd00::1/64"), ("v1", "10.0.1.1/24", "fd01::1/64")]
    {
        netns::ip(&format!("link set {name} up"));
        netns::ip(&format!("addr add {v4} dev {name}"));
        netns::ip(&format!("addr add {v6} dev {name} nodad"));
    }
    eventually("carrier", || netns::ip("-o link show").matches("state UP").count() == 2);
    (netns::index("v0"), netns::index("v1"))
}

/// A route of the main table by one hop.
fn route(prefix: &str, oif: IfIndex, gateway: &str) -> Route {
    let gateway = Some(gateway.parse().unwrap());
    let hops: Hops = [Hop { oif, gateway, weight: 1, realm: 0, dead: false }].into();
    let path = Path {
        table: TABLE_MAIN,
        metric: 32,
        tos: 0,
        protocol: 12,
        kind: RouteKind::Unicast,
        source: None,
        nexthop: 0,
        hops,
    };
    Route { prefix: prefix.parse().unwrap(), path }
}
