//! The lab: topologies of network namespaces, scenarios that run in them against real kernel
//! WireGuard and real routing daemons, and the machinery that finds them a kernel to run on.
//!
//! - [`lab`], [`scenario`], [`demo`]: what runs *inside* (namespaces, daemons, assertions). They
//!   need root, a kernel with WireGuard and the tools, and know nothing about virtual machines.
//! - [`guest`]: the runner inside: one sandboxed process per scenario, one message per verdict.
//! - [`host`]: everything outside: packages, kernels, QEMU, the plan of boots, the report.
//! - [`protocol`]: the messages between the two.
//! - [`cli`]: the `cargo lab` commands.

pub mod cli;
pub mod demo;
pub mod guest;
pub mod host;
pub mod lab;
pub mod log;
pub mod protocol;
pub mod scenario;
