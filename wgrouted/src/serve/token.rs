//! The token that whoever asks over TCP must bear.
//!
//! Here lives [`Token`]. Invariants: only its digest is kept, it is never printed, and how long a
//! comparison takes does not depend on what is compared.

use std::{
    fmt, fs, io,
    io::Read,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::Path,
};

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Fewer characters could be guessed.
const SHORTEST: usize = 16;
/// More is no token.
const LONGEST: usize = 4096;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error(
        "{0}: make one with `(umask 027; head -c 32 /dev/urandom | base64 > FILE)` that the \
         daemon's user may read"
    )]
    Unreadable(io::Error),
    /// It is no file.
    #[error("not a regular file: put the token into one")]
    NoFile,
    /// Others may read or change it.
    #[error("others may read or change it (mode {0:04o}): chmod 0640, or 0600")]
    Open(u32),
    /// It holds something else.
    #[error("not a token: write one line of {SHORTEST} to {LONGEST} visible ASCII characters")]
    Malformed,
}

/// What must be presented.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Token, TokenError> {
        let mut options = fs::OpenOptions::new();
        // Opening a pipe would wait for its writer.
        let file = options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
        let file = file.map_err(TokenError::Unreadable)?;
        let metadata = file.metadata().map_err(TokenError::Unreadable)?;
        if !metadata.is_file() {
            return Err(TokenError::NoFile);
        }
        let mode = metadata.mode() & 0o7777;
        if mode & 0o027 != 0 {
            return Err(TokenError::Open(mode));
        }
        let mut text = Zeroizing::new(Vec::with_capacity(LONGEST + 2));
        let most = LONGEST as u64 + 2;
        file.take(most).read_to_end(&mut text).map_err(TokenError::Unreadable)?;
        Token::of(text.trim_ascii_end()).ok_or(TokenError::Malformed)
    }

    /// A token; `None` if it is too short, too long or cannot stand in a header.
    pub fn of(text: &[u8]) -> Option<Token> {
        let fits = (SHORTEST..=LONGEST).contains(&text.len());
        (fits && text.iter().all(u8::is_ascii_graphic)).then(|| Token(digest(text)))
    }

    /// Whether this is the token.
    pub fn is(&self, given: &[u8]) -> bool {
        let pairs = self.0.iter().zip(digest(given));
        pairs.fold(0, |differences, (ours, theirs)| differences | (ours ^ theirs)) == 0
    }
}

fn digest(text: &[u8]) -> [u8; 32] {
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(name: &str, text: &str, mode: u32) -> Result<Token, TokenError> {
        let name = format!("wgrouted-token-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let token = Token::read(&path);
        fs::remove_file(&path).unwrap();
        token
    }

    #[test]
    fn only_the_token_is_the_token() {
        let token = read("good", "0123456789abcdef\n", 0o640).unwrap();
        assert!(token.is(b"0123456789abcdef"));
        for wrong in [&b""[..], b"0123456789abcdeF", b"0123456789abcdef\n", b"0123456789abcde"] {
            assert!(!token.is(wrong));
        }
        assert_eq!(format!("{token:?}"), "Token");
    }

    #[test]
    fn a_file_that_is_no_secret_is_refused() {
        for (text, mode, sentence) in [
            ("0123456789abcdef", 0o644, "mode 0644"),
            ("0123456789abcdef", 0o660, "mode 0660"),
            ("0123456789abcde\n", 0o600, "not a token"),
            ("0123456789 abcdef", 0o600, "not a token"),
            ("", 0o600, "not a token"),
            (&"x".repeat(5000), 0o600, "not a token"),
        ] {
            let error = read("bad", text, mode).unwrap_err().to_string();
            assert!(error.contains(sentence), "{error}");
        }
        let error = Token::read(Path::new("/nonexistent/token")).unwrap_err().to_string();
        assert!(error.contains("No such file") && error.contains("urandom"), "{error}");
        let error = Token::read(Path::new("/dev/null")).unwrap_err().to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}
