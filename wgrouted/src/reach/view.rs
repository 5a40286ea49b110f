//! Reachability as people and scripts see it.
//!
//! Here live the rows of `/v1/reachability`, of the event stream and of what hooks are told. Spans
//! of time are seconds, as floating-point numbers, whose names end in `_seconds`; an age counts from
//! the answer, so that a reader needs no clock of ours. Moments are RFC 3339, in UTC.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::board::SinkStatus;
use crate::core::{
    peer::PublicKey,
    prefix::Prefix,
    reach::{
        hooks::{Kind, Telling},
        status::{Change, PeerStatus, ProbeStatus, Proof, Reachability, State},
    },
    time::Time,
};

/// The answer to `GET /v1/reachability`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReachView {
    /// When the answer was given.
    pub time: String,
    /// Grows with each change of a state, endpoint or roster; not with mere figures.
    pub revision: u64,
    /// Every interface has been looked at once.
    pub complete: bool,
    /// The peers, by interface and name.
    pub peers: Vec<PeerView>,
    /// How those fare that are told: routing daemons, the kernel, hooks.
    pub sinks: BTreeMap<String, SinkStatus>,
}

/// One peer's reachability.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerView {
    /// The interface.
    pub interface: String,
    /// Its configured name, or its key.
    pub peer: String,
    /// Its key.
    pub public_key: PublicKey,
    /// The interface has this one peer.
    pub dedicated: bool,
    /// Whether it can be reached.
    pub state: State,
    /// How that is known.
    pub proof: Proof,
    /// For how long it has been so.
    pub age_seconds: f64,
    /// Since something was last heard of it; none if nothing was.
    pub heard_age_seconds: Option<f64>,
    /// How often it went down.
    pub falls: u64,
    /// What is probed.
    pub probed: Vec<IpAddr>,
    /// What the probes say; none if it is not probed.
    pub probe: Option<ProbeView>,
    /// Where its last authenticated packet came from.
    pub endpoint: Option<SocketAddr>,
    /// How often that changed.
    pub roamed: u64,
    /// Age of its last handshake when the device was last looked at.
    pub handshake_age_seconds: Option<f64>,
    /// Bytes received, likewise.
    pub rx_bytes: u64,
    /// Bytes sent, likewise.
    pub tx_bytes: u64,
    /// Bytes received a second, between the last two looks.
    pub rx_bytes_per_second: f64,
    /// Bytes sent a second, likewise.
    pub tx_bytes_per_second: f64,
    /// Its own tunnel addresses.
    pub pinned: Vec<Prefix>,
}

/// What probes of a peer say.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeView {
    /// Sent so far.
    pub sent: u64,
    /// Answered so far.
    pub answered: u64,
    /// Could not be sent.
    pub unsent: u64,
    /// Share of the last 100 that were not answered, 0 to 1.
    pub loss: f64,
    /// Round-trip time, smoothed; none if none was answered.
    pub rtt_seconds: Option<f64>,
    /// Its mean deviation.
    pub rtt_deviation_seconds: Option<f64>,
    /// The last one's.
    pub rtt_last_seconds: Option<f64>,
}

impl ReachView {
    /// The picture, as it looks now.
    pub fn new(
        picture: &Reachability,
        only: Option<&str>,
        now: Time,
        sinks: BTreeMap<String, SinkStatus>,
    ) -> Self {
        let selected = |status: &&PeerStatus| only.is_none_or(|name| status.interface == name);
        ReachView {
            time: wall_clock(),
            revision: picture.revision,
            complete: picture.complete,
            peers: picture
                .peers
                .iter()
                .filter(selected)
                .map(|status| PeerView::new(status, now))
                .collect(),
            sinks,
        }
    }
}

impl PeerView {
    /// One peer, as it looks now.
    pub fn new(status: &PeerStatus, now: Time) -> Self {
        PeerView {
            interface: status.interface.clone(),
            peer: status.peer.clone(),
            public_key: status.public_key,
            dedicated: status.dedicated,
            state: status.state,
            proof: status.proof,
            age_seconds: now.since(status.since).as_secs_f64(),
            heard_age_seconds: status.heard.map(|at| now.since(at).as_secs_f64()),
            falls: status.falls,
            probed: status.probed.clone(),
            probe: status.probe.as_ref().map(ProbeView::new),
            endpoint: status.endpoint,
            roamed: status.roamed,
            handshake_age_seconds: seconds(status.handshake_age),
            rx_bytes: status.rx_bytes,
            tx_bytes: status.tx_bytes,
            rx_bytes_per_second: status.rx_rate,
            tx_bytes_per_second: status.tx_rate,
            pinned: status.pinned.clone(),
        }
    }

    /// Round-trip time in seconds, if it is known.
    pub fn rtt(&self) -> Option<f64> {
        self.probe.and_then(|probe| probe.rtt_seconds)
    }
}

impl ProbeView {
    fn new(status: &ProbeStatus) -> Self {
        ProbeView {
            sent: status.sent,
            answered: status.answered,
            unsent: status.unsent,
            loss: status.loss,
            rtt_seconds: seconds(status.rtt),
            rtt_deviation_seconds: seconds(status.rtt_deviation),
            rtt_last_seconds: seconds(status.rtt_last),
        }
    }
}

/// One event of the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum EventView {
    /// How everything is: the first event, and once more after `missed`.
    Snapshot(ReachView),
    /// The listener was too slow, and this many events are lost to it.
    Missed {
        /// When.
        time: String,
        /// How many.
        count: u64,
    },
    /// A peer's state changed.
    State {
        /// When.
        time: String,
        /// The interface.
        interface: String,
        /// The peer.
        peer: String,
        /// Its key.
        public_key: PublicKey,
        /// Before.
        from: State,
        /// Now.
        to: State,
        /// How that is known.
        proof: Proof,
        /// Round-trip time, if it is known.
        rtt_seconds: Option<f64>,
        /// Since something was last heard of it.
        heard_age_seconds: Option<f64>,
    },
    /// A peer's packets come from somewhere else.
    Endpoint {
        /// When.
        time: String,
        /// The interface.
        interface: String,
        /// The peer.
        peer: String,
        /// Its key.
        public_key: PublicKey,
        /// Before.
        from: SocketAddr,
        /// Now.
        to: SocketAddr,
    },
    /// A peer appeared on a device.
    Appeared {
        /// When.
        time: String,
        /// The interface.
        interface: String,
        /// The peer.
        peer: String,
        /// Its key.
        public_key: PublicKey,
    },
    /// A peer is no longer on its device.
    Vanished {
        /// When.
        time: String,
        /// The interface.
        interface: String,
        /// The peer.
        peer: String,
        /// Its key.
        public_key: PublicKey,
    },
}

impl EventView {
    /// A change that has just happened.
    pub fn of(change: Change, now: Time) -> Self {
        let time = wall_clock();
        match change {
            Change::State { interface, peer, public_key, from, to, proof, rtt, heard } => {
                EventView::State {
                    time,
                    interface,
                    peer,
                    public_key,
                    from,
                    to,
                    proof,
                    rtt_seconds: seconds(rtt),
                    heard_age_seconds: heard.map(|at| now.since(at).as_secs_f64()),
                }
            }
            Change::Endpoint { interface, peer, public_key, from, to } => {
                EventView::Endpoint { time, interface, peer, public_key, from, to }
            }
            Change::Appeared { interface, peer, public_key } => {
                EventView::Appeared { time, interface, peer, public_key }
            }
            Change::Vanished { interface, peer, public_key } => {
                EventView::Vanished { time, interface, peer, public_key }
            }
        }
    }

    /// A listener has just been found to be too slow.
    pub fn missed(count: u64) -> Self {
        EventView::Missed { time: wall_clock(), count }
    }

    /// The interface of a change.
    pub fn interface(&self) -> Option<&str> {
        match self {
            EventView::Snapshot(_) | EventView::Missed { .. } => None,
            EventView::State { interface, .. }
            | EventView::Endpoint { interface, .. }
            | EventView::Appeared { interface, .. }
            | EventView::Vanished { interface, .. } => Some(interface),
        }
    }

    /// The name of its kind.
    pub fn kind(&self) -> &'static str {
        match self {
            EventView::Snapshot(_) => "snapshot",
            EventView::Missed { .. } => "missed",
            EventView::State { .. } => "state",
            EventView::Endpoint { .. } => "endpoint",
            EventView::Appeared { .. } => "appeared",
            EventView::Vanished { .. } => "vanished",
        }
    }
}

/// What a hook is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HookView {
    /// When.
    pub time: String,
    /// What became different.
    pub event: Kind,
    /// The interface.
    pub interface: String,
    /// The peer.
    pub peer: String,
    /// Its key.
    pub public_key: PublicKey,
    /// Its state.
    pub state: State,
    /// The state that the hook was told before.
    pub previous: State,
    /// How the state is known.
    pub proof: Proof,
    /// Round-trip time, if it is known.
    pub rtt_seconds: Option<f64>,
    /// Where its packets come from.
    pub endpoint: Option<SocketAddr>,
    /// Where they came from when the hook was last told.
    pub previous_endpoint: Option<SocketAddr>,
}

impl HookView {
    /// What is told now.
    pub fn new(telling: &Telling) -> Self {
        HookView {
            time: wall_clock(),
            event: telling.kind,
            interface: telling.key.interface.clone(),
            peer: telling.peer.clone(),
            public_key: telling.key.public_key,
            state: telling.state,
            previous: telling.previous,
            proof: telling.proof,
            rtt_seconds: seconds(telling.rtt),
            endpoint: telling.endpoint,
            previous_endpoint: telling.previous_endpoint,
        }
    }

    /// The same for a command's environment.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("WGROUTED_EVENT", word(&self.event)),
            ("WGROUTED_INTERFACE", self.interface.clone()),
            ("WGROUTED_PEER", self.peer.clone()),
            ("WGROUTED_PUBLIC_KEY", self.public_key.to_string()),
            ("WGROUTED_STATE", word(&self.state)),
            ("WGROUTED_PREVIOUS", word(&self.previous)),
            ("WGROUTED_PROOF", word(&self.proof)),
        ];
        variables.extend(self.rtt_seconds.map(|rtt| ("WGROUTED_RTT_MS", milliseconds(rtt))));
        let endpoint = |address: Option<SocketAddr>| address.map(|address| address.to_string());
        variables.extend(endpoint(self.endpoint).map(|text| ("WGROUTED_ENDPOINT", text)));
        let previous = endpoint(self.previous_endpoint);
        variables.extend(previous.map(|text| ("WGROUTED_PREVIOUS_ENDPOINT", text)));
        variables
    }
}

/// A value's word, as it stands in JSON.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        other => other.map(|value| value.to_string()).unwrap_or_default(),
    }
}

/// Milliseconds, to a microsecond.
pub fn milliseconds(seconds: f64) -> String {
    format!("{:.3}", seconds * 1000.0)
}

fn seconds(span: Option<Duration>) -> Option<f64> {
    span.map(|span| span.as_secs_f64())
}

/// What the wall clock shows.
fn wall_clock() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
