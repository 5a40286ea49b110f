//! A command that is told of a change.
//!
//! Here lives its run: no shell, the change in its environment and on its standard input, a bounded
//! time. What it prints is not kept, but for the first line of its standard error when it fails.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::{ChildStderr, Command},
    time::timeout,
};

/// More of what it complains is not read.
const COMPLAINT: u64 = 4096;

/// How long its standard error may stay open after its end.
const RATTLE: Duration = Duration::from_secs(1);

/// A process group that dies with this.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // It may have ended by itself.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Runs it to its end, and ends what it leaves behind.
pub(super) async fn run(
    command: &[String],
    environment: &[(&'static str, String)],
    input: &[u8],
    most: Duration,
) -> Result<(), String> {
    let Some((program, args)) = command.split_first() else { return Ok(()) };
    let mut child = Command::new(program)
        .args(args)
        // The service manager's socket is the daemon's.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_PID")
        .env_remove("WATCHDOG_USEC")
        .envs(environment.iter().map(|(name, value)| (*name, value)))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("hook command {program} cannot be run: {error}"))?;
    let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let complaint = child.stderr.take().map(|stderr| tokio::spawn(first_line(stderr)));
    let ended = timeout(most, async {
        if let Some(mut stdin) = child.stdin.take() {
            // It need not read.
            let _ = stdin.write_all(input).await;
        }
        child.wait().await
    })
    .await;
    drop(group);
    let status = match ended {
        Ok(Ok(status)) => status,
        Ok(Err(error)) => return Err(format!("hook command {program} is lost: {error}")),
        Err(_) => {
            return Err(format!(
                "hook command {program} took longer than {} and was killed: make it faster, or \
                 raise `timeout` of its [[reach.hook]]",
                humantime::format_duration(most)
            ));
        }
    };
    if status.success() {
        return Ok(());
    }
    let complaint = match complaint {
        Some(task) => timeout(RATTLE, task).await.ok().and_then(Result::ok).unwrap_or_default(),
        None => String::new(),
    };
    let complaint = if complaint.is_empty() { "it said nothing" } else { &complaint };
    Err(format!("hook command {program} failed ({status}): {complaint}"))
}

/// Reads all, for a pipe that nobody empties would stop the writer.
async fn first_line(mut stderr: ChildStderr) -> String {
    let mut text = Vec::new();
    let _ = (&mut stderr).take(COMPLAINT).read_to_end(&mut text).await;
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or_default().escape_debug().to_string()
}
