//! `wgrouted doctor`: what is wrong with this machine.
//!
//! Here lives the edge: it looks at the kernel, the network and processes, and lets
//! [`crate::core::doctor`] judge. Invariant: it changes nothing. What can only be found out by doing is
//! done in a network namespace of its own; the kernel may load modules for it, as it would for the
//! daemon.

mod clock;
mod features;
mod network;
mod procfs;
pub mod view;
mod wants;

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    config::{Config, Source, defaults},
    core::doctor::{
        examine,
        finding::Report,
        seen::{DaemonSeen, LockSeen, Machine, PortSeen, Seen},
        sysctl,
        wants::Wants,
    },
    serve::client::{Client, ClientError},
    source::netns,
    target::links::Mark,
};

/// What to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// The configuration.
    pub source: Source,
    /// It was asked for; otherwise it need not exist.
    pub asked: bool,
    /// Stands above the configuration's.
    pub runtime_dir: Option<PathBuf>,
    /// The network namespace that the process has entered.
    pub netns: Option<String>,
}

/// Looks at the machine and judges it.
pub fn run(options: &Options) -> Report {
    let (config, mut daemon) = configuration(options);
    let directory = options
        .runtime_dir
        .clone()
        .or_else(|| config.as_ref().map(|config| config.daemon.runtime_dir.clone()));
    let directory = directory.unwrap_or_else(|| defaults::RUNTIME_DIR.into());
    let mut kernel = network::open(&Mark::new(&directory));
    let links = kernel.as_mut().map_err(|because| because.clone()).and_then(network::Kernel::links);
    let config = config.unwrap_or_else(|| {
        let devices = links.iter().flatten().filter(|link| network::is_wireguard(link));
        let names: Vec<_> = devices.map(|link| &link.name).collect();
        Config::for_interfaces(&names)
    });
    let wants = wants::of(&config, &directory);
    let names = links.iter().flatten().map(|link| link.name.as_str());
    let sysctls = procfs::sysctls(&sysctl::paths(names));
    let network = match (kernel, links) {
        (Ok(mut kernel), Ok(links)) => Ok(kernel.network(links, &wants)),
        (Err(because), _) | (_, Err(because)) => Err(because),
    };
    let (locks, ports) = sockets();
    daemon.locks = locks;
    daemon.answers = answers(&Client::new(&directory));
    daemon.runtime_dir = procfs::is_writable(&directory);
    let machine = Machine {
        release: procfs::release(),
        features: features::probe(),
        process: procfs::process(running(&daemon, &wants), wants.filter.as_deref()),
        sysctls,
        network,
        ports,
        clock: clock::look(),
        daemon,
        wants,
    };
    let report = examine(&machine);
    match &options.netns {
        None => report,
        Some(name) => {
            let path = netns::path_of(name).display().to_string();
            Report::of(report.findings.into_iter().map(|f| f.from_outside(&path)).collect())
        }
    }
}

/// The configuration, if there is one that is right, and what is wrong with it otherwise.
fn configuration(options: &Options) -> (Option<Config>, DaemonSeen) {
    let mut seen = DaemonSeen::default();
    if let Source::File(path) = &options.source {
        if !options.asked && !path.exists() {
            return (None, seen);
        }
        seen.file = Some(path.display().to_string());
    }
    seen.chosen = true;
    match options.source.load() {
        Ok(config) => (Some(config), seen),
        Err(errors) => {
            seen.errors = errors.to_string().lines().map(str::to_owned).collect();
            (None, seen)
        }
    }
}

/// Whether a daemon answers.
fn answers(client: &Client) -> Option<Seen<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let asked = match runtime {
        Ok(runtime) => runtime.block_on(client.get("/v1/status")),
        Err(error) => return Some(Err(error.to_string())),
    };
    match asked {
        Ok(_) => Some(Ok(())),
        Err(ClientError::NoDaemon(_)) => None,
        Err(error) => Some(Err(error.to_string())),
    }
}

/// What daemons have locked, and who has which port.
fn sockets() -> (Vec<LockSeen>, Seen<Vec<PortSeen>>) {
    let locks = procfs::locks();
    let ports = procfs::ports();
    let inodes = locks.iter().map(|(_, inode)| *inode);
    let inodes = inodes.chain(ports.iter().flatten().map(|(_, inode)| *inode)).collect();
    let owners: BTreeMap<u64, u32> = procfs::owners(&inodes);
    let lock = |(interface, inode)| LockSeen { interface, process: owners.get(&inode).copied() };
    let port = |(seen, inode)| {
        let owner = owners.get(&inode).map(|process| procfs::owner(*process));
        PortSeen { owner, ..seen }
    };
    (
        locks.into_iter().map(lock).collect(),
        ports.map(|ports| ports.into_iter().map(port).collect()),
    )
}

/// The process of the daemon that answers, as far as locks tell.
fn running(daemon: &DaemonSeen, wants: &Wants) -> Option<u32> {
    daemon.answers.as_ref()?;
    let ours = |lock: &&LockSeen| {
        let name = lock.interface.as_ref();
        name.is_some_and(|name| wants.links.iter().any(|link| link.name == *name))
    };
    daemon.locks.iter().find(ours)?.process
}
