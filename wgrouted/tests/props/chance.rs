//! What a test draws for the simulated world: delays, and what goes wrong.

/// What goes wrong with a request to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Fine,
    /// It fails and changes nothing.
    Fails,
    /// It makes that many changes and fails then.
    HalfWay(usize),
    /// Every change whose position is a multiple of this is refused.
    Refuses(usize),
    /// The answer comes that many milliseconds late.
    Late(u16),
}

/// Delays in milliseconds, drawn by the test and used over and over.
#[derive(Clone, Debug)]
pub struct Delays(pub Vec<u16>, pub usize);

impl Delays {
    pub fn none() -> Delays {
        Delays(vec![0], 0)
    }

    pub fn draw(&mut self) -> u64 {
        self.1 += 1;
        u64::from(self.0[self.1 % self.0.len()])
    }
}
