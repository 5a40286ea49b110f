//! The `cargo lab` commands.

use std::fs;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::host::equipment::{Equipment, Unsupported};
use crate::host::kernel::Missing;
use crate::host::machine::{Event, Face, Payload};
use crate::host::place::{Choice, Place};
use crate::host::plan::{self, Item};
use crate::host::report::{Report, Totals};
use crate::host::run::Runner;
use crate::host::vm::Size;
use crate::host::workspace::Workspace;
use crate::host::{bpf, checks, native, root};
use crate::protocol::{Job, Message, Task, Verdict};
use crate::scenario::{self, Kernels};
use crate::{demo, guest};

#[derive(Parser)]
#[command(
    name = "cargo lab",
    about = "Runs wgrouted against real kernels and real routing daemons"
)]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Run everything: lints, unit and property tests, and the scenarios on real kernels
    Test(TestOptions),
    /// List the scenarios and topologies
    List,
    /// Watch wgrouted follow BIRD on real kernel WireGuard
    Demo {
        #[command(flatten)]
        options: demo::Options,
        #[command(flatten)]
        kernels: KernelOptions,
    },
    /// Build a topology, leave it up and give a shell in it
    Shell {
        /// The topology (see `cargo lab list`)
        topology: String,
        #[command(flatten)]
        kernels: KernelOptions,
    },
    /// Build the packet filter's object file from its sources
    Bpf {
        /// Write nothing: verify that the committed file is what the sources give
        #[arg(long)]
        check: bool,
    },
    /// The runner inside the guest
    #[command(hide = true)]
    Guest {
        /// The port that takes the report
        report: PathBuf,
    },
    /// One scenario inside its sandbox
    #[command(hide = true)]
    GuestOne {
        /// The scenario
        name: String,
        /// Its working folder
        workdir: PathBuf,
    },
}

#[derive(clap::Args)]
struct TestOptions {
    /// Run only the scenarios whose name contains one of these
    names: Vec<String>,
    /// Run only the tests whose name contains this: on the kernels, if they need root
    #[arg(long = "test", value_name = "NAME")]
    tests: Vec<String>,
    /// Run the scenarios only, without the checks by cargo
    #[arg(long)]
    scenarios: bool,
    /// Show what the scenarios print
    #[arg(long, short)]
    verbose: bool,
    /// Give the scenarios this prefix file (one a line, gzip too)
    #[arg(long, value_name = "FILE")]
    prefixes: Option<PathBuf>,
    /// How many machines run at a time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    jobs: u8,
    #[command(flatten)]
    kernels: KernelOptions,
}

#[derive(clap::Args)]
struct KernelOptions {
    /// Kernels to use: `host`, `newest`, or a version such as 6.12 (default: the host's if it has
    /// WireGuard, else 6.1 and newest in QEMU)
    #[arg(long = "kernel", value_name = "V")]
    kernel: Vec<String>,
    /// All kernels the project supports, in QEMU; those that Debian no longer offers are skipped
    #[arg(long)]
    all_kernels: bool,
}

/// Runs the command line and gives the exit code: 0, 1 if something failed, 2 for bad usage.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Cmd::Test(options) => test(&options),
        Cmd::List => {
            list();
            Ok(true)
        }
        Cmd::Demo { options, kernels } => show_demo(options, &kernels),
        Cmd::Shell { topology, kernels } => shell(topology, &kernels),
        Cmd::Bpf { check } => build_filter(check),
        Cmd::Guest { report } => guest::run(&report).map(|()| true),
        Cmd::GuestOne { name, workdir } => guest::run_one(&name, &workdir).map(|()| true),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cargo lab: {error:#}");
            ExitCode::from(if error.is::<Usage>() { 2 } else { 1 })
        }
    }
}

/// How long a guest may take to boot, and a scenario over its limit, before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(120);
/// More than this no machine gets; the full table twice takes most of it.
const MEMORY_LIMIT: u64 = 8192;

/// The command line asks for what there is not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

fn list() {
    println!("scenarios (cargo lab test NAME):");
    for scenario in scenario::all() {
        println!("  {:32} {}", scenario.name, scenario.about);
    }
    println!("topologies (cargo lab shell NAME):");
    for topology in scenario::topologies() {
        println!("  {:32} {}", topology.name, topology.about);
    }
}

fn test(options: &TestOptions) -> Result<bool> {
    let selected = plan::select(&options.names).map_err(|name| {
        Usage(format!("no scenario's name contains `{name}` (see `cargo lab list`)"))
    })?;
    let choice = options.kernels.choice()?;
    let workspace = Workspace::find()?;
    let logs = workspace.cache.join("logs");
    let report = Report::new();
    let everything = options.names.is_empty() && options.tests.is_empty();
    let mut items: Vec<Item> = selected.into_iter().map(Item::from).collect();
    if !options.tests.is_empty() {
        if options.names.is_empty() {
            items.clear();
        }
        items.splice(0..0, checks::tests(&workspace, &options.tests, &logs, &report)?);
    } else if everything && !options.scenarios {
        // Before the scenarios: they take longest.
        items.splice(0..0, checks::run(&workspace, &logs, &report)?);
    }
    if items.is_empty() {
        return Ok(report.finish());
    }
    if let Err(error) = run_items(options, &items, &choice, &workspace, &logs, &report) {
        let reason = format!("{error:#}");
        if error.is::<Unsupported>() {
            skip(items.iter().map(|item| &item.task), &reason, &logs, &report);
        } else {
            report.record("lab", "set-up", &Verdict::Failed(reason), 0.0, &logs);
        }
    }
    Ok(report.finish())
}

fn run_items(
    options: &TestOptions,
    items: &[Item],
    choice: &Choice,
    workspace: &Workspace,
    logs: &Path,
    report: &Report,
) -> Result<()> {
    let face = if options.verbose { Face::Output } else { Face::Hidden };
    let payload = payload(workspace, Job::Probe, options.prefixes.clone(), face)?;
    let say = |text: &str| report.say(text);
    let started = Instant::now();
    let mut equipment = Equipment::obtain(&workspace.cache, &say)?;
    let (mut places, missing) = Place::choose(&equipment, &payload, choice, false, &say)?;
    equipment.unlock();
    for Missing { wanted, reason } in missing {
        let there = items.iter().filter(|item| item.kernels == Kernels::Each);
        let totals = Totals { skipped: there.count(), ..Totals::default() };
        let verdict = Verdict::Skipped(reason);
        report.group(&wanted.to_string(), "everything", &verdict, totals, 0.0, logs);
    }
    let host = places.iter().any(|place| matches!(place, Place::Host { .. }));
    if *choice == Choice::Auto && !host && native::is_root() {
        // Good enough for what needs root only, and faster than any machine.
        places.insert(0, Place::Host { wireguard: false });
    }
    say(&format!("set up in {:.1} s", started.elapsed().as_secs_f64()));
    let scratch = Scratch::new(&workspace.cache)?;
    let jobs = usize::from(options.jobs);
    let size = size(jobs)?;
    let names: Vec<_> = places.iter().map(Place::name).collect();
    let wireguard: Vec<_> = places.iter().map(Place::has_wireguard).collect();
    let runner = Runner {
        places: &names,
        start: &|place, job, dir| {
            places[place].start(&equipment, &Payload { job, ..payload.clone() }, size, dir)
        },
        patience: PATIENCE,
        scratch: &scratch.0,
        logs,
        report,
        again: Some(Mutex::default()),
    };
    let (batches, left) = plan::plan(items, &wireguard);
    skip(&left, "no kernel with WireGuard was chosen", logs, report);
    runner.run(batches, jobs)
}

fn skip<'a>(tasks: impl IntoIterator<Item = &'a Task>, reason: &str, logs: &Path, report: &Report) {
    for task in tasks {
        let verdict = Verdict::Skipped(reason.to_owned());
        report.record("-", &task.name, &verdict, 0.0, logs);
    }
}

fn build_filter(check: bool) -> Result<bool> {
    let workspace = Workspace::find()?;
    let say = |text: &str| eprintln!("{text}");
    if !check {
        return bpf::build(&workspace, &say).map(|()| true);
    }
    match bpf::check(&workspace, &say)? {
        Verdict::Passed => println!("PASSED: the committed object is what the sources give"),
        Verdict::Skipped(reason) => println!("SKIPPED: {reason}"),
        Verdict::Failed(reason) => {
            println!("FAILED: {reason}");
            return Ok(false);
        }
    }
    Ok(true)
}

fn show_demo(options: demo::Options, kernels: &KernelOptions) -> Result<bool> {
    let terminal = std::io::stdout().is_terminal();
    let prefixes = options.prefixes.clone();
    let job = Job::Demo(demo::Options { terminal, ..options });
    attended(kernels, |workspace| payload(workspace, job, prefixes, Face::Output))
}

fn shell(topology: String, kernels: &KernelOptions) -> Result<bool> {
    if !scenario::topologies().iter().any(|one| one.name == topology) {
        return Err(
            Usage(format!("no topology is called `{topology}` (see `cargo lab list`)")).into()
        );
    }
    let mut input = None;
    let mut face = Face::Terminal;
    if !std::io::stdin().is_terminal() {
        let mut script = Vec::new();
        std::io::stdin().read_to_end(&mut script).context("cannot read standard input")?;
        (input, face) = (Some(script), Face::Output);
    }
    attended(kernels, |workspace| {
        Ok(Payload { input, ..payload(workspace, Job::Shell(topology), None, face)? })
    })
}

/// Runs one job that the user watches, on the newest of the kernels chosen.
fn attended(
    kernels: &KernelOptions,
    payload: impl FnOnce(&Workspace) -> Result<Payload>,
) -> Result<bool> {
    let choice = kernels.choice()?;
    let workspace = Workspace::find()?;
    let payload = payload(&workspace)?;
    let say = |text: &str| eprintln!("{text}");
    let mut equipment = Equipment::obtain(&workspace.cache, &say)?;
    let (places, _) = Place::choose(&equipment, &payload, &choice, true, &say)?;
    equipment.unlock();
    let place = places.last().context("no kernel was chosen")?;
    let scratch = Scratch::new(&workspace.cache)?;
    let mut machine = place.start(&equipment, &payload, size(1)?, &scratch.0)?;
    let mut verdict = None;
    loop {
        // The user is watching and can end it.
        match machine.next(Instant::now() + Duration::from_secs(3600))? {
            Event::Message(Message::Finished { verdict: reached, .. }) => verdict = Some(reached),
            Event::Message(_) | Event::Silent => {}
            Event::Ended(_) => break,
        }
    }
    let failure = match verdict {
        Some(Verdict::Passed) => return Ok(true),
        Some(Verdict::Failed(reason) | Verdict::Skipped(reason)) => reason,
        None => format!("the guest died\n{}", machine.last_words()),
    };
    eprintln!("cargo lab: {failure}");
    Ok(false)
}

fn payload(
    workspace: &Workspace,
    job: Job,
    prefixes: Option<PathBuf>,
    face: Face,
) -> Result<Payload> {
    if let Some(file) = prefixes.as_ref().filter(|file| !file.is_file()) {
        return Err(Usage(format!("there is no prefix file {}", file.display())).into());
    }
    let (netns_lab, wgrouted) = (workspace.netns_lab(), workspace.wgrouted()?);
    Ok(Payload { job, netns_lab, wgrouted, prefixes, input: None, face })
}

impl KernelOptions {
    fn choice(&self) -> Result<Choice> {
        Ok(Choice::parse(&self.kernel, self.all_kernels).map_err(Usage)?)
    }
}

/// Machines that share this host fairly: `jobs` at a time.
fn size(jobs: usize) -> Result<Size> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    let available = text.lines().find_map(|line| {
        let kibibytes = line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?;
        kibibytes.parse::<u64>().ok()
    });
    let available = available.context("/proc/meminfo does not tell what is available")? / 1024;
    let share = available * 3 / 4 / jobs as u64;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).div_ceil(jobs);
    Ok(Size { cpus: cpus.min(4), mebibytes: share.min(MEMORY_LIMIT) })
}

/// Where boots keep their files while they run; removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(cache: &Path) -> Result<Scratch> {
        // What runs that were killed have left.
        for entry in fs::read_dir(cache).context("cannot list the cache")?.flatten() {
            let name = entry.file_name();
            let process = name.to_str().and_then(|name| name.strip_prefix("run-"));
            if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
                root::remove(&entry.path())?;
            }
        }
        let dir = cache.join(format!("run-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Scratch(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = root::remove(&self.0) {
            eprintln!("cargo lab: {error:#}");
        }
    }
}
