//! Listening too slowly, and fast enough.

use std::{collections::BTreeSet, fmt::Write as _, net::Ipv4Addr, time::Instant};

use support::{
    netns::{fresh, ip},
    routes::{self, RouteWriter},
};
use wgrouted::core::prefix::Prefix;

use super::*;

const COUNT: u32 = 120_000;

fn prefix(i: u32) -> String {
    format!("{}/32", Ipv4Addr::from(0x2000_0000 | i))
}

fn write(op: RouteOp, oif: IfIndex, range: impl Iterator<Item = u32>) {
    let mut writer = RouteWriter::open();
    for i in range {
        writer.write(op, &route(&prefix(i), oif, "10.0.0.2"));
    }
    writer.flush();
}

fn dumped(oif: IfIndex) -> BTreeSet<Prefix> {
    let scope = Scope { family: Family::V4, table: Some(TABLE_MAIN), oif: Some(oif) };
    all_routes(scope).iter().filter(|route| is_ours(route)).map(|route| route.prefix).collect()
}

/// What iproute2 says that there is.
fn listed(name: &str) -> BTreeSet<Prefix> {
    let text = ip(&format!("-4 route show table main proto bird dev {name}"));
    text.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect()
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn an_overrun_is_one_loss_after_all_that_was_queued() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    let mut watch = Watch::open(64 * 1024);
    write(RouteOp::Add, v0, 0..COUNT);
    let events = watch.until(|event| *event == NetEvent::Lost);
    let before: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            NetEvent::Route(event) if is_ours(&event.route) => Some(event.route.prefix),
            _ => None,
        })
        .collect();
    assert_eq!(events.iter().filter(|event| **event == NetEvent::Lost).count(), 1);
    assert_eq!(events.last(), Some(&NetEvent::Lost));
    let queued: Vec<Prefix> =
        (0..before.len() as u32).map(|i| prefix(i).parse().unwrap()).collect();
    assert!(!before.is_empty() && before.len() < 2000, "{}", before.len());
    assert_eq!(before, queued, "the oldest, in order");
    println!("{} of {COUNT} were queued in {} bytes", before.len(), watch.monitor.receive_buffer());

    // What is announced from here on arrives.
    ip("route add 192.0.2.0/24 via 10.0.0.2 proto bird");
    assert_eq!(watch.route_news(), ["Add 192.0.2.0/24 via 10.0.0.2"]);
    assert_eq!(watch.monitor.counters().overruns, 1);
    let start = Instant::now();
    let dumped = dumped(v0);
    println!("dump: {:.0} routes a second", f64::from(COUNT) / start.elapsed().as_secs_f64());
    assert_eq!(dumped.len(), COUNT as usize + 1);
    assert_eq!(dumped, listed("v0"));
}

/// A picture kept by events, and by a dump after each loss, is right in the end, deletions
/// included, while the routes change faster than they are read.
#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_picture_survives_overruns_under_load() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    let mut watch = Watch::open(256 * 1024);
    let writer = thread::spawn(move || {
        write(RouteOp::Add, v0, 0..COUNT);
        write(RouteOp::Delete, v0, (0..COUNT).filter(|i| i % 3 == 0));
        ip(&format!("route add blackhole 255.255.255.255 table {MARKER_TABLE}"));
    });
    let marker = Scope { family: Family::V4, table: Some(MARKER_TABLE), oif: None };
    let (mut picture, mut losses, mut done) = (BTreeSet::new(), 0, false);
    let mut events = Vec::new();
    while !done {
        events.clear();
        watch.recv(&mut events);
        for event in &events {
            match event {
                NetEvent::Lost => {
                    losses += 1;
                    // The marker may be what was lost.
                    done |= !all_routes(marker).is_empty();
                    picture = dumped(v0);
                }
                NetEvent::Route(event) if is_ours(&event.route) => {
                    match event.op {
                        RouteOp::Delete => picture.remove(&event.route.prefix),
                        _ => picture.insert(event.route.prefix),
                    };
                }
                NetEvent::Route(event) => done |= event.route.path.table == MARKER_TABLE,
                _ => {}
            }
        }
    }
    writer.join().unwrap();
    let counters = watch.monitor.counters();
    println!("{losses} losses, {counters:?}");
    assert_eq!(counters.decode_errors, 0);
    assert_eq!(picture.len(), COUNT as usize / 3 * 2);
    assert_eq!(picture, listed("v0"));
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_large_buffer_takes_a_burst() {
    if !fresh() {
        return;
    }
    // A notification takes 832 bytes of the buffer on Linux 6.18, and more on 6.1.
    const BURST: u32 = COUNT / 2;
    let (v0, _) = two_links();
    let mut watch = Watch::open(64 << 20);
    if watch.monitor.receive_buffer() < 64 << 20 {
        println!("SKIPPED: SO_RCVBUFFORCE needs root in the initial user namespace");
        return;
    }
    let start = Instant::now();
    write(RouteOp::Add, v0, 0..BURST);
    let written = start.elapsed();
    let start = Instant::now();
    let last = prefix(BURST - 1).parse().unwrap();
    let is_last = |event: &NetEvent| matches!(event, NetEvent::Route(e) if e.route.prefix == last);
    let events = watch.until(is_last);
    let rate = |elapsed: Duration| f64::from(BURST) / elapsed.as_secs_f64();
    println!("write: {:.0} routes a second", rate(written));
    println!("monitor: {:.0} routes a second", rate(start.elapsed()));
    assert_eq!(events.iter().filter_map(route_news).count(), BURST as usize);
    assert_eq!(watch.monitor.counters().overruns, 0);
}

/// A notification that does not fit the buffers is a loss like any other.
#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_message_that_is_too_large_is_a_loss() {
    if !fresh() {
        return;
    }
    two_links();
    let mut batch = String::new();
    for id in 1..=4200 {
        writeln!(batch, "nexthop add id {id} via 10.0.0.2 dev v0").unwrap();
    }
    let file = std::env::temp_dir().join(format!("wgrouted-nexthops-{}", std::process::id()));
    std::fs::write(&file, batch).unwrap();
    ip(&format!("-batch {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    let mut watch = Watch::open(1 << 20);
    routes::add_nexthop_group(9000, 1..=4200);
    assert_eq!(watch.until(|event| *event == NetEvent::Lost), [NetEvent::Lost]);
    assert_eq!(watch.monitor.counters().overruns, 1);
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_stopped_monitor_returns() {
    if !fresh() {
        return;
    }
    let mut monitor = Monitor::open(1 << 20).unwrap();
    let stopper = monitor.stopper();
    let thread = thread::spawn(move || {
        let mut events = Vec::new();
        (monitor.recv(&mut events).unwrap(), monitor.recv(&mut events).unwrap())
    });
    thread::sleep(Duration::from_millis(50));
    assert!(!thread.is_finished());
    stopper.stop();
    assert_eq!(thread.join().unwrap(), (Wake::Stopped, Wake::Stopped));
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test netns_source -- --ignored"]
fn a_knock_comes_behind_what_was_announced_before_it() {
    if !fresh() {
        return;
    }
    let (v0, _) = two_links();
    let mut monitor = Monitor::open(64 << 20).unwrap();
    let knocker = monitor.knocker().unwrap();
    const ROUTES: u32 = 20_000;
    write(RouteOp::Add, v0, 0..ROUTES);
    knocker.knock(7).unwrap();
    write(RouteOp::Add, v0, ROUTES..2 * ROUTES);
    knocker.knock(8).unwrap();
    let (mut events, mut heard) = (Vec::new(), Vec::new());
    while heard != [7, 8] {
        monitor.recv(&mut events).unwrap();
        for number in monitor.take_knocks() {
            let routes = events.iter().filter(|event| matches!(event, NetEvent::Route(_))).count();
            assert!(routes >= (ROUTES * (number as u32 - 6)) as usize, "{routes} at {number}");
            heard.push(number);
        }
    }
}
