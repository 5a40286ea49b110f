//! A network namespace with a WireGuard device, and eyes on it that are not ours.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
};

use wgrouted::{
    core::{
        change::Change,
        peer::{PeerIdx, PublicKey},
        prefix::Prefix,
    },
    target::wireguard::{Batch, Device, KernelWireguard, Report, WireguardTarget},
};

pub(crate) const PRIVATE_KEY: &str = "WAmGVYXkbm2bCrqhLCNwPIGvRRMEBQZCM9iYHbCRd3A=";
pub(crate) const PRESHARED_KEY: &str = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE=";

/// A namespace with a WireGuard device `wg0`. Threads begun by the test share the namespace.
pub(crate) struct Lab {
    pub(crate) ifindex: u32,
    pub(crate) keys: Vec<PublicKey>,
    pub(crate) wg: KernelWireguard,
}

impl Lab {
    pub(crate) fn new(peers: u32) -> Lab {
        // SAFETY: no pointers are passed; the call moves this thread to a new network namespace.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "{}", io::Error::last_os_error());
        run("ip link add wg0 type wireguard", "");
        run("wg set wg0 listen-port 51820 private-key /dev/stdin", PRIVATE_KEY);
        // Of the form "2: wg0: <POINTOPOINT,NOARP> ...".
        let link = run("ip -oneline link show wg0", "");
        let ifindex = link.split(':').next().unwrap().parse().unwrap();
        let keys: Vec<_> = (1..=peers).map(key).collect();
        let config: String =
            keys.iter().map(|key| format!("[Peer]\nPublicKey = {key}\n")).collect();
        run("wg addconf wg0 /dev/stdin", &config);
        let wg = KernelWireguard::open().unwrap();
        Lab { ifindex, keys, wg }
    }

    pub(crate) fn apply(&mut self, changes: &[Change]) -> Report {
        self.wg.apply(self.ifindex, Batch { peers: &self.keys, changes }).unwrap()
    }

    pub(crate) fn dump(&mut self) -> Device {
        self.wg.dump(self.ifindex).unwrap()
    }
}

pub(crate) fn key(number: u32) -> PublicKey {
    let mut key = [7; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey(key)
}

/// Runs a command and returns what it printed.
pub(crate) fn run(command: &str, input: &str) -> String {
    let mut words = command.split_whitespace();
    let mut child = Command::new(words.next().unwrap())
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command}: {error}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command}: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The table as `wg` sees it, the graveyard's part included.
pub(crate) fn shown() -> BTreeMap<Prefix, PublicKey> {
    let mut table = BTreeMap::new();
    for line in run("wg show wg0 allowed-ips", "").lines() {
        let mut words = line.split_whitespace();
        let key: PublicKey = words.next().unwrap().parse().unwrap();
        for prefix in words.filter(|word| *word != "(none)") {
            table.insert(prefix.parse().unwrap(), key);
        }
    }
    table
}

/// The table as we read it.
pub(crate) fn dumped(device: &Device) -> BTreeMap<Prefix, PublicKey> {
    let owner = |peer: PeerIdx| device.peers[peer.0 as usize].public_key;
    let table: BTreeMap<_, _> =
        device.allowed_ips.iter().map(|(prefix, peer)| (*prefix, owner(*peer))).collect();
    assert_eq!(table.len(), device.allowed_ips.len(), "a prefix has one owner");
    table
}

pub(crate) fn p(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(crate) fn set(prefix: Prefix, old: Option<u32>, new: u32) -> Change {
    Change { prefix, old: old.map(PeerIdx), new: Some(PeerIdx(new)) }
}

pub(crate) fn unset(prefix: Prefix, old: u32) -> Change {
    Change { prefix, old: Some(PeerIdx(old)), new: None }
}

/// The prefix number `number` of a table in which one in eight is IPv6.
pub(crate) fn nth(number: u32) -> Prefix {
    if number % 8 == 7 {
        let bits = (0x2001_0db8_u128 << 96) | (u128::from(number) << 64);
        Prefix::new(IpAddr::V6(Ipv6Addr::from(bits)), 64).unwrap()
    } else {
        Prefix::new(IpAddr::V4(Ipv4Addr::from(number << 8)), 24).unwrap()
    }
}
