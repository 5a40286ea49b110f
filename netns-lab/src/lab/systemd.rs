//! systemd.
//!
//! Here lives a real one, as the first process of a container in a node: process, mount and
//! control group namespaces of its own, the node's network. What it and its services write goes
//! to layers that vanish with it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{
    node::Node,
    process::Process,
    wait::{PATIENCE, wait_until},
};

/// systemd begins with this and nothing else, instead of a whole system.
const TARGET: &str = "[Unit]\nDescription=Nothing but what is asked for\n";

/// A running systemd.
#[derive(Debug)]
pub struct Systemd {
    node: Node,
    manager: Process,
    /// Its number out here; inside it is 1.
    pid: u32,
    cgroup: PathBuf,
}

impl Systemd {
    /// Boots it with these files, which are laid over the root.
    pub fn boot(node: &Node, files: &[(&str, &[u8])]) -> Result<Systemd> {
        let tree = node.dir().join("systemd");
        let target = ("/etc/systemd/system/lab.target", TARGET.as_bytes());
        for (path, content) in files.iter().chain([&target]) {
            let file = tree.join(path.trim_start_matches('/'));
            fs::create_dir_all(file.parent().context("a file in a folder")?)?;
            fs::write(&file, content).with_context(|| file.display().to_string())?;
        }
        let cgroup = Path::new("/sys/fs/cgroup").join(format!("lab-{}", node.name()));
        fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
        let mut command = Command::new("bash");
        command.args(["-c", include_str!("systemd.sh"), "bash"]).arg(&tree).arg(&cgroup);
        let manager = node.spawn("systemd", &mut command)?;
        let mut systemd = Systemd { node: node.clone(), manager, pid: 0, cgroup };
        systemd.wait_booted()?;
        Ok(systemd)
    }

    fn wait_booted(&mut self) -> Result<()> {
        let unshare = self.manager.pid();
        let children = format!("/proc/{unshare}/task/{unshare}/children");
        wait_until(
            "systemd to run",
            PATIENCE,
            || {
                self.manager.check_alive()?;
                let children = fs::read_to_string(&children)?;
                self.pid = children.trim().parse().context("unshare(1) has no child yet")?;
                // It fails for as long as there is nobody to ask.
                self.run(&["systemctl", "show", "--property=Version"])
            },
            |answer| answer.starts_with("Version="),
        )
        .map(drop)
    }

    /// Runs a program inside and returns what it printed.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        self.node.run("nsenter", self.enter().iter().map(String::as_str).chain(command.to_vec()))
    }

    /// Writes a file inside.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        let enter = self.enter();
        let args = enter.iter().map(String::as_str).chain(["tee", path]);
        self.node.run_input("nsenter", args, text.as_bytes()).map(drop)
    }

    /// `systemctl VERB UNIT`, which waits until it is done.
    pub fn systemctl(&self, verb: &str, unit: &str) -> Result<()> {
        self.run(&["systemctl", verb, unit]).map(drop)
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let value = self.run(&["systemctl", "show", "--value", "--property", name, unit])?;
        Ok(value.trim().to_owned())
    }

    /// Waits until a unit's property has this value.
    pub fn wait_property(&self, unit: &str, name: &str, value: &str) -> Result<()> {
        let what = format!("{name} of {unit} to be {value}");
        wait_until(what, PATIENCE, || self.property(unit, name), |seen| seen == value).map(drop)
    }

    /// What it and its services logged.
    pub fn journal(&self) -> Result<String> {
        self.run(&["journalctl", "--no-pager", "--output=short-monotonic"])
    }

    fn enter(&self) -> [String; 7] {
        ["--target", &self.pid.to_string(), "--mount", "--pid", "--cgroup", "--uts", "--ipc"]
            .map(str::to_owned)
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Both fail only if nothing is left to do.
        drop(self.manager.kill());
        drop(fs::remove_dir(&self.cgroup));
    }
}
