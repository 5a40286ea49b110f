//! The core is pure: no I/O, no clock, no log, no randomness, no threads, no async.
//!
//! Here lives a look at the text of `src/core`. It knows nothing of Rust but comments, which it
//! skips; what it forbids is spelled the way everybody spells it.

use std::{fs, path::Path};

/// What must not occur, and why.
const FORBIDDEN: &[(&str, &str)] = &[
    ("std::fs", "the core does no I/O"),
    ("std::io", "the core does no I/O"),
    ("std::os", "the core does no I/O"),
    ("std::env", "the core is told what it needs to know"),
    ("std::process", "the core starts and ends nothing"),
    ("std::thread", "the core has no threads"),
    ("thread::", "the core has no threads"),
    ("thread_local!", "the core has no hidden state"),
    ("static mut", "the core has no hidden state"),
    ("std::sync::mpsc", "the core has no channels"),
    ("Mutex", "the core has no locks"),
    ("RwLock", "the core has no locks"),
    ("Atomic", "the core shares nothing"),
    ("TcpStream", "the core has no sockets"),
    ("TcpListener", "the core has no sockets"),
    ("UdpSocket", "the core has no sockets"),
    ("UnixStream", "the core has no sockets"),
    ("ToSocketAddrs", "the core resolves no names"),
    ("Instant", "time is an argument of type `Time`"),
    ("SystemTime", "time is an argument of type `Time`"),
    ("tokio", "the core does not wait"),
    ("async ", "the core does not wait"),
    (".await", "the core does not wait"),
    ("tracing", "the core tells by `Notice`s and counters"),
    ("println!", "the core tells by `Notice`s and counters"),
    ("print!", "the core tells by `Notice`s and counters"),
    ("dbg!", "the core tells by `Notice`s and counters"),
    ("rand::", "the core draws no random numbers"),
    ("getrandom", "the core draws no random numbers"),
    ("libc", "the core makes no system calls"),
    ("unsafe", "the core needs no promises"),
    ("netlink_", "messages are the edge's business"),
];

/// The only modules of this crate that the core may use are its own.
const OWN: &str = "core";

fn check(path: &Path, faults: &mut Vec<String>) -> usize {
    let text = fs::read_to_string(path).expect("a source file can be read");
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        let mut fault = |what: &str, why: &str| {
            faults.push(format!("{}:{}: `{what}`: {why}", path.display(), number + 1));
        };
        for (what, why) in FORBIDDEN.iter().filter(|(what, _)| code.contains(what)) {
            fault(what, why);
        }
        for used in code.split("crate::").skip(1) {
            let module =
                used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("");
            if module != OWN {
                fault(&format!("crate::{module}"), "the core uses nothing but itself");
            }
        }
    }
    text.lines().count()
}

#[test]
fn the_core_is_pure() {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/core");
    let (mut faults, mut files, mut lines) = (Vec::new(), 0, 0);
    let mut folders = vec![core.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                lines += check(&path, &mut faults);
                files += 1;
            }
        }
    }
    assert!(files > 10 && lines > 1000, "{} is not the core", core.display());
    assert!(faults.is_empty(), "the core is not pure:\n{}", faults.join("\n"));
}

#[test]
fn the_look_finds_what_it_looks_for() {
    let path = std::env::temp_dir().join(format!("wgrouted-purity-{}.rs", std::process::id()));
    let text = "use std::time::Instant; // Instant in a comment\n\
                // tokio in a comment only\n\
                use crate::{core, target::Target};\n\
                use crate::source::x;\n";
    fs::write(&path, text).unwrap();
    let mut faults = Vec::new();
    check(&path, &mut faults);
    fs::remove_file(&path).unwrap();
    let found: Vec<_> = faults.iter().filter_map(|fault| fault.split('`').nth(1)).collect();
    assert_eq!(found, ["Instant", "crate::", "crate::source"]);
}
