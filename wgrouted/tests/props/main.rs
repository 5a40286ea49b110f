//! The laws of the core, each with a naive oracle beside it.
//!
//! Here live property tests in a world small enough that everything collides (`domain`): a model
//! of the kernel's routing tables (`kernel`), a WireGuard device (`device`), an obvious way to
//! work out owners (`oracle`), and the engine among them on a virtual clock (`sim`). More cases:
//! `PROPTEST_CASES=10000 cargo test --test props`.

// One test program: nobody else reaches its items, and where it panics a test fails.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod announce;
mod chance;
mod checks;
mod device;
mod domain;
mod filter_codecs;
mod filter_domain;
mod filter_doors;
mod filter_laws;
mod filter_maps;
mod filter_oracle;
mod filter_regressions;
mod filter_repair;
mod filter_target;
mod filter_watch;
mod kernel;
mod oracle;
mod sim;
mod sockets;
mod sockets_babeld;
mod sockets_bird;

#[path = "../support/pictures.rs"]
mod pictures;

mod codecs;
mod exits;
mod exits_steps;
mod hold;
mod hooks;
mod links;
mod loss;
mod mirror;
mod order;
mod owners;
mod policy;
mod reach;
mod reconcile;
mod regressions;

#[path = "../support/watched.rs"]
mod watched;

/// How many cases a law is tried with: its own number, chosen so that all laws together take less
/// than a minute, or the operator's.
fn cases(own: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(own)
}
