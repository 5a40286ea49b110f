//! What is believed, and what is answered.

use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use tokio::time::{sleep, timeout};
use wgrouted::{
    core::{
        reach::{
            event::{ProbeId, ReachRequest, SubjectId},
            rule::ProbeKind::Udp,
        },
        time::Time,
    },
    reach::prober::datagram::{Datagram, Kind, LENGTH},
};

use crate::{
    lab::{
        Asker, FAR, FAR_V6, Lab, NEAR, NEAR_V6, PATIENCE, PORT, SILENCE, answer, runtime, target,
    },
    support::netns::ip,
};

/// What a stranger asks.
fn request() -> Datagram {
    Datagram {
        kind: Kind::Request,
        probe: ProbeId { subject: SubjectId(1), address: 2, sequence: 3 },
        sent: Time(Duration::from_secs(4)),
        tag: 5,
    }
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn only_the_right_answer_from_the_right_address_is_believed() {
    let lab = Lab::new();
    lab.far.ip("addr add 10.0.0.3/24 dev far0");
    lab.far.run(|| {
        let socket = UdpSocket::bind((FAR, PORT)).unwrap();
        let other = UdpSocket::bind(("10.0.0.3", PORT)).unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            let asked = Datagram::parse(&buffer[..length]).unwrap();
            let right = asked.answer();
            let later = ProbeId { sequence: right.probe.sequence + 1, ..right.probe };
            for wrong in [
                Datagram { tag: right.tag ^ 1, ..right },
                Datagram { probe: later, ..right },
                Datagram { sent: right.sent + Duration::from_millis(1), ..right },
                // Nor is our own request an answer, and nobody has asked us to answer it.
                asked,
            ] {
                socket.send_to(&wrong.encode(), from).unwrap();
            }
            other.send_to(&right.encode(), from).unwrap();
            socket.send_to(&right.encode()[..LENGTH - 1], from).unwrap();
            thread::sleep(2 * SILENCE);
            socket.send_to(&right.encode(), from).unwrap();
        });
    });
    runtime().block_on(async {
        let mut asker = Asker::new();
        asker.answer(vec![]);
        let probe = asker.ask(target(lab.near_link(), FAR, Udp));
        let answered = asker.answered(probe).await;
        assert!(answered.rtt >= 2 * SILENCE, "a wrong one was believed: {answered:?}");
        asker.silence().await;
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn only_named_links_are_answered_and_the_port_may_change() {
    let lab = Lab::new();
    runtime().block_on(async {
        let (mut asker, near) = (Asker::new(), lab.near_link());
        asker.answer(vec![]);
        let nowhere = lab.far.prober(vec![answer(vec![])]);
        asker.ask(target(near, FAR, Udp));
        asker.silence().await;
        drop(nowhere);
        // One that it opened to send by does not answer either.
        let far = lab.far_link();
        let probe = ProbeId { subject: SubjectId(1), address: 0, sequence: 1 };
        let sends = ReachRequest::Probe { probe, target: target(far, NEAR, Udp) };
        let asks = lab.far.prober(vec![answer(vec![]), sends.clone()]);
        asker.ask(target(near, FAR, Udp));
        asker.silence().await;
        drop(asks);
        sleep(SILENCE).await;
        let asks = lab.far.prober(vec![answer(vec![]), sends, answer(vec![far])]);
        asker.all_answer(near, &[FAR], Udp).await;
        drop(asks);
        sleep(SILENCE).await;
        let port = PORT + 1;
        asker.prober.carry_out(ReachRequest::Answer { links: vec![], port });
        let _there = lab
            .far
            .prober(vec![answer(vec![far]), ReachRequest::Answer { links: vec![far], port }]);
        asker.all_answer(near, &[FAR, "fe80::2"], Udp).await;
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn an_answer_is_a_request_with_another_kind_from_the_address_that_was_asked() {
    let lab = Lab::new();
    ip("addr add 10.0.0.9/24 dev near0");
    ip("addr add fd00::9/64 dev near0 nodad");
    lab.far.run(|| {
        for (own, near, asked) in
            [(FAR, NEAR, "10.0.0.9"), (FAR, NEAR, NEAR), (FAR_V6, NEAR_V6, "fd00::9")]
        {
            thread::spawn(move || {
                // Started before anybody answers: it repeats itself.
                let socket = UdpSocket::bind((own, 0)).unwrap();
                socket.set_read_timeout(Some(SILENCE)).unwrap();
                let request = request();
                let deaf = [
                    request.answer().encode().to_vec(),
                    [&request.encode()[..], b"more"].concat(),
                    vec![0; LENGTH],
                    vec![],
                ];
                let mut buffer = [0; 256];
                let mut answers = 0;
                for _ in 0..10 {
                    deaf.iter().for_each(|octets| {
                        socket.send_to(octets, (asked, PORT)).unwrap();
                    });
                    socket.send_to(&request.encode(), (asked, PORT)).unwrap();
                    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        assert_eq!(buffer[..length], request.answer().encode());
                        assert_eq!(from.ip().to_string(), asked);
                        assert_eq!(from.port(), PORT);
                        answers += 1;
                    }
                }
                // Told to the asker by a datagram that is none.
                println!("{asked} answered {answers} times");
                assert!((5..=10).contains(&answers));
                socket.send_to(asked.as_bytes(), (near, 9999)).unwrap();
            });
        }
    });
    runtime().block_on(async {
        let mut asker = Asker::new();
        asker.answer(vec![lab.near_link()]);
        let (v4, v6) = (
            tokio::net::UdpSocket::bind((NEAR, 9999)).await.unwrap(),
            tokio::net::UdpSocket::bind((NEAR_V6, 9999)).await.unwrap(),
        );
        let mut buffer = [0; 64];
        for socket in [&v4, &v4, &v6] {
            timeout(PATIENCE, socket.recv(&mut buffer))
                .await
                .expect("all strangers are content")
                .unwrap();
        }
        asker.silence().await;
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn a_flood_is_answered_in_measure() {
    let lab = Lab::new();
    let _there = lab.answer();
    let socket = UdpSocket::bind((NEAR, 0)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    let began = Instant::now();
    let (mut sent, mut answers) = (0_u32, 0_u32);
    let mut buffer = [0; 64];
    let listener = socket.try_clone().unwrap();
    let listener = thread::spawn(move || {
        let mut last = began;
        while listener.recv(&mut buffer).is_ok() {
            answers += 1;
            last = Instant::now();
        }
        (answers, last)
    });
    while began.elapsed() < Duration::from_secs(1) {
        socket.send_to(&request().encode(), (FAR, PORT)).unwrap();
        sent += 1;
    }
    // What waits in the queue is answered later.
    let (answers, last) = listener.join().unwrap();
    let took = last.duration_since(began).as_secs_f64();
    println!("{sent} requests in a second, {answers} answers in {took:.2} s");
    assert!(answers >= 1000, "{answers}");
    assert!(f64::from(answers) <= 10_000.0 * (took + 1.0), "{answers} in {took} s");
}
