//! What the demo writes, and how.
//!
//! Here live headings, extracts of commands' output and the progress display. Invariant: without
//! a terminal nothing but whole plain lines is written.

use std::{
    cell::Cell,
    fmt::Display,
    io::{self, Write},
    time::{Duration, Instant},
};

/// Between two plain progress lines.
const PLAIN_PROGRESS: Duration = Duration::from_secs(10);
/// Characters of a progress bar.
const BAR: usize = 30;

/// The user's end.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    step: u32,
    told: Option<Instant>,
    /// Whether the last line was empty.
    blank: Cell<bool>,
}

impl Screen {
    pub(super) fn new(terminal: bool) -> Screen {
        Screen { terminal, step: 0, told: None, blank: Cell::new(false) }
    }

    /// Begins the next step.
    pub(super) fn step(&mut self, title: &str) {
        self.step += 1;
        self.gap();
        self.line(self.paint(BOLD, format_args!("{}. {title}", self.step)));
    }

    /// Says something in plain words.
    pub(super) fn say(&self, text: impl Display) {
        self.line(text);
    }

    /// Shows a command on a node and the lines of its output that matter.
    pub(super) fn command(&self, node: &str, command: &str, output: &str) {
        self.gap();
        self.line(self.paint(CYAN, format_args!("   {node}# {command}")));
        for line in output.lines() {
            self.line(format_args!("   {line}"));
        }
        self.gap();
    }

    /// Says that something was achieved.
    pub(super) fn good(&self, text: impl Display) {
        self.line(self.paint(GREEN, format_args!("=> {text}")));
    }

    /// Shows how far something is: in place on a terminal, else a line now and then.
    pub(super) fn progress(&mut self, done: u64, all: u64, text: impl Display) {
        let done = done.min(all);
        if !self.terminal {
            if self.told.is_none_or(|told| told.elapsed() >= PLAIN_PROGRESS) {
                self.told = Some(Instant::now());
                self.line(format_args!("   {:3} %  {text}", done * 100 / all.max(1)));
            }
            return;
        }
        let filled = usize::try_from(done * BAR as u64 / all.max(1)).unwrap_or(BAR);
        let bar = "#".repeat(filled) + &".".repeat(BAR - filled);
        print!("\r\x1b[K   [{bar}] {text}");
        flush();
    }

    /// Ends a progress display.
    pub(super) fn progress_done(&mut self) {
        self.told = None;
        if self.terminal {
            print!("\r\x1b[K");
            flush();
        }
    }

    /// Prints a table of two columns.
    pub(super) fn table(&self, rows: &[(&str, String)]) {
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        for (name, value) in rows {
            self.line(format_args!("   {name:<width$}   {}", self.paint(BOLD, value)));
        }
    }

    fn line(&self, text: impl Display) {
        println!("{text}");
        self.blank.set(false);
    }

    /// An empty line, unless there is one.
    fn gap(&self) {
        if !self.blank.replace(true) {
            println!();
        }
    }

    fn paint(&self, colour: &str, text: impl Display) -> String {
        if self.terminal { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Select Graphic Rendition (ECMA-48, section 8.3.117).
const BOLD: &str = "1";
const GREEN: &str = "32";
const CYAN: &str = "36";

fn flush() {
    // A reader that has gone away is noticed by the next line.
    drop(io::stdout().flush());
}

/// A number as people write it: 1,062,046.
pub(super) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_062_046), "1,062,046");
    }
}
