//! babeld: its control protocol, and interfaces that it has while their peer can be reached.
//!
//! Here live the lines and commands ([`grammar`]) what it hears (`hearing`), and the
//! machine ([`machine`]). Sockets are in `crate::reach`.

pub mod grammar;
mod hearing;
pub mod machine;
