//! The demo's first half: three routers, and a link that fails.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Row,
    screen::{Screen, thousands},
};
use crate::{
    lab::{Lab, Member, Mesh, PATIENCE, Ping, Train, assert_flow, wait_until},
    scenario::bgp::{self, Triangle},
};

/// The routers. The story is told from the first one's point of view: the second is its
/// destination, the third the detour.
const NAMES: [&str; 3] = ["paris", "rome", "oslo"];
/// The address that paris announces, and from which it sends.
const PARIS: &str = "198.51.100.1";
/// The address that rome announces.
const ROME: &str = "198.51.100.2";
/// Between two packets of the train.
const INTERVAL: Duration = Duration::from_millis(10);

/// Tells the story; returns the routers, which go on, and what was measured.
pub(super) fn run(lab: &mut Lab, screen: &mut Screen) -> Result<(Triangle, Vec<Row>)> {
    screen.say(
        "wgrouted keeps WireGuard's AllowedIPs equal to the kernel's routes. Here it does so for\n\
         real: the routers are network namespaces of a Linux kernel with its own WireGuard, and\n\
         the routing daemon is BIRD.",
    );
    screen.step("Three routers");
    screen.say(
        "paris, rome and oslo are joined by three links. Each has ONE WireGuard interface, wg0,\n\
         which both neighbours share as peers. Through the tunnels BIRD speaks BGP: each router\n\
         announces a network of its own.\n\n               \
                    paris  198.51.100.1\n               \
                    /   \\\n            \
                 oslo---rome  198.51.100.2\n",
    );
    let mut triangle = Triangle::new(Mesh::new(lab, &NAMES)?)?;
    triangle.start_birds()?;
    without_wgrouted(screen, triangle.mesh.member("paris")?)?;

    screen.step("wgrouted starts on each of them");
    screen.say(
        "It needs no configuration: a route belongs to the peer whose tunnel address is its\n\
         gateway.",
    );
    triangle.start_daemons(lab)?;
    let rows = with_wgrouted(screen, &triangle)?;
    Ok((triangle, rows))
}

/// What is wrong with the world.
fn without_wgrouted(screen: &Screen, paris: &Member) -> Result<()> {
    let command = format!("ip route show {ROME}");
    let route = wait_until(
        "BIRD's route",
        PATIENCE,
        || paris.node.ip(&command["ip ".len()..]),
        |route| !route.is_empty(),
    )?;
    screen.say("BIRD on paris has learned rome's network and told the kernel:");
    screen.command("paris", &command, &route);
    screen.say(
        "But WireGuard does not look at routes. It picks the peer by AllowedIPs, and these hold\n\
         nothing but the neighbours' own tunnel addresses (keys shortened, names added):",
    );
    show_allowed_ips(screen, paris)?;
    screen.say("So no packet leaves:");
    let refusal = show_ping(screen, paris)?;
    ensure!(refusal.contains("Required key not available"), "ping said: {refusal}");
    Ok(())
}

/// What wgrouted does about it, also when a link fails.
fn with_wgrouted(screen: &mut Screen, triangle: &Triangle) -> Result<Vec<Row>> {
    let mesh = &triangle.mesh;
    let (paris, rome) = (mesh.member("paris")?, mesh.member("rome")?);
    let all_direct = || mesh.members.iter().try_for_each(|member| triangle.expect_direct(member));
    let all_flow = || {
        bgp::pairs(paris, rome).into_iter().try_for_each(|(from, to)| {
            assert_flow(&paris.node, Ping { from: Some(from), ..Ping::from(to) }, &rome.node)
        })
    };
    all_direct()?;
    screen.command("paris", "wgrouted run --interface wg0", "");
    screen.say("Now each network is in the AllowedIPs of the peer that its route leads to:");
    show_allowed_ips(screen, paris)?;
    show_ping(screen, paris)?;
    all_flow()?;
    screen.good("packets flow, in both directions and both families");

    screen.step("The link between paris and rome fails");
    screen.say("From here on paris pings rome every 10 ms. Then the link goes down.");
    let ping = Ping { from: Some(PARIS.parse()?), ..Ping::from(ROME.parse::<IpAddr>()?) };
    let train = Train::start(&paris.node, ping, INTERVAL)?;
    train.run(100)?;
    let cut = train.elapsed();
    let link = mesh.link("paris", "rome")?;
    link.cut()?;
    screen.command("paris", &format!("ip link set {} down", link.a.device), "");
    let network = format!("{ROME}/32").parse()?;
    wait_until(
        "the detour by oslo",
        PATIENCE,
        || {
            let (sent, answered) = train.so_far();
            let seconds = (train.elapsed() - cut).as_secs_f32();
            let lost = sent.saturating_sub(answered);
            let text = format!("{seconds:4.1} s: BIRD has to notice; {lost} pings without answer");
            screen.progress((seconds * 10.0) as u64, 40, text);
            Ok(paris.wg.allowed_ips()?.get(&network).cloned())
        },
        |owner| owner.as_deref() == Some("oslo"),
    )?;
    triangle.expect_owner(rome, paris, "oslo")?;
    train.run(10)?;
    let rerouted = train.elapsed();
    screen.progress_done();
    screen.say("BIRD noticed (by BFD), chose the way by oslo, and AllowedIPs followed:");
    let command = format!("ip route show {ROME}");
    screen.command("paris", &command, &paris.node.ip(&command["ip ".len()..])?);
    show_allowed_ips(screen, paris)?;
    screen.say("Whoever wonders why can ask:");
    let explanation = triangle.daemons[0].run(&["explain", ROME])?;
    screen.command("paris", &format!("wgrouted explain {ROME}"), &readable(paris, &explanation));
    all_flow()?;
    screen.good(format_args!(
        "pings are answered again, {:.1} s after the failure",
        (rerouted - cut).as_secs_f32()
    ));

    screen.step("The link is mended");
    screen.say(
        "An answer that is on its way while its network changes hands fails WireGuard's check of\n\
         sources, so that a ping or two may be lost now.",
    );
    link.mend()?;
    all_direct()?;
    train.run(100)?;
    all_flow()?;
    let report = train.stop()?;
    screen.good("everything is direct again");
    let during = |at: Duration| at >= cut.saturating_sub(INTERVAL) && at <= rerouted;
    let dead = report.lost.iter().filter(|loss| during(loss.at)).count();
    Ok(vec![
        ("link failure, until pings were answered", seconds(rerouted - cut)),
        ("pings sent", thousands(report.sent as u64)),
        ("pings lost while BIRD looked for the detour", thousands(dead as u64)),
        ("pings lost at other times", thousands((report.lost.len() - dead) as u64)),
    ])
}

/// A duration as people write it.
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f32())
}

/// Shows which peer has which AllowedIPs.
fn show_allowed_ips(screen: &Screen, member: &Member) -> Result<()> {
    let text = member.node.run("wg", ["show", "wg0", "allowed-ips"])?;
    screen.command(member.node.name(), "wg show wg0 allowed-ips", &readable(member, &text));
    Ok(())
}

/// A text with names in place of the keys of a router's peers.
pub(super) fn readable(member: &Member, text: &str) -> String {
    let peers = member.wg.peers();
    peers.into_iter().fold(text.to_owned(), |text, (key, name)| {
        let short = format!("{name} ({}...)", &key[..6]);
        // Where the daemon would print a configured name, it prints the key, and the key behind.
        text.replace(&format!("{key} ({key})"), &short)
            .replace(&format!("{key}\t"), &format!("{short}\t"))
            .replace(&key, &name)
    })
}

/// Sends one ping with the usual program and shows what it says.
fn show_ping(screen: &Screen, paris: &Member) -> Result<String> {
    let args = ["-c", "1", "-W", "5", "-I", PARIS, ROME];
    let output = paris.node.output("ping", args)?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let said: Vec<&str> = text
        .lines()
        .filter(|line| ["bytes from", "sendmsg", "transmitted"].iter().any(|w| line.contains(w)))
        .collect();
    let said = said.join("\n");
    screen.command("paris", &format!("ping {}", args.join(" ")), &said);
    Ok(said)
}
