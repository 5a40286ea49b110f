//! Links that the daemon makes.
//!
//! Here lives what `manage = true` and `[[tunnel]]` promise: links come to be and stay as
//! configured, what was there is adopted, and nothing that somebody else made goes away.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    Scenario,
    support::{Hub, star},
};
use crate::lab::{Key, Lab, Link, Node, PATIENCE, Wgrouted, assert_flow, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "links-made",
        "two nodes make a dedicated link from nothing; SIGKILL and restart change nothing of it",
        made,
    ),
    Scenario::new(
        "links-tunnels",
        "gre, ip6gre and ipip inside a shared device carry packets, at the MTU that they have room for",
        tunnels,
    )
    .within(180),
    Scenario::new(
        "links-adopted",
        "a device that is there is adopted: same link, same session, same counters",
        adopted,
    ),
    Scenario::new(
        "links-reload",
        "a reload changes what it says; what is dropped goes if we made it, and stays if not",
        reload,
    )
    .within(180),
    Scenario::new(
        "links-repaired",
        "a link that somebody deletes or spoils comes back",
        repaired,
    ),
    Scenario::new(
        "links-refused",
        "a missing key, a wrong key, a taken name and port are told, and the rest is made",
        refused,
    ),
];

/// Two nodes, joined by a cable.
struct Pair {
    nodes: [Node; 2],
    link: Link,
    keys: [Key; 2],
}

impl Pair {
    fn new(lab: &mut Lab) -> Result<Pair> {
        let nodes = [lab.node("a")?, lab.node("b")?];
        let link = lab.link(&nodes[0], &nodes[1])?;
        let keys = [Key::new(&nodes[0], "wg.key")?, Key::new(&nodes[1], "wg.key")?];
        Ok(Pair { nodes, link, keys })
    }

    /// A dedicated link to the other node; node 0 says where that is.
    fn dedicated(&self, own: usize, more: &str) -> String {
        let endpoint =
            format!("endpoint = \"{}:51820\"\nkeepalive = \"25s\"\n", self.link.b.address);
        format!(
            "[[interface]]\n\
             name = \"wg1\"\n\
             link = \"dedicated\"\n\
             manage = true\n\
             private_key_file = \"{}\"\n\
             listen_port = 51820\n\
             addresses = [\"10.1.0.{}/24\"]\n\
             {more}\
             [[interface.peer]]\n\
             name = \"other\"\n\
             public_key = \"{}\"\n{}",
            self.keys[own].file,
            own + 1,
            self.keys[1 - own].public,
            if own == 0 { endpoint } else { String::new() }
        )
    }

    /// A shared device in which each node has the other for a peer.
    fn shared(&self, own: usize) -> String {
        let (me, other) = (own + 1, 2 - own);
        let address = [&self.link.a.address, &self.link.b.address][1 - own];
        format!(
            "[[interface]]\n\
             name = \"wg0\"\n\
             link = \"shared\"\n\
             manage = true\n\
             private_key_file = \"{}\"\n\
             listen_port = 51820\n\
             addresses = [\"10.1.0.{me}/24\", \"fd01::{me}/64\"]\n\
             [[interface.peer]]\n\
             name = \"other\"\n\
             public_key = \"{}\"\n\
             pinned = [\"10.1.0.{other}/32\", \"fd01::{other}/128\"]\n\
             endpoint = \"{address}:51820\"\n",
            self.keys[own].file,
            self.keys[1 - own].public,
        )
    }
}

/// What `ip -json` says.
fn json(node: &Node, words: &str) -> Result<Value> {
    let args = ["-details", "-json"].into_iter().chain(words.split_whitespace());
    let text = node.run("ip", args)?;
    serde_json::from_str(&text).with_context(|| format!("ip {words}: {text}"))
}

/// A link's number, MTU and alternative names.
fn link(node: &Node, name: &str) -> Result<Option<Value>> {
    let all = json(node, "link show")?;
    let all = all.as_array().context("a list of links")?;
    Ok(all.iter().find(|link| link["ifname"] == name).cloned())
}

fn index(node: &Node, name: &str) -> Result<u64> {
    let link = link(node, name)?.with_context(|| format!("there is no {name}"))?;
    link["ifindex"].as_u64().context("a number")
}

fn mtu(node: &Node, name: &str) -> Result<u64> {
    let link = link(node, name)?.with_context(|| format!("there is no {name}"))?;
    link["mtu"].as_u64().context("an MTU")
}

/// The addresses of a link, sorted, each with its length.
fn addresses(node: &Node, name: &str) -> Result<Vec<String>> {
    let all = json(node, &format!("address show dev {name}"))?;
    let list = all.pointer("/0/addr_info").and_then(Value::as_array).context("addresses")?;
    let text = |entry: &Value| {
        let address = entry["local"].as_str().unwrap_or_default();
        format!("{address}/{}", entry["prefixlen"])
    };
    let mut list: Vec<_> = list.iter().map(text).collect();
    list.sort();
    Ok(list)
}

fn link_local(node: &Node, name: &str) -> Result<String> {
    let found = addresses(node, name)?.into_iter().find(|address| address.starts_with("fe80:"));
    let found = found.with_context(|| format!("{name} has no link-local address"))?;
    Ok(found.trim_end_matches("/64").to_owned())
}

fn wait_link(node: &Node, name: &str, there: bool) -> Result<()> {
    let what = format!("{name} to {}", if there { "be there" } else { "go" });
    let up = |link: &Option<Value>| match link {
        Some(link) => there && link["flags"].as_array().is_some_and(|f| f.contains(&"UP".into())),
        None => !there,
    };
    wait_until(what, PATIENCE, || link(node, name), up).map(drop)
}

fn start(lab: &Lab, node: &Node, config: &str) -> Result<Wgrouted> {
    let mut daemon = lab.wgrouted_with(node, config)?;
    daemon.start()?;
    Ok(daemon)
}

fn ping(from: &Node, to: &str, at: &Node) -> Result<()> {
    assert_flow(from, to.parse::<IpAddr>()?, at)
}

/// Pings a link-local address.
fn ping_local(from: &Node, interface: &str, to: &str) -> Result<()> {
    let words = format!("-6 -c 1 -W 5 {to}%{interface}");
    from.run("ping", words.split(' ')).map(drop)
}

fn made(lab: &mut Lab) -> Result<()> {
    let pair = Pair::new(lab)?;
    let [a, b] = &pair.nodes;
    let mut daemon = start(lab, a, &pair.dedicated(0, ""))?;
    let other = start(lab, b, &pair.dedicated(1, ""))?;
    ping(a, "10.1.0.2", b)?;
    ping(b, "10.1.0.1", a)?;
    lab.say("packets pass");

    let local = link_local(b, "wg1")?;
    ping_local(a, "wg1", &local)?;
    ensure!(link_local(a, "wg1")? != local, "both ends have {local}");
    // `b` was told no endpoint: it knows the path once it heard from `a`.
    for node in [a, b] {
        wait_until("the path's MTU", PATIENCE, || mtu(node, "wg1"), |mtu| *mtu == 1440)?;
    }
    let made = link(a, "wg1")?.context("wg1")?;
    let names = made["altnames"].as_array().cloned().unwrap_or_default();
    let marked = names.iter().any(|n| n.as_str().is_some_and(|n| n.starts_with("wgrouted-")));
    ensure!(marked, "no mark among {names:?}");
    let shown = a.run("wg", ["show", "wg1"])?;
    ensure!(shown.contains("persistent keepalive: every 25 seconds"), "{shown}");
    ensure!(shown.contains("allowed ips: 0.0.0.0/0, ::/0"), "{shown}");

    lab.say("killed and restarted");
    let number = index(a, "wg1")?;
    let before = a.run("wg", ["show", "wg1", "latest-handshakes"])?;
    for _ in 0..2 {
        daemon.kill()?;
        ping(a, "10.1.0.2", b)?;
        let log = daemon.log()?.len();
        daemon.start()?;
        let log = daemon.log()?.split_off(log);
        ensure!(log.contains("links made") && log.contains("steps=0"), "not idempotent: {log}");
    }
    ensure!(index(a, "wg1")? == number, "the link was made again");
    ensure!(a.run("wg", ["show", "wg1", "latest-handshakes"])? == before, "a new session");

    lab.say("stopped: links stay; removed from the configuration: they go, at the next start");
    daemon.terminate()?;
    ping(a, "10.1.0.2", b)?;
    a.ip("link add other type wireguard")?;
    daemon.configure("[[interface]]\nname = \"wg9\"\n")?;
    daemon.start()?;
    wait_link(a, "wg1", false)?;
    ensure!(link(a, "other")?.is_some(), "somebody's link is gone");
    let secret = std::fs::read_to_string(&pair.keys[0].file)?;
    ensure!(!daemon.log()?.contains(secret.trim()), "the private key is in the log");
    ensure!(!other.log()?.contains("ERROR"), "{}", other.log()?);
    Ok(())
}

fn tunnels(lab: &mut Lab) -> Result<()> {
    let pair = Pair::new(lab)?;
    let [a, b] = &pair.nodes;
    let kinds = [("gre", 1416, true), ("ip6gre", 1396, true), ("ipip", 1420, false)];
    let config = |own: usize| {
        let (me, mut config) = (own + 1, pair.shared(own));
        for (number, (kind, ..)) in (2..).zip(kinds) {
            config += &format!(
                "[[tunnel]]\n\
                 name = \"{kind}-t\"\n\
                 kind = \"{kind}\"\n\
                 over = \"wg0\"\n\
                 peer = \"other\"\n\
                 addresses = [\"10.{number}.0.{me}/24\"]\n"
            );
        }
        config
            + "[[tunnel]]\nname = \"keyed\"\nkind = \"gre\"\nover = \"wg0\"\npeer = \"other\"\n\
                  key = 7\naddresses = [\"10.9.0."
            + &format!("{me}/24\"]\n")
    };
    let mut daemon = start(lab, a, &config(0))?;
    let _other = start(lab, b, &config(1))?;
    for (number, (kind, room, local)) in (2..).zip(kinds) {
        let name = format!("{kind}-t");
        ping(a, &format!("10.{number}.0.2"), b).with_context(|| name.clone())?;
        for node in [a, b] {
            ensure!(mtu(node, &name)? == room, "{name}: an MTU of {}", mtu(node, &name)?);
        }
        // A full packet, which nothing on the way may cut.
        let size = (room - 28).to_string();
        let to = format!("10.{number}.0.2");
        a.run("ping", ["-c", "1", "-W", "5", "-M", "do", "-s", &size, &to])?;
        if local {
            ping_local(a, &name, &link_local(b, &name)?)?;
        }
        lab.say(format_args!("{name} carries packets of {room} bytes"));
    }
    ping(a, "10.9.0.2", b)?;
    ensure!(mtu(a, "keyed")? == 1412, "keyed: an MTU of {}", mtu(a, "keyed")?);

    let numbers = || -> Result<Vec<u64>> {
        ["wg0", "gre-t", "ip6gre-t", "ipip-t", "keyed"].iter().map(|name| index(a, name)).collect()
    };
    let before = numbers()?;
    daemon.kill()?;
    let log = daemon.log()?.len();
    daemon.start()?;
    let log = daemon.log()?.split_off(log);
    ensure!(log.contains("steps=0"), "not idempotent: {log}");
    lab.say("a changed tunnel is changed in place, a dropped one goes");
    let (kept, _) = config(0)
        .split_once("[[tunnel]]\nname = \"keyed\"")
        .map(|(k, d)| (k.to_owned(), d.to_owned()))
        .context("the keyed tunnel")?;
    let changed = kept.replacen(
        "peer = \"other\"\naddresses = [\"10.2",
        "peer = \"other\"\nttl = 9\naddresses = [\"10.2",
        1,
    );
    daemon.reload(&changed)?;
    wait_link(a, "keyed", false)?;
    let ttl =
        || Ok(link(a, "gre-t")?.context("gre-t")?.pointer("/linkinfo/info_data/ttl").cloned());
    wait_until("the new ttl", PATIENCE, ttl, |ttl| *ttl == Some(9.into()))?;
    ensure!(index(a, "gre-t")? == before[1], "the tunnel was made again");
    ping(a, "10.2.0.2", b)
}

fn adopted(lab: &mut Lab) -> Result<()> {
    let star = star(lab, 2)?;
    let hub = star.hub.clone();
    let key = hub.run("wg", ["show", "wg0", "private-key"])?;
    let file = hub.write_file("wg0.key", &key)?;
    let spoke = star.spoke(1)?;
    ping(&hub, "10.99.0.1", &spoke.node)?;
    let statistics = |node: &Node| node.run("wg", ["show", "wg0", "latest-handshakes"]);
    let (number, before) = (index(&hub, "wg0")?, statistics(&hub)?);
    let transfer = hub.run("wg", ["show", "wg0", "transfer"])?;
    let config = format!(
        "[[interface]]\nname = \"wg0\"\nlink = \"shared\"\nmanage = true\n\
         private_key_file = \"{}\"\nlisten_port = {}\n\
         addresses = [\"10.99.0.254/16\", \"fd99::fe/64\", \"10.77.0.1/32\"]\n\
         link_local = \"off\"\nmtu = 1300\n\
         [[interface.peer]]\npublic_key = \"{}\"\nname = \"s1\"\n\
         pinned = [\"10.99.0.1/32\", \"fd99::1/128\", \"fe80::1/128\"]\n\
         endpoint = \"{}:{}\"\nkeepalive = \"20s\"\n",
        file.display(),
        star.wg.port(),
        spoke.wg.public_key(),
        spoke.link.b.address,
        spoke.wg.port(),
    );
    let mut daemon = start(lab, &hub, &config)?;
    ensure!(index(&hub, "wg0")? == number, "the link was made again");
    ensure!(statistics(&hub)? == before, "the session is lost");
    let received = |text: &str| -> u64 {
        text.split_whitespace().filter_map(|word| word.parse::<u64>().ok()).sum()
    };
    let now = hub.run("wg", ["show", "wg0", "transfer"])?;
    ensure!(received(&now) >= received(&transfer) && received(&now) > 0, "counters fell: {now}");
    ping(&hub, "10.99.0.1", &spoke.node)?;
    ensure!(mtu(&hub, "wg0")? == 1300, "MTU");
    let peers = || hub.run("wg", ["show", "wg0", "peers"]);
    ensure!(peers()?.lines().count() == 2, "somebody's peer is gone: {}", peers()?);
    let log = daemon.log()?;
    ensure!(!log.contains("create it") && !log.contains("private key"), "{log}");
    ensure!(log.contains("set peer") && log.contains("keepalive 20 s"), "{log}");

    lab.say("no longer managed: what we added goes, the rest stays");
    daemon.reload("[[interface]]\nname = \"wg0\"\nlink = \"shared\"\n")?;
    let gone = |list: &Vec<String>| !list.contains(&"10.77.0.1/32".to_owned());
    wait_until("our address to go", PATIENCE, || addresses(&hub, "wg0"), gone)?;
    ensure!(index(&hub, "wg0")? == number && peers()?.lines().count() == 2, "more than ours went");
    let left = addresses(&hub, "wg0")?;
    ensure!(
        left.contains(&"10.99.0.254/16".to_owned()) && left.contains(&"fd99::fe/64".to_owned()),
        "{left:?}"
    );
    ping(&hub, "10.99.0.1", &spoke.node)
}

fn reload(lab: &mut Lab) -> Result<()> {
    let pair = Pair::new(lab)?;
    let [a, b] = &pair.nodes;
    let first = pair.dedicated(0, "");
    let mut daemon = start(lab, a, &first)?;
    let _other = start(lab, b, &pair.dedicated(1, ""))?;
    ping(a, "10.1.0.2", b)?;
    let number = index(a, "wg1")?;
    // What somebody else adds to our link.
    let stranger = Key::new(b, "stranger.key")?.public;
    a.run("wg", ["set", "wg1", "peer", &stranger])?;
    a.ip("address add 10.66.0.1/32 dev wg1")?;

    let changed =
        first.replace("10.1.0.1/24\"", "10.1.0.1/24\", \"10.88.0.1/32\"").replace("25s", "10s");
    let log = daemon.log()?.len();
    daemon.reload(&changed)?;
    let has = |address: &str| {
        let address = address.to_owned();
        move |list: &Vec<String>| list.contains(&address)
    };
    wait_until("the new address", PATIENCE, || addresses(a, "wg1"), has("10.88.0.1/32"))?;
    daemon.wait_log("links changed")?;
    let said = daemon.log()?.split_off(log);
    let steps: Vec<&str> = said.lines().filter(|line| line.contains("link=\"wg1\"")).collect();
    ensure!(steps.len() == 2, "two changes, but {steps:#?}");
    ping(a, "10.1.0.2", b)?;

    lab.say("another peer instead: ours goes, the stranger stays");
    let third = Key::new(b, "third.key")?.public;
    let replaced = changed.replace(&pair.keys[1].public, &third);
    daemon.reload(&replaced)?;
    let peers = || -> Result<Vec<String>> {
        let mut peers: Vec<_> =
            a.run("wg", ["show", "wg1", "peers"])?.lines().map(str::to_owned).collect();
        peers.sort();
        Ok(peers)
    };
    let mut want = vec![stranger, third];
    want.sort();
    wait_until("the peers", PATIENCE, peers, |peers| *peers == want)?;
    ensure!(addresses(a, "wg1")?.contains(&"10.66.0.1/32".to_owned()), "their address is gone");
    ensure!(index(a, "wg1")? == number, "the link was made again");

    lab.say("the address goes, then the link");
    daemon.reload(&replaced.replace(", \"10.88.0.1/32\"", ""))?;
    let lost = has("10.88.0.1/32");
    wait_until("our address to go", PATIENCE, || addresses(a, "wg1"), |list| !lost(list))?;
    ensure!(addresses(a, "wg1")?.contains(&"10.66.0.1/32".to_owned()), "their address is gone");
    daemon.reload("[[interface]]\nname = \"wg7\"\n")?;
    wait_link(a, "wg1", false)
}

fn repaired(lab: &mut Lab) -> Result<()> {
    let pair = Pair::new(lab)?;
    let [a, b] = &pair.nodes;
    let config = pair
        .dedicated(0, "")
        .replace("[[interface]]", "[daemon]\naudit_interval = \"1s\"\n[[interface]]");
    let daemon = start(lab, a, &config)?;
    let _other = start(lab, b, &pair.dedicated(1, ""))?;
    ping(a, "10.1.0.2", b)?;
    a.ip("link del wg1")?;
    daemon.wait_log("create it")?;
    wait_link(a, "wg1", true)?;
    ping(a, "10.1.0.2", b)?;
    lab.say("deleted, and made again");
    a.ip("address del 10.1.0.1/24 dev wg1")?;
    a.ip("link set wg1 mtu 1500 down")?;
    wait_link(a, "wg1", true)?;
    wait_until("the MTU", PATIENCE, || mtu(a, "wg1"), |mtu| *mtu == 1440)?;
    let address = |list: &Vec<String>| list.contains(&"10.1.0.1/24".to_owned());
    wait_until("the address", PATIENCE, || addresses(a, "wg1"), address)?;
    a.run("wg", ["set", "wg1", "peer", &pair.keys[1].public, "remove"])?;
    let peers = || a.run("wg", ["show", "wg1", "peers"]);
    wait_until("the peer", PATIENCE, peers, |peers| peers.trim() == pair.keys[1].public)?;
    ping(a, "10.1.0.2", b)?;
    lab.say("the path narrows, and the MTU follows");
    a.ip(&format!("link set {} mtu 1400", pair.link.a.device))?;
    wait_until("the MTU", PATIENCE, || mtu(a, "wg1"), |mtu| *mtu == 1340).map(drop)
}

fn refused(lab: &mut Lab) -> Result<()> {
    let hub = Hub::new(lab, 1)?;
    let node = hub.star.hub.clone();
    let key = Key::new(&node, "good.key")?;
    let wrong = node.write_file("wrong.key", "not a key\n")?;
    let aside = |name: &str, file: &str, port: u16| {
        format!(
            "[[interface]]\nname = \"{name}\"\nlink = \"dedicated\"\nmanage = true\n\
             private_key_file = \"{file}\"\nlisten_port = {port}\n"
        )
    };
    let config = [
        aside("wg1", "/nowhere.key", 51901),
        aside("wg2", &wrong.display().to_string(), 51902),
        aside("wg3", &key.file, hub.star.wg.port()),
        aside("wg4", &key.file, 51904),
        aside("wg5", &key.file, 1005),
        "[[tunnel]]\nname = \"to-s1\"\nkind = \"gre\"\nover = \"wg4\"\nlocal = \"10.4.0.1\"\n\
         remote = \"10.4.0.2\"\n"
            .to_owned(),
    ]
    .concat();
    let mut daemon = lab.wgrouted_with(&node, &config)?;
    daemon.start()?;
    for line in [
        "key file /nowhere.key: No such file or directory (os error 2); it must be readable by the \
         user that wgrouted runs as"
            .to_owned(),
        format!(
            "key file {}: not a WireGuard key; it must hold 44 characters of base64, as `wg \
             genkey` prints them",
            wrong.display()
        ),
        "another device has the UDP port: configure another".to_owned(),
        "a UDP port below 1024 needs CAP_NET_BIND_SERVICE".to_owned(),
        "the name is taken by a link of kind veth, which is not ours: configure another name, or \
         remove that link (`ip link delete to-s1`)"
            .to_owned(),
    ] {
        daemon.wait_log(&line)?;
    }
    wait_link(&node, "wg4", true)?;
    ensure!(link(&node, "wg1")?.is_none(), "a device without a key was made");
    lab.say("told, and the rest was made");
    node.run("chmod", ["604", &key.file])?;
    daemon.wait_log("everybody can read this key")?;
    let log = daemon.log()?;
    ensure!(log.matches("/nowhere.key").count() == 1, "told more than once:\n{log}");

    lab.say("without privilege nothing is touched");
    let mut poor = lab.wgrouted_with(&node, &aside("wg8", &key.file, 51908))?.without("net_admin");
    ensure!(poor.start().is_err(), "it started without CAP_NET_ADMIN");
    ensure!(poor.log()?.contains("CAP_NET_ADMIN is missing"), "{}", poor.log()?);
    ensure!(link(&node, "wg8")?.is_none(), "a device was made without privilege");
    Ok(())
}
