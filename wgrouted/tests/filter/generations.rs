//! What a daemon leaves, and what the next one makes of it.

use std::{
    fs,
    net::UdpSocket,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use ebpf_xdp::layout::{MAGIC, Settings, VERSION};
use wgrouted::{
    core::filter::{
        rule::Hook,
        table::{Contents, FilterPlan},
    },
    target::filter::{FilterReader, FilterTarget, KernelFilter},
};

use crate::lab::{
    DIRECTORY, HOST, Lab, PORT, RIGHT, ROUTES, WRONG, apply, hook, identity, packet, peer, pinned,
    plan, policy, source, space, strict,
};

/// The names of generations.
fn generations() -> Vec<String> {
    pinned().into_iter().filter(|name| name.starts_with("/g") && !name[1..].contains('/')).collect()
}

fn programs() -> Vec<String> {
    let mut all: Vec<_> = pinned()
        .into_iter()
        .filter_map(|name| Some(name.strip_prefix("/g")?.split_once("/p")?.1.to_owned()))
        .filter(|name| !name.contains('/'))
        .collect();
    all.sort_unstable();
    all
}

#[test]
#[ignore = "needs root"]
fn what_a_daemon_leaves_stays_in_force_and_is_adopted() {
    let lab = Lab::new();
    let filter = lab.filter(&plan());
    let kept = pinned();
    drop(filter);
    assert!(lab.arrives(RIGHT));
    assert!(!lab.arrives(WRONG), "nobody runs, the program does");
    let mut filter = KernelFilter::new(DIRECTORY);
    let contents = filter.open(&plan()).unwrap();
    assert_eq!(contents.sources.len(), 1);
    assert_eq!(contents.peers, [(1, identity(lab.ifindex(), 1))]);
    assert_eq!(contents.links, [lab.ifindex()]);
    assert_eq!(pinned(), kept);
    let states = filter.attach(&lab.links(false));
    assert!(!states[0].reattached);
    hook(&states);
    assert_eq!(pinned(), kept);
    assert!(lab.arrives(RIGHT) && !lab.arrives(WRONG));
    filter.remove().unwrap();
}

/// Sends packets of a wrong source without a pause, and counts those that arrive.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
    socket: UdpSocket,
}

impl Flood {
    const PORT: u16 = 7001;

    fn start(lab: &Lab) -> Flood {
        let socket = UdpSocket::bind((HOST, Flood::PORT)).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let file = lab.tun.sender();
        let thread = thread::spawn(move || {
            let spoofed = packet(WRONG, Flood::PORT);
            while !stopped.load(Ordering::Relaxed) {
                file.send(&spoofed);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        Flood { stop, sent, thread, socket }
    }

    /// Waits until some more were sent.
    fn go_on(&self) {
        let goal = self.sent.load(Ordering::Relaxed) + 200;
        while self.sent.load(Ordering::Relaxed) < goal {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        println!("{} spoofed packets", self.sent.load(Ordering::Relaxed));
        let got = self.socket.recv_from(&mut [0; 64]);
        assert_eq!(got.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "a spoofed one passed");
    }
}

#[test]
#[ignore = "needs root"]
fn other_sizes_are_swapped_in_without_a_gap() {
    let lab = Lab::new();
    let mut filter = lab.filter(&plan());
    let flood = Flood::start(&lab);
    flood.go_on();
    for round in 1..=5 {
        let mut changed = plan();
        changed.sizes.sources_v4 += round * 1000;
        changed.hook = if round < 4 { Hook::Auto } else { Hook::Xdp };
        // A daemon that starts anew, and one that is reconfigured.
        if round % 2 == 0 {
            drop(filter);
            filter = KernelFilter::new(DIRECTORY);
        }
        let contents = filter.open(&changed).unwrap();
        let known = vec![(1, identity(lab.ifindex(), 1))];
        assert_eq!(contents, Contents { peers: known, ..Contents::default() });
        assert_eq!(generations().len(), 2, "{:?}", pinned());
        flood.go_on();
        apply(&mut filter, &lab.usual());
        flood.go_on();
        let states = filter.attach(&lab.links(true));
        hook(&states);
        assert!(!states[0].reattached);
        flood.go_on();
        assert_eq!(generations(), [format!("/g{}", round + 1)]);
        assert_eq!(filter.dump().unwrap().sources.len(), 1);
        let room = FilterReader::open(DIRECTORY).unwrap().room();
        assert!(room.sources_v4 >= 1000 + round * 1000);
    }
    flood.end();
    assert!(lab.arrives(RIGHT));
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn another_object_takes_over_the_maps() {
    let lab = Lab::new();
    drop(lab.filter(&plan()));
    let before = (generations(), programs());
    assert_eq!(before.1.len(), 1);
    let flood = Flood::start(&lab);
    flood.go_on();
    // Another build: the same code in a file of other bytes.
    let object = [ebpf_xdp::object::file(), &[0; 16]].concat();
    // ELF wants its headers aligned, which large allocations are.
    let mut filter = KernelFilter::with_object(DIRECTORY, object.leak());
    let contents = filter.open(&plan()).unwrap();
    assert_eq!(contents.sources.len(), 1, "adopted");
    assert_eq!(programs().len(), 2);
    flood.go_on();
    let states = filter.attach(&lab.links(false));
    hook(&states);
    assert!(!states[0].reattached);
    flood.go_on();
    flood.end();
    let after = (generations(), programs());
    assert_eq!(after.0, before.0);
    assert_ne!(after.1, before.1);
    assert_eq!(after.1.len(), 1);
    assert!(lab.arrives(RIGHT) && !lab.arrives(WRONG));
    filter.remove().unwrap();
}

/// Writes the settings of a generation as those of an earlier layout are.
fn make_older(generation: &Path) {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let path = generation.join("WGR_SETTINGS");
    let path = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    let mut get = [path.as_ptr().addr() as u64, 0];
    // SAFETY: BPF_OBJ_GET reads a path that ends with a zero.
    let map = unsafe { libc::syscall(libc::SYS_bpf, 7, get.as_mut_ptr(), 16) };
    assert!(map >= 0);
    // SAFETY: a new descriptor.
    let map = unsafe { OwnedFd::from_raw_fd(map as i32) };
    let key = 0_u32;
    let settings = Settings {
        magic: MAGIC,
        version: VERSION - 1,
        flags: Settings::GUARD,
        samples_per_second: 100,
        peers: 65,
        reserved: [0; 3],
    };
    let mut update = [
        map.as_raw_fd() as u64,
        (&raw const key).addr() as u64,
        (&raw const settings).addr() as u64,
        0,
    ];
    // SAFETY: BPF_MAP_UPDATE_ELEM reads a key and a value of the map's sizes.
    let done = unsafe { libc::syscall(libc::SYS_bpf, 2, update.as_mut_ptr(), 32) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    // What that layout did not have yet.
    fs::remove_file(generation.join("WGR_TUNNELS")).unwrap();
}

#[test]
#[ignore = "needs root"]
fn maps_of_an_earlier_layout_are_replaced_without_a_gap() {
    let lab = Lab::new();
    drop(lab.filter(&plan()));
    make_older(&space().unwrap().join("g1"));
    let message = FilterReader::open(DIRECTORY).unwrap_err().message;
    assert!(message.contains("another version"), "{message}");
    let flood = Flood::start(&lab);
    flood.go_on();
    let mut filter = KernelFilter::new(DIRECTORY);
    // Nothing in them means what it would mean now: not even who is who.
    assert_eq!(filter.open(&plan()).unwrap(), Contents::default());
    assert_eq!(generations(), ["/g1", "/g2"]);
    flood.go_on();
    apply(&mut filter, &lab.usual());
    hook(&filter.attach(&lab.links(false)));
    flood.go_on();
    flood.end();
    assert_eq!(generations(), ["/g2"]);
    assert!(lab.arrives(RIGHT) && !lab.arrives(WRONG));
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn what_was_half_made_is_made_anew() {
    let lab = Lab::new();
    drop(lab.filter(&plan()));
    let space = space().unwrap();
    // Died while it made a generation, a set of programs, and the word of what is in force.
    fs::create_dir(space.join("new")).unwrap();
    fs::hard_link(space.join("g1/WGR_FLOWS"), space.join("new/WGR_FLOWS")).unwrap();
    fs::create_dir(space.join("g1/new")).unwrap();
    std::os::unix::fs::symlink("g7", space.join("next")).unwrap();
    let mut filter = KernelFilter::new(DIRECTORY);
    assert_eq!(filter.open(&plan()).unwrap().sources.len(), 1);
    hook(&filter.attach(&lab.links(false)));
    assert!(!space.join("new").exists());
    // Died after it made one, before that was attached: what is in force is adopted.
    let mut changed = plan();
    changed.sizes.peers += 1;
    filter.open(&changed).unwrap();
    drop(filter);
    assert_eq!(generations(), ["/g1", "/g2"]);
    assert!(!lab.arrives(WRONG));
    let mut filter = KernelFilter::new(DIRECTORY);
    assert_eq!(filter.open(&plan()).unwrap().sources.len(), 1);
    hook(&filter.attach(&lab.links(false)));
    assert_eq!(generations(), ["/g1"]);
    // And the same, with a daemon that wants the new one.
    filter.open(&changed).unwrap();
    drop(filter);
    let mut filter = KernelFilter::new(DIRECTORY);
    assert_eq!(filter.open(&changed).unwrap().sources, []);
    assert!(!lab.arrives(WRONG));
    apply(&mut filter, &lab.usual());
    hook(&filter.attach(&lab.links(false)));
    assert_eq!(generations(), ["/g2"]);
    assert!(lab.arrives(RIGHT) && !lab.arrives(WRONG));
    filter.remove().unwrap();
}

#[test]
#[ignore = "needs root"]
fn flows_outlive_a_generation() {
    let lab = Lab::new();
    let mut filter = lab.filter(&plan());
    let usual = |filter: &mut KernelFilter, rules| {
        let mut changes = lab.usual();
        changes.push(policy(1, false, true, rules));
        changes.push(peer(1, Some(identity(lab.ifindex(), 1)), strict(1)));
        apply(filter, &changes);
    };
    let accept = crate::lab::udp_to(PORT, true);
    usual(&mut filter, vec![accept]);
    assert!(lab.arrives(RIGHT), "opens a flow");
    let mut changed: FilterPlan = plan();
    changed.sizes.sources_v6 += 1;
    filter.open(&changed).unwrap();
    // The rule is gone: only the flow lets it pass.
    usual(&mut filter, vec![]);
    hook(&filter.attach(&lab.links(false)));
    assert!(lab.arrives(RIGHT), "by its flow");
    changed.sizes.flows *= 2;
    filter.open(&changed).unwrap();
    usual(&mut filter, vec![]);
    hook(&filter.attach(&lab.links(false)));
    assert!(!lab.arrives(RIGHT), "a table of another size knows no flows");
    apply(&mut filter, &[source(ROUTES, "10.1.0.0/16", None)]);
    filter.remove().unwrap();
}
