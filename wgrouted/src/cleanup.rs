//! `wgrouted cleanup`: takes away what wgrouted has left.
//!
//! Here lives the order of it: what leads packets before what they are led to, and links last. Each
//! part knows what is its own, and removes nothing else. Invariant: it holds the daemon's locks
//! meanwhile, so no daemon with these interfaces runs, or starts.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{
    config::Config,
    core::{
        reach::route::{OurRoute, Owned, PROTOCOL},
        route::{IfIndex, Link},
    },
    daemon::{
        links,
        lock::{Lock, LockError},
    },
    exits::{self, ExitsError},
    serve::{
        SOCKET,
        client::{Client, ClientError},
    },
    source::rtnetlink::{self, Dumper},
    target::{
        filter::{FilterTarget, KernelFilter},
        klink::KernelLinks,
        kroute::KernelRoutes,
        links::LinkError,
    },
};

/// Why nothing, or not everything, was taken away.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    /// A daemon runs with this runtime directory.
    #[error("a daemon runs and answers on {}: stop it first", .0.display())]
    Running(PathBuf),
    /// A daemon has one of the interfaces, or the filter.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// Links and routes cannot be read or removed.
    #[error(transparent)]
    Network(#[from] rtnetlink::Error),
    /// Managed links cannot be read or removed.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// Some of them were not.
    #[error("not everything was removed: {}", .0.join("; "))]
    Left(Vec<String>),
    /// Flows cannot be read or removed.
    #[error(transparent)]
    Exits(#[from] ExitsError),
    /// The filter cannot be removed.
    #[error("the packet filter: {0}")]
    Filter(String),
    /// The event loop cannot be started.
    #[error("cannot ask whether a daemon runs: {0}")]
    System(#[from] std::io::Error),
}

/// Takes away what a daemon with this configuration and runtime directory has left. Returns what was,
/// or with `dry` would be, removed, each in words.
pub fn cleanup(
    config: &Config,
    runtime_dir: &Path,
    dry: bool,
) -> Result<Vec<String>, CleanupError> {
    refuse_if_running(runtime_dir)?;
    let mut locks = Vec::new();
    for rule in &config.interfaces {
        locks.push(Lock::interface(&rule.name)?);
    }
    locks.push(Lock::filter()?);

    let mut removed = exits::cleanup(runtime_dir, dry)?;
    let all = Dumper::open()?.links()?;
    let ours = |link: &&Link| config.interfaces.iter().any(|rule| rule.name == link.name);
    let ours: Vec<&Link> = all.iter().filter(ours).collect();
    removed.extend(routes(config, &ours, dry)?);
    removed.extend(dormant(config, &ours, dry)?);
    removed.extend(filter(config, &all, &ours, dry)?);
    let (steps, problems) = links::cleanup(runtime_dir, dry)?;
    removed.extend(steps);
    match problems.is_empty() {
        true => Ok(removed),
        false => Err(CleanupError::Left(problems)),
    }
}

fn refuse_if_running(runtime_dir: &Path) -> Result<(), CleanupError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(Client::new(runtime_dir).get("/v1/status")) {
        Err(ClientError::NoDaemon(_)) => Ok(()),
        // Whoever listens there and does not answer is a daemon all the same.
        _ => Err(CleanupError::Running(runtime_dir.join(SOCKET))),
    }
}

/// Routes that were announced: of our protocols, through our links.
fn routes(config: &Config, ours: &[&Link], dry: bool) -> Result<Vec<String>, rtnetlink::Error> {
    let announced =
        config.interfaces.iter().filter_map(|rule| rule.reach.as_ref()?.announce.as_ref());
    let mut protocols: BTreeSet<u8> = announced.map(|rule| rule.protocol).collect();
    protocols.insert(PROTOCOL);
    let links: BTreeSet<IfIndex> = ours.iter().map(|link| link.index).collect();
    let owned = Owned { protocols, links };
    let mut kernel = KernelRoutes::open()?;
    let routes = kernel.dump(&owned.protocols)?;
    let mut removed = Vec::new();
    for route in routes.iter().filter(|route| owned.holds(route)) {
        if dry || kernel.remove(route)? {
            removed.push(format!("{}: remove route {}", name(ours, route), Shown(route)));
        }
    }
    Ok(removed)
}

fn name<'a>(links: &[&'a Link], route: &OurRoute) -> &'a str {
    links.iter().find(|link| link.index == route.oif).map_or("", |link| link.name.as_str())
}

/// A route without its link.
struct Shown<'a>(&'a OurRoute);

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let OurRoute { place, protocol, gateway, .. } = self.0;
        write!(f, "{} ", place.prefix)?;
        if let Some(gateway) = gateway {
            write!(f, "via {gateway} ")?;
        }
        write!(f, "table {} metric {} proto {protocol}", place.table, place.metric)
    }
}

/// Links that a killed daemon has left dormant.
fn dormant(config: &Config, ours: &[&Link], dry: bool) -> Result<Vec<String>, rtnetlink::Error> {
    let mut kernel = KernelLinks::open()?;
    let mut woken = Vec::new();
    for rule in &config.interfaces {
        let Some(link) = ours.iter().find(|link| link.name == rule.name) else { continue };
        if rule.reach.as_ref().is_some_and(|reach| reach.dormant)
            && kernel.is_dormant(link.index)? == Some(true)
        {
            if !dry {
                kernel.set_dormant(link.index, false)?;
            }
            woken.push(format!("{}: let it be up again, it is dormant", rule.name));
        }
    }
    Ok(woken)
}

/// The filter, if it is on our interfaces only. It is one for the whole network namespace.
fn filter(
    config: &Config,
    all: &[Link],
    ours: &[&Link],
    dry: bool,
) -> Result<Vec<String>, CleanupError> {
    let refused =
        |error: crate::core::filter::table::FilterError| CleanupError::Filter(error.to_string());
    let mut filter = KernelFilter::new(&config.filter.directory);
    if !filter.exists().map_err(refused)? {
        return Ok(Vec::new());
    }
    let devices = filter.devices().map_err(refused)?;
    let stranger = all.iter().find(|link| {
        devices.contains(&link.index) && !ours.iter().any(|our| our.index == link.index)
    });
    if let Some(stranger) = stranger {
        return Err(CleanupError::Filter(format!(
            "it is on {} too, which is not configured here: name it in the configuration, or with \
             --interface",
            stranger.name
        )));
    }
    if !dry {
        filter.remove().map_err(refused)?;
    }
    let mut removed = vec![format!(
        "the packet filter and what is pinned in {}",
        config.filter.directory.display()
    )];
    let open = config.interfaces.iter().filter(|rule| {
        rule.filter.as_ref().is_some_and(|filter| filter.open)
            && ours.iter().any(|link| link.name == rule.name)
    });
    removed.extend(open.map(|rule| {
        format!(
            "{}: its peer may now send with any source, as its AllowedIPs say: narrow them with `wg \
             set {} peer KEY allowed-ips …`",
            rule.name, rule.name
        )
    }));
    Ok(removed)
}
