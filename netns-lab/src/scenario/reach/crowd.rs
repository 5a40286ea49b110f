//! Crowds: many peers on one device, and many devices with a peer each.
//!
//! Here live the figures that are stated for large hubs. The far side is one node with a device a
//! peer; each pair of ends has a network of two addresses, so that what answers leaves by the device
//! that it was asked through. Whether probes are on time is told by their number: too few are late
//! ones, too many are those that follow a missing answer.

use std::{collections::BTreeMap, fmt::Write as _, fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::{
    lab::{Lab, Link, Node, Peer, Wgrouted, Wireguard, wait_until},
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "reach-500-peers",
        "500 peers on one device: probes on time, at which cost; one dies, and only that one",
        peers,
    )
    .on_newest()
    .within(400),
    Scenario::new(
        "reach-200-links",
        "200 devices with a peer each: probes on time, at which cost; one dies, and only that one",
        links,
    )
    .on_newest()
    .within(400),
];

const PEERS: u16 = 500;
const LINKS: u16 = 200;
/// Device number N listens N above it.
const PORT: u16 = 20_000;
/// Over which probes are counted.
const SPAN: Duration = Duration::from_secs(20);
/// An emulated machine shakes hands with everybody once before all are up.
const PATIENCE: Duration = Duration::from_secs(60);
/// What an emulated machine may take beyond three intervals, to do and to tell it.
const SLACK: Duration = Duration::from_millis(700);

fn peers(lab: &mut Lab) -> Result<()> {
    let (hub, far, cable) = ends(lab)?;
    let wg = Wireguard::new(&hub, "wg0")?;
    let at = format!("{}:{}", cable.a.address, wg.port());
    let keys = devices(&far, PEERS, 1, |_| as_peer(wg.public_key(), &at))?;
    wg.add_peers(
        &(1..=PEERS).zip(&keys).map(|(number, key)| peer(number, key, &cable)).collect::<Vec<_>>(),
    )?;
    far.ip_batch(&addresses(PEERS, |number| (format!("wg{number}"), pair(number)[1])))?;
    hub.ip_batch(&addresses(PEERS, |number| ("wg0".to_owned(), pair(number)[0])))?;
    let config = |interval: &str| -> Result<String> {
        let mut text = format!(
            "[[interface]]\nname = \"wg0\"\n[interface.reach]\ninterval = \"{interval}\"\n"
        );
        for (number, key) in (1..).zip(&keys) {
            writeln!(text, "[[interface.peer]]\nname = \"p{number}\"\npublic_key = \"{key}\"")?;
        }
        Ok(text)
    };
    let mut crowd = Crowd::start(lab, &hub, far, &config("1s")?, PEERS)?;
    crowd.measure(lab, Duration::from_secs(1))?;
    crowd.one_dies(lab, 250, Duration::from_secs(1))?;
    crowd.daemon.reload(&config("500ms")?)?;
    // As fast as an emulated processor keeps up with for certain.
    crowd.daemon.reload(&config("500ms")?)?;
    crowd.measure(lab, Duration::from_millis(500))
}

fn links(lab: &mut Lab) -> Result<()> {
    let (hub, far, cable) = ends(lab)?;
    let hub_keys = devices(&hub, LINKS, 2, |_| String::new())?;
    let end = |link: &str, number: u16| format!("{link}:{}", PORT + number);
    let far_keys = devices(&far, LINKS, 1, |number| {
        as_peer(&hub_keys[usize::from(number) - 1], &end(&cable.a.address, number))
    })?;
    // Every other peer has a tunnel address; the rest are found by asking all nodes on the link.
    let mut words = String::new();
    for (number, key) in (1..).zip(&far_keys) {
        let own = if number % 2 == 0 { format!(",{}/32", pair(number)[1]) } else { String::new() };
        let peer = as_peer(key, &end(&cable.b.address, number));
        writeln!(words, "wg set wg{number} {peer}{own}")?;
    }
    hub.run_input("sh", ["-e"], words.as_bytes())?;
    let batch = |side: usize| {
        let local = |number| format!("address add fe80::{}/64 dev wg{number} nodad\n", side + 1);
        let v4 = addresses(LINKS, |number| (format!("wg{number}"), pair(number)[side]));
        v4 + &(1..=LINKS).map(local).collect::<String>()
    };
    far.ip_batch(&batch(1))?;
    hub.ip_batch(&batch(0))?;
    let mut config = String::new();
    for (number, key) in (1..).zip(&far_keys) {
        writeln!(config, "[[interface]]\nname = \"wg{number}\"\n[interface.reach]")?;
        writeln!(config, "[[interface.peer]]\nname = \"p{number}\"\npublic_key = \"{key}\"")?;
    }
    let crowd = Crowd::start(lab, &hub, far, &config, LINKS)?;
    let rows = crowd.rows()?;
    for (peer, probed) in [("p1", "ff02::1".to_owned()), ("p2", pair(2)[1].to_string())] {
        let row = &rows[peer];
        ensure!(row["dedicated"] == true, "{row}");
        ensure!(row["probed"][0] == probed.as_str(), "{probed} is probed: {row}");
    }
    crowd.measure(lab, Duration::from_secs(1))?;
    crowd.one_dies(lab, 101, Duration::from_secs(1))
}

/// The hub, the far side, and the cable between them; the hub is the `a` end.
fn ends(lab: &mut Lab) -> Result<(Node, Node, Link)> {
    let (hub, far) = (lab.node("hub")?, lab.node("far")?);
    let cable = lab.link(&hub, &far)?;
    Ok((hub, far, cable))
}

/// The tunnel addresses of a pair of ends: the hub's, the peer's.
fn pair(number: u16) -> [Ipv4Addr; 2] {
    [0, 1].map(|end| {
        let [high, low] = (number * 2 + end).to_be_bytes();
        Ipv4Addr::new(10, 99, high, low)
    })
}

/// A batch for `ip` that gives devices their addresses, and brings them up.
fn addresses(count: u16, of: impl Fn(u16) -> (String, Ipv4Addr)) -> String {
    let line = |number| {
        let (device, address) = of(number);
        format!("address add {address}/31 dev {device}\nlink set {device} up\n")
    };
    (1..=count).map(line).collect()
}

/// Makes devices `wg1`, `wg2`, … with what else `wg set` shall give them, and returns their public
/// keys. A process for each key pair would take longer than everything else.
fn devices(node: &Node, count: u16, side: u8, more: impl Fn(u16) -> String) -> Result<Vec<String>> {
    node.ip_batch(
        &(1..=count).map(|n| format!("link add wg{n} type wireguard\n")).collect::<String>(),
    )?;
    let set = |number: u16| {
        // Not the first octet, of which bits are cleared (RFC 7748 section 5).
        let mut key = [0x5a; 32];
        let [high, low] = number.to_be_bytes();
        key[1..4].copy_from_slice(&[side, high, low]);
        format!(
            "wg set wg{number} listen-port {} private-key /dev/stdin {} <<E\n{}\nE\n",
            PORT + number,
            more(number),
            STANDARD.encode(key)
        )
    };
    node.run_input("sh", ["-e"], (1..=count).map(set).collect::<String>().as_bytes())?;
    let text = node.run("wg", ["show", "all", "public-key"])?;
    let keys: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once('\t')).collect();
    let key = |number| keys.get(format!("wg{number}").as_str()).map(|key| (*key).to_owned());
    (1..=count).map(key).collect::<Option<_>>().context("a device without a key")
}

/// Words for `wg set`: a peer to whom everything may go.
fn as_peer(key: &str, at: &str) -> String {
    format!("peer {key} endpoint {at} allowed-ips 0.0.0.0/0,::/0")
}

/// A peer of the device that all share.
fn peer(number: u16, key: &str, cable: &Link) -> Peer {
    Peer {
        name: format!("p{number}"),
        public_key: key.to_owned(),
        endpoint: Some(format!("{}:{}", cable.b.address, PORT + number)),
        allowed_ips: vec![std::net::IpAddr::from(pair(number)[1]).into()],
    }
}

/// The daemon on a hub, and the peers that it watches: `p1`, `p2`, …
struct Crowd {
    daemon: Wgrouted,
    far: Node,
    count: u16,
}

impl Crowd {
    /// Starts the daemon and waits until all are up.
    fn start(lab: &Lab, hub: &Node, far: Node, config: &str, count: u16) -> Result<Crowd> {
        lab.say(format_args!("{count} devices on the far side"));
        let mut daemon = lab.wgrouted_with(hub, config)?;
        let began = lab.elapsed();
        daemon.start()?;
        let ready = lab.elapsed() - began;
        let crowd = Crowd { daemon, far, count };
        wait_until(
            "all peers to be up",
            PATIENCE,
            || Ok(crowd.daemon.log()?.matches(" to=Up ").count()),
            |up| *up >= usize::from(count),
        )?;
        let up = lab.elapsed() - began;
        lab.say(format_args!(
            "{count} peers: ready after {:.1} s, all up after {:.1} s, {:.2} s of CPU until then",
            ready.as_secs_f32(),
            up.as_secs_f32(),
            crowd.daemon.cpu_time()?.as_secs_f32()
        ));
        Ok(crowd)
    }

    /// What `wgrouted peers` says, by name.
    fn rows(&self) -> Result<BTreeMap<String, Value>> {
        let text = self.daemon.run(&["peers", "--json"])?;
        let answer: Value = serde_json::from_str(&text).context("wgrouted peers --json")?;
        let rows = answer["peers"].as_array().context("no list of peers")?;
        let named = |row: &Value| Some((row["peer"].as_str()?.to_owned(), row.clone()));
        let rows: BTreeMap<_, _> = rows.iter().filter_map(named).collect();
        ensure!(rows.len() == usize::from(self.count), "{} peers are told", rows.len());
        Ok(rows)
    }

    /// Counts probes over a while and states the cost.
    fn measure(&self, lab: &Lab, interval: Duration) -> Result<()> {
        let before = self.rows()?;
        let (began, cpu, idle) = (lab.elapsed(), self.daemon.cpu_time()?, idle()?);
        wait_until(
            "the time to be over",
            SPAN * 2,
            || Ok(lab.elapsed() - began),
            |now| *now >= SPAN,
        )?;
        // Each look at all of them is work, too, but not in between these.
        let (busy, idle) = (self.daemon.cpu_time()? - cpu, self::idle()? - idle);
        let lasted = lab.elapsed() - began;
        let memory = self.daemon.memory()?;
        let after = self.rows()?;
        let mut sent = Vec::new();
        let mut answered = 0;
        let mut rtt: Vec<f64> = Vec::new();
        for (name, row) in &after {
            let grown = |what: &str| -> Result<u64> {
                let of = |row: &Value| row["probe"][what].as_u64();
                of(row).zip(of(&before[name])).map(|(now, then)| now - then).context("a count")
            };
            if row["state"] == "down" {
                continue;
            }
            sent.push(grown("sent")?);
            answered += grown("answered")?;
            rtt.extend(row["probe"]["rtt_last_seconds"].as_f64());
        }
        sent.sort_unstable();
        rtt.sort_by(f64::total_cmp);
        let total: u64 = sent.iter().sum();
        let (first, middle, last) = (sent[0], sent[sent.len() / 2], sent[sent.len() - 1]);
        let counted = counted(&before, &after);
        let expected = counted / interval.as_secs_f64();
        let share = |time: Duration| time.as_secs_f64() / lasted.as_secs_f64() * 100.0;
        let cpus = std::thread::available_parallelism()?.get();
        lab.say(format_args!(
            "{} peers every {} ms: {total} probes in {counted:.2} s, {answered} answered; a peer got {first} \
             to {last} (median {middle}) of {expected:.1}; round trip {:.1} ms (median), {:.1} ms \
             (most); wgrouted: {:.1} % of a CPU, {:.1} MiB resident, {:.1} MiB at most; the machine: \
             {:.0} % of {cpus} CPUs",
            sent.len(),
            interval.as_millis(),
            rtt[rtt.len() / 2] * 1000.0,
            rtt[rtt.len() - 1] * 1000.0,
            share(busy),
            memory.resident as f64 / f64::from(1 << 20),
            memory.peak as f64 / f64::from(1 << 20),
            100.0 - share(idle) / cpus as f64
        ));
        let late: Vec<&String> = after
            .iter()
            .filter(|(name, row)| {
                row["falls"] != before[*name]["falls"] || row["state"] == "suspect"
            })
            .map(|(name, _)| name)
            .collect();
        ensure!(late.is_empty(), "alive, and doubted: {late:?}");
        ensure!(first as f64 >= (expected * 0.95).floor(), "too few: {first} of {expected:.1}");
        Ok(())
    }

    /// Kills a peer, and looks who is taken for dead.
    fn one_dies(&self, lab: &Lab, number: u16, interval: Duration) -> Result<()> {
        let name = format!("p{number}");
        let began = lab.elapsed();
        self.far.ip(&format!("link set wg{number} down"))?;
        let told = format!("peer=\"{name}\"");
        let is = |line: &str| line.contains(&told) && line.contains(" to=Down ");
        wait_until(
            format_args!("{name} to be down"),
            PATIENCE,
            || Ok(self.daemon.log()?.lines().any(is)),
            |down| *down,
        )?;
        let rows = self.rows()?;
        let since = lab.elapsed() - began;
        let row = &rows[&name];
        let age = row["age_seconds"].as_f64().context("an age")?;
        let took = since.checked_sub(Duration::from_secs_f64(age)).context("it was down before")?;
        lab.say(format_args!("{name} dies: down after {} ms", took.as_millis()));
        ensure!(took < interval * 3 + SLACK, "{took:?} are more than three intervals: {row}");
        let wrong: Vec<&Value> = rows
            .values()
            .filter(|row| row["peer"] != name && (row["state"] != "up" || row["falls"] != 0))
            .collect();
        ensure!(wrong.is_empty(), "the others are alive: {wrong:?}");
        ensure!(row["state"] == "down" && row["falls"] == 1, "{row}");
        Ok(())
    }
}

/// Seconds between what was counted before and after. Figures are drawn once a second, and of so many
/// peers the latest was heard just before that; the time between the two looks is by how much older
/// the states have become.
fn counted(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> f64 {
    let number = |row: &Value, what: &str| row[what].as_f64();
    let stale = |rows: &BTreeMap<String, Value>| {
        let ages = rows.values().filter_map(|row| number(row, "heard_age_seconds"));
        ages.fold(f64::INFINITY, f64::min)
    };
    let older = after.iter().filter_map(|(name, row)| {
        Some(number(row, "age_seconds")? - number(before.get(name)?, "age_seconds")?)
    });
    older.fold(0.0, f64::max) - (stale(after) - stale(before))
}

/// Time that the machine's processors had nothing to do, all together.
fn idle() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    // user, nice, system, idle (proc_stat(5)), in hundredths of a second.
    let ticks = stat.split_whitespace().nth(4).context("no idle time in /proc/stat")?;
    Ok(Duration::from_millis(ticks.parse::<u64>()? * 10))
}
