//! Nodes: network namespaces.
//!
//! Here live creation and removal of a namespace and everything that is done inside one. A node
//! knows nothing of WireGuard or of daemons.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};

use super::{command, process::Process};

/// What every node starts with: a router without the host's caution. Duplicate address detection
/// would keep IPv6 addresses unusable for a second, reverse path filtering would hide what
/// WireGuard does, and rate limits would lose the errors that scenarios count.
const SYSCTLS: [(&str, &str); 9] = [
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    ("ipv6/icmp/ratelimit", "0"),
];

/// A network namespace. Clones are the same node; it is deleted with the last of them.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    name: String,
    handle: OwnedFd,
    dir: PathBuf,
}

impl Node {
    /// Makes the namespace and a directory of its own below `lab_dir`.
    pub(super) fn new(name: &str, lab_dir: &Path) -> Result<Node> {
        let dir = lab_dir.join(name);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        command::run(Command::new("ip").args(["netns", "add", name]), "the lab", None)?;
        let path = format!("/run/netns/{name}");
        let handle = File::open(&path).with_context(|| path)?.into();
        let node = Node(Arc::new(Inner { name: name.to_owned(), handle, dir }));
        for (name, value) in SYSCTLS {
            node.sysctl(name, value)?;
        }
        node.ip("link set lo up")?;
        Ok(node)
    }

    /// Its name, which is also its namespace's, as `ip netns` and `wgrouted --netns` want it.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its directory, for configuration files, sockets and logs.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// Writes a file into its directory and returns the path.
    pub fn write_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir().join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Runs `ip` with space-separated words.
    pub fn ip(&self, words: &str) -> Result<String> {
        self.run("ip", words.split_whitespace())
    }

    /// Runs many `ip` commands in one process, one a line; stops at the first that fails.
    pub fn ip_batch(&self, lines: &str) -> Result<()> {
        self.run_input("ip", ["-batch", "-"], lines.as_bytes()).map(drop)
    }

    /// Runs a program and returns its standard output.
    pub fn run(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<String> {
        command::run(&mut self.command(program, args), self.name(), None)
    }

    /// The same for many lines of output.
    pub fn run_long(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<String> {
        command::run_long(&mut self.command(program, args), self.name())
    }

    /// Runs a program that reads `input`.
    pub fn run_input(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: &[u8],
    ) -> Result<String> {
        command::run(&mut self.command(program, args), self.name(), Some(input))
    }

    /// Runs a program and returns whatever it left, exit code included.
    pub fn output(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Result<Output> {
        command::output(&mut self.command(program, args), self.name(), None)
    }

    /// A command that will run in this namespace.
    fn command(
        &self,
        program: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command {
        let mut command = Command::new(program);
        command.args(args);
        self.enter_command(&mut command);
        command
    }

    /// Makes a command run in this namespace.
    pub(super) fn enter_command(&self, command: &mut Command) {
        command::enter(command, self.0.handle.as_raw_fd());
    }

    /// Starts a process in this namespace; its log is `NAME.log` in the node's directory.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<Process> {
        Process::spawn(self, self.dir().join(format!("{name}.log")), command)
    }

    /// Calls `f` on a thread that lives in this namespace. Sockets made there stay there.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let entered = || {
            // SAFETY: setns takes an open descriptor, which `self` keeps; a network namespace
            // belongs to a thread, so only this one moves.
            if unsafe { libc::setns(self.0.handle.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                let error = std::io::Error::last_os_error();
                return Err(error).with_context(|| format!("enter namespace {}", self.name()));
            }
            f()
        };
        thread::scope(|scope| scope.spawn(entered).join())
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Sets a value below /proc/sys/net.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.enter(|| fs::write(&path, value).with_context(|| format!("write {value} to {path}")))
    }

    /// Adds an address to an interface.
    pub fn address(&self, interface: &str, address: &str) -> Result<()> {
        self.ip(&format!("address add {address} dev {interface}")).map(drop)
    }

    /// How many echo requests for this node have arrived, both families together. The receiving
    /// kernel's own count tells which node a packet really reached.
    pub fn echo_requests(&self) -> Result<u64> {
        // `/proc/net` is the process's namespace; only `thread-self` is this thread's.
        let (v4, v6) = self.enter(|| {
            let v4 = fs::read_to_string("/proc/thread-self/net/snmp")?;
            let v6 = fs::read_to_string("/proc/thread-self/net/snmp6")?;
            Ok((v4, v6))
        })?;
        let mut icmp = v4.lines().filter_map(|line| line.strip_prefix("Icmp: "));
        let (names, values) = icmp.next().zip(icmp.next()).context("no Icmp in /proc/net/snmp")?;
        let v4 = names
            .split(' ')
            .zip(values.split(' '))
            .find_map(|(name, value)| (name == "InEchos").then_some(value))
            .context("no InEchos in /proc/net/snmp")?;
        let v6 = v6
            .lines()
            .find_map(|line| line.strip_prefix("Icmp6InEchos"))
            .context("no Icmp6InEchos in /proc/net/snmp6")?;
        Ok(v4.parse::<u64>()? + v6.trim().parse::<u64>()?)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut command = Command::new("ip");
        // In vain only if the scenario deleted it; there is nobody to tell.
        drop(command::run(command.args(["netns", "del", &self.name]), "the lab", None));
    }
}
