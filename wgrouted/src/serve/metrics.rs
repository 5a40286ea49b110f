//! Everything countable, for Prometheus.
//!
//! Here live the names of metrics and where their figures come from. Invariants: a label has only
//! values that the configuration, the devices or the code name, so that cardinality is bounded by the
//! number of peers; a figure that is not known is absent, not zero; nothing is kept between two
//! requests.

use std::{io, sync::Arc};

use axum::{extract::State, response::Response};

use super::{
    Desk, filter,
    http::{Failure, written},
    process::Process,
    text::{Exposition, Kind, Labels, MEDIA_TYPE},
};
use crate::{
    core::{
        exits::status::{ExitState, ExitsStatus},
        filter::report::FilteredPeer,
        reach::status::{PeerStatus, Reachability, State as ReachState},
        report::{InterfaceState, InterfaceStatus, PeerRow, Status},
    },
    filter::view::{Count, FilterView},
    reach::view::{ReachView, word},
};

const STATES: [ReachState; 4] =
    [ReachState::Up, ReachState::Suspect, ReachState::Down, ReachState::Unknown];

const INTERFACE_STATES: [InterfaceState; 4] = [
    InterfaceState::Waiting,
    InterfaceState::Reading,
    InterfaceState::Applying,
    InterfaceState::InSync,
];

const EXIT_STATES: [ExitState; 5] =
    [ExitState::Up, ExitState::Next, ExitState::Main, ExitState::Blocked, ExitState::Fed];

/// What is measured at one moment.
struct Figures {
    status: Status,
    peers: Vec<PeerRow>,
    reach: Arc<Reachability>,
    view: ReachView,
    filter: FilterView,
    exits: Arc<ExitsStatus>,
}

/// `GET /metrics`.
pub(super) async fn metrics(State(desk): State<Desk>) -> Result<Response, Failure> {
    let (status, peers) = desk.ask(|engine| (engine.status(), engine.peers(None))).await?;
    let filter = filter::view(&desk).await?;
    let feed = desk.feed();
    let reach = feed.picture.borrow().clone();
    let view = ReachView::new(&reach, Some(""), feed.now(), feed.board.read());
    let figures = Figures { status, peers, reach, view, filter, exits: desk.exits() };
    Ok(written(MEDIA_TYPE, move |out| write(&mut Exposition::new(out), &figures)))
}

type Out<'o, 'w, W> = &'o mut Exposition<'w, W>;

fn write<W: io::Write>(out: Out<'_, '_, W>, figures: &Figures) -> io::Result<()> {
    let build = Labels::default().with("version", env!("CARGO_PKG_VERSION"));
    out.family("wgrouted_build_info", Kind::Gauge, "Which version runs; always 1.")?;
    out.sample(&build, 1)?;
    routes(out, &figures.status)?;
    interfaces(out, &figures.status.interfaces)?;
    allowed_ips(out, &figures.peers)?;
    reachability(out, figures)?;
    filtered(out, &figures.filter)?;
    exits(out, &figures.exits)?;
    process(out)
}

fn routes<W: io::Write>(out: Out<'_, '_, W>, status: &Status) -> io::Result<()> {
    let counters = &status.counters;
    out.single(
        "wgrouted_in_sync",
        Kind::Gauge,
        "Whether every existing interface holds what its routes ask for.",
        u8::from(status.in_sync),
    )?;
    let help = "Prefixes with routes in the followed tables.";
    out.family("wgrouted_routes", Kind::Gauge, help)?;
    for (family, count) in [("ipv4", status.ipv4_routes), ("ipv6", status.ipv6_routes)] {
        out.sample(&Labels::default().with("family", family), count)?;
    }
    for (name, help, value) in [
        ("wgrouted_paths", "Distinct paths among the routes.", status.paths),
        ("wgrouted_table_bytes", "Memory of routes and AllowedIPs.", status.table_bytes),
    ] {
        out.single(name, Kind::Gauge, help, value)?;
    }
    for (name, help, value) in [
        (
            "wgrouted_route_events_total",
            "Route notifications for followed tables.",
            counters.route_events,
        ),
        (
            "wgrouted_ambiguous_events_total",
            "Route notifications that needed their table to be read again.",
            counters.ambiguous_events,
        ),
        ("wgrouted_overruns_total", "Times that notifications were lost.", counters.overruns),
        ("wgrouted_route_dumps_total", "Dumps of routes.", counters.route_dumps),
        ("wgrouted_dumped_routes_total", "Routes that dumps brought.", counters.routes_dumped),
        ("wgrouted_object_dumps_total", "Dumps of links and nexthops.", counters.object_dumps),
    ] {
        out.single(name, Kind::Counter, help, value)?;
    }
    Ok(())
}

type Figure<T> = (&'static str, Kind, &'static str, fn(&T) -> f64);

fn interfaces<W: io::Write>(out: Out<'_, '_, W>, all: &[InterfaceStatus]) -> io::Result<()> {
    const FIGURES: &[Figure<InterfaceStatus>] = &[
        ("wgrouted_interface_peers", Kind::Gauge, "Peers on the device.", |i| i.peers as f64),
        ("wgrouted_interface_allowed_ips", Kind::Gauge, "AllowedIPs on the device.", |i| {
            i.allowed_ips as f64
        }),
        ("wgrouted_interface_pending", Kind::Gauge, "Changes that wait.", |i| i.pending as f64),
        (
            "wgrouted_interface_unresolved",
            Kind::Gauge,
            "Prefixes with a route without a peer.",
            |i| i.unresolved as f64,
        ),
        ("wgrouted_interface_shadowed", Kind::Gauge, "Prefixes with routes that lost.", |i| {
            i.shadowed as f64
        }),
        ("wgrouted_interface_adds_total", Kind::Counter, "Prefixes that got an owner.", |i| {
            i.counters.adds as f64
        }),
        ("wgrouted_interface_moves_total", Kind::Counter, "Prefixes that changed owners.", |i| {
            i.counters.moves as f64
        }),
        ("wgrouted_interface_removes_total", Kind::Counter, "Prefixes that were removed.", |i| {
            i.counters.removes as f64
        }),
        (
            "wgrouted_interface_refused_total",
            Kind::Counter,
            "Changes that the device refused.",
            |i| i.counters.refused as f64,
        ),
        (
            "wgrouted_interface_drift_total",
            Kind::Counter,
            "Prefixes that somebody else changed and that were repaired.",
            |i| i.counters.drift as f64,
        ),
        ("wgrouted_interface_batches_total", Kind::Counter, "Requests for changes.", |i| {
            i.counters.batches as f64
        }),
        ("wgrouted_interface_messages_total", Kind::Counter, "Netlink messages.", |i| {
            i.counters.messages as f64
        }),
        ("wgrouted_interface_dumps_total", Kind::Counter, "Full reads of the device.", |i| {
            i.counters.device_dumps as f64
        }),
        (
            "wgrouted_interface_longest_message_seconds",
            Kind::Gauge,
            "Longest time from a message to its acknowledgement.",
            |i| i.counters.longest_message.as_secs_f64(),
        ),
    ];
    let labels = |one: &InterfaceStatus| Labels::default().with("interface", &one.name);
    out.family("wgrouted_interface_state", Kind::Gauge, "What the interface is doing: 1.")?;
    for one in all {
        for state in INTERFACE_STATES {
            let labels = labels(one).with("state", &word(&state));
            out.sample(&labels, u8::from(one.state == state))?;
        }
    }
    for (name, kind, help, figure) in FIGURES {
        out.family(name, *kind, help)?;
        for one in all {
            out.sample(&labels(one), figure(one))?;
        }
    }
    Ok(())
}

fn peer_labels(interface: &str, peer: &str, public_key: &impl ToString) -> Labels {
    Labels::default()
        .with("interface", interface)
        .with("peer", peer)
        .with("public_key", &public_key.to_string())
}

fn allowed_ips<W: io::Write>(out: Out<'_, '_, W>, peers: &[PeerRow]) -> io::Result<()> {
    out.family("wgrouted_peer_allowed_ips", Kind::Gauge, "AllowedIPs of the peer on the device.")?;
    for peer in peers.iter().filter(|peer| peer.present) {
        let labels = peer_labels(&peer.interface, &peer.name, &peer.public_key);
        out.sample(&labels, peer.allowed_ips)?;
    }
    Ok(())
}

type PeerFigure = (&'static str, Kind, &'static str, fn(&PeerStatus) -> Option<f64>);

const PEER_FIGURES: &[PeerFigure] = &[
    ("wgrouted_peer_rtt_seconds", Kind::Gauge, "Round-trip time, smoothed.", |p| {
        Some(p.probe?.rtt?.as_secs_f64())
    }),
    ("wgrouted_peer_rtt_deviation_seconds", Kind::Gauge, "Its mean deviation.", |p| {
        Some(p.probe?.rtt_deviation?.as_secs_f64())
    }),
    (
        "wgrouted_peer_loss_ratio",
        Kind::Gauge,
        "Share of the last 100 probes that were not answered.",
        |p| Some(p.probe?.loss),
    ),
    ("wgrouted_peer_probes_total", Kind::Counter, "Probes sent.", |p| Some(p.probe?.sent as f64)),
    ("wgrouted_peer_probe_answers_total", Kind::Counter, "Probes answered.", |p| {
        Some(p.probe?.answered as f64)
    }),
    ("wgrouted_peer_unsent_probes_total", Kind::Counter, "Probes that could not be sent.", |p| {
        Some(p.probe?.unsent as f64)
    }),
    (
        "wgrouted_peer_handshake_age_seconds",
        Kind::Gauge,
        "Age of the last handshake when the device was last looked at.",
        |p| Some(p.handshake_age?.as_secs_f64()),
    ),
    (
        "wgrouted_peer_receive_bytes_total",
        Kind::Counter,
        "Bytes received when the device was last looked at.",
        |p| Some(p.rx_bytes as f64),
    ),
    (
        "wgrouted_peer_transmit_bytes_total",
        Kind::Counter,
        "Bytes sent when the device was last looked at.",
        |p| Some(p.tx_bytes as f64),
    ),
    ("wgrouted_peer_falls_total", Kind::Counter, "Times that the peer went down.", |p| {
        Some(p.falls as f64)
    }),
    ("wgrouted_peer_roams_total", Kind::Counter, "Times that its endpoint changed.", |p| {
        Some(p.roamed as f64)
    }),
];

fn reachability<W: io::Write>(out: Out<'_, '_, W>, figures: &Figures) -> io::Result<()> {
    let peers = &figures.reach.peers;
    let labels: Vec<Labels> =
        peers.iter().map(|p| peer_labels(&p.interface, &p.peer, &p.public_key)).collect();
    out.family("wgrouted_peers", Kind::Gauge, "Peers by state of reachability.")?;
    for interface in &figures.status.interfaces {
        for state in STATES {
            let here = |p: &&PeerStatus| p.interface == interface.name && p.state == state;
            let one = Labels::default().with("interface", &interface.name);
            out.sample(&one.with("state", &word(&state)), peers.iter().filter(here).count())?;
        }
    }
    out.family("wgrouted_peer_state", Kind::Gauge, "The peer's state of reachability: 1.")?;
    let words = STATES.map(|state| (state, word(&state)));
    for (peer, labels) in peers.iter().zip(&labels) {
        for (state, word) in &words {
            out.sample(&labels.with("state", word), u8::from(peer.state == *state))?;
        }
    }
    for (name, kind, help, figure) in PEER_FIGURES {
        out.family(name, *kind, help)?;
        for (peer, labels) in peers.iter().zip(&labels) {
            if let Some(value) = figure(peer) {
                out.sample(labels, value)?;
            }
        }
    }
    out.family("wgrouted_sink_ok", Kind::Gauge, "Whether who is told of reachability fares well.")?;
    for (sink, status) in &figures.view.sinks {
        out.sample(&Labels::default().with("sink", sink), u8::from(status.ok))?;
    }
    Ok(())
}

/// A peer that speaks through a tunnel is not the one that speaks directly.
fn filtered_labels(peer: &FilteredPeer) -> Labels {
    let labels = peer_labels(&peer.interface, &peer.peer, &peer.public_key);
    match &peer.tunnel {
        Some(tunnel) => labels.with("tunnel", tunnel),
        None => labels,
    }
}

fn filtered<W: io::Write>(out: Out<'_, '_, W>, filter: &FilterView) -> io::Result<()> {
    let status = &filter.status;
    let figures = [("ipv4", status.ipv4_sources), ("ipv6", status.ipv6_sources)];
    out.family("wgrouted_filter_sources", Kind::Gauge, "Legal sources in the maps.")?;
    for (family, count) in figures {
        out.sample(&Labels::default().with("family", family), count)?;
    }
    out.family("wgrouted_filter_in_force", Kind::Gauge, "Whether the peer is filtered.")?;
    for row in &filter.peers {
        let peer = &row.peer;
        out.sample(&filtered_labels(peer), u8::from(peer.in_force))?;
    }
    let counts = || {
        let known = filter.peers.iter().flat_map(|row| {
            let peer = &row.peer;
            let labels = filtered_labels(peer);
            row.counters.iter().map(move |count| (labels.clone(), count))
        });
        let unknown = peer_labels("", "", &"");
        known.chain(filter.unknown.iter().map(move |count| (unknown.clone(), count)))
    };
    let labels = |labels: &Labels, count: &Count| {
        let fate = match (count.dropped, count.monitored) {
            (true, _) => "dropped",
            (false, true) => "monitored",
            (false, false) => "passed",
        };
        labels.with("reason", &count.reason).with("fate", fate)
    };
    let help = "Packets that were looked at; without a peer if it could not be told.";
    out.family("wgrouted_filter_packets_total", Kind::Counter, help)?;
    for (peer, count) in counts() {
        out.sample(&labels(&peer, count), count.packets)?;
    }
    out.family("wgrouted_filter_bytes_total", Kind::Counter, "Their bytes.")?;
    for (peer, count) in counts() {
        out.sample(&labels(&peer, count), count.bytes)?;
    }
    let help = "What the filter counts beside packets.";
    out.family("wgrouted_filter_events_total", Kind::Counter, help)?;
    for (event, times) in &filter.events {
        out.sample(&Labels::default().with("event", event), times)?;
    }
    for (name, help, value) in [
        ("wgrouted_filter_changes_total", "Changes of the maps.", status.counters.changes),
        ("wgrouted_filter_refused_total", "Changes that failed.", status.counters.refused),
        ("wgrouted_filter_drift_total", "Entries of others, repaired.", status.counters.drift),
    ] {
        out.single(name, Kind::Counter, help, value)?;
    }
    Ok(())
}

fn exits<W: io::Write>(out: Out<'_, '_, W>, status: &ExitsStatus) -> io::Result<()> {
    let in_force = u8::from(status.in_force);
    out.single(
        "wgrouted_flows_in_force",
        Kind::Gauge,
        "Whether flows are as configured.",
        in_force,
    )?;
    let help = "Objects of flows that somebody removed and that were put back.";
    out.single("wgrouted_flows_repaired_total", Kind::Counter, help, status.repaired)?;
    let objects = &status.objects;
    out.family("wgrouted_flows_objects", Kind::Gauge, "What the kernel holds for flows.")?;
    for (kind, count) in [
        ("rules", objects.rules),
        ("routes", objects.routes),
        ("nexthops", objects.nexthops),
        ("groups", objects.groups),
    ] {
        out.sample(&Labels::default().with("kind", kind), count)?;
    }
    let labels = |name: &str| Labels::default().with("exit", name);
    out.family("wgrouted_exit_state", Kind::Gauge, "What the flows of the exit meet: 1.")?;
    for exit in &status.exits {
        for state in EXIT_STATES {
            let labels = labels(&exit.name).with("state", &word(&state));
            out.sample(&labels, u8::from(exit.state == state))?;
        }
    }
    out.family("wgrouted_exit_link_used", Kind::Gauge, "Whether flows leave by the link.")?;
    for exit in &status.exits {
        for link in &exit.links {
            out.sample(&labels(&exit.name).with("link", &link.link), u8::from(link.used))?;
        }
    }
    let help = "Times that the links in use changed.";
    out.family("wgrouted_exit_changes_total", Kind::Counter, help)?;
    for exit in &status.exits {
        out.sample(&labels(&exit.name), exit.changes)?;
    }
    Ok(())
}

/// By the names that all exporters have for them.
fn process<W: io::Write>(out: Out<'_, '_, W>) -> io::Result<()> {
    let Some(process) = Process::read() else { return Ok(()) };
    out.single(
        "process_cpu_seconds_total",
        Kind::Counter,
        "Time on processors.",
        process.cpu_seconds,
    )?;
    let resident = process.resident_bytes;
    out.single("process_resident_memory_bytes", Kind::Gauge, "Memory.", resident)?;
    let virtually = process.virtual_bytes;
    out.single("process_virtual_memory_bytes", Kind::Gauge, "Address space.", virtually)?;
    if let Some(start) = process.start_seconds {
        let help = "Start, since the Unix epoch.";
        out.single("process_start_time_seconds", Kind::Gauge, help, start)?;
    }
    if let Some(files) = process.open_files {
        out.single("process_open_fds", Kind::Gauge, "Open files.", files)?;
    }
    Ok(())
}
