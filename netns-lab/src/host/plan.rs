//! Which tasks share which boot. Pure.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    protocol::{Task, Test},
    scenario::{Kernels, Scenario},
};

/// At most this many tasks share a boot, so that two workers end at about the same time.
const PER_BOOT: usize = 12;
/// How long one test of a test program may take on an emulated CPU.
const TEST_LIMIT: Duration = Duration::from_secs(600);

/// Something to run, and where it can and must.
#[derive(Clone, Debug)]
pub struct Item {
    /// What.
    pub task: Task,
    /// On which of the kernels.
    pub kernels: Kernels,
    /// Whether it needs the kernel's WireGuard.
    pub wireguard: bool,
}

/// Tasks to do one after the other in one guest.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Index of the place.
    pub place: usize,
    /// What to do, in this order.
    pub tasks: Vec<Task>,
    /// How many boots in a row did not get as far as a task.
    pub false_starts: u32,
}

impl From<&Scenario> for Item {
    fn from(scenario: &Scenario) -> Item {
        let task = Task { name: scenario.name.to_owned(), timeout: scenario.timeout, test: None };
        Item { task, kernels: scenario.kernels, wireguard: true }
    }
}

impl Item {
    /// The item of a test, of which `reason` says why plain `cargo test` leaves it out. `None` if
    /// that is not for want of root or WireGuard.
    pub fn of_test(program: &Path, name: &str, reason: &str) -> Option<Item> {
        let needs = reason.strip_prefix("needs root")?;
        let stem = program.file_name()?.to_str()?;
        // cargo puts a hash behind the name.
        let stem = stem.rsplit_once('-').map_or(stem, |(stem, _)| stem);
        let test = Test { program: PathBuf::from(program), name: name.to_owned() };
        let name = format!("{stem}::{name}");
        let task = Task { name, timeout: TEST_LIMIT, test: Some(test) };
        Some(Item { task, kernels: Kernels::Each, wireguard: needs.contains("WireGuard") })
    }
}

/// The batches for places of which each has WireGuard or not, and the last the newest kernel.
/// What needs WireGuard where no place has it is given back.
pub fn plan(items: &[Item], places: &[bool]) -> (VecDeque<Batch>, Vec<Task>) {
    let mut batches = VecDeque::new();
    // Places without WireGuard first, for they have little to do; then the newest kernel.
    let mut order: Vec<usize> = (0..places.len()).rev().collect();
    order.sort_by_key(|place| places[*place]);
    for place in order {
        let here = |item: &&Item| match item.kernels {
            _ if item.wireguard && !places[place] => false,
            Kernels::Each => true,
            Kernels::One => place + 1 == places.len(),
        };
        let tasks: Vec<_> = items.iter().filter(here).map(|item| item.task.clone()).collect();
        for chunk in tasks.chunks(PER_BOOT) {
            batches.push_back(Batch { place, tasks: chunk.to_vec(), false_starts: 0 });
        }
    }
    let done = |task: &Task| batches.iter().any(|batch| batch.tasks.contains(task));
    let left = items.iter().map(|item| &item.task).filter(|task| !done(task)).cloned().collect();
    (batches, left)
}

/// The scenarios whose name contains one of `names`; all of them for no names. The error is a
/// name that selects nothing.
pub fn select(names: &[String]) -> Result<Vec<&'static Scenario>, &str> {
    let all = crate::scenario::all();
    if let Some(name) = names.iter().find(|name| !all.iter().any(|one| one.name.contains(&***name)))
    {
        return Err(name);
    }
    let selected =
        |one: &&Scenario| names.is_empty() || names.iter().any(|name| one.name.contains(&**name));
    Ok(all.iter().filter(selected).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(index: usize, kernels: Kernels, wireguard: bool) -> Item {
        let task = Task { name: index.to_string(), timeout: TEST_LIMIT, test: None };
        Item { task, kernels, wireguard }
    }

    #[test]
    fn everything_meets_its_kernels_once() {
        let kernels = |index| if index % 2 == 0 { Kernels::Each } else { Kernels::One };
        let items: Vec<_> = (0..40).map(|index| item(index, kernels(index), true)).collect();
        let (batches, left) = plan(&items, &[true, true, true]);
        let count =
            |place| batches.iter().filter(|b| b.place == place).map(|b| b.tasks.len()).sum();
        let counts: Vec<usize> = (0..3).map(count).collect();
        assert_eq!(counts, [20, 20, 40]);
        assert!(batches.iter().all(|batch| (1..=PER_BOOT).contains(&batch.tasks.len())));
        assert!(left.is_empty());
    }

    #[test]
    fn a_place_without_wireguard_takes_what_it_can() {
        let items = [item(0, Kernels::Each, true), item(1, Kernels::Each, false)];
        let names = |tasks: &[Task]| tasks.iter().map(|task| task.name.clone()).collect::<Vec<_>>();
        let (batches, left) = plan(&items, &[false, true]);
        assert_eq!(names(&batches[0].tasks), ["1"]);
        assert_eq!(names(&batches[1].tasks), ["0", "1"]);
        assert!(left.is_empty());
        let (_, left) = plan(&items, &[false]);
        assert_eq!(names(&left), ["0"]);
        let (_, left) = plan(&items, &[]);
        assert_eq!(left.len(), 2);
    }

    #[test]
    fn tests_that_cargo_leaves_out() {
        let program = Path::new("/t/debug/deps/netns_source-a84323388b9f5ae6");
        let item = Item::of_test(program, "dump::first", "needs root: sudo cargo test");
        let item = item.expect("root is what we have");
        assert_eq!(item.task.name, "netns_source::dump::first");
        assert!(!item.wireguard);
        let item = Item::of_test(program, "x", "needs root and kernel WireGuard: see the top");
        assert!(item.is_some_and(|item| item.wireguard));
        assert!(Item::of_test(program, "x", "measures: run it by hand").is_none());
    }

    #[test]
    fn selection_by_part_of_a_name() {
        assert_eq!(select(&[]).map(|found| found.len()), Ok(crate::scenario::all().len()));
        assert!(select(&["tunn".to_owned()]).is_ok_and(|found| !found.is_empty()));
        assert_eq!(select(&["tunnel".to_owned(), "no-such".to_owned()]).err(), Some("no-such"));
    }
}
