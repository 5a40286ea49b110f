//! Whatever is restarted, in whatever order, ends where a fresh start does.
//!
//! Here lives the comparison of everything that wgrouted, BIRD and babeld leave in the kernel and in
//! each other. What a fresh start leaves is taken down first, for either peer being the dead one.

use std::{collections::BTreeMap, fmt::Write as _, fs, net::IpAddr};

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use super::{
    Scenario,
    sockets::{OWN, config},
    support::wait_state,
};
use crate::lab::{
    Babeld, Bird, Dedicated, Lab, Node, PATIENCE, Spoke, Star, Wgrouted, wait_equal, wait_until,
};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "reach-restarts",
    "BIRD, babeld and wgrouted are killed and started in any order: the same end, nothing stale",
    restarts,
)
.on_newest()
.within(300)];

/// Everything that is compared.
type State = BTreeMap<String, String>;

/// Two ways to each prefix by the shared device; the first is better.
const BIRD: &str = "\
    router id 10.99.0.254;\n\
    protocol kernel {\n  learn;\n  \
      ipv4 { import where krt_source = 119; export where source = RTS_STATIC; };\n}\n\
    protocol kernel {\n  learn;\n  \
      ipv6 { import where krt_source = 119; export where source = RTS_STATIC; };\n}\n\
    protocol static s3_v4 { ipv4; route 203.0.113.0/24 via 10.99.0.3; }\n\
    protocol static s3_v6 { ipv6; route 2001:db8:1::/48 via fd99::3; }\n\
    protocol static s4_v4 { ipv4; route 203.0.113.0/24 via 10.99.0.4 { preference = 90; }; }\n\
    protocol static s4_v6 { ipv6; route 2001:db8:1::/48 via fd99::4 { preference = 90; }; }\n";

/// BIRD, babeld and wgrouted on one hub. babeld has `s1` and `s2` on links of their own, BIRD has
/// `s3` and `s4` on a shared one. Of each two, one is dead: the first or the second.
struct Hub {
    net: Dedicated,
    shared: Star,
    node: Node,
    bird: Option<Bird>,
    babeld: Option<Babeld>,
    daemon: Wgrouted,
}

/// What is started first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum First {
    Routing,
    Wgrouted,
}

fn restarts(lab: &mut Lab) -> Result<()> {
    let mut hub = Hub::new(lab)?;
    hub.cut(2)?;
    let second_dead = hub.fresh(2)?;
    hub.swap(1)?;
    let first_dead = hub.fresh(1)?;
    lab.say(format_args!("{} things are compared", first_dead.len()));

    lab.say("BIRD is killed and started");
    hub.kill_bird()?;
    hub.start_bird()?;
    hub.expect(1, &first_dead)?;

    lab.say("babeld is killed and started");
    hub.kill_babeld()?;
    hub.start_babeld()?;
    hub.expect(1, &first_dead)?;

    lab.say("wgrouted is killed and started");
    hub.daemon.kill()?;
    hub.daemon.start()?;
    hub.expect(1, &first_dead)?;

    lab.say("all are killed, the routing daemons started first");
    hub.kill()?;
    hub.start(First::Routing)?;
    hub.expect(1, &first_dead)?;

    lab.say("all are killed, wgrouted started first");
    hub.kill()?;
    hub.start(First::Wgrouted)?;
    hub.expect(1, &first_dead)?;

    lab.say("wgrouted is killed, and the peers change places before it starts");
    hub.daemon.kill()?;
    hub.swap(2)?;
    hub.daemon.start()?;
    hub.expect(2, &second_dead)?;

    for (first, dead, want) in
        [(First::Wgrouted, 1, &first_dead), (First::Routing, 2, &second_dead)]
    {
        let name = if first == First::Wgrouted { "wgrouted" } else { "the routing daemons" };
        lab.say(format_args!("all are killed, the peers change places, {name} first"));
        hub.kill()?;
        hub.swap(dead)?;
        hub.start(first)?;
        hub.expect(dead, want)?;
    }
    Ok(())
}

impl Hub {
    fn new(lab: &mut Lab) -> Result<Hub> {
        let net = Dedicated::new(lab, 2)?;
        let node = net.hub.clone();
        let socket = |name: &str| node.dir().join(name).display().to_string();
        let reach =
            format!("bird = \"{}\"\nbabeld = \"{}\"", socket("bird.ctl"), socket("babeld.ctl"));
        let link = "[interface.reach.announce]\n[interface.reach.babeld]\noptions = \"type wired\"";
        let shared = Star::on(lab, &node, 0, 3..=4)?;
        let mut text = config(&net, &reach, link, |_| String::new())?;
        text += "[[interface]]\nname = \"wg0\"\n[interface.reach]\ninterval = \"100ms\"\n\
                 hold_down = \"0ms\"\n[interface.reach.announce]\n";
        for spoke in &shared.spokes {
            let (name, key) = (spoke.name(), spoke.wg.public_key());
            writeln!(
                text,
                "[[interface.peer]]\nname = \"{name}\"\npublic_key = \"{key}\"\n\
                 [interface.peer.reach]\nbird = [\"{name}_v4\", \"{name}_v6\"]"
            )?;
        }
        let daemon = lab.wgrouted_with(&node, &text)?;
        Ok(Hub { net, shared, node, bird: None, babeld: None, daemon })
    }

    /// The first or the second peer of each kind: on a link of its own, and on the shared one.
    fn peers(&self, number: usize) -> Result<[&Spoke; 2]> {
        Ok([self.net.spoke(number)?, self.shared.spoke(number)?])
    }

    fn cut(&self, number: usize) -> Result<()> {
        self.peers(number)?.into_iter().try_for_each(|peer| peer.link.cut())
    }

    /// These die, and the others come back.
    fn swap(&self, dead: usize) -> Result<()> {
        self.peers(3 - dead)?.into_iter().try_for_each(|peer| peer.link.mend())?;
        self.cut(dead)
    }

    fn start_bird(&mut self) -> Result<()> {
        self.bird = Some(Bird::start(&self.node, BIRD)?);
        Ok(())
    }

    fn start_babeld(&mut self) -> Result<()> {
        // It does not start while these are there.
        for file in ["babeld.ctl", "babeld.pid"] {
            let _ = fs::remove_file(self.node.dir().join(file));
        }
        let config = format!("redistribute proto 119\n{OWN}");
        self.babeld = Some(Babeld::start(&self.node, &[], &config)?);
        Ok(())
    }

    fn kill_bird(&mut self) -> Result<()> {
        self.bird.take().context("no BIRD")?.process().kill()
    }

    fn kill_babeld(&mut self) -> Result<()> {
        self.babeld.take().context("no babeld")?.process().kill()
    }

    fn kill(&mut self) -> Result<()> {
        self.daemon.kill()?;
        self.kill_bird()?;
        self.kill_babeld()
    }

    fn start(&mut self, first: First) -> Result<()> {
        if first == First::Wgrouted {
            self.daemon.start()?;
        }
        self.start_bird()?;
        self.start_babeld()?;
        if first == First::Routing {
            self.daemon.start()?;
        }
        Ok(())
    }

    /// What a start leaves where nothing was before.
    fn fresh(&mut self, dead: usize) -> Result<State> {
        if self.bird.is_some() {
            self.kill()?;
            for family in ["-4", "-6"] {
                self.node.ip(&format!("{family} route flush proto 119"))?;
                self.node.ip(&format!("{family} route flush proto bird"))?;
            }
            for spoke in &self.shared.spokes {
                self.shared.wg.set_allowed_ips(spoke.name(), &spoke.inner.prefixes())?;
            }
        }
        self.start(First::Routing)?;
        self.wait_peers(dead)?;
        // Not settled before it is as it must be.
        let what = format!("a fresh start with s{dead} dead");
        wait_until(what, PATIENCE, || self.state(), |state| self.is_right(state, dead))
    }

    /// Waits for the state after a fresh start.
    fn expect(&self, dead: usize, want: &State) -> Result<()> {
        self.wait_peers(dead)?;
        wait_equal("the state after a fresh start", PATIENCE, want, || self.state())?;
        // And it stays, once wgrouted has nothing left to do.
        self.daemon.wait_in_sync()?;
        let now = self.state()?;
        ensure!(now == *want, "it did not stay: {now:#?} instead of {want:#?}");
        Ok(())
    }

    fn wait_peers(&self, dead: usize) -> Result<()> {
        for (number, state) in [(dead, "down"), (3 - dead, "up")] {
            for peer in self.peers(number)? {
                wait_state(&self.daemon, peer.name(), state)?;
            }
        }
        Ok(())
    }

    fn state(&self) -> Result<State> {
        let mut state = State::new();
        let mut add = |what: &str, line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            state.insert(format!("{what}: {}", words.join(" ")), String::new());
        };
        for family in ["-4", "-6"] {
            for protocol in ["119", "bird"] {
                let routes = self.node.ip(&format!("{family} route show proto {protocol}"))?;
                routes.lines().for_each(|line| add(&format!("kernel, {protocol}"), line));
            }
        }
        let bird = self.bird.as_ref().context("no BIRD")?;
        for line in bird.ask("show protocols")?.lines() {
            let words: Vec<_> = line.split_whitespace().take(4).collect();
            if let [name, _, _, state @ ("up" | "down" | "start" | "stop" | "flush")] = words[..] {
                add("BIRD's protocol", &format!("{name} {state}"));
            }
        }
        // A route goes on in a line that begins with a tab; since when it is there is no matter.
        for line in bird.ask("show route")?.replace("\n\t", " ").lines() {
            let words = line.split_whitespace().filter(|word| !word.ends_with(']'));
            add("BIRD's route", &words.collect::<Vec<_>>().join(" "));
        }
        let babeld = self.babeld.as_ref().context("no babeld")?;
        for line in babeld.ask("dump")?.lines() {
            if line.starts_with("add interface") || line.starts_with("add xroute") {
                add("babeld", line);
            }
        }
        for link in self.net.links.iter().chain([&self.shared]) {
            for (prefix, owner) in link.wg.allowed_ips()? {
                add(&format!("AllowedIPs of {}", link.wg.name()), &format!("{prefix} {owner}"));
            }
        }
        Ok(state)
    }

    /// Whether the living peer, and only that one, is everywhere.
    fn is_right(&self, state: &State, dead: usize) -> bool {
        let has = |what: &str, words: &str| {
            state.keys().any(|key| {
                let rest = key.strip_prefix(what).and_then(|rest| rest.strip_prefix(": "));
                rest.is_some_and(|rest| rest == words || rest.starts_with(&format!("{words} ")))
            })
        };
        let is = |number: usize| -> Result<bool> {
            let lives = number != dead;
            let [own, shared] = self.peers(number)?;
            let mut facts = vec![
                ("babeld", format!("add interface wg{number} up true")),
                ("BIRD's protocol", format!("{}_v4 up", shared.name())),
                ("BIRD's protocol", format!("{}_v6 up", shared.name())),
                ("kernel, bird", format!("203.0.113.0/24 via {}", shared.inner.v4())),
                ("kernel, bird", format!("2001:db8:1::/48 via {}", shared.inner.v6())),
                ("AllowedIPs of wg0", format!("203.0.113.0/24 {}", shared.name())),
                ("AllowedIPs of wg0", format!("2001:db8:1::/48 {}", shared.name())),
            ];
            for inner in [own.inner, shared.inner] {
                for (address, any) in
                    [(IpAddr::from(inner.v4()), "0.0.0.0/0"), (inner.v6().into(), "::/0")]
                {
                    let host = IpNet::from(address);
                    facts.push(("kernel, 119", address.to_string()));
                    facts.push(("BIRD's route", host.to_string()));
                    facts.push(("babeld", format!("add xroute {host}-{any}")));
                }
            }
            Ok(facts.iter().all(|(what, words)| has(what, words) == lives))
        };
        [1, 2].into_iter().all(|number| is(number).unwrap_or(false))
    }
}
