//! What the kernel announces of routes, as `ip` prints it.

use std::{
    io::Read,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use crate::eventually;

/// `ip monitor route`.
pub struct Monitor(Child);

impl Monitor {
    pub fn start() -> Monitor {
        let mut command = Command::new("ip");
        let child =
            command.args(["-N", "monitor", "route"]).stdout(Stdio::piped()).spawn().unwrap();
        // It listens once it has its socket.
        let sockets = |pid: u32| {
            let links = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
            links
                .filter(|link| {
                    let target =
                        std::fs::read_link(link.as_ref().unwrap().path()).unwrap_or_default();
                    target.to_string_lossy().starts_with("socket:")
                })
                .count()
        };
        eventually("a monitor", || sockets(child.id()) > 0);
        thread::sleep(Duration::from_millis(200));
        Monitor(child)
    }

    pub fn stop(&mut self) -> Vec<String> {
        thread::sleep(Duration::from_millis(200));
        self.0.kill().unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().map(words).collect()
    }
}
