//! Scenarios: what must hold on a real kernel, with real routing daemons.
//!
//! Here lives the list; each file beside this one holds the scenarios of one subject. Invariant:
//! a scenario asserts what WireGuard holds (through `wg show`) and what packets do, and waits by
//! polling, never by sleeping.

mod bad_input;
pub(crate) mod bgp;
mod cleanup;
mod daemons;
mod device;
mod doctor;
mod early;
mod examples;
mod exits;
mod explain;
mod filter;
mod follow;
mod lifecycle;
mod links;
mod moves;
mod peers;
mod questions;
mod reach;
mod scale;
mod service;
mod support;
mod tags;
mod topology;
mod tunnel;

use std::{sync::LazyLock, time::Duration};

use anyhow::Result;

use crate::lab::Lab;

pub use self::topology::{Topology, topologies};

/// One thing that must work.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line: lower case, words joined by `-`.
    pub name: &'static str,
    /// One line for `cargo lab list`.
    pub about: &'static str,
    /// Which kernels it must pass on.
    pub kernels: Kernels,
    /// After this long, on an emulated CPU, it has failed.
    pub timeout: Duration,
    /// The scenario itself.
    pub run: fn(&mut Lab) -> Result<()>,
}

/// Which of the selected kernels a scenario runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernels {
    /// On each: it touches behaviour that differs between kernels.
    Each,
    /// On the newest only.
    One,
}

/// The error of a scenario that cannot run here, with the reason.
#[derive(Clone, Debug, thiserror::Error)]
#[error("skipped: {0}")]
pub struct Skip(pub String);

impl Scenario {
    const fn new(
        name: &'static str,
        about: &'static str,
        run: fn(&mut Lab) -> Result<()>,
    ) -> Scenario {
        Scenario { name, about, kernels: Kernels::Each, timeout: Duration::from_secs(120), run }
    }

    /// Where kernels cannot differ.
    const fn on_newest(self) -> Scenario {
        Scenario { kernels: Kernels::One, ..self }
    }

    /// Where two minutes do not suffice.
    const fn within(self, seconds: u64) -> Scenario {
        Scenario { timeout: Duration::from_secs(seconds), ..self }
    }
}

/// Every scenario, in the order they run.
pub fn all() -> &'static [Scenario] {
    static ALL: LazyLock<Vec<Scenario>> = LazyLock::new(|| {
        let mut all = [
            tunnel::SCENARIOS,
            follow::SCENARIOS,
            tags::SCENARIOS,
            moves::SCENARIOS,
            device::SCENARIOS,
            early::SCENARIOS,
            peers::SCENARIOS,
            lifecycle::SCENARIOS,
            links::SCENARIOS,
            service::SCENARIOS,
            questions::SCENARIOS,
            doctor::SCENARIOS,
            cleanup::SCENARIOS,
            explain::SCENARIOS,
            daemons::SCENARIOS,
            bad_input::SCENARIOS,
        ]
        .concat();
        all.extend(examples::scenarios());
        all.extend(filter::scenarios());
        all.extend(reach::scenarios());
        all.extend(exits::scenarios());
        all.extend(scale::SCENARIOS);
        all
    });
    &ALL
}
