//! Where what is in the kernel is found again: the directory of pins.
//!
//! Here live names and their order; what the pins stand for is known elsewhere.
//!
//! ```text
//! /sys/fs/bpf/wgrouted/COOKIE/     one a network namespace, by its cookie
//!     current -> g3                the generation that is in force
//!     g3/WGR_…                     its maps
//!     g3/p0123456789abcdef/wgr_…   its programs, by the object they were loaded from
//!     links/7_in, …                what is attached to device 7
//! ```
//!
//! Invariant: a generation and a set of programs are made in a directory `new` that is renamed when
//! it is whole, so what has its name is whole; and nothing is removed that is not named like ours.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
};

use super::{error::refuse, sys};
use crate::core::filter::table::FilterError;

/// Where the pins are unless told otherwise.
pub const DIRECTORY: &str = "/sys/fs/bpf/wgrouted";

const NEW: &str = "new";
const NEXT: &str = "next";
const CURRENT: &str = "current";
const LINKS: &str = "links";

/// The pins of one network namespace.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    space: PathBuf,
}

impl Pins {
    /// Those of the calling thread's network namespace. Looks, and makes nothing.
    pub(super) fn of(directory: &Path) -> Result<Pins, FilterError> {
        let cookie = sys::namespace_cookie().map_err(|error| {
            refuse(format!(
                "cannot tell this network namespace from others ({error}): the filter needs Linux \
                 5.14 or newer"
            ))
        })?;
        let space = directory.join(cookie.to_string());
        Ok(Pins { directory: directory.to_owned(), space })
    }

    /// Whether there is anything of ours.
    pub(super) fn exist(&self) -> bool {
        self.space.exists()
    }

    /// Makes the directories, if they can be trusted.
    pub(super) fn make(&self) -> Result<(), FilterError> {
        let known = self.directory.ancestors().find(|path| path.exists());
        let known = known.unwrap_or(Path::new("/"));
        if !sys::is_bpffs(known).map_err(|error| cannot("look at", known, &error))? {
            return Err(refuse(format!(
                "{} is not on a BPF file system: `mount -t bpf bpf /sys/fs/bpf`, or name a \
                 directory on one",
                self.directory.display()
            )));
        }
        let links = self.space.join(LINKS);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&links)
            .map_err(|error| cannot("make", &links, &error))
    }

    /// Refuses what is not named like ours.
    pub(super) fn check(&self) -> Result<(), FilterError> {
        for name in names(&self.space)? {
            if generation(&name).is_none() && ![NEW, NEXT, CURRENT, LINKS].contains(&name.as_str())
            {
                return Err(foreign(&self.space.join(name)));
            }
        }
        Ok(())
    }

    /// The whole generations, oldest first.
    pub(super) fn generations(&self) -> Result<Vec<u32>, FilterError> {
        let mut all: Vec<u32> =
            names(&self.space)?.iter().filter_map(|name| generation(name)).collect();
        all.sort_unstable();
        Ok(all)
    }

    /// Where a generation is.
    pub(super) fn generation(&self, number: u32) -> PathBuf {
        self.space.join(format!("g{number}"))
    }

    /// Where one is made that has no number yet.
    pub(super) fn half_made(&self) -> PathBuf {
        self.space.join(NEW)
    }

    /// The generation in force.
    pub(super) fn current(&self) -> Option<u32> {
        let name = fs::read_link(self.space.join(CURRENT)).ok()?;
        generation(name.to_str()?).filter(|number| self.generation(*number).is_dir())
    }

    /// Says which generation is in force, in one step.
    pub(super) fn set_current(&self, number: u32) -> Result<(), FilterError> {
        let (next, current) = (self.space.join(NEXT), self.space.join(CURRENT));
        let written = gone(fs::remove_file(&next))
            .and_then(|()| symlink(format!("g{number}"), &next))
            .and_then(|()| fs::rename(&next, &current));
        written.map_err(|error| cannot("write", &current, &error))
    }

    /// Where what is attached is noted.
    pub(super) fn links(&self) -> PathBuf {
        self.space.join(LINKS)
    }

    /// Removes what a failed attempt left: directories that are empty, and what is half made.
    pub(super) fn sweep(&self) {
        // Nobody is helped by a second error.
        if self.check().is_ok() {
            let _ = remove_tree(&self.half_made());
        }
        for path in [&self.links(), &self.space, &self.directory] {
            let _ = fs::remove_dir(path);
        }
    }

    /// Removes everything, once nothing is attached any more.
    pub(super) fn remove(&self) -> Result<(), FilterError> {
        for number in self.generations()? {
            remove_tree(&self.generation(number))?;
        }
        remove_tree(&self.half_made())?;
        for name in [CURRENT, NEXT] {
            let path = self.space.join(name);
            gone(fs::remove_file(&path)).map_err(|error| cannot("remove", &path, &error))?;
        }
        for path in [&self.links(), &self.space] {
            gone(fs::remove_dir(path)).map_err(|error| cannot("remove", path, &error))?;
        }
        // Other namespaces have theirs there too.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }
}

fn generation(name: &str) -> Option<u32> {
    let number = name.strip_prefix('g')?;
    let parsed: u32 = number.parse().ok()?;
    (parsed.to_string() == number).then_some(parsed)
}

/// The names in a directory; none if it is not there.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, FilterError> {
    let failed = |error| cannot("read", directory, &error);
    let mut names = Vec::new();
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        other => other.map_err(failed)?,
    };
    for entry in entries {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes a directory with all that is in it. That of nobody is removed already.
pub(super) fn remove_tree(path: &Path) -> Result<(), FilterError> {
    gone(fs::remove_dir_all(path)).map_err(|error| cannot("remove", path, &error))
}

pub(super) fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A line about a path that a system call did not like.
pub(super) fn cannot(verb: &str, path: &Path, error: &io::Error) -> FilterError {
    let remedy = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => {
            ": CAP_BPF and CAP_NET_ADMIN are needed, and a directory that is ours"
        }
        _ => "",
    };
    refuse(format!("cannot {verb} {}: {error}{remedy}", path.display()))
}

/// A line about something that others put among the pins.
pub(super) fn foreign(path: &Path) -> FilterError {
    refuse(format!(
        "{} is not the filter's: remove it, or name another directory for the pins",
        path.display()
    ))
}
