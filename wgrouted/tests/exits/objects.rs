//! What is installed, what the kernel makes of it, and that nothing else is touched.

use std::collections::BTreeSet;

use wgrouted::exits::ExitsError;

use crate::{
    lab::{Lab, eventually, everything, rule, way},
    support::netns::{ip, try_ip},
};

const FLOWS: &str = r#"
[[exit]]
name = "one"
via = ["d1"]
when_down = "block"
source = ["10.1.0.1", "fd00:1::1"]

[[exit]]
name = "two"
via = ["d2", "d3"]

[[exit]]
name = "both"
via = [{ link = "d2", weight = 3 }, { link = "d3", weight = 1 }]
when_down = "main"

[[flow]]
name = "exception"
to = ["198.51.100.0/24", "2001:db8:100::/48"]
exit = "main"

[[flow]]
name = "never"
to = ["203.0.113.0/24", "2001:db8:dead::/48"]
exit = "block"

[[flow]]
name = "mark"
mark = "0x10/0xff"
exit = "one"

[[flow]]
name = "user"
uid = ["1000-1999", 3000]
exit = "two"

[[flow]]
name = "ports"
protocol = "tcp"
dport = [443, "8000-8100"]
exit = "one"

[[flow]]
name = "source"
from = ["10.0.0.1/32", "fd00:0::1/128"]
exit = "two"

[[flow]]
name = "class"
dscp = 2
exit = "both"
"#;

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test exits -- --ignored"]
fn the_kernel_decides_as_configured() {
    let Some(lab) = Lab::new() else { return };
    let before = everything();
    let running = lab.start(FLOWS);
    assert_eq!(running.status().faults, Vec::<String>::new());
    for (packet, link) in [
        ("192.0.2.1", "eth"),
        ("192.0.2.1 mark 0x10", "d1"),
        ("192.0.2.1 mark 0x7710", "d1"),
        ("192.0.2.1 mark 0x11", "eth"),
        ("192.0.2.1 uid 1000", "d2"),
        ("192.0.2.1 uid 1999", "d2"),
        ("192.0.2.1 uid 2000", "eth"),
        ("192.0.2.1 uid 3000", "d2"),
        ("192.0.2.1 ipproto 6 dport 443", "d1"),
        ("192.0.2.1 ipproto 6 dport 8100", "d1"),
        ("192.0.2.1 ipproto 6 dport 8101", "eth"),
        ("192.0.2.1 ipproto 17 dport 443", "eth"),
        ("192.0.2.1 from 10.0.0.1", "d2"),
        ("198.51.100.1 mark 0x10", "eth"),
        ("203.0.113.1", "unreachable"),
        ("10.1.0.7 mark 0x10", "d1"),
        ("2001:db8::1", "eth"),
        ("2001:db8::1 mark 0x10", "d1"),
        ("2001:db8::1 uid 1500", "d2"),
        ("2001:db8::1 ipproto 6 dport 8000", "d1"),
        ("2001:db8::1 from fd00:0::1", "d2"),
        ("2001:db8:100::1 mark 0x10", "eth"),
        ("2001:db8:dead::1", "unreachable"),
    ] {
        assert_eq!(way(packet), link, "{packet}\n{}", everything());
    }
    // Both links of a weighted exit, and nothing else; the source is the configured one.
    let mut used = BTreeSet::new();
    for host in 1..60 {
        used.insert(way(&format!("192.0.2.{host} tos 0x8")));
    }
    assert_eq!(used.into_iter().collect::<Vec<_>>(), ["d2", "d3"]);
    let got = ip("route get 192.0.2.1 mark 0x10");
    assert!(got.contains("src 10.1.0.1"), "{got}");
    // A look that finds everything in place changes nothing.
    let (steady, objects) = (everything(), running.status().objects);
    drop(running);
    assert_eq!(everything(), steady, "nothing goes with the daemon");
    let again = lab.start(FLOWS);
    assert_eq!(everything(), steady, "a restart adopts what is there");
    assert_eq!(again.status().objects, objects);
    drop(again);
    let dry = lab.cleanup(true);
    assert_eq!(everything(), steady);
    assert_eq!(lab.cleanup(false), dry);
    assert_eq!(everything(), before, "after cleanup");
    assert_eq!(lab.cleanup(false), Vec::<String>::new());
}

/// Everything, line by line, each with what it is about: both families' rules look the same.
fn lines() -> BTreeSet<String> {
    let everything = everything();
    let mut all = BTreeSet::new();
    let mut heading = "";
    for line in everything.lines() {
        heading = if line.ends_with(':') { line } else { heading };
        all.insert(format!("{heading} {line}"));
    }
    all
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test exits -- --ignored"]
fn one_changed_rule_is_one_change() {
    let Some(lab) = Lab::new() else { return };
    let flow = |mark: u32| format!("[[flow]]\nmark = {mark}\nexit = \"one\"\n");
    let many: Vec<String> = (1..=300).map(flow).collect();
    let exit = "[[exit]]\nname = \"one\"\nvia = [\"d1\"]\n";
    let running = lab.start(&format!("{exit}{}", many.concat()));
    let before = lines();
    // Another one in the middle, and one less.
    let mut changed = many.clone();
    changed.insert(150, flow(0xbeef));
    running.exits.configure(rule(&format!("{exit}{}", changed.concat())));
    eventually("the new rule", || way("192.0.2.1 mark 0xbeef") == "d1");
    let between = lines();
    let new: Vec<_> = between.difference(&before).collect();
    assert_eq!((new.len(), before.difference(&between).count()), (2, 0), "{new:?}");
    changed.remove(7);
    running.exits.configure(rule(&format!("{exit}{}", changed.concat())));
    eventually("the old rule is gone", || way("192.0.2.1 mark 8") == "eth");
    let after = lines();
    assert_eq!(
        (after.difference(&between).count(), between.difference(&after).count()),
        (0, 2),
        "one rule a family"
    );
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test exits -- --ignored"]
fn nothing_of_others_is_touched_or_used() {
    let Some(lab) = Lab::new() else { return };
    // Others' rules, tables and nexthop objects around and, by number, among ours.
    for command in [
        "rule add priority 9999 fwmark 0x99 lookup 77",
        "-6 rule add priority 9999 fwmark 0x99 lookup 77",
        "rule add priority 30000 fwmark 0x98 lookup 77 protocol 119",
        "route add 192.0.2.0/24 dev eth table 77 proto 119",
        "nexthop add id 1190000 dev eth",
        "nexthop add id 7 dev eth protocol 119",
        "route add default dev eth table 300 proto 119 metric 1024",
    ] {
        ip(command);
    }
    let before = everything();
    let running = lab.start(FLOWS);
    assert_eq!(way("192.0.2.1 mark 0x10"), "d1");
    drop(running);
    lab.cleanup(false);
    assert_eq!(everything(), before);

    // Where others stand among ours, nothing is begun.
    ip("rule add priority 10500 fwmark 0x97 lookup 77");
    let before = everything();
    let refused = lab.try_start(FLOWS).err().unwrap();
    assert!(matches!(refused, ExitsError::Taken(_)));
    let text = refused.to_string();
    assert!(text.contains("ip -4 rule del priority 10500"), "{text}");
    assert_eq!(everything(), before);
    ip("rule del priority 10500");

    // A table that somebody else fills is not taken; one that is named is refused.
    let exit = "[[exit]]\nname = \"one\"\nvia = [\"d1\"]\n";
    let flow = "[[flow]]\nmark = 16\nexit = \"one\"\n";
    let running = lab.start(&format!("{exit}{flow}"));
    let table = running.status().exits[0].table.unwrap();
    drop(running);
    lab.cleanup(false);
    ip(&format!("route add 192.0.2.0/24 dev eth table {table} proto static"));
    let running = lab.start(&format!("{exit}{flow}"));
    assert_ne!(running.status().exits[0].table.unwrap(), table);
    assert_eq!(way("192.0.2.1 mark 16"), "d1");
    drop(running);
    lab.cleanup(false);
    let named = format!("{exit}table = {table}\n{flow}");
    let text = lab.try_start(&named).err().unwrap().to_string();
    assert!(text.contains("feed = true"), "{text}");
    let fed = format!("{exit}table = {table}\nfeed = true\n{flow}");
    let running = lab.start(&fed);
    assert_eq!(way("192.0.2.1 mark 16"), "eth");
    assert_eq!(running.status().exits[0].table, Some(table));
    drop(running);
    lab.cleanup(false);
    assert!(try_ip(&format!("route show table {table}")).unwrap().contains("192.0.2.0/24"));
}

#[test]
#[ignore = "needs root: sudo -E cargo test -p wgrouted --test exits -- --ignored"]
fn what_somebody_removes_comes_back() {
    let Some(lab) = Lab::new() else { return };
    let running = lab.start(FLOWS);
    let steady = everything();
    let ours = |line: &&str| line.contains("proto 119") || line.contains("proto wgrouted");
    let nexthops = ip("nexthop");
    let group = nexthops.lines().find(|line| line.contains("group")).unwrap();
    let id = group.split_whitespace().nth(1).unwrap();
    assert!(nexthops.lines().any(|line| ours(&line)), "{nexthops}");
    for command in [
        "rule del fwmark 0x10/0xff".to_owned(),
        "-6 rule del fwmark 0x10/0xff".to_owned(),
        format!("nexthop del id {id}"),
    ] {
        let wound = running.status().repaired;
        ip(&command);
        eventually(&command, || running.status().repaired > wound);
        let mark = |text: &str| text.lines().filter(|line| line.contains("0x10/0xff")).count();
        assert_eq!(mark(&everything()), mark(&steady));
    }
    for packet in ["192.0.2.1 mark 0x10", "2001:db8::1 mark 0x10"] {
        running.wait_way(packet, "d1");
    }
    assert_eq!(running.status().faults, Vec::<String>::new());
}
