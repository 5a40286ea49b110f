//! The lab's building blocks.
//!
//! Here live the things that scenarios are made of: nodes and links, WireGuard devices, routing
//! daemons, wgrouted itself, traffic, and independent looks at what the kernel holds. What is
//! expected of them is the scenarios' business. Nothing here uses wgrouted's code: a lab that
//! shared its parsers would share its mistakes.
//!
//! Invariant: whatever the lab starts or creates is gone when it is dropped; its files stay.

mod babeld;
mod bird;
pub mod bpf;
mod capture;
mod command;
mod dedicated;
mod echo;
mod exits;
pub mod fib;
mod flow;
mod frr;
mod inject;
mod key;
mod link_address;
mod node;
mod notify;
mod origin;
pub mod packet;
mod process;
pub mod routes;
mod service;
mod systemd;
pub mod table;
mod tap;
mod topology;
mod train;
mod transfer;
mod volley;
mod wait;
mod wgrouted;
mod wireguard;

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::log::Log;

pub use self::{
    babeld::Babeld,
    bird::{Bird, Release},
    capture::{Capture, Leg},
    dedicated::{Dedicated, Host, own, own_net},
    echo::{Echo, Kind, Ping, Reflector},
    exits::{Exit, Exits},
    flow::{assert_flow, assert_no_flow},
    frr::Frr,
    inject::{Injector, Stream},
    key::Key,
    node::Node,
    origin::Origin,
    process::Process,
    service::Service,
    systemd::Systemd,
    tap::Tap,
    topology::{EVERYTHING, Inner, Member, Mesh, Spoke, Star},
    train::{Loss, Report, Train},
    transfer::{Transfer, Transferred},
    volley::{Flown, Shots, Volley},
    wait::{PATIENCE, differences, wait_equal, wait_for, wait_until},
    wgrouted::{Memory, Wgrouted},
    wireguard::{AllowedIps, Owner, Peer, Statistics, Wireguard},
};

/// What a [`Lab`] is given by the runner.
#[derive(Clone, Debug)]
pub struct Setup {
    /// An empty folder for configuration files and logs; what is left in it is carried out of
    /// the guest when the scenario fails.
    pub workdir: PathBuf,
    /// The daemon under test.
    pub wgrouted: PathBuf,
    /// The prefix file given by the user (one prefix a line, perhaps gzip), if any.
    pub prefixes: Option<PathBuf>,
    /// Where progress goes.
    pub log: Log,
}

/// The world of one scenario. It runs as root in private mount, process and network namespaces
/// ([`crate::guest`] sees to that), so its names collide with nobody's.
#[derive(Debug)]
pub struct Lab {
    setup: Setup,
    nodes: Vec<Node>,
    links: u16,
    began: Instant,
}

impl Lab {
    /// An empty lab.
    pub fn new(setup: Setup) -> Result<Lab> {
        Ok(Lab { setup, nodes: Vec::new(), links: 0, began: Instant::now() })
    }

    /// Where configuration files and logs go.
    pub fn workdir(&self) -> &Path {
        &self.setup.workdir
    }

    /// The prefix file that the user gave, if any.
    pub fn prefixes(&self) -> Option<&Path> {
        self.setup.prefixes.as_deref()
    }

    /// The log.
    pub fn log(&self) -> &Log {
        &self.setup.log
    }

    /// Says what happens, with the time since the lab began.
    pub fn say(&self, text: impl std::fmt::Display) {
        self.setup.log.line(format!("[{:7.3}] {text}", self.elapsed().as_secs_f64()));
    }

    /// Time since the lab began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Makes a node: a network namespace of this name, with forwarding enabled. It stands as long
    /// as the lab.
    pub fn node(&mut self, name: &str) -> Result<Node> {
        let node = Node::new(name, self.workdir())?;
        self.nodes.push(node.clone());
        Ok(node)
    }

    /// The daemon under test on a node, for these interfaces and without a configuration. Not
    /// started.
    pub fn wgrouted(&self, node: &Node, interfaces: &[&str]) -> Result<Wgrouted> {
        Wgrouted::for_interfaces(&self.setup.wgrouted, node, interfaces)
    }

    /// The daemon under test on a node, with a configuration. Not started.
    pub fn wgrouted_with(&self, node: &Node, config: &str) -> Result<Wgrouted> {
        Wgrouted::with_config(&self.setup.wgrouted, node, config)
    }

    /// The program under test.
    pub fn program(&self) -> &Path {
        &self.setup.wgrouted
    }

    /// Runs `wgrouted` once on a node, for commands that end by themselves.
    pub fn wgrouted_once(&self, node: &Node, args: &[&str]) -> Result<Output> {
        node.output(&self.setup.wgrouted, args)
    }

    /// Joins two nodes by a veth pair, the underlay that carries WireGuard's packets.
    pub fn link(&mut self, a: &Node, b: &Node) -> Result<Link> {
        // 172.31.0.0/16 in /31 networks (RFC 3021), in the order in which links are made.
        let number = self.links;
        self.links += 1;
        let address = |end: u16| {
            let [high, low] = (number * 2 + end).to_be_bytes();
            format!("172.31.{high}.{low}")
        };
        let link = Link {
            a: End { node: a.clone(), device: format!("to-{}", b.name()), address: address(0) },
            b: End { node: b.clone(), device: format!("to-{}", a.name()), address: address(1) },
        };
        let (a, b) = (&link.a, &link.b);
        a.node.ip(&format!(
            "link add {} type veth peer name {} netns {}",
            a.device,
            b.device,
            b.node.name()
        ))?;
        for end in [a, b] {
            end.node.ip_batch(&format!(
                "address add {}/31 dev {device}\nlink set {device} up\n",
                end.address,
                device = end.device
            ))?;
        }
        Ok(link)
    }
}

/// One end of a link.
#[derive(Clone, Debug)]
pub struct End {
    /// The node.
    pub node: Node,
    /// The veth device in it.
    pub device: String,
    /// Its address, which the other end reaches directly.
    pub address: String,
}

/// A veth pair between two nodes.
#[derive(Clone, Debug)]
pub struct Link {
    /// The end in the first node.
    pub a: End,
    /// The end in the second node.
    pub b: End,
}

impl Link {
    /// Cuts the link: nothing gets through until [`Link::mend`].
    pub fn cut(&self) -> Result<()> {
        self.a.node.ip(&format!("link set {} down", self.a.device)).map(drop)
    }

    /// Makes every packet take this long, in both directions.
    pub fn delay(&self, by: Duration) -> Result<()> {
        [&self.a, &self.b].into_iter().try_for_each(|end| {
            let words =
                format!("qdisc add dev {} root netem delay {}ms", end.device, by.as_millis());
            end.node.run("tc", words.split_whitespace()).map(drop)
        })
    }

    /// Undoes [`Link::cut`].
    pub fn mend(&self) -> Result<()> {
        self.a.node.ip(&format!("link set {} up", self.a.device)).map(drop)
    }
}
