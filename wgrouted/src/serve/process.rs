//! What the daemon's own process takes.
//!
//! Here lives [`Process`], read from `/proc/self` (proc_pid_stat(5)). What cannot be read is absent:
//! nobody fails for want of a figure.

use std::fs;

/// What a process takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Process {
    /// Time on processors, of all threads.
    pub(super) cpu_seconds: f64,
    /// Bytes in memory.
    pub(super) resident_bytes: u64,
    /// Bytes of address space.
    pub(super) virtual_bytes: u64,
    /// Its start, since the Unix epoch.
    pub(super) start_seconds: Option<f64>,
    /// Open files.
    pub(super) open_files: Option<usize>,
}

impl Process {
    /// This process, now.
    pub(super) fn read() -> Option<Process> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // The second field, in parentheses, may hold anything; the rest is numbers, from field 3 on.
        let (_, fields) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        let started = field(22)? as f64 / ticks;
        Some(Process {
            cpu_seconds: (field(14)? + field(15)?) as f64 / ticks,
            virtual_bytes: field(23)?,
            resident_bytes: field(24)? * rustix::param::page_size() as u64,
            start_seconds: boot_seconds().map(|boot| boot + started),
            open_files: fs::read_dir("/proc/self/fd").ok().map(Iterator::count),
        })
    }
}

/// When the machine was started, since the Unix epoch.
fn boot_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 100_000 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_files.unwrap() > 2);
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        let age = now - process.start_seconds.unwrap();
        assert!((-2.0..3600.0).contains(&age), "started {age} s ago");
    }
}
