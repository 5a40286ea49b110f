//! What cannot be sent, and what becomes of it.

use std::net::UdpSocket;

use caps::{CapSet, Capability};
use tokio::time::timeout;
use wgrouted::core::reach::rule::ProbeKind::{Icmp, Off, Udp};

use crate::{
    lab::{
        Asker, FAR, FAR_LINK_LOCAL, FAR_V6, Lab, PATIENCE, PORT, far_addresses, runtime, target,
    },
    support::netns::{self, ip},
};

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn a_link_that_was_made_anew_is_probed_again() {
    let lab = Lab::new();
    runtime().block_on(async {
        let mut asker = Asker::new();
        let old = lab.near_link();
        asker.answer(vec![old]);
        let there = lab.answer();
        asker.all_answer(old, &far_addresses(), Icmp).await;
        asker.all_answer(old, &far_addresses(), Udp).await;
        drop(there);
        ip("link del near0");
        for kind in [Icmp, Udp] {
            for address in far_addresses() {
                let probe = asker.ask(target(old, address, kind));
                let errno = asker.unsent(probe).await;
                println!("{kind:?} {address}: {}", std::io::Error::from_raw_os_error(errno));
            }
        }
        lab.connect();
        let new = lab.near_link();
        assert_ne!(old, new);
        asker.answer(vec![new]);
        let there = lab.answer();
        asker.all_answer(new, &far_addresses(), Icmp).await;
        asker.all_answer(new, &far_addresses(), Udp).await;
        drop(there);
        // Once more, under the same number.
        ip("link del near0");
        let probe = asker.ask(target(new, FAR, Icmp));
        assert_eq!(asker.unsent(probe).await, libc::ENODEV);
        lab.connect_as(&format!("index {new}"));
        let _there = lab.answer();
        asker.all_answer(new, &far_addresses(), Icmp).await;
        asker.all_answer(new, &far_addresses(), Udp).await;
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn what_cannot_be_sent_is_told() {
    let lab = Lab::new();
    runtime().block_on(async {
        let (mut asker, near) = (Asker::new(), lab.near_link());
        let probe = asker.ask(target(near, FAR, Udp));
        assert_eq!(asker.unsent(probe).await, libc::EADDRNOTAVAIL, "no port is known yet");
        let probe = asker.ask(target(near, FAR, Off));
        assert_eq!(asker.unsent(probe).await, libc::EINVAL);
        let probe = asker.ask(target(near, "2001:db8::1", Icmp));
        assert_eq!(asker.unsent(probe).await, libc::ENETUNREACH);
        ip("link set near0 down");
        for address in [FAR, FAR_V6, FAR_LINK_LOCAL] {
            let probe = asker.ask(target(near, address, Icmp));
            assert_eq!(asker.unsent(probe).await, libc::ENETUNREACH, "{address}");
        }
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn a_firewall_that_lets_nothing_out_is_told() {
    let lab = Lab::new();
    let rules = "add table inet t; add chain inet t o { type filter hook output priority 0; }; \
                 add rule inet t o meta l4proto icmp drop";
    match std::process::Command::new("nft").arg(rules).output() {
        Ok(made) if made.status.success() => {}
        other => return println!("SKIPPED: {other:?}"),
    }
    runtime().block_on(async {
        let (mut asker, near) = (Asker::new(), lab.near_link());
        for _ in 0..3 {
            let probe = asker.ask(target(near, FAR, Icmp));
            assert_eq!(asker.unsent(probe).await, libc::EPERM);
        }
        asker.all_answer(near, &[FAR_LINK_LOCAL], Icmp).await;
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn without_the_capability_udp_still_works() {
    let lab = Lab::new();
    let _there = lab.answer();
    caps::drop(None, CapSet::Effective, Capability::CAP_NET_RAW).unwrap();
    runtime().block_on(async {
        let (mut asker, near) = (Asker::new(), lab.near_link());
        asker.answer(vec![near]);
        for address in far_addresses() {
            let probe = asker.ask(target(near, address, Icmp));
            assert_eq!(asker.unsent(probe).await, libc::EPERM);
        }
        asker.all_answer(near, &far_addresses(), Udp).await;
    });
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn a_port_that_is_taken_is_tried_again() {
    let lab = Lab::new();
    runtime().block_on(async {
        let (mut asker, near) = (Asker::new(), lab.near_link());
        let thief = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
        asker.answer(vec![near]);
        let probe = asker.ask(target(near, FAR, Udp));
        assert_eq!(asker.unsent(probe).await, libc::EADDRINUSE);
        drop(thief);
        let _there = lab.answer();
        timeout(PATIENCE, asker.prober.tend()).await.expect("it tries again");
        asker.all_answer(near, &[FAR], Udp).await;
        // Then there is nothing more to be done.
        timeout(4 * crate::lab::SILENCE, asker.prober.tend()).await.unwrap_err();
    });
}

#[test]
#[ignore = "needs root and WireGuard: sudo -E cargo test -p wgrouted --test reach -- --ignored"]
fn wireguard_says_why_it_does_not_send() {
    assert!(netns::fresh(), "needs root");
    ip("link add name wg0 type wireguard");
    ip("addr add 10.0.0.1/24 dev wg0");
    ip("addr add fe80::1/64 dev wg0");
    ip("link set wg0 up");
    let wg0 = netns::index("wg0");
    runtime().block_on(async {
        let mut asker = Asker::new();
        asker.answer(vec![wg0]);
        for kind in [Icmp, Udp] {
            for address in far_addresses().into_iter().filter(|address| *address != FAR_V6) {
                let probe = asker.ask(target(wg0, address, kind));
                assert_eq!(asker.unsent(probe).await, libc::ENOKEY, "{kind:?} {address}");
            }
        }
    });
}
