//! What the kernel does with a packet, step by step.
//!
//! Here live a packet ([`packet`]), what is known of the network ([`picture`]), which policy rules are
//! for it ([`select`]), which route of a table it takes ([`table`]), and the walk through all of that
//! ([`walk`]), after net/core/fib_rules.c, net/ipv4/fib_trie.c and net/ipv6/route.c. What the kernel
//! itself says ([`kernel`]) is held against it. Nothing here decides what wgrouted does: it explains.

pub mod kernel;
pub mod packet;
pub mod picture;
pub mod select;
pub mod table;
pub mod walk;

#[cfg(test)]
mod tests;
