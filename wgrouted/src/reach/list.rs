//! Reachability as text: a table of peers, and changes line by line.
//!
//! Here lives what `wgrouted peers` and `wgrouted watch` print.

use std::io::{self, Write};

use super::{
    board::SinkStatus,
    view::{EventView, PeerView, ReachView, milliseconds, word},
};
use crate::{
    core::reach::status::{Proof, State},
    show::table,
};

/// `peers`.
pub fn print(out: &mut impl Write, view: &ReachView) -> io::Result<()> {
    table(
        out,
        [
            "INTERFACE",
            "PEER",
            "STATE",
            "HOW",
            "SINCE",
            "RTT",
            "LOSS",
            "ENDPOINT",
            "HANDSHAKE",
            "RX",
            "TX",
        ],
        view.peers.iter().map(|peer| {
            [
                peer.interface.clone(),
                peer.peer.clone(),
                word(&peer.state),
                how(peer.proof),
                age(peer.age_seconds),
                or_dash(peer.rtt().map(rtt)),
                or_dash(peer.probe.map(|probe| percent(probe.loss))),
                or_dash(peer.endpoint),
                or_dash(peer.handshake_age_seconds.map(age)),
                bytes(peer.rx_bytes as f64),
                bytes(peer.tx_bytes as f64),
            ]
        }),
    )?;
    if !view.complete {
        writeln!(out, "not every interface has been looked at yet")?;
    }
    if !view.sinks.is_empty() {
        writeln!(out)?;
    }
    for (sink, status) in &view.sinks {
        writeln!(out, "{}", sink_line(sink, status))?;
    }
    Ok(())
}

/// How a sink fares, in a line.
pub(super) fn sink_line(sink: &str, status: &SinkStatus) -> String {
    let mark = if status.ok { "" } else { "in trouble: " };
    let error = status.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{sink}: {mark}{}{error}", status.doing)
}

/// An event of `watch`: a line, or, for a snapshot, a line for each peer.
pub fn print_event(out: &mut impl Write, event: &EventView) -> io::Result<()> {
    match event {
        EventView::Snapshot(view) => {
            for peer in &view.peers {
                let PeerView { interface, peer: name, state, proof, .. } = peer;
                let known = known(*state, *proof, peer.rtt());
                writeln!(out, "{} {interface} {name} is {known}", view.time)?;
            }
            Ok(())
        }
        EventView::Missed { time, count } => {
            writeln!(out, "{time} missed {count} changes; this is how it is now:")
        }
        EventView::State { time, interface, peer, from, to, proof, rtt_seconds, .. } => {
            let known = known(*to, *proof, *rtt_seconds);
            writeln!(out, "{time} {interface} {peer} {} -> {known}", word(from))
        }
        EventView::Endpoint { time, interface, peer, from, to, .. } => {
            writeln!(out, "{time} {interface} {peer} moved from {from} to {to}")
        }
        EventView::Appeared { time, interface, peer, .. } => {
            writeln!(out, "{time} {interface} {peer} appeared")
        }
        EventView::Vanished { time, interface, peer, .. } => {
            writeln!(out, "{time} {interface} {peer} vanished")
        }
    }
}

fn known(state: State, proof: Proof, round_trip: Option<f64>) -> String {
    let mut text = word(&state);
    if proof != Proof::None {
        text += &format!(", by {}", word(&proof));
    }
    if let Some(seconds) = round_trip.filter(|_| state != State::Down) {
        text += &format!(", {} ms", milliseconds(seconds));
    }
    text
}

/// How a state is known, in a column.
pub(super) fn how(proof: Proof) -> String {
    if proof == Proof::None { "-".to_owned() } else { word(&proof) }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A span in its largest unit.
pub(crate) fn age(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.0}s"),
        s if s < 7200.0 => format!("{:.0}min", s / 60.0),
        s if s < 172_800.0 => format!("{:.0}h", s / 3600.0),
        s => format!("{:.0}d", s / 86_400.0),
    }
}

/// A round-trip time, in seven columns at most.
pub(super) fn rtt(seconds: f64) -> String {
    match seconds * 1000.0 {
        ms if ms < 10.0 => format!("{ms:.2}ms"),
        ms if ms < 100.0 => format!("{ms:.1}ms"),
        ms if ms < 10_000.0 => format!("{ms:.0}ms"),
        ms => format!("{:.0}s", ms / 1000.0),
    }
}

/// A share.
pub(super) fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// A number of bytes, in six columns at most.
pub(super) fn bytes(count: f64) -> String {
    let mut count = count;
    for unit in ["B", "kB", "MB", "GB", "TB"] {
        if count < 999.5 {
            let digits = usize::from(count < 9.95 && unit != "B");
            return format!("{count:.digits$}{unit}");
        }
        count /= 1000.0;
    }
    format!("{count:.0}PB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_fit_their_columns() {
        for (count, text) in [
            (0.0, "0B"),
            (999.0, "999B"),
            (999.7, "1.0kB"),
            (1234.0, "1.2kB"),
            (15_400.0, "15kB"),
            (1e6, "1.0MB"),
            (1e18, "1000PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (seconds, text) in
            [(0.0, "0s"), (119.0, "119s"), (120.0, "2min"), (7200.0, "2h"), (1e6, "12d")]
        {
            assert_eq!(age(seconds), text);
        }
        for (seconds, text) in
            [(0.001_234, "1.23ms"), (0.0567, "56.7ms"), (1.5, "1500ms"), (12.0, "12s")]
        {
            assert_eq!(rtt(seconds), text);
        }
    }
}
