//! WireGuard devices.
//!
//! Here live their creation, their peers, and the look at their AllowedIPs through `wg show`,
//! which shares nothing with wgrouted. Invariant: an owner is called by the name under which the
//! lab added the peer; a peer that somebody else added is called by its key.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{self, Write as _},
    rc::Rc,
};

use anyhow::{Context, Result};
use ipnet::IpNet;

use super::node::Node;

/// Which peer owns which prefix.
pub type AllowedIps = BTreeMap<IpNet, Owner>;
/// A peer's name.
pub type Owner = Rc<str>;

/// WireGuard's usual port. Device `wgN` of a node listens N above it.
const FIRST_PORT: u16 = 51820;

/// A WireGuard device of a node.
pub struct Wireguard {
    node: Node,
    name: String,
    port: u16,
    private_key: String,
    public_key: String,
    /// Names of peers by key.
    peers: RefCell<BTreeMap<String, Owner>>,
}

/// A peer that a device shall have.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What the lab calls it.
    pub name: String,
    /// Its public key.
    pub public_key: String,
    /// Where it is, as `address:port`, if that is known.
    pub endpoint: Option<String>,
    /// Its first AllowedIPs, as a rule its own tunnel addresses.
    pub allowed_ips: Vec<IpNet>,
}

/// What WireGuard counts for a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Time of the latest handshake in seconds since 1970; zero if there was none.
    pub latest_handshake: u64,
    /// Bytes received.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
}

impl Wireguard {
    /// Makes the device with a fresh key. It is down, without addresses and peers.
    pub fn new(node: &Node, name: &str) -> Result<Wireguard> {
        let private_key = node.run("wg", ["genkey"])?.trim().to_owned();
        let public_key = node.run_input("wg", ["pubkey"], private_key.as_bytes())?;
        let number = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        let device = Wireguard {
            node: node.clone(),
            name: name.to_owned(),
            port: FIRST_PORT + number.parse().unwrap_or(0),
            private_key,
            public_key: public_key.trim().to_owned(),
            peers: RefCell::default(),
        };
        device.create()?;
        Ok(device)
    }

    /// A device that somebody else made, with the names of its peers by their keys. It cannot be
    /// made again.
    pub fn found(node: &Node, name: &str, names: &BTreeMap<String, Owner>) -> Wireguard {
        Wireguard {
            node: node.clone(),
            name: name.to_owned(),
            port: 0,
            private_key: String::new(),
            public_key: String::new(),
            peers: RefCell::new(names.clone()),
        }
    }

    /// Makes the device again after [`Wireguard::delete`], with the same name and key.
    pub fn create(&self) -> Result<()> {
        // Made inside the namespace, for the device's UDP socket stays where it was made.
        self.node.ip(&format!("link add {} type wireguard", self.name))?;
        let config =
            format!("[Interface]\nPrivateKey = {}\nListenPort = {}\n", self.private_key, self.port);
        self.node.run_input("wg", ["setconf", &self.name, "/dev/stdin"], config.as_bytes())?;
        Ok(())
    }

    /// Deletes the device, and with it its peers.
    pub fn delete(&self) -> Result<()> {
        self.node.ip(&format!("link del {}", self.name)).map(drop)
    }

    /// Brings it up.
    pub fn up(&self) -> Result<()> {
        self.node.ip(&format!("link set {} up", self.name)).map(drop)
    }

    /// Takes it down.
    pub fn down(&self) -> Result<()> {
        self.node.ip(&format!("link set {} down", self.name)).map(drop)
    }

    /// The node it belongs to.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its interface name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its public key.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// Adds peers, or sets those that exist (their AllowedIPs are then replaced).
    pub fn add_peers<'a>(&self, peers: impl IntoIterator<Item = &'a Peer>) -> Result<()> {
        let mut config = String::new();
        for peer in peers {
            let allowed: Vec<String> = peer.allowed_ips.iter().map(IpNet::to_string).collect();
            writeln!(config, "[Peer]\nPublicKey = {}", peer.public_key)?;
            writeln!(config, "AllowedIPs = {}", allowed.join(", "))?;
            if let Some(endpoint) = &peer.endpoint {
                writeln!(config, "Endpoint = {endpoint}")?;
            }
            let name = Owner::from(peer.name.as_str());
            self.peers.borrow_mut().insert(peer.public_key.clone(), name);
        }
        self.node.run_input("wg", ["addconf", &self.name, "/dev/stdin"], config.as_bytes())?;
        Ok(())
    }

    /// Removes a peer.
    pub fn remove_peer(&self, name: &str) -> Result<()> {
        let key = self.key_of(name)?;
        self.node.run("wg", ["set", &self.name, "peer", &key, "remove"]).map(drop)
    }

    /// Gives a peer exactly these AllowedIPs, as somebody would by hand.
    pub fn set_allowed_ips(&self, peer: &str, prefixes: &[IpNet]) -> Result<()> {
        let key = self.key_of(peer)?;
        let prefixes: Vec<String> = prefixes.iter().map(IpNet::to_string).collect();
        let prefixes = prefixes.join(",");
        self.node.run("wg", ["set", &self.name, "peer", &key, "allowed-ips", &prefixes]).map(drop)
    }

    /// The public key of a peer that the lab added.
    pub fn key_of(&self, name: &str) -> Result<String> {
        let peers = self.peers.borrow();
        let key = peers.iter().find_map(|(key, peer)| (&**peer == name).then_some(key));
        key.cloned().with_context(|| format!("{} has no peer {name}", self.name))
    }

    /// Keys and names of the peers that the lab added.
    pub fn peers(&self) -> BTreeMap<String, Owner> {
        self.peers.borrow().clone()
    }

    /// The name of the peer with this key; the key itself if the lab did not add it.
    pub fn name_of(&self, key: &str) -> Owner {
        self.peers.borrow().get(key).cloned().unwrap_or_else(|| Owner::from(key))
    }

    /// What `wg show` says that the device holds.
    pub fn allowed_ips(&self) -> Result<AllowedIps> {
        let text = self.node.run("wg", ["show", &self.name, "allowed-ips"])?;
        let mut owners = AllowedIps::new();
        for line in text.lines() {
            let (key, prefixes) = line.split_once('\t').with_context(|| format!("`{line}`"))?;
            let owner = self.name_of(key);
            // "(none)" stands for an empty list.
            for prefix in prefixes.split_whitespace().filter(|word| *word != "(none)") {
                let prefix = prefix.parse().with_context(|| format!("allowed IP `{prefix}`"))?;
                owners.insert(prefix, owner.clone());
            }
        }
        Ok(owners)
    }

    /// What `wg show` counted for each peer.
    pub fn statistics(&self) -> Result<BTreeMap<Owner, Statistics>> {
        let text = self.node.run("wg", ["show", &self.name, "dump"])?;
        text.lines()
            .skip(1) // the device itself
            .map(|line| {
                let fields: Vec<&str> = line.split('\t').collect();
                let number = |i: usize| -> Result<u64> {
                    let field = fields.get(i).with_context(|| format!("`{line}`"))?;
                    field.parse().with_context(|| format!("`{field}` in `wg show dump`"))
                };
                let statistics = Statistics {
                    latest_handshake: number(4)?,
                    received: number(5)?,
                    sent: number(6)?,
                };
                Ok((self.name_of(fields[0]), statistics))
            })
            .collect()
    }
}

impl fmt::Debug for Wireguard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.name, self.node.name())
    }
}
