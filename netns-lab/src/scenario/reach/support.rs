//! What the scenarios of reachability share: a hub whose peers are watched, and what it says of them.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::lab::{Lab, PATIENCE, Star, Wgrouted, wait_until};

/// A hub with a shared `wg0`, watched spokes `s1`, `s2`, …, and the daemon.
pub(super) struct Watched {
    pub(super) star: Star,
    pub(super) daemon: Wgrouted,
}

impl Watched {
    /// Builds it. `reach` are lines of `[interface.reach]`.
    pub(super) fn new(lab: &mut Lab, spokes: u16, reach: &str) -> Result<Watched> {
        let star = Star::new(lab, spokes)?;
        let config = config(&star, reach)?;
        let mut daemon = lab.wgrouted_with(&star.hub, &config)?;
        daemon.start()?;
        Ok(Watched { star, daemon })
    }

    /// Waits until a peer is in this state, and says how long that took.
    pub(super) fn wait(&self, peer: &str, state: &str) -> Result<Duration> {
        wait_state(&self.daemon, peer, state)
    }
}

/// Names the spokes of a star and watches them.
pub(super) fn config(star: &Star, reach: &str) -> Result<String> {
    let mut text =
        format!("[[interface]]\nname = \"{}\"\n[interface.reach]\n{reach}\n", star.wg.name());
    for spoke in &star.spokes {
        let (name, key) = (spoke.name(), spoke.wg.public_key());
        writeln!(text, "[[interface.peer]]\nname = \"{name}\"\npublic_key = \"{key}\"")?;
    }
    Ok(text)
}

/// What `wgrouted peers` says of a peer.
pub(super) fn peer(daemon: &Wgrouted, name: &str) -> Result<Value> {
    let text = daemon.run(&["peers", "--json"])?;
    let answer: Value = serde_json::from_str(&text).context("wgrouted peers --json")?;
    let rows = answer.as_array().or_else(|| answer["peers"].as_array()).context("no list")?;
    let row = rows.iter().find(|row| row["peer"] == name || row["name"] == name);
    row.cloned().with_context(|| format!("no peer {name} in {answer}"))
}

/// Waits until a peer is in this state, and says how long that took.
pub(super) fn wait_state(daemon: &Wgrouted, name: &str, state: &str) -> Result<Duration> {
    let began = Instant::now();
    wait_until(
        format!("{name} to be {state}"),
        PATIENCE,
        || Ok(peer(daemon, name)?["state"].clone()),
        |found| *found == state,
    )?;
    Ok(began.elapsed())
}
