//! What `/proc` says: settings, processes, sockets.
//!
//! Here live readers only. What cannot be read is absent, or says why. `/proc/thread-self/net` is the
//! calling thread's network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use caps::Capability;
use rustix::fs::{Access, access};

use crate::{
    core::doctor::seen::{PortOwner, PortSeen, ProcessSeen, Seen},
    target::filter::features::is_on_bpffs,
};

const NET: &str = "/proc/thread-self/net";
/// `TCP_LISTEN`, include/net/tcp_states.h.
const LISTENS: &str = "0A";

/// The kernel's release.
pub(super) fn release() -> Seen<String> {
    read("/proc/sys/kernel/osrelease").map(|release| release.trim().to_owned())
}

/// The settings that exist.
pub(super) fn sysctls(paths: &[String]) -> BTreeMap<String, i64> {
    let value = |path: &String| {
        let text = fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
        Some((path.clone(), text.trim().parse().ok()?))
    };
    paths.iter().filter_map(value).collect()
}

/// Whether a directory exists, and whether this process may write there.
pub(super) fn is_writable(directory: &Path) -> Option<bool> {
    directory.is_dir().then(|| access(directory, Access::WRITE_OK | Access::EXEC_OK).is_ok())
}

/// What the daemon may do; without one, what this process may.
pub(super) fn process(daemon: Option<u32>, filter: Option<&str>) -> ProcessSeen {
    let of = daemon.map_or("self".to_owned(), |process| process.to_string());
    ProcessSeen {
        daemon,
        capabilities: capabilities(&of),
        files: files(&of),
        initial_user: is_initial_user(&of),
        bpffs: filter.and_then(|directory| is_on_bpffs(Path::new(directory))),
    }
}

fn read(path: impl AsRef<Path>) -> Seen<String> {
    let path = path.as_ref();
    fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
}

/// Effective capabilities (proc_pid_status(5)).
fn capabilities(of: &str) -> Seen<Vec<String>> {
    let status = read(format!("/proc/{of}/status"))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.ok_or_else(|| format!("/proc/{of}/status has no CapEff"))?;
    let held = |capability: &Capability| mask & capability.bitmask() != 0;
    Ok(caps::all().into_iter().filter(held).map(|held| held.to_string()).collect())
}

/// How many files may be open (proc_pid_limits(5)).
fn files(of: &str) -> Option<u64> {
    let limits = fs::read_to_string(format!("/proc/{of}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

/// The initial user namespace maps everybody to themselves (user_namespaces(7)).
fn is_initial_user(of: &str) -> bool {
    let map = fs::read_to_string(format!("/proc/{of}/uid_map")).unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// What daemons have locked: the interface, or `None` for the filter, and the socket's number. See
/// [`crate::daemon::lock`].
pub(super) fn locks() -> Vec<(Option<String>, u64)> {
    let sockets = fs::read_to_string(format!("{NET}/unix")).unwrap_or_default();
    sockets.lines().filter_map(lock).collect()
}

fn lock(line: &str) -> Option<(Option<String>, u64)> {
    // Num RefCount Protocol Flags Type St Inode Path
    let mut fields = line.split_whitespace().skip(6);
    let (inode, name) = (fields.next()?.parse().ok()?, fields.next()?);
    let name = name.strip_prefix("@wgrouted/")?;
    // The filter's has a slash, which no interface has.
    Some(((name != "/filter").then(|| name.to_owned()), inode))
}

/// Sockets that are bound to a port: those of UDP, and those of TCP that listen; with their numbers.
pub(super) fn ports() -> Seen<Vec<(PortSeen, u64)>> {
    let mut all = Vec::new();
    for (file, tcp) in [("udp", false), ("udp6", false), ("tcp", true), ("tcp6", true)] {
        match read(format!("{NET}/{file}")) {
            Ok(text) => all.extend(text.lines().skip(1).filter_map(|line| port(line, tcp))),
            // Without IPv6.
            Err(_) if file.ends_with('6') => {}
            Err(because) => return Err(because),
        }
    }
    Ok(all)
}

fn port(line: &str, tcp: bool) -> Option<(PortSeen, u64)> {
    // sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode
    let fields: Vec<&str> = line.split_whitespace().collect();
    if tcp && *fields.get(3)? != LISTENS {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    // Words of network order, printed as numbers of this machine.
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(address.get(8 * at..8 * at + 8)?, 16).ok()?.to_ne_bytes())
    };
    let ip = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    let inode = fields.get(9)?.parse().ok()?;
    Some((PortSeen { tcp, address: SocketAddr::new(ip, port), owner: None }, inode))
}

/// Which process has which of these sockets, as far as this one may look.
pub(super) fn owners(sockets: &BTreeSet<u64>) -> BTreeMap<u64, u32> {
    let mut owners = BTreeMap::new();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes {
        let Some(number) = process.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        for file in fs::read_dir(process.path().join("fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(file.path()) else { continue };
            let socket = target.to_str().and_then(|text| {
                text.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
            });
            if let Some(socket) = socket.filter(|socket| sockets.contains(socket)) {
                owners.entry(socket).or_insert(number);
            }
        }
    }
    owners
}

/// What a process is called, and which systemd unit it is in.
pub(super) fn owner(process: u32) -> PortOwner {
    let text =
        |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
    // hierarchy:controllers:/system.slice/some.service (cgroups(7))
    let groups = text("cgroup");
    let last = groups.lines().find_map(|line| line.rsplit('/').next());
    let unit = last.filter(|last| last.ends_with(".service")).map(str::to_owned);
    PortOwner { process, name: text("comm").trim().to_owned(), unit }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn sockets_and_their_owners_are_found() {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = TcpListener::bind("[::1]:0").unwrap();
        let ports = ports().unwrap();
        let owners = owners(&ports.iter().map(|(_, inode)| *inode).collect());
        for (tcp, address) in
            [(false, udp.local_addr().unwrap()), (true, tcp.local_addr().unwrap())]
        {
            let found = ports.iter().find(|(seen, _)| seen.tcp == tcp && seen.address == address);
            let (_, inode) = found.unwrap_or_else(|| panic!("no {address} among {ports:?}"));
            assert_eq!(owners.get(inode), Some(&std::process::id()));
        }
        assert!(!owner(std::process::id()).name.is_empty());
    }

    #[test]
    fn locks_are_found_and_told_apart() {
        let name = format!("doc{}", std::process::id());
        let _lock = crate::daemon::lock::Lock::interface(&name).unwrap();
        let found = locks();
        let (_, inode) = found.iter().find(|(found, _)| found.as_ref() == Some(&name)).unwrap();
        let owners = owners(&BTreeSet::from([*inode]));
        assert_eq!(owners.get(inode), Some(&std::process::id()));
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 4711 @wgrouted//filter";
        assert_eq!(lock(line), Some((None, 4711)));
        assert_eq!(lock(&line.replace("@wgrouted/", "@other/")), None);
    }

    #[test]
    fn this_process_is_looked_at() {
        let seen = process(None, Some("/proc/nowhere"));
        assert!(seen.capabilities.is_ok() && seen.files.unwrap() > 0);
        assert_eq!(seen.bpffs, Some(false));
        assert!(release().unwrap().contains('.'));
        assert_eq!(is_writable(Path::new("/nowhere")), None);
        assert_eq!(is_writable(&std::env::temp_dir()), Some(true));
        let paths = ["net/ipv4/ip_forward".to_owned(), "net/nothing".to_owned()];
        assert_eq!(sysctls(&paths).len(), 1);
    }
}
