//! Probes that are answered, and how long it takes.

use std::{
    io::Read,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::time::sleep;
use wgrouted::{
    core::{
        reach::{
            event::{ProbeId, ReachRequest, SubjectId},
            rule::ProbeKind::{Icmp, Udp},
        },
        time::Time,
    },
    reach::prober::datagram::Datagram,
};

use crate::{
    lab::{Asker, FAR, Lab, PATIENCE, PORT, answer, far_addresses, runtime, target},
    support::netns::try_ip,
};

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn every_kind_of_address_answers_icmp() {
    let lab = Lab::new();
    runtime().block_on(async {
        let mut asker = Asker::new();
        for _ in 0..2 {
            asker.all_answer(lab.near_link(), &far_addresses(), Icmp).await;
        }
        asker.silence().await;
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn every_kind_of_address_answers_udp_in_both_directions() {
    let lab = Lab::new();
    let (near, far) = (lab.near_link(), lab.far_link());
    runtime().block_on(async {
        let mut asker = Asker::new();
        asker.answer(vec![near]);
        let there = lab.answer();
        asker.all_answer(near, &far_addresses(), Udp).await;
        drop(there);
        // The other way round, by the same socket here.
        let probe = ProbeId { subject: SubjectId(1), address: 0, sequence: 9 };
        let ask = |address| ReachRequest::Probe { probe, target: target(far, address, Udp) };
        let there = lab.far.prober(vec![answer(vec![far]), ask("10.0.0.1"), ask("fe80::1")]);
        let mut answers = 0;
        let began = Instant::now();
        while answers < 2 && began.elapsed() < PATIENCE {
            sleep(Duration::from_millis(10)).await;
            answers += there.events.try_iter().count();
        }
        assert_eq!(answers, 2);
        asker.silence().await;
    });
}

/// Somebody far away who answers correctly, but late.
fn slow_echo(lab: &Lab, delay: Duration) {
    lab.far.run(move || {
        let socket = UdpSocket::bind((FAR, PORT)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                thread::sleep(delay);
                let datagram = Datagram::parse(&buffer[..length]).unwrap();
                socket.send_to(&datagram.answer().encode(), from).unwrap();
            }
        });
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn delay_shows_in_the_round_trip_time() {
    let lab = Lab::new();
    let delay = Duration::from_millis(50);
    slow_echo(&lab, delay);
    runtime().block_on(async {
        let mut asker = Asker::new();
        asker.answer(vec![]);
        for _ in 0..3 {
            let probe = asker.ask(target(lab.near_link(), FAR, Udp));
            let rtt = asker.answered(probe).await.rtt;
            println!("an echo after {delay:?}: {rtt:?}");
            assert!(rtt >= delay && rtt < 20 * delay, "{rtt:?}");
        }
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn delay_of_the_cable_shows_in_the_round_trip_time() {
    let lab = Lab::new();
    let netem = ["qdisc", "add", "dev", "near0", "root", "netem", "delay", "40ms"];
    let made = std::process::Command::new("tc").args(netem).output().unwrap();
    if !made.status.success() {
        println!("SKIPPED: {}", String::from_utf8_lossy(&made.stderr).trim());
        return;
    }
    runtime().block_on(async {
        let mut asker = Asker::new();
        for address in far_addresses() {
            // The first waits for the neighbour's address too.
            let link = lab.near_link();
            let first = asker.ask(target(link, address, Icmp));
            asker.answered(first).await;
            let probe = asker.ask(target(link, address, Icmp));
            let rtt = asker.answered(probe).await.rtt;
            println!("40 ms to {address}: {rtt:?}");
            assert!(rtt >= Duration::from_millis(40) && rtt < Duration::from_secs(1));
        }
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn a_busy_thread_neither_lengthens_round_trips_nor_makes_answers_late() {
    let lab = Lab::new();
    runtime().block_on(async {
        let mut asker = Asker::new();
        // The kernel starts to stamp packets a moment after it was asked to.
        asker.all_answer(lab.near_link(), &[FAR], Icmp).await;
        sleep(Duration::from_millis(200)).await;
        let sent = Time(asker.started.elapsed());
        let probe = asker.ask(target(lab.near_link(), FAR, Icmp));
        let busy = Duration::from_millis(500);
        thread::sleep(busy);
        let answered = asker.answered(probe).await;
        println!("read {busy:?} later: {:?}", answered.rtt);
        assert!(answered.rtt < busy / 2, "{answered:?}");
        assert!(answered.received.since(sent) < busy / 2, "{answered:?}");
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn nobody_answers_from_a_link_that_was_cut() {
    let lab = Lab::new();
    runtime().block_on(async {
        let mut asker = Asker::new();
        asker.all_answer(lab.near_link(), &far_addresses(), Icmp).await;
        lab.far.ip("link set far0 down");
        asker.ask(target(lab.near_link(), FAR, Icmp));
        asker.silence().await;
        // The kernel tells of a lost carrier in its own time (net/core/link_watch.c: up to a second).
        let until = Instant::now() + PATIENCE;
        while !try_ip("link show near0").unwrap().contains("NO-CARRIER") {
            assert!(Instant::now() < until, "near0 did not notice");
            sleep(Duration::from_millis(50)).await;
        }
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn probes_and_answers_are_marked_as_network_control() {
    let lab = Lab::new();
    // Everything on the cable, without Ethernet headers (packet(7)).
    let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
    let mut sniffer = Socket::new(Domain::PACKET, Type::DGRAM, Some(all)).unwrap();
    sniffer.set_read_timeout(Some(PATIENCE)).unwrap();
    runtime().block_on(async {
        let mut asker = Asker::new();
        asker.answer(vec![]);
        let _there = lab.answer();
        asker.all_answer(lab.near_link(), &far_addresses(), Icmp).await;
        asker.all_answer(lab.near_link(), &far_addresses(), Udp).await;
    });
    let (mut requests, mut answers) = (0, 0);
    let mut packet = [0; 256];
    while requests < 8 || answers < 4 {
        let length = sniffer.read(&mut packet).expect("all that was sent is seen");
        let (class, hops, protocol, payload) = match packet[0] >> 4 {
            4 => (packet[1], packet[8], packet[9], &packet[20..length]),
            6 => (packet[0] << 4 | packet[1] >> 4, packet[7], packet[6], &packet[40..length]),
            // ARP.
            _ => continue,
        };
        let (udp, icmp, icmp_v6) = (17, 1, 58);
        let is_request = (protocol == icmp && payload[0] == 8)
            || (protocol == icmp_v6 && payload[0] == 128)
            || (protocol == udp && payload[8 + 5] == 1);
        let is_answer = protocol == udp && payload[8 + 5] == 2;
        if is_request || is_answer {
            assert_eq!((class, hops), (0xc0, 255), "{:?}", &packet[..length]);
        }
        requests += u32::from(is_request);
        answers += u32::from(is_answer);
    }
}
