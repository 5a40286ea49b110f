//! `wgrouted top`, frame by frame.
//!
//! Here lives what one frame shows, as lines of a width and height. Keys, the terminal and the clock
//! are `crate::live`'s business.

use std::{cmp::Ordering, collections::HashMap};

use clap::ValueEnum;

use super::{
    list::{age, bytes, how, percent, rtt, sink_line},
    view::{PeerView, ReachView, word},
};
use crate::core::{peer::PublicKey, reach::status::State};

/// What comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// By interface and name
    #[default]
    Name,
    /// Those that are down first
    State,
    /// The farthest first
    Rtt,
    /// The busiest first
    Rate,
    /// Those with most routes first
    Routes,
    /// Those of whom most is dropped first
    Drops,
}

impl Sort {
    /// What the key `s` turns to.
    pub fn next(self) -> Sort {
        let all = Sort::value_variants();
        let at = all.iter().position(|sort| *sort == self).unwrap_or_default();
        all[(at + 1) % all.len()]
    }
}

/// What is known of a peer beside its reachability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// AllowedIPs on the device.
    pub routes: usize,
    /// Packets that the filter dropped; none if it is not filtered.
    pub drops: Option<u64>,
}

/// What a frame shows.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Reachability.
    pub view: ReachView,
    /// By interface and key.
    pub beside: HashMap<(String, PublicKey), Beside>,
    /// What comes first.
    pub sort: Sort,
}

/// How a line stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Not at all.
    Plain,
    /// A heading.
    Heading,
    /// It may need somebody.
    Warning,
    /// It needs somebody.
    Alarm,
}

/// A line of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How it stands out.
    pub style: Style,
    /// What it says; no wider than the frame.
    pub text: String,
}

/// Columns but the peer's name, which gets what is left.
const HEADINGS: [(&str, usize); 9] = [
    ("STATE", 7),
    ("HOW", 9),
    ("RTT", 7),
    ("LOSS", 4),
    ("RX/S", 6),
    ("TX/S", 6),
    ("ROUTES", 6),
    ("DROPS", 5),
    ("SINCE", 5),
];
/// The interface's column.
const INTERFACE: usize = 8;
/// The peer's name is never narrower.
const NAME: usize = 8;

impl Frame {
    /// The lines, at most `height` if there is a bound.
    pub fn lines(&self, width: usize, height: Option<usize>) -> Vec<Line> {
        let mut head = vec![Line { style: Style::Plain, text: self.summary() }];
        for (sink, status) in &self.view.sinks {
            let style = if status.ok { Style::Plain } else { Style::Alarm };
            head.push(Line { style, text: sink_line(sink, status) });
        }
        // What lies to the right of a narrow terminal is left out, column by column.
        let mut columns = HEADINGS.len();
        let fixed = |columns: usize| {
            INTERFACE + HEADINGS[..columns].iter().map(|(_, width)| width + 1).sum::<usize>() + 1
        };
        while columns > 1 && fixed(columns) + NAME > width {
            columns -= 1;
        }
        let name = width.saturating_sub(fixed(columns)).max(NAME);
        let line = |interface: &str, peer: &str, cells: &[String]| {
            let mut text = format!("{} {}", fit(interface, INTERFACE), fit(peer, name));
            for (cell, (_, width)) in cells.iter().zip(&HEADINGS[..columns]) {
                text.push(' ');
                text += &fit(cell, *width);
            }
            text
        };
        let headings = HEADINGS.map(|(heading, _)| heading.to_owned());
        head.push(Line { style: Style::Heading, text: line("IF", "PEER", &headings) });

        let peers = self.sorted();
        let room = height.map_or(peers.len(), |height| height.saturating_sub(head.len()));
        let shown = if peers.len() > room { room.saturating_sub(1) } else { peers.len() };
        let rows = peers[..shown].iter().map(|peer| {
            let style = match peer.state {
                State::Up | State::Unknown => Style::Plain,
                State::Suspect => Style::Warning,
                State::Down => Style::Alarm,
            };
            Line { style, text: line(&peer.interface, &peer.peer, &self.cells(peer)) }
        });
        let mut lines: Vec<Line> = head.into_iter().chain(rows).collect();
        if shown < peers.len() {
            let text = format!("… and {} more", peers.len() - shown);
            lines.push(Line { style: Style::Plain, text });
        }
        lines.truncate(height.unwrap_or(usize::MAX));
        for line in &mut lines {
            line.text = fit(&line.text, width).trim_end().to_owned();
        }
        lines
    }

    fn summary(&self) -> String {
        let peers = &self.view.peers;
        let count = |state| peers.iter().filter(|peer| peer.state == state).count();
        let routes: usize = self.beside.values().map(|beside| beside.routes).sum();
        format!(
            "{} peers: {} up, {} suspect, {} down, {} unknown; {routes} routes; by {}",
            peers.len(),
            count(State::Up),
            count(State::Suspect),
            count(State::Down),
            count(State::Unknown),
            self.sort.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned()),
        )
    }

    fn beside(&self, peer: &PeerView) -> Beside {
        let key = (peer.interface.clone(), peer.public_key);
        self.beside.get(&key).copied().unwrap_or_default()
    }

    fn sorted(&self) -> Vec<&PeerView> {
        let mut peers: Vec<&PeerView> = self.view.peers.iter().collect();
        let urgency = |peer: &PeerView| match peer.state {
            State::Down => 0,
            State::Suspect => 1,
            State::Unknown => 2,
            State::Up => 3,
        };
        let rate = |peer: &PeerView| peer.rx_bytes_per_second + peer.tx_bytes_per_second;
        let falling = |a: f64, b: f64| b.partial_cmp(&a).unwrap_or(Ordering::Equal);
        // Peers come by interface and name, and those that are equal stay so.
        match self.sort {
            Sort::Name => {}
            Sort::State => peers.sort_by_key(|peer| urgency(peer)),
            Sort::Rtt => {
                peers.sort_by(|a, b| falling(a.rtt().unwrap_or(-1.0), b.rtt().unwrap_or(-1.0)));
            }
            Sort::Rate => peers.sort_by(|a, b| falling(rate(a), rate(b))),
            Sort::Routes => {
                peers.sort_by_cached_key(|peer| std::cmp::Reverse(self.beside(peer).routes));
            }
            Sort::Drops => {
                peers.sort_by_cached_key(|peer| std::cmp::Reverse(self.beside(peer).drops));
            }
        }
        peers
    }

    fn cells(&self, peer: &PeerView) -> [String; 9] {
        let dash = || "-".to_owned();
        let beside = self.beside(peer);
        [
            word(&peer.state),
            how(peer.proof),
            peer.rtt().map_or_else(dash, rtt),
            peer.probe.map_or_else(dash, |probe| percent(probe.loss)),
            bytes(peer.rx_bytes_per_second),
            bytes(peer.tx_bytes_per_second),
            beside.routes.to_string(),
            beside.drops.map_or_else(dash, |drops| drops.to_string()),
            age(peer.age_seconds),
        ]
    }
}

/// Exactly so wide; what is too long ends with an ellipsis.
fn fit(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return format!("{text:<width$}");
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STATES: [State; 4] = [State::Up, State::Down, State::Suspect, State::Unknown];

    fn peer(number: usize) -> PeerView {
        let json = serde_json::json!({
            "interface": format!("wg-interface-{}", number % 3), "peer": format!("peer-{number}"),
            "public_key": PublicKey([number as u8; 32]), "dedicated": false,
            "state": STATES[number % 4], "proof": "held-down", "age_seconds": 1e5,
            "heard_age_seconds": null, "falls": 0, "probed": [],
            "probe": { "sent": 1, "answered": 1, "unsent": 0, "loss": 1.0,
                       "rtt_seconds": number as f64 / 100.0,
                       "rtt_deviation_seconds": null, "rtt_last_seconds": null },
            "endpoint": null, "roamed": 0, "handshake_age_seconds": null, "rx_bytes": 0,
            "tx_bytes": 0, "rx_bytes_per_second": number as f64, "tx_bytes_per_second": 1.5e9,
            "pinned": [],
        });
        serde_json::from_value(json).unwrap()
    }

    fn frame(peers: usize, sort: Sort) -> Frame {
        let peers: Vec<PeerView> = (0..peers).map(peer).collect();
        let beside = |p: &PeerView| {
            let routes = usize::from(p.public_key.0[0]);
            ((p.interface.clone(), p.public_key), Beside { routes, drops: None })
        };
        let beside = peers.iter().map(beside).collect();
        let view = ReachView {
            time: String::new(),
            revision: 0,
            complete: true,
            peers,
            sinks: Default::default(),
        };
        Frame { view, beside, sort }
    }

    #[test]
    fn eighty_columns_hold_what_matters() {
        let lines = frame(4, Sort::State).lines(80, None);
        let text: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!(text[0], "4 peers: 1 up, 1 suspect, 1 down, 1 unknown; 6 routes; by state");
        for heading in ["PEER", "STATE", "RTT", "RX/S", "TX/S", "ROUTES", "DROPS"] {
            assert!(text[1].contains(heading), "{}", text[1]);
        }
        assert!(
            text[2].starts_with("wg-inte… peer-1") && text[2].contains("down    held-down 10.0ms")
        );
        let styles = [Style::Plain, Style::Heading, Style::Alarm, Style::Warning];
        assert!(lines.iter().map(|line| line.style).take(4).eq(styles));
        assert!(text[3].contains("peer-2") && text[5].contains("peer-0"));
    }

    #[test]
    fn the_key_s_goes_round() {
        let all = Sort::value_variants();
        let round = std::iter::successors(Some(Sort::Name), |sort| Some(sort.next()));
        assert!(round.take(all.len() + 1).eq(all.iter().copied().chain([Sort::Name])));
    }

    proptest! {
        #[test]
        fn a_frame_keeps_its_size(
            peers in 0..40_usize, width in 0..200_usize, height in 0..30_usize, sort in 0..6_usize,
        ) {
            let frame = frame(peers, Sort::value_variants()[sort]);
            let lines = frame.lines(width, Some(height));
            prop_assert!(lines.len() <= height);
            prop_assert!(lines.iter().all(|line| line.text.chars().count() <= width));
            let all = frame.lines(80, None);
            prop_assert_eq!(all.len(), 2 + peers);
            let said = all.iter().filter(|line| line.text.contains("held-down")).count();
            prop_assert_eq!(said, peers);
        }
    }
}
