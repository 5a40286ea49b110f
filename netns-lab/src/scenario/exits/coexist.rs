//! Beside routing daemons.
//!
//! Here live BIRD and babeld, whose routes decide wherever no flow does, and a table that BIRD fills for
//! an exit: what BIRD withdraws is blocked.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{
    Scenario,
    client::{Client, marked, ways},
};
use crate::lab::{Babeld, Bird, Lab, Node, PATIENCE, Shots, Volley, wait_until};

pub(super) const SCENARIOS: &[Scenario] = &[Scenario::new(
    "exits-coexist",
    "BIRD and babeld decide where no flow does; BIRD feeds an exit's table, and withdrawing blocks",
    coexist,
)
.within(240)];

const FLOWS: &str = r#"
[[exit]]
name = "berlin"
via = ["wg-berlin"]

[[exit]]
name = "fed"
table = 5009
feed = true
when_down = "block"

[[flow]]
mark = 1
exit = "berlin"

[[flow]]
mark = 2
exit = "fed"
"#;

/// BIRD on the client: a route to the Internet's IPv4 by oslo, for everybody, and default routes by
/// rome, for those who ask table 5009.
const BIRD: &str = r#"router id 10.50.0.1;
ipv4 table fed4;
ipv6 table fed6;
protocol kernel { ipv4 { import none; export all; }; }
protocol kernel { kernel table 5009; ipv4 { table fed4; import none; export all; }; }
protocol kernel { kernel table 5009; ipv6 { table fed6; import none; export all; }; }
protocol static { ipv4; route 192.0.2.0/24 via "wg-oslo"; }
protocol static rome4 { ipv4 { table fed4; }; route 0.0.0.0/0 via "wg-rome"; }
protocol static rome6 { ipv6 { table fed6; }; route ::/0 via "wg-rome"; }
"#;

fn coexist(lab: &mut Lab) -> Result<()> {
    let mut client = Client::new(lab, 4, FLOWS)?;
    client.start()?;
    let node = client.node().clone();
    let bird = Bird::start(&node, BIRD)?;

    // paris tells by Babel how the Internet's IPv6 is reached.
    let paris = client.net.exit("paris")?.node.clone();
    paris.ip("-6 route add 2001:db8:ffff::/48 via fe80::b dev to-internet proto static")?;
    let tells = "redistribute ip 2001:db8:ffff::/48 eq 48 allow\nredistribute local deny\n";
    let quick = "default hello-interval 1\ndefault update-interval 4\n";
    let _paris = Babeld::start(&paris, &["wg-client"], &format!("{quick}{tells}"))?;
    let _client =
        Babeld::start(&node, &["wg-paris"], &format!("{quick}redistribute local deny\n"))?;
    routed(&node, "-4 route show table main 192.0.2.0/24", "proto bird", true)?;
    routed(&node, "-4 route show table 5009", "wg-rome", true)?;
    routed(&node, "-6 route show table 5009", "wg-rome", true)?;
    // babeld's routes are unreachable at first.
    routed(&node, "-6 route show table main 2001:db8:ffff::/48 proto babel", "wg-paris", true)?;

    let marks = [0, 1, 2];
    let shots: Vec<Shots> =
        marks.iter().flat_map(|mark| [true, false].map(|v4| marked(v4, *mark))).collect();
    let volley = Volley::start(&node, &shots, Duration::from_millis(5))?;
    volley.wait_answers(0..shots.len(), 20)?;
    let seen = |flow: usize| ways(&client.net, volley.locals()[flow], shots[flow].to);
    let expect = |wanted: [&[&str]; 6]| -> Result<()> {
        for (flow, wanted) in wanted.into_iter().enumerate() {
            let (mark, seen, to) = (marks[flow / 2], seen(flow), shots[flow].to);
            lab.say(format_args!("mark {mark} to {to}: by {seen:?}"));
            ensure!(seen == wanted, "mark {mark} to {to}: by {seen:?} instead of {wanted:?}");
        }
        Ok(())
    };
    expect([&["oslo"], &["paris"], &["berlin"], &["berlin"], &["rome"], &["rome"]])?;

    lab.say("BIRD withdraws: what it fed is blocked, nothing else changes");
    for protocol in ["rome4", "rome6"] {
        bird.ask(&format!("disable {protocol}"))?;
    }
    routed(&node, "-4 route show table 5009", "wg-rome", false)?;
    routed(&node, "-6 route show table 5009", "wg-rome", false)?;
    let before: Vec<u64> = (0..6).map(|flow| volley.answered(flow)).collect();
    volley.wait_answers(0..4, 20)?;
    // What was on its way when the routes went may still be answered.
    let more: Vec<u64> = (4..6).map(|flow| volley.answered(flow) - before[flow]).collect();
    ensure!(more.iter().all(|more| *more < 5), "blocked flows had {more:?} answers");
    expect([&["oslo"], &["paris"], &["berlin"], &["berlin"], &["rome"], &["rome"]])?;

    lab.say("and feeds again");
    for protocol in ["rome4", "rome6"] {
        bird.ask(&format!("enable {protocol}"))?;
    }
    volley.wait_answers(0..shots.len(), 20)?;
    expect([&["oslo"], &["paris"], &["berlin"], &["berlin"], &["rome"], &["rome"]])?;
    let flown = volley.stop()?;
    for flown in &flown[..4] {
        flown.report.assert_no_loss()?;
    }
    lab.say(format_args!(
        "blocked meanwhile: {} and {}",
        flown[4].report.lost.len(),
        flown[5].report.lost.len()
    ));

    lab.say("a strict rp_filter loses what comes back through an exit: the doctor sees it");
    node.sysctl("ipv4/conf/wg-berlin/rp_filter", "1")?;
    let doctor = ["doctor", "--config", &client.daemon.config()?];
    let said = String::from_utf8(node.output(client.daemon.program(), doctor)?.stdout)?;
    for words in ["wg-berlin: rp_filter is strict (1)", "net.ipv4.conf.wg-berlin.rp_filter=2"] {
        ensure!(said.contains(words), "no `{words}` in: {said}");
    }
    Ok(())
}

/// Waits until what `ip` shows contains a text, or does not.
fn routed(node: &Node, words: &str, text: &str, there: bool) -> Result<()> {
    let look = || Ok(node.output("ip", words.split(' '))?.stdout);
    let accept = |shown: &Vec<u8>| String::from_utf8_lossy(shown).contains(text) == there;
    wait_until(format!("`ip {words}` and {text}: {there}"), PATIENCE, look, accept).map(drop)
}
