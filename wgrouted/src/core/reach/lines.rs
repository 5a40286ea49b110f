//! Lines out of a stream of bytes.
//!
//! Here lives [`Lines`]. Invariant: however the bytes are cut into pieces, the lines are the same,
//! and no more than [`LONGEST`] bytes are kept.

/// What of a line is kept: BIRD and babeld write a tenth of this at most.
pub const LONGEST: usize = 8192;

/// Collects bytes until a line is whole.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    begun: Vec<u8>,
}

impl Lines {
    /// Takes bytes in; returns the lines that they complete, without their ends.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        for byte in bytes {
            if *byte == b'\n' {
                lines.push(String::from_utf8_lossy(&self.begun).into_owned());
                self.begun.clear();
            } else if self.begun.len() < LONGEST {
                self.begun.push(*byte);
            }
        }
        lines
    }

    /// Forgets a line that is not whole.
    pub fn clear(&mut self) {
        self.begun.clear();
    }
}
