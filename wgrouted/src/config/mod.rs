//! The configuration: from TOML to the plain data that the core works with.
//!
//! A file is read in two stages, so that every mistake in it is reported at once and at its
//! place: `raw` is what was written, `meaning` is what it means, with [`defaults`] filled in
//! and contradictions refused. Nothing here opens a socket or needs a privilege. Invariant: a
//! [`Config`] that exists is valid.

mod document;
mod error;
mod meaning;
mod names;
mod raw;
mod value;

pub mod api;
pub mod defaults;
pub mod exits;
pub mod filter;
pub mod links;
pub mod reach;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

pub use self::{
    api::Api,
    error::{ConfigError, ConfigErrors, Position, Problem},
    filter::Filter,
    names::{NameKind, Names},
    value::{interface_name, log_filter},
};
use crate::core::{
    exits::rule::FlowsRule,
    filter::rule::FilterRule,
    links::rule::LinkRule,
    reach::rule::ReachRule,
    rule::{Audit, InterfaceRule},
};

/// A valid configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// What concerns the daemon as a whole.
    pub daemon: Daemon,
    /// What concerns the packet filter as a whole.
    pub filter: Filter,
    /// What concerns reachability as a whole.
    pub reach: ReachRule,
    /// Who may ask over TCP.
    pub api: Api,
    /// The interfaces, at least one, in file order.
    pub interfaces: Vec<InterfaceRule>,
    /// The links that we make: devices before the tunnels inside them.
    pub links: Vec<LinkRule>,
    /// Exits and the flows that leave by them.
    pub flows: FlowsRule,
}

/// What concerns the daemon as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Where the control socket and learned pinned prefixes live.
    pub runtime_dir: PathBuf,
    /// Netlink receive buffer in bytes.
    pub receive_buffer: usize,
    /// At most one full route dump per this time after overruns.
    pub resync_interval: Duration,
    /// Log filter, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
}

impl Default for Daemon {
    fn default() -> Self {
        Daemon {
            runtime_dir: defaults::RUNTIME_DIR.into(),
            receive_buffer: defaults::RECEIVE_BUFFER,
            resync_interval: defaults::RESYNC_INTERVAL,
            log: defaults::LOG.to_owned(),
        }
    }
}

/// An interface with nothing configured but its name.
fn interface_defaults(name: String) -> InterfaceRule {
    InterfaceRule {
        name,
        link: defaults::LINK,
        tables: Vec::new(),
        managed: defaults::MANAGED.to_vec(),
        delete_hold: defaults::DELETE_HOLD,
        coalesce: defaults::COALESCE,
        message_size: defaults::MESSAGE_SIZE,
        adopt: defaults::ADOPT,
        on_exit: defaults::ON_EXIT,
        audit: defaults::AUDIT_INTERVAL,
        peers: Vec::new(),
        filter: None,
        tunnels: Vec::new(),
        reach: None,
    }
}

/// Where a configuration comes from; kept so that SIGHUP can load it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// No file: these interfaces with default settings.
    Interfaces(Vec<String>),
}

impl Source {
    /// Loads the configuration.
    pub fn load(&self) -> Result<Config, ConfigErrors> {
        match self {
            Source::File(path) => Config::load(path),
            Source::Interfaces(names) => Ok(Config::for_interfaces(names)),
        }
    }
}

impl Config {
    /// Reads and validates a file; the names of tables, protocols and realms are this machine's.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let bytes = fs::read(path).map_err(|error| ConfigErrors::unreadable(path, error))?;
        Self::from_bytes(&bytes, path, &Names::system())
    }

    /// Validates the contents of a file. Nothing but the arguments is read; `file` is what errors
    /// call it.
    pub fn from_bytes(bytes: &[u8], file: &Path, names: &Names) -> Result<Self, ConfigErrors> {
        let (text, encoding) = match str::from_utf8(bytes) {
            Ok(text) => (text, Ok(())),
            Err(error) => {
                let text = str::from_utf8(&bytes[..error.valid_up_to()]);
                (text.expect("valid up to here"), Err(error.valid_up_to()))
            }
        };
        // Windows editors begin UTF-8 files with a byte order mark, which is no column.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let report = document::Report::new(text);
        let mut config = None;
        if encoding.is_err() {
            report.add(text.len(), "", Problem::Encoding);
        } else if let Some(document) = document::Section::document(&report) {
            config = Some(meaning::config(raw::RawConfig::read(document, names), &report));
        }
        let errors = report.into_errors();
        match config {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(ConfigErrors { file: file.to_owned(), errors }),
        }
    }

    /// The configuration without a file: default settings for these interfaces, each of which
    /// passed [`interface_name`]. One that is named twice counts once.
    pub fn for_interfaces<S: AsRef<str>>(names: &[S]) -> Self {
        let mut interfaces: Vec<InterfaceRule> = Vec::new();
        for name in names.iter().map(AsRef::as_ref) {
            if interfaces.iter().all(|interface| interface.name != name) {
                interfaces.push(interface_defaults(name.to_owned()));
            }
        }
        Config {
            daemon: Daemon::default(),
            filter: Filter::default(),
            reach: reach::rule_defaults(),
            api: Api::default(),
            interfaces,
            links: Vec::new(),
            flows: exits::rule_defaults(),
        }
    }

    /// The packet filter's rule, if an interface is filtered.
    pub fn filter_rule(&self) -> Option<FilterRule> {
        let filtered = self.interfaces.iter().any(|interface| interface.filter.is_some());
        filtered.then(|| self.filter.rule.clone())
    }

    /// How often what there is is compared with what there should be.
    pub fn audit(&self) -> Audit {
        self.interfaces.first().map_or(defaults::AUDIT_INTERVAL, |interface| interface.audit)
    }

    /// What `wgrouted check` says about a valid configuration.
    pub fn summary(&self) -> Summary {
        Summary {
            interfaces: self.interfaces.len(),
            peers: self.interfaces.iter().map(|interface| interface.peers.len()).sum(),
            exits: self.flows.exits.len(),
            flows: self.flows.flows.len(),
        }
    }
}

/// How much a configuration configures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Interfaces.
    pub interfaces: usize,
    /// Peers of all interfaces that the configuration names.
    pub peers: usize,
    /// Exits.
    pub exits: usize,
    /// Flows.
    pub flows: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = |n| if n == 1 { "" } else { "s" };
        let Summary { interfaces, peers, exits, flows } = *self;
        write!(
            f,
            "ok: {interfaces} interface{}, {peers} peer{}",
            plural(interfaces),
            plural(peers)
        )?;
        if exits > 0 || flows > 0 {
            write!(f, ", {exits} exit{}, {flows} flow{}", plural(exits), plural(flows))?;
        }
        Ok(())
    }
}

/// Validates a file as `wgrouted check` does. Needs no privilege but to read it.
pub fn check(path: &Path) -> Result<Summary, ConfigErrors> {
    Ok(Config::load(path)?.summary())
}
