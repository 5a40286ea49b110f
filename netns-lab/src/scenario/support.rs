//! What scenarios share.
//!
//! Here live a hub with spokes and a daemon on it, and the assertions on the hub's AllowedIPs.
//! Nothing here is particular to one scenario.

use std::{fs, net::IpAddr, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use crate::lab::{
    AllowedIps, Kind, Lab, Owner, PATIENCE, Ping, Reflector, Spoke, Star, Train, Wgrouted,
    assert_flow, assert_no_flow,
    routes::{self, Op, Via},
    wait_equal,
};

/// A destination that all spokes answer for.
pub(super) const V4: &str = "198.51.100.1";
/// The prefix that scenarios route to reach [`V4`].
pub(super) const NET4: &str = "198.51.100.0/24";
/// The same in IPv6.
pub(super) const V6: &str = "2001:db8:1::1";
/// The prefix that scenarios route to reach [`V6`].
pub(super) const NET6: &str = "2001:db8:1::/48";

/// Where the daemon pins its objects. The file system is the scenario's own: what is pinned there
/// goes with it.
pub(super) const DIRECTORY: &str = "/run/bpf/wgrouted";

/// The main table's number.
const MAIN: u32 = 254;
/// BIRD's protocol number.
const BIRD: u8 = 12;

/// A hub with spokes, and wgrouted on the hub.
pub(super) struct Hub {
    pub(super) star: Star,
    pub(super) daemon: Wgrouted,
}

impl Hub {
    /// Builds it with this many spokes, which answer for [`V4`] and [`V6`], and starts the daemon
    /// without a configuration.
    pub(super) fn new(lab: &mut Lab, spokes: u16) -> Result<Hub> {
        let star = star(lab, spokes)?;
        let daemon = lab.wgrouted(&star.hub, &["wg0"])?;
        Hub { star, daemon }.started()
    }

    /// The same with a configuration, which may name the spokes' keys.
    pub(super) fn with_config(
        lab: &mut Lab,
        spokes: u16,
        config: impl FnOnce(&Star) -> Result<String>,
    ) -> Result<Hub> {
        let star = star(lab, spokes)?;
        let daemon = lab.wgrouted_with(&star.hub, &config(&star)?)?;
        Hub { star, daemon }.started()
    }

    /// Starts the daemon.
    pub(super) fn started(mut self) -> Result<Hub> {
        self.daemon.start()?;
        Ok(self)
    }

    /// Runs `ip` on the hub.
    pub(super) fn ip(&self, words: &str) -> Result<()> {
        self.star.hub.ip(words).map(drop)
    }

    /// Runs lines of `ip` commands on the hub.
    pub(super) fn ip_batch(&self, lines: &str) -> Result<()> {
        self.star.hub.ip_batch(lines)
    }

    /// Writes routes through the interface, faster than `ip` does.
    pub(super) fn routes<'a>(
        &self,
        op: Op,
        gateway: IpAddr,
        prefixes: impl IntoIterator<Item = &'a IpNet>,
    ) -> Result<()> {
        let via = Via { gateway, device: "wg0", table: MAIN, protocol: BIRD };
        routes::write(&self.star.hub, op, via, prefixes)
    }

    /// A spoke by its number, which counts from 1.
    pub(super) fn spoke(&self, number: usize) -> Result<&Spoke> {
        self.star.spoke(number)
    }

    /// Waits until the device holds the spokes' own addresses and these prefixes, nothing else.
    pub(super) fn expect(&self, owned: &[(&str, &str)]) -> Result<()> {
        expect_allowed_ips(&self.star, owned)
    }

    /// Waits until these prefixes have these owners, whatever else the device holds.
    pub(super) fn expect_moved(&self, owned: &[(&str, &str)]) -> Result<()> {
        let want = parse(owned)?;
        wait_equal("owners", PATIENCE, &want, || {
            let mut have = self.star.wg.allowed_ips()?;
            have.retain(|prefix, _| want.contains_key(prefix));
            Ok(have)
        })
    }

    /// Waits until the device holds the spokes' own addresses and this table, nothing else.
    pub(super) fn expect_table(&self, table: &AllowedIps) -> Result<()> {
        let mut want = pinned(&self.star);
        want.extend(table.iter().map(|(prefix, owner)| (*prefix, owner.clone())));
        wait_equal("the AllowedIPs", PATIENCE, &want, || self.star.wg.allowed_ips())
    }

    /// Starts a train of ICMP echo requests to an address.
    pub(super) fn train(&self, to: &str, interval: Duration) -> Result<Train> {
        Train::start(&self.star.hub, to.parse::<IpAddr>()?, interval)
    }

    /// Asserts that packets to an address reach a spoke and are answered.
    pub(super) fn flows(&self, to: &str, spoke: usize) -> Result<()> {
        flows(&self.star, to, spoke)
    }

    /// Asserts that packets to an address reach no spoke.
    pub(super) fn flows_nowhere(&self, to: &str) -> Result<()> {
        flows_nowhere(&self.star, to)
    }
}

/// Trains of a packet a millisecond to addresses that move from peer to peer, answered by
/// reflectors on the spokes.
pub(super) struct Trains {
    trains: Vec<(String, Train)>,
    _reflectors: Vec<Reflector>,
}

impl Trains {
    /// How many answers are awaited between two moves.
    const BETWEEN: u64 = 100;

    /// Starts a train to each of these addresses.
    pub(super) fn start(hub: &Hub, to: &[&str]) -> Result<Trains> {
        let spokes = hub.star.spokes.iter();
        let reflectors = spokes
            .map(|Spoke { node, inner, .. }| {
                Reflector::start(node, [inner.v4().into(), inner.v6().into()])
            })
            .collect::<Result<_>>()?;
        let start = |to: &&str| {
            let ping = Ping { kind: Kind::Udp, ..Ping::from(to.parse::<IpAddr>()?) };
            let train = Train::start(&hub.star.hub, ping, Duration::from_millis(1))?;
            Ok(((*to).to_owned(), train))
        };
        Ok(Trains { trains: to.iter().map(start).collect::<Result<_>>()?, _reflectors: reflectors })
    }

    /// Lets them run for a while.
    pub(super) fn run(&self) -> Result<()> {
        self.trains.iter().try_for_each(|(_, train)| train.run(Self::BETWEEN))
    }

    /// Stops them, reports, and asserts that every packet was answered.
    pub(super) fn assert_no_loss(self, lab: &Lab) -> Result<()> {
        for (to, train) in self.trains {
            let report = train.stop()?;
            lab.say(format_args!("train to {to}: {report}"));
            report.assert_no_loss()?;
        }
        Ok(())
    }
}

/// Whether this is a machine that the lab has booted, in which a scenario may do anything.
pub(super) fn is_own_machine() -> bool {
    Path::new("/dev/lab").exists()
}

/// Mounts the file system that [`DIRECTORY`] lies in.
pub(super) fn mount_bpffs() -> Result<()> {
    let place = Path::new(DIRECTORY).parent().context("a folder below the root")?;
    fs::create_dir_all(place)?;
    let status = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(place).status();
    ensure!(status.context("cannot start mount(8)")?.success(), "cannot mount a private bpffs");
    Ok(())
}

/// A star whose spokes answer for [`V4`] and [`V6`].
pub(super) fn star(lab: &mut Lab, spokes: u16) -> Result<Star> {
    let star = Star::new(lab, spokes)?;
    star.serve(&[V4.parse()?, V6.parse()?])?;
    Ok(star)
}

/// Asserts that the hub's packets to an address reach a spoke and are answered.
pub(super) fn flows(star: &Star, to: &str, spoke: usize) -> Result<()> {
    assert_flow(&star.hub, to.parse::<IpAddr>()?, &star.spoke(spoke)?.node)
}

/// Asserts that the hub's packets to an address reach no spoke.
pub(super) fn flows_nowhere(star: &Star, to: &str) -> Result<()> {
    let spokes = star.spokes.iter().map(|spoke| &spoke.node);
    assert_no_flow(&star.hub, to.parse::<IpAddr>()?, spokes)
}

/// Waits until the star's hub holds the spokes' own addresses and these prefixes, nothing else.
pub(super) fn expect_allowed_ips(star: &Star, owned: &[(&str, &str)]) -> Result<()> {
    let mut want = pinned(star);
    want.extend(parse(owned)?);
    wait_equal("the AllowedIPs", PATIENCE, &want, || star.wg.allowed_ips())
}

/// The spokes' own addresses.
pub(super) fn pinned(star: &Star) -> AllowedIps {
    star.spokes
        .iter()
        .flat_map(|spoke| {
            let name = Owner::from(spoke.name());
            spoke.inner.prefixes().into_iter().map(move |prefix| (prefix, name.clone()))
        })
        .collect()
}

fn parse(owned: &[(&str, &str)]) -> Result<AllowedIps> {
    let parse = |(prefix, owner): &(&str, &str)| {
        let prefix: IpNet = prefix.parse().with_context(|| format!("prefix `{prefix}`"))?;
        Ok((prefix, Owner::from(*owner)))
    };
    owned.iter().map(parse).collect()
}
