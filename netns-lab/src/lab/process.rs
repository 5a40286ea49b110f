//! Background processes.
//!
//! Here lives [`Process`]: a daemon with a log file. Invariant: it dies with its owner, and its
//! log stays in the lab's directory.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use super::{
    command,
    node::Node,
    wait::{PATIENCE, wait_until},
};

/// How much of a log an error repeats.
const TAIL: usize = 15;

/// A process in a node's namespace.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts the command in the node's namespace; what it writes goes to `log`, behind what a
    /// previous run left there.
    pub(super) fn spawn(node: &Node, log: PathBuf, command: &mut Command) -> Result<Process> {
        let name = format!("`{}` in {}", command::line(command), node.name());
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("log of {name}: {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        node.enter_command(command);
        let child = command.spawn().with_context(|| name.clone())?;
        Ok(Process { name, log, child })
    }

    /// Its process number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// An error if it is not running any more.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("{} ended: {status}; its log ends:\n{}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// Waits until `ask` says yes; gives up at once if the process ends. An error of `ask` counts
    /// as "not yet".
    pub(super) fn wait_answer(
        &mut self,
        patience: Duration,
        mut ask: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let what = format!("{} to be ready", self.name);
        let look = || Ok((self.check_alive(), ask()));
        let done = |(alive, answer): &(Result<()>, Result<bool>)| {
            alive.is_err() || matches!(answer, Ok(true))
        };
        wait_until(what, patience, look, done)?.0
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: libc::c_int) -> Result<()> {
        self.check_alive()?;
        let pid = libc::pid_t::try_from(self.pid()).context("process number")?;
        // SAFETY: kill takes plain integers; the child is not reaped yet, so the number is its own.
        if unsafe { libc::kill(pid, signal) } != 0 {
            bail!("signal {signal} to {}: {}", self.name, std::io::Error::last_os_error());
        }
        Ok(())
    }

    /// SIGSTOP: it does nothing any more until [`Process::resume`], and the kernel queues what it
    /// does not read.
    pub fn pause(&mut self) -> Result<()> {
        self.signal(libc::SIGSTOP)?;
        let path = format!("/proc/{}/stat", self.pid());
        let what = format!("{} to stand still", self.name);
        let state = || {
            let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
            // The second field, in parentheses, may hold anything (proc_pid_stat(5)).
            Ok(stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()))
        };
        wait_until(what, PATIENCE, state, |state| *state == Some('T')).map(drop)
    }

    /// SIGCONT, after [`Process::pause`].
    pub fn resume(&mut self) -> Result<()> {
        self.signal(libc::SIGCONT)
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self, patience: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let status = wait_until(what, patience, || Ok(self.child.try_wait()?), Option::is_some)?;
        status.context("a process ended without status")
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("kill {}", self.name))?;
        self.child.wait().with_context(|| format!("kill {}", self.name))?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it ended before, which is what is wanted.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
