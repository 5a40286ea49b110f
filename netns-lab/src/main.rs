//! The `netns-lab` command: hands over to [`netns_lab::cli`] and turns its verdict into an exit
//! code.
//!
//! Nothing else lives here.

use std::process::ExitCode;

fn main() -> ExitCode {
    netns_lab::cli::main()
}
