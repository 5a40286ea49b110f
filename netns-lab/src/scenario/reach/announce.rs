//! Reachability in the kernel: routes that daemons learn, links that go dormant.
//!
//! Here live BIRD's `learn`, babeld's `redistribute` and `link-detect` and FRR's kernel routes, as
//! they read what wgrouted writes.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::support::config;
use crate::{
    lab::{Babeld, Bird, Frr, Lab, Node, PATIENCE, Star, wait_equal, wait_for},
    scenario::Scenario,
};

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "announce-learn",
        "a peer dies and returns: its kernel routes, as BIRD, babeld and FRR learn them",
        learn,
    )
    .within(300),
    Scenario::new(
        "announce-killed",
        "the daemon is killed and started again: living peers' routes do not blink, others go",
        killed,
    )
    .within(240),
    Scenario::new(
        "announce-dormant",
        "a dedicated link is dormant while its peer is dead, and babeld sees it down",
        dormant,
    )
    .within(240),
];

const REACH: &str = "interval = \"200ms\"\nhold_down = \"0ms\"\n[interface.reach.announce]";
/// Of the first spoke.
const HOST4: &str = "10.99.0.1";
const HOST6: &str = "fd99::1";

/// Routes of protocol 119 on a node, both families, by destination.
fn announced(node: &Node) -> Result<Vec<String>> {
    let text = node.ip("route show proto 119")? + &node.ip("-6 route show proto 119")?;
    Ok(text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn expect(node: &Node, wanted: &[&str]) -> Result<()> {
    let table = |list: Vec<String>| list.into_iter().map(|prefix| (prefix, "")).collect();
    let wanted = table(wanted.iter().map(|prefix| (*prefix).to_owned()).collect());
    wait_equal("the announced routes", PATIENCE, &wanted, || announced(node).map(table))
}

fn learn(lab: &mut Lab) -> Result<()> {
    let star = Star::new(lab, 2)?;
    let hub = &star.hub;
    // Somebody to pass it on to.
    let far = lab.node("far")?;
    let link = lab.link(hub, &far)?;
    for (end, number) in [(&link.a, 1), (&link.b, 2)] {
        end.node.ip(&format!("address add fe80::{number}/64 dev {} nodad", end.device))?;
    }
    let bird = Bird::start(
        hub,
        "router id 10.99.0.254;\n\
         protocol kernel { learn; ipv4 { import where krt_source = 119; export none; }; }\n\
         protocol kernel { learn; ipv6 { import where krt_source = 119; export none; }; }\n",
    )?;
    let wired = |device: &str| format!("interface {device} type wired hello-interval 1\n");
    let mut options = wired(&link.a.device);
    options += "redistribute proto 119\nredistribute local deny\n";
    let babeld = Babeld::start(hub, &[], &options)?;
    let _far = Babeld::start(&far, &[], &(wired(&link.b.device) + "redistribute local deny\n"))?;
    let frr = Frr::start(
        hub,
        "router bgp 65100\n \
           bgp router-id 10.99.0.254\n \
           address-family ipv4 unicast\n  \
             redistribute kernel\n \
           exit-address-family\n \
           address-family ipv6 unicast\n  \
             redistribute kernel\n \
           exit-address-family\n",
    )?;
    let mut daemon = lab.wgrouted_with(hub, &config(&star, REACH)?)?;
    daemon.start()?;
    let all = [HOST4, "10.99.0.2", HOST6, "fd99::2"];
    expect(hub, &all)?;
    let unresolved = daemon.show("unresolved")?;
    ensure!(!unresolved.to_string().contains("10.99.0."), "unresolved: {unresolved}");

    // Who knows the first spoke by which family.
    let has = |text: &str, prefix: &str| {
        text.split(|c: char| c.is_whitespace() || c == '*' || c == '>').any(|word| word == prefix)
    };
    type Look<'a> = Box<dyn Fn(&str) -> Result<bool> + 'a>;
    let family = |host: &str| if host.contains(':') { "ipv6" } else { "ipv4" };
    let flag = |host: &str| if host.contains(':') { "-6" } else { "-4" };
    let length = |host: &str| if host.contains(':') { 128 } else { 32 };
    let prefix = |host: &str| format!("{host}/{}", length(host));
    let listeners: [(&str, Look<'_>); 4] = [
        ("the kernel", Box::new(|host| Ok(announced(hub)?.iter().any(|found| found == host)))),
        ("BIRD", Box::new(|host| Ok(has(&bird.ask("show route")?, &prefix(host))))),
        (
            "babeld's neighbour",
            Box::new(|host| {
                let table = far.ip(&format!("{} route show proto babel", flag(host)))?;
                Ok(has(&table, host))
            }),
        ),
        (
            "FRR",
            Box::new(|host| {
                let table = frr.ask(&format!("show bgp {} unicast", family(host)))?;
                Ok(has(&table, &prefix(host)))
            }),
        ),
    ];
    let all_say = |know: bool, since: Instant| -> Result<Vec<String>> {
        let mut times = Vec::new();
        for (who, look) in &listeners {
            for host in [HOST4, HOST6] {
                let what = format!("{who} to {} {host}", if know { "know" } else { "forget" });
                wait_for(what, PATIENCE, || Ok(look(host)? == know))?;
            }
            times.push(format!("{who} {:.2} s", since.elapsed().as_secs_f32()));
        }
        Ok(times)
    };
    all_say(true, Instant::now())?;
    let dump = babeld.ask("dump")?;
    ensure!(dump.contains("xroute"), "babeld: {dump}");
    for turn in 1..=2 {
        star.spoke(1)?.link.cut()?;
        let times = all_say(false, Instant::now())?;
        lab.say(format_args!("{turn}: withdrawn after the cut: {}", times.join(", ")));
        expect(hub, &["10.99.0.2", "fd99::2"])?;
        star.spoke(1)?.link.mend()?;
        let times = all_say(true, Instant::now())?;
        lab.say(format_args!("{turn}: announced after it was mended: {}", times.join(", ")));
    }
    // A daemon that ends by itself leaves them, as traffic flows on.
    daemon.terminate()?;
    expect(hub, &all)
}

fn killed(lab: &mut Lab) -> Result<()> {
    let star = Star::new(lab, 2)?;
    let hub = &star.hub;
    let text = config(&star, &format!("{REACH}\nmetric_from_rtt = true"))?;
    let mut daemon = lab.wgrouted_with(hub, &text)?;
    daemon.start()?;
    let all = [HOST4, "10.99.0.2", HOST6, "fd99::2"];
    expect(hub, &all)?;
    daemon.kill()?;
    hub.ip("route add 10.77.0.0/16 dev wg0 proto 119 table 77")?;
    star.spoke(2)?.link.cut()?;
    let log = hub.dir().join("monitor.log");
    let monitor = format!("exec ip monitor route > {}", log.display());
    let mut shell = std::process::Command::new("sh");
    let mut monitor = hub.spawn("monitor", shell.args(["-c", &monitor]))?;
    let marker = "route add 10.78.0.0/16 dev wg0 table 78";
    wait_for("the monitor", PATIENCE, || {
        // Announced again and again, until it is heard.
        let _ = hub.ip("route del 10.78.0.0/16 dev wg0 table 78");
        hub.ip(marker)?;
        Ok(std::fs::read_to_string(&log)?.contains("10.78.0.0/16"))
    })?;
    daemon.start()?;
    expect(hub, &[HOST4, HOST6])?;
    wait_for("what another configuration left to go", PATIENCE, || {
        Ok(hub.ip("route show table 77")?.is_empty())
    })?;
    monitor.kill()?;
    let heard = std::fs::read_to_string(&log)?;
    for host in [HOST4, HOST6] {
        let blink = heard.lines().find(|line| line.contains(&format!("{host} dev")));
        ensure!(blink.is_none(), "a living peer's route blinked: {blink:?}");
    }
    ensure!(heard.contains("Deleted 10.99.0.2"), "the dead peer's route went unheard: {heard}");
    // Without the table it all goes.
    daemon.reload(&config(&star, "interval = \"200ms\"")?)?;
    expect(hub, &[])?;
    // And with `on_exit = "remove"` it goes with the daemon.
    let leaving = config(&star, REACH)?;
    daemon
        .reload(&leaving.replace("[interface.reach]", "on_exit = \"remove\"\n[interface.reach]"))?;
    expect(hub, &[HOST4, HOST6])?;
    daemon.terminate()?;
    expect(hub, &[])
}

fn dormant(lab: &mut Lab) -> Result<()> {
    let star = Star::new(lab, 1)?;
    let hub = &star.hub;
    let lines = "interval = \"200ms\"\nhold_down = \"0ms\"\ndormant = true";
    let text = config(&star, lines)?;
    let text = text.replace("[interface.reach]", "link = \"dedicated\"\n[interface.reach]");
    let mut daemon = lab.wgrouted_with(hub, &text)?;
    daemon.start()?;
    let options = "link-detect true\ninterface wg0 type wired hello-interval 1\n";
    let babeld = Babeld::start(hub, &[], options)?;
    let babeld_is = |up: bool| {
        wait_for(format!("babeld's interface to be up: {up}"), PATIENCE, || {
            Ok(babeld.ask("dump")?.contains(&format!("interface wg0 up {up}")))
        })
    };
    let link_is = |dormant: bool| {
        wait_for(format!("the link to be dormant: {dormant}"), PATIENCE, || {
            Ok(hub.ip("link show wg0")?.contains("state DORMANT") == dormant)
        })
    };
    babeld_is(true)?;
    for turn in 1..=2 {
        star.spoke(1)?.link.cut()?;
        let since = Instant::now();
        link_is(true)?;
        babeld_is(false)?;
        let down = since.elapsed();
        star.spoke(1)?.link.mend()?;
        let since = Instant::now();
        link_is(false)?;
        babeld_is(true)?;
        let seconds = |time: Duration| time.as_secs_f32();
        let (down, up) = (seconds(down), seconds(since.elapsed()));
        lab.say(format_args!("{turn}: babeld saw it down after {down:.2} s, up after {up:.2} s"));
    }
    // Nobody watches a dead peer's link any more: it must not stay dormant.
    star.spoke(1)?.link.cut()?;
    link_is(true)?;
    daemon.kill()?;
    daemon.start()?;
    link_is(true)?;
    daemon.terminate()?;
    link_is(false)
}
