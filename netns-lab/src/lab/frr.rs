//! FRR.
//!
//! Here live a zebra and a bgpd of one node, with sockets of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{node::Node, process::Process, wait::PATIENCE};

/// The system's groups.
const GROUPS: &str = "/etc/group";
/// Where Debian installs the daemons.
const DAEMONS: &str = "/usr/lib/frr";

/// A running zebra with a bgpd.
#[derive(Debug)]
pub struct Frr {
    node: Node,
    dir: PathBuf,
    processes: Vec<Process>,
}

impl Frr {
    /// Starts zebra and bgpd with this configuration of bgpd and waits until both answer.
    pub fn start(node: &Node, bgpd: &str) -> Result<Frr> {
        let dir = node.dir().join("frr");
        fs::create_dir_all(&dir)?;
        join_vty_group(node)?;
        let mut frr = Frr { node: node.clone(), dir, processes: Vec::new() };
        frr.spawn("zebra", "")?;
        frr.spawn("bgpd", bgpd)?;
        Ok(frr)
    }

    fn spawn(&mut self, daemon: &str, config: &str) -> Result<()> {
        let path = self.dir.join(format!("{daemon}.conf"));
        fs::write(&path, config)?;
        let mut command = Command::new(format!("{DAEMONS}/{daemon}"));
        command.args(["--log", "stdout", "-u", "root", "-g", "root", "-f"]).arg(path);
        command.arg("-i").arg(self.dir.join(format!("{daemon}.pid")));
        command.arg("-z").arg(self.dir.join("zserv.sock"));
        command.arg("--vty_socket").arg(&self.dir);
        if daemon == "bgpd" {
            command.args(["--listenon", "0.0.0.0"]);
        }
        let mut process = self.node.spawn(daemon, &mut command)?;
        let ask = || vtysh(&self.node, &self.dir, &["-d", daemon], "show version").map(|_| true);
        process.wait_answer(PATIENCE, ask)?;
        self.processes.push(process);
        Ok(())
    }

    /// Asks as `vtysh -c` does and returns what it printed.
    pub fn ask(&self, question: &str) -> Result<String> {
        vtysh(&self.node, &self.dir, &[], question)
    }
}

/// Debian's FRR insists that the user it runs as belongs to this group, which the package's
/// installation script makes. Here nothing is installed and everything runs as root, in a mount
/// namespace of its own: a group file laid over the system's does.
fn join_vty_group(node: &Node) -> Result<()> {
    const ENTRY: &str = "frrvty:x:89:root\n";
    let groups = fs::read_to_string(GROUPS).context(GROUPS)?;
    if groups.contains(ENTRY) {
        return Ok(());
    }
    let others = groups.lines().filter(|line| !line.starts_with("frrvty:"));
    let groups: String = others.map(|line| format!("{line}\n")).collect();
    let file = node.write_file("group", &(groups + ENTRY))?;
    node.run("mount", ["--bind", &file.display().to_string(), GROUPS]).map(drop)
}

fn vtysh(node: &Node, dir: &Path, args: &[&str], question: &str) -> Result<String> {
    let dir = dir.display().to_string();
    let args = [&["--vty_socket", &dir], args, &["-c", question]].concat();
    node.run("vtysh", args)
}
