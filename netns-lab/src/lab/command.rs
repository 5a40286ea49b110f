//! Running a command to its end.
//!
//! Here lives the one way in which the lab calls other programs. Invariant: a failure names the
//! command line, where it ran, its exit code and what it wrote to standard error.

use std::{
    ffi::OsStr,
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    os::fd::{FromRawFd, OwnedFd, RawFd},
    os::unix::process::CommandExt,
    process::{Command, Output, Stdio},
    thread,
};

use anyhow::{Context, Result, ensure};

/// How much of a failed command's output an error repeats.
const EXCERPT: usize = 2000;

/// A command line as a person would type it.
pub(super) fn line(command: &Command) -> String {
    let quote = |word: &OsStr| {
        let word = word.to_string_lossy();
        let plain = !word.is_empty() && !word.contains([' ', '"', '\'', '\n', '|', ';', '*']);
        if plain { word.into_owned() } else { format!("{word:?}") }
    };
    let mut words = vec![quote(command.get_program())];
    words.extend(command.get_args().map(quote));
    words.join(" ")
}

/// Makes the command run in the network namespace that `netns` stands for, and die with the lab.
///
/// `ip netns exec` would do the first part too, but also remount /sys, at the price of another
/// process for each command.
pub(super) fn enter(command: &mut Command, netns: RawFd) {
    let die_with_parent = move || {
        // SAFETY: both calls are plain system calls with integer arguments, allowed between fork
        // and exec.
        let failed = unsafe {
            libc::setns(netns, libc::CLONE_NEWNET) != 0
                || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
        };
        if failed { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure only makes async-signal-safe system calls and allocates nothing.
    unsafe { command.pre_exec(die_with_parent) };
}

/// Runs the command and returns its standard output; anything but exit code 0 is an error.
pub(super) fn run(command: &mut Command, place: &str, input: Option<&[u8]>) -> Result<String> {
    let output = output(command, place, input)?;
    check(command, place, &output)?;
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` in {place} wrote something that is not text", line(command)))
}

/// Anything but exit code 0 is an error.
fn check(command: &Command, place: &str, output: &Output) -> Result<()> {
    let Output { status, stdout, stderr } = output;
    let said = || excerpt(stderr, stdout);
    ensure!(status.success(), "`{}` in {place}: {status}: {}", line(command), said());
    Ok(())
}

/// Like [`run`], for output of many lines. It goes through a file: a program that writes each line
/// by itself, as `ip` does, would wake the reader of a pipe for each.
pub(super) fn run_long(command: &mut Command, place: &str) -> Result<String> {
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"output".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("a file for output");
    }
    // SAFETY: the descriptor was just opened and belongs to nobody else.
    let mut file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let describe = line(command);
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(Stdio::piped());
    let output = command.output().with_context(|| format!("`{describe}` in {place}"))?;
    check(command, place, &output)?;
    let mut text = String::new();
    file.rewind()?;
    file.read_to_string(&mut text).with_context(|| format!("`{describe}` in {place}"))?;
    Ok(text)
}

/// Runs the command and returns everything it left; only a failure to run it at all is an error.
pub(super) fn output(command: &mut Command, place: &str, input: Option<&[u8]>) -> Result<Output> {
    let describe = line(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.spawn().with_context(|| format!("`{describe}` in {place}"))?;
    let stdin = child.stdin.take();
    thread::scope(|scope| {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A command that dies early closes the pipe; its exit code then says more than EPIPE.
            scope.spawn(move || drop(stdin.write_all(input)));
        }
        child.wait_with_output()
    })
    .with_context(|| format!("`{describe}` in {place}"))
}

/// What a failed command said, standard error first, cut to a readable length.
fn excerpt(stderr: &[u8], stdout: &[u8]) -> String {
    let text = if stderr.trim_ascii().is_empty() { stdout } else { stderr };
    let text = String::from_utf8_lossy(text.trim_ascii());
    match text.char_indices().nth(EXCERPT) {
        None => text.into_owned(),
        Some((end, _)) => format!("{} [...]", &text[..end]),
    }
}
