//! The runner inside the guest: one sandboxed process per scenario, one report per verdict.
//!
//! The same code runs in a virtual machine and on a host whose kernel has WireGuard. Each
//! scenario gets private mount, process and network namespaces by unshare(1), with `/run` and
//! `/tmp` of its own, so that whatever it leaves behind (daemons, namespaces, sockets) dies with
//! the sandbox, and a scenario that hangs can be killed whole. Scenarios trust nothing here and
//! this trusts no scenario: a process that ends without a verdict has failed.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::lab::{Lab, Setup};
use crate::log::Log;
use crate::protocol::{DIR, Job, Message, Task, Test, Verdict};
use crate::scenario::{self, Scenario, Skip, Topology};
use crate::{demo, protocol};

/// At most this much of one log file is carried out; its end counts most.
const FILE_LIMIT: usize = 4 << 20;
/// So much of a scenario's output is told where it gave no verdict.
const LAST_LINES: usize = 6;
/// The file in a working folder that holds what the scenario printed.
const TRANSCRIPT: &str = "scenario.log";

/// Does the job in `/lab/job.json` and reports to `report`.
pub fn run(report: &Path) -> Result<()> {
    let report = File::options()
        .write(true)
        .open(report)
        .with_context(|| format!("cannot open the report port {}", report.display()))?;
    let mut runner = Runner { report };
    runner.send(&Message::Ready { kernel: kernel_release()?, uptime: uptime()? })?;
    match job()? {
        Job::Tasks(tasks) => tasks.iter().try_for_each(|task| runner.task(task))?,
        // The user watches: these own the terminal, and their exit code is the verdict.
        Job::Demo(_) => runner.interactive("demo")?,
        Job::Shell(_) => runner.interactive("shell")?,
        Job::Probe => {}
    }
    runner.send(&Message::Done)
}

/// Inside the sandbox: does the task `name` (or `demo`, `shell`) with its files in `workdir`, and
/// leaves the verdict beside that folder.
pub fn run_one(name: &str, workdir: &Path) -> Result<()> {
    private_folders()?;
    let job = job()?;
    let outcome = match &job {
        Job::Tasks(tasks) => task(tasks, name, workdir),
        Job::Demo(options) => {
            laboratory(workdir, &job).and_then(|mut lab| demo::run(&mut lab, options))
        }
        Job::Shell(topology) => {
            laboratory(workdir, &job).and_then(|mut lab| shell(&mut lab, find_topology(topology)?))
        }
        Job::Probe => Ok(()),
    };
    let verdict = match outcome {
        Ok(()) => Verdict::Passed,
        Err(error) => match error.downcast_ref::<Skip>() {
            Some(Skip(reason)) => Verdict::Skipped(reason.clone()),
            None => Verdict::Failed(format!("{error:#}")),
        },
    };
    fs::write(verdict_file(workdir), serde_json::to_vec(&verdict)?)
        .context("cannot write the verdict")
}

fn task(tasks: &[Task], name: &str, workdir: &Path) -> Result<()> {
    let task = tasks.iter().find(|task| task.name == name);
    match &task.with_context(|| format!("the job has no task {name}"))?.test {
        Some(test) => run_test(test, workdir),
        None => {
            let scenario = find_scenario(name)?;
            let mut lab = Lab::new(setup(workdir, Log::stdout()))?;
            (scenario.run)(&mut lab)
        }
    }
}

/// Runs one test that cargo leaves out, in its own program.
fn run_test(test: &Test, workdir: &Path) -> Result<()> {
    let program = test.program.file_name().context("a test program without a name")?;
    let output = Command::new(Path::new(DIR).join(protocol::TESTS).join(program))
        .args(["--include-ignored", "--exact", "--test-threads=1", &test.name])
        .current_dir(workdir)
        .output()
        .context("cannot start the test program")?;
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        // libtest repeats what the test printed between these two headings.
        let told = text.split_once("\nfailures:\n").map_or(&*text, |(_, after)| after);
        bail!("{}", told.split("\nfailures:\n").next().unwrap_or(told).trim());
    }
    ensure!(text.contains("test result: ok. 1 passed"), "{} is not in its program", test.name);
    Ok(())
}

struct Runner {
    report: File,
}

impl Runner {
    fn send(&mut self, message: &Message) -> Result<()> {
        self.report.write_all(message.to_line().as_bytes()).context("cannot write the report")
    }

    fn task(&mut self, task: &Task) -> Result<()> {
        let name = &task.name;
        self.send(&Message::Started { name: name.clone() })?;
        let workdir = workdir(name)?;
        let started = Instant::now();
        let verdict = supervise(task, &workdir)?;
        let seconds = started.elapsed().as_secs_f64();
        if matches!(verdict, Verdict::Failed(_)) {
            if let Ok(dmesg) = Command::new("dmesg").output() {
                fs::write(workdir.join("kernel.log"), dmesg.stdout).context("cannot keep dmesg")?;
            }
            self.carry_out(name, &workdir, &workdir)?;
        }
        fs::remove_dir_all(&workdir).ok();
        self.send(&Message::Finished { name: name.clone(), verdict, seconds })
    }

    fn interactive(&mut self, name: &str) -> Result<()> {
        self.send(&Message::Started { name: name.to_owned() })?;
        let workdir = workdir(name)?;
        let started = Instant::now();
        let status = sandbox(name, &workdir).status().context("cannot start unshare(1)")?;
        let verdict = read_verdict(&workdir)
            .unwrap_or_else(|| no_verdict(&status.to_string(), &VecDeque::new()));
        let seconds = started.elapsed().as_secs_f64();
        self.send(&Message::Finished { name: name.to_owned(), verdict, seconds })
    }

    /// Sends the regular files below `folder`.
    fn carry_out(&mut self, name: &str, root: &Path, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                self.carry_out(name, root, &entry.path())?;
            } else if kind.is_file() {
                let Ok(content) = fs::read(entry.path()) else { continue };
                let tail = &content[content.len().saturating_sub(FILE_LIMIT)..];
                let path = entry.path();
                let path = path.strip_prefix(root).unwrap_or(&path);
                self.send(&Message::File {
                    name: name.to_owned(),
                    path: path.to_string_lossy().into_owned(),
                    content: BASE64.encode(tail),
                })?;
            }
        }
        Ok(())
    }
}

/// Does one task in its sandbox under its time limit, passing its output on.
fn supervise(task: &Task, workdir: &Path) -> Result<Verdict> {
    let mut child = sandbox(&task.name, workdir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start unshare(1)")?;
    let mut transcript = File::create(workdir.join(TRANSCRIPT))?;
    let mut last = VecDeque::with_capacity(LAST_LINES);
    let (sender, lines) = mpsc::channel();
    forward(child.stdout.take(), sender.clone());
    forward(child.stderr.take(), sender);
    let deadline = Instant::now() + task.timeout;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{}: {line}", task.name);
                writeln!(transcript, "{line}")?;
                last.truncate(LAST_LINES - 1);
                last.push_front(line);
            }
            // Both ends closed: every process of the sandbox is gone or has let go.
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                kill(&mut child)?;
                let limit = task.timeout.as_secs();
                return Ok(no_verdict(&format!("still running after {limit} s"), &last));
            }
        }
    }
    let status = match wait(&mut child, deadline + Duration::from_secs(5))? {
        Some(status) => status.to_string(),
        None => {
            kill(&mut child)?;
            "killed: it closed its output and did not end".to_owned()
        }
    };
    Ok(read_verdict(workdir).unwrap_or_else(|| no_verdict(&status, &last)))
}

/// A command that runs this binary for `name` in private namespaces. `--kill-child` ties the
/// sandbox's first process, and by that all of them, to the life of unshare(1).
fn sandbox(name: &str, workdir: &Path) -> Command {
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child"])
        .arg("--mount-proc")
        .arg(Path::new(DIR).join("netns-lab"))
        .args(["guest-one", name])
        .arg(workdir);
    command
}

fn forward(stream: Option<impl std::io::Read + Send + 'static>, lines: mpsc::Sender<String>) {
    let Some(stream) = stream else { return };
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = stream.read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if lines.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
}

fn wait(child: &mut Child, deadline: Instant) -> Result<Option<std::process::ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn kill(child: &mut Child) -> Result<()> {
    child.kill().context("cannot kill a sandbox")?;
    child.wait().context("cannot reap a sandbox")?;
    Ok(())
}

/// The verdict where there is none, with the last that was printed, newest first in `last`.
fn no_verdict(status: &str, last: &VecDeque<String>) -> Verdict {
    let lines = last.iter().rev().map(|line| format!("\n{line}"));
    Verdict::Failed(format!("no verdict: {status}{}", lines.collect::<String>()))
}

fn read_verdict(workdir: &Path) -> Option<Verdict> {
    serde_json::from_slice(&fs::read(verdict_file(workdir)).ok()?).ok()
}

/// Beside the working folder, so that it is no part of the logs.
fn verdict_file(workdir: &Path) -> PathBuf {
    workdir.with_extension("verdict")
}

fn workdir(name: &str) -> Result<PathBuf> {
    let workdir = Path::new(DIR).join("work").join(name);
    fs::create_dir_all(&workdir).with_context(|| format!("cannot make {}", workdir.display()))?;
    Ok(workdir)
}

/// Gives the sandbox its own `/run` (named namespaces, control sockets) and `/tmp`.
fn private_folders() -> Result<()> {
    for folder in ["/run", "/tmp"] {
        let status = Command::new("mount").args(["-t", "tmpfs", "none", folder]).status();
        if !status.context("cannot start mount(8)")?.success() {
            bail!("cannot mount a private {folder}");
        }
    }
    for folder in ["/run/netns", "/run/lock"] {
        fs::create_dir(folder).with_context(|| format!("cannot make {folder}"))?;
    }
    Ok(())
}

/// A lab whose log is a file: the terminal belongs to the user.
fn laboratory(workdir: &Path, job: &Job) -> Result<Lab> {
    let file = File::create(workdir.join(TRANSCRIPT))
        .with_context(|| format!("cannot make the log of {job:?}"))?;
    let log = Log::new(move |line| {
        // A full disk must not end the show.
        writeln!(&file, "{line}").ok();
    });
    Lab::new(setup(workdir, log))
}

fn setup(workdir: &Path, log: Log) -> Setup {
    let dir = Path::new(DIR);
    let prefixes = dir.join(protocol::PREFIXES);
    Setup {
        workdir: workdir.to_owned(),
        wgrouted: dir.join("wgrouted"),
        prefixes: prefixes.exists().then_some(prefixes),
        log,
    }
}

/// Builds the topology and replaces nothing: the shell is a child, so that the lab is torn down
/// when it ends.
fn shell(lab: &mut Lab, topology: &Topology) -> Result<()> {
    println!("building {} ...", topology.name);
    let usage = (topology.build)(lab)?;
    println!("{}\n\nLeave with `exit`; everything is thrown away then.\n", usage.trim_end());
    let interactive = std::io::stdin().is_terminal();
    Command::new("bash")
        .args(if interactive { ["--norc", "-i"] } else { ["--norc", "-s"] })
        .env("PS1", format!("[{} \\w]# ", topology.name))
        .env("HOME", lab.workdir())
        .env("PATH", format!("{DIR}:{}", std::env::var("PATH").unwrap_or_default()))
        .current_dir(lab.workdir())
        .status()
        .context("cannot start bash")?;
    Ok(())
}

fn find_scenario(name: &str) -> Result<&'static Scenario> {
    let found = scenario::all().iter().find(|scenario| scenario.name == name);
    found.with_context(|| format!("no scenario is called {name}"))
}

fn find_topology(name: &str) -> Result<&'static Topology> {
    let found = scenario::topologies().iter().find(|topology| topology.name == name);
    found.with_context(|| format!("no topology is called {name}"))
}

fn job() -> Result<Job> {
    let file = Path::new(DIR).join(protocol::JOB);
    let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no job", file.display()))
}

fn kernel_release() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("cannot read /proc")?;
    Ok(release.trim().to_owned())
}

fn uptime() -> Result<f64> {
    let text = fs::read_to_string("/proc/uptime").context("cannot read /proc/uptime")?;
    let first = text.split_whitespace().next().unwrap_or_default();
    first.parse().context("/proc/uptime does not begin with a number")
}
