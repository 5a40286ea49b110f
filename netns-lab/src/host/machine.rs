//! A guest that runs: its process, its report as it grows, its end.
//!
//! Virtual machine or private root on the host: from here on they look the same. The report is a
//! file that the guest appends to and this polls, so that no reader can ever block the guest, and
//! nothing is lost when it dies.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::protocol::{self, Job, Message};

use super::cpio::Cpio;

const POLL: Duration = Duration::from_millis(50);

/// How a guest meets the user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// Its output goes to a file.
    Hidden,
    /// Its output goes to standard output.
    Output,
    /// It has the user's terminal.
    Terminal,
}

/// What travels into a guest.
#[derive(Clone, Debug)]
pub struct Payload {
    /// What it is to do.
    pub job: Job,
    /// This program.
    pub netns_lab: PathBuf,
    /// The daemon.
    pub wgrouted: PathBuf,
    /// The user's prefix file.
    pub prefixes: Option<PathBuf>,
    /// What a shell without a terminal is to read.
    pub input: Option<Vec<u8>>,
    /// How it meets the user.
    pub face: Face,
}

impl Payload {
    /// The files of the guest's `/lab`, by name. `command` is the last part of the
    /// script that starts it all.
    pub fn files(&self, command: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let read =
            |file: &Path| fs::read(file).with_context(|| format!("cannot read {}", file.display()));
        let mut start = include_str!("start.sh").to_owned();
        if let Some((rows, columns)) = terminal_size() {
            start.push_str(&format!("export LINES={rows} COLUMNS={columns}\n"));
        }
        start.push_str(command);
        let mut files = vec![
            ("start".to_owned(), start.into_bytes()),
            ("netns-lab".to_owned(), read(&self.netns_lab)?),
            ("wgrouted".to_owned(), read(&self.wgrouted)?),
            (protocol::JOB.to_owned(), serde_json::to_vec(&self.job).context("an odd job")?),
        ];
        for program in self.job.programs() {
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            files.push((format!("{}/{name}", protocol::TESTS), read(program)?));
        }
        if let Some(prefixes) = &self.prefixes {
            files.push((protocol::PREFIXES.to_owned(), read(prefixes)?));
        }
        if let Some(input) = &self.input {
            files.push((protocol::INPUT.to_owned(), input.clone()));
        }
        Ok(files)
    }

    /// What a guest without a terminal reads.
    pub fn stdin(&self) -> String {
        match self.input {
            Some(_) => format!("{}/{}", protocol::DIR, protocol::INPUT),
            None => "/dev/null".to_owned(),
        }
    }

    /// The same as an archive for the initial RAM file system.
    pub fn archive(&self, command: &str) -> Result<Vec<u8>> {
        let mut cpio = Cpio::default();
        for (name, content) in self.files(command)? {
            cpio.file(&format!("lab/{name}"), &content);
        }
        Ok(cpio.finish())
    }
}

/// Rows and columns of the user's terminal, if there is one.
fn terminal_size() -> Option<(u16, u16)> {
    let output = Command::new("stty").arg("size").stdin(Stdio::inherit()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (rows, columns) = text.trim().split_once(' ')?;
    Some((rows.parse().ok()?, columns.parse().ok()?))
}

/// What a guest did next.
#[derive(Debug)]
pub enum Event {
    /// It reported.
    Message(Message),
    /// It ended; nothing more will come.
    Ended(ExitStatus),
    /// It was silent for too long.
    Silent,
}

/// A guest that runs. Dropping it kills it.
#[derive(Debug)]
pub struct Machine {
    child: Child,
    report: File,
    pending: Vec<u8>,
    dir: PathBuf,
}

impl Machine {
    /// Starts `guest`, which appends to the file `report` in `dir`.
    pub fn start(guest: &Command, dir: &Path, face: Face) -> Result<Machine> {
        // However this program ends, its guests end with it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(guest.get_program()).args(guest.get_args());
        if let Some(folder) = guest.get_current_dir() {
            command.current_dir(folder);
        }
        let report = dir.join("report");
        File::create(&report).with_context(|| format!("cannot make {}", report.display()))?;
        let file = |name: &str| {
            let file = dir.join(name);
            File::create(&file).with_context(|| format!("cannot make {}", file.display()))
        };
        match face {
            Face::Hidden => command.stdin(Stdio::null()).stdout(file("output")?),
            Face::Output => command.stdin(Stdio::null()),
            Face::Terminal => &mut command,
        };
        let child = command.stderr(file("errors")?).spawn();
        let child = child.with_context(|| format!("cannot start {:?}", guest.get_program()))?;
        let report = File::open(&report).context("cannot read the report")?;
        Ok(Machine { child, report, pending: Vec::new(), dir: dir.to_owned() })
    }

    /// Waits for what comes next, at most until `deadline`.
    pub fn next(&mut self, deadline: Instant) -> Result<Event> {
        loop {
            // Asked before reading: what an ended guest wrote is complete then.
            let ended = self.child.try_wait().context("cannot wait for the guest")?;
            self.report.read_to_end(&mut self.pending).context("cannot read the report")?;
            while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                if let Some(message) = Message::from_line(&String::from_utf8_lossy(&line)) {
                    return Ok(Event::Message(message));
                }
            }
            if let Some(status) = ended {
                return Ok(Event::Ended(status));
            }
            if Instant::now() >= deadline {
                return Ok(Event::Silent);
            }
            thread::sleep(POLL);
        }
    }

    /// What the kernel and the machine itself had to say at the end: from the first sign of a
    /// crash on, or the last lines.
    pub fn last_words(&self) -> String {
        let read = |name| fs::read(self.dir.join(name)).unwrap_or_default();
        let (console, errors) = (read("console"), read("errors"));
        let text = [console, errors].concat();
        end_of(&String::from_utf8_lossy(&text))
    }
}

fn end_of(text: &str) -> String {
    const LINES: usize = 40;
    let crash =
        |line: &str| ["Kernel panic", "BUG:", "Oops:"].iter().any(|sign| line.contains(sign));
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    let last = lines.len().saturating_sub(LINES);
    let first = lines.iter().position(|line| crash(line)).unwrap_or(last);
    lines[first..].iter().take(LINES).copied().collect::<Vec<_>>().join("\n")
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_is_told_from_its_first_line() {
        let trace: String = (0..90).map(|line| format!("[ 2.{line}] trace\r\n")).collect();
        let text = format!("switch_root: no\n[ 1.0] Kernel panic - not syncing: sysrq\n{trace}");
        let told = end_of(&text);
        assert!(told.starts_with("[ 1.0] Kernel panic - not syncing: sysrq\n[ 2.0] trace\n"));
        assert_eq!(told.lines().count(), 40);
        assert!(end_of(&trace).starts_with("[ 2.50] trace\n"));
        assert_eq!(end_of(""), "");
    }
}
