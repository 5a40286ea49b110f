//! The checks that need no guest: formatting, lints, documentation, the packet filter's object,
//! unit, property and doc tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::protocol::Verdict;

use super::bpf;
use super::plan::Item;
use super::report::{Report, Totals};
use super::workspace::Workspace;

const PLACE: &str = "cargo";

/// Runs them all. Gives the tests that were left out because they need root or WireGuard; they
/// are not counted here.
pub fn run(workspace: &Workspace, all: &Path, report: &Report) -> Result<Vec<Item>> {
    let logs = folder(all)?;
    let checks: [(&str, &[&str]); 3] = [
        ("fmt", &["fmt", "--all", "--check"]),
        ("clippy", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"]),
        ("doc", &["doc", "--workspace", "--no-deps", "--document-private-items"]),
    ];
    for (name, arguments) in checks {
        let mut cargo = workspace.cargo();
        cargo.args(arguments).env("RUSTDOCFLAGS", "--deny warnings");
        let log = logs.join(format!("{name}.log"));
        let started = Instant::now();
        let verdict = match logged(&mut cargo, &log)? {
            (true, _) => Verdict::Passed,
            (false, text) => Verdict::Failed(tail(&text)),
        };
        report.record(PLACE, name, &verdict, started.elapsed().as_secs_f64(), &log);
    }
    object(workspace, &logs, report)?;
    tests(workspace, &[], all, report)
}

/// Runs the tests whose name contains one of these; all of them for no names. Gives those that were
/// left out.
pub fn tests(
    workspace: &Workspace,
    names: &[String],
    logs: &Path,
    report: &Report,
) -> Result<Vec<Item>> {
    let logs = folder(logs)?;
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast", "--"]).args(names);
    let log = logs.join("test.log");
    let started = Instant::now();
    let (success, text) = logged(&mut cargo, &log)?;
    let mut totals = count(&text);
    let left_out = left_out(&text, &workspace.root);
    totals.skipped = totals.skipped.saturating_sub(left_out.len());
    let failed: Vec<_> = text.lines().filter_map(failed_test).collect();
    let verdict = match (success, totals.failed) {
        (true, 0) if totals.passed > 0 => Verdict::Passed,
        (true, 0) if !names.is_empty() && !left_out.is_empty() => return Ok(left_out),
        (true, 0) if !names.is_empty() => {
            totals.failed += 1;
            Verdict::Failed(format!("no test's name contains {}", names.join(" or ")))
        }
        (false, 1..) => Verdict::Failed(format!("{} failed:\n{}", failed.len(), failed.join("\n"))),
        // It did not compile, or a test program died, or nothing was tested at all.
        _ => {
            totals.failed += 1;
            Verdict::Failed(tail(&text))
        }
    };
    report.group(PLACE, "test", &verdict, totals, started.elapsed().as_secs_f64(), &log);
    Ok(left_out)
}

fn folder(logs: &Path) -> Result<PathBuf> {
    let logs = logs.join(PLACE);
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    Ok(logs)
}

/// Verifies that the packet filter's committed object is what its sources give.
fn object(workspace: &Workspace, logs: &Path, report: &Report) -> Result<()> {
    let log = logs.join("bpf-object.log");
    let started = Instant::now();
    let checked = bpf::check(workspace, &|text| report.say(text));
    let verdict = checked.unwrap_or_else(|error| Verdict::Failed(format!("{error:#}")));
    let reason = match &verdict {
        Verdict::Passed => "",
        Verdict::Failed(reason) | Verdict::Skipped(reason) => reason,
    };
    fs::write(&log, reason).with_context(|| format!("cannot write {}", log.display()))?;
    report.record(PLACE, "bpf-object", &verdict, started.elapsed().as_secs_f64(), &log);
    Ok(())
}

/// Runs a command with its output in `log`; gives its success and that output.
fn logged(command: &mut Command, log: &Path) -> Result<(bool, String)> {
    let file = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
    let errors = file.try_clone().context("cannot share a log")?;
    let status = command.stdout(file).stderr(errors).status().context("cannot start cargo")?;
    let bytes = fs::read(log).with_context(|| format!("cannot read {}", log.display()))?;
    Ok((status.success(), String::from_utf8_lossy(&bytes).into_owned()))
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// Adds up the `test result:` lines of the test programs.
fn count(text: &str) -> Totals {
    let mut totals = Totals::default();
    for line in text.lines().filter_map(|line| line.trim().strip_prefix("test result: ")) {
        let line = line.split_once(". ").map_or(line, |(_, counts)| counts);
        for part in line.split(';') {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|word| word.parse::<usize>().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => totals.passed += number,
                Some("failed") => totals.failed += number,
                Some("ignored") => totals.skipped += number,
                _ => {}
            }
        }
    }
    totals
}

/// The tests that say they need root, from `Running ... (PROGRAM)` and `test NAME ... ignored,
/// REASON` lines.
fn left_out(text: &str, root: &Path) -> Vec<Item> {
    let mut program = None;
    let mut items = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with("Running ") {
            let path = line.rsplit_once(" (").and_then(|(_, rest)| rest.strip_suffix(')'));
            program = path.map(|path| root.join(path));
        } else if line.starts_with("Doc-tests ") {
            program = None;
        } else if let (Some(program), Some(rest)) = (&program, line.strip_prefix("test "))
            && let Some((name, reason)) = rest.split_once(" ... ignored, ")
        {
            items.extend(Item::of_test(program, name, reason));
        }
    }
    items
}

/// The name in a `test NAME ... FAILED` line.
fn failed_test(line: &str) -> Option<&str> {
    line.trim().strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
     Running unittests src/lib.rs (target/debug/deps/wgrouted-1)
running 3 tests
test core::a ... ok
test core::b ... FAILED
test core::c ... ignored, needs root: see the top
test core::d ... ignored, measures
test result: FAILED. 1 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
   Doc-tests wgrouted
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.00s
";

    #[test]
    fn counts_of_all_test_programs() {
        assert_eq!(count(TEXT), Totals { passed: 13, failed: 1, skipped: 2 });
        assert_eq!(TEXT.lines().filter_map(failed_test).collect::<Vec<_>>(), ["core::b"]);
        assert_eq!(count("error: could not compile"), Totals::default());
    }

    #[test]
    fn tests_for_a_guest() {
        let items = left_out(TEXT, Path::new("/project"));
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].task.name, "wgrouted::core::c");
        let test = items[0].task.test.as_ref().expect("it is a test");
        assert_eq!(test.program, Path::new("/project/target/debug/deps/wgrouted-1"));
        assert_eq!(test.name, "core::c");
    }
}
