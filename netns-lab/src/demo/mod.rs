//! `cargo lab demo`: the show for somebody who never saw the project.
//!
//! It runs inside the guest (or a private namespace of the host) like a scenario, but writes to
//! the user's terminal directly. Whatever it claims it has measured: a claim that does not hold
//! is an error.

mod full;
mod screen;
mod triangle;

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use self::screen::Screen;
use crate::lab::Lab;

/// The options of `cargo lab demo`.
#[derive(Clone, Debug, Default, clap::Args, Serialize, Deserialize)]
pub struct Options {
    /// Announce the prefixes of this file (one a line, gzip too) instead of generated ones
    #[arg(long, value_name = "FILE")]
    pub prefixes: Option<PathBuf>,
    /// Whether the user's end is a terminal; filled in by the command itself.
    #[arg(skip)]
    pub terminal: bool,
}

/// A line of the closing table.
type Row = (&'static str, String);

/// Runs the demo on an empty lab; `lab` has the prefix file at its path in the guest.
pub fn run(lab: &mut Lab, options: &Options) -> Result<()> {
    let mut screen = Screen::new(options.terminal);
    let (triangle, mut rows) = triangle::run(lab, &mut screen)?;
    rows.extend(full::run(lab, &mut screen, &triangle)?);
    screen.step("What happened");
    screen.table(&rows);
    Ok(())
}
