//! The configuration as its users meet it: every mistake is reported, once, at its place.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::{path::Path, time::Duration};

use proptest::prelude::*;
use wgrouted::{
    config::{Config, ConfigErrors, Names, Position, Source, check, interface_name},
    core::links::rule::{LinkLocal, LinkRule, MtuRule, ShapeRule},
    core::rule::{Audit, InterfaceRule, LinkMode, Match, OnExit, PeerRule},
};

const KEY_A: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const KEY_B: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let text = text.replace("KEY_A", KEY_A).replace("KEY_B", KEY_B);
    Config::from_bytes(text.as_bytes(), Path::new("x.toml"), &Names::built_in())
}

/// The error lines, without the file's name.
fn errors(text: &str) -> Vec<String> {
    let errors = parse(text).expect_err("a mistake in it").to_string();
    errors.lines().map(|line| line.strip_prefix("x.toml:").unwrap().to_owned()).collect()
}

/// The text has exactly one mistake, reported in a line that begins with the given place
/// (`line:column: key`) and holds the given sentence.
#[track_caller]
fn refused(text: &str, place: &str, sentence: &str) {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "one mistake in\n{text}\nbut\n{}", errors.join("\n"));
    let found = errors[0].starts_with(&format!("{place}: ")) && errors[0].contains(sentence);
    assert!(found, "expected {place}: … {sentence}\nfound {}\nin\n{text}", errors[0]);
}

#[test]
fn mistakes_in_the_text_itself() {
    for (text, place, sentence) in [
        ("[[interface]]\nname = wg0\n", "2:8", "not valid TOML: string values must be quoted"),
        ("[daemon]\n[daemon]\n[[interface]]\nname='a'", "2:2", "duplicate key: `daemon`"),
        ("", "1:1: interface", "no interface is configured: add [[interface]] with its name"),
        ("[daemon]\n", "1:1: interface", "wgrouted run --interface wg0"),
        ("interface = []\n", "1:1: interface", "no interface is configured"),
    ] {
        refused(text, place, sentence);
    }
    let error = Config::from_bytes(b"ab\n\xffx", Path::new("x.toml"), &Names::built_in());
    let text = "x.toml:2:1: not UTF-8: save the file as UTF-8 text";
    assert_eq!(error.unwrap_err().to_string(), text);
}

#[test]
fn mistakes_in_keys() {
    for (text, place, sentence) in [
        (
            "[[interface]]\nname='a'\n[[peer]]\n",
            "3:3: peer",
            "the keys here are daemon, filter, reach, api, interface, tunnel",
        ),
        ("[daemon]\nretry = 1\n[[interface]]\nname='a'", "2:1: daemon.retry", "unknown key"),
        (
            "[[interface]]\nname='a'\nmange=[]",
            "3:1: interface.mange",
            "name, link, tables, managed",
        ),
        (
            "[[interface]]\nname='a'\n[[interface.peer]]\npublic_key='KEY_A'\nkey='x'",
            "5:1: interface.peer.key",
            "name, public_key, pinned, match",
        ),
        (
            "[[interface]]\nname='a'\n[[interface.peer]]\npublic_key='KEY_A'\nmatch=[{proto=3}]",
            "5:9: interface.peer.match.proto",
            "protocol, realm, table, metric, nexthop, gateway",
        ),
        ("[[interface]]\nlink='auto'", "1:1: interface.name", "missing: add name = \"wg0\""),
        (
            "[[interface]]\nname='a'\n  [[interface.peer]]\n  name='x'",
            "3:3: interface.peer.public_key",
            "missing: add public_key",
        ),
    ] {
        refused(text, place, sentence);
    }
}

#[test]
fn mistakes_in_types() {
    for (text, place, sentence) in [
        ("[interface]\nname='a'", "1:1: interface", "a table where a table in double brackets"),
        (
            "[[interface]]\nname='a'\n[interface.peer]\npublic_key='KEY_A'",
            "3:1: interface.peer",
            "[[interface.peer]]",
        ),
        ("daemon = 1\n[[interface]]\nname='a'", "1:10: daemon", "an integer where a table"),
        ("[[interface]]\nname = 7", "2:8: interface.name", "an integer where an interface's name"),
        (
            "[[interface]]\nname='a'\nmanaged='0.0.0.0/0'",
            "3:9: interface.managed",
            "a string where a list in brackets",
        ),
        (
            "[[interface]]\nname='a'\n[[interface.peer]]\npublic_key='KEY_A'\nmatch=[12]",
            "5:8: interface.peer.match",
            "an integer where a list of tables",
        ),
    ] {
        refused(text, place, sentence);
    }
}

#[test]
fn mistakes_in_who_may_ask() {
    for (lines, place, sentence) in [
        ("listen='127.0.0.1'", "2:8: api.listen", "not an address with a port"),
        ("listen='localhost:80'", "2:8: api.listen", "write one such as \"127.0.0.1:9586\""),
        ("listen='127.0.0.1:0'", "2:8: api.listen", "not an address with a port"),
        ("listen=9586", "2:8: api.listen", "an integer where an address and a port in quotes"),
        ("listen=['[::1]:1', 1]", "2:20: api.listen", "an integer where an address"),
        ("listen=['[::1]:1', '[::1]:1']", "2:20: api.listen", "already given in line 2"),
        ("listen='0.0.0.0:9586'", "2:8: api.listen", "add token_file = \"/etc/wgrouted/token\""),
        ("listen=['127.0.0.1:1', '[::]:1']", "2:24: api.listen", "[::]:1 can be reached by others"),
        ("listen='0.0.0.0:1'\ntoken_file='token'", "3:12: api.token_file", "begin it with /"),
        ("token='secret'", "2:1: api.token", "the keys here are listen, token_file"),
    ] {
        refused(&format!("[api]\n{lines}\n[[interface]]\nname='a'"), place, sentence);
    }
}

#[test]
fn who_may_ask_is_understood() {
    let api = |lines| parse(&format!("[api]\n{lines}\n[[interface]]\nname='a'")).unwrap().api;
    let one = api("listen='127.0.0.1:9586'");
    assert_eq!(one.listen, ["127.0.0.1:9586".parse().unwrap()]);
    assert_eq!(api("").listen, []);
    let local = api("listen=['[::1]:1', '127.9.9.9:1', '[::ffff:127.0.0.1]:1']");
    assert_eq!((local.listen.len(), local.token_file), (3, None));
    let open = api("listen='[::]:9586'\ntoken_file='/x'");
    assert_eq!((open.listen.len(), open.token_file.as_deref()), (1, Some(Path::new("/x"))));
}

#[test]
fn mistakes_in_the_daemons_values() {
    for (line, place, sentence) in [
        ("runtime_dir = 'run'", "2:15: daemon.runtime_dir", "begin it with /"),
        ("receive_buffer = '64MB'", "2:18: daemon.receive_buffer", "B, KiB, MiB or GiB"),
        ("receive_buffer = '64'", "2:18: daemon.receive_buffer", "not a size"),
        ("receive_buffer = '99999999999GiB'", "2:18: daemon.receive_buffer", "64KiB to 512MiB"),
        ("receive_buffer = 65536", "2:18: daemon.receive_buffer", "such as \"64MiB\""),
        ("resync_interval = '0s'", "2:19: daemon.resync_interval", "choose 100ms to 1m"),
        ("resync_interval = 1", "2:19: daemon.resync_interval", "a duration in quotes"),
        ("audit_interval = 'on'", "2:18: daemon.audit_interval", "not a duration"),
        ("audit_interval = '0s'", "2:18: daemon.audit_interval", "choose 1s to 1day"),
        ("log = 'wgrouted=loud'", "2:7: daemon.log", "not a log filter"),
    ] {
        refused(&format!("[daemon]\n{line}\n[[interface]]\nname='a'"), place, sentence);
    }
}

#[test]
fn mistakes_in_an_interfaces_values() {
    for (line, place, sentence) in [
        ("link = 'tunnel'", "3:8: interface.link", "write \"auto\", \"shared\" or \"dedicated\""),
        ("tables = []", "3:10: interface.tables", "leave `tables` out"),
        ("tables = [0]", "3:11: interface.tables", "RT_TABLE_UNSPEC"),
        ("tables = [255]", "3:11: interface.tables", "host's own addresses"),
        ("tables = ['local']", "3:11: interface.tables", "table 255 cannot be followed"),
        ("tables = ['nowhere']", "3:11: interface.tables", "/etc/iproute2/rt_tables"),
        ("tables = [-1]", "3:11: interface.tables", "choose 0 to 4294967295"),
        ("tables = ['main', 254]", "3:19: interface.tables", "already given in line 3"),
        ("managed = []", "3:11: interface.managed", "nothing would ever be synced"),
        ("managed = ['10.0.0.1/8']", "3:12: interface.managed", "write 10.0.0.0/8"),
        ("managed = ['10/8']", "3:12: interface.managed", "not a prefix"),
        ("managed = [\n'::/0',\n'::/0']", "5:1: interface.managed", "already given in line 4"),
        ("delete_hold = '0ms'", "3:15: interface.delete_hold", "choose 1ms to 10s"),
        ("delete_hold = '1day'", "3:15: interface.delete_hold", "choose 1ms to 10s"),
        ("coalesce = '20'", "3:12: interface.coalesce", "not a duration"),
        ("message_size = '64KiB'", "3:16: interface.message_size", "choose 1KiB to 60KiB"),
        ("message_size = '10B'", "3:16: interface.message_size", "choose 1KiB to 60KiB"),
        ("adopt = '0s'", "3:9: interface.adopt", "choose 1ms to 5m"),
        ("on_exit = 'delete'", "3:11: interface.on_exit", "write \"keep\" or \"remove\""),
    ] {
        refused(&format!("[[interface]]\nname='a'\n{line}"), place, sentence);
    }
    for (lines, place, sentence) in [
        ("name='a/b'", "2:6: interface.name", "1 to 15 bytes"),
        ("name='a234567890123456'", "2:6: interface.name", "1 to 15 bytes"),
        ("name=''", "2:6: interface.name", "1 to 15 bytes"),
        ("name=\"a\\nb\"", "2:6: interface.name", "`a\\nb` cannot be"),
        (
            "name='a'\n[[interface]]\nname='a'",
            "4:6: interface.name",
            "interface a is already given in line 2: merge the two or correct one name",
        ),
    ] {
        refused(&format!("[[interface]]\n{lines}"), place, sentence);
    }
}

#[test]
fn mistakes_in_a_peers_values() {
    for (line, place, sentence) in [
        ("name = 'b c'", "5:8: interface.peer.name", "visible characters"),
        ("pinned = ['10.0.0.1/24']", "5:11: interface.peer.pinned", "write 10.0.0.0/24"),
        ("pinned = []", "3:1: interface.peer", "no route can belong to this peer"),
        ("pinned = ['::1', '::1/128']", "5:18: interface.peer.pinned", "already given in line 5"),
        ("match = [{}]", "5:10: interface.peer.match", "would match every route"),
        ("match = [{realm=0}]", "5:17: interface.peer.match.realm", "choose 1 to 65535"),
        ("match = [{realm=65536}]", "5:17: interface.peer.match.realm", "choose 1 to 65535"),
        ("match = [{realm='x'}]", "5:17: interface.peer.match.realm", "/etc/iproute2/rt_realms"),
        ("match = [{protocol=300}]", "5:20: interface.peer.match.protocol", "choose 0 to 255"),
        ("match = [{protocol='x'}]", "5:20: interface.peer.match.protocol", "rt_protos"),
        ("match = [{table=255}]", "5:17: interface.peer.match.table", "cannot be followed"),
        ("match = [{metric='x'}]", "5:18: interface.peer.match.metric", "a string where a number"),
        ("match = [{nexthop=0}]", "5:19: interface.peer.match.nexthop", "choose 1 to 4294967295"),
        ("match = [{gateway='fe80'}]", "5:19: interface.peer.match.gateway", "not a prefix"),
        ("match = [\n{metric=1},\n{metric=1}]", "7:1: interface.peer.match", "given in line 6"),
    ] {
        let peer = format!("[[interface.peer]]\npublic_key='KEY_A'\n{line}");
        refused(&format!("[[interface]]\nname='a'\n{peer}"), place, sentence);
    }
    for (text, place, sentence) in [
        (
            "[[interface]]\nname='a'\n[[interface.peer]]\npublic_key='short'",
            "4:12: interface.peer.public_key",
            "44 characters of base64",
        ),
        (
            "[[interface]]\nname='a'\nmanaged=['::/0']\n[[interface.peer]]\npublic_key='KEY_A'\n\
             match=[{realm=7}]",
            "6:15: interface.peer.match.realm",
            "IPv6 routes carry no realm (the kernel drops it), and `managed` holds IPv6 only: \
             match by gateway, protocol, table, metric or nexthop instead",
        ),
        (
            "[[interface]]\nname='a'\ntables=[100]\n[[interface.peer]]\npublic_key='KEY_A'\n\
             match=[{table='main'}]",
            "6:15: interface.peer.match.table",
            "table 254 is not in this interface's `tables`",
        ),
    ] {
        refused(text, place, sentence);
    }
}

/// An interface with two peers; the second begins in line 7.
fn two_peers(interface: &str, a: &str, b: &str) -> String {
    let a = format!("[[interface.peer]]\npublic_key='KEY_A'\n{a}");
    format!("[[interface]]\nname='a'\n{interface}\n{a}\n[[interface.peer]]\n{b}")
}

#[test]
fn contradictions_between_peers() {
    for ((interface, a, b), place, sentence) in [
        (
            ("", "", "public_key='KEY_A'"),
            "8:12: interface.peer.public_key",
            "is already given in line 5",
        ),
        (
            ("", "name='x'", "name='x'\npublic_key='KEY_B'"),
            "8:6: interface.peer.name",
            "peer x is already given in line 6",
        ),
        (
            ("", "pinned=['fe80::1']", "public_key='KEY_B'\npinned=['fe80::1/128']"),
            "9:9: interface.peer.pinned",
            "pinned prefix fe80::1/128 is already given in line 6",
        ),
        (
            (
                "",
                "match=[{protocol='bird', metric=5}]",
                "public_key='KEY_B'\nmatch=[{metric=5, protocol=12}]",
            ),
            "9:8: interface.peer.match",
            "this entry is already given in line 6",
        ),
        (
            ("link='dedicated'", "", "public_key='KEY_B'"),
            "3:6: interface.link",
            "a dedicated link has one peer, but 2 are configured",
        ),
    ] {
        refused(&two_peers(interface, a, b), place, sentence);
    }
}

#[test]
fn pinned_prefixes_may_nest() {
    let nested = "public_key='KEY_B'\npinned=['10.0.0.2']";
    parse(&two_peers("", "pinned=['10.0.0.0/8']", nested)).unwrap();
}

#[test]
fn the_same_peer_may_serve_two_interfaces() {
    let peer = "[[interface.peer]]\nname='x'\npublic_key='KEY_A'\npinned=['10.0.0.2']\n";
    let text = format!("[[interface]]\nname='a'\n{peer}[[interface]]\nname='b'\n{peer}");
    assert_eq!(parse(&text).unwrap().summary().to_string(), "ok: 2 interfaces, 2 peers");
}

#[test]
fn all_mistakes_are_reported_at_once_in_file_order() {
    let text = "[[interface]]\nname='a'\nmanaged=['::/0', 'x']\nlink='x'\n[[interface.peer]]\n\
                match=[{realm=7}]\nnmae=1\n[[interface]]\nname='a'\n[daemon]\nlog=1\n";
    let errors = errors(text);
    let places: Vec<_> = errors.iter().filter_map(|error| error.split(": ").next()).collect();
    assert_eq!(places, ["3:18", "4:6", "5:1", "6:15", "7:1", "9:6", "11:5"]);
}

#[test]
fn columns_count_characters_and_ignore_a_byte_order_mark() {
    assert!(errors("\u{feff}x = 1\r\n[[interface]]\r\nname='a'")[0].starts_with("1:1: x: "));
    let accents = errors("[[interface]]\nname='a'\nmanaged=[ # é\n'é', 7]");
    assert!(accents[0].starts_with("4:1: ") && accents[1].starts_with("4:6: "), "{accents:?}");
}

#[test]
fn everything_that_can_be_said_is_understood() {
    let config = parse(
        "[daemon]\nruntime_dir='/run/x'\nreceive_buffer='1MiB'\nresync_interval='2s'\n\
         audit_interval='1min 30s'\nlog='debug'\n\
         [[interface]]\nname='wg0'\nlink='shared'\ntables=[100,'main']\nmanaged=['10.0.0.0/8']\n\
         delete_hold='1s'\ncoalesce='1ms'\nmessage_size='60KiB'\nadopt='1s'\non_exit='remove'\n\
         [[interface.peer]]\nname='x'\npublic_key='KEY_A'\npinned=['10.0.0.2','fe80::/64']\n\
         match=[{protocol='bird',realm=7,table=100,metric=0,nexthop=12,gateway='10.0.0.3'}]\n\
         [[interface.peer]]\npublic_key='KEY_B'\n",
    )
    .unwrap();
    assert_eq!(config.daemon.runtime_dir, Path::new("/run/x"));
    assert_eq!(config.daemon.receive_buffer, 1 << 20);
    assert_eq!(config.daemon.resync_interval, Duration::from_secs(2));
    assert_eq!(config.daemon.log, "debug");
    let x = PeerRule {
        name: "x".into(),
        public_key: KEY_A.parse().unwrap(),
        pinned: Some(vec!["10.0.0.2/32".parse().unwrap(), "fe80::/64".parse().unwrap()]),
        matches: vec![Match {
            protocol: Some(12),
            realm: Some(7),
            table: Some(100),
            metric: Some(0),
            nexthop: Some(12),
            gateway: Some("10.0.0.3/32".parse().unwrap()),
        }],
        filter: None,
        reach: None,
    };
    let unnamed = PeerRule {
        name: KEY_B.into(),
        public_key: KEY_B.parse().unwrap(),
        pinned: None,
        matches: vec![],
        filter: None,
        reach: None,
    };
    let interface = InterfaceRule {
        name: "wg0".into(),
        link: LinkMode::Shared,
        tables: vec![100, 254],
        managed: vec!["10.0.0.0/8".parse().unwrap()],
        delete_hold: Duration::from_secs(1),
        coalesce: Duration::from_millis(1),
        message_size: 60 * 1024,
        adopt: Duration::from_secs(1),
        on_exit: OnExit::Remove,
        audit: Audit::Every(Duration::from_secs(90)),
        peers: vec![x, unnamed],
        filter: None,
        tunnels: Vec::new(),
        reach: None,
    };
    assert_eq!(config.interfaces, [interface]);
}

#[test]
fn without_a_file_everything_is_default() {
    let config = Source::Interfaces(vec!["wg0".into(), "wg1".into(), "wg0".into()]).load().unwrap();
    assert_eq!(config, parse("[[interface]]\nname='wg0'\n[[interface]]\nname='wg1'").unwrap());
}

#[test]
fn an_unreadable_file_names_the_remedy() {
    let error = check(Path::new("/nonexistent/wgrouted.toml")).unwrap_err();
    assert_eq!(error.errors[0].position, None);
    let text = error.to_string();
    assert!(text.starts_with("/nonexistent/wgrouted.toml: cannot be read: No such file"), "{text}");
    assert!(text.contains("wgrouted run --interface wg0"), "{text}");
}

#[test]
fn errors_are_json_too() {
    let error = parse("[[interface]]\nname='a/b'").unwrap_err();
    assert_eq!(error.errors[0].position, Some(Position { line: 2, column: 6 }));
    let json = serde_json::to_value(&error).unwrap();
    assert_eq!(json["file"], "x.toml");
    let error = &json["errors"][0];
    assert_eq!((&error["line"], &error["column"]), (&2.into(), &6.into()));
    assert_eq!(error["key"], "interface.name");
    assert!(error["message"].as_str().unwrap().starts_with("`a/b` cannot be"));
}

#[test]
fn interface_names_follow_the_kernels_rules() {
    for good in ["wg0", "wg-exit.1", "a23456789012345", "é"] {
        assert!(interface_name(good).is_ok(), "{good}");
    }
    for bad in ["", ".", "..", "a/b", "a:b", "a b", "a\t", "a234567890123456", "éééééééé"] {
        assert!(interface_name(bad).is_err(), "{bad}");
    }
}

/// Pieces of configurations: strung together at random they get further than random text.
#[rustfmt::skip]
const PIECES: &[&str] = &[
    "[filter]\n", "[[filter.policy]]\n", "[interface.filter]\n", "[interface.peer.filter]\n",
    "filter", "rules", "source", "list", "'accept tcp to port 22'", "'drop any from peer x'",
    "'type'", "'accept icmp type ,,'", "'group'", "['drop from 10.0.0.0/8', 'accept proto 256']",
    "[daemon]\n", "[[interface]]\n", "[[interface.peer]]\n", "[interface]\n", "name", "link",
    "tables", "managed", "pinned", "match", "public_key", "delete_hold", "message_size",
    "audit_interval", "receive_buffer", "log", "protocol", "realm", "gateway", "runtime_dir",
    " = ", "=", "[", "]", "{", "}", ",", ".", "\n", "'", "\"", "\\", "#", "'wg0'", "'auto'",
    "'dedicated'", "'10.0.0.0/8'", "'::/0'", "'main'", "254", "0xffffffffffffffffffffffff",
    "-0", "1e400", "inf", "1979-05-27", "true", "'99999999999999999999y'", "'1.5h'",
    "'18446744073709551616GiB'", "'20ms'", "\"\\n\\u001b\"", "\u{0}", "\u{feff}", "é", "'KEY_A'",
];

/// Well-formed lines with keys and values that need not go together.
fn line() -> impl Strategy<Value = String> {
    let pair = (prop::sample::select(PIECES), prop::sample::select(PIECES));
    pair.prop_map(|(key, value)| format!("{key} = {value}\n"))
}

fn fragment() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(PIECES).prop_map(str::to_owned);
    prop_oneof![4 => piece, 4 => line(), 1 => any::<String>()]
}

proptest! {
    #[test]
    fn no_text_panics_and_each_error_is_one_line(
        parts in prop::collection::vec(fragment(), 0..40),
    ) {
        let text = parts.concat();
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.errors.is_empty());
            prop_assert_eq!(errors.to_string().lines().count(), errors.errors.len());
            let lines: Vec<_> =
                errors.errors.iter().filter_map(|error| Some(error.position?.line)).collect();
            prop_assert!(lines.is_sorted());
            prop_assert!(lines.iter().all(|&line| line <= text.matches('\n').count() + 1));
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let config = Config::from_bytes(&bytes, Path::new("x.toml"), &Names::built_in());
        prop_assert!(config.is_err() || bytes.len() > "[[interface]]".len());
    }
}

/// A watched interface that announces, with this line.
fn announcing(line: &str) -> String {
    format!("[[interface]]\nname='a'\n[interface.reach.announce]\n{line}")
}

#[test]
fn what_is_announced_is_nobody_else_s() {
    for (line, place, sentence) in [
        ("protocol='bird'", "4:10", "protocol 12 is used by bird, whose routes would be removed"),
        ("protocol=42", "4:10", "protocol 42 is used by babel"),
        ("protocol='kernel'", "4:10", "protocol 2 is used by kernel"),
        ("protocol=190", "4:10", "protocol 190 is used by FRR"),
        ("protocol=256", "4:10", "256 is out of range"),
        ("protocol='wgroute'", "4:10", "no routing protocol is named `wgroute`"),
        ("metric=0", "4:8", "1 to 4294967295"),
        ("table='local'", "4:7", "table 255 cannot"),
    ] {
        let key = line.split('=').next().unwrap();
        refused(&announcing(line), &format!("{place}: interface.reach.announce.{key}"), sentence);
    }
    let rule = |line: &str| {
        let mut config = parse(&announcing(line)).unwrap();
        config.interfaces.remove(0).reach.unwrap().announce.unwrap()
    };
    let default = rule("");
    assert_eq!((default.table, default.protocol, default.metric), (254, 119, 1024));
    assert!(default.hosts && !default.metric_from_rtt);
    assert_eq!(rule("protocol='wgrouted'"), default);
    let other = rule("protocol=120\ntable=100\nmetric=1\nmetric_from_rtt=true\nhosts=false");
    assert_eq!((other.table, other.protocol, other.metric), (100, 120, 1));
    assert!(!other.hosts && other.metric_from_rtt);
}

/// A managed interface with these lines, and what follows.
fn managed(lines: &str, rest: &str) -> String {
    format!("[[interface]]\nname='wg0'\nmanage=true\nprivate_key_file='/k'\n{lines}\n{rest}")
}

#[test]
fn links_are_read_as_written() {
    let text = managed(
        "link='shared'\nlisten_port=5\nfwmark=0x10\naddresses=['10.0.0.1/24','fd00::1/64']",
        "[[interface.peer]]\nname='a'\npublic_key='KEY_A'\npinned=['10.0.0.2/32','fd00::2/128']\n\
         endpoint='x.example:1'\nkeepalive='25s'\npreshared_key_file='/p'\n\
         [[tunnel]]\nname='t4'\nkind='gre'\nover='wg0'\npeer='a'\nkey=0\n\
         [[tunnel]]\nname='t6'\nkind='ip6gre'\nover='wg0'\npeer='KEY_A'\nmtu=1300\n\
         [[tunnel]]\nname='ti'\nkind='ipip'\nover='wg0'\nremote='10.0.0.2'\nlink_local='off'",
    );
    let links = parse(&text).unwrap().links;
    let [device, gre, ip6gre, ipip] = &links[..] else { panic!("{links:?}") };
    assert_eq!((device.mtu, device.link_local), (MtuRule::Auto, LinkLocal::Auto));
    assert_eq!(device.addresses.len(), 2);
    let ShapeRule::Wireguard(rule) = &device.shape else { panic!("{device:?}") };
    assert_eq!((rule.listen_port, rule.fwmark), (Some(5), Some(16)));
    assert_eq!(rule.private_key_file, Path::new("/k"));
    let [peer] = &rule.peers[..] else { panic!("{rule:?}") };
    assert_eq!(peer.endpoint.as_ref().unwrap().to_string(), "x.example:1");
    assert_eq!((peer.keepalive, peer.allowed_ips.len()), (Some(25), 2));
    assert_eq!(peer.preshared_key_file.as_deref(), Some(Path::new("/p")));
    let tunnel = |link: &LinkRule| match &link.shape {
        ShapeRule::Tunnel(tunnel) => tunnel.to_string(),
        ShapeRule::Wireguard(_) => panic!("{link:?}"),
    };
    assert_eq!(tunnel(gre), "gre from 10.0.0.1 to 10.0.0.2 over wg0, ttl 64, key 0");
    assert_eq!(tunnel(ip6gre), "ip6gre from fd00::1 to fd00::2 over wg0, ttl 64");
    assert_eq!(tunnel(ipip), "ipip from 10.0.0.1 to 10.0.0.2 over wg0, ttl 64");
    assert_eq!((ip6gre.mtu, ipip.link_local), (MtuRule::Given(1300), LinkLocal::Off));

    let peer = "[[interface.peer]]\npublic_key='KEY_A'";
    let allowed = |text: String| {
        let ShapeRule::Wireguard(device) = &parse(&text).unwrap().links[0].shape else { panic!() };
        device.peers[0].allowed_ips.len()
    };
    assert_eq!(allowed(managed("link='dedicated'", peer)), 2);
    let open = format!("[interface.filter]\nopen=true\n{peer}");
    assert_eq!(allowed(managed("link='dedicated'", &open)), 0, "the filter opens them");
    // One link-local address is enough.
    let own = parse(&managed("addresses=['fe80::7/64']", "")).unwrap();
    assert_eq!(own.links[0].link_local, LinkLocal::Off);
}

#[test]
fn mistakes_in_links() {
    let shared = "link='shared'\naddresses=['10.0.0.1/24']";
    let peer = "[[interface.peer]]\nname='a'\npublic_key='KEY_A'\npinned=['10.0.0.2/32']\n";
    let tunnel = |lines: &str| {
        managed(shared, &format!("{peer}[[tunnel]]\nname='t'\nkind='gre'\nover='wg0'\n{lines}"))
    };
    for (text, place, sentence) in [
        (
            "[[interface]]\nname='a'\nmanage=true".to_owned(),
            "1:1: interface.private_key_file",
            "missing: add private_key_file =",
        ),
        (
            "[[interface]]\nname='a'\nlisten_port=5".to_owned(),
            "3:13: interface.listen_port",
            "add manage = true",
        ),
        (
            "[[interface]]\nname='a'\n[[interface.peer]]\npublic_key='KEY_A'\nkeepalive='off'"
                .to_owned(),
            "5:11: interface.peer.keepalive",
            "add manage = true",
        ),
        (managed("private_key='x'", ""), "5:1: interface.private_key", "unknown key"),
        (managed("mtu=1279", ""), "5:5: interface.mtu", "choose 1280 to 65535"),
        (managed("mtu='big'", ""), "5:5: interface.mtu", "write \"auto\" or \"1420\""),
        (managed("listen_port=0", ""), "5:13: interface.listen_port", "choose 1 to 65535"),
        (managed("addresses=['10.0.0.1']", ""), "5:12: interface.addresses", "with a length"),
        (
            managed("addresses=['10.0.0.1/24','10.0.0.1/32']", ""),
            "5:26: interface.addresses",
            "already given",
        ),
        (managed("link_local='10.0.0.1'", ""), "5:12: interface.link_local", "in fe80::/10"),
        (
            managed("", "[[interface.peer]]\npublic_key='KEY_A'"),
            "6:1: interface.peer.pinned",
            "begins with its own addresses",
        ),
        (
            managed(shared, &format!("{peer}endpoint='a b:1'")),
            "11:10: interface.peer.endpoint",
            "is not an endpoint",
        ),
        (
            managed(shared, &format!("{peer}keepalive='1500ms'")),
            "11:11: interface.peer.keepalive",
            "whole seconds",
        ),
        (
            managed(shared, &format!("{peer}preshared_key_file='psk'")),
            "11:20: interface.peer.preshared_key_file",
            "not an absolute path",
        ),
        (tunnel(""), "11:1: tunnel.remote", "missing: add remote"),
        (tunnel("peer='b'"), "15:6: tunnel.peer", "interface wg0 has no peer b: add it there, or"),
        (tunnel("remote='10.9.9.9'"), "15:8: tunnel.remote", "is not pinned by a peer of wg0"),
        (tunnel("remote='fd00::1'"), "15:8: tunnel.remote", "has IPv4 ends, which fd00::1 is not"),
        (
            tunnel("peer='a'").replace("'gre'", "'ipip'") + "\naddresses=['fd00::1/64']",
            "16:12: tunnel.addresses",
            "carries IPv4 only",
        ),
        (
            tunnel("peer='a'").replace("over='wg0'", "over='wg7'"),
            "14:6: tunnel.over",
            "no interface wg7 is configured: write wg0",
        ),
        (
            tunnel("peer='a'").replace("'t'", "'wg0'"),
            "12:6: tunnel.name",
            "an interface is named wg0",
        ),
        (
            tunnel("peer='a'") + "\n[[tunnel]]\nname='u'\nkind='gre'\nover='wg0'\npeer='a'",
            "16:1: tunnel",
            "already given in line 11: tunnels of one kind",
        ),
        (
            tunnel("peer='a'") + "\n[[tunnel]]\nname='t'\nkind='gre'\nover='wg0'\npeer='a'\nkey=1",
            "17:6: tunnel.name",
            "already given in line 12",
        ),
        (tunnel("peer='a'\nttl=0"), "16:5: tunnel.ttl", "choose 1 to 255"),
    ] {
        refused(&text, place, sentence);
    }
}
