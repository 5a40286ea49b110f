//! Arguments of commands that are about the machine: what is wrong with it, what was left on it.

use clap::Args;

use super::Selection;

/// Arguments of `cleanup`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// What to clean up after.
    #[command(flatten)]
    pub selection: Selection,
    /// Show what would be removed, and remove nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `doctor`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Doctor {
    /// What to look at.
    #[command(flatten)]
    pub selection: Selection,
    /// Show what is right too, and commands for what is merely worth knowing
    #[arg(short, long)]
    pub verbose: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}
