//! Running tasks: workers that take batches, boot guests and turn reports into verdicts.
//!
//! Whatever happens to a guest, every task gets exactly one verdict: the one that was running
//! when its guest died, hung or fell silent has failed; those behind it go on in a new guest.
//! An emulated machine that shares its processors is at times too slow for anything: what failed
//! is tried once more in a fresh guest, and both outcomes are told.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::protocol::{Job, Message, Task, Verdict};

use super::machine::{Event, Machine};
use super::plan::Batch;
use super::report::{self, Report};
use super::root;

/// After this many boots that reached no task, a batch is given up.
const FALSE_STARTS: u32 = 2;

/// What all workers share.
pub struct Runner<'a> {
    /// The names of the places.
    pub places: &'a [String],
    /// Starts a guest at the place of this index, for this job, with its files in this folder.
    pub start: &'a (dyn Fn(usize, Job, &Path) -> Result<Machine> + Sync),
    /// A guest has this long from power-on to its first message, between messages, and beyond a
    /// task's own limit, which the guest enforces itself.
    pub patience: Duration,
    /// Boots' own files.
    pub scratch: &'a Path,
    /// What is kept of failures.
    pub logs: &'a Path,
    /// Who is told.
    pub report: &'a Report,
    /// What failed and shall be tried once more; `None` if a failure is final.
    pub again: Option<Mutex<BTreeMap<usize, Vec<Task>>>>,
}

impl Runner<'_> {
    /// Runs every batch, `workers` at a time, and then once more what failed, if that is wanted.
    pub fn run(mut self, batches: VecDeque<Batch>, workers: usize) -> Result<()> {
        self.all(batches, workers)?;
        let Some(again) = self.again.take() else { return Ok(()) };
        let again = again.into_inner().expect("no holder of this lock panics");
        let batch = |(place, tasks)| Batch { place, tasks, false_starts: 0 };
        self.all(again.into_iter().map(batch).collect(), workers)
    }

    fn all(&self, batches: VecDeque<Batch>, workers: usize) -> Result<()> {
        let queue = Mutex::new(batches);
        let boots = AtomicUsize::new(0);
        let work = || -> Result<()> {
            loop {
                let batch = queue.lock().expect("no holder of this lock panics").pop_front();
                let Some(batch) = batch else { return Ok(()) };
                let boot = boots.fetch_add(1, Ordering::Relaxed);
                let dir = self.scratch.join(format!("boot-{boot}"));
                let rest = self.boot(batch, &dir)?;
                root::remove(&dir)?;
                if let Some(rest) = rest {
                    queue.lock().expect("no holder of this lock panics").push_front(rest);
                }
            }
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            workers.into_iter().try_for_each(|worker| worker.join().expect("workers do not panic"))
        })
    }

    /// Boots one guest for `batch`; gives back what another boot must do.
    fn boot(&self, mut batch: Batch, dir: &Path) -> Result<Option<Batch>> {
        let place = &self.places[batch.place];
        let job = Job::Tasks(batch.tasks.clone());
        let mut machine = (self.start)(batch.place, job, dir)?;
        let mut guest = Guest { runner: self, number: batch.place, place, running: None };
        let total = batch.tasks.len();
        let ending = loop {
            match machine.next(Instant::now() + guest.patience())? {
                Event::Message(Message::Done) => break None,
                Event::Message(message) => guest.message(message, &mut batch.tasks)?,
                Event::Ended(status) => break Some(format!("the guest died ({status})")),
                Event::Silent => break Some("the guest hung".to_owned()),
            }
        };
        let reason = ending.unwrap_or_else(|| "the guest forgot it".to_owned());
        guest.abandon(&machine, &reason, dir)?;
        drop(machine);
        if batch.tasks.is_empty() {
            return Ok(None);
        }
        batch.false_starts = if batch.tasks.len() == total { batch.false_starts + 1 } else { 0 };
        if batch.false_starts < FALSE_STARTS {
            return Ok(Some(batch));
        }
        for task in batch.tasks {
            let logs = report::log_folder(self.logs, place, &task.name);
            keep_boot(dir, &logs)?;
            let verdict = Verdict::Failed(format!("no guest got as far as this: {reason}"));
            self.report.record(place, &task.name, &verdict, 0.0, &logs);
        }
        Ok(None)
    }
}

/// One guest's conversation.
struct Guest<'a> {
    runner: &'a Runner<'a>,
    number: usize,
    place: &'a str,
    running: Option<(Task, Instant)>,
}

impl Guest<'_> {
    fn patience(&self) -> Duration {
        self.runner.patience
            + self.running.as_ref().map_or(Duration::ZERO, |(task, _)| task.timeout)
    }

    /// Takes one message in; `left` loses the task that starts.
    fn message(&mut self, message: Message, left: &mut Vec<Task>) -> Result<()> {
        match message {
            Message::Done => {}
            Message::Ready { uptime, .. } => {
                let text =
                    format!("{:16} up after {uptime:.1} s, {} to run", self.place, left.len());
                self.runner.report.say(&text);
            }
            Message::Started { name } => {
                if let Some(index) = left.iter().position(|task| task.name == name) {
                    self.running = Some((left.remove(index), Instant::now()));
                    root::remove(&self.logs(&name))?;
                }
            }
            Message::File { name, path, content } => {
                let Some(path) = inside(&self.logs(&name), &path) else { return Ok(()) };
                let Ok(content) = BASE64.decode(content) else { return Ok(()) };
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder).context("cannot make a log folder")?;
                }
                fs::write(&path, content).context("cannot write a log")?;
            }
            Message::Finished { name, verdict, seconds } => {
                if let Some((task, _)) = self.running.take_if(|(task, _)| task.name == name) {
                    let logs = self.logs(&name);
                    if let Verdict::Failed(reason) = &verdict {
                        keep_reason(reason, &logs)?;
                    }
                    self.verdict(task, &verdict, seconds, &logs);
                }
            }
        }
        Ok(())
    }

    /// The guest has ended: fails the task that was running, if any.
    fn abandon(&mut self, machine: &Machine, reason: &str, dir: &Path) -> Result<()> {
        let Some((task, since)) = self.running.take() else { return Ok(()) };
        let logs = self.logs(&task.name);
        keep_boot(dir, &logs)?;
        let verdict = Verdict::Failed(format!("{reason}\n{}", machine.last_words()));
        self.verdict(task, &verdict, since.elapsed().as_secs_f64(), &logs);
        Ok(())
    }

    /// A task has ended: for good, unless it failed and may be tried once more.
    fn verdict(&self, task: Task, verdict: &Verdict, seconds: f64, logs: &Path) {
        if let (Verdict::Failed(reason), Some(again)) = (verdict, &self.runner.again) {
            let first = reason.lines().next().unwrap_or_default();
            let (place, name) = (self.place, &task.name);
            self.runner
                .report
                .say(&format!("{place:16} once more    {name}, which failed: {first}"));
            let mut again = again.lock().expect("no holder of this lock panics");
            again.entry(self.number).or_default().push(task);
            return;
        }
        self.runner.report.record(self.place, &task.name, verdict, seconds, logs);
    }

    fn logs(&self, name: &str) -> PathBuf {
        report::log_folder(self.runner.logs, self.place, name)
    }
}

/// Keeps the whole reason; only its beginning is printed.
fn keep_reason(reason: &str, logs: &Path) -> Result<()> {
    fs::create_dir_all(logs).context("cannot make a log folder")?;
    fs::write(logs.join("reason.log"), reason).context("cannot keep a reason")
}

/// Keeps what a boot left, beside a scenario's own files.
fn keep_boot(dir: &Path, logs: &Path) -> Result<()> {
    fs::create_dir_all(logs).context("cannot make a log folder")?;
    for name in ["console", "output", "errors"] {
        let from = dir.join(name);
        if from.exists() {
            fs::copy(from, logs.join(format!("boot-{name}.log"))).context("cannot keep a log")?;
        }
    }
    Ok(())
}

/// `path` below `folder`, unless it would lead out of it.
fn inside(folder: &Path, path: &str) -> Option<PathBuf> {
    let plain = |part| matches!(part, Component::Normal(_));
    Path::new(path).components().all(plain).then(|| folder.join(path))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::super::machine::Face;
    use super::super::report::Totals;
    use super::*;

    const NAMES: [&str; 3] = ["first", "second", "third"];

    fn batch() -> VecDeque<Batch> {
        let task = |name: &str| Task { name: name.into(), timeout: Duration::ZERO, test: None };
        [Batch { place: 0, tasks: NAMES.map(task).into(), false_starts: 0 }].into()
    }

    /// Runs three tasks on guests that are shell scripts. They know `start NAME`, `pass NAME`
    /// and `fail NAME`, and get the names they shall run as arguments.
    fn run(test: &str, script: &str) -> (Totals, usize, String) {
        run_with(test, script, None)
    }

    fn run_with(
        test: &str,
        script: &str,
        again: Option<Mutex<BTreeMap<usize, Vec<Task>>>>,
    ) -> (Totals, usize, String) {
        let dir = std::env::temp_dir().join(format!("lab-run-{test}-{}", std::process::id()));
        let functions = r#"
            start() { echo "{\"started\":{\"name\":\"$1\"}}" >> report; }
            end() { echo "{\"finished\":{\"name\":\"$1\",\"verdict\":$2,\"seconds\":1}}" >> report; }
            pass() { start $1; end $1 '"passed"'; }
            fail() { start $1; end $1 '{"failed":"why"}'; }
            echo '{"ready":{"kernel":"k","uptime":1}}' >> report
        "#;
        let boots = AtomicUsize::new(0);
        let start = |_, job, folder: &Path| {
            boots.fetch_add(1, Ordering::Relaxed);
            fs::create_dir_all(folder)?;
            let Job::Tasks(tasks) = job else { unreachable!("only tasks are run here") };
            let names = tasks.into_iter().map(|task| task.name);
            let mut command = Command::new("sh");
            command.args(["-c", &format!("{functions}{script}"), "guest"]).args(names);
            command.current_dir(folder);
            Machine::start(&command, folder, Face::Hidden)
        };
        let report = Report::new();
        let runner = Runner {
            places: &["here".to_owned()],
            start: &start,
            patience: Duration::from_millis(700),
            scratch: &dir.join("scratch"),
            logs: &dir.join("logs"),
            report: &report,
            again,
        };
        runner.run(batch(), 1).expect("the runner itself works");
        root::remove(&dir).expect("the folder can be removed");
        let (totals, failures) = report.results();
        (totals, boots.load(Ordering::Relaxed), failures.join("\n"))
    }

    fn totals(passed: usize, failed: usize) -> Totals {
        Totals { passed, failed, skipped: 0 }
    }

    #[test]
    fn a_good_guest() {
        let (all, boots, _) = run("good", "for n; do pass $n; done; echo '\"done\"' >> report");
        assert_eq!((all, boots), (totals(3, 0), 1));
    }

    #[test]
    fn a_failure_costs_one_scenario_and_no_boot() {
        let (all, boots, failures) =
            run("fail", "pass $1; fail $2; pass $3; echo '\"done\"' >> report");
        assert_eq!((all, boots), (totals(2, 1), 1));
        assert!(failures.contains("second: why"), "{failures}");
    }

    #[test]
    fn what_failed_is_tried_once_more_and_only_once() {
        let script = "for n; do [ $n = third ] && fail $n && continue
            [ $n = second ] && [ ! -e ../second ] && touch ../second && fail $n && continue
            pass $n; done; echo '\"done\"' >> report";
        let (all, boots, failures) = run_with("again", script, Some(Mutex::default()));
        assert_eq!((all, boots), (totals(2, 1), 2));
        assert!(failures.contains("third: why") && !failures.contains("second"), "{failures}");
    }

    #[test]
    fn a_death_costs_the_scenario_that_ran() {
        let script = "for n; do start $n; [ $n = second ] && kill -9 $$; end $n '\"passed\"'; done
            echo '\"done\"' >> report";
        let (all, boots, failures) = run("death", script);
        assert_eq!((all, boots), (totals(2, 1), 2));
        assert!(failures.contains("second: the guest died (signal: 9"), "{failures}");
    }

    #[test]
    fn a_hang_costs_the_scenario_that_ran() {
        let script =
            "for n; do start $n; [ $n = first ] && exec sleep 60; end $n '\"passed\"'; done
            echo '\"done\"' >> report";
        let (all, boots, failures) = run("hang", script);
        assert_eq!((all, boots), (totals(2, 1), 2));
        assert!(failures.contains("first: the guest hung"), "{failures}");
    }

    #[test]
    fn a_guest_that_never_gets_there_is_given_up() {
        let (all, boots, failures) = run("never", "exit 3");
        assert_eq!((all, boots), (totals(0, 3), 2));
        assert!(failures.contains("third: no guest got as far as this"), "{failures}");
    }

    #[test]
    fn silence_is_no_success() {
        let (all, _, failures) = run("done", "pass $1; start $2; echo '\"done\"' >> report");
        assert_eq!(all.passed + all.failed, 3, "each has a verdict: {failures}");
        assert!(failures.contains("second: the guest forgot it"), "{failures}");
    }

    #[test]
    fn logs_stay_in_their_folder() {
        let logs = Path::new("logs/6.1/tunnel");
        assert_eq!(inside(logs, "left/bird.log"), Some(logs.join("left/bird.log")));
        for path in ["../x", "/etc/passwd", "a/../../x"] {
            assert_eq!(inside(logs, path), None, "{path}");
        }
    }
}
