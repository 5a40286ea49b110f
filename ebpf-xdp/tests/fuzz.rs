//! No packet, however spoiled, makes the verdict panic, and none is read past its end.

#![allow(clippy::unwrap_used, missing_docs)]

mod support;

use ebpf_xdp::layout::{Link, Reason};
use support::packets::{Random, corpus, ethernet, spoil};
use support::world::{DEDICATED, POLICED, SHARED, TUNNEL, World};

#[test]
fn spoiled_packets_get_a_verdict() {
    let mut world = World::standard();
    let corpus = corpus();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut seen = [0_u32; Reason::ALL.len()];
    for round in 0..200_000 {
        let mut packet = corpus[random.below(corpus.len())].clone();
        spoil(&mut packet, &mut random);
        let ifindex = [DEDICATED, SHARED, TUNNEL, POLICED][round % 4];
        world.egress(ifindex, &packet);
        seen[world.ingress(ifindex, &packet).reason as usize] += 1;
    }
    for reason in [
        Reason::Source,
        Reason::Flow,
        Reason::Malformed,
        Reason::Encapsulation,
        Reason::TunnelPayload,
        Reason::TunnelTruncated,
        Reason::TunnelFragment,
        Reason::NoTunnel,
    ] {
        assert!(seen[reason as usize] > 100, "{reason:?} came {} times", seen[reason as usize]);
    }
}

#[test]
fn the_corpus_meets_every_reason() {
    let mut seen = [false; Reason::ALL.len()];
    let mut world = World::standard();
    world.links.insert(98, Link { flags: Link::ETHERNET, ..world.links[&DEDICATED] });
    for packet in corpus() {
        world.egress(POLICED, &packet);
        for ifindex in [DEDICATED, SHARED, TUNNEL, POLICED, 99] {
            seen[world.ingress(ifindex, &packet).reason as usize] = true;
        }
        let mut frame = ethernet(&packet);
        frame[12..14].copy_from_slice(&[8, 6]);
        seen[world.ingress(98, &frame).reason as usize] = true;
    }
    world.settings.flags = 0;
    seen[world.ingress(99, &corpus()[0]).reason as usize] = true;
    let missing: Vec<_> = Reason::ALL.iter().filter(|one| !seen[**one as usize]).collect();
    assert!(missing.is_empty(), "no packet of the corpus is judged {missing:?}");
}
