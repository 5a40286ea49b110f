//! The configuration and who runs with it.

use std::collections::BTreeSet;

use super::{
    finding::{Area, Finding, Level},
    seen::{DaemonSeen, LockSeen, Machine},
};

impl DaemonSeen {
    /// Whether a daemon runs with this runtime directory.
    pub fn is_running(&self) -> bool {
        self.answers.is_some()
    }
}

/// Judges the configuration and the daemons.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    configuration(machine, out);
    let daemon = &machine.daemon;
    let directory = &machine.wants.runtime_dir;
    out.push(match &daemon.answers {
        Some(Ok(())) => Finding::new(
            Area::Daemon,
            "daemon",
            Level::Ok,
            format!("a daemon answers in {directory}"),
        ),
        Some(Err(because)) => {
            let what = format!("the daemon in {directory}");
            Finding::not_checked(Area::Daemon, "daemon", &what, because)
        }
        None => Finding::new(
            Area::Daemon,
            "daemon",
            Level::Info,
            format!("no daemon runs in {directory}"),
        ),
    });
    others(machine, out);
    if !daemon.is_running() && daemon.runtime_dir == Some(false) {
        let found = format!("{directory}: this process may not write there");
        let because = "the daemon's user may: it was not asked";
        out.push(Finding::not_checked(Area::Daemon, "runtime-dir", &found, because));
    }
}

fn configuration(machine: &Machine, out: &mut Vec<Finding>) {
    let daemon = &machine.daemon;
    let found = |level, found: String| Finding::new(Area::Daemon, "configuration", level, found);
    match &daemon.file {
        None => out.push(found(
            Level::Info,
            format!("no configuration file: looking at {}", names(machine)),
        )),
        Some(file) if daemon.errors.is_empty() => {
            out.push(found(Level::Ok, format!("{file} is right")));
        }
        Some(file) => {
            for error in &daemon.errors {
                out.push(
                    found(Level::Failure, error.clone())
                        .why("the daemon does not start with it, and does not load it on SIGHUP")
                        .advise(format!("correct it, then `wgrouted check --config {file}`")),
                );
            }
        }
    }
}

fn names(machine: &Machine) -> String {
    let names: Vec<_> = machine.wants.links.iter().map(|link| link.name.as_str()).collect();
    if names.is_empty() { "no device, there is none".to_owned() } else { names.join(", ") }
}

/// Daemons that have our interfaces, and are not ours or not one.
fn others(machine: &Machine, out: &mut Vec<Finding>) {
    let ours = |lock: &&LockSeen| match &lock.interface {
        Some(name) => machine.wants.links.iter().any(|link| link.name == *name),
        None => machine.wants.filter.is_some(),
    };
    // Of all devices that there are, each may have a daemon of its own.
    if !machine.daemon.chosen {
        return;
    }
    let locks: Vec<_> = machine.daemon.locks.iter().filter(ours).collect();
    let what = |lock: &LockSeen| match &lock.interface {
        Some(name) => format!("{name} is followed"),
        None => "packets are filtered".to_owned(),
    };
    let who = |lock: &LockSeen| match lock.process {
        Some(process) => format!("process {process}"),
        None => "a process that cannot be seen".to_owned(),
    };
    let processes: BTreeSet<u32> = locks.iter().filter_map(|lock| lock.process).collect();
    if processes.len() > 1 {
        let list: Vec<_> =
            locks.iter().map(|lock| format!("{} by {}", what(lock), who(lock))).collect();
        let found =
            format!("several daemons have what one configuration names: {}", list.join("; "));
        out.push(
            Finding::new(Area::Daemon, "other-daemon", Level::Failure, found)
                .why("a daemon with this configuration does not start while they run")
                .advise("stop all but one, and name each interface in one configuration"),
        );
    } else if let Some(lock) = locks.first().filter(|_| !machine.daemon.is_running()) {
        let found = format!("{} by another daemon, {}", what(lock), who(lock));
        out.push(
            Finding::new(Area::Daemon, "other-daemon", Level::Warning, found)
                .why(format!("it does not answer in {}", machine.wants.runtime_dir))
                .advise("name its directory with --runtime-dir, or stop it"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::{
        tests::{all, find, machine},
        wants::WantedLink,
    };

    fn with(answers: bool, locks: &[(Option<&str>, Option<u32>)]) -> Machine {
        let mut machine = machine();
        let link = |name: &str| WantedLink { name: name.to_owned(), ..WantedLink::default() };
        machine.wants.links = vec![link("wg0"), link("wg1")];
        machine.wants.filter = Some("/sys/fs/bpf/wgrouted".to_owned());
        machine.daemon.answers = answers.then_some(Ok(()));
        machine.daemon.chosen = true;
        let lock = |(interface, process): &(Option<&str>, Option<u32>)| LockSeen {
            interface: interface.map(str::to_owned),
            process: *process,
        };
        machine.daemon.locks = locks.iter().map(lock).collect();
        machine
    }

    #[test]
    fn a_configuration_is_right_or_each_mistake_is_told() {
        let mut machine = with(false, &[]);
        let finding = find(&machine, "configuration");
        assert_eq!(finding.level, Level::Info);
        assert!(finding.found.ends_with("wg0, wg1"), "{}", finding.found);
        machine.daemon.file = Some("x.toml".to_owned());
        assert_eq!(find(&machine, "configuration").level, Level::Ok);
        machine.daemon.errors = vec!["x.toml:1:1: one".to_owned(), "x.toml:2:1: two".to_owned()];
        let findings = all(&machine, "configuration");
        assert_eq!(findings.len(), 2);
        assert!(findings.iter().all(|finding| finding.level == Level::Failure));
    }

    #[test]
    fn daemons_are_told_apart() {
        assert_eq!(find(&with(true, &[(Some("wg0"), Some(7))]), "daemon").level, Level::Ok);
        let one = with(true, &[(Some("wg0"), Some(7)), (None, Some(7)), (Some("wg9"), Some(8))]);
        assert_eq!(all(&one, "other-daemon"), []);
        let two = with(true, &[(Some("wg0"), Some(7)), (None, Some(8))]);
        assert_eq!(find(&two, "other-daemon").level, Level::Failure);
        let elsewhere = with(false, &[(Some("wg1"), None)]);
        assert_eq!(find(&elsewhere, "daemon").level, Level::Info);
        assert_eq!(find(&elsewhere, "other-daemon").level, Level::Warning);
        let mut all_there_are = with(false, &[(Some("wg0"), Some(7)), (Some("wg1"), Some(8))]);
        all_there_are.daemon.chosen = false;
        assert_eq!(all(&all_there_are, "other-daemon"), []);
        let mut denied = with(false, &[]);
        denied.daemon.answers = Some(Err("you are nobody".to_owned()));
        assert_eq!(find(&denied, "daemon").level, Level::NotChecked);
    }

    #[test]
    fn a_runtime_directory_of_somebody_elses() {
        let mut machine = with(false, &[]);
        assert_eq!(all(&machine, "runtime-dir"), []);
        machine.daemon.runtime_dir = Some(false);
        assert_eq!(find(&machine, "runtime-dir").level, Level::NotChecked);
        machine.daemon.answers = Some(Ok(()));
        assert_eq!(all(&machine, "runtime-dir"), []);
    }
}
