//! What the examples share.
//!
//! Here live routers that are set up by an example's own scripts, around an internet that the lab
//! provides, and the assertions on them. Nothing is set up here that a README does not tell its
//! reader to do, except keys and the underlay: router N of an example is 192.0.2.N on `eth0`.

use std::{collections::BTreeMap, net::IpAddr, rc::Rc, time::Duration};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use crate::lab::{
    AllowedIps, Babeld, Bird, Lab, Node, Owner, PATIENCE, Ping, Release, Wgrouted, Wireguard,
    assert_flow, wait_equal, wait_until,
};

/// A shipped file, by its path from the top of the project.
macro_rules! file {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../", $path))
    };
}
pub(super) use file;

/// A router of an example.
pub(super) struct Router {
    pub(super) node: Node,
    internet: Node,
    /// Names by public key.
    names: Rc<BTreeMap<String, Owner>>,
    daemon: Option<Wgrouted>,
}

/// Routers with these names, each set up by its script.
pub(super) fn routers<const N: usize>(
    lab: &mut Lab,
    sites: [(&str, &str); N],
) -> Result<[Router; N]> {
    let internet = lab.node("internet")?;
    internet.ip_batch("link add lan type bridge\nlink set lan up\n")?;
    let (mut names, mut keys) = (BTreeMap::new(), Vec::new());
    for (name, _) in sites {
        let private = private_key(name);
        let public = internet.run_input("wg", ["pubkey"], private.as_bytes())?.trim().to_owned();
        names.insert(public.clone(), Owner::from(name));
        keys.push((name, private, public));
    }
    let names = Rc::new(names);
    let mut routers = Vec::new();
    for (number, (name, script)) in (1..).zip(sites) {
        let node = lab.node(name)?;
        node.ip_batch(&format!(
            "link add eth0 type veth peer name {name} netns internet\n\
             address add 192.0.2.{number}/24 dev eth0\n\
             link set eth0 up\n"
        ))?;
        internet.ip_batch(&format!("link set {name} master lan\nlink set {name} up\n"))?;
        for (other, private, public) in &keys {
            node.write_file(&format!("{other}.pub"), public)?;
            if *other == name {
                node.write_file(&format!("{other}.key"), private)?;
            }
        }
        let script = node.write_file("setup.sh", script)?.display().to_string();
        let folder = node.dir().display().to_string();
        node.run("sh", ["-e", "-c", "cd \"$0\" && . \"$1\"", &folder, &script])?;
        let (internet, names) = (internet.clone(), names.clone());
        routers.push(Router { node, internet, names, daemon: None });
    }
    routers.try_into().ok().context("as many routers as scripts")
}

/// Always the same for a name: configurations that name a peer hold its public key. The first octet
/// is left alone, for X25519 ignores part of it (RFC 7748, section 5).
fn private_key(name: &str) -> String {
    let mut bytes = [0; 32];
    bytes[1..].iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);
    BASE64.encode(bytes)
}

impl Router {
    /// `wgrouted run --interface NAME...`.
    pub(super) fn follow(&mut self, lab: &Lab, interfaces: &[&str]) -> Result<()> {
        self.start(lab.wgrouted(&self.node, interfaces)?)
    }

    /// `wgrouted run --config FILE`.
    pub(super) fn configured(&mut self, lab: &Lab, config: &str) -> Result<()> {
        self.start(lab.wgrouted_with(&self.node, config)?)
    }

    fn start(&mut self, daemon: Wgrouted) -> Result<()> {
        self.daemon.insert(daemon).start()
    }

    /// `bird -c FILE`.
    pub(super) fn bird(&self, release: Release, config: &str) -> Result<Bird> {
        Bird::start_as_is(&self.node, release, config)
    }

    /// `babeld -c FILE`.
    pub(super) fn babeld(&self, config: &str) -> Result<Babeld> {
        Babeld::start(&self.node, &[], config)
    }

    /// Waits until a device has exactly these prefixes, listed by peer and parted by spaces.
    pub(super) fn expect(&self, device: &str, peers: &[(&str, &str)]) -> Result<()> {
        let mut want = AllowedIps::new();
        for (peer, prefixes) in peers {
            for prefix in prefixes.split_whitespace() {
                let prefix = prefix.parse().with_context(|| format!("prefix `{prefix}`"))?;
                want.insert(prefix, Owner::from(*peer));
            }
        }
        let what = format!("the AllowedIPs of {device} in {}", self.node.name());
        let wg = Wireguard::found(&self.node, device, &self.names);
        wait_equal(what, PATIENCE, &want, || wg.allowed_ips())
    }

    /// Waits until the kernel's route to a prefix has these words in it.
    pub(super) fn expect_route(&self, prefix: &str, words: &str) -> Result<()> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let what = format!("a route to {prefix} {words} in {}", self.node.name());
        let route = || self.node.ip(&format!("{family} route show {prefix}"));
        wait_until(what, PATIENCE, route, |route| route.contains(words)).map(drop)
    }

    /// Asserts that packets from an address of this router reach an address of that one.
    pub(super) fn reaches(&self, from: &str, to: &Router, address: &str) -> Result<()> {
        let (from, address): (IpAddr, IpAddr) = (from.parse()?, address.parse()?);
        assert_flow(&self.node, Ping { from: Some(from), ..Ping::from(address) }, &to.node)
    }

    /// Pulls its cable.
    pub(super) fn cut(&self) -> Result<()> {
        self.internet.ip(&format!("link set {} down", self.node.name())).map(drop)
    }

    /// Puts it back.
    pub(super) fn mend(&self) -> Result<()> {
        self.internet.ip(&format!("link set {} up", self.node.name())).map(drop)
    }

    /// From now on, what it sends by this device takes longer.
    pub(super) fn delay(&self, device: &str, by: Duration) -> Result<()> {
        self.netem(device, &format!("delay {}ms", by.as_millis()))
    }

    /// From now on, what it sends by this device is lost.
    pub(super) fn silence(&self, device: &str) -> Result<()> {
        self.netem(device, "loss 100%")
    }

    fn netem(&self, device: &str, what: &str) -> Result<()> {
        let words = format!("qdisc replace dev {device} root netem {what}");
        self.node.run("tc", words.split_whitespace()).map(drop)
    }
}
