//! The command line, as data.
//!
//! Here live the commands, their arguments and their help; man pages and shell completions are
//! generated from the same definition. What a command does is `main`'s business.

mod machine;

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

pub use self::machine::{Cleanup, Doctor};
use crate::{
    config::{self, Source, defaults},
    filter::probe::Fragment,
    reach::top::Sort,
};

/// Keep WireGuard's AllowedIPs equal to the kernel's routes
///
/// A routing daemon such as BIRD, babeld or FRR installs routes through a WireGuard interface;
/// wgrouted watches the kernel's routing tables and gives each routed prefix to the peer that the
/// route leads to.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "wgrouted",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_long_help = "Exit status: 0 success, 1 failure at run time, 2 wrong usage or \
                       configuration.\n\nExample: follow every route via a peer of wg0, without a \
                       configuration file:\n  wgrouted run --interface wg0"
)]
pub struct Cli {
    /// What applies to every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What applies to every command.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Directory of the control socket and of what was learned about peers
    ///
    /// Stands above `runtime_dir` in the configuration file; /run/wgrouted if neither is given.
    /// Commands that talk to a running daemon need the same directory as the daemon.
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub runtime_dir: Option<PathBuf>,
    /// Work in a network namespace, as `ip netns` names it
    ///
    /// Entering a namespace needs CAP_SYS_ADMIN; under systemd use NetworkNamespacePath= instead.
    #[arg(long, global = true, value_name = "NAME")]
    pub netns: Option<String>,
}

/// The commands.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Follow routes and keep AllowedIPs equal to them
    ///
    /// Runs in the foreground until SIGTERM. SIGHUP loads the configuration again and leaves
    /// untouched what did not change in it. An interface that does not exist is waited for.
    #[command(after_long_help = "Examples:\n  \
        wgrouted run\n  \
        wgrouted run --config ./wgrouted.toml --log info,wgrouted::target=debug\n  \
        wgrouted run --interface wg0 --interface wg1")]
    Run(Run),
    /// Validate a configuration file
    ///
    /// Needs no privilege and touches nothing. Prints every error with its line, column and key.
    #[command(after_long_help = "Example:\n  wgrouted check --config ./wgrouted.toml")]
    Check(Check),
    /// Show what would change, and change nothing
    ///
    /// Compares the kernel's routes with what WireGuard holds now, as `run` would at its start.
    /// Works with and without a running daemon.
    #[command(after_long_help = "Example:\n  wgrouted plan --interface wg0 --json")]
    Plan(Plan),
    /// Show what the running daemon knows
    #[command(after_long_help = "Examples:\n  \
        wgrouted show\n  \
        wgrouted show unresolved --interface wg0")]
    Show(Show),
    /// Show which peers can be reached, and how that is known
    #[command(after_long_help = "Example:\n  wgrouted peers --interface wg0")]
    Peers(Only),
    /// Show changes of peers as they come
    ///
    /// Begins with how everything is; ends with the daemon.
    #[command(after_long_help = "Examples:\n  \
        wgrouted watch\n  \
        wgrouted watch --json | jq 'select(.event == \"state\")'")]
    Watch(Only),
    /// Show peers with their state, round-trip time, rates, routes and drops, again every second
    ///
    /// Keys: q ends it, s sorts by something else. Prints once where it cannot be interactive.
    #[command(after_long_help = "Example:\n  wgrouted top --sort rtt")]
    Top(Top),
    /// Show exits with their links, and flows with their rules in the kernel
    ///
    /// Links in use stand in brackets. What is not as configured is told, with the reason.
    #[command(after_long_help = "Example:\n  wgrouted exits")]
    Exits(Exits),
    /// Put flows in force once, and exit
    ///
    /// For early boot: a daemon that starts later takes over. Links that do not exist yet count as down,
    /// so what is to be blocked then is blocked before the network is up.
    #[command(
        after_long_help = "Example:\n  wgrouted enforce --config /etc/wgrouted/wgrouted.toml"
    )]
    Enforce(Enforce),
    /// Explain where a packet goes, which peer gets it, and why
    ///
    /// Follows it through policy rules and routing tables as the kernel does, asks the kernel whether
    /// that is so, and goes on to the peer and to the way back. Then names the route that gave the
    /// address to its peer, the alternatives that lost, and what WireGuard has installed.
    #[command(after_long_help = "Exit status: 0 if the packet gets somewhere, 1 if not.\n\n\
        Examples:\n  \
        wgrouted explain 192.0.2.1\n  \
        wgrouted explain 192.0.2.1 --uid 1000 --proto tcp --dport 443\n  \
        wgrouted explain 192.0.2.1 --from 10.1.0.7 --iif eth0 --mark 0x10")]
    Explain(Explain),
    /// Check this machine, and explain what is wrong with it
    ///
    /// Looks at the kernel's features, privileges, sysctls, the ways of WireGuard's own packets,
    /// others' rules, ports, MTUs and the clock, with and without a running daemon, and prints the
    /// command that mends what is wrong. It changes nothing; as root it sees more. The exit status is
    /// 1 if something fails. Without a configuration it looks at all WireGuard devices.
    #[command(after_long_help = "Examples:\n  \
        wgrouted doctor\n  \
        wgrouted doctor --config ./wgrouted.toml --verbose\n  \
        wgrouted doctor --interface wg0 --json | jq '.findings[] | select(.level == \"failure\")'")]
    Doctor(Doctor),
    /// Remove what wgrouted has left: managed links, announced routes, flows, the packet filter
    ///
    /// Refuses while a daemon runs with these interfaces or this directory. Removes nothing that
    /// somebody else made, and leaves AllowedIPs as they are.
    #[command(after_long_help = "Examples:\n  \
        wgrouted cleanup --dry-run\n  \
        wgrouted cleanup --config ./wgrouted.toml")]
    Cleanup(Cleanup),
    /// Let the running daemon read everything again and repair what differs
    #[command(after_long_help = "Example:\n  wgrouted resync")]
    Resync,
    /// Feed a recording of `run --record` to the core and print what it decides
    #[command(after_long_help = "Example:\n  \
        wgrouted run --interface wg0 --record /tmp/wg0.jsonl\n  \
        wgrouted replay /tmp/wg0.jsonl")]
    Replay(Replay),
    /// Ask about the packet filter
    Filter(Filter),
    /// Print completions for a shell
    #[command(after_long_help = "Example:\n  \
        wgrouted completions bash > /usr/share/bash-completion/completions/wgrouted")]
    Completions(Completions),
    /// Print the manual page
    #[command(after_long_help = "Examples:\n  \
        wgrouted man | man -l -\n  \
        wgrouted man --directory /usr/share/man/man1")]
    Man(Man),
}

/// Which interfaces, with which settings.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        default_value = defaults::CONFIG_FILE,
        conflicts_with = "interface"
    )]
    pub config: PathBuf,
    /// Interface to work on with default settings, without a configuration file (repeatable)
    #[arg(short, long, value_name = "IF", value_parser = config::interface_name)]
    pub interface: Vec<String>,
}

impl Selection {
    /// Whether nothing was selected, so that a running daemon's own configuration is meant.
    pub fn is_default(&self) -> bool {
        self.interface.is_empty() && self.config.as_os_str() == defaults::CONFIG_FILE
    }

    /// Where the configuration comes from.
    pub fn source(&self) -> Source {
        if self.interface.is_empty() {
            Source::File(self.config.clone())
        } else {
            Source::Interfaces(self.interface.clone())
        }
    }
}

/// Arguments of `run`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What to follow.
    #[command(flatten)]
    pub selection: Selection,
    /// Record every event to a file, one JSON object a line, for `replay`
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub record: Option<PathBuf>,
    /// Log filter, such as debug or info,wgrouted::target=debug
    ///
    /// Stands above `log` in the configuration file; info if neither is given.
    #[arg(long, value_name = "FILTER", value_parser = config::log_filter)]
    pub log: Option<String>,
}

/// Arguments of `check` and `filter check`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        default_value = defaults::CONFIG_FILE
    )]
    pub config: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `plan`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What to plan for.
    #[command(flatten)]
    pub selection: Selection,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `show`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Show {
    /// What to show
    #[arg(value_enum, default_value_t)]
    pub view: View,
    /// Only this interface
    #[arg(short, long, value_name = "IF", value_parser = config::interface_name)]
    pub interface: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// What `show` can show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum View {
    /// State and counters of each interface
    #[default]
    Status,
    /// Followed routes, each with its peer
    Routes,
    /// Peers with their pinned and synced prefixes
    Peers,
    /// Routes that belong to no peer, each with the reason
    Unresolved,
    /// Routes that lost to another route for the same prefix
    Shadowed,
}

/// Arguments of `explain`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Explain {
    /// IPv4 or IPv6 address that the packet goes to
    pub address: IpAddr,
    /// Its source [default: the one that the kernel chooses]
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<IpAddr>,
    /// Link that it comes in by [default: none, it is this host's own]
    #[arg(long, value_name = "IF", value_parser = config::interface_name)]
    pub iif: Option<String>,
    /// Link or VRF that its socket is bound to
    #[arg(long, value_name = "IF", value_parser = config::interface_name)]
    pub oif: Option<String>,
    /// Its mark, such as 16 or 0x10 [default: 0]
    #[arg(long, value_name = "NUMBER", value_parser = number)]
    pub mark: Option<u32>,
    /// Owner of its socket [default: 0]
    #[arg(long, value_name = "NUMBER")]
    pub uid: Option<u32>,
    /// TOS or traffic class, such as 0x10 [default: 0]
    #[arg(long, value_name = "NUMBER", value_parser = octet)]
    pub tos: Option<u8>,
    /// Protocol: a name such as tcp, udp or icmp, or a number
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    pub proto: Option<u8>,
    /// Source port
    #[arg(long, value_name = "PORT", requires = "proto")]
    pub sport: Option<u16>,
    /// Destination port
    #[arg(long, value_name = "PORT", requires = "proto")]
    pub dport: Option<u16>,
    /// Tell of peers of this interface only
    #[arg(short, long, value_name = "IF", value_parser = config::interface_name)]
    pub interface: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl Explain {
    /// Whether more is said of the packet than where it goes.
    pub fn is_about_a_packet(&self) -> bool {
        let Explain { from, iif, oif, mark, uid, tos, proto, sport, dport, .. } = self;
        from.is_some()
            || [iif, oif].into_iter().any(Option::is_some)
            || [mark, uid].into_iter().any(Option::is_some)
            || [tos, proto].into_iter().any(Option::is_some)
            || [sport, dport].into_iter().any(Option::is_some)
    }
}

/// A number as `ip` takes it.
fn number(text: &str) -> Result<u32, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|_| format!("`{text}` is no number: write 16 or 0x10"))
}

fn octet(text: &str) -> Result<u8, String> {
    let wide = number(text)?;
    u8::try_from(wide).map_err(|_| format!("`{text}` is no octet: write a number up to 0xff"))
}

/// Arguments of `replay`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The recording
    #[arg(value_hint = ValueHint::FilePath)]
    pub file: PathBuf,
}

/// Arguments of `filter`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What to do.
    #[command(subcommand)]
    pub command: FilterCommand,
}

/// The commands of `filter`.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum FilterCommand {
    /// Compile the policies of a configuration file
    ///
    /// Needs no privilege and touches nothing. Prints how links and peers are filtered, what the
    /// policies' rules mean, and how much of the maps' room they take; or every error with its
    /// line, column and key.
    #[command(after_long_help = "Example:\n  wgrouted filter check --config ./wgrouted.toml")]
    Check(Check),
    /// Show links, peers, modes and counters
    #[command(after_long_help = "Example:\n  wgrouted filter show --interface wg-b")]
    Show(Only),
    /// Show dropped packets as they come
    ///
    /// Samples: the daemon's `samples` bounds how many a second are taken.
    #[command(after_long_help = "Example:\n  wgrouted filter watch --json")]
    Watch(Only),
    /// Ask what becomes of a packet
    ///
    /// Answers as the first packet of a flow is judged: once by the library, over the maps as the
    /// daemon believes them to be, and once by the program that is loaded.
    #[command(after_long_help = "Examples:\n  \
        wgrouted filter test --peer exit-b --src 192.0.2.1 --dst 10.0.0.1 --proto tcp --dport 22\n  \
        wgrouted filter test --peer exit-b --src 192.0.2.1 --dst 10.0.0.1 --proto icmp\n  \
        wgrouted filter test --tunnel gre-b --src 192.0.2.1 --dst 10.0.0.1")]
    Test(FilterTest),
}

/// Arguments of commands that may be about one interface only.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Only {
    /// Only this interface
    #[arg(short, long, value_name = "IF", value_parser = config::interface_name)]
    pub interface: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `enforce`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Enforce {
    /// Configuration file
    #[arg(
        short,
        long,
        value_name = "FILE",
        value_hint = ValueHint::FilePath,
        default_value = defaults::CONFIG_FILE
    )]
    pub config: PathBuf,
}

/// Arguments of `exits`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Exits {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `top`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Top {
    /// Only this interface
    #[arg(short, long, value_name = "IF", value_parser = config::interface_name)]
    pub interface: Option<String>,
    /// What comes first
    #[arg(short, long, value_enum, default_value_t)]
    pub sort: Sort,
    /// Print once
    #[arg(long)]
    pub once: bool,
}

/// Arguments of `filter test`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct FilterTest {
    /// The peer that sends the packet, by name or public key
    #[arg(short, long, value_name = "PEER", required_unless_present = "tunnel")]
    pub peer: Option<String>,
    /// The tunnel through which it sends it
    #[arg(short, long, value_name = "TUNNEL", value_parser = config::interface_name)]
    pub tunnel: Option<String>,
    /// Its interface, if it is on several
    #[arg(short, long, value_name = "IF", value_parser = config::interface_name)]
    pub interface: Option<String>,
    /// Source address
    #[arg(long, value_name = "ADDRESS")]
    pub src: IpAddr,
    /// Destination address
    #[arg(long, value_name = "ADDRESS")]
    pub dst: IpAddr,
    /// Protocol: a name such as tcp, udp or icmp, or a number [default: icmp or icmpv6]
    #[arg(long, value_name = "PROTOCOL", value_parser = protocol)]
    pub proto: Option<u8>,
    /// Source port
    #[arg(long, value_name = "PORT")]
    pub sport: Option<u16>,
    /// Destination port
    #[arg(long, value_name = "PORT")]
    pub dport: Option<u16>,
    /// ICMP type [default: echo request]
    #[arg(long, value_name = "NUMBER")]
    pub icmp_type: Option<u8>,
    /// ICMP code
    #[arg(long, value_name = "NUMBER")]
    pub icmp_code: Option<u8>,
    /// A part of a fragmented packet
    #[arg(long, value_name = "PART")]
    pub fragment: Option<Fragment>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn protocol(text: &str) -> Result<u8, String> {
    let known = || text.parse().ok().or_else(|| config::filter::protocol_number(text));
    known().ok_or_else(|| {
        format!("`{text}` is no protocol: write tcp, udp, icmp, icmpv6 or a number up to 255")
    })
}

/// Arguments of `completions`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct Man {
    /// Write the pages of all commands to this directory instead
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Ok(Cli::try_parse_from(line.split_whitespace())?.command)
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_file_and_interfaces_exclude_each_other() {
        let error = parse("wgrouted run --config x.toml --interface wg0").unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn the_selection_names_the_source() {
        for (line, source) in [
            ("wgrouted run", Source::File(defaults::CONFIG_FILE.into())),
            ("wgrouted run -c x.toml", Source::File("x.toml".into())),
            ("wgrouted run -i wg0 -i wg1", Source::Interfaces(vec!["wg0".into(), "wg1".into()])),
        ] {
            let Command::Run(run) = parse(line).unwrap() else { panic!("{line} is not run") };
            assert_eq!(run.selection.source(), source);
        }
    }

    #[test]
    fn wrong_values_are_usage_errors_that_say_why() {
        for (line, why) in [
            ("wgrouted run -i averylonginterfacename", "1 to 15 bytes"),
            ("wgrouted run --log wgrouted=loud", "is not a log filter"),
            ("wgrouted explain 192.0.2.0/24", "invalid IP address syntax"),
            ("wgrouted explain 192.0.2.1 --mark 0xg", "is no number: write 16 or 0x10"),
            ("wgrouted explain 192.0.2.1 --tos 256", "is no octet"),
            ("wgrouted explain 192.0.2.1 --dport 443", "--proto"),
            ("wgrouted show peer", "peers"),
            ("wgrouted filter", "check"),
            ("wgrouted", "Usage"),
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(why), "{line}: {error}");
        }
    }

    #[test]
    fn global_arguments_may_follow_the_command() {
        let cli = Cli::try_parse_from(["wgrouted", "show", "--netns", "r1"]).unwrap();
        assert_eq!(cli.global.netns.as_deref(), Some("r1"));
        assert_eq!(cli.global.runtime_dir, None);
    }
}
