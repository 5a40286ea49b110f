//! `wgrouted explain` follows packets, the kernel the same way.
//!
//! Here lives a router with a shared device, a tunnel in it, a dedicated link and rules that send
//! packets there by mark, owner, port and link: what is printed is what `ip route get` answers.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Scenario;
use crate::lab::{Lab, Node, PATIENCE, Wgrouted, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "explain-packets",
    "`wgrouted explain` follows packets by mark, owner, port and link to peer and filter, as \
     `ip route get` does, with and without a daemon",
    packets,
)];

/// A host behind every exit.
const FAR: &str = "203.0.113.5";
/// One behind a peer of the shared device.
const NEAR: &str = "192.0.2.9";

/// A question, as both commands take it, and where it ends.
struct Case {
    address: &'static str,
    explain: &'static str,
    ip: &'static str,
    link: &'static str,
    peer: &'static str,
    says: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        address: NEAR,
        explain: "--mark 0",
        ip: "",
        link: "wg0",
        peer: "s1",
        says: &[
            "rule 32766: all packets: table main: 192.0.2.0/24 via 10.1.0.2 dev wg0",
            "→ link wg0, to peer s1 at 198.51.100.7:51820 (AllowedIPs 192.0.2.0/24)",
            "rule 900: to 192.0.2.0/24: goto 32000",
            "replies: WireGuard lets 192.0.2.9 in from s1",
        ],
    },
    Case {
        address: FAR,
        explain: "--mark 0x10",
        ip: "mark 0x10",
        link: "wg1",
        peer: "exit",
        says: &[
            "rule 1000: mark 0x10: table 100: default metric 7 dev wg1",
            "→ link wg1, to peer exit at 198.51.100.9:51820 (AllowedIPs 0.0.0.0/0)",
            "replies: the filter lets 203.0.113.5 in from exit",
        ],
    },
    Case {
        address: FAR,
        explain: "--uid 1500",
        ip: "uid 1500",
        link: "gre-t",
        peer: "s1",
        says: &[
            "skipped: rule 1000 (mark 0x10: the packet has none)",
            "rule 1001: uid 1000-1999: table 101: default via 10.9.0.2 dev gre-t",
            "→ link gre-t, gre from 10.1.0.1 to 10.1.0.2 over wg0, to peer s1 at",
        ],
    },
    Case {
        address: FAR,
        explain: "--proto tcp --dport 443",
        ip: "ipproto 6 dport 443",
        link: "wg1",
        peer: "exit",
        says: &["rule 1002: tcp, to port 443: table 100:", "tcp to port 443"],
    },
    Case {
        address: NEAR,
        explain: "--proto tcp --dport 443",
        ip: "ipproto 6 dport 443",
        link: "wg0",
        peer: "s1",
        says: &["rule 900: to 192.0.2.0/24: goto 32000"],
    },
];

fn key(node: &Node, name: &str) -> Result<(String, String)> {
    let private = node.run("wg", ["genkey"])?;
    let public = node.run_input("wg", ["pubkey"], private.as_bytes())?.trim().to_owned();
    let path = node.write_file(name, &private)?;
    node.run("chmod", ["600", &path.display().to_string()])?;
    Ok((path.display().to_string(), public))
}

fn config(node: &Node) -> Result<String> {
    let (own0, _) = key(node, "wg0.key")?;
    let (own1, _) = key(node, "wg1.key")?;
    let (_, s1) = key(node, "s1.key")?;
    let (_, s2) = key(node, "s2.key")?;
    let (_, exit) = key(node, "exit.key")?;
    Ok(format!(
        "[[interface]]\n\
         name = \"wg0\"\n\
         link = \"shared\"\n\
         manage = true\n\
         private_key_file = \"{own0}\"\n\
         addresses = [\"10.1.0.1/24\"]\n\
         [[interface.peer]]\n\
         name = \"s1\"\n\
         public_key = \"{s1}\"\n\
         pinned = [\"10.1.0.2/32\"]\n\
         endpoint = \"198.51.100.7:51820\"\n\
         [[interface.peer]]\n\
         name = \"s2\"\n\
         public_key = \"{s2}\"\n\
         pinned = [\"10.1.0.3/32\"]\n\
         [[interface]]\n\
         name = \"wg1\"\n\
         link = \"dedicated\"\n\
         manage = true\n\
         private_key_file = \"{own1}\"\n\
         addresses = [\"10.2.0.1/24\"]\n\
         tables = [\"main\", 100]\n\
         filter = {{ source = \"strict\" }}\n\
         [[interface.peer]]\n\
         name = \"exit\"\n\
         public_key = \"{exit}\"\n\
         endpoint = \"198.51.100.9:51820\"\n\
         [[tunnel]]\n\
         name = \"gre-t\"\n\
         kind = \"gre\"\n\
         over = \"wg0\"\n\
         peer = \"s1\"\n\
         addresses = [\"10.9.0.1/24\"]\n"
    ))
}

/// What `ip route get` answers.
fn route_get(node: &Node, words: &str) -> Result<Value> {
    let args = ["-json", "route", "get"].into_iter().chain(words.split_whitespace());
    let text = node.run("ip", args)?;
    let all: Value = serde_json::from_str(&text).with_context(|| format!("{words}: {text}"))?;
    all.get(0).cloned().context("an answer")
}

fn ask(daemon: &Wgrouted, address: &str, options: &str, json: bool) -> Result<String> {
    let mut words = vec!["explain", address];
    words.extend(options.split_whitespace());
    words.extend(json.then_some("--json"));
    daemon.run(&words)
}

fn check(node: &Node, daemon: &Wgrouted, case: &Case, named: bool) -> Result<()> {
    let Case { address, explain, ip, link, peer, says } = case;
    let kernel = route_get(node, &format!("{address} {ip}"))?;
    let text = ask(daemon, address, explain, true)?;
    let answer: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    let told = |pointer: &str| answer.pointer(pointer).cloned().unwrap_or_default();
    ensure!(kernel["dev"] == *link, "{explain}: the kernel takes {kernel}");
    ensure!(told("/onward/link") == *link, "{explain}: {text}");
    ensure!(told("/kernel/agrees") == true, "{explain}: {text}");
    ensure!(told("/onward/gateway") == kernel["gateway"], "{explain}: {text}");
    if named {
        ensure!(told("/onward/wireguard/peer/name") == *peer, "{explain}: {text}");
    }
    let text = ask(daemon, address, explain, false)?;
    let source = kernel["prefsrc"].as_str().context("a source")?;
    let agrees = match kernel["gateway"].as_str() {
        Some(gateway) => format!("the kernel agrees: via {gateway} dev {link} src {source}"),
        None => format!("the kernel agrees: dev {link} src {source}"),
    };
    ensure!(text.contains(&agrees), "no `{agrees}` in:\n{text}");
    for part in says.iter().filter(|_| named) {
        ensure!(text.contains(part), "no `{part}` in:\n{text}");
    }
    Ok(())
}

fn packets(lab: &mut Lab) -> Result<()> {
    let (node, other) = (lab.node("a")?, lab.node("b")?);
    let cable = lab.link(&node, &other)?;
    let lan = &cable.a.device;
    let mut daemon = lab.wgrouted_with(&node, &config(&node)?)?;
    daemon.start()?;
    node.ip_batch(&format!(
        "route add 192.0.2.0/24 via 10.1.0.2\n\
         route add default dev wg1 table 100 metric 7\n\
         route add default via 10.9.0.2 dev gre-t table 101\n\
         route add unreachable 100.64.0.0/10\n\
         rule add priority 900 to 192.0.2.0/24 goto 32000\n\
         rule add priority 1000 fwmark 0x10 lookup 100\n\
         rule add priority 1001 uidrange 1000-1999 lookup 101\n\
         rule add priority 1002 ipproto 6 dport 443 lookup 100\n\
         rule add priority 1003 iif {lan} lookup 101\n\
         rule add priority 32000 nop\n"
    ))?;
    daemon.wait_listed("routes", "192.0.2.0/24")?;
    daemon.wait_in_sync()?;
    let filter =
        || Ok(daemon.run(&["filter", "show", "--json"])?.contains("\"state\":\"in-force\""));
    wait_until("the filter to be in force", PATIENCE, filter, |done| *done)?;
    for case in CASES {
        check(&node, &daemon, case, true)?;
    }
    lab.say("what comes in by a link");
    let from = cable.b.address.to_string();
    let options = format!("--from {from} --iif {lan}");
    let text = ask(&daemon, FAR, &options, false)?;
    let kernel = route_get(&node, &format!("{FAR} from {from} iif {lan}"))?;
    ensure!(kernel["dev"] == "gre-t", "{kernel}");
    for part in [
        &format!("{FAR} from {from}, coming by {lan}"),
        &format!("rule 1003: coming by {lan}: table 101: default via 10.9.0.2 dev gre-t"),
        "the kernel agrees: via 10.9.0.2 dev gre-t",
    ] {
        ensure!(text.contains(part), "no `{part}` in:\n{text}");
    }
    lab.say("what goes nowhere is told, with exit status 1");
    for (address, options, said) in [
        ("100.64.0.1", "--mark 0", "the kernel agrees: unreachable"),
        (FAR, "--uid 7", "the kernel agrees: no route"),
    ] {
        let mut words = vec!["explain", address];
        words.extend(options.split_whitespace());
        let output = lab.wgrouted_once(&node, &words)?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(1), "{address}: {}", output.status);
        ensure!(text.contains(said), "no `{said}` in:\n{text}");
    }
    lab.say("the same without a daemon");
    daemon.terminate()?;
    for case in CASES {
        check(&node, &daemon, case, false)?;
    }
    Ok(())
}
