//! Where events come from.
//!
//! Here live the kernel's route, link, address and nexthop messages ([`rtnetlink`]) and the
//! choice of the network namespace they are read in ([`netns`]). Nothing here decides anything:
//! bytes become the core's types, and that is all.

pub mod netns;
pub mod rtnetlink;
