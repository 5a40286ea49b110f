//! A fresh network namespace for one test.
//!
//! The kernel moves only the calling thread (unshare(2)); the test harness runs each test in a
//! thread of its own, and threads and commands started from it inherit its namespace.

use std::{fs, io, process::Command};

/// Moves the calling thread into a fresh network namespace with the loopback device up. Where
/// that is not permitted it says that the test is skipped and returns `false`.
#[must_use]
pub fn fresh() -> bool {
    // SAFETY: no pointers are passed.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        println!("SKIPPED: cannot create a network namespace: {}", io::Error::last_os_error());
        return false;
    }
    ip("link set lo up");
    true
}

/// Runs `ip ARGS` and panics unless it succeeds.
pub fn ip(args: &str) -> String {
    try_ip(args).unwrap_or_else(|error| panic!("ip {args}: {error}"))
}

/// Runs `ip ARGS`; returns its output, or its complaint.
pub fn try_ip(args: &str) -> Result<String, String> {
    let output = Command::new("ip").args(args.split_whitespace()).output().expect("iproute2");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
}

/// Sets a sysctl of this namespace, named by its path below `/proc/sys`.
pub fn sysctl(path: &str, value: &str) {
    // /proc/sys shows the namespace of the thread that opens it.
    fs::write(format!("/proc/sys/{path}"), value).unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// A link's number.
pub fn index(name: &str) -> u32 {
    let name = std::ffi::CString::new(name).unwrap();
    // SAFETY: the string ends with a zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index != 0, "no link {name:?}");
    index
}
