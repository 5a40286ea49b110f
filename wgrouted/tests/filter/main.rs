//! The kernel's packet filter, through our door to it.
//!
//! Each test has a network namespace and a BPF file system of its own. Needs root and iproute2:
//! `sudo -E cargo test --release -p wgrouted --test filter -- --ignored`

#![allow(clippy::unwrap_used, missing_docs)]

mod attach;
mod contents;
mod evidence;
mod generations;
mod lab;
mod pins;
mod policies;
mod scale;
mod verdicts;

/// Packets, and tables that are searched line by line.
#[path = "../../../ebpf-xdp/tests/support/mod.rs"]
mod oracle;
#[path = "../support/pictures.rs"]
mod pictures;
#[path = "../support/mod.rs"]
mod support;
