//! The BIRDs that the examples run on: Debian's 2.0 and 3, whatever Debian the host itself runs.
//!
//! Each comes from its own suite with the libraries of that suite, and lies in the guest as
//! `/opt/NAME/bird` and `/opt/NAME/birdc`. The guest's own packages stay those of the host.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::apt::Apt;
use super::root::{self, Recipe, Root};

/// Package and suite of each.
const BIRDS: [(&str, &[&str], &str); 2] =
    [("bird2", &["bird2"], "bookworm"), ("bird3", &["bird3"], "trixie")];
/// Where Debian's programs find their libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";

/// Both, unpacked beside the other roots of the cache.
pub fn obtain(cache: &Path, apt: &Apt, say: &dyn Fn(&str)) -> Result<Vec<Root>> {
    let obtain = |(name, packages, suite): (&'static str, _, &str)| {
        let recipe = Recipe { name, packages, suite: suite.to_owned(), parts: &[] };
        Root::obtain(cache, &recipe, apt, say, |_| Ok(()))
    };
    BIRDS.into_iter().map(obtain).collect()
}

/// Puts them into the guest's root.
pub fn install(birds: &[Root], guest: &Path) -> Result<()> {
    birds.iter().try_for_each(|bird| install_one(bird, guest))
}

fn install_one(bird: &Root, guest: &Path) -> Result<()> {
    let home = Path::new("/opt").join(bird.name());
    let folder = guest.join("opt").join(bird.name());
    let library = folder.join("lib");
    fs::create_dir_all(&library).with_context(|| format!("cannot make {}", library.display()))?;
    let mut copy = Command::new("cp");
    copy.args(["--no-dereference", "--target-directory"]).arg(&library);
    let libraries = bird.path().join(LIBRARIES);
    for entry in fs::read_dir(&libraries).context("a BIRD without libraries")? {
        let path = entry?.path();
        let shared = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"));
        // A folder of that kind would be the plugins of some other package.
        if shared && !path.is_dir() {
            copy.arg(path);
        }
    }
    root::check(&mut copy)?;
    for program in ["bird", "birdc"] {
        let to = folder.join(format!("{program}.real"));
        fs::copy(bird.path().join("usr/sbin").join(program), &to)
            .with_context(|| format!("cannot copy {program} to {}", to.display()))?;
        let (file, home) = (folder.join(program), home.display());
        let script = format!(
            "#!/bin/sh\nexec {home}/lib/ld-linux-x86-64.so.2 --library-path {home}/lib \
             --argv0 {program} {home}/{program}.real \"$@\"\n"
        );
        fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("cannot open {} to be run", file.display()))?;
    }
    Ok(())
}
