//! Links as the kernel has them: WireGuard devices and tunnels that we make, and all others.
//!
//! Here lives [`KernelLinks`], which reads links and takes single steps. Invariants: a link that is
//! made here carries our mark, an address that is added here our protocol number; nothing is deleted
//! but by a step that says so.

mod decode;
mod encode;
mod mark;

use std::{collections::BTreeMap, io, net::SocketAddr, time::Duration};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;

pub use self::{encode::PROTOCOL, mark::Mark};
use super::{
    rtnl::Rtnl,
    wireguard::{KernelWireguard, PeerSettings, Secret, Settings, WgError},
};
use crate::core::{
    links::{
        plan::{Created, Step},
        state::{Have, HaveAddress, HaveShape},
    },
    peer::PublicKey,
    route::IfIndex,
};

/// A peer without a handshake for so long has no session (`REJECT_AFTER_TIME`, section 6.1 of the
/// WireGuard paper), so it may be somewhere else.
const SILENT: Duration = Duration::from_secs(180);

/// Why a link could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// rtnetlink said no.
    #[error("cannot {doing}: {source}{}", remedy(source))]
    Refused {
        /// What was tried.
        doing: String,
        /// Why not.
        source: io::Error,
    },
    /// WireGuard said no.
    #[error(transparent)]
    Wireguard(#[from] WgError),
}

fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => {
            " (the kernel may lack this kind of link: `modprobe ip_gre`, `ip6_gre`, `ipip` or \
             `wireguard`)"
        }
        Some(libc::EADDRINUSE) => " (another device has the UDP port: configure another)",
        // `inet_bind`, net/ipv4/af_inet.c.
        Some(libc::EACCES) => {
            " (a UDP port below 1024 needs CAP_NET_BIND_SERVICE, which wgrouted gives up: configure \
             another)"
        }
        Some(libc::EPERM) => " (needs CAP_NET_ADMIN)",
        _ => "",
    }
}

fn refused(doing: impl Into<String>) -> impl FnOnce(io::Error) -> LinkError {
    let doing = doing.into();
    move |source| LinkError::Refused { doing, source }
}

/// The secrets of one device.
#[derive(Debug, Default)]
pub struct Secrets {
    /// Its private key.
    pub private_key: Option<Secret>,
    /// The preshared keys of its peers.
    pub preshared: BTreeMap<PublicKey, Secret>,
}

/// What was read.
#[derive(Debug)]
pub struct Read {
    /// The links.
    pub links: Vec<Have>,
    /// Those whose settings could not be read, and why.
    pub unread: Vec<(String, LinkError)>,
}

/// The kernel's links of one network namespace.
#[derive(Debug)]
pub struct KernelLinks {
    rtnl: Rtnl,
    wireguard: Option<KernelWireguard>,
    mark: Mark,
}

impl KernelLinks {
    /// Opens them in the calling thread's network namespace.
    pub fn open(mark: Mark) -> Result<KernelLinks, LinkError> {
        let rtnl = Rtnl::open().map_err(refused("open an rtnetlink socket"))?;
        Ok(KernelLinks { rtnl, wireguard: None, mark })
    }

    /// All links with their addresses, and with the settings of the WireGuard devices that `deep`
    /// picks.
    pub fn read(&mut self, deep: impl Fn(&str, IfIndex) -> bool) -> Result<Read, LinkError> {
        let links =
            self.rtnl.exchange(encode::links(), NLM_F_DUMP).map_err(refused("list links"))?;
        let links: Vec<_> = links.into_iter().flatten().collect();
        let mut have = decode::links(&links, &self.mark);
        let answers = self.rtnl.exchange(encode::addresses(), NLM_F_DUMP);
        let mut addresses: BTreeMap<IfIndex, Vec<HaveAddress>> = BTreeMap::new();
        for answer in answers.map_err(refused("list addresses"))?.iter().flatten() {
            if let Some((index, address)) = decode::address(answer) {
                addresses.entry(index).or_default().push(address);
            }
        }
        let mut failed = Vec::new();
        for link in &mut have {
            link.addresses = addresses.remove(&link.index).unwrap_or_default();
            if let HaveShape::Wireguard(settings) = &mut link.shape
                && deep(&link.name, link.index)
            {
                let index = link.index;
                match self.wireguard().and_then(|door| Ok(door.settings(index, SILENT)?)) {
                    Ok(device) => *settings = Some(device),
                    Err(error) => failed.push((link.name.clone(), error)),
                }
            }
        }
        Ok(Read { links: have, unread: failed })
    }

    /// The link through which UDP packets from this port, with this mark, go to an address, and the
    /// MTU of the route if it has one of its own. `None` if there is no way.
    pub fn path(
        &mut self,
        to: SocketAddr,
        from: u16,
        fwmark: u32,
    ) -> Option<(IfIndex, Option<u32>)> {
        let answers = self.rtnl.exchange(encode::route(to, from, fwmark), 0).ok()?;
        answers.iter().flatten().find_map(decode::path)
    }

    /// Takes a step.
    pub fn take(&mut self, link: &str, step: &Step, secrets: &Secrets) -> Result<(), LinkError> {
        if let Step::Create(created) = step {
            return self.create(link, created);
        }
        let index = self.index(link)?;
        match step {
            Step::Create(_) => Ok(()),
            Step::Delete => self.change(encode::delete(index), 0, step),
            Step::Retunnel(tunnel) => {
                let over = self.index(&tunnel.over)?;
                self.change(encode::retunnel(index, tunnel, over), 0, step)
            }
            Step::Mtu(mtu) => self.change(encode::mtu(index, *mtu), 0, step),
            Step::Up => self.change(encode::up(index), 0, step),
            Step::AddAddress(address) => {
                let request = RouteNetlinkMessage::NewAddress(encode::address(index, *address));
                self.change(request, NLM_F_CREATE | NLM_F_EXCL, step)
            }
            Step::RemoveAddress(address) => {
                let request = RouteNetlinkMessage::DelAddress(encode::address(index, *address));
                self.change(request, 0, step)
            }
            Step::Device { private_key, listen_port, fwmark } => {
                let private_key = secrets.private_key.as_ref().filter(|_| *private_key);
                let (listen_port, fwmark) = (*listen_port, *fwmark);
                let settings = Settings { private_key, listen_port, fwmark };
                Ok(self.wireguard()?.set(index, &settings)?)
            }
            Step::Peer(peer) => {
                let preshared = secrets.preshared.get(&peer.public_key);
                let settings = PeerSettings {
                    public_key: peer.public_key,
                    add: peer.add.as_deref(),
                    preshared: preshared.filter(|_| peer.preshared),
                    endpoint: peer.endpoint,
                    keepalive: peer.keepalive,
                };
                Ok(self.wireguard()?.set_peer(index, &settings)?)
            }
            Step::RemovePeer(key) => Ok(self.wireguard()?.remove_peer(index, *key)?),
        }
    }

    /// The number of a link.
    pub fn index(&mut self, name: &str) -> Result<IfIndex, LinkError> {
        let doing = || refused(format!("find link {name}"));
        let answers = self.rtnl.exchange(encode::named(name), 0).map_err(doing())?;
        let index = answers.iter().flatten().find_map(decode::index);
        index.ok_or_else(|| doing()(io::Error::from_raw_os_error(libc::ENODEV)))
    }

    fn create(&mut self, name: &str, created: &Created) -> Result<(), LinkError> {
        let step = Step::Create(created.clone());
        let request = match created {
            Created::Wireguard => encode::wireguard(name),
            Created::Tunnel(tunnel) => encode::tunnel(name, tunnel, self.index(&tunnel.over)?),
        };
        self.change(request, NLM_F_CREATE | NLM_F_EXCL, &step)?;
        let index = self.index(name)?;
        let mark = encode::mark(index, self.mark.of(name));
        let marked = self.rtnl.exchange(mark, NLM_F_CREATE | NLM_F_EXCL);
        if let Err(source) = marked {
            // Without a mark nobody would ever know whose it is.
            self.change(encode::delete(index), 0, &Step::Delete)?;
            return Err(refused("mark it as ours")(source));
        }
        Ok(())
    }

    fn change(
        &mut self,
        request: RouteNetlinkMessage,
        flags: u16,
        step: &Step,
    ) -> Result<(), LinkError> {
        match self.rtnl.exchange(request, flags) {
            Ok(_) => Ok(()),
            // Somebody was faster.
            Err(error) if is_done(step, &error) => Ok(()),
            Err(error) => Err(refused(step.to_string())(error)),
        }
    }

    fn wireguard(&mut self) -> Result<&mut KernelWireguard, LinkError> {
        if self.wireguard.is_none() {
            self.wireguard = Some(KernelWireguard::open()?);
        }
        Ok(self.wireguard.as_mut().expect("opened above"))
    }
}

/// Whether an error says that what a step should do is done.
fn is_done(step: &Step, error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    match step {
        Step::AddAddress(_) => errno == Some(libc::EEXIST),
        Step::RemoveAddress(_) => errno == Some(libc::EADDRNOTAVAIL),
        Step::Delete => errno == Some(libc::ENODEV),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, process::Command};

    use super::*;
    use crate::core::links::rule::{Tunnel, TunnelKind};

    fn ip(words: &str) -> String {
        let output = Command::new("ip").args(words.split(' ')).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {words}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn named(kernel: &mut KernelLinks, name: &str) -> Option<Have> {
        let links = kernel.read(|_, _| false).unwrap().links;
        links.into_iter().find(|link| link.name == name)
    }

    /// Tunnels need nothing of the link that carries them.
    #[test]
    #[ignore = "needs root and a kernel with tunnels, as those with WireGuard: sudo -E cargo test -p wgrouted --lib -- --ignored"]
    fn the_kernel_does_and_says_what_a_step_says() {
        // SAFETY: no pointers are passed; the call moves this thread to a new network namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        ip("link add over type veth peer name end");
        ip("link set over up");
        let mut kernel = KernelLinks::open(Mark::new(Path::new("/run/test"))).unwrap();
        let mut other = KernelLinks::open(Mark::new(Path::new("/run/other"))).unwrap();
        for (number, kind, key) in [
            (1, TunnelKind::Gre, None),
            (2, TunnelKind::Gre, Some(7)),
            (3, TunnelKind::Ipip, None),
            (4, TunnelKind::Ip6gre, Some(9)),
        ] {
            let end = |host: u8| match kind.is_over_ipv6() {
                true => [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(host)].into(),
                false => [10, 0, 0, host].into(),
            };
            let over = "over".to_owned();
            let mut tunnel = Tunnel { kind, over, local: end(1), remote: end(2), ttl: 64, key };
            let name = format!("t{number}");
            let mut take = |step: Step| kernel.take(&name, &step, &Secrets::default()).unwrap();
            take(Step::Create(Created::Tunnel(tunnel.clone())));
            take(Step::Mtu(1400));
            let address = |text: String| {
                text.parse::<crate::core::links::address::InterfaceAddress>().unwrap()
            };
            let (first, second) =
                (address(format!("10.{number}.0.1/24")), address(format!("10.{number}.0.2/32")));
            take(Step::AddAddress(first));
            take(Step::AddAddress(second));
            take(Step::AddAddress(second));
            take(Step::Up);
            ip(&format!("address add 10.77.{number}.1/32 dev {name}"));
            let link = named(&mut kernel, &name).unwrap();
            assert_eq!(link.shape, HaveShape::Tunnel(tunnel.clone()));
            assert!(link.up && link.ours && link.mtu == 1400, "{link:?}");
            assert!(!named(&mut other, &name).unwrap().ours);
            let ours = |link: &Have| -> Vec<_> {
                let ours = link.addresses.iter().filter(|there| there.ours);
                ours.map(|there| there.address).collect()
            };
            assert_eq!(ours(&link), [first, second]);

            tunnel.remote = end(3);
            tunnel.ttl = 9;
            tunnel.key = Some(11).filter(|_| kind != TunnelKind::Ipip);
            let mut take = |step: Step| kernel.take(&name, &step, &Secrets::default()).unwrap();
            take(Step::Retunnel(tunnel.clone()));
            take(Step::RemoveAddress(first));
            let changed = named(&mut kernel, &name).unwrap();
            assert_eq!((changed.index, &changed.shape), (link.index, &HaveShape::Tunnel(tunnel)));
            assert_eq!(ours(&changed), [second]);
            let mut take = |step: Step| kernel.take(&name, &step, &Secrets::default()).unwrap();
            take(Step::Delete);
            assert_eq!(named(&mut kernel, &name), None);
        }
    }

    #[test]
    #[ignore = "needs root: sudo -E cargo test -p wgrouted --lib -- --ignored"]
    fn the_path_is_that_of_the_route() {
        // SAFETY: no pointers are passed; the call moves this thread to a new network namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNET) }, 0);
        ip("link add one type veth peer name end");
        ip("link set end up mtu 1400");
        ip("link set one up mtu 1400");
        ip("address add 192.0.2.1/24 dev one");
        ip("address add 2001:db8::1/64 dev one nodad");
        ip("route add 198.51.100.0/24 via 192.0.2.2 mtu 1300");
        let mut kernel = KernelLinks::open(Mark::new(Path::new("/run/test"))).unwrap();
        let one = kernel.index("one").unwrap();
        let mut path = |text: &str| kernel.path(text.parse().unwrap(), 51820, 0);
        assert_eq!(path("192.0.2.9:1").unwrap().0, one);
        assert_eq!(path("198.51.100.9:1"), Some((one, Some(1300))));
        assert_eq!(path("[2001:db8::9]:1").unwrap().0, one);
        assert_eq!(path("203.0.113.1:1"), None);
        // What keeps WireGuard's own packets out of the way that everything else goes.
        ip("link add aside type veth peer name beyond");
        ip("link set beyond up");
        ip("link set aside up");
        ip("route add 198.51.100.0/24 dev aside table 100");
        ip("rule add priority 100 iif lo ipproto 17 sport 51820 goto 102");
        ip("rule add priority 101 lookup 100");
        ip("rule add priority 102 lookup main");
        assert_eq!(path("198.51.100.9:1"), Some((one, Some(1300))));
        let aside = kernel.index("aside").unwrap();
        let other = kernel.path("198.51.100.9:1".parse().unwrap(), 1, 0);
        assert_eq!(other.map(|(link, _)| link), Some(aside));
        assert!(kernel.index("two").unwrap_err().to_string().contains("find link two"));
    }
}
