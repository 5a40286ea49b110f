//! BIRD: its control protocol, and protocols that are enabled while their peer can be reached.
//!
//! Here live the replies and commands ([`grammar`]), the same in BIRD 2 and 3 as far as they are used
//! here, and the machine ([`machine`]). Sockets are in `crate::reach`.

pub mod grammar;
pub mod machine;
