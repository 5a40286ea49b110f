//! The event stream: how everything is, then what changes, and nothing falls between.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};
use wgrouted::{core::reach::status::State, live::Events, reach::view::EventView, serve::SOCKET};

use crate::world::{World, changes, falls, head};

/// Long enough for any machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct Stream {
    stream: UnixStream,
    events: Events,
    ready: Vec<EventView>,
}

impl Stream {
    async fn open(world: &World, path: &str) -> Stream {
        let mut stream = UnixStream::connect(world.directory.join(SOCKET)).await.unwrap();
        stream.write_all(head("GET", path, &[]).as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.unwrap());
        }
        let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
        assert!(answer.contains(" 200 ") && answer.contains("text/event-stream"), "{answer}");
        Stream { stream, events: Events::default(), ready: Vec::new() }
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<EventView> {
        let mut buffer = [0; 4096];
        while self.ready.is_empty() {
            let read = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("in time");
            let count = read.unwrap();
            if count == 0 {
                return None;
            }
            let events = self.events.take(&buffer[..count]);
            self.ready.extend(events.iter().map(|event| serde_json::from_slice(event).unwrap()));
        }
        Some(self.ready.remove(0))
    }
}

#[tokio::test]
async fn a_snapshot_then_every_change_until_the_end() {
    let world = World::start();
    let mut stream = Stream::open(&world, "/v1/events").await;
    let Some(EventView::Snapshot(view)) = stream.next().await else { panic!("no snapshot") };
    assert_eq!((view.revision, view.peers.len(), view.sinks.len()), (3, 2, 2));
    assert!((60.0..90.0).contains(&view.peers[0].age_seconds), "{}", view.peers[0].age_seconds);
    for change in changes() {
        world.feed.news.send(change).unwrap();
    }
    let Some(EventView::State { from, to, rtt_seconds, heard_age_seconds, .. }) =
        stream.next().await
    else {
        panic!("no change of state")
    };
    assert_eq!((from, to, rtt_seconds), (State::Up, State::Down, None));
    assert!(heard_age_seconds.unwrap() > 59.0);
    for kind in ["endpoint", "appeared", "vanished"] {
        assert_eq!(stream.next().await.unwrap().kind(), kind);
    }
    world.ends.stop.send_replace(true);
    assert_eq!(stream.next().await, None, "it ends with the daemon");
}

#[tokio::test]
async fn another_interfaces_changes_are_not_told() {
    let world = World::start();
    let mut stream = Stream::open(&world, "/v1/events?interface=wg1").await;
    let Some(EventView::Snapshot(view)) = stream.next().await else { panic!("no snapshot") };
    assert!(view.peers.is_empty());
    world.feed.news.send(falls()).unwrap();
    world.ends.stop.send_replace(true);
    assert_eq!(stream.next().await, None);
}

#[tokio::test]
async fn who_is_too_slow_is_told_so_and_begins_again() {
    let world = World::with_news(4);
    let mut stream = Stream::open(&world, "/v1/events").await;
    assert_eq!(stream.next().await.unwrap().kind(), "snapshot");
    // On one thread nobody listens before all is said.
    for _ in 0..20 {
        world.feed.news.send(falls()).unwrap();
    }
    let Some(EventView::Missed { count, .. }) = stream.next().await else { panic!("none missed") };
    assert_eq!(count, 16);
    assert_eq!(stream.next().await.unwrap().kind(), "snapshot");
    for _ in 0..4 {
        assert_eq!(stream.next().await.unwrap().kind(), "state");
    }
}
