//! What the daemon may do.
//!
//! Here live the checks of capabilities, of the number of open files and of the BPF file system.
//! They are about the running daemon; without one, about whoever asks, who may not be the one that
//! will run it: so what is missing there was merely not checked.

use super::{
    finding::{Area, Finding, Level},
    seen::Machine,
};

/// Open files that a link needs: sockets for probes of two kinds and two families, and one spare.
const FILES_OF_A_LINK: u64 = 5;
/// Open files of a daemon without links.
const FILES: u64 = 64;

/// Judges what the process may do.
pub(super) fn check(machine: &Machine, out: &mut Vec<Finding>) {
    let wants = &machine.wants;
    let needs = [
        ("NET_ADMIN", true, "to read and change WireGuard devices", "needs it to run at all"),
        ("NET_RAW", wants.icmp_probes, "for ICMP probes", "cannot probe peers by ICMP without it"),
        ("BPF", wants.filter.is_some(), "for the packet filter", "cannot filter without it"),
        ("PERFMON", wants.filter.is_some(), "for the packet filter", "cannot filter without it"),
    ];
    for (name, needed, what_for, without) in needs {
        if needed {
            out.push(capability(machine, name, what_for, without));
        }
    }
    out.push(files(machine));
    if let Some(directory) = &wants.filter {
        out.push(bpffs(machine, directory));
    }
}

fn capability(machine: &Machine, name: &str, what_for: &str, without: &str) -> Finding {
    let check = match name {
        "NET_ADMIN" => "cap-net-admin",
        "NET_RAW" => "cap-net-raw",
        "BPF" => "cap-bpf",
        _ => "cap-perfmon",
    };
    let process = &machine.process;
    let what = format!("CAP_{name} {what_for}");
    let held = match &process.capabilities {
        Ok(held) => held,
        Err(because) => return Finding::not_checked(Area::Privileges, check, &what, because),
    };
    let holds = |wanted: &str| held.iter().any(|cap| cap == &format!("CAP_{wanted}"));
    // CAP_SYS_ADMIN stands for the two of BPF (include/linux/capability.h).
    let has = holds(name) || (matches!(name, "BPF" | "PERFMON") && holds("SYS_ADMIN"));
    match (has, process.daemon) {
        (true, _) => Finding::new(Area::Privileges, check, Level::Ok, what),
        (false, None) => {
            let because = "no daemon runs, and this process does not have it: run it as root to see \
                           more, or ask while the daemon runs";
            Finding::not_checked(Area::Privileges, check, &what, because)
        }
        (false, Some(daemon)) => {
            let found = format!("the daemon (process {daemon}) does not have CAP_{name}");
            let finding = Finding::new(Area::Privileges, check, Level::Failure, found)
                .why(format!("it {without}"));
            match name {
                "BPF" | "PERFMON" => finding.advise(
                    "install dist/wgrouted.service.d/filter.conf as \
                     /etc/systemd/system/wgrouted.service.d/filter.conf, then `systemctl \
                     daemon-reload` and `systemctl restart wgrouted`",
                ),
                _ => finding.advise(
                    "use the shipped wgrouted.service, whose AmbientCapabilities= and \
                     CapabilityBoundingSet= name it, or run the daemon as root",
                ),
            }
        }
    }
}

fn files(machine: &Machine) -> Finding {
    let what = "open files";
    let Some(limit) = machine.process.files else {
        return Finding::not_checked(Area::Privileges, "files", what, "the limit cannot be read");
    };
    let links = machine.wants.links.len() as u64;
    let needed = FILES + FILES_OF_A_LINK * links;
    if limit >= needed {
        return Finding::new(Area::Privileges, "files", Level::Ok, format!("{limit} open files"));
    }
    let found = format!("{limit} open files may be too few for {links} links");
    let finding = Finding::new(Area::Privileges, "files", Level::Warning, found)
        .why(format!("each link that is watched takes up to {FILES_OF_A_LINK} sockets"));
    let finding = match machine.process.daemon {
        Some(daemon) => finding.run(format!("prlimit --pid {daemon} --nofile={needed}:{needed}")),
        None => finding,
    };
    finding.advise("the shipped unit has LimitNOFILE=65536; in a shell, `ulimit -n 65536`")
}

fn bpffs(machine: &Machine, directory: &str) -> Finding {
    match machine.process.bpffs {
        Some(true) => {
            let found = format!("a BPF file system holds {directory}");
            Finding::new(Area::Privileges, "bpffs", Level::Ok, found)
        }
        Some(false) => {
            let found = format!("{directory} is not on a BPF file system");
            let finding = Finding::new(Area::Privileges, "bpffs", Level::Failure, found)
                .why("the filter's maps are kept there while the daemon is away");
            match directory.starts_with("/sys/fs/bpf/") {
                true => finding.run("mount -t bpf bpf /sys/fs/bpf"),
                false => finding.advise(
                    "choose a `directory` below /sys/fs/bpf for [filter], or mount one there",
                ),
            }
        }
        None => {
            let because = "the directory cannot be looked at: run as root";
            Finding::not_checked(Area::Privileges, "bpffs", "BPF file system", because)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::doctor::tests::{find, machine};

    fn with(capabilities: &[&str], daemon: Option<u32>) -> Machine {
        let mut machine = machine();
        machine.wants.filter = Some("/sys/fs/bpf/wgrouted".to_owned());
        machine.process.capabilities = Ok(capabilities.iter().map(|&c| c.to_owned()).collect());
        machine.process.daemon = daemon;
        machine
    }

    #[test]
    fn what_a_daemon_lacks_is_a_failure_and_what_we_lack_is_not() {
        let all = with(&["CAP_NET_ADMIN", "CAP_BPF", "CAP_PERFMON"], Some(7));
        for check in ["cap-net-admin", "cap-bpf", "cap-perfmon"] {
            assert_eq!(find(&all, check).level, Level::Ok);
            assert_eq!(find(&with(&[], Some(7)), check).level, Level::Failure);
            assert_eq!(find(&with(&[], None), check).level, Level::NotChecked);
        }
        let root = with(&["CAP_SYS_ADMIN"], Some(7));
        assert_eq!(find(&root, "cap-bpf").level, Level::Ok);
        assert_eq!(find(&root, "cap-net-admin").level, Level::Failure);
    }

    #[test]
    fn raw_sockets_matter_where_peers_are_probed_by_icmp() {
        let mut machine = with(&["CAP_NET_ADMIN"], Some(7));
        machine.wants.icmp_probes = true;
        assert_eq!(find(&machine, "cap-net-raw").level, Level::Failure);
    }

    #[test]
    fn many_links_need_many_files() {
        let mut machine = machine();
        machine.process.files = Some(1024);
        assert_eq!(find(&machine, "files").level, Level::Ok);
        machine.wants.links.resize(300, Default::default());
        machine.process.daemon = Some(7);
        let finding = find(&machine, "files");
        assert_eq!(finding.level, Level::Warning);
        assert_eq!(finding.remedy, ["prlimit --pid 7 --nofile=1564:1564"]);
        machine.process.files = None;
        assert_eq!(find(&machine, "files").level, Level::NotChecked);
    }

    #[test]
    fn the_filter_needs_its_file_system() {
        let mut machine = with(&[], None);
        for (seen, level) in
            [(Some(true), Level::Ok), (Some(false), Level::Failure), (None, Level::NotChecked)]
        {
            machine.process.bpffs = seen;
            assert_eq!(find(&machine, "bpffs").level, level);
        }
        machine.process.bpffs = Some(false);
        assert_eq!(find(&machine, "bpffs").remedy, ["mount -t bpf bpf /sys/fs/bpf"]);
    }
}
