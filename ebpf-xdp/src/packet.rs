//! How packet bytes are read, whatever holds them.
//!
//! There is no way to write through [`Packet`], and no way to read past its end.

/// A received or sent packet.
pub trait Packet {
    /// Number of bytes, fragments of the buffer included.
    fn length(&self) -> u32;

    /// The `N` bytes at `offset`, or `None` where the packet ends before them.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// Takes up to `count` steps. Programs have the kernel do it (`bpf_loop`): the verifier then
    /// looks at a step once, instead of once a round and way to get there.
    fn repeat<S: Step>(&self, count: u32, step: &mut S) {
        for index in 0..count {
            if step.step(index) {
                break;
            }
        }
    }
}

/// The body of a loop.
pub trait Step {
    /// One round; `true` ends the loop.
    fn step(&mut self, index: u32) -> bool;
}

impl Packet for &[u8] {
    fn length(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.get(usize::try_from(offset).ok()?..)?.first_chunk().copied()
    }
}
