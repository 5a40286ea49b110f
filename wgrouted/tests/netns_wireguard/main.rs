//! The kernel's WireGuard, through our door to it.
//!
//! Here live the sentences that the encoder, the decoder and the fake device rely on, asked of a
//! real kernel: each test in a network namespace of its own, checked with `wg show`. Needs root,
//! iproute2 and wireguard-tools:
//! `sudo -E cargo test --release -p wgrouted --test netns_wireguard -- --ignored`

#![allow(clippy::unwrap_used)]

mod lab;
mod raw;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use wgrouted::{
    core::{peer::PublicKey, prefix::Prefix},
    target::wireguard::{
        Batch, Device, GRAVEYARD, KernelWireguard, MAX_MESSAGE, WgError, WireguardTarget,
    },
};

use crate::{
    lab::{Lab, PRESHARED_KEY, PRIVATE_KEY, dumped, key, nth, p, run, set, shown, unset},
    raw::raw,
};

/// Whether this kernel knows `WGALLOWEDIP_F_REMOVE_ME`, by a removal that is seen to happen.
fn knows_remove_me(lab: &mut Lab) -> bool {
    let prefix = p("203.0.113.0/24");
    lab.apply(&[set(prefix, None, 0)]);
    let known = match raw(lab.ifindex, lab.keys[0], prefix, Some(1)) {
        0 => {
            assert_eq!(shown().get(&prefix), None);
            true
        }
        libc::EINVAL => {
            assert_eq!(shown().get(&prefix), Some(&lab.keys[0]));
            false
        }
        errno => panic!("{errno}"),
    };
    println!("REMOVE_ME is {}", if known { "known" } else { "not known" });
    known
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn the_kernel_treats_flags_as_the_probe_assumes() {
    let mut lab = Lab::new(2);
    let (ours, other, absent) = (p("10.0.0.0/8"), p("10.1.0.0/16"), p("10.2.0.0/16"));
    lab.apply(&[set(ours, None, 0), set(other, None, 1)]);
    let before = shown();
    let modern = knows_remove_me(&mut lab);
    let (ifindex, key, gone) = (lab.ifindex, lab.keys[0], key(99));
    let otherwise = |errno| if modern { errno } else { libc::EINVAL };
    lab.apply(&[unset(p("203.0.113.0/24"), 0)]);

    // Not the owner, or not there: success without a change.
    assert_eq!(raw(ifindex, key, other, Some(1)), otherwise(0));
    assert_eq!(raw(ifindex, key, absent, Some(1)), otherwise(0));
    assert_eq!(shown(), before);
    // Flags that do not exist.
    assert_eq!(raw(ifindex, key, absent, Some(2)), libc::EINVAL);
    assert_eq!(raw(ifindex, key, absent, Some(u32::MAX)), libc::EINVAL);
    assert_eq!(shown(), before);
    // No flags in the attribute: added.
    assert_eq!(raw(ifindex, key, absent, Some(0)), otherwise(0));
    assert_eq!(shown().get(&absent), modern.then_some(&key));
    // A peer that is gone: success, whatever is asked; newer kernels check the flags first.
    assert_eq!(raw(ifindex, gone, absent, None), 0);
    let removal = raw(ifindex, gone, absent, Some(1));
    let nonsense = raw(ifindex, gone, absent, Some(u32::MAX));
    println!("to a peer that is gone: REMOVE_ME {removal}, all flags {nonsense}");
    assert_eq!(removal, 0);
    assert!([0, libc::EINVAL].contains(&nonsense));
    assert!(!run("wg show wg0 peers", "").contains(&gone.to_string()));
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn sets_moves_and_removals_arrive() {
    let mut lab = Lab::new(3);
    let modern = knows_remove_me(&mut lab);
    lab.apply(&[unset(p("203.0.113.0/24"), 0)]);
    let (a, b, c) = (p("10.0.0.0/8"), p("2001:db8::/32"), p("192.0.2.7/32"));

    lab.apply(&[
        set(c, None, 0),
        set(b, None, 0),
        set(a, None, 0),
        set(Prefix::DEFAULT_V4, None, 2),
    ]);
    let keys = lab.keys.clone();
    let mut expected =
        BTreeMap::from([(a, keys[0]), (b, keys[0]), (c, keys[0]), (Prefix::DEFAULT_V4, keys[2])]);
    assert_eq!(shown(), expected);

    lab.apply(&[set(a, Some(0), 1), unset(b, 0), unset(c, 0)]);
    expected.insert(a, keys[1]);
    expected.remove(&b);
    expected.remove(&c);
    assert_eq!(shown(), expected);
    // Again: nothing changes.
    let report = lab.apply(&[set(a, Some(0), 1), unset(b, 0), unset(c, 0)]);
    assert_eq!((shown(), report.failed), (expected.clone(), vec![]));

    let device = lab.dump();
    assert_eq!(dumped(&device), expected);
    assert_eq!(device.peers.iter().map(|peer| peer.public_key).collect::<Vec<_>>(), keys);
    assert_eq!((device.name.as_str(), device.listen_port), ("wg0", 51820));
    assert_eq!(device.graveyard, []);
    // Where the flag is known, the graveyard never comes to be.
    let graveyard = run("wg show wg0 peers", "").contains(&GRAVEYARD.to_string());
    assert_eq!(graveyard, !modern);

    if modern {
        // The owner is checked: what somebody else moved stays.
        run(&format!("wg set wg0 peer {} allowed-ips 10.0.0.0/8", keys[2]), "");
        lab.apply(&[unset(a, 1)]);
        assert_eq!(shown().get(&a), Some(&keys[2]));
    }
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn the_graveyard_is_invisible_and_replaceable() {
    let mut lab = Lab::new(1);
    let (lost, ours) = (p("10.9.0.0/16"), p("10.8.0.0/16"));
    // As a removal that was cut short leaves it.
    run(&format!("wg set wg0 peer {GRAVEYARD} allowed-ips {lost}"), "");
    lab.apply(&[set(ours, None, 0)]);
    let device = lab.dump();
    assert_eq!((device.peers.len(), device.allowed_ips.len()), (1, 1));
    assert_eq!(device.graveyard, [lost]);

    lab.wg.bury(lab.ifindex).unwrap();
    assert_eq!(lab.dump().graveyard, []);
    assert!(run("wg show wg0 peers", "").contains(&GRAVEYARD.to_string()), "it is permanent");

    for _ in 0..2 {
        lab.apply(&[unset(ours, 0)]);
        assert_eq!(shown(), BTreeMap::new());
        // Somebody tidies up.
        run(&format!("wg set wg0 peer {GRAVEYARD} remove"), "");
        lab.wg.bury(lab.ifindex).unwrap();
        assert!(!run("wg show wg0 peers", "").contains(&GRAVEYARD.to_string()));
        lab.apply(&[set(ours, None, 0)]);
        assert_eq!(shown().len(), 1);
    }
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn peers_are_never_touched() {
    let mut lab = Lab::new(2);
    run(
        &format!(
            "wg set wg0 peer {} preshared-key /dev/stdin endpoint 192.0.2.1:5000 \
             persistent-keepalive 25 peer {} endpoint [2001:db8::1]:6000",
            lab.keys[0], lab.keys[1]
        ),
        PRESHARED_KEY,
    );
    // Everything of `wg show dump` but the allowed IPs and the graveyard.
    let settings = || -> Vec<Vec<String>> {
        let dump = run("wg show wg0 dump", "");
        let lines = dump.lines().filter(|line| !line.starts_with(&GRAVEYARD.to_string()));
        let words = lines.map(|line| line.split('\t').map(str::to_owned).collect::<Vec<_>>());
        words
            .map(|mut words| {
                if words.len() > 4 {
                    words.remove(3);
                }
                words
            })
            .collect()
    };
    let before = settings();
    let gone = lab.keys.len() as u32;
    lab.keys.push(key(99));
    lab.apply(&[set(p("10.0.0.0/8"), None, 0), set(p("10.1.0.0/16"), None, gone)]);
    lab.apply(&[set(p("10.0.0.0/8"), Some(0), 1), unset(p("10.1.0.0/16"), gone)]);
    lab.apply(&[unset(p("10.0.0.0/8"), 1)]);
    assert_eq!(settings(), before);
    assert_eq!(shown(), BTreeMap::new());

    let device = lab.dump();
    assert_eq!(device.peers[0].endpoint, Some("192.0.2.1:5000".parse().unwrap()));
    assert_eq!(device.peers[1].endpoint, Some("[2001:db8::1]:6000".parse().unwrap()));
    assert_eq!(device.peers[0].persistent_keepalive, 25);
    assert_eq!(device.peers[0].last_handshake, None);
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn secrets_stay_in_the_kernel() {
    let mut lab = Lab::new(1);
    run(&format!("wg set wg0 peer {} preshared-key /dev/stdin", lab.keys[0]), PRESHARED_KEY);
    let device = lab.dump();
    let public = run("wg show wg0 public-key", "");
    assert_eq!(device.public_key.unwrap().to_string(), public.trim());
    for secret in [PRIVATE_KEY, PRESHARED_KEY] {
        let bytes = secret.parse::<PublicKey>().unwrap();
        let json = serde_json::to_string(&device).unwrap();
        for text in [format!("{device:?}"), json, format!("{:?}", lab.wg)] {
            assert!(!text.contains(secret));
            assert!(!text.contains(format!("{:?}", bytes.0).trim_matches(['[', ']'])));
        }
    }
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn errors_name_the_link() {
    let mut lab = Lab::new(1);
    let peers = lab.keys.clone();
    let changes = [set(p("10.0.0.0/8"), None, 0)];
    let batch = Batch { peers: &peers, changes: &changes };
    // The loopback interface has number 1 in every namespace.
    assert_eq!(lab.wg.dump(1), Err(WgError::NotWireguard(1)));
    assert_eq!(lab.wg.apply(1, batch), Err(WgError::NotWireguard(1)));
    assert_eq!(lab.wg.dump(4711), Err(WgError::NoDevice(4711)));
    assert_eq!(lab.wg.apply(4711, batch), Err(WgError::NoDevice(4711)));

    run("ip link delete wg0", "");
    assert_eq!(lab.wg.apply(lab.ifindex, batch), Err(WgError::NoDevice(lab.ifindex)));
    assert_eq!(lab.wg.bury(lab.ifindex), Err(WgError::NoDevice(lab.ifindex)));

    caps::drop(None, caps::CapSet::Effective, caps::Capability::CAP_NET_ADMIN).unwrap();
    assert_eq!(lab.wg.dump(lab.ifindex), Err(WgError::NotPermitted));
    assert_eq!(lab.wg.apply(lab.ifindex, batch), Err(WgError::NotPermitted));
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn pieces_of_peers_are_joined() {
    for (peers, limit) in [(1, 512), (3, MAX_MESSAGE)] {
        let mut lab = Lab::new(peers);
        lab.wg = KernelWireguard::with_message_limit(limit).unwrap();
        let changes: Vec<_> = (0..15_000).map(|n| set(nth(n), None, n % peers)).collect();
        let report = lab.apply(&changes);
        assert_eq!(report.failed, []);
        let device = lab.dump();
        assert_eq!(device.peers.len(), peers as usize);
        let table = dumped(&device);
        assert_eq!(table.len(), 15_000);
        assert_eq!(table, shown());
    }
}

/// Counts the dumps that we were told to throw away.
#[derive(Clone, Default)]
struct Torn(Arc<AtomicUsize>);

impl Write for Torn {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if String::from_utf8_lossy(line).contains("the device changed during its dump") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn a_dump_among_edits_is_whole_or_an_error() {
    let mut lab = Lab::new(10);
    let table: Vec<_> = (0..100_000).map(|n| set(nth(n), None, n % 10)).collect();
    lab.apply(&table);
    // What the other program edits.
    let edited = p("203.0.113.0/24");
    let whole = |device: &Device| {
        let table = dumped(device);
        (0..100_000).all(|n| table.contains_key(&nth(n)))
            && table.len() - usize::from(table.contains_key(&edited)) == 100_000
    };

    let torn = Torn::default();
    let writer = torn.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let (ifindex, keys) = (lab.ifindex, lab.keys.clone());
    let stop = Arc::new(AtomicBool::new(false));
    let edit = |until: Arc<AtomicBool>, keys: Vec<PublicKey>| {
        thread::spawn(move || {
            let mut wg = KernelWireguard::open().unwrap();
            let mut edits = 0u32;
            while !until.load(Ordering::Relaxed) {
                let changes = [set(edited, None, edits % 10)];
                wg.apply(ifindex, Batch { peers: &keys, changes: &changes }).unwrap();
                edits += 1;
            }
            edits
        })
    };

    // Without a pause: whole, or an error that says so.
    let editor = edit(stop.clone(), keys.clone());
    match lab.wg.dump(ifindex) {
        Ok(device) => assert!(whole(&device)),
        Err(error) => assert_eq!(error, WgError::Unstable { ifindex, attempts: 10 }),
    }
    stop.store(true, Ordering::Relaxed);
    let edits = editor.join().unwrap();
    let discarded = torn.0.swap(0, Ordering::Relaxed);
    println!("{edits} edits without a pause, {discarded} dumps discarded");
    assert!(discarded > 0);

    // An end to the edits comes in time: whole.
    let stop = Arc::new(AtomicBool::new(false));
    let editor = edit(stop.clone(), keys);
    let stopper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
    });
    let device = lab.dump();
    println!("{} dumps discarded before the edits ended", torn.0.load(Ordering::Relaxed));
    stopper.join().unwrap();
    editor.join().unwrap();
    assert!(whole(&device));
}

#[test]
#[ignore = "needs root and kernel WireGuard: see the top of the file"]
fn a_million_prefixes_there_and_back() {
    const MILLION: u32 = 1_000_000;
    for peers in [1, 100] {
        let mut lab = Lab::new(peers);
        let owner = |n: u32| n.wrapping_mul(0x9e37_79b1) % peers;
        let mut changes: Vec<_> = (0..MILLION).map(|n| set(nth(n), None, owner(n))).collect();
        changes.sort_by_key(|change| std::cmp::Reverse(change.prefix.prefix_len()));
        let mut expected: Vec<_> = changes.iter().map(|c| (c.prefix, c.new.unwrap())).collect();
        expected.sort_unstable();

        let begun = Instant::now();
        let report = lab.apply(&changes);
        let applied = begun.elapsed();
        assert_eq!(report.failed, []);
        let begun = Instant::now();
        let mut device = lab.dump();
        println!(
            "{peers} peers: applied in {applied:?} ({} messages, longest {:?}), dumped in {:?}",
            report.messages,
            report.longest_message,
            begun.elapsed(),
        );
        device.allowed_ips.sort_unstable();
        assert!(device.allowed_ips == expected);

        // One in ten goes, on whichever way this kernel has.
        let removals: Vec<_> =
            (0..MILLION / 10).map(|n| unset(nth(n * 10), owner(n * 10))).collect();
        let begun = Instant::now();
        let report = lab.apply(&removals);
        println!(
            "{peers} peers: removed {} in {:?} ({} messages, longest {:?})",
            removals.len(),
            begun.elapsed(),
            report.messages,
            report.longest_message,
        );
        let device = lab.dump();
        assert_eq!(device.allowed_ips.len(), (MILLION - MILLION / 10) as usize);
        assert_eq!(device.graveyard, []);
    }
}
