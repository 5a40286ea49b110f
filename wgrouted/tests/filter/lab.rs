//! A namespace with a tun device, through which packets come in like from a peer, and a host behind
//! it that says what arrived.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    net::UdpSocket,
    os::fd::AsRawFd,
    path::Path,
    process::Command,
    sync::Arc,
    time::Duration,
};

use ebpf_xdp::layout::{Finder, Link, Mode, Peer, Rule, domain};
use wgrouted::{
    core::{
        filter::{
            rule::{Hook, Sizes},
            table::{
                CompiledPolicy, FilterChange, FilterPlan, HookKind, Identity, LinkPlan, LinkState,
                SourceKey,
            },
        },
        peer::PublicKey,
        prefix::Prefix,
    },
    target::filter::{FilterTarget, KernelFilter},
};

use crate::{
    oracle::packets,
    support::netns::{self, index, ip, sysctl},
};

pub(crate) const DIRECTORY: &str = "/sys/fs/bpf/wgrouted";
/// A source that peer 1 may use, and one that it may not.
pub(crate) const RIGHT: &str = "10.1.0.5";
pub(crate) const WRONG: &str = "10.2.0.5";
pub(crate) const HOST: &str = "10.9.0.1";
pub(crate) const PORT: u16 = 7000;
pub(crate) const ROUTES: u32 = domain::routes(1);

/// Moves the thread into namespaces of its own, with an empty BPF file system.
pub(crate) fn isolate() {
    assert!(netns::fresh(), "needs root");
    // SAFETY: no pointers are passed.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0);
    run("mount --make-rprivate /");
    run("mount -t bpf bpf /sys/fs/bpf");
    for sysctl_of in ["all", "default"] {
        sysctl(&format!("net/ipv4/conf/{sysctl_of}/rp_filter"), "0");
    }
}

pub(crate) fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// A tun device, and who sends packets into it.
pub(crate) struct Tun {
    file: File,
    pub(crate) ifindex: u32,
}

impl Tun {
    pub(crate) fn new(name: &str) -> Tun {
        if !Path::new("/dev/net/tun").exists() {
            run("modprobe tun");
        }
        let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
        // struct ifreq: the name, then flags IFF_TUN | IFF_NO_PI.
        let mut request = [0_u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        request[16..18].copy_from_slice(&0x1001_u16.to_ne_bytes());
        // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, which has this size.
        let done = unsafe { libc::ioctl(file.as_raw_fd(), 0x4004_54ca, request.as_mut_ptr()) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
        ip(&format!("link set {name} up"));
        Tun { file, ifindex: index(name) }
    }

    /// Another hand on the device.
    pub(crate) fn sender(&self) -> Tun {
        Tun { file: self.file.try_clone().unwrap(), ifindex: self.ifindex }
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        (&self.file).write_all(packet).unwrap();
    }
}

/// The device, and the host.
pub(crate) struct Lab {
    pub(crate) tun: Tun,
    pub(crate) socket: UdpSocket,
}

impl Lab {
    pub(crate) fn new() -> Lab {
        isolate();
        let tun = Tun::new("tun0");
        ip(&format!("addr add {HOST}/24 dev tun0"));
        let socket = UdpSocket::bind((HOST, PORT)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Lab { tun, socket }
    }

    pub(crate) fn ifindex(&self) -> u32 {
        self.tun.ifindex
    }

    pub(crate) fn send(&self, src: &str, dst_port: u16) {
        self.tun.send(&packet(src, dst_port));
    }

    /// Whether a packet of that source reaches the host.
    pub(crate) fn arrives(&self, src: &str) -> bool {
        self.send(src, PORT);
        self.heard(src)
    }

    fn heard(&self, src: &str) -> bool {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = self.socket.recv_from(&mut buffer) {
            if from.ip().to_string() == src {
                return true;
            }
        }
        false
    }

    /// The filter as it is after a daemon's start.
    pub(crate) fn filter(&self, plan: &FilterPlan) -> KernelFilter {
        let mut filter = KernelFilter::new(DIRECTORY);
        let contents = filter.open(plan).unwrap();
        assert_eq!(contents, Default::default());
        apply(&mut filter, &self.usual());
        let states = filter.attach(&self.links(false));
        assert!(states[0].hook.is_ok(), "{states:?}");
        filter
    }

    /// Peer 1 on the device, which may use what is routed to it.
    pub(crate) fn usual(&self) -> Vec<FilterChange> {
        vec![
            source(ROUTES, "10.1.0.0/16", Some(1)),
            peer(1, Some(identity(self.ifindex(), 1)), strict(0)),
            dedicated(self.ifindex(), 1),
        ]
    }

    pub(crate) fn links(&self, egress: bool) -> Vec<LinkPlan> {
        vec![LinkPlan { ifindex: self.ifindex(), egress }]
    }
}

/// A datagram to the host.
pub(crate) fn packet(src: &str, dst_port: u16) -> Vec<u8> {
    let mut packet = packets::ipv4(src, HOST, 17, 7, 0x4000, &[], &packets::udp(40000, dst_port));
    let sum = packet[..20]
        .chunks(2)
        .fold(0, |sum: u32, word| sum + u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet
}

pub(crate) fn plan() -> FilterPlan {
    let sizes = Sizes { sources_v4: 1000, sources_v6: 1000, peers: 64, rules: 256, flows: 4096 };
    FilterPlan { sizes, hook: Hook::Auto, samples_per_second: 100 }
}

/// Applies changes of which none may fail.
pub(crate) fn apply(filter: &mut KernelFilter, changes: &[FilterChange]) {
    assert_eq!(filter.apply(changes).unwrap().failed, []);
}

pub(crate) fn source(domain: u32, prefix: &str, value: Option<u32>) -> FilterChange {
    let prefix: Prefix = prefix.parse().unwrap();
    FilterChange::Source { key: SourceKey { domain, prefix }, value }
}

pub(crate) fn identity(ifindex: u32, number: u8) -> Identity {
    Identity { ifindex, public_key: PublicKey([number; 32]), tunnel: None }
}

pub(crate) fn peer(id: u32, identity: Option<Identity>, word: Peer) -> FilterChange {
    FilterChange::Peer { id, identity, word }
}

pub(crate) fn strict(policy: u16) -> Peer {
    Peer { mode: Mode::Strict as u8, flags: 0, policy, domain: ROUTES }
}

pub(crate) fn dedicated(ifindex: u32, peer: u32) -> FilterChange {
    let finder = Finder::Dedicated as u8;
    FilterChange::Link { ifindex, word: Some(Link { finder, flags: Link::LEARN, zone: 0, peer }) }
}

pub(crate) fn policy(id: u16, accept: bool, stateful: bool, rules: Vec<Rule>) -> FilterChange {
    let policy = Some(Arc::new(CompiledPolicy { accept, stateful, rules }));
    FilterChange::Policy { id, policy }
}

pub(crate) fn udp_to(port: u16, accept: bool) -> Rule {
    let (dst_port_min, dst_port_max) = (port, port);
    let accept = u8::from(accept);
    Rule { protocol: 17, protocol_mask: 255, dst_port_min, dst_port_max, accept, ..Rule::ANY }
}

/// The hook of the only link.
pub(crate) fn hook(states: &[LinkState]) -> HookKind {
    let [state] = states else { panic!("{states:?}") };
    *state.hook.as_ref().unwrap_or_else(|error| panic!("{error}"))
}

/// What is pinned, below the directory of the only namespace.
pub(crate) fn pinned() -> Vec<String> {
    fn walk(path: &Path, name: &str, found: &mut Vec<String>) {
        let Ok(entries) = fs::read_dir(path) else { return };
        for entry in entries {
            let entry = entry.unwrap();
            let name = format!("{name}/{}", entry.file_name().to_str().unwrap());
            found.push(name.clone());
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), &name, found);
            }
        }
    }
    let mut found = Vec::new();
    let Some(space) = space() else { return found };
    walk(&space, "", &mut found);
    found.sort_unstable();
    found
}

/// The directory of the only namespace.
pub(crate) fn space() -> Option<std::path::PathBuf> {
    let mut all = fs::read_dir(DIRECTORY).ok()?;
    let only = all.next()?.unwrap().path();
    assert!(all.next().is_none());
    Some(only)
}
