//! The daemon under test.
//!
//! Here live its start and end, the signals and the questions to it. Invariant: "started" means
//! that the daemon itself said `READY=1`, as it tells systemd.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    rc::Rc,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    node::Node,
    notify::Notify,
    process::Process,
    wait::{PATIENCE, wait_until},
};

/// The daemon in a node, running or not.
#[derive(Debug)]
pub struct Wgrouted {
    program: PathBuf,
    node: Node,
    name: String,
    args: Vec<String>,
    /// Capabilities that it shall not have, as setpriv(1) names them.
    without: Vec<String>,
    config: Option<PathBuf>,
    runtime_dir: PathBuf,
    notify: Rc<Notify>,
    watchdog: Option<Duration>,
    process: Option<Process>,
}

/// Memory of a process, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident now (`VmRSS`).
    pub resident: u64,
    /// The most that was ever resident (`VmHWM`).
    pub peak: u64,
}

impl Wgrouted {
    /// A daemon without configuration file, for these interfaces. Not started.
    pub(super) fn for_interfaces(
        program: &Path,
        node: &Node,
        interfaces: &[&str],
    ) -> Result<Wgrouted> {
        let mut daemon = Wgrouted::new(program, node)?;
        daemon
            .args
            .extend(interfaces.iter().flat_map(|name| ["--interface", name]).map(str::to_owned));
        Ok(daemon)
    }

    /// A daemon with this configuration. Not started.
    pub(super) fn with_config(program: &Path, node: &Node, config: &str) -> Result<Wgrouted> {
        let mut daemon = Wgrouted::new(program, node)?;
        let path = node.write_file(&format!("{}.toml", daemon.name), config)?;
        daemon.args.extend(["--config".to_owned(), path.display().to_string()]);
        daemon.config = Some(path);
        Ok(daemon)
    }

    fn new(program: &Path, node: &Node) -> Result<Wgrouted> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // A node may have several, one after the other or at once.
        let name = format!("wgrouted{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let runtime_dir = node.dir().join(format!("{name}.run"));
        fs::create_dir_all(&runtime_dir)?;
        let notify = Rc::new(Notify::new(&node.dir().join(format!("{name}.notify")))?);
        Ok(Wgrouted {
            program: program.to_owned(),
            node: node.clone(),
            name,
            args: Vec::new(),
            without: Vec::new(),
            config: None,
            runtime_dir,
            notify,
            watchdog: None,
            process: None,
        })
    }

    /// Adds arguments of `wgrouted run`.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Takes a capability away from it.
    pub fn without(mut self, capability: &str) -> Self {
        self.without.push(format!("-{capability}"));
        self
    }

    /// Has it give signs of life, as systemd does with `WatchdogSec=`.
    pub fn watched(mut self, interval: Duration) -> Self {
        self.watchdog = Some(interval);
        self
    }

    /// Starts it and waits until it is ready, which is after its first pass over all routes.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts it and does not wait.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "{} of {:?} already runs", self.name, self.node);
        self.notify.forget();
        let mut command = Command::new("env");
        if let Some(interval) = self.watchdog {
            // The variable holds the number of the process that is meant (sd_notify(3)).
            command = Command::new("sh");
            command.args(["-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"]);
            command.env("WATCHDOG_USEC", interval.as_micros().to_string());
        }
        if !self.without.is_empty() {
            command.args(["setpriv", "--bounding-set", &self.without.join(",")]);
        }

        command
            .arg(&self.program)
            .arg("run")
            .args(&self.args)
            .arg("--runtime-dir")
            .arg(&self.runtime_dir)
            .env("NOTIFY_SOCKET", self.notify.path());
        self.process = Some(self.node.spawn(&self.name, &mut command)?);
        Ok(())
    }

    /// Waits until it says that it is ready.
    pub fn wait_ready(&mut self) -> Result<()> {
        let notify = self.notify.clone();
        self.process()?.wait_answer(PATIENCE, || Ok(notify.said("READY=1")))
    }

    /// What it told systemd since its start, and when.
    pub fn told(&self) -> Vec<(Instant, String)> {
        self.notify.heard()
    }

    /// The running process.
    pub fn process(&mut self) -> Result<&mut Process> {
        let Wgrouted { process, name, node, .. } = self;
        process.as_mut().with_context(|| format!("{name} of {node:?} does not run"))
    }

    /// SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        self.process()?.kill()?;
        self.process = None;
        Ok(())
    }

    /// Its configuration file, as an argument of commands that need it.
    pub fn config(&self) -> Result<String> {
        let path = self.config.as_ref().context("this daemon has no configuration file")?;
        Ok(path.display().to_string())
    }

    /// Writes its configuration file, for the next start.
    pub fn configure(&self, config: &str) -> Result<()> {
        let path = self.config.as_ref().context("this daemon has no configuration file")?;
        Ok(fs::write(path, config)?)
    }

    /// SIGTERM, and waits for the end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process()?.signal(libc::SIGTERM)?;
        let status = self.process()?.wait_exit(PATIENCE)?;
        self.process = None;
        Ok(status)
    }

    /// Waits until it ends by itself; returns the exit status and what it logged.
    pub fn wait_exit(&mut self) -> Result<(ExitStatus, String)> {
        let process = self.process()?;
        let status = process.wait_exit(PATIENCE)?;
        let log = fs::read_to_string(process.log())?;
        self.process = None;
        Ok((status, log))
    }

    /// Replaces the configuration file, sends SIGHUP, and waits until the daemon has taken it in
    /// or refused it.
    pub fn reload(&mut self, config: &str) -> Result<()> {
        self.configure(config)?;
        let before = self.log()?.len();
        self.process()?.signal(libc::SIGHUP)?;
        wait_until(
            "the configuration to be loaded again",
            PATIENCE,
            || Ok(self.log()?.split_off(before)),
            |log| log.contains("configuration loaded again") || log.contains("going on with"),
        )
        .map(drop)
    }

    /// Its log so far.
    pub fn log(&self) -> Result<String> {
        let path = self.node.dir().join(format!("{}.log", self.name));
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// Waits until its log contains a text.
    pub fn wait_log(&self, text: &str) -> Result<()> {
        wait_until(
            format!("`{text}` in the log"),
            PATIENCE,
            || self.log(),
            |log| log.contains(text),
        )
        .map(drop)
    }

    /// Its runtime directory.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// `wgrouted show WHAT --json`.
    pub fn show(&self, what: &str) -> Result<Value> {
        self.ask(&["show", what])
    }

    /// A number in `wgrouted show status`, by its JSON pointer (RFC 6901).
    pub fn counter(&self, pointer: &str) -> Result<u64> {
        let status = self.show("status")?;
        let number = status.pointer(pointer).and_then(Value::as_u64);
        number.with_context(|| format!("no number at {pointer} in {status}"))
    }

    /// Waits until such a number is at least this.
    pub fn wait_counter(&self, pointer: &str, least: u64) -> Result<()> {
        let what = format!("{pointer} to be {least}");
        wait_until(what, PATIENCE, || self.counter(pointer), |number| *number >= least).map(drop)
    }

    /// Waits until it has nothing to read or change. What WireGuard holds is seen by others before
    /// the daemon has its acknowledgement, so this comes before a look at what it counts or shows.
    pub fn wait_in_sync(&self) -> Result<()> {
        let look = || Ok(self.show("status")?.get("in_sync").cloned());
        let is = |seen: &Option<Value>| *seen == Some(Value::Bool(true));
        wait_until("the daemon to be in sync", PATIENCE, look, is).map(drop)
    }

    /// Waits until it takes no AllowedIPs for a peer's own any more that it does not know yet.
    pub fn wait_learned(&self) -> Result<()> {
        let look = || {
            let peers = self.show("peers")?;
            let peers = peers.as_array().context("`show peers --json` is no list")?;
            Ok(peers.iter().filter(|peer| peer["learning"] != Value::Bool(false)).count())
        };
        let done = |learning: &usize| *learning == 0;
        wait_until("the peers' own prefixes to be learned", PATIENCE, look, done).map(drop)
    }

    /// Waits until its first interface is in this state.
    pub fn wait_state(&self, state: &str) -> Result<()> {
        let look = || Ok(self.show("status")?.pointer("/interfaces/0/state").cloned());
        let is = |seen: &Option<Value>| seen.as_ref().and_then(Value::as_str) == Some(state);
        wait_until(format!("the interface to be {state}"), PATIENCE, look, is).map(drop)
    }

    /// Waits until `wgrouted show WHAT` lists a prefix.
    pub fn wait_listed(&self, what: &str, prefix: &str) -> Result<()> {
        wait_until(
            format!("`wgrouted show {what}` to list {prefix}"),
            PATIENCE,
            || self.show(what),
            |answer| mentions(answer, prefix),
        )
        .map(drop)
    }

    /// `wgrouted explain ADDRESS --json`.
    pub fn explain(&self, address: &str) -> Result<Value> {
        self.ask(&["explain", address])
    }

    fn ask(&self, question: &[&str]) -> Result<Value> {
        let text = self.run(&[question, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("wgrouted {}", question.join(" ")))
    }

    /// Runs a command with this daemon's runtime directory and returns what it printed.
    pub fn run(&self, command: &[&str]) -> Result<String> {
        let runtime_dir = self.runtime_dir.display().to_string();
        self.node.run(&self.program, [command, &["--runtime-dir", &runtime_dir]].concat())
    }

    /// Runs a command with this daemon's runtime directory that must fail at run time (exit code
    /// 1), and returns what it wrote to standard error.
    pub fn refused(&self, command: &[&str]) -> Result<String> {
        let runtime_dir = self.runtime_dir.display().to_string();
        let args = [command, &["--runtime-dir", &runtime_dir]].concat();
        let output = self.node.output(&self.program, args)?;
        ensure!(
            output.status.code() == Some(1),
            "wgrouted {}: {}",
            command.join(" "),
            output.status
        );
        Ok(String::from_utf8(output.stderr)?)
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// How much processor time it has taken since its start, all threads together.
    pub fn cpu_time(&self) -> Result<Duration> {
        let process = self.process.as_ref().context("it does not run")?;
        let path = format!("/proc/{}/stat", process.pid());
        let stat = fs::read_to_string(&path).context(path)?;
        // The second field, in parentheses, may hold anything; utime and stime are numbers 14
        // and 15 (proc_pid_stat(5)).
        let (_, fields) = stat.rsplit_once(')').context("no name in /proc/PID/stat")?;
        let times = fields.split_whitespace().skip(11).take(2);
        let ticks: u64 = times.map(str::parse::<u64>).sum::<Result<_, _>>()?;
        // SAFETY: sysconf takes a plain integer.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        let per_second = u64::try_from(per_second).context("clock ticks a second")?;
        Ok(Duration::from_millis(ticks * 1000 / per_second))
    }

    /// How much memory it takes.
    pub fn memory(&self) -> Result<Memory> {
        let process = self.process.as_ref().context("it does not run")?;
        let path = format!("/proc/{}/status", process.pid());
        let status = fs::read_to_string(&path).context(path)?;
        let field = |name: &str| -> Result<u64> {
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .with_context(|| format!("no {name} in /proc/PID/status"))?;
            let kib = value.trim().strip_suffix(" kB").context("an unknown unit")?;
            Ok(kib.parse::<u64>()? << 10)
        };
        Ok(Memory { resident: field("VmRSS")?, peak: field("VmHWM")? })
    }
}

/// Whether a JSON value holds this text as a string of its own.
fn mentions(value: &Value, text: &str) -> bool {
    match value {
        Value::String(string) => string == text,
        Value::Array(values) => values.iter().any(|value| mentions(value, text)),
        Value::Object(fields) => fields.values().any(|value| mentions(value, text)),
        _ => false,
    }
}
