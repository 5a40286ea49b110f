//! `wgrouted doctor` as anybody may run it: without privileges, without a daemon, with and without a
//! configuration. What it finds as root is the lab's business.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

/// Runs it without any capability.
fn doctor(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_wgrouted");
    // SAFETY: the call has no arguments and cannot fail.
    let mut command = match unsafe { libc::geteuid() } {
        0 => {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set", "-all", "--inh-caps", "-all", program]);
            command
        }
        _ => Command::new(program),
    };
    command.arg("doctor").args(args).output().unwrap()
}

fn report(output: &Output) -> Value {
    let text = str::from_utf8(&output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "one object: {text}");
    serde_json::from_str(text).unwrap()
}

fn finding<'a>(report: &'a Value, check: &str) -> &'a Value {
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["check"] == check);
    found.unwrap_or_else(|| panic!("nothing about {check}: {report}"))
}

fn file(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("wgrouted-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

fn look(path: &Path) -> Output {
    doctor(&["--json", "--config", path.to_str().unwrap(), "--runtime-dir", "/nowhere"])
}

#[test]
fn without_privileges_it_says_what_it_could_not_look_at() {
    let output = doctor(&["--json", "--interface", "wg0", "--runtime-dir", "/nowhere"]);
    let report = report(&output);
    let failures = report["count"]["failures"].as_u64().unwrap();
    // A kernel without WireGuard is a failure, on whichever machine this is.
    assert_eq!(output.status.code(), Some(i32::from(failures > 0)), "{report}");
    for check in ["cap-net-admin", "nexthop-objects", "rules-by-user"] {
        let finding = finding(&report, check);
        assert_eq!(finding["level"], "not-checked", "{finding}");
        assert!(finding["found"].as_str().unwrap().contains("run"), "no remedy: {finding}");
    }
    for check in ["release", "daemon", "foreign-rules", "clock"] {
        assert_ne!(finding(&report, check)["level"], "not-checked", "{check}");
    }
}

#[test]
fn a_wrong_configuration_is_a_failure_and_the_rest_is_looked_at() {
    let path =
        file("wrong.toml", "[[interface]]\nname = \"wg0\"\nlink = \"none\"\n[daemon]\nlog = 7\n");
    let output = look(&path);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let report = report(&output);
    let findings = report["findings"].as_array().unwrap();
    let errors: Vec<_> = findings.iter().filter(|f| f["check"] == "configuration").collect();
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors.iter().all(|error| error["level"] == "failure"));
    assert!(errors[0]["found"].as_str().unwrap().contains("wrong.toml:3"), "{errors:?}");
    finding(&report, "release");

    let missing = look(Path::new("/nowhere.toml"));
    assert_eq!(missing.status.code(), Some(1), "it was asked for");
    let missing = self::report(&missing);
    let missing = finding(&missing, "configuration")["found"].as_str().unwrap();
    assert!(missing.contains("/nowhere.toml"), "{missing}");
}

#[test]
fn a_right_configuration_is_called_right() {
    let path = file("right.toml", "[[interface]]\nname = \"wg0\"\n");
    let report = report(&look(&path));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(finding(&report, "configuration")["level"], "ok");
}

#[test]
fn people_get_the_count_at_the_end() {
    let output = doctor(&["--interface", "wg0", "--verbose", "--runtime-dir", "/nowhere"]);
    let text = str::from_utf8(&output.stdout).unwrap();
    let last = text.lines().last().unwrap();
    for word in [" ok, ", " warning", " failure", " not checked"] {
        assert!(last.contains(word), "{last}");
    }
    assert!(text.contains("\nkernel\n  ok    Linux "), "{text}");
}
