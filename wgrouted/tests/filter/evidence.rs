//! Packets that the filter saw, as evidence of reachability.

use std::{sync::Arc, time::Instant};

use tokio::{
    runtime::Builder,
    sync::{broadcast, mpsc, watch},
    time::{Duration, sleep, timeout},
};
use wgrouted::{
    config::Config,
    core::{
        peer::PublicKey,
        reach::{
            event::ReachEvent,
            rule::{LinkReach, ProbeKind},
            status::{PeerStatus, Reachability},
        },
    },
    reach::{Feed, board::Board, packets},
};

use crate::{
    lab::{DIRECTORY, Lab, RIGHT, WRONG, plan},
    pictures::{quiet_link, unheard},
};

const PATIENCE: Duration = Duration::from_secs(10);

fn peer(ifindex: u32, number: u8, watched: bool) -> PeerStatus {
    let rule = LinkReach { probe: ProbeKind::Off, answered: 1, ..quiet_link() };
    PeerStatus {
        dedicated: true,
        link_rule: watched.then(|| Arc::new(rule)),
        ..unheard("tun0", ifindex, &number.to_string(), PublicKey([number; 32]))
    }
}

#[test]
#[ignore = "needs root: sudo -E cargo test --release -p wgrouted --test filter -- --ignored"]
fn packets_of_watched_peers_are_told() {
    let lab = Lab::new();
    let _filter = lab.filter(&plan());
    let started = Instant::now();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let picture = |watched| {
            let peers = vec![peer(lab.ifindex(), 1, watched), peer(lab.ifindex(), 2, watched)];
            Arc::new(Reachability { peers, ..Reachability::default() })
        };
        let (publish, picture_of) = watch::channel(picture(true));
        let (_rule, rule) = watch::channel(Arc::new(Config::for_interfaces(&["tun0"]).reach));
        let (stop, stopping) = watch::channel(false);
        let (news, _) = broadcast::channel(1);
        let (events, mut told) = mpsc::unbounded_channel();
        let board = Board::default();
        let feed = Feed { picture: picture_of, rule, stopping, news, events, board, started };
        let task = tokio::spawn(packets::follow(feed.clone(), DIRECTORY.into()));

        lab.send(WRONG, 7);
        sleep(Duration::from_millis(1200)).await;
        assert_eq!(told.try_recv().ok(), None, "a packet that is dropped proves nothing");
        for _ in 0..2 {
            // The programs note a peer once a second.
            let before = feed.now();
            lab.send(RIGHT, 7);
            let event = timeout(PATIENCE, told.recv()).await.expect("it is told").unwrap();
            let ReachEvent::Packets { interface, public_key, at } = event else {
                panic!("{event:?}")
            };
            println!("told {:?} after it was sent", feed.now().since(before));
            assert_eq!((&*interface, public_key), ("tun0", PublicKey([1; 32])));
            // The programs' clock is behind by a tick.
            let tick = Duration::from_millis(20);
            assert!(at + tick >= before && at.since(before) < tick, "{at:?} {before:?}");
            sleep(Duration::from_millis(1200)).await;
            assert_eq!(told.try_recv().ok(), None, "once");
        }
        publish.send_replace(picture(false));
        sleep(Duration::from_millis(700)).await;
        lab.send(RIGHT, 7);
        sleep(Duration::from_millis(1200)).await;
        assert_eq!(told.try_recv().ok(), None, "nobody watches");
        stop.send_replace(true);
        timeout(PATIENCE, task).await.expect("it ends").unwrap();
    });
}
