//! Laws of announced routes: whatever peers do, the kernel comes to have what is wanted, nobody
//! else's route is touched, and a metric that follows the round-trip time does so slowly.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use proptest::prelude::*;
use wgrouted::core::{
    prefix::Prefix,
    reach::{
        announce::{Announcer, METRIC_HOLD, Wanted},
        route::{OurRoute, Owned, PROTOCOL, Place, Step, steps},
        rule::{AnnounceRule, LinkReach},
        status::{PeerStatus, State},
    },
    time::Time,
};

use crate::{
    cases,
    watched::{link_rule, peer, picture, set_rtt},
};

const RULE: AnnounceRule = AnnounceRule {
    table: 254,
    protocol: PROTOCOL,
    metric: 1024,
    metric_from_rtt: false,
    hosts: true,
};

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn announcing(rule: AnnounceRule) -> LinkReach {
    link_rule(Some(rule))
}

/// Two peers on a shared link, 5, and one on a link of its own, 6.
fn three() -> Vec<PeerStatus> {
    let mut a =
        peer("wg0", 5, "a", &["10.0.0.1/32", "fd00::1/128", "fe80::1/128"], announcing(RULE));
    a.rule.announce = vec![prefix("10.1.0.0/16"), prefix("2001:db8::/32")];
    let mut b = peer("wg0", 5, "b", &["10.0.0.2/32", "10.2.0.0/16"], announcing(RULE));
    b.rule.announce = vec![prefix("10.1.0.0/16"), prefix("10.2.0.0/16")];
    let mut c = peer("wg1", 6, "c", &["0.0.0.0/0", "::/0"], announcing(RULE));
    c.rule.announce = vec![prefix("10.3.0.0/16"), prefix("2001:db8::/32")];
    c.dedicated = true;
    vec![a, b, c]
}

fn shown(wanted: &Wanted) -> Vec<String> {
    let of = |w: &wgrouted::core::reach::announce::Announced| format!("{}: {}", w.peer, w.route);
    wanted.routes.values().map(of).collect()
}

/// The kernel's tables: one route a place, as `NLM_F_EXCL` has it.
#[derive(Clone, Debug, Default)]
struct Tables(BTreeMap<Place, OurRoute>);

impl Tables {
    fn have(&self) -> BTreeSet<OurRoute> {
        self.0.values().copied().collect()
    }

    /// Takes the steps, and returns the routes that went.
    fn take(&mut self, steps: &[Step]) -> Vec<OurRoute> {
        let mut gone = Vec::new();
        for step in steps {
            match step {
                // EEXIST changes nothing.
                Step::Add(route) => drop(self.0.entry(route.place).or_insert(*route)),
                Step::Remove(route) => {
                    assert_eq!(self.0.remove(&route.place), Some(*route), "removes what is there");
                    gone.push(*route);
                }
            }
        }
        gone
    }

    fn run(&mut self, wanted: &Wanted, owned: &Owned) -> Vec<OurRoute> {
        let routes = wanted.routes.values().map(|w| &w.route);
        let todo = steps(routes, &self.have(), owned);
        self.take(&todo)
    }
}

fn owned() -> Owned {
    Owned { protocols: [PROTOCOL].into(), links: [5, 6].into() }
}

#[test]
fn routes_lead_to_their_peers() {
    let mut peers = three();
    peers.iter_mut().for_each(|peer| peer.state = State::Up);
    let wanted = Announcer::default().wanted(&picture(Time::ZERO, 1, &peers), &BTreeSet::new());
    let tail = "table 254 metric 1024 proto 119";
    assert_eq!(
        shown(&wanted),
        [
            format!("a: 10.0.0.1/32 oif 5 {tail}"),
            format!("b: 10.0.0.2/32 oif 5 {tail}"),
            format!("a: 10.1.0.0/16 via 10.0.0.1 oif 5 {tail}"),
            // Pinned: it needs no gateway to say whose it is.
            format!("b: 10.2.0.0/16 oif 5 {tail}"),
            // The only peer of its link.
            format!("c: 10.3.0.0/16 oif 6 {tail}"),
            format!("a: 2001:db8::/32 via fd00::1 oif 5 {tail}"),
            format!("a: fd00::1/128 oif 5 {tail}"),
        ]
    );
    let behind: Vec<_> =
        wanted.behind.iter().map(|b| (b.peer.as_str(), b.first.as_str())).collect();
    assert_eq!(behind, [("b", "a"), ("c", "a")], "the first by name has 10.1.0.0/16");
    assert_eq!(wanted.nowhere, []);
}

#[test]
fn a_gateway_is_of_the_prefix_s_family_or_ipv6() {
    let mut only6 = peer("wg0", 5, "six", &["fe80::6/128"], announcing(RULE));
    only6.rule.announce = vec![prefix("10.6.0.0/16")];
    let mut only4 = peer("wg0", 5, "four", &["10.0.0.4/32"], announcing(RULE));
    only4.rule.announce = vec![prefix("2001:db8::/32")];
    (only4.state, only6.state) = (State::Up, State::Up);
    let picture = picture(Time::ZERO, 1, &[only4, only6]);
    let wanted = Announcer::default().wanted(&picture, &BTreeSet::new());
    let tail = "oif 5 table 254 metric 1024 proto 119";
    let expected =
        [format!("four: 10.0.0.4/32 {tail}"), format!("six: 10.6.0.0/16 via fe80::6 {tail}")];
    assert_eq!(shown(&wanted), expected);
    assert_eq!(wanted.nowhere[0].prefix, prefix("2001:db8::/32"));
}

#[test]
fn who_is_known_to_be_reachable_comes_before_who_is_first_by_name() {
    let mut peers = three();
    let mut announcer = Announcer::default();
    let mut owner = |peers: &[PeerStatus]| {
        let wanted = announcer.wanted(&picture(Time::ZERO, 1, peers), &BTreeSet::new());
        let at = |w: &&wgrouted::core::reach::announce::Announced| {
            w.route.place.prefix == prefix("10.1.0.0/16")
        };
        wanted.routes.values().find(at).map(|w| w.peer.clone())
    };
    peers.iter_mut().for_each(|peer| peer.state = State::Up);
    assert_eq!(owner(&peers).as_deref(), Some("a"));
    peers[0].state = State::Unknown;
    assert_eq!(owner(&peers).as_deref(), Some("b"));
    peers[1].state = State::Down;
    assert_eq!(owner(&peers).as_deref(), Some("a"), "unknown is as it was");
    peers[0].state = State::Down;
    assert_eq!(owner(&peers), None);
    peers[0].state = State::Unknown;
    assert_eq!(owner(&peers), None, "unknown is as it was");
}

#[test]
fn a_restart_takes_over_what_is_there() {
    let mut peers = three();
    peers[2].link_rule = Some(announcing(AnnounceRule { metric_from_rtt: true, ..RULE }).into());
    peers.iter_mut().for_each(|peer| peer.state = State::Up);
    set_rtt(&mut peers[2], Some(Duration::from_millis(40)));
    let mut tables = Tables::default();
    let before = picture(Time::ZERO, 1, &peers);
    tables.run(&Announcer::default().wanted(&before, &tables.have()), &owned());
    // Crash and restart: nothing is known yet but of `b`, which went meanwhile.
    let left = tables.clone();
    let mut announcer = Announcer::default();
    peers.iter_mut().for_each(|peer| peer.state = State::Unknown);
    set_rtt(&mut peers[2], None);
    tables.run(&announcer.wanted(&picture(Time::ZERO, 1, &peers), &tables.have()), &owned());
    assert_eq!(tables.have(), left.have(), "the metric too");
    peers[1].state = State::Down;
    set_rtt(&mut peers[2], Some(Duration::from_millis(41)));
    let gone =
        tables.run(&announcer.wanted(&picture(Time::ZERO, 2, &peers), &tables.have()), &owned());
    let gone: Vec<_> = gone.iter().map(|route| route.place.prefix).collect();
    assert_eq!(gone, [prefix("10.0.0.2/32"), prefix("10.2.0.0/16")]);
    // A peer that nobody has heard of, and that has no routes, gets none.
    let fresh = Announcer::default().wanted(&picture(Time::ZERO, 1, &peers), &BTreeSet::new());
    assert_eq!(fresh, Wanted::default());
}

/// A state, a round-trip time and the time until the next picture, in milliseconds.
type Moment = (Vec<State>, Vec<Option<u32>>, u32);

fn state() -> impl Strategy<Value = State> {
    prop::sample::select(vec![State::Up, State::Suspect, State::Down, State::Unknown])
}

fn moment() -> impl Strategy<Value = Moment> {
    let rtt = prop::option::weighted(0.8, 0u32..60);
    (prop::collection::vec(state(), 3), prop::collection::vec(rtt, 3), 0u32..6_000)
}

/// Routes of a small world: some ours, some another daemon's, some left over.
fn route() -> impl Strategy<Value = OurRoute> {
    let prefixes = ["10.0.0.1/32", "10.1.0.0/16", "10.3.0.0/16", "10.9.0.0/16", "fd00::1/128"];
    let gateway = prop::sample::select(vec![None, Some("10.0.0.1".parse().unwrap())]);
    let place = (
        prop::sample::select(vec![254u32, 100]),
        prop::sample::select(prefixes.to_vec()),
        prop::sample::select(vec![1024u32, 1030]),
    );
    let place =
        place.prop_map(|(table, text, metric)| Place { table, prefix: prefix(text), metric });
    let protocol = prop::sample::select(vec![PROTOCOL, 4, 12]);
    (place, protocol, 4u32..8, gateway).prop_map(|(place, protocol, oif, gateway)| OurRoute {
        place,
        protocol,
        oif,
        gateway,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases(300)))]

    /// After each picture all that can stand stands, foreign routes stand as before, and a second
    /// look finds nothing to do.
    #[test]
    fn the_kernel_comes_to_have_what_is_wanted(
        left in prop::collection::vec(route(), 0..12),
        moments in prop::collection::vec(moment(), 1..12),
        from_rtt in any::<bool>(),
    ) {
        let mut tables = Tables(left.into_iter().map(|route| (route.place, route)).collect());
        let foreign: BTreeSet<_> =
            tables.have().into_iter().filter(|route| !owned().holds(route)).collect();
        let mut peers = three();
        let rule = announcing(AnnounceRule { metric_from_rtt: from_rtt, ..RULE });
        peers.iter_mut().for_each(|peer| peer.link_rule = Some(rule.clone().into()));
        let (mut announcer, mut now) = (Announcer::default(), Time::ZERO);
        for (states, rtts, later) in moments {
            for (peer, (state, rtt)) in peers.iter_mut().zip(states.iter().zip(&rtts)) {
                peer.state = *state;
                set_rtt(peer, rtt.map(|ms| Duration::from_millis(ms.into())));
            }
            let picture = picture(now, 1, &peers);
            let before = tables.have();
            let wanted = announcer.wanted(&picture, &before);
            let up = |name: &str| {
                let peer = peers.iter().find(|peer| peer.peer == name).unwrap();
                (peer.is_usable(), peer.state)
            };
            for announced in wanted.routes.values() {
                prop_assert!(up(&announced.peer).1 != State::Down, "{announced:?}");
            }
            for peer in peers.iter().filter(|peer| peer.is_usable() && !peer.dedicated) {
                let host = peer.pinned[0];
                let is = |route: &&Place| route.prefix == host;
                prop_assert!(wanted.routes.keys().any(|place| is(&place)), "{host}");
            }
            let gone = tables.run(&wanted, &owned());
            prop_assert!(gone.iter().all(|route| owned().holds(route)));
            let have = tables.have();
            for announced in wanted.routes.values() {
                let at = tables.0[&announced.route.place];
                prop_assert!(at == announced.route || foreign.contains(&at));
            }
            prop_assert!(foreign.iter().all(|route| have.contains(route)));
            let stale = have.iter().filter(|route| owned().holds(route));
            let stale: Vec<_> = stale
                .filter(|route| wanted.routes.get(&route.place).map(|w| w.route) != Some(**route))
                .collect();
            prop_assert!(stale.is_empty(), "{stale:?}");
            // The same moment again.
            let again = announcer.wanted(&picture, &have);
            prop_assert_eq!(&again, &wanted);
            prop_assert!(tables.run(&again, &owned()).is_empty());
            prop_assert_eq!(tables.have(), have);
            now = now + Duration::from_millis(later.into());
        }
    }

    /// While a prefix is wanted before and after, it has a route at each step between, unless its
    /// own place is taken over.
    #[test]
    fn a_changed_metric_leaves_no_gap(metrics in prop::collection::vec(1u32..4, 2..8)) {
        let at = |metric| OurRoute {
            place: Place { table: 254, prefix: prefix("10.0.0.1/32"), metric },
            protocol: PROTOCOL,
            oif: 5,
            gateway: None,
        };
        let mut tables = Tables::default();
        tables.take(&[Step::Add(at(metrics[0]))]);
        for metric in metrics {
            for step in steps([&at(metric)], &tables.have(), &owned()) {
                tables.take(&[step]);
                prop_assert!(!tables.0.is_empty(), "a gap after {step:?}");
            }
            prop_assert_eq!(tables.have(), [at(metric)].into());
        }
    }

    /// A metric moves only by what matters, and not again soon; in the end it is near the truth.
    #[test]
    fn a_metric_follows_slowly(rtts in prop::collection::vec((1u32..200, 1u32..4_000), 1..60)) {
        let rule = announcing(AnnounceRule { metric_from_rtt: true, metric: 1000, ..RULE });
        let mut one = peer("wg0", 5, "a", &["10.0.0.1/32"], rule);
        one.state = State::Up;
        let (mut announcer, mut now) = (Announcer::default(), Time::ZERO);
        let mut last: Option<(u32, Time)> = None;
        let mut look = |one: &PeerStatus, now: Time| {
            let wanted = announcer.wanted(&picture(now, 1, std::slice::from_ref(one)), &BTreeSet::new());
            wanted.routes.into_keys().next().unwrap().metric - 1000
        };
        for (rtt, later) in rtts {
            set_rtt(&mut one, Some(Duration::from_millis(rtt.into())));
            let metric = look(&one, now);
            match last {
                Some((old, _)) if metric == old => {}
                Some((old, since)) => {
                    let by = metric.abs_diff(old);
                    prop_assert!(by >= 2 && by * 10 > old, "{old} to {metric}");
                    prop_assert!(now.since(since) >= METRIC_HOLD);
                    prop_assert_eq!(metric, rtt);
                    last = Some((metric, now));
                }
                None => {
                    prop_assert_eq!(metric, rtt, "at once at first");
                    last = Some((metric, now));
                }
            }
            now = now + Duration::from_millis(later.into());
        }
        let truth = one.probe.unwrap().rtt.unwrap().as_millis() as u32;
        let settled = look(&one, now + METRIC_HOLD);
        prop_assert!(settled.abs_diff(truth) <= 1 || settled.abs_diff(truth) * 10 <= settled);
    }
}
