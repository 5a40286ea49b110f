//! `/metrics`: well-formed, complete, and cheap with thousands of peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use wgrouted::core::{
    peer::PublicKey,
    reach::status::{Reachability, State},
};

use crate::world::{LEFT, World, status};

/// Samples by name and labels, and what each family is. Checks what Prometheus' parser checks.
fn parse(text: &str) -> (BTreeMap<String, f64>, BTreeMap<String, String>) {
    let (mut samples, mut kinds) = (BTreeMap::new(), BTreeMap::new());
    let mut family = String::new();
    let mut done = BTreeSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(done.insert(name.to_owned()), "{name} is there twice");
            assert!(help.ends_with('.') || help.ends_with("1."), "{help}");
            family = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(name, family);
            // As promtool has it: counters end in _total, and nothing else does.
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            kinds.insert(name.to_owned(), kind.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert_eq!(series.split('{').next().unwrap(), family, "{line}");
            let value: f64 = value.parse().unwrap();
            assert!(samples.insert(series.to_owned(), value).is_none(), "{series} twice");
        }
    }
    (samples, kinds)
}

#[tokio::test]
async fn everything_is_there_by_its_name() {
    let world = World::start();
    let answer = world.get("/metrics").await;
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
    let (samples, _) = parse(&answer.body);
    let left = format!("interface=\"wg0\",peer=\"left\",public_key=\"{LEFT}\"");
    for (series, value) in [
        (format!("wgrouted_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1.0),
        ("wgrouted_in_sync".to_owned(), 0.0),
        ("wgrouted_routes{family=\"ipv4\"}".to_owned(), 4.0),
        ("wgrouted_routes{family=\"ipv6\"}".to_owned(), 0.0),
        ("wgrouted_interface_state{interface=\"wg0\",state=\"applying\"}".to_owned(), 1.0),
        ("wgrouted_interface_state{interface=\"wg0\",state=\"in-sync\"}".to_owned(), 0.0),
        ("wgrouted_interface_peers{interface=\"wg0\"}".to_owned(), 2.0),
        ("wgrouted_interface_allowed_ips{interface=\"wg0\"}".to_owned(), 3.0),
        ("wgrouted_interface_unresolved{interface=\"wg0\"}".to_owned(), 1.0),
        ("wgrouted_interface_shadowed{interface=\"wg0\"}".to_owned(), 1.0),
        (format!("wgrouted_peer_allowed_ips{{{left}}}"), 2.0),
        ("wgrouted_peers{interface=\"wg0\",state=\"up\"}".to_owned(), 1.0),
        ("wgrouted_peers{interface=\"wg0\",state=\"unknown\"}".to_owned(), 1.0),
        ("wgrouted_peers{interface=\"wg1\",state=\"up\"}".to_owned(), 0.0),
        (format!("wgrouted_peer_state{{{left},state=\"up\"}}"), 1.0),
        (format!("wgrouted_peer_state{{{left},state=\"down\"}}"), 0.0),
        (format!("wgrouted_peer_rtt_seconds{{{left}}}"), 0.0125),
        (format!("wgrouted_peer_loss_ratio{{{left}}}"), 0.25),
        (format!("wgrouted_peer_probes_total{{{left}}}"), 100.0),
        (format!("wgrouted_peer_handshake_age_seconds{{{left}}}"), 70.0),
        (format!("wgrouted_peer_receive_bytes_total{{{left}}}"), 1000.0),
        (format!("wgrouted_peer_transmit_bytes_total{{{left}}}"), 2000.0),
        (format!("wgrouted_peer_falls_total{{{left}}}"), 1.0),
        (format!("wgrouted_peer_roams_total{{{left}}}"), 2.0),
        ("wgrouted_sink_ok{sink=\"bird\"}".to_owned(), 0.0),
        ("wgrouted_sink_ok{sink=\"routes\"}".to_owned(), 1.0),
        ("wgrouted_flows_in_force".to_owned(), 0.0),
        ("wgrouted_flows_objects{kind=\"rules\"}".to_owned(), 3.0),
        ("wgrouted_exit_state{exit=\"berlin\",state=\"up\"}".to_owned(), 1.0),
        ("wgrouted_exit_link_used{exit=\"berlin\",link=\"wg-c\"}".to_owned(), 1.0),
        ("wgrouted_exit_changes_total{exit=\"berlin\"}".to_owned(), 2.0),
    ] {
        assert_eq!(samples.get(&series), Some(&value), "{series}");
    }
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes"] {
        assert!(samples[name] >= 0.0);
    }
    // What is not known is absent.
    let unprobed = |series: &&String| series.contains("rtt") && series.contains("peer=\"right\"");
    assert_eq!(samples.keys().find(unprobed), None);
    assert!(samples.keys().any(|series| series.starts_with("wgrouted_filter_in_force{")));
}

#[tokio::test]
async fn five_thousand_peers_are_no_burden() {
    let world = World::start();
    let peers = (0..5000_u32).map(|number| {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        status("wg0", &format!("peer-{number}"), PublicKey(bytes), State::Up)
    });
    let picture = Reachability { complete: true, peers: peers.collect(), ..Default::default() };
    world.ends.picture.send_replace(Arc::new(picture));
    let begin = Instant::now();
    let answer = world.get("/metrics").await;
    let took = begin.elapsed();
    let (samples, _) = parse(&answer.body);
    let of_peers = samples.keys().filter(|series| series.contains("peer=\"peer-")).count();
    assert_eq!(of_peers, 5000 * 15, "4 states and 11 figures each");
    println!("{} samples, {} bytes, {took:?}", samples.len(), answer.body.len());
    assert!(answer.body.len() < 16 << 20, "{} bytes", answer.body.len());
    assert!(took < Duration::from_secs(10), "{took:?}");
}
