//! What is written into the maps, read back.

use std::time::Duration;

use ebpf_xdp::layout::{Mode, Peer, Reason, Tunnel, domain};
use wgrouted::{
    core::{
        filter::{
            rule::Ends,
            table::{Contents, FilterChange, Identity, TunnelKey},
        },
        prefix::Prefix,
    },
    target::filter::{FilterReader, FilterTarget, KernelFilter},
};

use crate::lab::{
    DIRECTORY, Lab, RIGHT, ROUTES, WRONG, apply, dedicated, hook, identity, isolate, peer, plan,
    source, strict,
};

fn member(set: u32, peer: u32, present: bool) -> FilterChange {
    FilterChange::Member { set, peer, present }
}

#[test]
#[ignore = "needs root"]
fn what_is_written_is_read() {
    isolate();
    let mut filter = KernelFilter::new(DIRECTORY);
    assert_eq!(filter.open(&plan()).unwrap(), Contents::default());
    let feasible = domain::feasible(3);
    let inside = Identity { tunnel: Some("gre-b".into()), ..identity(5, 2) };
    let ends = |local: &str, remote: &str, key| TunnelKey {
        peer: 2,
        ends: Some(Ends {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            protocol: 47,
            key,
        }),
    };
    let (two, six) = (ends("10.9.0.1", "10.9.0.2", Some(0)), ends("fd09::1", "fd09::2", None));
    let any = TunnelKey { peer: 3, ends: None };
    let tunnel = |key, peer: Option<u32>| FilterChange::Tunnel {
        key,
        word: peer.map(|peer| Tunnel { peer, ..Tunnel::default() }),
    };
    apply(
        &mut filter,
        &[
            source(ROUTES, "0.0.0.0/0", Some(7)),
            source(ROUTES, "::/0", Some(8)),
            source(feasible, "10.0.0.0/8", Some(1)),
            source(feasible, "2001:db8::/32", Some(2)),
            source(feasible, "10.0.0.0/8", Some(3)),
            source(feasible, "192.0.2.1/32", Some(4)),
            source(feasible, "192.0.2.1/32", None),
            source(feasible, "2001:db8::1/128", Some(5)),
            source(feasible, "198.51.100.0/24", None),
            member(1, 2, true),
            member(1, 3, true),
            member(1, 3, false),
            member(9, 3, false),
            peer(2, Some(identity(5, 2)), strict(0)),
            peer(3, Some(identity(5, 3)), strict(0)),
            peer(3, None, Peer::default()),
            dedicated(5, 2),
            dedicated(6, 2),
            FilterChange::Link { ifindex: 6, word: None },
            FilterChange::Link { ifindex: 99, word: None },
            FilterChange::Policy { id: 9, policy: None },
            peer(4, Some(inside), strict(0)),
            tunnel(two, Some(4)),
            tunnel(six, Some(4)),
            tunnel(any, Some(4)),
            tunnel(any, Some(5)),
            tunnel(six, None),
            tunnel(six, None),
        ],
    );
    let p = |text: &str| text.parse::<Prefix>().unwrap();
    let key = |domain, text| wgrouted::core::filter::table::SourceKey { domain, prefix: p(text) };
    let wanted = Contents {
        sources: vec![
            (key(ROUTES, "0.0.0.0/0"), 7),
            (key(ROUTES, "::/0"), 8),
            (key(feasible, "10.0.0.0/8"), 3),
            (key(feasible, "2001:db8::/32"), 2),
            (key(feasible, "2001:db8::1/128"), 5),
        ],
        members: vec![(1, 2)],
        peers: vec![(2, identity(5, 2)), (4, inside)],
        links: vec![5],
        tunnels: vec![two, any],
    };
    assert_eq!(filter.dump().unwrap(), wanted);
    drop(filter);
    let mut filter = KernelFilter::new(DIRECTORY);
    assert_eq!(filter.open(&plan()).unwrap(), wanted);
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_full_map_costs_only_what_does_not_fit() {
    isolate();
    let mut filter = KernelFilter::new(DIRECTORY);
    let mut small = plan();
    (small.sizes.sources_v4, small.sizes.rules, small.sizes.peers) = (16, 4, 4);
    filter.open(&small).unwrap();
    let room = FilterReader::open(DIRECTORY).unwrap().room();
    let all: Vec<_> = (0..room.sources_v4 + 10)
        .map(|n| source(ROUTES, &format!("10.{}.{}.0/24", n / 256, n % 256), Some(1)))
        .chain([source(ROUTES, "2001:db8::/32", Some(2)), member(1, 1, true)])
        .collect();
    let report = filter.apply(&all).unwrap();
    let full: Vec<_> =
        (room.sources_v4..room.sources_v4 + 10).map(|at| (at as usize, libc::ENOSPC)).collect();
    assert_eq!(report.failed, full);
    let contents = filter.dump().unwrap();
    assert_eq!(contents.sources.len(), room.sources_v4 as usize + 1);
    assert_eq!(contents.members, [(1, 1)]);
    // Room is made, and taken.
    let report = filter
        .apply(&[
            source(ROUTES, "10.0.3.0/24", None),
            source(ROUTES, "172.16.0.0/24", Some(1)),
            source(ROUTES, "172.16.1.0/24", Some(1)),
        ])
        .unwrap();
    assert_eq!(report.failed, [(2, libc::ENOSPC)]);
    // Numbers beyond the room.
    let report = filter
        .apply(&[
            peer(4, Some(identity(1, 1)), strict(0)),
            peer(5, Some(identity(1, 1)), strict(0)),
            peer(0, Some(identity(1, 1)), strict(0)),
            peer(1, Some(identity(1, 1)), strict(0)),
        ])
        .unwrap();
    assert_eq!(report.failed, [(1, libc::E2BIG), (2, libc::E2BIG)]);
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn what_is_counted_is_read() {
    let lab = Lab::new();
    let mut filter = lab.filter(&plan());
    for _ in 0..3 {
        assert!(lab.arrives(RIGHT));
        lab.send(WRONG, 7000);
    }
    let reader = std::thread::spawn(|| FilterReader::open(DIRECTORY).unwrap()).join().unwrap();
    let counts = reader.counters().unwrap();
    let of = |reason, monitored| {
        let mut found = counts
            .iter()
            .filter(|count| (count.peer, count.reason, count.monitored) == (1, reason, monitored));
        found.next().map_or((0, 0), |count| (count.counter.packets, count.counter.bytes))
    };
    assert_eq!(of(Reason::Source, false), (3, 3 * 36));
    assert_eq!(of(Reason::NoRoute, false), (3, 3 * 36));
    assert_eq!(reader.peers().unwrap(), [(1, identity(lab.ifindex(), 1))]);
    let seen = reader.last_seen().unwrap();
    assert!(seen.len() == 1 && seen[0].0 == 1 && seen[0].1 < Duration::from_secs(5), "{seen:?}");
    let mut samples = reader.samples().unwrap();
    for _ in 0..3 {
        let sample = samples.take().unwrap();
        assert_eq!((sample.peer, sample.reason), (1, Reason::NoRoute as u8));
        assert_eq!((sample.ifindex, sample.dst_port), (lab.ifindex(), 7000));
    }
    assert!(samples.take().is_none());
    // Monitored: counted apart, and passed.
    let monitored = Peer { flags: Peer::MONITOR, ..strict(0) };
    apply(&mut filter, &[peer(1, Some(identity(lab.ifindex(), 1)), monitored)]);
    assert!(lab.arrives(WRONG));
    let counts = reader.counters().unwrap();
    assert!(counts.iter().any(|count| count.reason == Reason::NoRoute && count.monitored));
    // The same number for somebody else.
    apply(&mut filter, &[peer(1, Some(identity(lab.ifindex(), 2)), strict(0))]);
    assert_eq!(reader.counters().unwrap(), []);
    assert_eq!(reader.last_seen().unwrap(), []);
    // And so in the eyes of a daemon that was not there.
    assert!(lab.arrives(RIGHT));
    drop(filter);
    let mut filter = KernelFilter::new(DIRECTORY);
    filter.open(&plan()).unwrap();
    apply(&mut filter, &[peer(1, Some(identity(lab.ifindex(), 2)), strict(0))]);
    assert_eq!(reader.counters().unwrap().len(), 1);
    apply(&mut filter, &[peer(1, Some(identity(lab.ifindex(), 1)), strict(0))]);
    assert_eq!(reader.counters().unwrap(), []);
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn settings_follow_the_plan() {
    let lab = Lab::new();
    let mut filter = lab.filter(&plan());
    let mut quiet = plan();
    quiet.samples_per_second = 0;
    filter.open(&quiet).unwrap();
    hook(&filter.attach(&lab.links(false)));
    assert!(!lab.arrives(WRONG));
    let reader = FilterReader::open(DIRECTORY).unwrap();
    assert!(reader.samples().unwrap().take().is_none());
    assert_eq!(reader.events().unwrap().sample_limited, 0);
    quiet.samples_per_second = 1;
    filter.open(&quiet).unwrap();
    for _ in 0..50 {
        lab.send(WRONG, 7000);
    }
    assert!(reader.samples().unwrap().take().is_some());
    assert!(reader.events().unwrap().sample_limited > 0);
    // A peer that nobody has configured is refused.
    apply(&mut filter, &[peer(1, None, Peer::default())]);
    assert!(!lab.arrives(RIGHT));
    let off = Peer { mode: Mode::Off as u8, ..Peer::default() };
    apply(&mut filter, &[peer(1, Some(identity(lab.ifindex(), 1)), off)]);
    assert!(lab.arrives(RIGHT) && lab.arrives(WRONG));
    filter.remove().unwrap();
}
