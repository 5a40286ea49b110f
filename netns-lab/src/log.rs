//! Where a scenario's progress lines go.
//!
//! A [`Log`] is cheap to clone and safe to use from several threads, so that a watcher thread (a
//! ping train, a daemon's standard error) can write beside the scenario itself. It carries whole
//! lines only; it never decides what is worth logging.

use std::fmt;
use std::sync::Arc;

/// A sink for progress lines.
#[derive(Clone)]
pub struct Log(Arc<dyn Fn(&str) + Send + Sync>);

impl Log {
    /// A log that hands every line, without its newline, to `sink`.
    pub fn new(sink: impl Fn(&str) + Send + Sync + 'static) -> Log {
        Log(Arc::new(sink))
    }

    /// A log that prints to standard output.
    pub fn stdout() -> Log {
        Log::new(|line| println!("{line}"))
    }

    /// Writes `text`, line by line.
    pub fn line(&self, text: impl AsRef<str>) {
        for line in text.as_ref().lines() {
            (self.0)(line);
        }
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}
