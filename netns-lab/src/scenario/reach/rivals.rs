//! Routing daemons with two ways to everything, some of them helped by wgrouted.
//!
//! Here lives the network: hubs, each with one daemon at its default timers, and spokes that all of
//! them know. Every spoke but the last has an address that the last has too, as second choice.
//! What goes wrong and how long it takes to be noticed is not decided here.
//!
//! wgrouted helps in the way that suits each: it disables BIRD's protocols, takes interfaces from
//! babeld, and withdraws from FRR the host routes by which that resolves its next hops.

use std::{
    fmt::{self, Write as _},
    net::Ipv4Addr,
    ops::RangeInclusive,
};

use anyhow::{Context, Result};
use ipnet::IpNet;

use crate::lab::{
    Babeld, Bird, EVERYTHING, Frr, Lab, Link, Node, PATIENCE, Peer, Wgrouted, Wireguard, wait_for,
    wait_until,
};

/// The spoke that stands in for all others.
pub(super) const BACKUP: u8 = 5;
/// So many probes without an answer make a peer dead. The default of three would do on a machine that
/// never stands still for that long, as an emulated one does.
pub(super) const LOST: u32 = 5;
/// Links as babeld takes WireGuard's by itself.
const OPTIONS: &str = "type wired";

/// A routing daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Daemon {
    Bird,
    Babeld,
    Frr,
}

impl fmt::Display for Daemon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Daemon::Bird => "BIRD",
            Daemon::Babeld => "babeld",
            Daemon::Frr => "FRR",
        })
    }
}

/// A router that chooses between two spokes for each address.
pub(super) struct Hub {
    pub(super) node: Node,
    pub(super) daemon: Daemon,
    /// Whether wgrouted tells the daemon who is alive.
    pub(super) helped: bool,
    number: u8,
    wgs: Vec<Wireguard>,
    running: Option<Running>,
    wgrouted: Option<Wgrouted>,
}

enum Running {
    Bird(Bird),
    Babeld(Babeld),
    Frr(Frr),
}

/// A router behind a tunnel to each hub.
pub(super) struct Spoke {
    pub(super) node: Node,
    /// Its underlay links and devices, by hub; the hub is the `a` end.
    pub(super) ties: Vec<(Link, Wireguard)>,
    pub(super) bird: Option<Bird>,
    pub(super) babeld: Option<Babeld>,
    number: u8,
}

/// All of it.
pub(super) struct Rivals {
    pub(super) hubs: Vec<Hub>,
    spokes: Vec<Spoke>,
}

/// What a spoke and its stand-in answer for.
pub(super) fn served(spoke: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, spoke)
}

/// Whose addresses a spoke answers for.
fn serves(spoke: u8) -> RangeInclusive<u8> {
    if spoke == BACKUP { 1..=BACKUP - 1 } else { spoke..=spoke }
}

/// The end of a tunnel at the spoke. Each has a network of its own, even on a shared device.
fn at_spoke(hub: u8, spoke: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, hub, spoke, 1)
}

/// The other end.
fn at_hub(hub: u8, spoke: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, hub, spoke, 254)
}

impl Rivals {
    /// Builds it, starts everything, and waits until all hubs know both ways and take the first.
    pub(super) fn new(lab: &mut Lab) -> Result<Rivals> {
        let mut hubs = Vec::new();
        for (name, daemon) in
            [("bird", Daemon::Bird), ("babeld", Daemon::Babeld), ("frr", Daemon::Frr)]
        {
            for helped in [true, false] {
                let node = lab.node(&format!("{name}{}", if helped { "" } else { "-alone" }))?;
                let number = u8::try_from(hubs.len())? + 1;
                let mut hub = Hub {
                    node,
                    daemon,
                    helped,
                    number,
                    wgs: vec![],
                    running: None,
                    wgrouted: None,
                };
                let devices = if hub.is_shared() { 0..=0 } else { 1..=BACKUP };
                for device in devices {
                    hub.wgs.push(Wireguard::new(&hub.node, &format!("wg{device}"))?);
                }
                hubs.push(hub);
            }
        }
        let spokes = (1..=BACKUP)
            .map(|number| Spoke::new(lab, &hubs, number))
            .collect::<Result<Vec<_>>>()?;
        let mut rivals = Rivals { hubs, spokes };
        for hub in &mut rivals.hubs {
            hub.start(lab)?;
        }
        for spoke in &mut rivals.spokes {
            spoke.start(&rivals.hubs)?;
        }
        for hub in &rivals.hubs {
            for spoke in 1..BACKUP {
                let what = format!("two ways to {} in {:?}", served(spoke), hub.node);
                wait_for(what, PATIENCE * 2, || Ok(hub.ways(spoke)? == 2))?;
                hub.wait_way(spoke, spoke)?;
            }
        }
        Ok(rivals)
    }

    /// A spoke by its number, which counts from 1.
    pub(super) fn spoke(&mut self, number: u8) -> Result<&mut Spoke> {
        let index = usize::from(number).checked_sub(1);
        index.and_then(|index| self.spokes.get_mut(index)).context("no such spoke")
    }
}

impl Spoke {
    fn new(lab: &mut Lab, hubs: &[Hub], number: u8) -> Result<Spoke> {
        let node = lab.node(&format!("s{number}"))?;
        for address in serves(number) {
            node.address("lo", &format!("{}/32", served(address)))?;
        }
        let mut ties = Vec::new();
        for hub in hubs {
            let link = lab.link(&hub.node, &node)?;
            let theirs = hub.device(number)?;
            let ours = Wireguard::new(&node, &format!("wg{}", hub.number))?;
            // The whole of the hub's addresses, whichever it sends from.
            open(&ours, &format!("{}/16", at_spoke(hub.number, number)), number)?;
            ours.add_peers(&[Peer {
                name: hub.node.name().to_owned(),
                public_key: theirs.public_key().to_owned(),
                endpoint: Some(format!("{}:{}", link.a.address, theirs.port())),
                allowed_ips: EVERYTHING.to_vec(),
            }])?;
            let own = IpNet::new(at_spoke(hub.number, number).into(), 32)?;
            theirs.add_peers(&[Peer {
                name: node.name().to_owned(),
                public_key: ours.public_key().to_owned(),
                endpoint: Some(format!("{}:{}", link.b.address, ours.port())),
                allowed_ips: if hub.is_shared() { vec![own] } else { EVERYTHING.to_vec() },
            }])?;
            // FRR knows a living peer by the route that wgrouted announces, so nothing else may
            // lead to it.
            let length = if hub.learns() { 32 } else { 24 };
            let address = format!("{}/{length}", at_hub(hub.number, number));
            open(theirs, &address, 254)?;
            ties.push((link, ours));
        }
        Ok(Spoke { node, ties, bird: None, babeld: None, number })
    }

    fn start(&mut self, hubs: &[Hub]) -> Result<()> {
        let backup = self.number == BACKUP;
        let mut bird = format!("router id 10.0.0.{};\nprotocol static {{\n  ipv4;\n", self.number);
        for address in serves(self.number) {
            writeln!(bird, "  route {}/32 blackhole;", served(address))?;
        }
        writeln!(
            bird,
            "}}\ntemplate bgp hub {{\n  connect delay time 1;\n  error wait time 1, 2;\n  \
             ipv4 {{ import none; export filter {{ bgp_local_pref = {}; accept; }}; }};\n}}",
            if backup { 100 } else { 200 }
        )?;
        let mut babeld = "skip-kernel-setup true\nin deny\n".to_owned();
        for hub in hubs {
            let (ours, theirs) =
                (at_spoke(hub.number, self.number), at_hub(hub.number, self.number));
            match hub.daemon {
                Daemon::Babeld => writeln!(babeld, "interface wg{} {OPTIONS}", hub.number)?,
                Daemon::Bird | Daemon::Frr => writeln!(
                    bird,
                    "protocol bgp h{} from hub {{ local {ours} as 65000; neighbor {theirs} as 65000; }}",
                    hub.number
                )?,
            }
        }
        let metric = if backup { "metric 1000" } else { "allow" };
        writeln!(babeld, "redistribute local ip 198.51.100.0/24 {metric}")?;
        writeln!(babeld, "redistribute local deny")?;
        self.bird = Some(Bird::start(&self.node, &bird)?);
        self.babeld = Some(Babeld::start(&self.node, &[], &babeld)?);
        Ok(())
    }
}

/// Gives a device another address, and one for Babel beside it.
fn open(device: &Wireguard, address: &str, number: u8) -> Result<()> {
    let name = device.name();
    device.node().ip_batch(&format!(
        "address add {address} dev {name}\n\
         address replace fe80::{number}/64 dev {name} nodad\n\
         link set {name} up\n"
    ))
}

impl Hub {
    /// Whether its spokes share a device. Without wgrouted they cannot, and Babel needs multicast.
    fn is_shared(&self) -> bool {
        self.helped && self.daemon != Daemon::Babeld
    }

    /// Whether its daemon learns of peers by announced routes.
    fn learns(&self) -> bool {
        self.helped && self.daemon == Daemon::Frr
    }

    /// The device to a spoke.
    fn device(&self, spoke: u8) -> Result<&Wireguard> {
        let index = if self.is_shared() { 0 } else { usize::from(spoke) - 1 };
        self.wgs.get(index).with_context(|| format!("no device to s{spoke}"))
    }

    fn start(&mut self, lab: &Lab) -> Result<()> {
        self.running = Some(match self.daemon {
            Daemon::Bird => Running::Bird(Bird::start(&self.node, &self.bird()?)?),
            Daemon::Babeld => Running::Babeld(Babeld::start(&self.node, &[], &self.babeld()?)?),
            Daemon::Frr => Running::Frr(Frr::start(&self.node, &self.frr()?)?),
        });
        if self.helped {
            let mut wgrouted = lab.wgrouted_with(&self.node, &self.wgrouted()?)?;
            wgrouted.start()?;
            self.wgrouted = Some(wgrouted);
        }
        Ok(())
    }

    fn bird(&self) -> Result<String> {
        let mut text = format!(
            "router id 10.{}.0.254;\n\
             protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}\n\
             template bgp spoke {{\n  direct;\n  connect delay time 1;\n  \
             error wait time 1, 2;\n  ipv4 {{ import all; export none; }};\n}}\n",
            self.number
        );
        for spoke in 1..=BACKUP {
            writeln!(
                text,
                "protocol bgp s{spoke} from spoke {{ local {} as 65000; neighbor {} as 65000; }}",
                at_hub(self.number, spoke),
                at_spoke(self.number, spoke)
            )?;
        }
        Ok(text)
    }

    fn frr(&self) -> Result<String> {
        let mut text = format!("router bgp 65000\n bgp router-id 10.{}.0.254\n", self.number);
        for spoke in 1..=BACKUP {
            let (ours, theirs) = (at_hub(self.number, spoke), at_spoke(self.number, spoke));
            writeln!(
                text,
                " neighbor {theirs} remote-as 65000\n neighbor {theirs} update-source {ours}\n \
                 neighbor {theirs} timers connect 1"
            )?;
        }
        Ok(text)
    }

    fn babeld(&self) -> Result<String> {
        let mut text = "skip-kernel-setup true\nredistribute local deny\n".to_owned();
        if self.helped {
            // wgrouted adds the others; babeld insists on one of its own.
            text += "interface nobody\n";
        } else {
            for wg in &self.wgs {
                writeln!(text, "interface {} {OPTIONS}", wg.name())?;
            }
        }
        Ok(text)
    }

    fn wgrouted(&self) -> Result<String> {
        let socket = |name: &str| self.node.dir().join(name).display().to_string();
        let mut text = match self.daemon {
            Daemon::Bird => format!("[reach]\nbird = \"{}\"\n", socket("bird.ctl")),
            Daemon::Babeld => format!("[reach]\nbabeld = \"{}\"\n", socket("babeld.ctl")),
            Daemon::Frr => String::new(),
        };
        for wg in &self.wgs {
            let link = if self.is_shared() { "shared" } else { "dedicated" };
            writeln!(
                text,
                "[[interface]]\nname = \"{}\"\nlink = \"{link}\"\n[interface.reach]\n\
                 interval = \"100ms\"\nlost = {LOST}\nhold_down = \"0ms\"",
                wg.name()
            )?;
            match self.daemon {
                Daemon::Bird => (),
                Daemon::Babeld => {
                    writeln!(text, "[interface.reach.babeld]\noptions = \"{OPTIONS}\"")?;
                }
                Daemon::Frr => writeln!(text, "[interface.reach.announce]")?,
            }
            for (key, name) in wg.peers() {
                let number: u8 = name.trim_start_matches('s').parse()?;
                writeln!(
                    text,
                    "[[interface.peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\n\
                     [interface.peer.reach]\naddresses = [\"{}\"]",
                    at_spoke(self.number, number)
                )?;
                if self.daemon == Daemon::Bird {
                    writeln!(text, "bird = [\"{name}\"]")?;
                }
            }
        }
        Ok(text)
    }

    /// How many ways to what a spoke serves its daemon knows.
    fn ways(&self, spoke: u8) -> Result<usize> {
        let prefix = format!("{}/32", served(spoke));
        Ok(match self.running.as_ref().context("it does not run")? {
            Running::Bird(bird) => {
                bird.ask(&format!("show route {prefix}"))?.matches("unicast").count()
            }
            Running::Babeld(babeld) => {
                let dump = babeld.ask("dump")?;
                let of = |line: &&str| line.starts_with("add route") && line.contains(&prefix);
                dump.lines().filter(of).count()
            }
            Running::Frr(frr) => {
                let text = frr.ask(&format!("show bgp ipv4 unicast {prefix}"))?;
                usize::from(text.contains("(2 available")) * 2
            }
        })
    }

    /// Waits until the kernel sends what a spoke serves by way of this spoke.
    pub(super) fn wait_way(&self, of: u8, by: u8) -> Result<()> {
        let what = format!("{:?} to reach {} by s{by}", self.node, served(of));
        let by = format!("via {} ", at_spoke(self.number, by));
        let route = || self.node.ip(&format!("route get {}", served(of)));
        wait_until(what, PATIENCE, route, |route| route.contains(&by)).map(drop)
    }
}
