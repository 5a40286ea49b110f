//! Network namespaces by name.
//!
//! Here lives the entry into one, for the whole process. Invariant: it happens before the first
//! thread is started, since the kernel moves only the calling thread (setns(2)) and threads
//! inherit the namespace of the one that started them.

use std::{
    fs, io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";

/// Why a network namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// There is none of that name.
    #[error(
        "there is no network namespace `{name}` ({}): create it with `ip netns add`, or give the \
         path of one",
        Existing(existing)
    )]
    Missing {
        /// What was asked for.
        name: String,
        /// The names there are.
        existing: Vec<String>,
    },
    /// The file is there, but is something else.
    #[error("{} is not a network namespace: give a name out of `ip netns list`", path.display())]
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// The kernel forbids it.
    #[error("entering the network namespace {} needs CAP_SYS_ADMIN: run as root", path.display())]
    Forbidden {
        /// The file.
        path: PathBuf,
    },
    /// The process has threads already, which would stay behind.
    #[error("a network namespace can only be entered before threads are started, there are {0}")]
    Threads(usize),
    /// Anything else.
    #[error("cannot enter the network namespace {}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

/// Moves the process into the network namespace of that name, or, if it holds a slash, path.
pub fn enter(name: &str) -> Result<(), EnterError> {
    let path = path_of(name);
    let threads = fs::read_dir("/proc/self/task")
        .map_err(|source| EnterError::System { path: "/proc/self/task".into(), source })?
        .count();
    if threads != 1 {
        return Err(EnterError::Threads(threads));
    }
    enter_thread(name, &path)
}

/// The file that stands for a namespace of that name, or path.
pub fn path_of(name: &str) -> PathBuf {
    if name.contains('/') { PathBuf::from(name) } else { Path::new(NAMES).join(name) }
}

fn enter_thread(name: &str, path: &Path) -> Result<(), EnterError> {
    let path = path.to_owned();
    let file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(EnterError::Missing { name: name.to_owned(), existing: names() });
        }
        Err(source) => return Err(EnterError::System { path, source }),
    };
    // SAFETY: no pointers are passed.
    if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    Err(match source.raw_os_error() {
        Some(libc::EINVAL) => EnterError::NotANamespace { path },
        Some(libc::EPERM) => EnterError::Forbidden { path },
        _ => EnterError::System { path, source },
    })
}

fn names() -> Vec<String> {
    let entries = fs::read_dir(NAMES).into_iter().flatten().flatten();
    let mut names: Vec<_> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// Prints the names that there are.
struct Existing<'a>(&'a [String]);

impl std::fmt::Display for Existing<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            [] => f.write_str("there are none"),
            names => write!(f, "there are: {}", names.join(", ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_namespace_is_named_with_the_remedy() {
        let name = "wgrouted-no-such-namespace";
        let error = enter_thread(name, &path_of(name)).unwrap_err().to_string();
        assert!(error.contains("`wgrouted-no-such-namespace`"), "{error}");
        assert!(error.contains("`ip netns add`"), "{error}");
        let error =
            EnterError::Missing { name: "a".into(), existing: vec!["b".into(), "c".into()] };
        assert!(error.to_string().contains("(there are: b, c)"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let path = Path::new("/dev/null");
        let error = enter_thread("/dev/null", path).unwrap_err();
        assert!(
            matches!(error, EnterError::NotANamespace { .. } | EnterError::Forbidden { .. }),
            "{error}"
        );
    }

    /// The test harness runs tests in threads.
    #[test]
    fn threads_left_behind_are_refused() {
        assert!(matches!(enter("/proc/self/ns/net"), Err(EnterError::Threads(_))));
    }

    #[test]
    #[ignore = "needs root: sudo -E cargo test -p wgrouted --lib netns -- --ignored"]
    fn a_named_namespace_is_entered() {
        use std::{os::unix::fs::MetadataExt, process::Command};

        let name = format!("wgrouted-{}", std::process::id());
        let ip = |verb| Command::new("ip").args(["netns", verb, &name]).output().unwrap();
        let added = ip("add");
        if !added.status.success() {
            println!("SKIPPED: {}", String::from_utf8_lossy(&added.stderr));
            return;
        }
        let number = |path: &str| fs::metadata(path).unwrap().ino();
        let wanted = number(&format!("{NAMES}/{name}"));
        let entered = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter_thread(&name, &path_of(&name)).map(|()| number("/proc/thread-self/ns/net"))
            });
            thread.join().unwrap()
        });
        ip("del");
        assert_eq!(entered.unwrap(), wanted);
    }

    #[test]
    fn a_slash_makes_it_a_path() {
        assert_eq!(path_of("blue"), Path::new("/run/netns/blue"));
        assert_eq!(path_of("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
    }
}
