//! Exits against the running kernel, each test in a network namespace of its own. Cables stand for
//! WireGuard: to rules, routes and nexthop objects they are links like others.

#![allow(clippy::unwrap_used, unreachable_pub, missing_docs)]

mod lab;
mod objects;
#[path = "../support/pictures.rs"]
mod pictures;
#[path = "../support/mod.rs"]
mod support;
mod turns;
