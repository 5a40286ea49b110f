//! What passed, failed and was skipped: told as it happens, and counted.
//!
//! Every check and scenario ends up here exactly once, and the last line printed is always the
//! totals.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::protocol::Verdict;

/// Of a reason, at most this much is told at once; all of it is in the logs.
const REASON_LINES: usize = 30;
const LINE_CHARACTERS: usize = 300;

fn shorten(line: &str) -> String {
    match line.char_indices().nth(LINE_CHARACTERS) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line.to_owned(),
    }
}

/// The results so far; shared by the workers.
#[derive(Debug)]
pub struct Report {
    color: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    totals: Totals,
    failures: Vec<String>,
}

/// How many of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// As they must.
    pub passed: usize,
    /// Not.
    pub failed: usize,
    /// Not run.
    pub skipped: usize,
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, other: Totals) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl Report {
    /// An empty report.
    pub fn new() -> Report {
        Report { color: std::io::stdout().is_terminal(), state: Mutex::default() }
    }

    /// A line of progress.
    pub fn say(&self, text: &str) {
        println!("{}", self.paint("2", text));
    }

    /// One thing has ended; a failure's files lie in `logs`.
    pub fn record(&self, place: &str, name: &str, verdict: &Verdict, seconds: f64, logs: &Path) {
        let one = match verdict {
            Verdict::Passed => Totals { passed: 1, ..Totals::default() },
            Verdict::Failed(_) => Totals { failed: 1, ..Totals::default() },
            Verdict::Skipped(_) => Totals { skipped: 1, ..Totals::default() },
        };
        self.group(place, name, verdict, one, seconds, logs);
    }

    /// A group of tests has ended with `totals`; `verdict` speaks for all of them.
    pub fn group(
        &self,
        place: &str,
        name: &str,
        verdict: &Verdict,
        totals: Totals,
        seconds: f64,
        logs: &Path,
    ) {
        let (word, reason) = match verdict {
            Verdict::Passed => (self.paint("32", "passed "), None),
            Verdict::Failed(reason) => (self.paint("31", "FAILED "), Some(reason)),
            Verdict::Skipped(reason) => (self.paint("33", "skipped"), Some(reason)),
        };
        let many = if totals.passed + totals.failed + totals.skipped == 1 {
            String::new()
        } else {
            format!("  ({totals})")
        };
        println!("{place:16} {word} {seconds:7.1} s  {name}{many}");
        for line in reason.into_iter().flat_map(|reason| reason.lines()).take(REASON_LINES) {
            println!("    {}", shorten(line));
        }
        let mut state = self.state.lock().expect("no holder of this lock panics");
        state.totals += totals;
        if let Verdict::Failed(reason) = verdict {
            let first = shorten(reason.lines().next().unwrap_or_default());
            state.failures.push(format!("{place} {name}: {first}\n    {}", logs.display()));
        }
    }

    /// The totals, and what failed, where and why.
    pub fn results(&self) -> (Totals, Vec<String>) {
        let state = self.state.lock().expect("no holder of this lock panics");
        (state.totals, state.failures.clone())
    }

    /// Prints the failures again, then the totals; `true` if there were none.
    pub fn finish(&self) -> bool {
        let (totals, failures) = self.results();
        if !failures.is_empty() {
            println!("\nfailures:");
        }
        for failure in failures {
            println!("  {failure}");
        }
        println!("\n{totals}");
        totals.failed == 0
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Default for Report {
    fn default() -> Report {
        Report::new()
    }
}

/// Where the logs of scenario `name` at `place` go.
pub fn log_folder(logs: &Path, place: &str, name: &str) -> PathBuf {
    logs.join(place).join(name)
}
