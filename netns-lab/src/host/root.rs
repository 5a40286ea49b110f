//! Private roots: packages unpacked side by side, never installed.
//!
//! No maintainer script runs. A root is either complete or absent (it is built under another name
//! and renamed), and is rebuilt only when the packages it comes to, or the recipe, change.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::apt::Apt;

/// Counts changes of how roots are made from packages.
const REVISION: u32 = 3;
/// The file in a root's folder that says what it was made from.
const MANIFEST: &str = "manifest";

/// What a root is made of.
#[derive(Debug)]
pub struct Recipe<'a> {
    /// The root's name in the cache.
    pub name: &'static str,
    /// The packages asked for.
    pub packages: &'static [&'static str],
    /// The suite they come from.
    pub suite: String,
    /// Other roots, of which `finish` puts files into this one.
    pub parts: &'a [Root],
}

/// A folder that holds a root in `root/` and things made from it beside.
#[derive(Clone, Debug)]
pub struct Root {
    dir: PathBuf,
}

impl Root {
    /// Finds the root in `cache`, or makes it. `finish` completes a new root (images, caches)
    /// before it becomes visible.
    pub fn obtain(
        cache: &Path,
        recipe: &Recipe<'_>,
        apt: &Apt,
        say: &dyn Fn(&str),
        finish: impl FnOnce(&Root) -> Result<()>,
    ) -> Result<Root> {
        let root = Root { dir: cache.join(recipe.name) };
        let mut asked = format!("{REVISION} {} {}\n", recipe.suite, recipe.packages.join(" "));
        asked.extend(recipe.parts.iter().map(Root::manifest));
        let manifest = root.manifest();
        if apt.is_fresh() && manifest.starts_with(&asked) {
            return Ok(root);
        }
        let packages = apt.resolve(recipe.packages, &recipe.suite)?;
        let wanted = packages.iter().fold(asked, |text, package| format!("{text}{package}\n"));
        if manifest == wanted {
            return Ok(root);
        }
        say(&format!("{}: unpacking {} packages of {}", recipe.name, packages.len(), recipe.suite));
        let new = Root { dir: cache.join(format!("{}.new", recipe.name)) };
        remove(&new.dir)?;
        new.unpack(&apt.fetch(recipe.packages, &recipe.suite, &packages)?)?;
        apt.clean()?;
        finish(&new)?;
        fs::write(new.dir.join(MANIFEST), wanted).context("cannot write a manifest")?;
        remove(&root.dir)?;
        fs::rename(&new.dir, &root.dir).context("cannot put a root in its place")?;
        Ok(root)
    }

    /// What it was made from; empty if it is not there.
    fn manifest(&self) -> String {
        fs::read_to_string(self.dir.join(MANIFEST)).unwrap_or_default()
    }

    /// Its name in the cache.
    pub fn name(&self) -> &str {
        self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default()
    }

    /// The root itself.
    pub fn path(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// A file beside the root, made by `finish`.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A command of this root, run on the host with the root's own loader and libraries.
    pub fn command(&self, program: &str) -> Command {
        self.applet(program, program.rsplit('/').next().unwrap_or(program))
    }

    /// A command of this root that goes by the name it is called by.
    pub fn applet(&self, program: &str, name: &str) -> Command {
        let root = self.path();
        let mut command = Command::new(root.join("lib64/ld-linux-x86-64.so.2"));
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        command.arg("--library-path").arg(libraries).args(["--argv0", name]);
        command.arg(root.join(program));
        command
    }

    /// Packs `folder` into a squashfs image with this root's mksquashfs. Stored, not compressed:
    /// an emulated CPU decompresses slowly, and the host's page cache does not care.
    pub fn squash(&self, folder: &Path, image: &Path) -> Result<()> {
        let mut command = self.command("usr/bin/mksquashfs");
        command.arg(folder).arg(image);
        command.args(["-noappend", "-quiet", "-no-progress", "-all-root", "-no-xattrs"]);
        check(command.args(["-noI", "-noD", "-noF", "-noX"])).map(drop)
    }

    fn unpack(&self, files: &[PathBuf]) -> Result<()> {
        let root = self.path();
        for folder in ["bin", "sbin", "lib", "lib64"] {
            fs::create_dir_all(root.join("usr").join(folder)).context("cannot make a root")?;
            symlink(Path::new("usr").join(folder), root.join(folder)).context("cannot link")?;
        }
        files.iter().try_for_each(|file| unpack(file, &root))
    }
}

/// Unpacks one package into `folder`, through links such as `/lib`.
pub fn unpack(package: &Path, folder: &Path) -> Result<()> {
    let mut reader = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(package)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let archive = reader.stdout.take().context("dpkg-deb without standard output")?;
    let tar = Command::new("tar")
        .args(["--extract", "--keep-directory-symlink", "--no-same-owner", "--directory"])
        .arg(folder)
        // Nobody reads them here, and they are a third of it all.
        .args(["--exclude=./usr/share/doc/*", "--exclude=./usr/share/man/*"])
        .args(["--exclude=./usr/share/locale/*", "--exclude=./usr/share/info/*"])
        .stdin(archive)
        .status()
        .context("cannot start tar")?;
    let read = reader.wait().context("cannot wait for dpkg-deb")?;
    ensure!(tar.success() && read.success(), "cannot unpack {}", package.display());
    Ok(())
}

/// Removes a folder tree that may not be there.
pub fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Runs a command for its standard output; an unsuccessful end is an error.
pub fn check(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output.stdout)
}
