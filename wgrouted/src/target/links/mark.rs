//! The mark on links that we made.
//!
//! Here lives [`Mark`]: an alternative name, which people see in `ip link` and change for no other
//! purpose, as they do with an alias or a group. It is told apart by the runtime directory, so that
//! of several daemons in one network namespace each knows its own.

use std::{os::unix::ffi::OsStrExt, path::Path};

use sha2::{Digest, Sha256};

/// What alternative names of our links begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark(String);

impl Mark {
    /// The mark of the daemon with this runtime directory.
    pub fn new(runtime_dir: &Path) -> Self {
        let digest = Sha256::digest(runtime_dir.as_os_str().as_bytes());
        let id: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        Mark(format!("wgrouted-{id}-"))
    }

    /// The alternative name of a link that is made with this name.
    pub(super) fn of(&self, name: &str) -> String {
        format!("{}{name}", self.0)
    }

    /// Whether an alternative name says that a link is ours.
    pub(super) fn is_in(&self, alternative_name: &str) -> bool {
        alternative_name.starts_with(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_are_told_apart() {
        let (one, other) = (Mark::new(Path::new("/run/one")), Mark::new(Path::new("/run/two")));
        assert!(one.is_in(&one.of("wg0")) && !other.is_in(&one.of("wg0")));
        assert_eq!(one, Mark::new(Path::new("/run/one")));
        // `ALTIFNAMSIZ` is 128 (include/uapi/linux/if.h).
        assert!(one.of("fifteen-letters").len() < 64);
    }
}
