//! What the scenarios of the filter share.
//!
//! Here live a hub with dedicated links and a filtering daemon on it, packets with an expected
//! fate ([`Case`]), and the daemon's own counts of them. Nothing here is particular to one
//! scenario.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

pub(super) use crate::scenario::support::{DIRECTORY, mount_bpffs};

use crate::lab::{
    Dedicated, Host, Injector, Lab, PATIENCE, Stream, Tap, Wgrouted, own, packet::Route,
    wait_equal, wait_for,
};

/// How many packets of each kind are sent.
pub(super) const MANY: u64 = 5;
/// A source that nothing routes anywhere.
pub(super) const UNKNOWN: [&str; 2] = ["192.0.2.77", "2001:db8:dead::7"];

/// Where packets are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    Xdp,
    /// tcx, or clsact where the kernel is older.
    Tcx,
}

impl Hook {
    pub(super) fn name(self) -> &'static str {
        match self {
            Hook::Xdp => "xdp",
            Hook::Tcx => "tcx",
        }
    }
}

/// A configuration: the filter's section with these further lines, and this
/// `[interface.filter]` for each of the links `wg1`, `wg2` and so on.
pub(super) fn config(hook: Hook, filter: &str, links: &[&str]) -> String {
    let mut text =
        format!("[filter]\nhook = \"{}\"\ndirectory = \"{DIRECTORY}\"\n{filter}\n", hook.name());
    for (number, link) in (1..).zip(links) {
        text += &format!(
            "[[interface]]\nname = \"wg{number}\"\nlink = \"dedicated\"\n\
             [interface.filter]\n{link}\n"
        );
    }
    text
}

/// A hub with dedicated links, the daemon on it, and what arrives behind it.
pub(super) struct Filtered {
    pub(super) net: Dedicated,
    pub(super) daemon: Wgrouted,
    pub(super) tap: Tap,
}

impl Filtered {
    /// Builds it with three spokes whose sources WireGuard does not check, and starts the daemon.
    pub(super) fn new(lab: &mut Lab, config: &str) -> Result<Filtered> {
        let net = Dedicated::new(lab, 3)?;
        net.open()?;
        Filtered::on(lab, net, config)
    }

    /// The same on a topology that stands, which is told the daemon's start only now.
    pub(super) fn on(lab: &mut Lab, net: Dedicated, config: &str) -> Result<Filtered> {
        mount_bpffs()?;
        let daemon = lab.wgrouted_with(&net.hub, config)?;
        let tap = net.host.tap()?;
        let mut filtered = Filtered { net, daemon, tap };
        filtered.daemon.start()?;
        filtered.wait_in_force()?;
        Ok(filtered)
    }

    /// `wgrouted filter show`.
    pub(super) fn show(&self) -> Result<Value> {
        show(&self.daemon)
    }

    /// Waits until the daemon says that the filter is in force.
    pub(super) fn wait_in_force(&self) -> Result<()> {
        wait_for("the filter to be in force", PATIENCE, || Ok(self.show()?["state"] == "in-force"))
    }

    /// Runs `ip` on the hub.
    pub(super) fn ip(&self, words: &str) -> Result<()> {
        self.net.hub.ip(words).map(drop)
    }

    /// What a spoke can send with any source.
    pub(super) fn injector(&self, spoke: u8) -> Result<Injector> {
        Injector::open(&self.net.spoke(spoke.into())?.node, "wg0")
    }

    /// Sends packets of a spoke to the host, of this source, until they are stopped.
    pub(super) fn stream(&self, spoke: u8, from: IpAddr, every: Duration) -> Result<Running> {
        stream(self.injector(spoke)?, from, every)
    }

    /// Sends the packets of all cases, and asserts what became of them: what arrived at the host,
    /// and what the daemon counted.
    pub(super) fn judge(&self, cases: Vec<Case>) -> Result<()> {
        let before = counters(&self.show()?)?;
        let mut sent = Vec::new();
        for case in cases {
            let label = new_label();
            let route = Route { from: case.from, to: case.to, label };
            let injector = self.injector(case.spoke)?;
            for _ in 0..MANY {
                injector.send(&(case.make)(route)).with_context(|| case.to_string())?;
            }
            sent.push((case, label));
        }
        // Packets of a peer stay in order: when these arrive, the others are through.
        for spoke in 1..=u8::try_from(self.net.links.len())? {
            self.fence(spoke)?;
        }
        let mut want = before;
        for (case, label) in &sent {
            let arrived = self.tap.count(*label);
            let due = if case.want.passes() && case.arrives { MANY } else { 0 };
            ensure!(arrived == due, "{arrived} of {MANY} arrived, not {due}: {case}");
            let key = Key::new(&format!("wg{}", case.spoke), case.want);
            *want.entry(key).or_default() += MANY;
        }
        // Only the reasons at issue are compared. What passes is counted together with the fences
        // and with what the kernel sends by itself: there, more is no error.
        let at_issue: BTreeMap<Key, bool> = sent
            .iter()
            .map(|(case, _)| (Key::new(&format!("wg{}", case.spoke), case.want), case.want))
            .map(|(key, fate)| (key, matches!(fate, Fate::Passes(_))))
            .collect();
        want.retain(|key, _| at_issue.contains_key(key));
        wait_equal("the filter's counters", PATIENCE, &want, || {
            let mut have = counters(&self.show()?)?;
            have.retain(|key, _| at_issue.contains_key(key));
            for (key, count) in &mut have {
                if at_issue[key] {
                    *count = (*count).min(want[key]);
                }
            }
            Ok(have)
        })
    }

    /// Waits until a spoke's packets come through: from its tunnel address, to the port of the
    /// discard service, which policies in these scenarios accept.
    pub(super) fn fence(&self, spoke: u8) -> Result<()> {
        let injector = self.injector(spoke)?;
        let from = self.net.spoke(spoke.into())?.inner.v4();
        let route = Host::route_from(from.into(), new_label());
        wait_for(format!("a packet of s{spoke}"), PATIENCE, || {
            injector.send(&route.udp(DISCARD, DISCARD))?;
            std::thread::sleep(Duration::from_millis(5));
            Ok(self.tap.count(route.label) > 0)
        })
    }
}

/// The discard service (RFC 863).
pub(super) const DISCARD: u16 = 9;

/// `wgrouted filter show`.
pub(super) fn show(daemon: &Wgrouted) -> Result<Value> {
    let text = daemon.run(&["filter", "show", "--json"])?;
    serde_json::from_str(&text).context("wgrouted filter show")
}

/// A label that no other packet of this scenario has.
pub(super) fn new_label() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A stream of packets and the label that they are known by.
pub(super) struct Running {
    pub(super) label: u16,
    stream: Stream,
}

impl Running {
    /// How many were sent so far.
    pub(super) fn sent(&self) -> u64 {
        self.stream.sent()
    }

    /// Stops it; gives how many were sent.
    pub(super) fn stop(self) -> Result<u64> {
        self.stream.stop()
    }

    /// Waits until this many more were sent.
    pub(super) fn run(&self, packets: u64) -> Result<()> {
        let goal = self.sent() + packets;
        wait_for(format!("{packets} more packets"), PATIENCE, || Ok(self.sent() >= goal))
    }
}

/// Sends datagrams to the host until they are stopped.
pub(super) fn stream(injector: Injector, from: IpAddr, every: Duration) -> Result<Running> {
    let label = new_label();
    let packet = Host::route_from(from, label).udp(40000, DISCARD);
    Ok(repeat(injector, label, packet, every))
}

/// Sends a packet that is known by this label until it is stopped.
pub(super) fn repeat(injector: Injector, label: u16, packet: Vec<u8>, every: Duration) -> Running {
    Running { label, stream: injector.stream(vec![packet], every) }
}

/// What shall become of a packet, with the filter's word for why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Passes(&'static str),
    Dropped(&'static str),
    /// It passes, for the peer is only monitored.
    Monitored(&'static str),
}

impl Fate {
    fn passes(self) -> bool {
        !matches!(self, Fate::Dropped(_))
    }

    fn reason(self) -> &'static str {
        match self {
            Fate::Passes(reason) | Fate::Dropped(reason) | Fate::Monitored(reason) => reason,
        }
    }
}

type Make = Box<dyn Fn(Route) -> Vec<u8>>;

/// Packets of one kind, and what shall become of them.
pub(super) struct Case {
    spoke: u8,
    from: IpAddr,
    to: IpAddr,
    make: Make,
    want: Fate,
    arrives: bool,
}

impl Case {
    /// Datagrams of a spoke to the host.
    pub(super) fn new(spoke: u8, from: impl Into<IpAddr>, want: Fate) -> Case {
        let from = from.into();
        let to = Host::address(from.is_ipv4());
        let make = Box::new(|route: Route| route.udp(40000, DISCARD));
        Case { spoke, from, to, make, want, arrives: true }
    }

    /// The same with a source as text.
    pub(super) fn text(spoke: u8, from: &str, want: Fate) -> Result<Case> {
        let from: IpAddr = from.parse().with_context(|| format!("address `{from}`"))?;
        Ok(Case::new(spoke, from, want))
    }

    /// The same with other packets.
    pub(super) fn of(mut self, make: impl Fn(Route) -> Vec<u8> + 'static) -> Case {
        self.make = Box::new(make);
        self
    }

    /// The same to somewhere else, where nobody counts them.
    pub(super) fn to(mut self, to: &str) -> Result<Case> {
        self.to = to.parse().with_context(|| format!("address `{to}`"))?;
        self.arrives = false;
        Ok(self)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { spoke, from, to, want, .. } = self;
        let label = 0;
        let packet = (self.make)(Route { from: *from, to: *to, label });
        write!(f, "s{spoke}: {from} to {to}: {want:?}; the packet is {packet:02x?}")
    }
}

/// What a counter counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    interface: String,
    reason: String,
    monitored: bool,
}

impl Key {
    fn new(interface: &str, fate: Fate) -> Key {
        Key {
            interface: interface.to_owned(),
            reason: fate.reason().to_owned(),
            monitored: matches!(fate, Fate::Monitored(_)),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let monitored = if self.monitored { " (monitored)" } else { "" };
        write!(f, "{} {}{monitored}", self.interface, self.reason)
    }
}

/// The packets that an answer of `wgrouted filter show` counts, by interface and reason.
pub(super) fn counters(answer: &Value) -> Result<BTreeMap<Key, u64>> {
    let mut counters = BTreeMap::new();
    for peer in answer["peers"].as_array().context("no peers in `filter show`")? {
        let interface = peer["interface"].as_str().context("a peer without interface")?;
        for row in peer["counters"].as_array().context("a peer without counters")? {
            let key = Key {
                interface: interface.to_owned(),
                reason: row["reason"].as_str().context("a counter without reason")?.to_owned(),
                monitored: row["monitored"] == true,
            };
            let packets = row["packets"].as_u64().context("a counter without packets")?;
            *counters.entry(key).or_default() += packets;
        }
    }
    Ok(counters)
}

/// How many packets an interface's peers had dropped, or would have, for a reason.
pub(super) fn counted(daemon: &Wgrouted, interface: &str, fate: Fate) -> Result<u64> {
    counted_in(&show(daemon)?, interface, fate)
}

/// The same in an answer of `wgrouted filter show`.
pub(super) fn counted_in(answer: &Value, interface: &str, fate: Fate) -> Result<u64> {
    let counters = counters(answer)?;
    Ok(counters.get(&Key::new(interface, fate)).copied().unwrap_or_default())
}

/// The addresses of a spoke's own, IPv4 first.
pub(super) fn both(spoke: u8) -> [IpAddr; 2] {
    [own(spoke, true), own(spoke, false)]
}
