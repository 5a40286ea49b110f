//! Policies, replaced while packets pass.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use ebpf_xdp::layout::{Reason, Rule};
use wgrouted::target::filter::{FilterReader, FilterTarget, KernelFilter};

use crate::lab::{
    DIRECTORY, Lab, RIGHT, apply, hook, identity, packet, peer, plan, policy, strict, udp_to,
};

/// A policy that drops port 9000 by its last rule, after others that say the same of `marks`
/// other ports. A mixture with one that begins otherwise, or with rules of nobody, would accept.
fn dropping(id: u16, marks: u16, shift: u16) -> wgrouted::core::filter::table::FilterChange {
    let mut rules: Vec<Rule> = (0..marks).map(|n| udp_to(10_000 + shift + n, true)).collect();
    rules.push(udp_to(9000, false));
    policy(id, true, false, rules)
}

/// Accepts port 9000 by its first rule: its rules must never be read for another's.
fn accepting(id: u16, count: u16) -> wgrouted::core::filter::table::FilterChange {
    policy(id, false, false, vec![udp_to(9000, true); usize::from(count)])
}

#[test]
#[ignore = "needs root"]
fn a_policy_is_replaced_whole_and_counters_go_on() {
    let lab = Lab::new();
    let mut filter = lab.filter(&plan());
    let me = Some(identity(lab.ifindex(), 1));
    apply(&mut filter, &[dropping(1, 10, 0), peer(1, me, strict(1))]);
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
    let sender = lab.tun.sender();
    let flood = thread::spawn(move || {
        let dropped = packet(RIGHT, 9000);
        while !stopped.load(Ordering::Relaxed) {
            sender.send(&dropped);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    // Of 256 rules 102 are taken at most, so there is always a run that is long enough; what one
    // policy frees is soon the other's.
    for round in 0..300 {
        apply(
            &mut filter,
            &[dropping(1, 5 + round % 30, round), accepting(2, 1 + (round * 7) % 30)],
        );
        if round % 9 == 0 {
            use wgrouted::core::filter::table::FilterChange;
            apply(&mut filter, &[FilterChange::Policy { id: 2, policy: None }]);
        }
    }
    stop.store(true, Ordering::Relaxed);
    flood.join().unwrap();
    let sent = sent.load(Ordering::Relaxed);
    println!("{sent} packets");
    let counts = FilterReader::open(DIRECTORY).unwrap().counters().unwrap();
    // Router solicitations of the host's own do not come in by the device.
    let of_peer: Vec<_> = counts.iter().filter(|count| count.peer == 1).collect();
    assert_eq!(of_peer.len(), 1, "{of_peer:?}");
    assert_eq!((of_peer[0].reason, of_peer[0].counter.packets), (Reason::Rule, sent));
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn rules_of_an_earlier_daemon_are_freed_when_room_is_wanted() {
    use wgrouted::core::filter::table::FilterChange;
    let lab = Lab::new();
    let mut filter = lab.filter(&plan());
    let me = Some(identity(lab.ifindex(), 1));
    let many = |id, count| policy(id, false, false, vec![udp_to(9000, true); count]);
    apply(&mut filter, &[many(1, 100), many(2, 100), many(3, 56), peer(1, me, strict(2))]);
    assert_eq!(filter.apply(&[many(4, 1)]).unwrap().failed, [(0, libc::ENOSPC)]);
    drop(filter);
    let mut filter = KernelFilter::new(DIRECTORY);
    filter.open(&plan()).unwrap();
    hook(&filter.attach(&lab.links(false)));
    // Policy 2 is in use, and not overwritten.
    let report = filter.apply(&[many(9, 100), many(8, 57), many(7, 56), many(6, 1)]).unwrap();
    assert_eq!(report.failed, [(1, libc::ENOSPC), (3, libc::ENOSPC)]);
    let reader = FilterReader::open(DIRECTORY).unwrap();
    let verdict = reader.probe(lab.ifindex(), &packet(RIGHT, 9000)).unwrap();
    assert_eq!((verdict.reason, verdict.rule), (Reason::Accept, 1));
    apply(&mut filter, &[peer(1, me, strict(9)), FilterChange::Policy { id: 2, policy: None }]);
    apply(&mut filter, &[many(6, 100)]);
    let too_many = vec![Rule::ANY; ebpf_xdp::layout::MAX_RULES as usize + 1];
    let report = filter.apply(&[policy(1, true, false, too_many), many(0, 1)]).unwrap();
    assert_eq!(report.failed, [(0, libc::E2BIG), (1, libc::E2BIG)]);
    filter.remove().unwrap();
}
