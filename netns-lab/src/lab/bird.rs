//! BIRD.
//!
//! Here lives a running BIRD with its own control socket. Its configuration is the scenarios'.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};

use super::{
    node::Node,
    process::Process,
    wait::{PATIENCE, wait_until},
};

/// What stands before every configuration.
const PREAMBLE: &str = "log stderr all;\nwatchdog warning 60 s;\nprotocol device {}\n";

/// How long it may take to read its configuration, which may hold a full table.
const START: Duration = Duration::from_secs(300);

/// Which BIRD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The `bird2` of the Debian that the host runs.
    Own,
    /// BIRD 2.0, from bookworm.
    Two,
    /// BIRD 3, from trixie.
    Three,
}

impl Release {
    fn program(self, name: &str) -> String {
        match self {
            Release::Own => name.to_owned(),
            Release::Two => format!("/opt/bird2/{name}"),
            Release::Three => format!("/opt/bird3/{name}"),
        }
    }
}

/// A running BIRD.
#[derive(Debug)]
pub struct Bird {
    node: Node,
    client: String,
    config: PathBuf,
    socket: PathBuf,
    process: Process,
}

impl Bird {
    /// Starts BIRD with this configuration (which need not name a device protocol nor a log) and
    /// waits until it answers.
    pub fn start(node: &Node, config: &str) -> Result<Bird> {
        Bird::start_as_is(node, Release::Own, &format!("{PREAMBLE}{config}"))
    }

    /// Starts this BIRD with a complete configuration.
    pub fn start_as_is(node: &Node, release: Release, config: &str) -> Result<Bird> {
        let config = node.write_file("bird.conf", config)?;
        let socket = node.dir().join("bird.ctl");
        let client = release.program("birdc");
        let mut command = Command::new(release.program("bird"));
        command.arg("-f").arg("-c").arg(&config).arg("-s").arg(&socket);
        let mut process = node.spawn("bird", &mut command)?;
        process.wait_answer(START, || {
            Ok(ask(node, &client, &socket, "show status")?.contains("Daemon is up and running"))
        })?;
        Ok(Bird { node: node.clone(), client, config, socket, process })
    }

    /// Asks as `birdc` does and returns what it printed.
    pub fn ask(&self, question: &str) -> Result<String> {
        ask(&self.node, &self.client, &self.socket, question)
    }

    /// Gives it another configuration.
    pub fn configure(&self, config: &str) -> Result<()> {
        std::fs::write(&self.config, format!("{PREAMBLE}{config}"))?;
        let answer = self.ask("configure")?;
        ensure!(answer.contains("Reconfigur"), "BIRD in {:?}: {answer}", self.node);
        Ok(())
    }

    /// Waits until a BGP session is established.
    pub fn wait_established(&self, protocol: &str) -> Result<()> {
        wait_until(
            format!("BGP session {protocol} of {:?}", self.node),
            PATIENCE,
            || self.ask(&format!("show protocols {protocol}")),
            |answer| answer.contains("Established"),
        )
        .map(drop)
    }

    /// Waits until the BFD session with a neighbour is up.
    pub fn wait_bfd(&self, neighbour: IpAddr) -> Result<()> {
        let address = neighbour.to_string();
        wait_until(
            format!("BFD session of {:?} with {address}", self.node),
            PATIENCE,
            || self.ask("show bfd sessions"),
            |answer| {
                answer.lines().any(|line| {
                    let mut words = line.split_whitespace();
                    words.next() == Some(&address) && words.nth(1) == Some("Up")
                })
            },
        )
        .map(drop)
    }

    /// The process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

fn ask(node: &Node, client: &str, socket: &Path, question: &str) -> Result<String> {
    let socket = socket.display().to_string();
    node.run(client, ["-s", &socket].into_iter().chain(question.split_whitespace()))
}
