//! What `wgrouted cleanup` takes away of exits and flows.

use std::path::Path;

use super::keeper::{ExitsError, Keeper};
use crate::core::{exits::steps::Step, prefix::Family};

/// Removes whatever flows and exits of the daemon with this runtime directory have left. No such daemon
/// may be running. Returns what was, or with `dry` would be, removed, each in words.
pub fn cleanup(runtime_dir: &Path, dry: bool) -> Result<Vec<String>, ExitsError> {
    let mut keeper = Keeper::new(runtime_dir)?;
    let todo = keeper.leftovers()?;
    let told: Vec<String> = todo.iter().map(told).collect();
    if !dry && !todo.is_empty() {
        keeper.remove(todo)?;
    }
    Ok(told)
}

/// A removal, as people would do it by hand.
fn told(step: &Step) -> String {
    let family = |family| if family == Family::V6 { "-6" } else { "-4" };
    match step {
        Step::RemoveRule(rule) => format!("ip {} rule del {rule}", family(rule.family)),
        Step::RemoveRoute(route) => format!(
            "ip {} route del {} table {} metric {}",
            family(route.prefix.family()),
            route.prefix,
            route.table,
            route.metric()
        ),
        Step::RemoveNexthop(id) => format!("ip nexthop del id {id}"),
        // Nothing is added where nothing is wanted.
        other => format!("{other:?}"),
    }
}
