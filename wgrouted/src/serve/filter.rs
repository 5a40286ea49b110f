//! The packet filter's resources.
//!
//! Here live the questions whose answers lie partly in the maps: counters, verdicts, samples. The
//! maps are read by the threads for blocking work, never by the one that owns the engine.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::{StatusCode, header},
    response::{IntoResponse, Json, Response},
};
use ebpf_xdp::{layout::Sample, verdict::Verdict};
use serde::{Deserialize, Serialize};
use tokio::{
    io::unix::AsyncFd,
    sync::{Mutex, broadcast},
    task,
    time::timeout,
};
use tracing::warn;

use super::Desk;
use super::http::{Failure, Selection};
use crate::{
    core::{
        engine::Engine,
        filter::{judge::Judge, report::FilteredPeer, table::FilterError},
        route::IfIndex,
    },
    filter::{
        answer::Answer,
        probe::{Fragment, Probe, Question},
        view::{Count, FilterView, Readings},
        watch::SampleRow,
    },
    target::filter::{FilterReader, age_of},
};

/// Samples that a slow watcher may be behind.
const BACKLOG: usize = 4096;
/// How often the maps are opened anew while somebody watches: the daemon may have replaced them.
const REOPEN: Duration = Duration::from_secs(2);

/// Samples for whoever watches. Read only while somebody does.
#[derive(Clone, Debug)]
pub struct Samples {
    directory: PathBuf,
    watchers: Arc<Mutex<Option<broadcast::Sender<SampleRow>>>>,
}

impl Samples {
    /// Of the filter whose pins are in this directory.
    pub fn new(directory: PathBuf) -> Self {
        Samples { directory, watchers: Arc::default() }
    }

    /// Where the filter's pins are.
    fn directory(&self) -> PathBuf {
        self.directory.clone()
    }

    async fn watch(&self, desk: &Desk) -> broadcast::Receiver<SampleRow> {
        let mut watchers = self.watchers.lock().await;
        if let Some(sender) = &*watchers {
            return sender.subscribe();
        }
        let (sender, receiver) = broadcast::channel(BACKLOG);
        *watchers = Some(sender.clone());
        let (samples, desk) = (self.clone(), desk.clone());
        task::spawn(async move { samples.pass_on(&desk, &sender).await });
        receiver
    }

    /// Passes samples on until nobody watches any more.
    async fn pass_on(&self, desk: &Desk, sender: &broadcast::Sender<SampleRow>) {
        loop {
            {
                let mut watchers = self.watchers.lock().await;
                if sender.receiver_count() == 0 {
                    *watchers = None;
                    return;
                }
            }
            let Ok(peers) = desk.ask(Engine::filtered_peers).await else { return };
            let Ok(links) = desk.ask(link_names).await else { return };
            if let Err(error) = self.read_for_a_while(&peers, &links, sender).await {
                warn!(%error, "samples of dropped packets cannot be read");
                tokio::time::sleep(REOPEN).await;
            }
        }
    }

    async fn read_for_a_while(
        &self,
        peers: &[FilteredPeer],
        links: &BTreeMap<IfIndex, String>,
        sender: &broadcast::Sender<SampleRow>,
    ) -> Result<(), FilterError> {
        let directory = self.directory();
        let opened = task::spawn_blocking(move || FilterReader::open(directory)?.samples()).await;
        let samples = opened.map_err(|error| FilterError { message: error.to_string() })??;
        // SAFETY: the ring owns its descriptor, never changes it and closes it when it is dropped.
        let samples = unsafe { AsyncFd::register(samples) };
        let mut samples = samples.map_err(|error| FilterError { message: error.to_string() })?;
        let _ = timeout(REOPEN, async {
            loop {
                while let Some(sample) = samples.get_mut().take() {
                    // Nobody listens: noticed at the next round.
                    let _ = sender.send(row(&sample, peers, links));
                }
                match samples.readable().await {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return,
                }
            }
        })
        .await;
        Ok(())
    }
}

fn link_names(engine: &Engine) -> BTreeMap<IfIndex, String> {
    let links = engine.filter_status().links;
    links.into_iter().map(|link| (link.ifindex, link.interface)).collect()
}

fn row(sample: &Sample, peers: &[FilteredPeer], links: &BTreeMap<IfIndex, String>) -> SampleRow {
    let peer = peers.iter().find(|peer| peer.id == sample.peer).map(FilteredPeer::who);
    let link = links.get(&sample.ifindex).cloned();
    let time = SystemTime::now().checked_sub(age_of(sample.time)).unwrap_or(SystemTime::UNIX_EPOCH);
    SampleRow::new(sample, time, link.unwrap_or_else(|| sample.ifindex.to_string()), peer)
}

/// `GET /v1/filter`.
pub(super) async fn show(
    State(desk): State<Desk>,
    Query(Selection { interface }): Query<Selection>,
) -> Result<Response, Failure> {
    let view = view(&desk).await?;
    Ok(Json(match &interface {
        Some(name) => {
            if !view.status.links.iter().any(|link| link.interface == *name) {
                return Err(Failure::NotFiltered(name.clone()));
            }
            view.only(name)
        }
        None => view,
    })
    .into_response())
}

/// Everything about the filter.
pub(super) async fn view(desk: &Desk) -> Result<FilterView, Failure> {
    let (status, peers) =
        desk.ask(|engine| (engine.filter_status(), engine.filtered_peers())).await?;
    let readings = if peers.is_empty() {
        Ok(Readings::default())
    } else {
        let directory = desk.samples().directory();
        let read = task::spawn_blocking(move || readings(&FilterReader::open(directory)?)).await;
        match read {
            Ok(read) => read.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        }
    };
    Ok(FilterView::new(status, peers, readings))
}

fn readings(reader: &FilterReader) -> Result<Readings, FilterError> {
    let mut readings = Readings::default();
    for count in reader.counters()? {
        readings.counts.entry(count.peer).or_default().push(Count {
            reason: count.reason.name().to_owned(),
            dropped: count.reason.is_drop() && !count.monitored,
            monitored: count.monitored,
            packets: count.counter.packets,
            bytes: count.counter.bytes,
        });
    }
    readings.last_seen = reader.last_seen()?.into_iter().collect();
    let events = reader.events()?;
    readings.events = [
        ("flows-opened", events.flow_opened),
        ("flows-not-stored", events.flow_failed),
        ("flows-expired", events.flow_expired),
        ("fragments-opened", events.fragment_opened),
        ("samples-limited", events.sample_limited),
        ("samples-lost", events.sample_lost),
    ]
    .map(|(name, times)| (name.to_owned(), times))
    .into();
    Ok(readings)
}

/// The question of `filter test`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestQuery {
    /// The peer, by name or key.
    pub peer: Option<String>,
    /// The tunnel through which it comes, by the name of its device. Names the peer, too.
    pub tunnel: Option<String>,
    /// Its interface, if the peer is on several.
    pub interface: Option<String>,
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// The protocol's number.
    pub protocol: u8,
    /// Source port.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: Option<u16>,
    /// ICMP type.
    pub icmp_type: Option<u8>,
    /// ICMP code.
    pub icmp_code: Option<u8>,
    /// Part of a fragmented packet.
    pub fragment: Option<Fragment>,
}

/// The answer to `filter test`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestAnswer {
    /// The interface by which the packet would come.
    pub interface: String,
    /// The peer that would be taken for its sender; none if the packet does not tell.
    pub sender: Option<String>,
    /// What the library says, over what the daemon believes the maps to hold, about the first
    /// packet of a flow.
    pub library: Answer,
    /// What the loaded program says, with the maps and flows as they are.
    pub program: Option<Answer>,
    /// Why the program could not be asked.
    pub unasked: Option<String>,
}

/// `GET /v1/filter/test`.
pub(super) async fn test(
    State(desk): State<Desk>,
    Query(query): Query<TestQuery>,
) -> Result<Response, Failure> {
    let question = Question {
        src: query.src,
        dst: query.dst,
        protocol: query.protocol,
        src_port: query.src_port,
        dst_port: query.dst_port,
        icmp_type: query.icmp_type,
        icmp_code: query.icmp_code,
        fragment: query.fragment,
    };
    let probe = Probe::new(&question).map_err(|error| Failure::Wrong(error.to_string()))?;
    let (peers, links) =
        desk.ask(|engine| (engine.filtered_peers(), engine.filter_status().links)).await?;
    let peer = sender(&query, &peers)?.clone();
    let packet = if peer.tunnel.is_some() {
        let id = peer.id;
        let ends = desk.ask(move |engine| engine.tunnel_ends(id)).await?;
        let Some(ends) = ends else {
            return Err(Failure::Wrong(format!("{} has no address of its own", peer.who())));
        };
        probe.inside(&ends).map_err(|error| Failure::Wrong(error.to_string()))?
    } else {
        probe.packet()
    };
    let Some(link) = links.into_iter().find(|link| link.interface == peer.interface) else {
        return Err(Failure::NotFiltered(peer.interface));
    };
    let ifindex = link.ifindex;
    let asked = packet.clone();
    let library = desk
        .ask(move |engine| {
            let filter = engine.filter()?;
            let verdict = Judge::new(filter).decide(&asked, ifindex);
            Some((verdict, answer(engine, &verdict)))
        })
        .await?;
    let Some((verdict, library)) = library else {
        return Err(Failure::NotFiltered(peer.interface));
    };
    let directory = desk.samples().directory();
    let program =
        task::spawn_blocking(move || FilterReader::open(directory)?.probe(ifindex, &packet)).await;
    let (program, unasked) = match program {
        Ok(Ok(said)) => {
            // The program does not name the peer, but it finds it like the library.
            let said = Verdict { peer: verdict.peer, ..said };
            (Some(desk.ask(move |engine| answer(engine, &said)).await?), None)
        }
        Ok(Err(error)) => (None, Some(error.to_string())),
        Err(error) => (None, Some(error.to_string())),
    };
    let sender = peers.iter().find(|one| one.id == verdict.peer).map(FilteredPeer::who);
    let interface = peer.interface;
    Ok(Json(TestAnswer { interface, sender, library, program, unasked }).into_response())
}

/// Whom the question is about.
fn sender<'p>(query: &TestQuery, peers: &'p [FilteredPeer]) -> Result<&'p FilteredPeer, Failure> {
    let asked = |peer: &&FilteredPeer| {
        let named = |name: &String| peer.peer == *name || peer.public_key.to_string() == *name;
        peer.tunnel == query.tunnel
            && query.peer.as_ref().is_none_or(named)
            && query.interface.as_ref().is_none_or(|name| *name == peer.interface)
    };
    let (what, name) = match (&query.peer, &query.tunnel) {
        (_, Some(tunnel)) => ("tunnel", tunnel),
        (Some(peer), None) => ("peer", peer),
        (None, None) => {
            return Err(Failure::Wrong("who sends it? name a peer or a tunnel".to_owned()));
        }
    };
    let mut found = peers.iter().filter(asked);
    match (found.next(), found.next()) {
        (Some(peer), None) => Ok(peer),
        (Some(_), Some(_)) => {
            let text = format!("several interfaces have a {what} {name}: add --interface");
            Err(Failure::Wrong(text))
        }
        (None, _) => {
            let names: Vec<_> = peers
                .iter()
                .filter_map(|peer| match &peer.tunnel {
                    tunnel if tunnel.is_some() != query.tunnel.is_some() => None,
                    Some(tunnel) => Some(tunnel.as_str()),
                    None => Some(peer.peer.as_str()),
                })
                .collect();
            Err(Failure::Wrong(format!(
                "no filtered {what} is named {name}: name one of {}",
                names.join(", ")
            )))
        }
    }
}

/// The verdict in words, with the rule that decided.
fn answer(engine: &Engine, verdict: &Verdict) -> Answer {
    let policy = engine.filter().and_then(|filter| filter.policy_of(verdict.peer));
    Answer::new(verdict, policy)
}

/// `GET /v1/filter/samples`: one JSON object a line, as they come, without end.
pub(super) async fn samples(
    State(desk): State<Desk>,
    Query(Selection { interface }): Query<Selection>,
) -> Result<Response, Failure> {
    if desk.ask(|engine| engine.filter().is_none()).await? {
        return Err(Failure::NotFiltered(interface.unwrap_or_default()));
    }
    let watched = desk.samples().watch(&desk).await;
    let stream = futures_util::stream::unfold(watched, move |mut watched| {
        let only = interface.clone();
        async move {
            loop {
                let row = match watched.recv().await {
                    Ok(row) if only.as_ref().is_none_or(|name| *name == row.interface) => row,
                    // A watcher that is too slow misses some.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return None,
                };
                let Ok(mut line) = serde_json::to_vec(&row) else { continue };
                line.push(b'\n');
                return Some((Ok::<_, Infallible>(Bytes::from(line)), watched));
            }
        }
    });
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((StatusCode::OK, kind, Body::from_stream(stream)).into_response())
}
