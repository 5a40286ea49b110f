//! Many probes.

use std::{net::Ipv4Addr, time::Duration};

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use wgrouted::core::reach::{
    event::{ProbeId, ReachEvent, ReachRequest, SubjectId, Target},
    rule::ProbeKind::{self, Icmp, Udp},
};

use crate::{
    lab::{Asker, FAR, Lab, PATIENCE, runtime},
    support::netns::ip,
};

const SECONDS: u32 = 3;
/// Each tick asks a tenth of all, and each is asked ten times a second.
const TICK: Duration = Duration::from_millis(10);
const TICKS: u32 = SECONDS * 100;

/// What the thread has worked so far, user and system time.
fn worked() -> Duration {
    // SAFETY: the kernel fills in the structure, which is numbers.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
        usage
    };
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
    };
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// Packets that this machine dropped between its own links, because their queue was full: the
/// cable's loss, if others keep the machine busy (`softnet_seq_show`, net/core/net-procfs.c).
fn dropped() -> u32 {
    let cpus = std::fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let of = |line: &str| u32::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    cpus.lines().map(of).sum()
}

fn all_answer(targets: u32, kind: ProbeKind) {
    let lab = Lab::new();
    lab.far.ip("route add local 10.1.0.0/16 dev lo");
    ip(&format!("route add 10.1.0.0/16 via {FAR} dev near0"));
    let _there = lab.answer();
    let ifindex = lab.near_link();
    runtime().block_on(async {
        let mut asker = Asker::new();
        asker.answer(vec![ifindex]);
        asker.all_answer(ifindex, &[FAR], kind).await;
        let (mut answered, mut unsent, mut rtts) = (0, 0, Vec::new());
        let began = worked();
        let before = dropped();
        let mut tick = interval(TICK);
        // Not all at once after a pause in which others had the machine.
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = 0;
        while round < TICKS {
            tokio::select! {
                _ = tick.tick() => {
                    for subject in (0..targets).filter(|subject| subject % 10 == round % 10) {
                        let address = Ipv4Addr::from(0x0a01_0000 + 256 + subject).into();
                        let sequence = u64::from(round);
                        let probe = ProbeId { subject: SubjectId(subject), address: 0, sequence };
                        let target = Target { ifindex, address, kind };
                        asker.prober.carry_out(ReachRequest::Probe { probe, target });
                    }
                    round += 1;
                }
                Some(event) = asker.events.recv() => count(
                    &event, &mut answered, &mut unsent, &mut rtts,
                ),
            }
        }
        let limit = Instant::now() + PATIENCE;
        while answered + unsent < targets * SECONDS * 10 && Instant::now() < limit {
            sleep(TICK).await;
            while let Ok(event) = asker.events.try_recv() {
                count(&event, &mut answered, &mut unsent, &mut rtts);
            }
        }
        let cpu = worked() - began;
        rtts.sort_unstable();
        println!(
            "{kind:?}: {targets} targets, 10 a second, {SECONDS} s: {answered} answered, {unsent} \
             unsent; {cpu:?} of CPU, {:.1} % of one; round trips: median {:?}, longest {:?}",
            cpu.as_secs_f64() / f64::from(SECONDS) * 100.0,
            rtts[rtts.len() / 2],
            rtts[rtts.len() - 1],
        );
        assert_eq!(unsent, 0);
        assert!(answered + dropped() - before >= targets * SECONDS * 10);
    });
}

fn count(event: &ReachEvent, answered: &mut u32, unsent: &mut u32, rtts: &mut Vec<Duration>) {
    match event {
        ReachEvent::Answered { sent, received, .. } => {
            *answered += 1;
            rtts.push(received.since(*sent));
        }
        ReachEvent::Unsent { .. } => *unsent += 1,
        other => panic!("{other:?}"),
    }
}

#[test]
#[ignore = "needs root: sudo -E cargo test --release -p wgrouted --test reach -- --ignored"]
fn a_thousand_targets_answer_ten_icmp_probes_a_second() {
    all_answer(1000, Icmp);
}

#[test]
#[ignore = "needs root: sudo -E cargo test --release -p wgrouted --test reach -- --ignored"]
fn five_hundred_targets_answer_ten_udp_probes_a_second() {
    // A link answers 10,000 a second at most.
    all_answer(500, Udp);
}
