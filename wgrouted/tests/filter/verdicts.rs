//! The loaded programs, and the same verdict on the host: they agree on every packet.

use ebpf_xdp::{addr::V4, layout::Reason, verdict::Verdict};
use wgrouted::{
    core::{
        filter::table::{CompiledPolicy, FilterChange, SourceKey, TunnelKey},
        prefix::Prefix,
    },
    target::filter::{FilterReader, FilterTarget, KernelFilter},
};

use crate::{
    lab::{DIRECTORY, Lab, PORT, RIGHT, Tun, WRONG, apply, identity, isolate, packet, plan, space},
    oracle::{
        packets::{Random, corpus, spoil},
        world::{DEDICATED, POLICED, SHARED, TUNNEL, World},
    },
};

/// The changes that make the kernel's tables those of the host.
fn changes(world: &World) -> Vec<FilterChange> {
    let mut all = Vec::new();
    for (family, domain, addr, len, value) in &world.sources {
        let addr: std::net::IpAddr =
            if *family == V4 { addr.octets4().into() } else { addr.octets6().into() };
        let key = SourceKey { domain: *domain, prefix: Prefix::new(addr, *len).unwrap() };
        all.push(FilterChange::Source { key, value: Some(*value) });
    }
    for member in &world.sets {
        all.push(FilterChange::Member { set: member.set, peer: member.peer, present: true });
    }
    for (id, policy) in &world.policies {
        let rules = &world.rules[policy.first as usize..][..usize::from(policy.count)];
        let policy = CompiledPolicy {
            accept: policy.accept == 1,
            stateful: policy.stateful == 1,
            rules: rules.to_vec(),
        };
        let id = u16::try_from(*id).unwrap();
        all.push(FilterChange::Policy { id, policy: Some(policy.into()) });
    }
    for (id, word) in &world.peers {
        let identity = Some(identity(1, *id as u8));
        all.push(FilterChange::Peer { id: *id, identity, word: *word });
    }
    for (key, word) in &world.tunnels {
        all.push(FilterChange::Tunnel { key: TunnelKey::from_layout(key), word: Some(*word) });
    }
    for (ifindex, word) in &world.links {
        all.push(FilterChange::Link { ifindex: *ifindex, word: Some(*word) });
    }
    all
}

/// Runs the loaded XDP program, which counts and remembers, on a packet.
fn run_xdp(packet: &[u8], ifindex: u32) -> u32 {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let programs = std::fs::read_dir(space().unwrap().join("g1")).unwrap();
    let mut programs = programs.map(|entry| entry.unwrap().path());
    let path = programs.find(|path| path.is_dir()).unwrap().join("wgr_xdp");
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut get = [path.as_ptr().addr() as u64, 0];
    // SAFETY: BPF_OBJ_GET reads a path that ends with a zero.
    let program = unsafe { libc::syscall(libc::SYS_bpf, 7, get.as_mut_ptr(), 16) };
    assert!(program >= 0);
    // SAFETY: a new descriptor.
    let program = unsafe { OwnedFd::from_raw_fd(program as i32) };
    let context = [0, packet.len() as u32, 0, ifindex, 0, 0];
    let mut run = [0_u64; 10];
    run[0] = program.as_raw_fd() as u64;
    run[1] = packet.len() as u64;
    run[2] = packet.as_ptr().addr() as u64;
    run[4] = 1;
    run[5] = size_of_val(&context) as u64;
    run[6] = context.as_ptr().addr() as u64;
    // SAFETY: BPF_PROG_TEST_RUN reads the packet and the context.
    let done = unsafe { libc::syscall(libc::SYS_bpf, 10, run.as_mut_ptr(), 80) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    (run[0] >> 32) as u32
}

fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one `timespec`.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The world's devices, whose numbers are fixed there.
fn devices() -> Vec<Tun> {
    let mut tuns = Vec::new();
    while tuns.last().is_none_or(|tun: &Tun| tun.ifindex < POLICED) {
        tuns.push(Tun::new(&format!("fuzz{}", tuns.len())));
    }
    tuns
}

#[test]
#[ignore = "needs root"]
fn kernel_and_host_agree() {
    isolate();
    let _devices = devices();
    let mut world = World::standard();
    let mut filter = KernelFilter::new(DIRECTORY);
    filter.open(&plan()).unwrap();
    apply(&mut filter, &changes(&world));
    world.settings.samples_per_second = plan().samples_per_second;
    let reader = FilterReader::open(DIRECTORY).unwrap();
    let corpus = corpus();
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let (mut judged, mut seen) = (0, [0_u32; Reason::ALL.len()]);
    for round in 0..20_000 {
        let mut packet = corpus[round % corpus.len()].clone();
        if round >= 4 * corpus.len() {
            packet = corpus[random.below(corpus.len())].clone();
            spoil(&mut packet, &mut random);
        }
        if packet.len() < 14 {
            continue;
        }
        let ifindex = [DEDICATED, SHARED, TUNNEL, POLICED][round / corpus.len() % 4];
        world.now = now();
        // The answer without traces, then the same packet with.
        let kernel = reader.probe(ifindex, &packet).unwrap();
        let host = world.ingress(ifindex, &packet);
        assert_eq!(kernel, Verdict { peer: 0, ..host }, "{ifindex}: {packet:02x?}");
        let action = run_xdp(&packet, ifindex);
        assert_eq!(action == 1, host.is_drop(), "{ifindex}: {packet:02x?}");
        judged += 1;
        seen[host.reason as usize] += 1;
    }
    for (reason, times) in Reason::ALL.into_iter().zip(seen) {
        println!("{:>14} {times}", reason.name());
    }
    println!("{judged} packets");
    assert!(judged > 15_000);
    // What the kernel counted is what the host counted.
    let counted: u64 = reader.counters().unwrap().iter().map(|count| count.counter.packets).sum();
    assert_eq!(counted, judged);
    let mut host: Vec<_> =
        world.counters.iter().map(|((peer, slot), counter)| (*peer, *slot, *counter)).collect();
    host.sort_unstable_by_key(|(peer, slot, _)| (*peer, *slot));
    let kernel: Vec<_> = reader
        .counters()
        .unwrap()
        .iter()
        .map(|count| {
            let slot = ebpf_xdp::layout::slot(count.reason, count.monitored);
            (count.peer, slot, count.counter)
        })
        .collect();
    assert_eq!(kernel, host);
    let events = reader.events().unwrap();
    assert!(events.flow_opened > 100, "{events:?}");
    assert_eq!(events.flow_failed, 0);
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn a_probe_leaves_no_trace() {
    let lab = Lab::new();
    let mut filter = lab.filter(&plan());
    let reader = FilterReader::open(DIRECTORY).unwrap();
    let of = |src| reader.probe(lab.ifindex(), &packet(src, PORT)).unwrap();
    assert_eq!(of(RIGHT), Verdict { reason: Reason::Source, monitored: false, peer: 0, rule: 0 });
    assert_eq!(of(WRONG).reason, Reason::NoRoute);
    assert_eq!(reader.counters().unwrap(), []);
    assert_eq!(reader.last_seen().unwrap(), []);
    assert!(reader.samples().unwrap().take().is_none());
    // A device that is not filtered, one that is not there, and what the kernel does not try.
    assert_eq!(reader.probe(1, &packet(RIGHT, PORT)).unwrap().reason, Reason::Unconfigured);
    let message = |ifindex, packet: &[u8]| reader.probe(ifindex, packet).unwrap_err().message;
    assert!(message(4242, &packet(RIGHT, PORT)).contains("no device 4242"));
    assert!(message(1, &[0x45; 13]).contains("shorter than 14"));
    // Recent kernels try long packets too.
    match reader.probe(1, &[0x45; 9000]) {
        Ok(verdict) => assert_eq!(verdict.reason, Reason::Unconfigured),
        Err(error) => assert!(error.message.contains("9000 octets"), "{error}"),
    }
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root and kernel WireGuard"]
fn a_wireguard_device_takes_every_hook() {
    use wgrouted::core::filter::{rule::Hook, table::LinkPlan};
    isolate();
    crate::support::netns::ip("link add wg0 type wireguard");
    let ifindex = crate::support::netns::index("wg0");
    let mut filter = KernelFilter::new(DIRECTORY);
    for hook in [Hook::Auto, Hook::Xdp, Hook::Tcx] {
        let mut changed = plan();
        changed.hook = hook;
        filter.open(&changed).unwrap();
        apply(&mut filter, &[crate::lab::dedicated(ifindex, 1)]);
        let states = filter.attach(&[LinkPlan { ifindex, egress: true }]);
        println!("{hook:?}: {:?}", crate::lab::hook(&states));
        let reader = FilterReader::open(DIRECTORY).unwrap();
        let verdict = reader.probe(ifindex, &packet(RIGHT, PORT)).unwrap();
        assert_eq!(verdict.reason, Reason::Unconfigured, "peer 1 is not there");
    }
    filter.remove().unwrap();
}
