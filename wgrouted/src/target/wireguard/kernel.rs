//! WireGuard devices of the kernel, over generic netlink.
//!
//! Here lives [`KernelWireguard`]: the socket, and the one rule about dumps. Calls block, so the
//! daemon gives this a thread of its own. Invariant: a dump during which the device changed is
//! never returned, since the kernel cuts it short without an error.

use std::{
    thread,
    time::{Duration, SystemTime},
};

use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};
use tracing::debug;

use super::{
    Batch, Device, PeerSettings, Report, Settings, WgError, WireguardTarget,
    answers::Dumped,
    apply::{Applier, Transport},
    dump::Assembly,
    encode::{DEFAULT_MESSAGE, SettingsEncoder},
    genl::{Genl, GenlError},
    settings::SettingsAssembly,
    uapi::{Malformed, WG_GENL_NAME},
};
use crate::core::{links::state::HaveDevice, peer::PublicKey, route::IfIndex};

/// Dumps tried before giving up. The pauses between them double from two milliseconds and add up to
/// one second, beside the time that the dumps themselves take.
const DUMPS: u32 = 10;

/// The kernel's WireGuard devices of one network namespace.
#[derive(Debug)]
pub struct KernelWireguard {
    door: Door,
    applier: Applier,
}

/// The socket and the family's number.
#[derive(Debug)]
struct Door {
    genl: Genl,
    /// `None` once the kernel said that the number is no longer valid: the module was reloaded.
    family: Option<u16>,
}

impl KernelWireguard {
    /// Opens the WireGuard of the calling thread's network namespace. Fails if the kernel has none,
    /// even after it tried to load the module.
    pub fn open() -> Result<KernelWireguard, WgError> {
        KernelWireguard::with_message_limit(DEFAULT_MESSAGE)
    }

    /// Like [`KernelWireguard::open`], with another bound on the bytes of one message and thereby on
    /// the time the kernel's RTNL lock is held. Between [`MIN_MESSAGE`](super::MIN_MESSAGE) and
    /// [`MAX_MESSAGE`](super::MAX_MESSAGE).
    pub fn with_message_limit(limit: usize) -> Result<KernelWireguard, WgError> {
        let genl = Genl::open().map_err(|error| WgError::from_genl(0, error))?;
        let mut door = Door { genl, family: None };
        door.family()?;
        Ok(KernelWireguard { door, applier: Applier::new(limit) })
    }
}

impl KernelWireguard {
    /// Reads what a device and its peers are set to, without their allowed IPs. `silent` is how
    /// long ago a handshake must be for its peer to count as silent.
    pub fn settings(&mut self, ifindex: IfIndex, silent: Duration) -> Result<HaveDevice, WgError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = now.saturating_sub(silent);
        for attempt in 0..DUMPS {
            thread::sleep(Duration::from_millis(if attempt > 0 { 1 << attempt } else { 0 }));
            let mut assembly = SettingsAssembly::new(since);
            if self.door.read(ifindex, |attributes| assembly.message(attributes))? == Dumped::Whole
            {
                return Ok(assembly.finish());
            }
        }
        Err(WgError::Unstable { ifindex, attempts: DUMPS })
    }

    /// The UDP port that a device listens on, zero for none. However many allowed IPs it has, one
    /// answer of the kernel's is enough for this; so it needs a socket of its own.
    pub fn listen_port(ifindex: IfIndex) -> Result<u16, WgError> {
        let mut genl = Genl::open().map_err(|error| WgError::from_genl(ifindex, error))?;
        let failed = |error| WgError::from_genl(ifindex, error);
        let family = genl.family(WG_GENL_NAME).map_err(failed)?;
        let request = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::IfIndex(ifindex)],
        };
        let mut assembly = SettingsAssembly::new(Duration::ZERO);
        genl.first(family, request, |attributes| assembly.message(attributes)).map_err(failed)?;
        Ok(assembly.finish().listen_port)
    }

    /// Changes settings of a device.
    pub fn set(&mut self, ifindex: IfIndex, settings: &Settings<'_>) -> Result<(), WgError> {
        let mut message = SettingsEncoder::device(ifindex, settings);
        self.door.set_device(ifindex, message.bytes())
    }

    /// Adds or changes a peer.
    pub fn set_peer(&mut self, ifindex: IfIndex, peer: &PeerSettings<'_>) -> Result<(), WgError> {
        let mut message = SettingsEncoder::peer(ifindex, peer);
        self.door.set_device(ifindex, message.bytes())
    }

    /// Whether the device can remove a single allowed IP, found out with a peer that it has and an
    /// address that is nobody's. `None` if it does not tell.
    pub fn removes_single(
        &mut self,
        ifindex: IfIndex,
        peer: PublicKey,
    ) -> Result<Option<bool>, WgError> {
        self.applier.removes_single(&mut self.door, ifindex, peer)
    }

    /// Removes a peer; one that is gone is no error.
    pub fn remove_peer(&mut self, ifindex: IfIndex, key: PublicKey) -> Result<(), WgError> {
        let mut message = SettingsEncoder::removal(ifindex, key);
        self.door.set_device(ifindex, message.bytes())
    }
}

impl WireguardTarget for KernelWireguard {
    fn dump(&mut self, ifindex: IfIndex) -> Result<Device, WgError> {
        for attempt in 0..DUMPS {
            if attempt > 0 {
                thread::sleep(Duration::from_millis(1 << attempt));
            }
            if let Some(device) = self.door.dump(ifindex)? {
                return Ok(device);
            }
            debug!(ifindex, attempt, "the device changed during its dump");
        }
        Err(WgError::Unstable { ifindex, attempts: DUMPS })
    }

    fn apply(&mut self, ifindex: IfIndex, batch: Batch<'_>) -> Result<Report, WgError> {
        self.applier.apply(&mut self.door, ifindex, batch)
    }

    fn bury(&mut self, ifindex: IfIndex) -> Result<(), WgError> {
        self.applier.bury(&mut self.door, ifindex)
    }
}

impl Door {
    fn family(&mut self) -> Result<u16, WgError> {
        match self.family {
            Some(family) => Ok(family),
            None => {
                let family = self.genl.family(WG_GENL_NAME);
                let family = family.map_err(|error| WgError::from_genl(0, error))?;
                self.family = Some(family);
                Ok(family)
            }
        }
    }

    /// `None` if the device changed meanwhile.
    fn dump(&mut self, ifindex: IfIndex) -> Result<Option<Device>, WgError> {
        let mut assembly = Assembly::default();
        let dumped = self.read(ifindex, |attributes| assembly.message(attributes))?;
        Ok((dumped == Dumped::Whole).then(|| assembly.finish()))
    }

    /// Hands over a dump, message by message.
    fn read(
        &mut self,
        ifindex: IfIndex,
        each: impl FnMut(&[u8]) -> Result<(), Malformed>,
    ) -> Result<Dumped, WgError> {
        let request = WireguardMessage {
            cmd: WireguardCmd::GetDevice,
            attributes: vec![WireguardAttribute::IfIndex(ifindex)],
        };
        let family = self.family()?;
        self.genl.dump(family, request, each).map_err(|error| self.meaning(ifindex, error))
    }

    fn meaning(&mut self, ifindex: IfIndex, error: GenlError) -> WgError {
        let error = WgError::from_genl(ifindex, error);
        if error == WgError::NoFamily {
            self.family = None;
        }
        error
    }
}

impl Transport for Door {
    fn set_device(&mut self, ifindex: IfIndex, message: &mut [u8]) -> Result<(), WgError> {
        let family = self.family()?;
        self.genl.request(family, message).map_err(|error| self.meaning(ifindex, error))
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, net::IpAddr, process};

    use super::*;
    use crate::core::{
        change::Change,
        peer::{PeerIdx, PublicKey},
        prefix::Prefix,
    };

    /// Spoils the mask of one IPv4 address on its way to the kernel.
    struct Spoiler<'a> {
        door: &'a mut Door,
        addr: [u8; 4],
        mask: u8,
    }

    impl Transport for Spoiler<'_> {
        fn set_device(&mut self, ifindex: IfIndex, message: &mut [u8]) -> Result<(), WgError> {
            // WGALLOWEDIP_A_IPADDR, then the header of WGALLOWEDIP_A_CIDR_MASK.
            let mut pattern = [8, 0, 2, 0, 0, 0, 0, 0, 5, 0, 3, 0];
            pattern[4..8].copy_from_slice(&self.addr);
            if let Some(at) = message.windows(12).position(|window| window == pattern) {
                message[at + 12] = self.mask;
            }
            self.door.set_device(ifindex, message)
        }
    }

    fn run(program: &str, args: &[&str], input: &[u8]) {
        let mut command = process::Command::new(program);
        let mut child = command.args(args).stdin(process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        assert!(child.wait().unwrap().success(), "{program} {args:?}");
    }

    #[test]
    #[ignore = "needs root and kernel WireGuard: sudo -E cargo test -p wgrouted --lib -- --ignored"]
    fn one_bad_entry_in_two_thousand_costs_only_itself() {
        // SAFETY: no pointers are passed; the call moves this thread to a new network namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        let peers = [PublicKey([7; 32]), PublicKey([8; 32])];
        let config = peers.map(|key| format!("[Peer]\nPublicKey = {key}\n")).concat();
        run("ip", &["link", "add", "wg0", "index", "9", "type", "wireguard"], b"");
        run("wg", &["addconf", "wg0", "/dev/stdin"], config.as_bytes());

        let prefix = |n: u16| {
            let [high, low] = n.to_be_bytes();
            Prefix::new(IpAddr::from([10, high, low, 0]), 24).unwrap()
        };
        let mut wireguard = KernelWireguard::open().unwrap();
        let sets: Vec<_> = (0..2000)
            .map(|n| Change { prefix: prefix(n), old: None, new: Some(PeerIdx((n % 2).into())) })
            .collect();
        let removals: Vec<_> =
            sets.iter().map(|set| Change { old: set.new, new: None, ..*set }).collect();
        let bad = 1234;
        for mask in [33, 255] {
            for (changes, remaining) in [(&sets, 1999), (&removals, 1)] {
                if changes == &removals {
                    // So that the removal that fails has something to leave behind.
                    let batch = Batch { peers: &peers, changes: &sets };
                    assert_eq!(wireguard.apply(9, batch).unwrap().failed, []);
                }
                let IpAddr::V4(addr) = changes[bad].prefix.addr() else { unreachable!() };
                let mut spoiler = Spoiler { door: &mut wireguard.door, addr: addr.octets(), mask };
                let batch = Batch { peers: &peers, changes };
                let report = wireguard.applier.apply(&mut spoiler, 9, batch).unwrap();
                assert_eq!(report.failed, [(bad, libc::EINVAL)]);
                assert!(report.messages < 25, "{report:?}");
                let device = wireguard.dump(9).unwrap();
                assert_eq!((device.allowed_ips.len(), device.graveyard.len()), (remaining, 0));
                assert_eq!(
                    device.allowed_ips.iter().any(|(p, _)| *p == changes[bad].prefix),
                    remaining == 1
                );
            }
            let batch = Batch { peers: &peers, changes: &removals };
            assert_eq!(wireguard.apply(9, batch).unwrap().failed, []);
            assert_eq!(wireguard.dump(9).unwrap().allowed_ips, []);
        }
    }
}
