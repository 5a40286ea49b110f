//! The other end of `sd_notify(3)`.
//!
//! Here lives a socket that stands in for systemd's. It only remembers what was said, and when.
//! Invariant: it is always being read, for a sender would block as soon as ten messages wait.

use std::{
    fs,
    io::ErrorKind,
    net::Shutdown,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context, Result};

/// A notification socket.
#[derive(Debug)]
pub(super) struct Notify {
    path: PathBuf,
    socket: Arc<UnixDatagram>,
    lines: Arc<Mutex<Vec<Line>>>,
}

/// What was said, and when it was heard.
type Line = (Instant, String);

impl Notify {
    /// Binds a socket at `path`.
    pub(super) fn new(path: &Path) -> Result<Notify> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| path.display().to_string());
            }
            _ => {}
        }
        let socket = UnixDatagram::bind(path).with_context(|| path.display().to_string())?;
        let (socket, lines) = (Arc::new(socket), Arc::default());
        let notify = Notify { path: path.to_owned(), socket, lines };
        let (socket, lines) = (notify.socket.clone(), notify.lines.clone());
        thread::spawn(move || read(&socket, &lines));
        Ok(notify)
    }

    /// The value of `NOTIFY_SOCKET`.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Forgets what was said.
    pub(super) fn forget(&self) {
        self.lines().clear();
    }

    /// Whether this line was said since the last [`Notify::forget`].
    pub(super) fn said(&self, line: &str) -> bool {
        self.lines().iter().any(|(_, said)| said == line)
    }

    /// All that was said since the last [`Notify::forget`].
    pub(super) fn heard(&self) -> Vec<Line> {
        self.lines().clone()
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Line>> {
        // A list of lines is whole whatever happened to who held it.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(socket: &UnixDatagram, lines: &Mutex<Vec<Line>>) {
    let mut buffer = [0; 4096];
    // After a shutdown a read returns zero, which no notification does.
    while let Ok(length @ 1..) = socket.recv(&mut buffer) {
        let now = Instant::now();
        let text = String::from_utf8_lossy(&buffer[..length]);
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.extend(text.lines().map(|line| (now, line.to_owned())));
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        // Ends the reader; it cannot fail on a socket that is open.
        drop(self.socket.shutdown(Shutdown::Both));
    }
}
