//! The configuration of exits and flows as its users meet it: every mistake is reported, once, at its
//! place, with what to use instead; and what is said is understood.

#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::path::Path;

use wgrouted::{
    config::{Config, ConfigErrors, Names},
    core::exits::{
        iprule::{Mark, Span},
        rule::{FlowsRule, Guard, Target, Via},
    },
};

const KEY_A: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";
const KEY_B: &str = "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=";

/// A shared interface with two peers, one of which has a tunnel, a dedicated one, and one of which
/// nothing is said.
const LINKS: &str = r#"
[[interface]]
name = "wg0"
link = "shared"
manage = true
private_key_file = "/key"
addresses = ["10.0.0.1/24"]
[[interface.peer]]
name = "lisbon"
public_key = "KEY_A"
pinned = ["10.0.0.2/32"]
[[interface.peer]]
name = "oslo"
public_key = "KEY_B"
pinned = ["10.0.0.3/32"]
[[interface]]
name = "wg-b"
link = "dedicated"
[[interface.peer]]
name = "berlin"
public_key = "KEY_A"
[[interface]]
name = "wg-x"
[[tunnel]]
name = "gre-l"
kind = "gre"
over = "wg0"
peer = "lisbon"
[[tunnel]]
name = "ipip-o"
kind = "ipip"
over = "wg0"
peer = "oslo"
"#;

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    let text = format!("{text}\n{LINKS}").replace("KEY_A", KEY_A).replace("KEY_B", KEY_B);
    Config::from_bytes(text.as_bytes(), Path::new("x.toml"), &Names::built_in())
}

fn flows(text: &str) -> FlowsRule {
    parse(text).unwrap().flows
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
fn links_that_cannot_be_exits_say_what_to_use_instead() {
    for (via, sentence) in [
        (
            "'wg0'",
            "wg0 is a shared interface, where WireGuard picks the peer by the destination alone",
        ),
        ("'wg0'", "(link = \"dedicated\"), or a [[tunnel]] over wg0"),
        ("'wg-x'", "add link = \"dedicated\""),
        ("'rome'", "no link or peer `rome`"),
        ("'rome'", "links are wg0, wg-b, wg-x, gre-l, ipip-o"),
        ("{ link = 'wg-b', weight = 0 }", "choose 1 to 256"),
        ("{ link = 'wg-b', share = 1 }", "link, weight"),
        ("{ weight = 1 }", "{ link = \"wg-b\", weight = 2 }"),
        ("7", "a link's name in quotes"),
    ] {
        refused(&format!("[[exit]]\nname='a'\nvia=[{via}]"), "3:6: exit.via", sentence);
    }
    let tunnelless =
        LINKS.replace("peer = \"oslo\"", "local = \"10.0.0.1\"\nremote = \"10.0.0.2\"");
    let text = format!("[[exit]]\nname='a'\nvia=['oslo']\n{tunnelless}");
    let text = text.replace("KEY_A", KEY_A).replace("KEY_B", KEY_B);
    let errors = Config::from_bytes(text.as_bytes(), Path::new("x.toml"), &Names::built_in());
    let errors = errors.unwrap_err().to_string();
    assert!(errors.contains("oslo is a peer of the shared interface wg0"), "{errors}");
    let text = text.replace("via=['oslo']", "via=['lisbon']");
    let errors = Config::from_bytes(text.as_bytes(), Path::new("x.toml"), &Names::built_in());
    let errors = errors.unwrap_err().to_string();
    assert!(
        errors.contains("lisbon has several links: name the one that is meant, gre-l or ipip-o"),
        "{errors}"
    );
}

#[test]
fn mistakes_in_exits() {
    for (lines, place, sentence) in [
        ("name='a'", "1:1: exit.via", "missing: add via = "),
        ("name='a'\nvia=[]", "3:5: exit.via", "name a link"),
        ("via=['wg-b']", "1:1: exit.name", "name = \"berlin\""),
        ("name='main'\nvia=['wg-b']", "2:6: exit.name", "means something else"),
        ("name='a'\nvia=['wg-b', 'berlin']", "3:14: exit.via", "name each link once"),
        ("name='a'\nvia=[{link='wg-b',weight=1},'gre-l']", "3:6: exit.via", "give all a weight"),
        (
            "name='a'\nvia=['wg-b']\nwhen_down='off'",
            "4:11: exit.when_down",
            "\"next\", \"main\" or \"block\"",
        ),
        ("name='a'\nvia=['wg-b']\nback_after='2h'", "4:12: exit.back_after", "choose 0s to 1h"),
        ("name='a'\nvia=['wg-b']\ntable='main'", "4:7: exit.table", "everybody's routes"),
        ("name='a'\nvia=['wg-b']\nfeed=true", "4:6: exit.feed", "add `table`"),
        (
            "name='a'\nvia=['wg-b']\nsource=['10.0.0.1','10.0.0.2']",
            "4:20: exit.source",
            "one address of each family",
        ),
    ] {
        refused(&format!("[[exit]]\n{lines}"), place, sentence);
    }
    let twice =
        "[[exit]]\nname='a'\nvia=['wg-b']\ntable=7\n[[exit]]\nname='b'\nvia=['gre-l']\ntable=7";
    refused(twice, "8:7: exit.table", "a table of its own");
    let twice = "[[exit]]\nname='a'\nvia=['wg-b']\n[[exit]]\nname='a'\nvia=['gre-l']";
    refused(twice, "5:6: exit.name", "choose another name");
    for (line, key) in
        [("rules='1-3'", "rules"), ("tables='1-999'", "tables"), ("nexthops='0-99'", "nexthops")]
    {
        let column = line.find('=').unwrap() + 2;
        refused(
            &format!("[flows]\n{line}"),
            &format!("2:{column}: flows.{key}"),
            "at least 16 numbers",
        );
    }
}

#[test]
fn mistakes_in_flows() {
    let exit = "[[exit]]\nname='a'\nvia=['wg-b']\n[[flow]]\nexit='a'\n";
    for (lines, place, sentence) in [
        ("from='10.0.0.0/8'\nto='fd00::/8'", "7:4: flow.to", "different families"),
        ("dport=443", "6:7: flow.dport", "add protocol = \"tcp\""),
        ("protocol='icmp'\nsport=1", "7:7: flow.sport", "only TCP, UDP, DCCP and SCTP"),
        ("protocol='tcp'\ndport=0", "7:7: flow.dport", "the kernel takes 1 to 65534"),
        ("protocol='tcp'\ndport='9-8'", "7:7: flow.dport", "not a number or a range of ports"),
        ("protocol='xtp'", "6:10: flow.protocol", "not a protocol"),
        ("uid=5\niif='eth0'", "6:5: flow.uid", "packets that come from eth0 have no owner"),
        ("uid='a-b'", "6:5: flow.uid", "not a number or a range of user numbers"),
        ("vrf='red'\niif='eth0'", "6:5: flow.vrf", "leave `iif` out"),
        ("tos=4\ndscp=1", "6:5: flow.tos", "leave one of them out"),
        ("tos=3", "6:5: flow.tos", "congestion notification"),
        ("dscp=64", "6:6: flow.dscp", "choose 0 to 63"),
        ("dscp='best'", "6:6: flow.dscp", "\"ef\""),
        ("mark='0x10/0x0f'", "6:6: flow.mark", "not a mark"),
        ("mark='0/0'", "6:6: flow.mark", "not a mark"),
        ("realm=7", "6:7: flow.realm", "`feed = true`"),
    ] {
        refused(&format!("{exit}{lines}"), place, sentence);
    }
    refused("[[flow]]\nmark=1", "1:1: flow.exit", "exit = \"berlin\"");
    refused("[[flow]]\nexit='b'", "2:6: flow.exit", "name one of main, block");
    let ipip = "[[exit]]\nname='a'\nvia=['ipip-o']\n[[flow]]\nto='fd00::/8'\nexit='a'";
    refused(ipip, "4:1: flow.exit", "carry no IPv6: use gre or ip6gre");
}

#[test]
fn what_is_said_is_understood() {
    let rule = flows(
        "[flows]\nrules='500-900'\n\
         [[exit]]\nname='a'\nvia=['berlin','lisbon','ipip-o']\ntable=7\n\
         [[exit]]\nname='b'\nvia=[{link='wg-b',weight=3},{link='gre-l',weight=256}]\n\
         [[flow]]\nmark='0x10/0xff'\nuid=[5,'7-9']\ndscp='ef'\nexit='a'\n\
         [[flow]]\nname='last'\nprotocol='udp'\nsport='1-2'\nexit='main'",
    );
    assert_eq!(rule.rules, 500..=900);
    let links: Vec<&str> = rule.exits[0].via.iter().map(|via| &*via.link).collect();
    assert_eq!(links, ["wg-b", "gre-l", "ipip-o"]);
    let Via { interface, peer, ipv6, .. } = &rule.exits[0].via[2];
    assert_eq!((&**interface, peer.as_deref(), *ipv6), ("wg0", Some("oslo"), false));
    assert!(!rule.exits[0].weighted && rule.exits[1].weighted);
    assert_eq!(rule.exits[1].via[1].weight, 256);
    let flow = &rule.flows[0];
    assert_eq!((&*flow.name, flow.dscp), ("flow-1", Some(46)));
    assert_eq!(flow.mark, Some(Mark { value: 0x10, mask: 0xff }));
    assert_eq!(flow.uid, [Span { first: 5, last: 5 }, Span { first: 7, last: 9 }]);
    assert_eq!(flow.target, Target::Exit("a".to_owned()));
    assert_eq!((&*rule.flows[1].name, &rule.flows[1].target), ("last", &Target::Main));
    // All that carries other packets is guarded.
    let local = "10.0.0.1".parse().unwrap();
    for guard in [
        Guard::Device { name: "wg0".to_owned() },
        Guard::Device { name: "wg-b".to_owned() },
        Guard::Tunnel { local, protocol: 47 },
        Guard::Tunnel { local, protocol: 4 },
    ] {
        assert!(rule.guards.contains(&guard), "{guard:?}");
    }
}
