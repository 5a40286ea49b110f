//! The packet filter's configuration as its users meet it: every mistake is reported, once, at its
//! place, and what is said is understood.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::path::Path;

use wgrouted::{
    config::{Config, ConfigErrors, Names, filter::Canonical},
    core::{
        filter::{
            policy::PolicyRule,
            rule::{Hook, PeerFilter, SourceMode},
        },
        rule::{Audit, OnExit},
    },
    filter::check::{Check, print},
};

const KEY_A: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const KEY_B: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let text = text.replace("KEY_A", KEY_A).replace("KEY_B", KEY_B);
    Config::from_bytes(text.as_bytes(), Path::new("x.toml"), &Names::built_in())
}

/// The text has exactly one mistake, reported in a line that begins with the given place
/// (`line:column: key`) and holds the given sentence.
#[track_caller]
fn refused(text: &str, place: &str, sentence: &str) {
    let errors = parse(text).expect_err("a mistake in it").to_string();
    let found = errors.lines().count() == 1
        && errors.starts_with(&format!("x.toml:{place}: "))
        && errors.contains(sentence);
    assert!(found, "expected {place}: … {sentence}\nfound {errors}\nin\n{text}");
}

#[test]
fn mistakes_in_the_filters_values() {
    for (line, place, sentence) in [
        ("hook = 'tc'", "2:8: filter.hook", "write \"auto\", \"xdp\" or \"tcx\""),
        ("directory = 'bpf'", "2:13: filter.directory", "begin it with /"),
        ("grace = '2min'", "2:9: filter.grace", "choose 0s to 1m"),
        ("samples = 100001", "2:11: filter.samples", "choose 0 to 100000"),
        ("samples = '9'", "2:11: filter.samples", "a string where a number"),
        ("audit_interval = 'on'", "2:18: filter.audit_interval", "not a duration"),
        ("on_exit = 'drop'", "2:11: filter.on_exit", "write \"keep\" or \"remove\""),
        ("ipv4_sources = 0", "2:16: filter.ipv4_sources", "choose 1000 to 100000000"),
        ("ipv6_sources = 0", "2:16: filter.ipv6_sources", "choose 1000 to 100000000"),
        ("peers = 0", "2:9: filter.peers", "choose 1 to 1048576"),
        ("rules = 4194305", "2:9: filter.rules", "choose 16 to 4194304"),
        ("flows = 1", "2:9: filter.flows", "choose 1024 to 16777216"),
        ("size = 1", "2:1: filter.size", "hook, directory, grace, samples, audit_interval"),
        ("policy = {}", "2:10: filter.policy", "[[filter.policy]]"),
    ] {
        refused(&format!("[filter]\n{line}\n[[interface]]\nname='a'"), place, sentence);
    }
    refused("filter=1\n[[interface]]\nname='a'", "1:8: filter", "a table in single brackets");
    let peers = "[[interface.peer]]\npublic_key='KEY_A'\n[[interface.peer]]\npublic_key='KEY_B'";
    refused(
        &format!("[filter]\npeers=1\n[[interface]]\nname='a'\n[interface.filter]\n{peers}"),
        "2:7: filter.peers",
        "room for 1 peers, but 2 of filtered interfaces are configured",
    );
}

#[test]
fn mistakes_in_a_policy() {
    for (lines, place, sentence) in [
        ("", "2:1: filter.policy.name", "missing: add name = \"clients\""),
        ("name='a b'", "3:6: filter.policy.name", "cannot be the name of a policy"),
        ("name='a'\ndefault='deny'", "4:9: filter.policy.default", "\"accept\" or \"drop\""),
        ("name='a'\nstateful=1", "4:10: filter.policy.stateful", "true or false"),
        ("name='a'\norder='x'", "4:7: filter.policy.order", "\"listed\" or \"most-specific\""),
        ("name='a'\nrules=[7]", "4:8: filter.policy.rules", "a rule in quotes"),
        ("name='a'\nrule=[]", "4:1: filter.policy.rule", "name, default, stateful, order, rules"),
        (
            "name='a'\n[[filter.policy]]\nname='a'",
            "5:6: filter.policy.name",
            "policy a is already given in line 3: merge the two",
        ),
    ] {
        let text = format!("[filter]\n[[filter.policy]]\n{lines}\n[[interface]]\nname='a'");
        refused(&text, place, sentence);
    }
}

/// A file with a rule in line 5, and a peer `exit` with and a peer `bare` without pinned prefixes.
fn with_rule(rule: &str) -> String {
    format!(
        "[[filter.policy]]\nname='p'\nstateful=false\nrules=[\n'{rule}'\n]\n[[interface]]\nname='a'\n\
         [[interface.peer]]\nname='exit'\npublic_key='KEY_A'\npinned=['10.0.0.2', 'fd00::2']\n\
         [[interface.peer]]\nname='bare'\npublic_key='KEY_B'\n"
    )
}

#[test]
fn mistakes_in_a_rule() {
    for (rule, sentence) in [
        ("", "the rule ends where accept or drop is expected"),
        ("allow tcp", "`allow` where accept or drop is expected"),
        ("accept", "the rule ends where any, proto, from, to or a protocol (tcp, udp,"),
        ("accept tpc", "`tpc` where any, proto and a number, from, to or a protocol (tcp,"),
        ("accept tcp,", "`tcp,` where any, proto, from, to or a protocol"),
        ("accept proto", "the rule ends where a protocol's number (0 to 255) is expected"),
        ("accept proto 256", "`256` where a protocol's number (0 to 255) is expected"),
        ("accept tcp port 22", "`port` where type, from, to or the end is expected"),
        ("accept tcp from", "the rule ends where peer, any, port or a prefix is expected"),
        ("accept tcp to 10.0.0.1/8", "`10.0.0.1/8` has bits set outside its length"),
        ("accept tcp to 10/8", "`10/8` is not a prefix"),
        ("accept tcp to any port", "the rule ends where a port or a range of ports"),
        ("accept tcp to any port http", "`http` where a port or a range of ports (0 to 65535)"),
        ("accept tcp to any port 65536", "`65536` where a port or a range of ports (0 to 65535)"),
        ("accept tcp to any port -1", "`-1` where a port"),
        ("accept tcp to any port 90-80", "`90-80` is reversed: write 80-90"),
        ("accept tcp to any port 1 2", "`2` where the end is expected"),
        ("accept tcp to any from any", "`from` where port or the end is expected"),
        ("accept to any port 22", "any protocol has no ports: name tcp"),
        ("accept icmp to any port 22", "icmp has no ports: name tcp"),
        ("accept tcp,proto to any", "`proto` where any, proto and a number"),
        ("accept proto 47 from any port 1", "gre has no ports"),
        ("accept proto 200 from any port 1", "protocol 200 has no ports"),
        ("accept tcp type 8", "tcp has no types: name icmp or icmpv6 alone"),
        ("accept any type 8", "any protocol has no types"),
        ("accept icmp,tcp type 8", "tcp has no types"),
        (
            "accept icmp type pong",
            "icmp has no type `pong`: write its number or one of echo-reply,",
        ),
        ("accept icmp,icmpv6 type redirect", "icmpv6 has no type `redirect`"),
        ("accept icmp type 256", "`256` where a type or a range of types (0 to 255)"),
        ("accept icmp type 9-8", "`9-8` is reversed: write 8-9"),
        ("accept icmp,icmpv6 type 8", "type `8` means different things to icmp and icmpv6"),
        ("accept icmp type 3 code 256", "`256` where a code or a range of codes (0 to 255)"),
        ("accept icmp code 3", "`code` where type, from, to or the end is expected"),
        (
            "accept from peer nobody",
            "no peer is named `nobody`: the peers with a name are bare, exit",
        ),
        ("accept from peer", "the rule ends where a peer's name is expected"),
        ("accept from peer bare", "peer `bare` stands for its `pinned` prefixes and has none"),
        ("accept from 10.0.0.0/8 to fd00::/8", "write IPv4 in both places, or IPv6"),
        ("accept icmp to fd00::/8", "icmp is IPv4's; write icmpv6, or IPv4 addresses"),
        ("accept icmpv6 to 10.0.0.0/8", "icmpv6 is IPv6's; write icmp, or IPv6 addresses"),
        ("accept ah to fd00::/8", "in IPv6 this is an extension header"),
    ] {
        refused(&with_rule(rule), "5:1: filter.policy.rules", sentence);
    }
}

#[test]
fn what_is_wrong_with_a_peer_is_not_said_twice() {
    let text = with_rule("accept from peer exit").replace("'10.0.0.2', 'fd00::2'", "'10'");
    refused(&text, "12:9: interface.peer.pinned", "`10` is not a prefix");
    let text = with_rule("accept from peer exit").replace("'exit'\n", "'e t'\n");
    refused(&text, "10:6: interface.peer.name", "cannot be the name of a peer");
}

#[test]
fn policies_must_fit_the_maps() {
    let ports = |count: usize| {
        let ports = (0..count).map(|port| (2 * port).to_string()).collect::<Vec<_>>().join(",");
        format!("accept tcp to any port {ports}")
    };
    parse(&with_rule(&ports(4096))).unwrap();
    refused(
        &with_rule(&ports(4097)),
        "1:1: filter.policy",
        "4097 rules after compilation (each is one for every pair of prefixes and ranges of \
         ports), but a policy has at most 4096",
    );
    parse(&format!("[filter]\nrules=2000\n{}", with_rule(&ports(1000)))).unwrap();
    refused(
        &format!("[filter]\nrules=2000\n{}", with_rule(&ports(1001))),
        "2:7: filter.rules",
        "room for 2000 rules, but all policies have 1001 after compilation and each is replaced \
         beside the old one: write at least 2002",
    );
}

#[test]
fn mistakes_in_a_links_filter() {
    for (link, lines, place, sentence) in [
        ("", "source='urpf'", "5:8: interface.filter.source", "\"off\", \"strict\", \"feasible\""),
        ("", "action='log'", "5:8: interface.filter.action", "\"enforce\" or \"monitor\""),
        ("", "list='::/0'", "5:6: interface.filter.list", "a list in brackets"),
        ("", "list=['::1/64']", "5:7: interface.filter.list", "write ::/64"),
        ("", "list=['::/0','::/0']", "5:14: interface.filter.list", "already given in line 5"),
        ("", "group=''", "5:7: interface.filter.group", "cannot be the name of a group"),
        ("", "policy=1", "5:8: interface.filter.policy", "an integer where a policy's name"),
        ("", "policy='q'", "5:8: interface.filter.policy", "add [[filter.policy]] with this name"),
        ("", "link_local='yes'", "5:12: interface.filter.link_local", "true or false"),
        ("", "unspecified=0", "5:13: interface.filter.unspecified", "true or false"),
        ("", "control=0", "5:9: interface.filter.control", "true or false"),
        ("", "ignore_default=0", "5:16: interface.filter.ignore_default", "true or false"),
        ("", "mode='x'", "5:1: interface.filter.mode", "open, source, action, list, group, policy"),
        ("", "source='list'", "5:8: interface.filter.source", "add list = "),
        ("", "source='group'", "5:8: interface.filter.source", "add group = "),
        ("", "open=true", "5:6: interface.filter.open", "write link = \"dedicated\""),
        ("link='shared'", "open=true", "5:6: interface.filter.open", "link of a single peer"),
        ("link='dedicated'", "open=1", "5:6: interface.filter.open", "true or false"),
    ] {
        let text = format!("[[interface]]\nname='a'\n{link}\n[interface.filter]\n{lines}");
        refused(&text, place, sentence);
    }
    refused(
        "[[interface]]\nname='a'\n[interface.filter]\npolicy='q'\n[[filter.policy]]\nname='p'",
        "4:8: interface.filter.policy",
        "no policy is named `q`: write one of p, or add",
    );
}

#[test]
fn mistakes_in_a_peers_filter() {
    for (link, lines, place, sentence) in [
        (
            "",
            "source='off'",
            "6:1: interface.peer.filter",
            "add [interface.filter] before its peers",
        ),
        ("[interface.filter]", "open=true", "7:1: interface.peer.filter.open", "unknown key"),
        ("[interface.filter]", "source='list'", "7:8: interface.peer.filter.source", "add list"),
        ("[interface.filter]", "source='group'", "7:8: interface.peer.filter.source", "add group"),
        ("[interface.filter]", "policy='p'", "7:8: interface.peer.filter.policy", "no policy"),
        ("[interface.filter]", "list=['10']", "7:7: interface.peer.filter.list", "not a prefix"),
    ] {
        refused(
            &format!(
                "[[interface]]\nname='a'\n{link}\n[[interface.peer]]\npublic_key='KEY_A'\n\
                 [interface.peer.filter]\n{lines}"
            ),
            place,
            sentence,
        );
    }
}

#[test]
fn peers_take_over_what_they_do_not_say() {
    let config = parse(
        "[[filter.policy]]\nname='p'\n[[interface]]\nname='a'\nlink='dedicated'\n\
         [interface.filter]\nsource='group'\naction='monitor'\nlist=['10.0.0.0/8']\ngroup='g'\n\
         policy='p'\nopen=true\nlink_local=false\nunspecified=false\ncontrol=false\n\
         ignore_default=true\n\
         [[interface.peer]]\npublic_key='KEY_A'\n\
         [interface.peer.filter]\nsource='list'\nlist=[]\n",
    )
    .unwrap();
    let interface = &config.interfaces[0];
    let link = interface.filter.as_ref().unwrap();
    let expected = PeerFilter {
        source: SourceMode::Group,
        monitor: true,
        list: vec!["10.0.0.0/8".parse().unwrap()],
        group: Some("g".into()),
        policy: Some("p".into()),
        link_local: false,
        unspecified: false,
        control: false,
        ignore_default: true,
    };
    assert!(link.open);
    assert_eq!(link.peers, expected);
    let own = PeerFilter { source: SourceMode::List, list: vec![], ..expected };
    assert_eq!(interface.peers[0].filter, Some(own));
}

#[test]
fn everything_that_can_be_said_of_the_filter_is_understood() {
    let config = parse(
        "[filter]\nhook='tcx'\ndirectory='/x'\ngrace='0ms'\nsamples=0\naudit_interval='off'\n\
         on_exit='remove'\nipv4_sources=1_000\nipv6_sources=1001\npeers=2\nrules=16\nflows=1024\n\
         [[interface]]\nname='a'\n",
    )
    .unwrap();
    let (filter, rule) = (&config.filter, &config.filter.rule);
    assert_eq!((filter.directory.as_path(), rule.hook), (Path::new("/x"), Hook::Tcx));
    assert!(rule.grace.is_zero() && rule.samples_per_second == 0);
    assert_eq!((rule.audit, rule.on_exit), (Audit::Off, OnExit::Remove));
    let sizes = rule.sizes;
    assert_eq!((sizes.sources_v4, sizes.sources_v6), (1000, 1001));
    assert_eq!((sizes.peers, sizes.rules, sizes.flows), (2, 16, 1024));
    assert_eq!(config.interfaces[0].filter, None);
}

fn policy(text: &str) -> PolicyRule {
    parse(text).unwrap().filter.rule.policies.remove(0)
}

fn canonical(policy: &PolicyRule) -> Vec<String> {
    policy.rules.iter().map(|rule| Canonical(rule).to_string()).collect()
}

#[test]
fn rules_mean_what_they_say() {
    for (rule, meaning) in [
        ("accept any", "accept any"),
        ("drop from 10.0.0.0/8", "drop any from 10.0.0.0/8"),
        ("accept tcp to port 22, 80-90 ,443", "accept tcp to any port 22,80-90,443"),
        ("accept tcp,udp to ::1", "accept tcp to ::1/128|accept udp to ::1/128"),
        ("accept proto 47,89", "accept gre|accept ospf"),
        ("accept icmp type echo-request", "accept icmp type 8"),
        ("accept icmp,icmpv6 type echo-request", "accept icmp type 8|accept icmpv6 type 128"),
        ("accept icmp,icmpv6 to 10.0.0.0/8", "accept icmp to 10.0.0.0/8"),
        ("drop icmp type 3 code 0-1,4", "drop icmp type 3 code 0-1,4"),
        (
            "accept udp from peer exit port 1024-65535 to peer exit,exit",
            "accept udp from 10.0.0.2/32,fd00::2/128 port 1024-65535 to \
             10.0.0.2/32,fd00::2/128,10.0.0.2/32,fd00::2/128",
        ),
    ] {
        let policy = policy(&with_rule(rule));
        assert_eq!(canonical(&policy).join("|"), meaning, "{rule}");
        assert!(policy.rules.iter().all(|spec| spec.line == 5 && spec.text == rule));
    }
}

#[test]
fn most_specific_destinations_come_first_if_wanted() {
    let rules = "'drop to 10.0.0.0/8', 'accept any', 'accept tcp to 10.1.0.0/16,10.2.3.0/24,fd00::/8',\
                 'drop to 10.2.0.0/16', 'accept from 10.0.0.0/8 to fd00::/64,192.0.2.0/24'";
    let text = |order| {
        format!(
            "[[filter.policy]]\nname='p'\norder='{order}'\nrules=[{rules}]\n[[interface]]\nname='a'"
        )
    };
    assert_eq!(
        canonical(&policy(&text("most-specific"))),
        [
            "accept tcp to 10.2.3.0/24",
            "accept any from 10.0.0.0/8 to 192.0.2.0/24",
            "accept tcp to 10.1.0.0/16",
            "drop any to 10.2.0.0/16",
            "drop any to 10.0.0.0/8",
            "accept tcp to fd00::/8",
            "accept any",
        ]
    );
    assert_eq!(policy(&text("listed")).rules.len(), 5);
}

#[test]
fn check_says_what_a_configuration_means() {
    let text = with_rule("accept tcp,udp from peer exit to port 53,80");
    let filter =
        "[interface.filter]\nsource='feasible'\npolicy='p'\n[[interface.peer]]\nname='exit'";
    let own = "\n[interface.peer.filter]\nsource='list'\nlist=['::/0']\naction='monitor'";
    let text = text.replacen("[[interface.peer]]\nname='exit'", filter, 1) + own;
    let report = Check::of(&parse(&text).unwrap());
    let mut out = Vec::new();
    print(&mut out, &report).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "INTERFACE  PEER         SOURCE    ACTION   POLICY  GROUP  LIST\n\
         a          (any other)  feasible  enforce  p       -      -\n\
         a          bare         list      monitor  p       -      ::/0\n\
         \n\
         policy p: drops by default, stateless, 8 rules compiled\n\
         \x20 line 5: accept tcp from 10.0.0.2/32,fd00::2/128 to any port 53,80 (4)\n\
         \x20 line 5: accept udp from 10.0.0.2/32,fd00::2/128 to any port 53,80 (4)\n\
         \n\
         fits: 8 of 8192 rules, 2 of 1024 peers (those that are learned come on top)\n"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["links"][1]["source"], "list");
    assert_eq!(json["policies"][0]["rules"][0]["line"], 5);
    assert_eq!(json["rules"], serde_json::json!({ "used": 8, "room": 8192 }));
    let mut out = Vec::new();
    print(&mut out, &Check::of(&Config::for_interfaces(&["wg0"]))).unwrap();
    assert!(out.starts_with(b"ok: no interface is filtered; add [interface.filter] to one\n"));
}

const TUNNELS: &str = "\
[[interface]]
name = 'wg0'
tables = [100]
filter = { source = 'feasible', list = ['10.0.0.0/8'] }
[[interface.peer]]
name = 'a'
public_key = 'xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg='
pinned = ['10.0.0.2/32']
filter = { source = 'loose', policy = 'p' }
[[interface.peer]]
name = 'b'
public_key = 'V0Z90HkRkCzCE9jB+Kagci27As99yWFigEhUo+0zFDg='
pinned = ['10.0.0.3/32', 'fd00::3/128']
[[filter.policy]]
name = 'p'
";

#[test]
fn tunnels_take_over_the_filter_of_their_peer() {
    let text = format!(
        "{TUNNELS}\
         [[tunnel]]\nname='t1'\nkind='gre'\nover='wg0'\npeer='a'\nlocal='10.0.0.1'\nkey=7\n\
         addresses=['10.1.0.1/30','fe80::1/64','10.2.0.1/32']\ntables=[5,6]\n\
         [[tunnel]]\nname='t2'\nkind='ip6gre'\nover='wg0'\nremote='fd00::3'\nlocal='fd00::1'\n\
         filter={{ action='monitor' }}\npinned=['10.3.0.2/32']\n\
         [[tunnel]]\nname='t3'\nmanage=false\nover='wg0'\npeer='b'\nfilter={{ source='off' }}\n\
         [[tunnel]]\nname='t4'\nmanage=false\nover='wg0'\nremote='10.0.0.9'\n\
         kind='ipip'\nlocal='10.0.0.1'\n"
    );
    // 10.0.0.9 is nobody's.
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains("tunnel.remote"), "{error}");
    let text = text.replace("10.0.0.9", "10.0.0.2");
    let config = parse(&text).unwrap();
    assert_eq!(config.links.len(), 2, "the others are somebody else's");
    let wg0 = &config.interfaces[0];
    let [one, two, three, four] = &wg0.tunnels[..] else { panic!("{:?}", wg0.tunnels) };
    let own = wg0.peers[0].filter.as_ref().unwrap();
    let link = &wg0.filter.as_ref().unwrap().peers;
    assert_eq!((&one.filter, &one.tables), (own, &vec![5, 6]));
    let ends = one.ends.unwrap();
    assert_eq!(
        (ends.protocol, ends.key, ends.remote.to_string()),
        (47, Some(7), "10.0.0.2".into())
    );
    assert_eq!(one.pinned, ["10.1.0.0/30".parse().unwrap()]);
    assert_eq!(two.peer, Some(wg0.peers[1].public_key));
    assert!(two.filter.monitor && two.filter.list == link.list && two.tables.is_empty());
    assert_eq!(two.pinned, ["10.3.0.2/32".parse().unwrap()]);
    assert_eq!((three.ends, three.filter.source), (None, SourceMode::Off));
    assert_eq!((four.ends.unwrap().protocol, &four.filter), (4, own));
    // Without a filter of the interface there is none for tunnels.
    let plain = "[[interface]]\nname='wg0'\n\
                 [[tunnel]]\nname='t'\nmanage=false\nover='wg0'\nremote='10.0.0.2'";
    assert!(parse(plain).unwrap().interfaces[0].tunnels.is_empty());
}

#[test]
fn wrong_tunnels_are_told_with_the_remedy() {
    for (lines, key, remedy) in [
        ("manage=false", "tunnel.peer", "add peer"),
        ("manage=false\npeer='a'\nkind='gre'", "tunnel.local", "add local"),
        ("manage=false\npeer='a'\nlocal='10.0.0.1'", "tunnel.kind", "add kind"),
        ("manage=false\npeer='a'\nkey=1", "tunnel.kind", "add kind"),
        ("manage=false\npeer='a'\nttl=3", "tunnel.ttl", "leave out manage = false"),
        ("manage=false\npeer='a'\nmtu=1400", "tunnel.mtu", "leave out manage = false"),
        ("manage=false\npeer='a'\naddresses=[]", "tunnel.addresses", "leave out manage = false"),
        ("manage=false\npeer='a'\nfilter={policy='q'}", "tunnel.filter.policy", "p"),
        ("manage=false\npeer='a'\nfilter={open=true}", "tunnel.filter.open", "the keys here"),
        ("manage=false\npeer='a'\ntables=[]", "tunnel.tables", "leave `tables` out"),
        (
            "manage=false\npeer='a'\n[[tunnel]]\nname='u'\nover='wg0'\npeer='a'\nmanage=false",
            "tunnel",
            "give both",
        ),
    ] {
        let text = format!("{TUNNELS}[[tunnel]]\nname='t'\nover='wg0'\n{lines}");
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(remedy), "{lines}: {error}");
    }
    let alone = "[[interface]]\nname='wg0'\n[[tunnel]]\nname='t'\nmanage=false\nover='wg0'\n\
                 remote='10.0.0.2'\nfilter={}";
    let error = parse(alone).unwrap_err().to_string();
    assert!(error.contains("tunnel.filter") && error.contains("[interface.filter]"), "{error}");
}
