//! Waiting for a condition.
//!
//! Here lives polling with a deadline, the lab's replacement for sleeping. Invariant: a wait that
//! fails says what was waited for and what was last seen instead.

use std::{
    collections::BTreeMap,
    fmt::{Debug, Display},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Long enough for anything that happens by itself, on an emulated machine that shares its
/// processor with other jobs. Only failures take that long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks: short at first, so that a wait costs little when the condition holds soon.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LAST_PAUSE: Duration = Duration::from_millis(250);

/// Looks until what is seen is accepted, and returns it.
///
/// An error of `look` counts as "not yet": daemons are asked before they are ready to answer.
pub fn wait_until<T: Debug>(
    what: impl Display,
    patience: Duration,
    mut look: impl FnMut() -> Result<T>,
    accept: impl Fn(&T) -> bool,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    let mut pause = FIRST_PAUSE;
    loop {
        let began = Instant::now();
        let seen = look();
        // Looking at a full table takes a while and keeps others from their work.
        pause = pause.max(began.elapsed());
        match seen {
            Ok(seen) if accept(&seen) => return Ok(seen),
            seen if Instant::now() >= deadline => {
                let seen = match seen {
                    Ok(seen) => clip(&format!("{seen:?}")),
                    Err(error) => format!("error: {error:#}"),
                };
                bail!("waited {} s in vain for {what}; last seen: {seen}", patience.as_secs_f32());
            }
            _ => thread::sleep(pause),
        }
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Waits until `look` says yes.
pub fn wait_for(
    what: impl Display,
    patience: Duration,
    look: impl FnMut() -> Result<bool>,
) -> Result<()> {
    wait_until(what, patience, look, |yes| *yes).map(drop)
}

/// Waits until two tables are equal; a failure lists where they differ.
pub fn wait_equal<K: Ord + Display, V: PartialEq + Display>(
    what: impl Display,
    patience: Duration,
    want: &BTreeMap<K, V>,
    mut look: impl FnMut() -> Result<BTreeMap<K, V>>,
) -> Result<()> {
    wait_until(
        what,
        patience,
        || Ok(Differences(differences(want, &look()?))),
        |differences| differences.0.is_empty(),
    )
    .map(drop)
}

/// Differences, printed as lines of a table rather than as Rust values.
struct Differences(Vec<String>);

impl Debug for Differences {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} differences:", self.0.len())?;
        self.0.iter().take(20).try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// What distinguishes `have` from `want`, a line each.
pub fn differences<K: Ord + Display, V: PartialEq + Display>(
    want: &BTreeMap<K, V>,
    have: &BTreeMap<K, V>,
) -> Vec<String> {
    let wrong_or_missing = want.iter().filter_map(|(key, want)| match have.get(key) {
        Some(have) if have == want => None,
        Some(have) => Some(format!("{key}: is {have}, should be {want}")),
        None => Some(format!("{key}: is absent, should be {want}")),
    });
    let extra = have
        .iter()
        .filter(|(key, _)| !want.contains_key(key))
        .map(|(key, have)| format!("{key}: is {have}, should be absent"));
    wrong_or_missing.chain(extra).collect()
}

fn clip(text: &str) -> String {
    match text.char_indices().nth(2000) {
        None => text.to_owned(),
        Some((end, _)) => format!("{} [...]", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_wait_tells_what_was_last_seen() {
        let mut n = 0;
        let error = wait_until(
            "the counter",
            Duration::from_millis(1),
            || {
                n += 1;
                Ok(n)
            },
            |_| false,
        )
        .unwrap_err();
        assert!(
            error.to_string().starts_with("waited 0.001 s in vain for the counter; last seen:")
        );
    }

    #[test]
    fn differences_name_wrong_missing_and_extra_entries() {
        let want = BTreeMap::from([(1, "a"), (2, "b")]);
        let have = BTreeMap::from([(2, "c"), (3, "d")]);
        assert_eq!(
            differences(&want, &have),
            ["1: is absent, should be a", "2: is c, should be b", "3: is d, should be absent"]
        );
    }
}
