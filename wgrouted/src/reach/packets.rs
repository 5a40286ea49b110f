//! The filter's last-seen times as evidence.
//!
//! Here lives [`follow`], which reads them from the pinned maps while peers are watched, and tells
//! what is new. Who a number stands for lies beside the maps, so the engine is not asked. The
//! programs note a peer at most once a second (`seen`, ebpf-xdp/src/main.rs): a time may be a second
//! older than the peer's last packet. Invariant: reading takes at most a fiftieth of the time.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time::sleep};
use tracing::debug;

use super::Feed;
use crate::{
    core::{
        filter::table::{FilterError, Identity},
        peer::PublicKey,
        reach::{event::ReachEvent, status::Reachability},
        route::IfIndex,
        time::Time,
    },
    target::filter::FilterReader,
};

/// Time between two looks: half of how often the programs note a peer.
const PAUSE: Duration = Duration::from_millis(500);
/// A look's duration times this is how long the next one waits at least.
const COST: u32 = 50;
/// How often the maps are opened anew, and who is who: the daemon may have replaced them.
const REOPEN: Duration = Duration::from_secs(2);
/// Time until the next try where nobody is watched, or nothing is filtered.
const NOTHING: Duration = Duration::from_secs(5);
/// Two readings of one time differ by the coarseness of a clock; two times by a second.
const SAME: Duration = Duration::from_millis(500);

/// The maps as they were when they were opened.
struct Maps {
    reader: FilterReader,
    peers: Vec<(u32, Identity)>,
    opened: Instant,
}

/// When peers were seen.
type Seen = Vec<(Identity, Time)>;

/// Tells of packets that the filter in this directory saw, until the daemon stops.
pub async fn follow(feed: Feed, directory: PathBuf) {
    let mut stopping = feed.stopping.clone();
    tokio::select! {
        _ = stopping.wait_for(|stop| *stop) => {}
        () = look(&feed, directory) => {}
    }
}

/// Looks until nobody wants to know any more.
async fn look(feed: &Feed, directory: PathBuf) {
    let mut maps: Option<Maps> = None;
    let mut told: HashMap<Identity, Time> = HashMap::new();
    loop {
        let watched = watched(&feed.picture.borrow());
        if watched.is_empty() {
            (maps, told) = (None, HashMap::new());
            sleep(NOTHING).await;
            continue;
        }
        let (directory, started) = (directory.clone(), feed.started);
        let began = Instant::now();
        let kept = maps.take();
        let read = spawn_blocking(move || read(kept, directory, started)).await;
        let cost = began.elapsed();
        let seen = match read {
            Ok(Ok((kept, seen))) => {
                maps = Some(kept);
                seen
            }
            // Where packets are not filtered this is as it should be; else the filter says so.
            Ok(Err(error)) => {
                debug!(%error, "the filter does not tell when peers were seen");
                sleep(NOTHING).await;
                continue;
            }
            // The daemon is stopping.
            Err(_) => return,
        };
        for (identity, at) in fresh(seen, &mut told) {
            let Some(interface) = watched.get(&(identity.ifindex, identity.public_key)) else {
                continue;
            };
            let (interface, public_key) = (interface.clone(), identity.public_key);
            if feed.events.send(ReachEvent::Packets { interface, public_key, at }).is_err() {
                return;
            }
        }
        sleep(PAUSE.max(cost * COST)).await;
    }
}

/// Whom the evidence is about.
fn watched(picture: &Reachability) -> HashMap<(IfIndex, PublicKey), String> {
    let peers = picture.peers.iter().filter(|peer| peer.link_rule.is_some());
    peers
        .filter_map(|peer| Some(((peer.ifindex?, peer.public_key), peer.interface.clone())))
        .collect()
}

fn read(
    maps: Option<Maps>,
    directory: PathBuf,
    started: Instant,
) -> Result<(Maps, Seen), FilterError> {
    let maps = match maps.filter(|maps| maps.opened.elapsed() < REOPEN) {
        Some(maps) => maps,
        None => {
            let reader = FilterReader::open(directory)?;
            let mut peers = reader.peers()?;
            peers.sort_unstable();
            Maps { reader, peers, opened: Instant::now() }
        }
    };
    let now = Time(started.elapsed());
    let ages = maps.reader.last_seen()?.into_iter();
    let seen = ages.filter_map(|(number, age)| {
        let at = maps.peers.binary_search_by_key(&number, |(number, _)| *number).ok()?;
        // Peers may have been seen before the daemon's start.
        Some((maps.peers[at].1, Time(now.0.checked_sub(age)?)))
    });
    let seen = seen.collect();
    Ok((maps, seen))
}

/// What has not been told yet. Who is seen no more is forgotten.
fn fresh(seen: Seen, told: &mut HashMap<Identity, Time>) -> Seen {
    let mut news = Seen::new();
    let before = std::mem::take(told);
    for (identity, at) in seen {
        match before.get(&identity) {
            Some(before) if at.since(*before) < SAME => {
                told.insert(identity, *before);
            }
            _ => {
                told.insert(identity, at);
                news.push((identity, at));
            }
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_not_told_again() {
        let peer =
            |number| Identity { ifindex: 3, public_key: PublicKey([number; 32]), tunnel: None };
        let at = |ms| Time(Duration::from_millis(ms));
        let mut told = HashMap::new();
        let first = vec![(peer(1), at(100)), (peer(2), at(2000))];
        assert_eq!(fresh(first.clone(), &mut told), first);
        // The clocks differ by their coarseness, again and again in the same direction.
        for later in [104, 108, 96] {
            let same = vec![(peer(1), at(later)), (peer(2), at(2000))];
            assert_eq!(fresh(same, &mut told), []);
        }
        let next = vec![(peer(1), at(1200)), (peer(2), at(2003))];
        assert_eq!(fresh(next, &mut told), [(peer(1), at(1200))]);
        assert_eq!(fresh(vec![], &mut told), []);
        assert!(told.is_empty());
    }
}
