//! The project's own folders and binaries, as seen from the host.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Where things are.
#[derive(Debug)]
pub struct Workspace {
    /// The root of the source tree.
    pub root: PathBuf,
    /// All that the lab downloads, builds and logs.
    pub cache: PathBuf,
    binaries: PathBuf,
}

impl Workspace {
    /// Finds the workspace this program was built in. `WGROUTED_LAB_CACHE` moves the cache out of
    /// the build folder, to share it or to keep it from `cargo clean`.
    pub fn find() -> Result<Workspace> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no workspace")?;
        let program = env::current_exe().context("cannot tell where this program lies")?;
        let binaries = program.parent().context("this program lies in no folder")?;
        let target = binaries.parent().context("this program lies in no build folder")?;
        let cache = env::var_os("WGROUTED_LAB_CACHE").map_or(target.join("lab"), PathBuf::from);
        Ok(Workspace { root: root.to_owned(), cache, binaries: binaries.to_owned() })
    }

    /// A cargo command at the root.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
        command.current_dir(&self.root);
        // `cargo run` describes this package in the environment; to another cargo it is noise.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_")) {
                command.env_remove(name);
            }
        }
        command
    }

    /// This program.
    pub fn netns_lab(&self) -> PathBuf {
        self.binaries.join("netns-lab")
    }

    /// Builds the daemon and gives its path.
    pub fn wgrouted(&self) -> Result<PathBuf> {
        let mut build = self.cargo();
        let status =
            build.args(["build", "--quiet", "--release", "--package", "wgrouted"]).status();
        ensure!(status.context("cannot start cargo")?.success(), "wgrouted does not build");
        Ok(self.binaries.join("wgrouted"))
    }
}
