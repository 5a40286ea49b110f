//! Keys in files.
//!
//! Here lives the reader. Invariant: what was read is wiped; the only thing that comes out is a
//! [`Secret`].

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::target::wireguard::Secret;

/// A file longer than that holds no key.
const LONGEST: usize = 1024;

/// Why a file gives no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    /// It cannot be read.
    #[error(
        "key file {}: {source}; it must be readable by the user that wgrouted runs as", path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "key file {}: not a WireGuard key; it must hold 44 characters of base64, as `wg genkey` \
         prints them", .0.display()
    )]
    Malformed(PathBuf),
}

/// A key, and whether everybody can read its file.
#[derive(Debug)]
pub(super) struct Key {
    /// The key.
    pub(super) secret: Secret,
    /// Whether anybody can read it (`wg` warns of that too).
    pub(super) exposed: bool,
}

/// Reads a key.
pub(super) fn read(path: &Path) -> Result<Key, KeyError> {
    let unreadable = |source| KeyError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    // Room for all that is read, so that growing leaves no copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(LONGEST + 1));
    file.take(LONGEST as u64).read_to_end(&mut text).map_err(unreadable)?;
    let malformed = || KeyError::Malformed(path.to_owned());
    // The decoder wants room for a group of three more.
    let mut bytes = Zeroizing::new([0; 33]);
    let length = STANDARD.decode_slice(text.trim_ascii(), &mut bytes[..]);
    match length {
        Ok(32) => {
            let key: &[u8; 32] = bytes.first_chunk().ok_or_else(malformed)?;
            Ok(Key { secret: Secret::new(key), exposed: mode & 0o007 != 0 })
        }
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    #[test]
    fn keys_are_read_as_wg_writes_them() {
        let path = std::env::temp_dir().join(format!("wgrouted-key-{}", std::process::id()));
        let text = STANDARD.encode([7; 32]);
        fs::write(&path, format!("{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let key = read(&path).unwrap();
        assert_eq!(key.secret.fingerprint(), Secret::new(&[7; 32]).fingerprint());
        assert!(!key.exposed);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o604)).unwrap();
        assert!(read(&path).unwrap().exposed);
        for wrong in ["", "x", &text[1..], &format!("{text}{text}"), &"A".repeat(5000)] {
            fs::write(&path, wrong).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains("not a WireGuard key"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains("No such file") && error.contains("wgrouted-key-"), "{error}");
    }
}
