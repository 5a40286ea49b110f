//! The files in `dist`: valid, and in step with the code.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::path::Path;

use clap::Parser;
use wgrouted::{
    cli::{Cli, Command},
    config::{
        Config, ConfigError, ConfigErrors, NameKind, Names, Problem, Source, api::is_local, check,
        defaults, exits, filter, links, reach,
    },
    core::{
        exits::rule::WhenDown,
        filter::rule::SourceMode,
        links::rule::{LinkLocal, MtuRule, ShapeRule},
    },
};

const ANNOTATED: &str = include_str!("../dist/wgrouted.toml");
const SHORT: &str = include_str!("../dist/wgrouted-short.toml");

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::from_bytes(text.as_bytes(), Path::new("x.toml"), &Names::built_in())
}

#[test]
fn shipped_files_are_valid() {
    assert_eq!(parse(ANNOTATED).unwrap(), Config::for_interfaces(&["wg0"]));
    assert_eq!(parse(SHORT).unwrap().summary().to_string(), "ok: 1 interface, 2 peers");
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    assert_eq!(check(&dist.join("wgrouted.toml")).unwrap().to_string(), "ok: 1 interface, 0 peers");
}

#[test]
fn shipped_units_start_what_exists() {
    for (unit, runtime_dir, source) in [
        (
            include_str!("../dist/wgrouted.service"),
            defaults::RUNTIME_DIR.to_owned(),
            Source::File(defaults::CONFIG_FILE.into()),
        ),
        (
            include_str!("../dist/wgrouted@.service"),
            format!("{}/%i", defaults::RUNTIME_DIR),
            Source::Interfaces(vec!["%i".to_owned()]),
        ),
    ] {
        let setting = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        let cli = Cli::try_parse_from(setting("ExecStart=").split(' ')).unwrap();
        let Command::Run(run) = cli.command else { panic!("the unit does not run") };
        assert_eq!(run.selection.source(), source);
        let used = cli.global.runtime_dir.unwrap_or_else(|| defaults::RUNTIME_DIR.into());
        assert_eq!(used, Path::new(&runtime_dir));
        assert_eq!(format!("/run/{}", setting("RuntimeDirectory=")), runtime_dir);
    }
}

/// The annotated file with its commented defaults and examples in force: those have no space
/// after the `#`, or two in a list.
fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => rest,
        Some(rest) if rest.starts_with("  {") || rest.starts_with("  \"") => rest,
        _ => line,
    };
    ANNOTATED.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_the_annotated_file_calls_defaults_are_the_defaults() {
    let config = parse(&uncommented()).unwrap();
    let defaults = Config::for_interfaces(&["wg0"]);
    assert_eq!(config.daemon, defaults.daemon);
    let mut filter = config.filter;
    let [policy] = &filter.rule.policies[..] else { panic!("one policy") };
    assert!(!policy.accept && policy.stateful && policy.rules.len() > 7);
    filter.rule.policies.clear();
    assert_eq!(filter, defaults.filter);
    let mut interface = config.interfaces[0].clone();
    assert_eq!((interface.tables.len(), interface.peers.len()), (1, 1));
    assert_eq!(interface.peers[0].matches.len(), 4);
    let own = interface.peers[0].filter.clone().unwrap();
    assert!(own.monitor && own.source == SourceMode::List && !own.list.is_empty());
    let link = interface.filter.take().unwrap();
    assert_eq!((link.peers.group.as_deref(), link.peers.list.len()), (Some("mesh"), 2));
    let bare = parse("[[interface]]\nname='wg0'\n[interface.filter]").unwrap();
    let mut expected = bare.interfaces[0].filter.clone().unwrap();
    expected.peers.list.clone_from(&link.peers.list);
    expected.peers.group.clone_from(&link.peers.group);
    expected.peers.policy = Some("clients".to_owned());
    assert_eq!(link, expected);
    let reach = config.reach;
    assert_eq!((reach.port, reach.hooks.len()), (defaults.reach.port, 2));
    assert!(reach.bird.is_some() && reach.babeld.is_some());
    let api = config.api;
    assert!(api.listen.iter().all(is_local) && api.listen.len() == 2 && api.token_file.is_some());
    let mut watched = interface.reach.take().unwrap();
    assert_eq!(watched.announce.take(), Some(reach::defaults::ANNOUNCE));
    assert_eq!(watched.babeld.take().unwrap().rxcost, Some(96));
    let bare = parse("[[interface]]\nname='wg0'\n[interface.reach]").unwrap();
    assert_eq!(Some(watched), bare.interfaces[0].reach);
    let own = interface.peers[0].reach.clone().unwrap();
    assert_eq!((own.addresses.len(), own.announce.len(), own.bird.len()), (2, 1, 2));
    let [device, tunnel] = &config.links[..] else { panic!("a device and a tunnel") };
    assert_eq!((device.mtu, device.link_local), (MtuRule::Auto, LinkLocal::Auto));
    assert_eq!((tunnel.mtu, tunnel.link_local), (MtuRule::Auto, LinkLocal::Auto));
    let ShapeRule::Tunnel(ends) = &tunnel.shape else { panic!("a tunnel") };
    assert_eq!(ends.ttl, links::TTL);
    let flows = config.flows;
    let bare = exits::rule_defaults();
    assert_eq!(
        (&flows.rules, &flows.tables, &flows.nexthops),
        (&bare.rules, &bare.tables, &bare.nexthops)
    );
    let [exit] = &flows.exits[..] else { panic!("one exit") };
    assert_eq!((exit.when_down, exit.back_after), (WhenDown::default(), exits::BACK_AFTER));
    assert!(!exit.feed && !exit.weighted && exit.source.len() == 2);
    assert_eq!((flows.flows.len(), flows.flows[0].dport.len()), (3, 2));
    // The default of these is "none given"; the file shows examples.
    interface.tables.clear();
    interface.peers.clear();
    let tunnels = std::mem::take(&mut interface.tunnels);
    assert_eq!((tunnels.len(), &tunnels[0].pinned), (1, &vec!["10.1.0.0/31".parse().unwrap()]));
    assert_eq!([interface], *defaults.interfaces);
}

#[test]
fn every_default_stands_in_the_annotated_file() {
    for (key, text) in [
        ("runtime_dir", format!("{:?}", defaults::RUNTIME_DIR)),
        ("receive_buffer", format!("\"{}MiB\"", defaults::RECEIVE_BUFFER >> 20)),
        ("resync_interval", format!("\"{:?}\"", defaults::RESYNC_INTERVAL)),
        ("audit_interval", serde_json::to_string(&defaults::AUDIT_INTERVAL).unwrap()),
        ("log", format!("{:?}", defaults::LOG)),
        ("link", serde_json::to_string(&defaults::LINK).unwrap()),
        ("managed", format!("[\"{}\", \"{}\"]", defaults::MANAGED[0], defaults::MANAGED[1])),
        ("delete_hold", format!("\"{:?}\"", defaults::DELETE_HOLD)),
        ("coalesce", format!("\"{:?}\"", defaults::COALESCE)),
        ("message_size", format!("\"{}KiB\"", defaults::MESSAGE_SIZE >> 10)),
        ("adopt", format!("\"{:?}\"", defaults::ADOPT)),
        ("on_exit", serde_json::to_string(&defaults::ON_EXIT).unwrap()),
        ("hook", serde_json::to_string(&filter::defaults::HOOK).unwrap()),
        ("directory", format!("{:?}", filter::defaults::DIRECTORY)),
        ("grace", format!("\"{:?}\"", filter::defaults::GRACE)),
        ("samples", filter::defaults::SAMPLES.to_string()),
        ("audit_interval", serde_json::to_string(&filter::defaults::AUDIT_INTERVAL).unwrap()),
        ("on_exit", serde_json::to_string(&filter::defaults::ON_EXIT).unwrap()),
        ("ipv4_sources", "2_000_000".to_owned()),
        ("ipv6_sources", "500_000".to_owned()),
        ("peers", filter::defaults::PEERS.to_string()),
        ("rules", filter::defaults::RULES.to_string()),
        ("flows", filter::defaults::FLOWS.to_string()),
        ("source", serde_json::to_string(&filter::defaults::SOURCE).unwrap()),
        ("port", reach::defaults::PORT.to_string()),
        ("interval", format!("\"{:?}\"", reach::defaults::HOOK_INTERVAL)),
        ("timeout", format!("\"{:?}\"", reach::defaults::HOOK_TIMEOUT)),
        ("probe", serde_json::to_string(&reach::defaults::PROBE).unwrap()),
        ("interval", format!("\"{:?}\"", reach::defaults::INTERVAL)),
        ("lost", reach::defaults::LOST.to_string()),
        ("answered", reach::defaults::ANSWERED.to_string()),
        ("hold_down", format!("\"{:?}\"", reach::defaults::HOLD_DOWN)),
        ("metric", reach::defaults::ANNOUNCE_METRIC.to_string()),
        ("protocol", reach::defaults::ANNOUNCE.protocol.to_string()),
    ] {
        let line = format!("#{key} = {text}");
        assert!(ANNOTATED.lines().any(|found| found == line), "no line {line}");
    }
    assert!(ANNOTATED.contains(defaults::CONFIG_FILE));
}

#[test]
fn the_name_of_the_protocol_is_shipped() {
    let dist = Path::new(env!("CARGO_MANIFEST_DIR")).join("dist");
    let names = Names::from_dirs(&dist, Path::new("/nonexistent"));
    let name = names.name(NameKind::Protocol, reach::defaults::ANNOUNCE.protocol.into());
    let shipped = include_str!("../dist/rt_protos.d/wgrouted.conf");
    assert!(shipped.lines().any(|line| line == format!("119\t{name}")), "{name}");
    // Without the file the configuration knows it too.
    assert_eq!(Names::built_in().number(NameKind::Protocol, &name), Some(119));
}

#[test]
fn every_key_stands_in_the_annotated_file() {
    // The keys are what an unknown key is answered with.
    let answers = parse(
        "x=1\n[daemon]\nx=1\n[[interface]]\nname='a'\nx=1\n\
         [[interface.peer]]\npublic_key='xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg='\n\
         match=[{x=1}]\nx=1\n[interface.peer.filter]\nx=1\n[interface.peer.reach]\nx=1\n[interface.filter]\nx=1\n[interface.reach]\nx=1\n\
         [interface.reach.announce]\nx=1\n[interface.reach.babeld]\nx=1\n\
         [filter]\nx=1\n[[filter.policy]]\nname='a'\nx=1\n\
         [api]
x=1
[reach]
x=1
[[reach.hook]]
x=1
command=['a']
\
         [[tunnel]]
name='b'
kind='gre'
over='a'
local='10.0.0.1'
remote='10.0.0.2'
x=1
[tunnel.filter]
x=1",
    );
    let known = |error: ConfigError| match error.problem {
        Problem::UnknownKey { known } => Some(known),
        // `x` apart, the interface lacks what its tables need.
        Problem::NoSocket(_) => None,
        problem => panic!("{problem}"),
    };
    let tables: Vec<_> = answers.unwrap_err().errors.into_iter().filter_map(known).collect();
    assert_eq!(tables.len(), 18);
    let file = uncommented();
    for key in tables.into_iter().flatten() {
        let forms = [format!("{key} = "), format!("[{key}]"), format!(".{key}]")];
        assert!(forms.iter().any(|form| file.contains(form)), "{key} is not annotated");
    }
}

#[test]
fn every_range_in_the_annotated_file_is_the_range() {
    let prose = ANNOTATED.replace("\n# ", " ");
    for (table, key, low, high, beyond) in [
        ("daemon", "receive_buffer", "64KiB", "512MiB", ["65535B", "513MiB"]),
        ("daemon", "resync_interval", "100ms", "1min", ["99ms", "61s"]),
        ("daemon", "audit_interval", "1s", "1day", ["999ms", "25h"]),
        ("interface", "delete_hold", "1ms", "10s", ["999us", "11s"]),
        ("interface", "coalesce", "1ms", "1s", ["999us", "1001ms"]),
        ("interface", "message_size", "1KiB", "60KiB", ["1023B", "61KiB"]),
        ("interface", "adopt", "1ms", "5min", ["999us", "301s"]),
        ("filter", "grace", "0ms", "1min", ["-1ms", "61s"]),
        ("filter", "audit_interval", "1s", "1day", ["999ms", "25h"]),
    ] {
        assert!(prose.contains(&format!("{low} to {high}")), "{key}: {low} to {high}");
        let accepted = |value: &str| {
            let line = format!("{key} = '{value}'\n");
            parse(&match table {
                "daemon" | "filter" => format!("[{table}]\n{line}[[interface]]\nname='a'"),
                _ => format!("[[interface]]\nname='a'\n{line}"),
            })
            .is_ok()
        };
        assert!(accepted(low) && accepted(high), "{key}");
        assert!(!accepted(beyond[0]) && !accepted(beyond[1]), "{key}");
    }
}

#[test]
fn every_number_in_the_annotated_file_is_the_limit() {
    let prose = ANNOTATED.replace("\n# ", " ");
    for (key, range) in [
        ("samples", filter::defaults::SAMPLES_RANGE),
        ("ipv4_sources", filter::defaults::SOURCES_RANGE),
        ("ipv6_sources", filter::defaults::SOURCES_RANGE),
        ("peers", filter::defaults::PEERS_RANGE),
        ("rules", filter::defaults::RULES_RANGE),
        ("flows", filter::defaults::FLOWS_RANGE),
    ] {
        let (low, high) = (i64::from(*range.start()), i64::from(*range.end()));
        assert!(prose.contains(&format!("{low} to {high}")), "{key}: {low} to {high}");
        let accepted = |value: i64| {
            parse(&format!("[filter]\n{key} = {value}\n[[interface]]\nname='a'")).is_ok()
        };
        assert!(accepted(low) && accepted(high), "{key}");
        assert!(!accepted(low - 1) && !accepted(high + 1), "{key}");
    }
    assert!(prose.contains(&format!("At most {} rules a policy", ebpf_xdp::layout::MAX_RULES)));
}
